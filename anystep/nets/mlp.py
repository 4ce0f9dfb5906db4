"""A multilayer perceptron on points: the backbone of 2-D toys, with the same contract as the picture networks. A sample is [1, 1, D]."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from anystep.nets.blocks import TimeEmbedding
from anystep.nets.sana import TOLD
from anystep.path import LINEAR, compose
from anystep.types import Model, Path


class Options(NamedTuple):
    shape: tuple[int, int, int] = (1, 1, 2)
    width: int = 128
    depth: int = 3
    time_frequency: float = 4.0
    time_span: float = 16.0
    second_time: bool = True
    guidance: bool = False


class Embed(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x, t, s, cond):
        mask = cond["mask"][..., None].astype(jnp.float32)
        text = jnp.sum(cond["features"] * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)
        embedding = functools.partial(TimeEmbedding, self.o.width, self.o.time_frequency, self.o.time_span)
        e = embedding(name="time")(t)
        if self.o.second_time:
            e = e + embedding(zero=True, name="second_time")(t - s)
        if self.o.guidance:
            e = e + embedding(zero=True, name="guidance")(cond["guidance"])
        return nn.Dense(self.o.width, name="point")(x.reshape(x.shape[0], -1)) + nn.Dense(self.o.width, name="text_in")(text), e


class Block(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, y, e):
        z = nn.LayerNorm(name="norm")(y) + nn.Dense(self.o.width, name="time_in")(nn.silu(e))
        return y + nn.Dense(self.o.width, name="out")(nn.silu(nn.Dense(2 * self.o.width, name="in")(nn.silu(z))))


class Head(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, y):
        return nn.Dense(self.o.shape[-1], name="out")(nn.silu(nn.LayerNorm(name="norm")(y)))


def build(options: Options, text_width: int, path: Path = LINEAR, ends="map", gap=0.0, shift=0.0, scale=1.0) -> Model:
    """A Model that predicts the velocity of points [B, 1, 1, D]."""
    o = options
    embed_net, block, head_net = Embed(o), Block(o), Head(o)

    def init(key):
        k_embed, k_block, k_head = jax.random.split(key, 3)
        x, t, y = jnp.zeros((1, *o.shape)), jnp.zeros((1,)), jnp.zeros((1, o.width))
        cond = {"features": jnp.zeros((1, 1, text_width)), "mask": jnp.ones((1, 1), bool), "guidance": t}
        return {
            "embed": embed_net.init(k_embed, x, t, t, cond)["params"],
            "blocks": jax.vmap(lambda k: block.init(k, y, y)["params"])(jax.random.split(k_block, o.depth)),
            "head": head_net.init(k_head, y)["params"],
        }

    def embed(params, x, t, s, cond):
        unit = 1.0 / path.t_noise
        y, e = embed_net.apply({"params": params["embed"]}, x, t * unit, s * unit, cond)
        return {"y": y, "e": e}

    def blocks(params, h, lo, hi, capture=None):
        layers = jax.tree.map(lambda p: p[lo:hi], params["blocks"])
        y, _ = jax.lax.scan(lambda y, p: (block.apply({"params": p}, y, h["e"]), None), h["y"], layers)
        return {**h, "y": y, "tokens": y[:, None]}, {}

    def head(params, h):
        return head_net.apply({"params": params["head"]}, h["y"]).reshape(-1, *o.shape)

    told = TOLD if o.guidance else 0.0
    return compose(Model(path, ends, o.shape, init, None, embed, blocks, head, o.depth, None, gap, told, shift, scale))
