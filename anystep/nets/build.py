"""From a config to Models: the one place where config words choose a network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from anystep.errors import UserError
from anystep.nets import controlnet, discriminator, logvar, low_rank, mlp, mmdit, sana, text
from anystep.nets.text import bert, stored
from anystep.path import LINEAR, PATHS
from anystep.stores import Store, read_index


class Holds(NamedTuple):
    """What config.data.holds says of a store."""

    rows: int
    columns: int
    channels: int
    length: int  # tokens of a prompt
    width: int  # of its features
    pooled: int


def build_models(config, constrain=lambda x: x):
    """{"net": Model, "text": Text} of a config (attribute access; see anystep.config for its fields): what draws."""
    encoder, text_width, pooled = build_text(config)
    net = build_net(config, shape_of(config.data), text_width, pooled, constrain, config.model.guidance, gradients_in_branches(config))
    return {"net": net, "text": encoder}


def training_models(config, constrain=lambda x: x, teacher=None):
    """Those, and the roles that only a training step knows: {"teacher", "weighting", "discriminator"} as far as the config asks for them.
    Without a `teacher` (a Model) a network like the config's own stands in: enough for shapes and costs. UserError for a teacher that does
    not fit."""
    models = build_models(config, constrain)
    if not has_teacher(config):
        return models | weighting_of(config)
    if teacher is None:
        _, text_width, pooled = build_text(config)
        teacher = build_net(config, shape_of(config.data), text_width, pooled, constrain, False, gradients_in_branches(config))
    check_teacher(config, models["net"], teacher)
    found = models | weighting_of(config) | {"teacher": teacher}
    if config.objective.adversarial.share:
        found["discriminator"] = discriminator.build(len(config.objective.adversarial.blocks), token_width(teacher, models["text"]))
    return found


def weighting_of(config):
    c = config.objective.consistency
    return {"weighting": logvar.build(config.model.guidance)} if c.share and c.weighting == "learned" else {}


def has_teacher(config):
    """Whether a frozen network stands beside the one that is trained."""
    jumps = config.objective.consistency
    return bool(config.objective.adversarial.share or (jumps.share and jumps.velocity == "teacher"))


def check_teacher(config, net, teacher):
    where = f"config.objective.teacher.folder = {config.objective.teacher.folder!r}"
    for name, mine, its in (
        ("channels", net.shape[-1], teacher.shape[-1]),
        ("a shift of", net.shift, teacher.shift),
        ("a scale of", net.scale, teacher.scale),
    ):
        if mine != its:
            raise UserError(f"{where}: its data have {name} {its}, the config's {mine}")
    o = config.objective
    along_data = o.flow_matching.share or o.self_evaluation.share or (o.consistency.share and o.consistency.velocity == "data")
    if net.controls and not (teacher.controls or along_data):
        raise UserError(f"{where}: has no ControlNet (config.model.control), so nothing would teach this one to follow a picture")
    if teacher.path is not LINEAR:
        raise UserError(f"{where}: lives on the {teacher.path.name} path, allowed is linear")
    blocks = config.objective.adversarial.blocks
    if config.objective.adversarial.share and blocks[-1] >= teacher.depth:
        raise UserError(f"config.objective.adversarial.blocks = {blocks}: allowed are 0 to {teacher.depth - 1}, the teacher's blocks")


def token_width(model, encoder):
    """Numbers of a token inside a network."""

    def inside(key):
        x, t = jnp.zeros((1, *model.shape)), jnp.zeros(1)
        cond = encoder.encode(encoder.init(key), jax.tree.map(jnp.asarray, encoder.tokenize([""]))) | {"guidance": t}
        params = model.init(key)
        return model.blocks(params, model.embed(params, x, t, t, cond), 0, 1)[0]["tokens"]

    return jax.eval_shape(inside, jax.random.key(0)).shape[-1]


def gradients_in_branches(config):
    """Whether a training step takes gradients under a `lax.cond`: beside heads, where its phases alternate, and of a late fake term."""
    o = config.objective
    return bool(o.adversarial.share or (o.self_evaluation.share and o.self_evaluation.auxiliary_k < 1.0))


def build_net(config, shape, text_width, pooled, constrain, guidance, products=False):
    """The Model of the section `model` for samples of `shape`; products: see `sana.Options`."""
    m = config.model
    common = {"ends": ends(config), "gap": gap(config), "shift": m.shift, "scale": m.scale}
    if m.net == "mlp":
        o = mlp.Options(shape, m.width, m.depth, m.time_frequency, m.time_span, m.second_time, guidance)
        return mlp.build(o, text_width, PATHS[config.path.name], **common)
    o = options_of(m, shape, text_width, pooled)._replace(guidance=guidance)
    if m.net == "mmdit":
        net = mmdit.build(o, **common, constrain=constrain)
    else:
        o = o._replace(products=products)
        net = sana.build(o, text_width, PATHS[config.path.name], **common, constrain=constrain)
    if m.control:
        beside = controlnet.build(o._replace(depth=m.control), text_width, constrain)
        return controlnet.controlled(net, beside, m.control, config.model.frozen)
    return low_rank.adapted(net, m.rank) if m.rank else net


def plain(saved, params):
    """(config, params) of a network with additions of low rank as one without: they are inside the kernels. Any other as it is; `saved`:
    nested dict."""
    if not saved["model"]["rank"]:
        return saved, params
    section = {"model": saved["model"] | {"rank": 0, "frozen": False}}
    return saved | section, {**params, "net": low_rank.merged(params["net"])}


def options_of(m, shape, text_width, pooled=0):
    """The Options of a picture network from the section `model`."""
    if m.net == "sana":
        return sana.Options(**{name: m[name] for name in sana.Options._fields if name in m} | {"shape": shape, "text_width": text_width})
    if not pooled:
        raise UserError("config.model.net = 'mmdit': wants a pooled vector of each prompt, which this text encoder does not give")
    head = m.width // m.heads
    side = 2 * ((head - head // 8) // 4)  # a head's numbers turn with t, y and x as 1 : 3.5 : 3.5, FLUX's 16, 56, 56 of 128
    return mmdit.Options(
        shape, m.heads, head, m.double, m.depth - m.double, (head - 2 * side, side, side), text_width, pooled, m.guidance, m.second_time,
        scan=m.scan, remat=m.remat, dtype=m.dtype,
    )  # fmt: skip


def build_text(config):
    """(Text, width of its features, of its pooled vector or 0)."""
    t = config.model.text
    if t.encoder == "stored":
        if not config.data.path:
            holds = holds_of(config.data)
            return stored.absent(holds.length, holds.width, holds.pooled), holds.width, holds.pooled
        store = Store(config.data.path)
        encoder = stored.build(store)
        return encoder, store.index["text"]["width"], store.index["text"]["pooled"]
    if t.encoder == "minilm":
        return *bert.of_folder(text_folder(config), t.length), 0
    return text.build(t.vocabulary, t.length, t.width, t.depth, t.heads), t.width, 0


def text_folder(config):
    """Where the weights of a pretrained text encoder are."""
    return config.model.text.folder or bert.find_minilm()


def trained_roles(config):
    """The roles that a run trains; the others are frozen. Beside a teacher the text encoder is the teacher's."""
    roles = ["net"]
    if config.model.text.encoder == "hashed" and not has_teacher(config):
        roles.append("text")
    if weighting_of(config):
        roles.append("weighting")
    if config.objective.adversarial.share:
        roles.append("discriminator")
    return tuple(roles)


