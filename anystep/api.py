"""What Python users call: `load` a trained model, `sample` pictures from it. The mains and the notebook draw through these two and
nothing else."""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from anystep import checkpoint, teachers, tree, weights
from anystep import mesh as meshes
from anystep.arrays import channels, in_units
from anystep.config import from_saved
from anystep.control import check_given
from anystep.errors import UserError
from anystep.flags import ASKS, SAMPLERS
from anystep.guide import classifier_free
from anystep.nets.autoencoder import in_memory
from anystep.nets.build import build_models, drawn_roles, plain, text_folder, trained_roles
from anystep.nets.sana import TOLD
from anystep.path import from_flow_time
from anystep.sampling import asked_by, make, on_whole_steps, started_from, whole_step
from anystep.sampling import sample as run
from anystep.state import EMA
from anystep.steering.at import Walk
from anystep.steering.program import Recorder, Steering
from anystep.steering.prompts import Understood, not_steered
from anystep.stores import TEXT, check_made_with, digest_of, read_index
from anystep.subjects import to_uint8
from anystep.times import grid, time_law
from anystep.types import Codec, Drawing, Model, Text
from anystep.walks import picture_of, shape_of, start_of, times_of, tokens_of
from anystep.weights import encoders, pipelines


class Pipeline(NamedTuple):
    """A network, its prompt encoder and how both are drawn from; `draw` is compiled once for each number of steps and size.

    Of a model that was trained here, `config` is what it was built from; one that draws latents has an autoencoder, `codec`.
    """

    net: Model
    text: Text
    drawing: Drawing
    draw: Callable
    config: Any = None  # ConfigDict
    codec: Codec | None = None
    decode: Callable | None = None  # codec.decode, compiled
    encode: Callable | None = None  # codec.encode, compiled


def assemble(net, text, drawing, config=None, codec=None) -> Pipeline:
    """A Pipeline of its parts, without weights."""
    fixed = ("sampler", "ask", "energy_preserving", "jumps", "guide", "steer", "guided", "told", "whole", "shape")
    draw = jax.jit(functools.partial(_draw, net, text), static_argnames=fixed)
    if codec is None:
        return Pipeline(net, text, drawing, draw, config)
    return Pipeline(net, text, drawing, draw, config, codec, jax.jit(in_memory(codec).decode), jax.jit(in_memory(codec).encode))


def pipeline(config) -> Pipeline:
    """A Pipeline of a checked config, without weights."""
    models, codec = build_models(config), None
    if config.data.kind == "store" and config.data.autoencoder:
        codec = encoders.bare_codec_of(config.data.autoencoder)
    return assemble(models["net"], models["text"], drawing_of(config, codec), config, codec)


def drawing_of(config, codec=None) -> Drawing:
    """What a checked config says of drawing."""
    e, law, learned = config.eval, config.objective.time, config.objective.consistency
    return Drawing(
        lambda steps, tokens: grid(steps, time_law(law, tokens).shift),
        patch=1 if config.model.net == "mlp" else config.model.patch * (codec.factor if codec else 1),
        steps=tuple(e.steps),
        sampler=e.sampler,
        ask=e.ask,
        scale=e.scale,
        energy_preserving=e.energy_preserving,
        interval=tuple(float(t) for t in e.interval),
        eta=e.eta,
        learned=learned_scale(config),
        told=told_by(config),
        jumps_anywhere=bool(learned.share and learned.at_zero < 1),
        jumps_only=not config.model.second_time and bool(learned.share or config.objective.adversarial.share),
    )


def learned_scale(config):
    """The guidance inside a network's jumps; of several that were drawn at random, the mean."""
    learned, scales = config.objective.consistency, config.objective.teacher.scales
    if not learned.share:
        return 1.0
    return sum(scales) / len(scales) if learned.velocity == "teacher" else learned.guidance


def told_by(config):
    """How a network that is told the scale counts it, else 0."""
    return (1.0 if config.model.net == "mmdit" else TOLD) if config.model.guidance else 0.0


