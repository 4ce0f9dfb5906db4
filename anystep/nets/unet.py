"""The UNet of Stable Diffusion 1.x and 2.x (2112.10752, App. E): residual blocks and spatial transformers on a pyramid of resolutions.

    residual     x + conv(SiLU norm(conv(SiLU norm x) + Dense SiLU e))             group norms, 3x3 convolutions, e = MLP(sin step)
    transformer  x + out(block(in(norm x))),   block: y += attention(LN y);  y += cross(LN y, text);  y += GEGLU(LN y)
    down         layers of (residual, transformer), each output kept as a skip, then a convolution of stride 2
    up           one layer more, each on [y, last skip], then the nearest neighbour doubled and a convolution

Parameters are {"embed", "down_0", ..., "mid", "up_0", ..., "head"}: blocks differ in shape, so nothing is stacked and nothing scanned.
The network speaks steps of a variance-preserving diffusion, a Model flow time: `build` joins the two by `discrete`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anystep.nets.attention import Attention
from anystep.nets.discrete import BETAS, step_number, to_preserving, velocity_of
from anystep.path import LINEAR, compose
from anystep.types import Capture, Model


class Options(NamedTuple):
    """shape (H, W, C) of a sample; the rest by level, the finest first, also where the way up meets the coarsest first.

    A level has `heads` heads of width // heads channels; groups divides every width. `linear_projection` changes how a file writes the
    transformers' first and last layer, not what they compute. predicts: "epsilon" | "v_prediction" (most of SD 2.x), and betas
    (`discrete.flow_times`), as the checkpoint's scheduler says, not its network.
    """

    shape: tuple[int, int, int] = (64, 64, 4)
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    down: tuple[bool, ...] = (True, True, True, False)  # whether a level attends on the way down
    up: tuple[bool, ...] = (True, True, True, False)  # and on the way up
    layers: int = 2
    text_width: int = 768
    groups: int = 32
    epsilon: float = 1e-5
    linear_projection: bool = False
    predicts: str = "epsilon"
    betas: tuple[str, float, float] = BETAS
    remat: bool = False
    dtype: str = "float32"


class Embed(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x, step):
        width = self.o.widths[0]
        e = nn.Dense(4 * width, name="time_in")(clock(step, width))
        e = nn.Dense(4 * width, name="time_out")(nn.silu(e))
        return conv3x3(width, "conv", self.o.dtype)(x.astype(self.o.dtype)), e


class Residual(nn.Module):
    o: Options
    width: int

    @nn.compact
    def __call__(self, x, e):
        o, dtype = self.o, self.o.dtype
        y = conv3x3(self.width, "conv_in", dtype)(nn.silu(group_norm(o.groups, o.epsilon, "norm_in", dtype)(x)))
        y = y + nn.Dense(self.width, name="time")(nn.silu(e)).astype(dtype)[:, None, None, :]
        y = nn.silu(group_norm(o.groups, o.epsilon, "norm_out", dtype)(y))
        y = conv3x3(self.width, "conv_out", dtype, zero=True)(y)
        return y + (x if x.shape[-1] == self.width else nn.Dense(self.width, dtype=dtype, name="skip")(x))


class Transformer(nn.Module):
    """One transformer block on the pixels of x [B, H, W, C] -> (the same, maps [B, heads, objects, H W] or None). Where heads do not
    divide C, the block is heads * (C // heads) wide."""

    o: Options
    heads: int

    @nn.compact
    def __call__(self, x, text, mask=None, capture=None):
        dtype, (b, h, w, c) = self.o.dtype, x.shape
        inner = c // self.heads * self.heads
        y = nn.Dense(inner, dtype=dtype, name="project_in")(group_norm(self.o.groups, 1e-6, "norm", dtype)(x))
        y, maps = TransformerBlock(self.heads, dtype, name="block")(y.reshape(b, h * w, inner), text, mask, capture)
        y = nn.Dense(c, dtype=dtype, kernel_init=nn.initializers.zeros, name="project_out")(y.reshape(b, h, w, inner))
        return x + y, maps


class TransformerBlock(nn.Module):
    heads: int
    dtype: str

    @nn.compact
    def __call__(self, y, text, mask=None, capture=None):
        def norm(name):
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)

        def attention(name):
            return Attention(self.heads, qk_norm=False, dtype=jnp.dtype(self.dtype), name=name)

        y = y + attention("attention")(norm("norm_attention")(y))[0]
        found, maps = attention("cross")(norm("norm_cross")(y), text, mask, capture)
        y = y + found
        return y + GatedMlp(self.dtype, name="mlp")(norm("norm_mlp")(y)), maps


