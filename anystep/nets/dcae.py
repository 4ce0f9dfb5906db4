"""DC-AE, the deep compression autoencoder of SANA (2410.10733): 32 pixels a side in one latent position, no distribution.

    encoder   conv -> stages of blocks, a Down between them -> conv + shortcut
    decoder   conv + shortcut -> stages of blocks, an Up before each -> norm, activation, conv
    block     residual convolutions, or multi-scale linear attention and a gated depthwise convolution (EfficientViT, 2205.14756)

Every change of size or width has a shortcut without parameters: channels folded from and into space, averaged in groups or repeated.
Stages differ in width, so layers are not stacked: parameters are plain nested names. Statistics of a batch norm are leaves and stay.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from anystep.arrays import channels
from anystep.nets.attention import attend
from anystep.nets.autoencoder import ACTIVATIONS, conv, double, join
from anystep.nets.blocks import DepthwiseConv3x3

EPSILON = 1e-5


class Stage(NamedTuple):
    """`depth` blocks of one resolution. scales: odd kernel sizes of the coarser copies of q, k, v."""

    block: str  # "residual" | "attention"
    width: int
    depth: int
    scales: tuple[int, ...] = ()
    norm: str = "rms_norm"  # | "batch_norm"
    activation: str = "silu"  # a key of ACTIVATIONS; of residual blocks


class Options(NamedTuple):
    """Stages from fine to coarse in both; a first stage without blocks is skipped and its resampling done by the first or last
    convolution."""

    encoder: tuple[Stage, ...]
    decoder: tuple[Stage, ...]
    colours: int = 3
    channels: int = 32
    head_dim: int = 32
    down: str = "conv"  # | "pixel_unshuffle"
    up: str = "interpolate"  # | "pixel_shuffle"
    out_shortcut: bool = True
    in_shortcut: bool = True
    out_activation: str = "relu"
    scale: float = 1.0
    dtype: str = "float32"


class RmsNorm(nn.Module):
    """Over channels, with scale and bias, computed in float32."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + EPSILON)
        return (y * channels(scale, y) + channels(bias, y)).astype(self.dtype)


