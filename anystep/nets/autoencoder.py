"""Autoencoders: how an encoder and a decoder become a Codec, what `dcae` and `kl` share, and tiles for pictures too large to pass at once.

    z = (encoder(x) - shift) * scale            x = decoder(z / scale + shift)

Not here: distributions (`kl`).
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anystep.types import Codec

ACTIVATIONS = {
    "silu": nn.silu,
    "swish": nn.silu,
    "relu": nn.relu,
    "gelu": partial(nn.gelu, approximate=False),
    "mish": jax.nn.mish,
}


def conv(features, name, dtype, stride=1, padding=1, bias=True):
    """3x3, padded by `padding` on every side or as the pairs for rows and columns say."""
    return nn.Conv(features, (3, 3), stride, padding=padding, use_bias=bias, dtype=dtype, name=name)


def double(x):
    """Nearest neighbour, [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def join(encoder, decoder, colours, factor, channels, scale=1.0, shift=0.0) -> Codec:
    """A Codec of two linen modules. The encoder may answer with more than `channels` channels; the first are the latent."""

    def init(key):
        first, second = jax.random.split(key)
        x, z = jnp.zeros((1, factor, factor, colours)), jnp.zeros((1, 1, 1, channels))
        return {"encoder": encoder.init(first, x)["params"], "decoder": decoder.init(second, z)["params"]}

    def encode(params, x):
        return (encoder.apply({"params": params["encoder"]}, x)[..., :channels] - shift) * scale

    def decode(params, z):
        return decoder.apply({"params": params["decoder"]}, z.astype(jnp.float32) / scale + shift)

    return Codec(init, encode, decode, factor, channels, scale, shift)


WHOLE, SHARED = 1024, 256  # pixels a side up to which a picture is passed whole; of it that neighbouring tiles share


def in_memory(codec: Codec) -> Codec:
    """The same Codec, in tiles of 1024 pixels a side where a picture is larger: whole, one of 4096 takes 39 GB in SANA's decoder."""
    return tiled(codec, WHOLE // codec.factor, SHARED // codec.factor)


def tiled(codec: Codec, tile: int, overlap: int) -> Codec:
    """The same Codec with the memory of one tile, `tile` latent positions a side; neighbours share at least `overlap` and are mixed
    linearly there.

    What fits in one tile passes untouched. What is larger is not quite the same picture: a tile sees nothing beyond its edge, and norms
    and attention that look at the whole picture look at the tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiled: overlap = {overlap}, allowed are 0 to {tile - 1}, less than the tile")

    def over(function, into, out):
        return lambda params, x: in_tiles(partial(function, params), x, tile, overlap, into, out)

    f = codec.factor
    return codec._replace(
        encode=over(codec.encode, f, 1),
        decode=over(codec.decode, 1, f),
        moments=codec.moments and over(codec.moments, f, 1),
    )


def in_tiles(function, x, tile, overlap, into, out):
    """function(x) from tiles. x [B, into h, into w, C] -> arrays [B, out h, out w, D], for h and w counted in latent positions."""
    if max(x.shape[1:3]) <= tile * into:
        return function(x)
    if x.shape[1] % into or x.shape[2] % into:
        raise ValueError(f"tiled: a picture of {x.shape[1]} x {x.shape[2]}, its sides must be multiples of {into}")
    h, w = x.shape[1] // into, x.shape[2] // into
    (tops, rows), (lefts, columns) = shares(h, tile, overlap, out), shares(w, tile, overlap, out)
    size = (x.shape[0], min(h, tile) * into, min(w, tile) * into, x.shape[3])
    one = jax.eval_shape(function, jax.ShapeDtypeStruct(size, x.dtype))
    whole = jax.tree.map(lambda y: jnp.zeros((y.shape[0], h * out, w * out, y.shape[3]), y.dtype), one)

    def add(whole, where):
        top, left, row, column = where
        piece = function(jax.lax.dynamic_slice(x, (0, top * into, left * into, 0), size))
        share = row[None, :, None, None] * column[None, None, :, None]

        def place(whole, piece):
            corner = (0, top * out, left * out, 0)
            there = jax.lax.dynamic_slice(whole, corner, piece.shape)
            return jax.lax.dynamic_update_slice(whole, there + share * piece, corner)

        return jax.tree.map(place, whole, piece), None

    i, j = (a.reshape(-1) for a in np.meshgrid(np.arange(len(tops)), np.arange(len(lefts)), indexing="ij"))
    return jax.lax.scan(add, whole, (tops[i], lefts[j], rows[i], columns[j]))[0]


def shares(length, tile, overlap, out):
    """Tiles along one axis of `length` latent positions: where each starts, [K], and its share of each of its `out` times as many
    outputs, [K, tile out].

    Trapezoids, rising over the overlap on the side of a neighbour, divided by their sum. The last tile ends with the axis.
    """
    tile = min(tile, length)
    starts = np.minimum(np.arange(0, max(length - overlap, 1), tile - overlap), length - tile)
    at = (np.arange(tile * out) + 0.5) / out
    rise, ramp = max(overlap, 1 / out), np.ones((len(starts), tile * out))
    ramp[1:] = np.minimum(ramp[1:], at / rise)
    ramp[:-1] = np.minimum(ramp[:-1], (tile - at) / rise)
    total = np.zeros(length * out)
    for start, share in zip(starts, ramp, strict=True):
        total[start * out : (start + tile) * out] += share
    each = [share / total[start * out : (start + tile) * out] for start, share in zip(starts, ramp, strict=True)]
    return starts.astype(np.int32), np.stack(each).astype(np.float32)
