"""A ControlNet beside a SANA trunk (diffusers' SanaControlNetModel): a copy of its first blocks that also sees a picture of what is wanted
and answers with residuals.

    tokens = patches(x) + in(patches(control));   residual_k = out_k(tokens after block k) * scale,   added after the trunk's block k + 1

Both `in` and `out_k` start at zero: at first the trunk answers as if alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from anystep.nets.sana import Block, Embed, Options


class ControlNet(NamedTuple):
    init: Callable  # key -> params
    residuals: Callable  # (params, x, t, cond, control, scale) -> [K, B, N, D], what a trunk takes as cond["control"]


def build(options: Options, text_width: int) -> ControlNet:
    """`options` as the trunk's, with depth = the number of residuals; x and control [B, H, W, C], t [B] in flow time."""
    o = options._replace(second_time=False, guidance=False)
    zero = nn.Dense(o.width, kernel_init=nn.initializers.zeros)

    def sized(x):
        here = o._replace(shape=x.shape[1:])
        return Embed(here), Block(here)

    def init(key):
        keys = jax.random.split(key, 3)
        x, t, text = jnp.zeros((1, *o.shape)), jnp.zeros((1,)), jnp.zeros((1, 1, text_width))
        embed, block = sized(x)
        (tokens, side), variables = embed.init_with_output(keys[0], x, t, t, text)

        def layer(k):
            return block.init(k, tokens, side["modulation"], side["text"], jnp.ones((1, 1), bool))["params"]

        each = jax.random.split(keys[1], o.depth)
        return {
            "embed": variables["params"],
            "blocks": jax.vmap(layer)(each),
            "in": zero.init(keys[2], tokens)["params"],
            "out": jax.vmap(lambda k: zero.init(k, tokens)["params"])(each),
        }

    def residuals(params, x, t, cond, control, scale=1.0):
        embed, block = sized(x)

        def see(x):
            return embed.apply({"params": params["embed"]}, x, t, t, cond["features"])

        (tokens, side), (wanted, _) = see(x), see(control)

        def step(tokens, layer):
            p, out = layer
            tokens, _ = block.apply({"params": p}, tokens, side["modulation"], side["text"], cond["mask"])
            return tokens, zero.apply({"params": out}, tokens) * scale

        first = tokens + zero.apply({"params": params["in"]}, wanted)
        return jax.lax.scan(step, first, (params["blocks"], params["out"]))[1]

    return ControlNet(init, residuals)