def load(name, step=None, dtype=None, text=None, split=False) -> tuple[Pipeline, dict]:
    """(model, params) of a model FOLDER (config.json + weights.safetensors), of a work directory (the averaged weights of its newest
    checkpoint, or of the one at `step`; what a low rank added is inside its kernels), or of a folder with the parts of a pipeline
    (model_index.json), a peer's or imported.

    `dtype` "float32" | "bfloat16": of a pipeline's activations. text: for a model that learned from a store, the folder of the text encoder
    that the store was made with (or of its pipeline); without it the prompts of the store are all that can be drawn. split: a pipeline's
    weights lie in shards over all devices, each read straight to its own. Raises UserError if there is none of these, or if the weights do
    not fit.
    """
    folder = folder_of(name)
    if (folder / weights.PIPELINE).exists():
        if text is not None:
            raise UserError(f"text {str(text)!r}: a pipeline has its own text encoder")
        if step is not None:
            raise UserError(f"model {str(name)!r}: a pipeline has no step {step}")
        found = pipelines.read(folder, dtype or "float32", over_devices if split else meshes.on_one_device)
        return assemble(found.net, found.text, found.drawing, codec=found.codec), found.params
    if split:
        raise UserError(f"split: of pipelines only, model {str(name)!r} was trained here")
    if dtype is not None:
        raise UserError(f"dtype {dtype!r}: of pipelines only; a model that was trained here says it in config.model.dtype")
    if (folder / weights.WEIGHTS).exists():
        if step is not None:
            raise UserError(f"model {str(name)!r}: a model folder has no step {step}; give the work directory")
        saved, params = weights.load_folder(folder)
        refuse_a_part(name, saved)
        model = pipeline(from_saved(saved))
        return with_frozen(model, jax.device_put(weights.take(abstract_params(model, drawn_roles(model.config)), params)), text)
    try:
        saved = json.loads((folder / weights.CONFIG).read_text())
    except ValueError as error:
        raise UserError(f"{folder / weights.CONFIG}: not JSON ({error})") from None
    refuse_a_part(name, saved)
    model = pipeline(from_saved(saved))
    averaged = [role for role in drawn_roles(model.config) if role in trained_roles(model.config)]
    found, state, _ = checkpoint.restore(folder, {"ema": {EMA: abstract_params(model, averaged)}}, step=step, partial=True)
    if step not in (None, found):
        raise UserError(f"model {str(name)!r}: step {step} cannot be read, {found} can")
    params, exported = state["ema"][EMA], folder / "model"
    if "text" in drawn_roles(model.config) and "text" not in params and (exported / weights.WEIGHTS).exists():  # the teacher may be gone
        params = params | {"text": jax.device_put(weights.load_folder(exported)[1]["text"])}
    merged, params = plain(model.config.to_dict(), params)
    return with_frozen(pipeline(from_saved(merged)) if model.config.model.rank else model, params, text)


def with_frozen(model: Pipeline, params, text=None) -> tuple[Pipeline, dict]:
    """(model, params) with what was not trained: the weights of a pretrained text encoder, of an autoencoder. `text`: see `load`."""
    if text is not None:
        if model.config.model.text.encoder != "stored":
            raise UserError(f"text {str(text)!r}: the model has its own text encoder, it did not learn from a store's features")
        index = read_index(model.config.data.path)
        check_made_with(model.config.data.path, index, "text", text, "text")
        encoder, found = encoders.text_of(text, length=index["made_with"]["options"]["length"])
        model = assemble(model.net, encoder, model.drawing, model.config, model.codec)
        params = params | {"text": jax.device_put(found)}
    elif "text" not in params:
        params = params | {"text": jax.device_put(frozen_text(model.config))}
    return model, params | codec_params(model)


def frozen_text(config):
    """Weights of the text encoder of a config that does not train its own. UserError for another than the config was trained with."""
    if config.model.text.encoder == "stored":
        return {}
    if config.model.text.encoder == "hashed":
        return teachers.load(config)["text"]
    folder, before = text_folder(config), config.model.text.digest
    if before and digest_of(folder, TEXT) != before:
        raise UserError(f"config.model.text.folder = {str(folder)!r}: holds another encoder than the one that the model was trained with")
    return encoders.text_of(folder)[1]


