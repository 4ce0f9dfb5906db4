"""A correction of the noise in one pass (the amortised steering of HyperNoise, 2508.09968, with a loss of our own): from the noise, what
the text encoder says of two objects and the relation that is asked for, to a step of the noise.

    tokens = Dense(patches of the noise) + places;   before them three: Dense(features of the one), Dense(of the other), a relation's own
    block    x += attention(RMS x);  x += MLP(RMS x)                   then the noise's tokens through a Dense that starts at zero

A few percent of a small network's forward; the network that draws is not asked.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from anystep.nets.attention import Attention
from anystep.nets.blocks import Mlp, sincos_positions
from anystep.nets.relation import Net
from anystep.nets.sana import patchify, unpatchify


class Options(NamedTuple):
    """shape (H, W, C) of the noise it was made for, others of its patches do too; text: width of the features."""

    shape: tuple[int, int, int]
    text: int
    patch: int = 4
    width: int = 64
    depth: int = 2
    heads: int = 4
    words: int = 4


class Correction(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, noise, objects, word):
        o, (height, width, _) = self.o, noise.shape[1:]
        grid = height // o.patch, width // o.patch
        x = nn.Dense(o.width, name="patches")(patchify(noise, o.patch)) + sincos_positions(*grid, o.width)[None]
        said = [nn.Dense(o.width, name=f"object_{i}")(objects[:, i]) for i in range(2)] + [nn.Embed(o.words, o.width, name="words")(word)]
        x = jnp.concatenate([jnp.stack(said, axis=1), x], axis=1)
        for i in range(o.depth):
            x = x + Attention(o.heads, name=f"attention_{i}")(nn.RMSNorm(name=f"norm_{i}a")(x))[0]
            x = x + Mlp(2.0, name=f"mlp_{i}")(nn.RMSNorm(name=f"norm_{i}b")(x))
        step = nn.Dense(o.patch**2 * noise.shape[-1], kernel_init=nn.initializers.zeros, name="out")(nn.RMSNorm(name="norm")(x[:, 3:]))
        return unpatchify(step, grid, o.patch)


def build(options: Options) -> Net:
    """apply(params, noise [B, H, W, C], objects [B, 2, text], word [B] int) -> step [B, H, W, C]."""
    o, module = options, Correction(options)

    def init(key):
        return module.init(key, jnp.zeros((1, *o.shape)), jnp.zeros((1, 2, o.text)), jnp.zeros(1, jnp.int32))["params"]

    return Net(init, lambda params, noise, objects, word: module.apply({"params": params}, noise, objects, word))