class BatchNorm(nn.Module):
    """A batch norm that only remembers: its statistics are leaves. `count` (batches seen) is carried for the peer and not used."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale, bias = self.param("scale", ones, x.shape[-1:]), self.param("bias", zeros, x.shape[-1:])
        mean, var = self.param("mean", zeros, x.shape[-1:]), self.param("var", ones, x.shape[-1:])
        self.param("count", zeros, ())
        y = x.astype(jnp.float32)
        slope = scale * jax.lax.rsqrt(var + EPSILON)
        return ((y - channels(mean, y)) * channels(slope, y) + channels(bias, y)).astype(self.dtype)


NORMS = {"rms_norm": RmsNorm, "batch_norm": BatchNorm}


class Residual(nn.Module):
    stage: Stage
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        y = ACTIVATIONS[self.stage.activation](conv(x.shape[-1], "conv1", self.dtype)(x))
        y = conv(x.shape[-1], "conv2", self.dtype, bias=False)(y)
        return x + NORMS[self.stage.norm](self.dtype, name="norm")(y)


class Coarser(nn.Module):
    """q, k, v gathered over a size x size window: depthwise, then a 1x1 convolution within each d channels. Kernels lie as a
    convolution's, [k, k, 1, C] and [1, 1, d, C]; a product of shifts and an einsum, because grouped convolutions are slow."""

    size: int
    head_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        (b, h, w, c), k, d = x.shape, self.size, self.head_dim
        depth = self.param("depth", nn.initializers.normal(1 / k), (k, k, 1, c)).astype(self.dtype)
        mix = self.param("mix", nn.initializers.normal(d**-0.5), (1, 1, d, c)).astype(self.dtype)
        padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
        y = sum(padded[:, i : i + h, j : j + w] * depth[i, j][None, None] for i in range(k) for j in range(k))
        y = jnp.einsum("bhwgi,igo->bhwgo", y.reshape(b, h, w, c // d, d), mix.reshape(d, c // d, d))
        return y.reshape(b, h, w, c)


class MultiScaleAttention(nn.Module):
    """ReLU-linear attention over q, k, v and their coarser copies, each copy with heads of its own.

    The trap: q | k | v are concatenated over all heads and only then cut into heads of 3 d channels, so what is called q below is a query
    in some heads, a key or a value in others. The released code takes the quadratic form for at most d tokens: the same sums in another
    order, so here there is one form.
    """

    stage: Stage
    head_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        b, h, w, width = x.shape
        d = self.head_dim
        inner = width // d * d
        y = jnp.concatenate([nn.Dense(inner, use_bias=False, dtype=self.dtype, name=name)(x) for name in "qkv"], axis=-1)
        copies = [Coarser(size, d, self.dtype, name=f"scale_{i}")(y) for i, size in enumerate(self.stage.scales)]
        y = jnp.concatenate([y, *copies], axis=-1).reshape(b, h * w, -1, 3 * d)
        y, _ = attend(*jnp.split(y, 3, axis=-1), "linear")
        y = nn.Dense(width, use_bias=False, dtype=self.dtype, name="out")(y.reshape(b, h, w, -1))
        return x + NORMS[self.stage.norm](self.dtype, name="norm")(y)


class Gated(nn.Module):
    """SANA's gated convolution with expansion 4, an RMS norm and a shortcut."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        y = nn.silu(nn.Dense(8 * x.shape[-1], dtype=self.dtype, name="in")(x))
        value, gate = jnp.split(DepthwiseConv3x3(self.dtype, name="depth")(y), 2, axis=-1)
        y = nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="out")(value * nn.silu(gate))
        return x + RmsNorm(self.dtype, name="norm")(y)


class Down(nn.Module):
    """Half the resolution, `width` channels."""

    width: int
    how: str
    shortcut: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        if self.how == "conv":
            y = conv(self.width, "conv", self.dtype, stride=2)(x)
        else:
            y = unshuffle(conv(self.width // 4, "conv", self.dtype)(x))
        return y + averaged(unshuffle(x), self.width) if self.shortcut else y


class Up(nn.Module):
    """Twice the resolution, `width` channels."""

    width: int
    how: str
    shortcut: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        if self.how == "interpolate":
            y = conv(self.width, "conv", self.dtype)(double(x))
        else:
            y = shuffle(conv(4 * self.width, "conv", self.dtype)(x))
        return y + shuffle(repeated(x, 4 * self.width)) if self.shortcut else y


def unshuffle(x):
    """[B, 2 H, 2 W, C] -> [B, H, W, 4 C], the channel outermost and then row and column of the square, as torch's pixel_unshuffle."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, 4 * c)


def shuffle(x):
    """The inverse of `unshuffle`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // 4, 2, 2)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)


def averaged(x, width):
    """Neighbouring channels averaged down to `width`."""
    return jnp.mean(x.reshape(*x.shape[:3], width, x.shape[-1] // width), axis=-1)


def repeated(x, width):
    """Each channel repeated up to `width`."""
    return jnp.repeat(x, width // x.shape[-1], axis=-1)


class Blocks(nn.Module):
    """A stage: its blocks, an Up before them, or a Down to `after` channels behind them."""

    o: Options
    stage: Stage
    finer: bool = False
    after: int | None = None

    @nn.compact
    def __call__(self, x):
        o, stage, dtype = self.o, self.stage, jnp.dtype(self.o.dtype)
        if not stage.depth:
            return x
        if self.finer:
            x = Up(stage.width, o.up, True, dtype, name="up")(x)
        for i in range(stage.depth):
            if stage.block == "residual":
                x = Residual(stage, dtype, name=f"block_{i}")(x)
            else:
                x = MultiScaleAttention(stage, o.head_dim, dtype, name=f"attention_{i}")(x)
                x = Gated(dtype, name=f"gated_{i}")(x)
        return x if self.after is None else Down(self.after, o.down, True, dtype, name="down")(x)


class Encoder(nn.Module):
    """[B, H, W, colours] -> [B, H / factor, W / factor, channels] float32."""

    o: Options

    @nn.compact
    def __call__(self, x):
        o, stages, dtype = self.o, self.o.encoder, jnp.dtype(self.o.dtype)
        if stages[0].depth:
            x = conv(stages[0].width, "conv_in", dtype)(x.astype(dtype))
        else:
            x = Down(stages[1].width, o.down, False, dtype, name="conv_in")(x.astype(dtype))
        for i, stage in enumerate(stages):
            after = stages[i + 1].width if i + 1 < len(stages) else None
            x = Blocks(o, stage, after=after, name=f"stage_{i}")(x)
        y = conv(o.channels, "conv_out", dtype)(x)
        return (y + averaged(x, o.channels) if o.out_shortcut else y).astype(jnp.float32)


class Decoder(nn.Module):
    """The way back."""

    o: Options

    @nn.compact
    def __call__(self, z):
        o, stages, dtype = self.o, self.o.decoder, jnp.dtype(self.o.dtype)
        z = z.astype(dtype)
        x = conv(stages[-1].width, "conv_in", dtype)(z)
        x = x + repeated(z, stages[-1].width) if o.in_shortcut else x
        for i, stage in reversed(list(enumerate(stages))):
            x = Blocks(o, stage, finer=i + 1 < len(stages), name=f"stage_{i}")(x)
        x = ACTIVATIONS[o.out_activation](RmsNorm(dtype, name="norm_out")(x))
        if stages[0].depth:
            x = conv(o.colours, "conv_out", dtype)(x)
        else:
            x = Up(o.colours, o.up, False, dtype, name="conv_out")(x)
        return x.astype(jnp.float32)


def build(o: Options):
    """The Codec of these options."""
    return join(Encoder(o), Decoder(o), o.colours, 2 ** (len(o.encoder) - 1), o.channels, o.scale)
