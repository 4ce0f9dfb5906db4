"""Pieces that backbones share: time embeddings, modulation, position codes, feed-forwards, a depthwise convolution as shifted products."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def sinusoid(t, width, highest=1.0, span=1e4):
    """[B] -> [B, width]: [cos | sin] of t times width/2 frequencies, geometric from `highest` (rad per unit time) down to highest / span.

    A dense embedding: t lies in [0, 1] and the highest frequency stays low, because du/dt of a consistency loss goes through it
    (2410.11081, Sec. 4.1). highest = 1, span = 1e4 is SANA's own table.
    """
    half = width // 2
    exponents = -np.float32(np.log(span)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.float32(highest) * np.exp(exponents.astype(np.float64)).astype(
        np.float32
    )  # float32 as in peers; its last bit from no device
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """sinusoid -> Dense -> SiLU -> Dense, float32. `zero` starts the last layer at zero: a second time, or a guidance scale, that says
    nothing until it is trained. The first layer must not be zero, too, as it is in diffusers' SANA-Sprint script: then only the last bias
    has a gradient, and the embedding never comes to depend on its number."""

    width: int
    highest: float
    span: float = 1e4
    zero: bool = False

    @nn.compact
    def __call__(self, t):
        e = nn.Dense(self.width, name="in")(sinusoid(t, 256, self.highest, self.span))
        last = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        return nn.Dense(self.width, kernel_init=last, name="out")(nn.silu(e))


def modulate(x, shift, scale):
    """x [B, N, D] * (1 + scale) + shift, both [B, D]."""
    return x * (1.0 + scale[:, None, :]) + shift[:, None, :]


class LayerNorm(nn.Module):
    """Layer norm in float32, back to the input's dtype; `affine` gives it a scale and a bias."""

    epsilon: float = 1e-6
    affine: bool = False

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(epsilon=self.epsilon, use_bias=self.affine, use_scale=self.affine, name="norm")(x.astype(jnp.float32))
        return y.astype(x.dtype)


def sincos_positions(height, width, dim, span=16.0, columns_first=False):
    """[height * width, dim] fixed codes, half of them for the row and half for the column: places run from 0 to `span` whatever the grid's
    size. `columns_first` is diffusers' order (get_2d_sincos_pos_embed)."""

    def axis(n):
        frequencies = 1.0 / 10000.0 ** (np.arange(dim // 4) / (dim / 4.0))
        angles = (np.arange(n) * span / n)[:, None] * frequencies[None, :]
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

    rows = np.broadcast_to(axis(height)[:, None, :], (height, width, dim // 2))
    columns = np.broadcast_to(axis(width)[None, :, :], (height, width, dim // 2))
    halves = (columns, rows) if columns_first else (rows, columns)
    return np.concatenate(halves, axis=-1).reshape(height * width, dim).astype(np.float32)


def shifts(x):
    """The nine neighbours of every pixel, zero outside: list of [B, H, W, C] in row-major order of the 3x3 window."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


class DepthwiseConv3x3(nn.Module):
    """A depthwise 3x3 convolution as nine shifted multiplications (kernel [9, C]): XLA's CPU depthwise convolution is several times
    slower."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.normal(1.0 / 3.0), (9, channels)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).astype(self.dtype)
        return sum(neighbour * kernel[i][None, None, None] for i, neighbour in enumerate(shifts(x))) + bias[None, None, None]


class Mlp(nn.Module):
    """Dense -> GELU (tanh) -> Dense; hidden = ratio * width."""

    ratio: float = 4.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        y = nn.Dense(int(self.ratio * width), dtype=self.dtype, name="in")(x)
        return nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(jax.nn.gelu(y, approximate=True))


class GatedConv(nn.Module):
    """SANA's Mix-FFN (GLUMBConv): 1x1 to 2 r D, SiLU, depthwise 3x3, gate by SiLU, 1x1 back without a bias. x is [B, N, D] on a `grid`
    (H, W)."""

    grid: tuple[int, int]
    ratio: float = 2.5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        batch, tokens, width = x.shape
        y = nn.silu(nn.Dense(2 * int(self.ratio * width), dtype=self.dtype, name="in")(x))
        y = DepthwiseConv3x3(self.dtype, name="depth")(y.reshape(batch, *self.grid, y.shape[-1]))
        value, gate = jnp.split(y.reshape(batch, tokens, y.shape[-1]), 2, axis=-1)
        return nn.Dense(width, use_bias=False, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(value * nn.silu(gate))