def codec_params(model: Pipeline) -> dict:
    """{"codec": weights} of a model that was trained here and is given an autoencoder, else {}. UserError for another than its store's."""
    if model.codec is None or model.config is None:
        return {}
    data = model.config.data
    check_made_with(data.path, read_index(data.path), "autoencoder", data.autoencoder, "config.data.autoencoder")
    return {"codec": jax.device_put(encoders.codec_of(data.autoencoder)[1])}


def refuse_a_part(name, saved):
    """UserError for the config of one network of others, which alone reads no prompts and draws no pictures."""
    if not {"peer", "_class_name", "architectures"}.isdisjoint(saved):
        raise UserError(f"model {str(name)!r}: is one part of a pipeline; give the folder that has model_index.json")


def over_devices(abstract):
    """Shardings of a tree that split its large leaves over all devices."""
    mesh = meshes.make_mesh(ConfigDict({"data": 1, "fsdp": jax.device_count()}))
    return meshes.shard_rule(abstract, mesh)[0]


def folder_of(name):
    """The folder of a model, or UserError."""
    folder = epath.Path(name)
    if not (folder / weights.CONFIG).exists() and not (folder / weights.PIPELINE).exists():
        kinds = "a model folder (config.json + weights.safetensors), a work directory or a pipeline (model_index.json)"
        raise UserError(f"model {str(name)!r}: is none of {kinds}")
    return folder


def abstract_params(model: Pipeline, roles):
    """Shapes of some of "net" and "text"."""
    key = jax.random.key(0)
    return {role: jax.eval_shape(getattr(model, role).init, key) for role in roles}


