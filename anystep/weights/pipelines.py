"""A whole pipeline of other people's, from the folder that diffusers writes or from what `anystep weights import` made of it:

    model_index.json    transformer/ or unet/    vae/    text_encoder/ tokenizer/    text_encoder_2/ tokenizer_2/    scheduler/

SANA    Gemma reads the prompt behind an instruction; guidance extrapolates           (2410.10629)
Sprint  the same, but on TrigFlow's path and told the scale of guidance               (2503.09641)
FLUX    T5 gives the features, CLIP the pooled vector; dev is told the scale, schnell has none
SD      CLIP; what the network predicts is said by the scheduler                      (2112.10752)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError
from anystep.nets.text import pretrained
from anystep.path import as_trig
from anystep.types import Codec, Drawing, Model, Text
from anystep.weights import port, schedulers

TOKENS_AT_ONCE = 4096  # of pictures drawn together: one of 1024 x 1024 by FLUX, four by SANA
INSTRUCTION = Path(__file__).with_name("sana_instruction.txt")  # what SANA was trained behind, word by word (SANA, Apache-2.0)
SPRINT_SCALE = 0.1  # SANA-Sprint is told a tenth of the scale


class Parts(NamedTuple):
    """What a folder holds; params {"net", "text", "codec"} as numpy arrays."""

    net: Model
    text: Text
    codec: Codec
    drawing: Drawing
    params: dict[str, Any]


class Kind(NamedTuple):
    """What a network's class says of the folder around it."""

    folder: str  # of the network
    text: Callable  # (folder, dtype, network's options) -> (Text, params)
    patch: Callable  # network's options -> latent positions a side of a token
    scale: float  # of guidance
    told: float  # Drawing.told of a network that reads the scale


def read(folder, dtype="float32") -> Parts:
    """The parts of a pipeline, `dtype` of their activations; weights keep the file's. UserError for what is not there or not known."""
    folder = Path(folder)
    place = next((name for name in ("transformer", "unet") if (folder / name).is_dir()), None)
    if place is None:
        raise UserError(f"{folder}: has neither transformer/ nor unet/")
    peer, options, params = component(folder / place, KINDS, dtype)
    kind = KINDS[class_of(folder / place)]
    schedule = schedulers.read(folder / "scheduler")
    if "predicts" in options._fields and place == "unet":
        options = options._replace(predicts=schedule.predicts)
    net = peer.build(options)
    told = getattr(options, "guidance", False)
    if told and place == "transformer" and schedule.path == "trig":
        net = as_trig(net)
    text, text_params = kind.text(folder, dtype, options)
    codec, codec_params = autoencoder(folder / "vae", dtype)
    patch = codec.factor * kind.patch(options)
    tokens = net.shape[0] * net.shape[1] // kind.patch(options) ** 2
    drawing = Drawing(
        schedule.times,
        patch,
        steps=schedule.steps,
        sampler=schedule.sampler,
        ask="now",
        scale=kind.scale if told or kind.told != 1.0 else 1.0,
        told=kind.told if told else 0.0,
        eta=schedule.eta,
        batch=max(1, min(64, TOKENS_AT_ONCE // tokens)),
    )
    return Parts(net, text, codec, drawing, {"net": params, "text": text_params, "codec": codec_params})


def class_of(folder):
    config = port.peer_config(port.read_config(folder))
    return config.get("_class_name") or (config.get("architectures") or ["none"])[0]


def component(folder, classes, dtype):
    """(Peer, options, params) of one part, whose class must be one of `classes`."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder, a pipeline has it")
    if class_of(folder) not in classes:
        raise UserError(f"{folder}: class {class_of(folder)!r} has no place there, allowed {', '.join(classes)}")
    peer, options, params = port.load(folder)
    return peer, options._replace(dtype=dtype), params


def autoencoder(folder, dtype="float32") -> tuple[Codec, Any]:
    """The autoencoder in `folder` and its params."""
    peer, options, params = component(folder, ("AutoencoderDC", "AutoencoderKL"), dtype)
    return peer.build(options), params


def encoder(folder, dtype, classes, suffix="", **how) -> tuple[Text, Any]:
    """The text encoder in text_encoder/ of a pipeline, with the tokenizer beside it."""
    peer, options, params = component(folder / f"text_encoder{suffix}", classes, dtype)
    return peer.build(pretrained.read(folder / f"tokenizer{suffix}"), options, **how), params


def sana_text(folder, dtype, _):
    return encoder(folder, dtype, ("Gemma2Model", "Gemma2ForCausalLM"), instruction=INSTRUCTION.read_text("utf-8"))


def unet_text(folder, dtype, _):
    return encoder(folder, dtype, ("CLIPTextModel",))


def flux_text(folder, dtype, options):
    first, first_params = encoder(folder, dtype, ("CLIPTextModel",))
    second, second_params = encoder(
        folder, dtype, ("T5EncoderModel",), suffix="_2", length=512 if options.guidance else 256, see_padding=True
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

    return Text(init, tokenize, encode, prepend)


KINDS = {
    "SanaTransformer2DModel": Kind("transformer", sana_text, lambda o: o.patch, 4.5, SPRINT_SCALE),
    "FluxTransformer2DModel": Kind("transformer", flux_text, lambda o: 2, 3.5, 1.0),
    "UNet2DConditionModel": Kind("unet", unet_text, lambda o: 2 ** (len(o.widths) - 1), 7.5, 0.0),
}