class GatedMlp(nn.Module):
    """GEGLU (2002.05202): (value * GELU(gate)) W, four times the width, the exact GELU."""

    dtype: str

    @nn.compact
    def __call__(self, y):
        width = y.shape[-1]
        value, gate = jnp.split(nn.Dense(8 * width, dtype=self.dtype, name="in")(y), 2, axis=-1)
        return nn.Dense(width, dtype=self.dtype, name="out")(value * jax.nn.gelu(gate, approximate=False))


class Down(nn.Module):
    """As every block: (y, skips, e, text, mask) -> (y, skips, maps of its transformers, None where `capture` does not ask)."""

    o: Options
    level: int

    @nn.compact
    def __call__(self, y, skips, e, text, mask=None, capture=None):
        o, level, maps = self.o, self.level, []
        for i in range(o.layers):
            y = Residual(o, o.widths[level], name=f"residual_{i}")(y, e)
            if o.down[level]:
                y, found = Transformer(o, o.heads[level], name=f"transformer_{i}")(y, text, mask, tokens(capture, i))
                maps.append(found)
            skips = (*skips, y)
        if level + 1 < len(o.widths):
            y = nn.Conv(o.widths[level], (3, 3), strides=2, padding=1, dtype=o.dtype, name="half")(y)
            skips = (*skips, y)
        return y, skips, maps


class Middle(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, y, skips, e, text, mask=None, capture=None):
        o = self.o
        y = Residual(o, o.widths[-1], name="residual_0")(y, e)
        y, found = Transformer(o, o.heads[-1], name="transformer_0")(y, text, mask, tokens(capture, 0))
        return Residual(o, o.widths[-1], name="residual_1")(y, e), skips, [found]


class Up(nn.Module):
    o: Options
    level: int

    @nn.compact
    def __call__(self, y, skips, e, text, mask=None, capture=None):
        o, level, maps = self.o, self.level, []
        for i in range(o.layers + 1):
            y, skips = jnp.concatenate([y, skips[-1]], axis=-1), skips[:-1]
            y = Residual(o, o.widths[level], name=f"residual_{i}")(y, e)
            if o.up[level]:
                y, found = Transformer(o, o.heads[level], name=f"transformer_{i}")(y, text, mask, tokens(capture, i))
                maps.append(found)
        if level:
            height, width = skips[-1].shape[1:3]  # one less than the double where an odd side was halved
            y = jnp.repeat(jnp.repeat(y, 2, axis=1), 2, axis=2)[:, :height, :width]
            y = conv3x3(o.widths[level], "double", o.dtype)(y)
        return y, skips, maps


class Head(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, y):
        y = nn.silu(group_norm(self.o.groups, self.o.epsilon, "norm", jnp.float32)(y))
        return conv3x3(self.o.shape[-1], "conv", jnp.float32, zero=True)(y)


def clock(step, width):
    """[B] -> [B, width]: [cos | sin] of the step times frequencies from 1 down to almost 1e-4, a zero behind them where the width is odd.

    `blocks.sinusoid`, but for who rounds: the frequencies are constants here, with the bits of a division in float32 that XLA would
    make a product. At step 999 their last bit is the fifth digit of the answer.
    """
    half = width // 2
    exponents = np.float32(-np.log(1e4)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = jnp.asarray(np.exp(exponents.astype(np.float64)), jnp.float32)
    angles = step.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.pad(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1), ((0, 0), (0, width % 2)))


def conv3x3(width, name, dtype, zero=False):
    """`zero`: the last one of a residual branch starts at zero, as released, so that a fresh branch is the identity."""
    kernel_init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(width, (3, 3), dtype=dtype, kernel_init=kernel_init, name=name)