def sample(model: Pipeline, params, prompts, steps=4, seed=0, guide=None, steer=None, **how) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] of a list of prompts.

    steps: evaluations of the sampler, 1 and up. guide: a guidance scale, or a function Velocity -> Velocity, or None for the model's own
    scale. steer: what `anystep.steering.load` gives, or a function Sampler -> Sampler. `how`, where the model should not decide: sampler
    "euler" | "heun" | "dpm" | "restart" | "ddim" | "ddim_ratio"; ask "next" | "now" | "zero" | "half"; eta, the part of the noise that ddim
    draws afresh; times, decreasing flow times [N + 1] instead of `steps`, or the name of a published list for `steps` (`times.PUBLISHED`);
    size, (height, width) in pixels; first, the number of the first row: row i's noise depends on (seed, first + i) alone, not on steps or
    the other prompts; noise [N, ...] to start from instead; image, uint8 [N, H, W, 3] or one for all prompts, and strength in (0, 1], how
    far it is noised before the walk begins there (see `walks`; 1 leaves nothing of it). For a model with a ControlNet: control, pictures
    uint8 [N, H, W, 3] of what is wanted or one for all prompts (edges: `anystep.control.edges`), and control_scale of its residuals;
    without a picture it draws as its trunk. Raises UserError for a bad prompt, size, picture, strength or time, for a picture that cannot
    be followed, and for a scale that could not act (see `guidance`).
    """
    return to_uint8(sample_array(model, params, prompts, steps, seed, guide, steer, **how))


def sample_array(model, params, prompts, steps=4, seed=0, guide=None, steer=None, **how) -> np.ndarray:
    """As `sample`, but float32 at the door ([-1, 1] for pictures, points for a mixture), not clipped."""
    return sample_and_say(model, params, prompts, steps, seed, guide, steer, **how)[0]


def sample_and_say(
    model, params, prompts, steps=4, seed=0, guide=None, steer=None,
    sampler=None, ask=None, eta=None, times=None, size=None, noise=None, first=0, image=None, strength=0.6, control=None, control_scale=1.0,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    """(what `sample_array` gives, what a Steering says: its arrays [steps, N, ...], {} where it had nothing to do)."""
    if isinstance(prompts, str):
        raise UserError("prompts: a list of texts is expected, got one text")
    for name, word, known in (("sampler", sampler, SAMPLERS), ("ask", ask, ASKS)):
        if word not in (None, *known):
            raise UserError(f"{name}: {word!r}, allowed {', '.join(known)}")
    d = model.drawing
    sampler, ask = sampler or d.sampler, ask or d.ask
    scale, inside = guidance(d, None if callable(guide) else guide, sampler, ask)
    shape = shape_of(model, size)
    if noise is not None and np.shape(noise) != (len(prompts), *shape):
        raise UserError(f"noise: shape {np.shape(noise)}, allowed is {(len(prompts), *shape)}")
    picture = None if control is None else control_in_units(model, params, control, len(prompts), picture_of(model, shape))
    batch, flow_times = d.batch, times_of(d, steps, tokens_of(model, shape), times)
    if image is not None and isinstance(steer, Steering):
        raise UserError("image: is for drawing without steer, which expects to begin with noise alone")
    data, flow_times, ends = start_of(model, params, image, strength, len(prompts), shape, flow_times)
    key = tree.fold(jax.random.key(seed), "sample")
    null, out, infos = model.text.tokenize([""]), [], []
    understood = steer.understand(model.text, prompts) if isinstance(steer, Steering) else []
    most = max((len(one.relations) for one in understood), default=0)
    if isinstance(steer, Steering) and not most:
        steer = None  # nothing is asked for: the sampler as it is
    for row in range(0, len(prompts), batch):
        some = list(prompts[row : row + batch])
        rows = min(batch, max(len(prompts), 1))
        tokens = model.text.tokenize(some + [""] * (rows - len(some)))
        told = None
        if isinstance(steer, Steering):
            length = jax.eval_shape(encoder(model.text.encode), params["text"], tokens)["features"].shape[1]
            nothing = [Understood("", (), (), ())] * (rows - len(some))
            told = steer.told(understood[row : row + batch] + nothing, length, most)
        x, info = model.draw(
            {role: params[role] for role in ("net", "text")},
            tokens,
            null,
            tree.sample_keys(key, "noise", 0, first + row + jnp.arange(rows)),
            flow_times,
            scale,
            d.interval,
            ends,
            number("eta", d.eta if eta is None else eta),
            sampler=sampler,
            ask=ask,
            energy_preserving=d.energy_preserving,
            jumps=not inside,
            guide=guide if callable(guide) else None,
            steer=steer.program if told else steer,
            steer_told=told,
            guided=scale != 1.0 and inside != "all",
            told=d.told,
            whole=d.whole,
            shape=shape,
            noise=noise if noise is None else jnp.asarray(filled(noise[row : row + batch], rows), jnp.float32),
            data=data if data is None else jnp.asarray(filled(data[row : row + batch], rows)),
            picture=None if picture is None else filled(picture[row : row + batch], rows),
            control_scale=number("control_scale", control_scale),
        )
        if told:
            infos.append(jax.tree.map(lambda a, kept=slice(len(some)): np.asarray(a)[:, kept], info))  # noqa: B008
        if model.codec is None:
            out.append(np.asarray(x)[: len(some)])
        else:  # one picture at a time: a decoder's finest level takes more memory than the network
            out += [np.asarray(model.decode(params["codec"], x[i : i + 1])) for i in range(len(some))]
    x = np.concatenate(out) if out else np.zeros((0, *picture_of(model, shape)), np.float32)
    return x, jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *infos) if infos else {}


def control_in_units(model, params, control, rows, shape) -> np.ndarray:
    """What `sample` takes as control, of drawn pictures of `shape` (H, W, 3), as a ControlNet sees it: [rows, h, w, C] float32 in the
    network's units, latents where it draws latents. UserError for a model that follows no picture."""
    if not model.net.controls:
        raise UserError("control: a picture to follow was given, but the model has no ControlNet")
    x = check_given(control, rows, shape)
    if model.codec is not None:  # one at a time, as they are decoded
        x = np.concatenate([model.encode(params["codec"], x[i : i + 1]) for i in range(len(x))])
    x = np.asarray(in_units(model.net, x))
    return np.broadcast_to(x, (rows, *x.shape[1:]))


@functools.lru_cache(8)
def encoder(encode):
    """A text encoder whose traces are kept."""
    return jax.jit(encode)


def notes(model: Pipeline, prompts, steer, steps=4, times=None, size=None) -> list[str]:
    """Lines on what a Steering will not do for these prompts at so many steps: relations that are not understood, steps unlike those that
    its classifier learned from, other weights of the network. [] for any other `steer`."""
    if not isinstance(steer, Steering):
        return []
    times = times_of(model.drawing, steps, tokens_of(model, shape_of(model, size)), times)
    return [*steer.notes, *steer.strange(times), *not_steered(steer.understand(model.text, prompts))]


