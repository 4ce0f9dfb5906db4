"""What a folder encodes and decodes with, without its network: the text encoder and the autoencoder of a pipeline, or of a folder that is
one of the two. For stores, for text encoders that are not trained, for looking at latents."""

from pathlib import Path
from typing import Any

from anystep.errors import UserError
from anystep.nets.text import pretrained
from anystep.types import Codec, Text
from anystep.weights import pipelines, port
from anystep.weights.peers import find

TEXTS = ("BertModel", "CLIPTextModel", "CLIPTextModelWithProjection", "Gemma2Model", "Gemma2ForCausalLM", "T5EncoderModel")


def text_of(folder, dtype="float32", length=0) -> tuple[Text, Any]:
    """The text encoder of a pipeline, as its network wants it; or of a folder with an encoder and its tokenizer, prompts `length` tokens
    long (0: what is usual). UserError for what is neither."""
    folder = Path(folder)
    place = next((name for name in ("transformer", "unet") if (folder / name).is_dir()), None)
    if place is None:
        peer, options, params = pipelines.component(folder, TEXTS, dtype)
        return peer.build(pretrained.read(folder), options, **({"length": length} if length else {})), params
    if length:
        raise UserError(f"{folder}: is a pipeline, whose network says how long a prompt is; length {length} is for an encoder alone")
    name = pipelines.class_of(folder / place)
    kind = pipelines.KINDS.get(name)
    if kind is None:
        raise UserError(f"{folder / place}: class {name!r} is not known, allowed {', '.join(pipelines.KINDS)}")
    return kind.text(folder, dtype, options_of(folder / place)[1])


def codec_of(folder, dtype="float32") -> tuple[Codec, Any]:
    """The autoencoder of a pipeline or of a folder that is one, and its params."""
    return pipelines.autoencoder(place_of_codec(folder), dtype)


def bare_codec_of(folder) -> Codec:
    """The same without reading weights."""
    peer, options = options_of(place_of_codec(folder))
    return peer.build(options)


def place_of_codec(folder):
    folder = Path(folder)
    return folder / "vae" if (folder / "vae").is_dir() else folder


def options_of(folder):
    """(Peer, options) of what a config.json says."""
    config = port.peer_config(port.read_config(folder))
    peer = find(config, Path(folder) / "config.json")
    return peer, peer.options(config)