def group_norm(groups, epsilon, name, dtype):
    """Statistics in float32, the variance as a mean of squared differences: E x^2 - (E x)^2 loses digits that peers keep."""
    return nn.GroupNorm(groups, epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def tokens(capture, layer):
    return capture.tokens if capture and layer in capture.layers else None


def blocks_of(o):
    """{name: module} in the order of execution: down from the finest level, the middle, up from the coarsest."""
    levels = range(len(o.widths))
    down = {f"down_{k}": Down(o, k) for k in levels}
    return down | {"mid": Middle(o)} | {f"up_{i}": Up(o, k) for i, k in enumerate(reversed(levels))}


def build(options: Options, shift=0.0, scale=1.0, constrain=lambda x: x) -> Model:
    """A Model on the linear path with one time only (s is not looked at); cond = {"features" [B, L, text_width], "mask" [B, L]}.

    Samples are [B, H, W, C] of any H and W (options.shape is what init and samplers draw). SD was trained with no mask: give ones.
    Blocks are `blocks_of`, 9 for four levels; the skips travel in h. Capture counts the cross-attention layers from 0 in the order of
    execution, over all blocks (SD: 6 down, 1 middle, 9 up); maps come back in that order, stacked [layers, B, heads, objects, pixels]
    if all have one shape, else as a tuple of [B, heads, objects, pixels], rows of pixels first; resizing is the asker's.
    `constrain` pins the sharding of pixels between blocks (the identity without a mesh).
    """
    o = options
    if o.predicts not in ("epsilon", "v_prediction"):
        raise ValueError(f"unet: predicts = {o.predicts!r}, allowed are 'epsilon' and 'v_prediction'")
    embed_net, nets, head_net = Embed(o), blocks_of(o), Head(o)
    names = tuple(nets)
    attends = [*(o.layers * a for a in o.down), 1, *((o.layers + 1) * a for a in reversed(o.up))]  # cross-attention layers of a block

    def init(key):
        keys = iter(jax.random.split(key, len(names) + 2))
        side = 2 ** (len(o.widths) - 1)
        (y, e), found = embed_net.init_with_output(next(keys), jnp.zeros((1, side, side, o.shape[-1])), jnp.zeros((1,)))
        params, skips, text = {"embed": found["params"]}, (y,), jnp.zeros((1, 1, o.text_width), o.dtype)
        for name in names:
            (y, skips, _), found = nets[name].init_with_output(next(keys), y, skips, e, text)
            params[name] = found["params"]
        return params | {"head": head_net.init(next(keys), y)["params"]}

    def embed(params, x, t, s, cond):
        y, e = embed_net.apply({"params": params["embed"]}, to_preserving(x, t), step_number(t, o.betas))
        text = cond["features"].astype(o.dtype)
        return {"y": constrain(y), "skips": (y,), "e": e, "text": text, "mask": cond["mask"], "x": x, "t": t}

    def blocks(params, h, lo, hi, capture=None):
        if capture and (len(set(capture.layers)) < len(capture.layers) or not set(capture.layers) <= set(range(sum(attends)))):
            raise ValueError(f"capture: layers {capture.layers}, allowed are different ones of 0 to {sum(attends) - 1}")
        y, skips, maps = h["y"], h["skips"], []
        for i in range(lo, hi):
            asked, first = None, sum(attends[:i])
            if capture and any(first <= layer < first + attends[i] for layer in capture.layers):
                asked = Capture(tuple(layer - first for layer in capture.layers), capture.tokens)

            def block(p, y, skips, name=names[i], asked=asked):
                return nets[name].apply({"params": p}, y, skips, h["e"], h["text"], h["mask"], asked)

            y, skips, found = (jax.checkpoint(block) if o.remat and not asked else block)(params[names[i]], y, skips)
            y, maps = constrain(y), [*maps, *(m for m in found if m is not None)]
        stacked = jnp.stack(maps) if len({m.shape for m in maps}) == 1 else tuple(maps)
        return {**h, "y": y, "skips": skips}, ({"maps": stacked} if maps else {})

    def head(params, h):
        return velocity_of(h["x"], head_net.apply({"params": params["head"]}, h["y"]), h["t"], o.predicts, o.betas)

    return compose(Model(LINEAR, "none", o.shape, init, None, embed, blocks, head, len(names), shift=shift, scale=scale, maps=sum(attends)))
