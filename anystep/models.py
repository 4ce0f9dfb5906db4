"""Models to draw from: a network, its prompt encoder and how both are asked, without weights or read from a folder."""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from anystep import checkpoint, teachers, weights
from anystep import mesh as meshes
from anystep.config import from_saved
from anystep.config.objective_rules import only_jumps
from anystep.draw import draw
from anystep.errors import UserError
from anystep.nets.autoencoder import in_memory
from anystep.nets.build import build_models, drawn_roles, plain, text_folder, trained_roles
from anystep.nets.sana import TOLD
from anystep.state import EMA
from anystep.stores import TEXT, check_made_with, digest_of, read_index
from anystep.times import grid, time_law
from anystep.types import Codec, Drawing, Model, Text
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
    drawer = jax.jit(functools.partial(draw, net, text), static_argnames=fixed)
    if codec is None:
        return Pipeline(net, text, drawing, drawer, config)
    return Pipeline(net, text, drawing, drawer, config, codec, jax.jit(in_memory(codec).decode), jax.jit(in_memory(codec).encode))


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
        jumps_only=only_jumps(config),
        unprompted=config.objective.prompt_dropout > 0,
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
    checkpoint, or of the one at `step`; what a low rank added is inside its kernels), of a folder with the parts of a pipeline
    (model_index.json), a peer's or imported, or of a packaged model, by its name.

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


def packaged():
    """{name: folder} of the models that come with the package."""
    return {folder.name: folder for folder in sorted(weights.PACKAGED.iterdir()) if (folder / weights.WEIGHTS).exists()}


def folder_of(name):
    """The folder of a model, that of a packaged one by its name where there is no such folder, or UserError."""
    folder = epath.Path(name)
    if (folder / weights.CONFIG).exists() or (folder / weights.PIPELINE).exists():
        return folder
    if str(name) in packaged():
        return packaged()[str(name)]
    kinds = "a model folder (config.json + weights.safetensors), a work directory or a pipeline (model_index.json)"
    raise UserError(f"model {str(name)!r}: is none of {kinds}, nor packaged ({', '.join(packaged())})")


def abstract_params(model: Pipeline, roles):
    """Shapes of some of "net" and "text"."""
    key = jax.random.key(0)
    return {role: jax.eval_shape(getattr(model, role).init, key) for role in roles}
