"""Where each of our leaves comes from in somebody else's checkpoint: one way to write a name map, read in both directions.

    {"embed/patches/kernel": one("patch_embed.proj.weight", patch(2)),
     "blocks/cross/q/kernel": layers("transformer_blocks.{}.attn2.to_q.weight", 28, DENSE)}

A layout moves numbers and computes none, so that there and back is the same bits. Not here: which peers there are (`peers`), files
(`tensors`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """The same numbers in torch's order and in ours."""

    ours: Callable  # peer's array -> ours
    peers: Callable  # and back


class Source(NamedTuple):
    """The tensors a leaf is made of; `stacked`: layers, on a new first axis."""

    names: tuple[str, ...]
    layout: Layout
    stacked: bool = False


SAME = Layout(lambda a: a, lambda a: a)
DENSE = Layout(np.transpose, np.transpose)  # [out, in] -> [in, out]
CONV = Layout(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))  # OIHW -> HWIO, depthwise ones too
POINT = Layout(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])  # a 1x1 convolution that is a dense layer here
DEPTHWISE = Layout(lambda a: a.reshape(len(a), 9).T, lambda a: a.T.reshape(-1, 1, 3, 3))  # [C, 1, 3, 3] -> [9, C]
COUNT = Layout(lambda a: np.asarray(a, np.float32), lambda a: np.asarray(a, np.int64))  # batches that a norm has seen: exact below 2^24


def patch(size):
    """A convolution with stride = kernel = `size` as a dense layer over patches: [O, C, p, p] -> [p p C, O]."""
    return Layout(
        lambda a: a.transpose(2, 3, 1, 0).reshape(-1, len(a)),
        lambda a: a.reshape(size, size, -1, a.shape[-1]).transpose(3, 2, 0, 1),
    )


def one(name, layout=SAME):
    return Source((name,), layout)


def layers(template, count, layout=SAME):
    """`template` with "{}" for the number of the layer."""
    return Source(tuple(template.format(i) for i in range(count)), layout, stacked=True)


def linear(ours, peers, bias=True, layout=DENSE, count=None):
    """The {ours/kernel: ..., ours/bias: ...} of a dense layer or convolution; `count` layers where the peer's name has a "{}"."""
    found = {"kernel": (f"{peers}.weight", layout)} | ({"bias": (f"{peers}.bias", SAME)} if bias else {})
    return {f"{ours}/{leaf}": one(name, how) if count is None else layers(name, count, how) for leaf, (name, how) in found.items()}


def to_ours(source, read):
    """Our array of a Source; `read(name)` gives the peer's."""
    if not source.stacked:
        return np.asarray(source.layout.ours(read(source.names[0])), order="C")
    first = source.layout.ours(read(source.names[0]))
    out = np.empty((len(source.names), *first.shape), first.dtype)
    for layer, name in enumerate(source.names):
        out[layer] = source.layout.ours(read(name))
    return out


def to_shard(source, read, index):
    """to_ours(source, read)[index], `index` a tuple of slices, with one tensor of the peer's and the shard itself in memory."""
    if not source.stacked:
        return source.layout.ours(read(source.names[0]))[index].copy()
    return np.stack([source.layout.ours(read(name))[index[1:]] for name in source.names[index[0]]])


def to_peers(source, array, move=True):
    """(name, peer's array) of each tensor that our array holds; without `move` only views, for their shapes."""
    for layer, name in enumerate(source.names):
        turned = source.layout.peers(array[layer] if source.stacked else array)
        yield name, np.asarray(turned, order="C") if move else turned
