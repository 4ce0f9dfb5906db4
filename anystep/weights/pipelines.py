"""A whole pipeline of other people's, from the folder that diffusers writes or from what `anystep weights import` made of it:

    model_index.json    transformer/ or unet/    vae/    text_encoder/ tokenizer/    text_encoder_2/ tokenizer_2/    scheduler/

SANA    Gemma reads the prompt behind an instruction; guidance extrapolates; with controlnet/, it follows a picture     (2410.10629)
Sprint  the same, but the network is told a tenth of the scale                        (2503.09641)
FLUX    T5 gives the features, CLIP the pooled vector; dev is told the scale, schnell has none
SD      CLIP; what the network predicts, and over which clock, is said by the scheduler       (2112.10752)

A scale of 1 is no guidance here, and what is told may be any number. diffusers takes scales up to 1 for none, so that people write 0 for
FLUX schnell; here 0 would be the null prompt, and less than 1 is refused.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError
from anystep.nets import controlnet, sana
from anystep.nets.text import pretrained
from anystep.types import Codec, Drawing, Model, Text
from anystep.weights import port
from anystep.weights.folder import PIPELINE
from anystep.weights.schedulers import ends, of_scheduler

DTYPES = ("float32", "bfloat16")
TOKENS_AT_ONCE = 4096  # of pictures drawn together: one of 1024 x 1024 by FLUX, four by SANA, one of 512 x 512 by SD
INSTRUCTION = Path(__file__).with_name("sana_instruction.txt")  # what SANA was trained behind, word by word (SANA, Apache-2.0)


class Parts(NamedTuple):
    """What a folder holds; params {"net", "text", "codec"} as `port.load` gives them."""

    net: Model
    text: Text
    codec: Codec
    drawing: Drawing
    params: dict[str, Any]


class Kind(NamedTuple):
    """What a network's class says of the folder around it."""

    folder: str  # of the network
    encoders: tuple[str, ...]
    text: Callable  # (folder, dtype, network's options, shard) -> (Text, params)
    patch: Callable  # network's options -> latent positions a side of a token
    drawing: Callable  # network's options -> steps, scale and told of its Drawing, as its own pipelines have them


