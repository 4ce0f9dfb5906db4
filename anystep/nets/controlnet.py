"""A ControlNet beside a SANA trunk (diffusers' SanaControlNetModel): a copy of its first blocks that also sees a picture of what is wanted
and answers with residuals.

    tokens = patches(x) + in(patches(picture));   residual_k = out_k(tokens after block k) * scale,   added after the trunk's block k + 1

Both `in` and `out_k` start at zero: at first the trunk answers as if alone. NVlabs' own code starts its copies from the trunk's tokens
after block 0; diffusers' order, above, is that of the folders that people have. The copy sees all that the trunk's embedding sees: a second
time and the guidance scale, too, where the trunk knows them.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from anystep.arrays import expand
from anystep.nets.sana import Block, Embed, Options
from anystep.path import compose
from anystep.types import Model


class ControlNet(NamedTuple):
    init: Callable  # key -> params
    residuals: Callable  # (params, x, t, s, cond, picture, scale) -> [K, B, N, D], what a trunk takes as cond["control"]


def build(options: Options, text_width: int, constrain=lambda x: x) -> ControlNet:
    """`options` as the trunk's, with depth = the number of residuals; x and picture [B, H, W, C], t and s [B] in flow time."""
    o = options
    zero = nn.Dense(o.width, kernel_init=nn.initializers.zeros)

    def sized(x):
        here = o._replace(shape=x.shape[1:])
        return Embed(here), Block(here)

    def init(key):
        keys = jax.random.split(key, 3)
        x, t, text = jnp.zeros((1, *o.shape)), jnp.zeros((1,)), jnp.zeros((1, 1, text_width))
        embed, block = sized(x)
        (tokens, side), variables = embed.init_with_output(keys[0], x, t, t, text, t if o.guidance else None)

        def layer(k):
            return block.init(k, tokens, side["modulation"], side["text"], jnp.ones((1, 1), bool))["params"]

        each = jax.random.split(keys[1], o.depth)
        return {
            "embed": variables["params"],
            "blocks": jax.vmap(layer)(each),
            "in": zero.init(keys[2], tokens)["params"],
            "out": jax.vmap(lambda k: zero.init(k, tokens)["params"])(each),
        }

    def residuals(params, x, t, s, cond, picture, scale=1.0):
        embed, block = sized(x)

        def see(x):
            said = cond["guidance"] if o.guidance else None
            return embed.apply({"params": params["embed"]}, x, t, s, cond["features"], said)

        (tokens, side), (wanted, _) = see(x), see(picture)
        scale = expand(jnp.asarray(scale, jnp.float32), tokens)

        def step(tokens, layer):
            p, out = layer
            tokens, _ = block.apply({"params": p}, tokens, side["modulation"], side["text"], cond["mask"])
            tokens = constrain(tokens)
            return tokens, zero.apply({"params": out}, tokens) * scale

        first = constrain(tokens + zero.apply({"params": params["in"]}, wanted))
        walk = jax.checkpoint(step) if o.remat else step
        return jax.lax.scan(walk, first, (params["blocks"], params["out"]), unroll=not o.scan)[1]

    return ControlNet(init, residuals)


def copied(trunk, count):
    """Weights that begin beside those of a `trunk`: copies of its embedding and of its first `count` blocks, and nothing said."""
    width = trunk["embed"]["patches"]["kernel"].shape[-1]

    def silent(*stack):
        return {"kernel": jnp.zeros((*stack, width, width)), "bias": jnp.zeros((*stack, width))}

    embed, blocks = jax.tree.map(jnp.copy, trunk["embed"]), jax.tree.map(lambda p: jnp.copy(p[:count]), trunk["blocks"])
    return {"embed": embed, "blocks": blocks, "in": silent(), "out": silent(count)}


def controlled(trunk: Model, net: ControlNet, count: int, frozen=False) -> Model:
    """The trunk and a ControlNet of `count` residuals as one Model, params {"trunk", "control"}: see `Model.controls`. frozen: no gradient
    reaches the trunk's weights; the optimizer must leave them alone, too."""

    def init(key):
        params = trunk.init(key)
        return {"trunk": params, "control": copied(params, count)}

    def held(params):
        return jax.lax.stop_gradient(params["trunk"]) if frozen else params["trunk"]

    def embed(params, x, t, s, cond):
        if "picture" in cond:
            unit = 1.0 / trunk.path.t_noise  # as the trunk's own clock
            asked = cond["picture"], cond.get("control_scale", 1.0)
            cond = cond | {"control": net.residuals(params["control"], x, t * unit, s * unit, cond, *asked)}
        return trunk.embed(held(params), x, t, s, cond)

    def blocks(params, h, lo, hi, capture=None):
        return trunk.blocks(held(params), h, lo, hi, capture)

    def head(params, h):
        return trunk.head(held(params), h)

    return compose(trunk._replace(init=init, embed=embed, blocks=blocks, head=head, controls=True))
