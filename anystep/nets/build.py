"""From a config to Models: the one place where config words choose a network."""

from anystep.nets import mlp, sana, text
from anystep.nets.text import bert, stored
from anystep.path import PATHS
from anystep.stores import Store, read_index


def build_models(config, constrain=lambda x: x):
    """{"net": Model, "text": Text} of a config (attribute access; see anystep.config for its fields)."""
    m, shape = config.model, shape_of(config.data)
    encoder, text_width = build_text(config)
    common = {
        "path": PATHS[config.path.name],
        "ends": ends(config.objective),
        "gap": gap(config.objective),
        "shift": m.shift,
        "scale": m.scale,
    }
    if m.net == "mlp":
        net = mlp.build(mlp.Options(shape, m.width, m.depth, m.time_frequency, m.time_span), text_width, **common)
    else:
        fields = {name: m[name] for name in sana.Options._fields if name in m}
        net = sana.build(sana.Options(shape=shape, **fields), text_width, **common, constrain=constrain)
    return {"net": net, "text": encoder}


def build_text(config):
    """(Text, width of its features)."""
    t = config.model.text
    if t.encoder == "stored":
        store = Store(config.data.path)
        return stored.build(store), store.index["text"]["width"]
    if t.encoder == "minilm":
        return bert.of_folder(text_folder(config), t.length)
    return text.build(t.vocabulary, t.length, t.width, t.depth, t.heads), t.width


def text_folder(config):
    """Where the weights of a pretrained text encoder are."""
    return config.model.text.folder or bert.find_minilm()


def trained_roles(config):
    """The roles that a run trains; the others are frozen."""
    return ("net", "text") if config.model.text.encoder == "hashed" else ("net",)


def shape_of(data):
    """(H, W, C) of one sample of a data section."""
    if data.kind == "store":
        return tuple(read_index(data.path)["picture"]["shape"])
    return (1, 1, 2) if data.kind == "mixture2d" else (data.size, data.size, 3)


def image_tokens(config):
    """How many tokens a picture of this config is cut into; a point is one."""
    height, width, _ = shape_of(config.data)
    return 1 if config.model.net == "mlp" else (height // config.model.patch) * (width // config.model.patch)


def ends(objective):
    """What s < t will have been trained to mean: "hybrid" has jumps to s = 0 alone, with or without self-evaluation above the gap."""
    judged, mapped = objective.self_evaluation.share > 0, objective.consistency.share > 0
    if mapped and objective.consistency.at_zero == 1:
        return "hybrid"
    return "map" if mapped else "renoise" if judged else "none"


def gap(objective):
    """Below which share of t nobody may ask, s = 0 of jumps apart. Consistency at s = 0 alone knows s = t and s = 0."""
    if objective.self_evaluation.share:
        return objective.self_evaluation.s_min
    return {"hybrid": 1.0, "map": objective.consistency.s_min, "none": 0.0}[ends(objective)]
