"""What a family says about a class of a peer's: `Peer`; and how it says no."""

from collections.abc import Callable
from typing import Any, NamedTuple

from anystep.errors import UserError


class Peer(NamedTuple):
    """One class of a peer's, such as diffusers' SanaTransformer2DModel."""

    options: Callable[[dict], Any]  # the peer's config.json -> the options of our network; UserError for what we do not have
    config: Callable[[Any], dict]  # and back, "_class_name" in it
    names: Callable[[Any], dict]  # options -> {our leaf: Source}
    init: Callable[[Any], Any]  # options -> function of a key -> params; shapes by jax.eval_shape
    answers: Callable[[Any, dict, dict], dict]
    """(options, params, recorded) -> {name: array}: what is recorded in an io.npz, answered by our network, in the peer's shapes.
    `recorded` holds in_*; out_* and mid.* are None there, only their names are looked at."""
    file: str = "diffusion_pytorch_model.safetensors"  # what an export is called
    build: Callable | None = None
    """A network's options -> Model, an autoencoder's -> Codec; a text encoder's (tokenizer, options, ...) -> Text. None where a pipeline
    has no place for it."""
    known_as: Callable[[str], str | None] = lambda name: name
    """What `names` calls a tensor of a file: releases add and drop prefixes. None: it holds no weights (a buffer, a tied copy)."""


def refuse(config, allowed, where):
    """UserError for a field of the peer's config whose value our network does not have. `allowed`: {field: values}; a field that is not
    there is fine."""
    for field, values in allowed.items():
        if field in config and config[field] not in values:
            raise UserError(f"{where}: {field} = {config[field]!r} is not supported, allowed {', '.join(map(repr, values))}")