def drawn_roles(config):
    """The roles of a model folder: all that draws and is no pretrained encoder."""
    return ("net", "text") if config.model.text.encoder == "hashed" else ("net",)


def shape_of(data):
    """(H, W, C) of one sample of a data section."""
    if data.kind == "store":
        return tuple(read_index(data.path)["picture"]["shape"]) if data.path else tuple(holds_of(data)[:3])
    return (1, 1, 2) if data.kind == "mixture2d" else (data.size, data.size, 3)


def holds_of(data):
    """UserError for a store that no path leads to and of which nothing is said."""
    if not data.holds:
        raise UserError("config.data.path = '': must be a folder that `anystep encode` wrote")
    return Holds(*data.holds)


def image_tokens(config):
    """How many tokens a picture of this config is cut into; a point is one."""
    height, width, _ = shape_of(config.data)
    return 1 if config.model.net == "mlp" else (height // config.model.patch) * (width // config.model.patch)


def ends(config):
    """What s < t will have been trained to mean: "hybrid" has jumps to s = 0 alone, with or without self-evaluation above the gap. Without
    a second time nothing can be asked: "none"."""
    objective = config.objective
    judged, mapped = objective.self_evaluation.share > 0, objective.consistency.share > 0
    if not config.model.second_time:
        return "none"
    if mapped and objective.consistency.at_zero == 1 or objective.adversarial.share and not mapped:
        return "hybrid"
    return "map" if mapped else "renoise" if judged else "none"


def gap(config):
    """Below which share of t nobody may ask, s = 0 of jumps apart. Consistency at s = 0 alone knows s = t and s = 0."""
    if config.objective.self_evaluation.share:
        return config.objective.self_evaluation.s_min
    return {"hybrid": 1.0, "map": config.objective.consistency.s_min, "none": 0.0}[ends(config)]
