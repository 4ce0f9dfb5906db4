"""The autoencoder of latent diffusion (2112.10752) with a distribution for a latent: Stable Diffusion's four channels, FLUX's sixteen.

    encoder   conv -> levels of residual blocks, halved between -> residual, attention, residual -> norm, SiLU, conv -> mean | log variance
    decoder   the same backwards, one more block a level, doubled between

Group norms with epsilon 1e-6; one head of softmax attention over all positions of the coarsest level. Levels differ in width, so layers
are not stacked: parameters are plain nested names. Sides that halve unevenly lose their last row or column.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from anystep.nets.attention import attend
from anystep.nets.autoencoder import ACTIVATIONS, conv, double, join


class Options(NamedTuple):
    """widths from fine to coarse, each divisible by groups."""

    widths: tuple[int, ...] = (128, 256, 512, 512)
    depth: int = 2  # residual blocks a level of the encoder
    colours: int = 3
    out_colours: int = 3
    channels: int = 4
    groups: int = 32
    activation: str = "silu"
    attention: bool = True
    quant: bool = True  # a 1x1 convolution behind the encoder
    post_quant: bool = True  # and one before the decoder
    scale: float = 0.18215
    shift: float = 0.0
    sample_size: int | tuple[int, int] = 32  # this and the next: advice on tiles and precision for the peer's code, kept for the way back
    force_upcast: bool = True
    dtype: str = "float32"


def norm(o, name):
    """Two passes for the variance: the difference of squares loses half the digits where the mean is large."""
    return nn.GroupNorm(o.groups, epsilon=1e-6, use_fast_variance=False, dtype=jnp.dtype(o.dtype), name=name)


class Residual(nn.Module):
    o: Options
    width: int

    @nn.compact
    def __call__(self, x):
        dtype, activation = jnp.dtype(self.o.dtype), ACTIVATIONS[self.o.activation]
        y = conv(self.width, "conv1", dtype)(activation(norm(self.o, "norm1")(x)))
        y = conv(self.width, "conv2", dtype)(activation(norm(self.o, "norm2")(y)))
        if x.shape[-1] != self.width:
            x = nn.Dense(self.width, dtype=dtype, name="shortcut")(x)
        return x + y


class SelfAttention(nn.Module):
    """One head as wide as the picture's channels."""

    o: Options

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        dtype = jnp.dtype(self.o.dtype)
        y = norm(self.o, "norm")(x)
        q, k, v = (nn.Dense(c, dtype=dtype, name=name)(y).reshape(b, h * w, 1, c) for name in "qkv")
        return x + nn.Dense(c, dtype=dtype, name="out")(attend(q, k, v)[0].reshape(b, h, w, c))


class Middle(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x):
        x = Residual(self.o, x.shape[-1], name="block_0")(x)
        if self.o.attention:
            x = SelfAttention(self.o, name="attention")(x)
        return Residual(self.o, x.shape[-1], name="block_1")(x)


class Level(nn.Module):
    """`depth` residual blocks, then half or twice the resolution, or neither."""

    o: Options
    width: int
    depth: int
    then: str

    @nn.compact
    def __call__(self, x):
        dtype = jnp.dtype(self.o.dtype)
        for i in range(self.depth):
            x = Residual(self.o, self.width, name=f"block_{i}")(x)
        if self.then == "half":
            return conv(self.width, "down", dtype, stride=2, padding=((0, 1), (0, 1)))(x)
        return conv(self.width, "up", dtype)(double(x)) if self.then == "double" else x


class Encoder(nn.Module):
    """[B, H, W, colours] -> [B, H / factor, W / factor, 2 channels] float32: mean and log variance."""

    o: Options

    @nn.compact
    def __call__(self, x):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        x = conv(o.widths[0], "conv_in", dtype)(x.astype(dtype))
        for i, width in enumerate(o.widths):
            x = Level(o, width, o.depth, "half" if i + 1 < len(o.widths) else "stay", name=f"level_{i}")(x)
        x = nn.silu(norm(o, "norm_out")(Middle(o, name="middle")(x)))
        x = conv(2 * o.channels, "conv_out", dtype)(x)
        return (nn.Dense(2 * o.channels, dtype=dtype, name="quant")(x) if o.quant else x).astype(jnp.float32)


class Decoder(nn.Module):
    """[B, h, w, channels] -> [B, factor h, factor w, out_colours] float32. level_0 is the coarsest."""

    o: Options

    @nn.compact
    def __call__(self, z):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        z = nn.Dense(o.channels, dtype=dtype, name="post_quant")(z.astype(dtype)) if o.post_quant else z.astype(dtype)
        x = Middle(o, name="middle")(conv(o.widths[-1], "conv_in", dtype)(z))
        for i, width in enumerate(reversed(o.widths)):
            x = Level(o, width, o.depth + 1, "double" if i + 1 < len(o.widths) else "stay", name=f"level_{i}")(x)
        x = nn.silu(norm(o, "norm_out")(x))
        return conv(o.out_colours, "conv_out", dtype)(x).astype(jnp.float32)


def spread(moments):
    """Standard deviation of what the encoder answers with, the log variance held in [-30, 20]."""
    return jnp.exp(0.5 * jnp.clip(jnp.split(moments, 2, axis=-1)[1], -30.0, 20.0))


def build(o: Options):
    """The Codec of these options; it has `moments`."""
    encoder = Encoder(o)

    def moments(params, x):
        found = encoder.apply({"params": params["encoder"]}, x)
        return (found[..., : o.channels] - o.shift) * o.scale, spread(found) * o.scale

    return join(encoder, Decoder(o), o.colours, 2 ** (len(o.widths) - 1), o.channels, o.scale, o.shift)._replace(moments=moments)
