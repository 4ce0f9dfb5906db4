"""From a network's cross-attention to what a classifier reads: maps of the asked tokens alone, one a layer and head, on one small grid.

The network runs no further than the last layer that is read. As published, a map is resized to 16 x 16 (bilinear, no antialiasing) and then
divided by its sum; FLUX schnell at 256 pixels, whose own grid that is, does neither.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from anystep.errors import UserError
from anystep.types import Capture, Model


class Lens(NamedTuple):
    """layers: of the network's cross-attention, counted as its Capture does, increasing; heads: of each layer, () for all."""

    layers: tuple[int, ...]
    heads: tuple[int, ...] = ()
    side: int = 16
    renormalise: bool = True


def gather(maps, sample, lens: Lens):
    """[layers, B, heads, objects, tokens], or a tuple over layers, of a sample [H, W, ...] -> [B, objects, layers * heads, side, side]."""
    out = []
    for found in maps:
        b, heads, objects, count = found.shape
        rows, columns = grid_of(count, *sample[:2])
        if max(lens.heads, default=0) >= heads:  # an index beyond the end would be taken for the last one
            raise UserError(f"heads: {list(lens.heads)}, a layer that is read has 0 to {heads - 1}")
        y = found.reshape(b, heads, objects, rows, columns)
        y = y[:, jnp.array(lens.heads)] if lens.heads else y
        if (rows, columns) != (lens.side, lens.side):
            y = jax.image.resize(y, (*y.shape[:3], lens.side, lens.side), "linear", antialias=False)
        if lens.renormalise:
            y = y / (jnp.sum(y, axis=(-2, -1), keepdims=True) + 1e-8)
        out.append(y.swapaxes(1, 2))
    return jnp.concatenate(out, axis=2)


def grid_of(count, height, width):
    """(rows, columns) of `count` tokens of a height x width sample: sides divided by one whole number, rounded up."""
    for patch in range(1, max(height, width) + 1):
        rows, columns = -(-height // patch), -(-width // patch)
        if rows * columns == count:
            return rows, columns
    raise ValueError(f"{count} tokens are no grid of {height} x {width}")


def reach(net: Model, params, h, capture: Capture) -> int:
    """The smallest number of blocks after which every layer of `capture` has handed out its maps; nothing is run."""

    def found(blocks):
        aux = jax.eval_shape(lambda params, h: net.blocks(params, h, 0, blocks, capture)[1], params, h)
        return len(aux.get("maps", ()))

    low, high = 0, net.depth
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) == len(capture.layers) else (middle, high)
    return high


def look(net: Model, params, x, t, s, cond, tokens, lens: Lens):
    """(maps [B, objects, C, side, side] of tokens [B, objects, text], h after so many blocks, how many)."""
    capture = Capture(lens.layers, tokens)
    h = net.embed(params, x, t, s, cond)
    blocks = reach(net, params, h, capture)
    h, aux = net.blocks(params, h, 0, blocks, capture)
    return gather(aux["maps"], x.shape[1:], lens), h, blocks


def lens_of(net: Model, kind, layers=None, heads=(), side=None) -> Lens:
    """What a classifier of a kind reads where nothing else is said: "light" the first half of the layers on a grid of 8, else all of 16."""
    there = net.maps
    layers = tuple(range(-(-there // 2) if kind == "light" else there)) if layers is None else tuple(sorted(layers))
    if len(set(layers)) < len(layers) or not set(layers) <= set(range(there)):
        raise UserError(f"--layers {list(layers)}: allowed are different ones of 0 to {there - 1}")
    if len(set(heads)) < len(heads):
        raise UserError(f"--heads {list(heads)}: one is named twice")
    return Lens(layers, tuple(heads), side or (8 if kind == "light" else 16))


def channels_of(model, lens: Lens) -> int:
    """C of `look` in a model with net, text and drawing, from shapes alone. UserError for heads that are not there."""
    key, tokens, net = jax.random.key(0), model.text.tokenize([""]), model.net
    cond = jax.eval_shape(lambda: model.text.encode(model.text.init(key), tokens))
    if model.drawing.told:
        cond = cond | {"guidance": jax.ShapeDtypeStruct((1,), jnp.float32)}

    def seen(params, cond):
        rows, length = cond["features"].shape[:2]
        x, t = jnp.zeros((rows, *net.shape)), jnp.ones(rows)
        return look(net, params, x, t, t, cond, jnp.zeros((rows, 2, length)), lens)[0]

    return jax.eval_shape(seen, jax.eval_shape(net.init, key), cond).shape[2]