def filled(rows, count):
    """`rows` and copies of the last one: one compilation for a batch that is not full."""
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


def guidance(drawing: Drawing, scale, sampler, ask) -> tuple[float, str]:
    """(guidance scale, which answers hold it already: "", "jumps" or "all"), `scale` None for the model's own.

    A network that is told the scale holds it in all of them. A hybrid may have learned its jumps to s = 0 under guidance: there nothing is
    extrapolated a second time. Where only such jumps are asked, the scale is that of the training, and a UserError tells whoever wants
    another.
    """
    wanted = number("guide", drawing.scale if scale is None else scale)
    if drawing.told:
        return wanted, "all"
    if wanted < drawing.least:
        raise UserError(f"guidance scale {wanted:g}: allowed from {drawing.least:g}, which is none, for pipelines of others")
    if drawing.learned == 1.0:
        return wanted, ""
    if drawing.jumps_only and scale is None:
        return drawing.learned, "all"
    by_way_of_data = sampler not in ("euler", "heun", "dpm") and drawing.jumps_anywhere  # there a flow map is always asked for s = 0
    if not drawing.jumps_only and (sampler in ("heun", "dpm") or (ask != "zero" and not by_way_of_data)):
        return wanted, "jumps"
    if scale is not None:
        raise UserError(
            f"guidance scale {scale}: cannot act, because all that sampler {sampler!r} asks of this model was trained under guidance "
            f"{drawing.learned:g}" + ("" if drawing.jumps_only else "; with sampler 'euler' and ask 'now' the scale is free")
        )
    return drawing.learned, "all"


def number(name, value):
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}: {value!r}, allowed a number, a function or None") from None


def _draw(
    net, text, params, tokens, null, keys, flow_times, scale, interval, ends, eta,
    sampler, ask, energy_preserving, jumps, guide, steer, guided, told, whole, shape, noise,
    steer_told=None, data=None, picture=None, control_scale=1.0,
):  # fmt: skip
    """(x at the door, what the sampler says of its steps). steer: Sampler -> Sampler, or what takes (sampler, Walk, steer_told)."""
    rows, seen = keys.shape[0], {}
    if picture is not None:
        seen = {"picture": picture, "control_scale": jnp.asarray(control_scale, jnp.float32)}
    cond = text.encode(params["text"], tokens) | seen
    if told:
        cond = cond | {"guidance": jnp.full(rows, told * scale, jnp.float32)}

    def velocity_under(c):
        return lambda x, t, s: net.velocity(params["net"], x, t, s, c)

    known = guide is None  # what another guide asks is its own affair
    if known and guided:
        none = jax.tree.map(lambda a: jnp.broadcast_to(a, (rows, *a.shape[1:])), text.encode(params["text"], null)) | seen
        low, high = (from_flow_time(net.path, jnp.float32(t)) for t in interval)
        guide = classifier_free(velocity_under(none), scale, energy_preserving, (low, high), jumps)

    def around(velocity):
        velocity = velocity if guide is None else guide(velocity)
        return on_whole_steps(velocity, whole) if whole else velocity

    walker = make(sampler, around(velocity_under(cond)), net, ask, eta)
    walker = walker if data is None else started_from(walker, net.path, data)
    if steer_told is not None:
        clock = functools.partial(whole_step, whole) if whole else lambda t: t
        walker = steer(walker, Walk(net, params["net"], cond, asked_by(sampler, net, ask), clock, around, known, ends[0]), steer_told)
    elif steer is not None:
        walker = steer(walker)
    pairs = jax.vmap(jax.random.split)(keys)
    noise = tree.normal(pairs[:, 0], shape) if noise is None else noise
    said_of = steer.first if isinstance(steer, Recorder) else None
    x, info = run(walker, pairs[:, 1], ends[0] * noise, from_flow_time(net.path, flow_times), said_of)
    return ends[1] * x * channels(net.scale, x) + channels(net.shift, x), info