def read(folder, dtype="float32", shard=None) -> Parts:
    """The parts of a pipeline, `dtype` of their activations; weights keep the file's. `shard` as in `port.load`. UserError for what is not
    there or not known.

    A folder without its text encoders is read, too: only prompts are refused.
    """
    folder = Path(folder)
    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r}, allowed {', '.join(DTYPES)}")
    place = next((name for name in ("transformer", "unet") if (folder / name).is_dir()), None)
    if place is None:
        raise UserError(f"{folder}: has neither transformer/ nor unet/")
    schedule = schedule_of(folder)
    if (place == "unet") != (schedule.betas is not None):
        answers = {"transformer": "flow", "unet": "epsilon, v_prediction"}[place]
        raise UserError(f"{folder / 'scheduler'}: is for networks that predict {schedule.predicts!r}; for {place}/ allowed {answers}")
    peer, options, params = component(folder / place, [name for name, kind in KINDS.items() if kind.folder == place], dtype, shard)
    kind = KINDS[class_of(folder / place)]
    if place == "unet":
        options = options._replace(predicts=schedule.predicts, betas=schedule.betas)
    net, patch = peer.build(options), kind.patch(options)
    if (folder / "controlnet").is_dir():
        net, params = with_control(folder, net, options, params, dtype, shard)
    lacking = [name for name in kind.encoders if not (folder / name).is_dir()]
    text, text_params = (absent(folder, lacking), {}) if lacking else kind.text(folder, dtype, options, shard)
    codec, codec_params = autoencoder(folder / "vae", dtype, shard)
    if codec.channels != net.shape[-1]:
        raise UserError(f"{folder / 'vae'}: latents have {codec.channels} channels, those of {place}/ have {net.shape[-1]}")
    drawing = Drawing(
        schedule.grid,
        codec.factor * patch,
        sampler=schedule.sampler,
        ask="zero" if schedule.jumps else "now",
        least=1.0,
        eta=schedule.eta,
        batch=max(1, min(64, TOKENS_AT_ONCE // (net.shape[0] * net.shape[1] // patch**2))),
        ends=lambda times: ends(schedule, times),
        whole=schedule.whole,
        jumps_only=schedule.jumps,
        **kind.drawing(options),
    )
    return Parts(net, text, codec, drawing, {"net": params, "text": text_params, "codec": codec_params})


def with_control(folder, net, options, params, dtype, shard=None):
    """(Model, params) of a SANA with the ControlNet in controlnet/."""
    if not isinstance(options, sana.Options):
        raise UserError(f"{folder}: has controlnet/, which only a SanaTransformer2DModel is drawn with here")
    _, its, beside = component(folder / "controlnet", ("SanaControlNetModel",), dtype, shard)
    for name in ("width", "patch", "text_width"):
        if getattr(its, name) != getattr(options, name):
            raise UserError(f"{folder / 'controlnet'}: has {name} = {getattr(its, name)}, transformer/ {getattr(options, name)}")
    if its.shape[-1] != options.shape[-1] or its.depth >= options.depth:
        must = f"allowed beside transformer/ are {options.shape[-1]} channels and less than {options.depth} blocks"
        raise UserError(f"{folder / 'controlnet'}: has {its.shape[-1]} channels and {its.depth} blocks, {must}")
    model = controlnet.controlled(net, controlnet.build(its, its.text_width), its.depth)
    return model, {"trunk": params, "control": beside}


def schedule_of(folder):
    """The Schedule of a pipeline's scheduler/, which the pipeline's class has a say in."""
    said = port.read_config(folder, PIPELINE).get("_class_name", "")
    try:
        return of_scheduler(port.read_config(folder / "scheduler", "scheduler_config.json"), said)
    except UserError as error:
        raise error if str(folder) in str(error) else UserError(f"{folder / 'scheduler'}: {error}") from None


def class_of(folder):
    config = port.peer_config(port.read_config(folder))
    return config.get("_class_name") or (config.get("architectures") or ["none"])[0]


def component(folder, classes, dtype, shard=None):
    """(Peer, options, params) of one part, whose class must be one of `classes`."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder; a pipeline has it, its class is one of {', '.join(classes)}")
    if class_of(folder) not in classes:
        raise UserError(f"{folder}: class {class_of(folder)!r} has no place there, allowed {', '.join(classes)}")
    peer, options, params = port.load(folder, shard=shard)
    return peer, options._replace(dtype=dtype), params


def autoencoder(folder, dtype="float32", shard=None) -> tuple[Codec, Any]:
    """The autoencoder in `folder` and its params."""
    peer, options, params = component(folder, ("AutoencoderDC", "AutoencoderKL"), dtype, shard)
    return peer.build(options), params


def absent(folder, names) -> Text:
    """The Text of a folder without encoders."""

    def refuse(*_):
        raise UserError(f"{folder}: has no {' and no '.join(f'{name}/' for name in names)}, so it cannot read prompts")

    return Text(refuse, refuse, refuse, refuse)


def encoder(folder, dtype, classes, shard=None, suffix="", **how) -> tuple[Text, Any]:
    """The text encoder in text_encoder/ of a pipeline, with the tokenizer beside it."""
    peer, options, params = component(folder / f"text_encoder{suffix}", classes, dtype, shard)
    return peer.build(pretrained.read(folder / f"tokenizer{suffix}"), options, **how), params


def sana_text(folder, dtype, _, shard=None):
    return encoder(folder, dtype, ("Gemma2Model", "Gemma2ForCausalLM"), shard, instruction=INSTRUCTION.read_text("utf-8"))


def unet_text(folder, dtype, _, shard=None):
    return encoder(folder, dtype, ("CLIPTextModel",), shard)


def flux_text(folder, dtype, options, shard=None):
    first, first_params = encoder(folder, dtype, ("CLIPTextModel",), shard)
    second, second_params = encoder(
        folder, dtype, ("T5EncoderModel",), shard, suffix="_2", length=512 if options.guidance else 256, see_padding=True
    )
    return both(first, second), {"pooled": first_params, "features": second_params}


def both(pooled: Text, features: Text) -> Text:
    """One Text of two that read the same prompt: the tokens stand side by side."""
    length = pooled.tokenize([""]).shape[1]

    def init(key):
        return {"pooled": pooled.init(key), "features": features.init(key)}

    def tokenize(prompts):
        return np.concatenate([pooled.tokenize(prompts), features.tokenize(prompts)], axis=1)

    def encode(params, tokens):
        first = pooled.encode(params["pooled"], tokens[:, :length])
        return features.encode(params["features"], tokens[:, length:]) | {"pooled": first["pooled"]}

    def prepend(words, tokens):
        return jnp.concatenate([pooled.prepend(words, tokens[:, :length]), features.prepend(words, tokens[:, length:])], axis=1)

    return Text(init, tokenize, encode, prepend, features.place)


def sana_drawing(options):
    return {"steps": (1, 2, 4), "scale": 4.5, "told": 0.1} if options.guidance else {"steps": (20,), "scale": 4.5}


def flux_drawing(options):
    return {"steps": (28,), "scale": 3.5, "told": 1.0} if options.guidance else {"steps": (1, 2, 4)}


KINDS = {
    "SanaTransformer2DModel": Kind("transformer", ("text_encoder",), sana_text, lambda o: o.patch, sana_drawing),
    "FluxTransformer2DModel": Kind("transformer", ("text_encoder", "text_encoder_2"), flux_text, lambda o: 2, flux_drawing),
    "UNet2DConditionModel": Kind("unet", ("text_encoder",), unet_text, lambda o: 1, lambda o: {"steps": (50,), "scale": 7.5}),
}
