"""Trees of arrays and named randomness: what every floor above needs from `jax.tree` and `jax.random`, and nothing about networks or time.

Randomness has names. A draw's key is

    fold_in(fold_in(fold_in(key, crc32(name)), step), index)         index = the sample's position in the stream

so nothing comes from a row, a process or a device, and adding a draw moves no other. Draws are made per sample and vmapped: sample 17 of
the stream gets the same noise in a batch of 4 or 4096, on one device or on many.

EMA: ema <- d ema + (1 - d) params with d = min(decay, (1 + step) / (10 + step)), the warm-up of `tf.train.ExponentialMovingAverage`.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np


def fold(key, name: str):
    """The key of the draw called `name`. crc32 is the same in every process, which Python's `hash` is not."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def sample_keys(key, name: str, step, index):
    """Keys [B] of the draw `name` at `step` (int scalar) for the samples at the stream positions `index` ([B] int)."""
    at_step = jax.random.fold_in(fold(key, name), step)
    return jax.vmap(lambda i: jax.random.fold_in(at_step, i))(index)


def normal(keys, shape=()):
    """Unit normal [B, *shape] float32, one independent draw per key of `keys` [B]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def uniform(keys, shape=()):
    """Uniform on [0, 1), [B, *shape] float32, one independent draw per key of `keys` [B]."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)


def ema_update(ema, params, decay: float, step):
    """The average after `params` of update number `step` (0 for the first) came in; leaves keep the dtype of `ema`."""
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: (old + (1.0 - decay) * (new - old)).astype(old.dtype), ema, params)


def count(tree) -> int:
    """Number of scalars in a tree of arrays or ShapeDtypeStructs."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def paths(tree) -> dict:
    """Flat name -> leaf, keys joined by "/": {"blocks": {"mlp": x}} -> {"blocks/mlp": x}. In the order of `jax.tree.leaves`."""
    named = [(jax.tree_util.keystr(way, simple=True, separator="/"), leaf) for way, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    flat = dict(named)
    if len(flat) != len(named):
        raise ValueError('two leaves have the same name once their keys are joined by "/"')
    return flat


def nest(flat: dict) -> dict:
    """Nested dicts from flat names, the inverse of `paths` for a tree of dicts. ValueError for a name below a leaf."""
    tree: dict = {}
    for name, leaf in flat.items():
        *way, last = name.split("/")
        node = tree
        for key in way:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name} lies below another leaf")
        if last in node:
            raise ValueError(f"{name} is a leaf and a branch")
        node[last] = leaf
    return tree


def crc32(tree) -> int:
    """Of the bytes of all leaves: whether two trees hold the same weights."""
    found = 0
    for leaf in jax.tree.leaves(tree):
        found = zlib.crc32(np.asarray(leaf).tobytes(), found)
    return found


def global_norm(tree):
    """Root of the sum of squares over all leaves, accumulated in float32 whatever the leaves are."""
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)), jnp.float32(0)))
