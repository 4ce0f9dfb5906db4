"""Low-rank additions to the kernels of a network's blocks (LoRA, 2106.09685), for any Model:

    kernel' = kernel + a b,    a [L, in, r] normal of variance 1 / in, b [L, r, out] zero:    at first nothing is added

The paper's factor alpha / r is 1 and no field: Adam's steps do not know it, and the learning rate says the same. The sum is made anew in
every pass and the trunk asked with it, so that jvp, capture and sharding are the trunk's own; a b costs rank / (tokens of the batch) of
what the kernel costs. What is spared is the optimizer's state: gradients of whole kernels exist for a moment, as in any training.

The last layers of the embeddings of guidance and of a second time begin at zero where a teacher has none: held there, they would never say
anything. So they get additions of their own size, from zero: kernel' = kernel + whole.
"""

import math

import jax
import jax.numpy as jnp

from anystep import tree
from anystep.path import compose
from anystep.types import Model

STACKS = ("blocks", "double", "single")  # where a leaf's first axis is the layer
WHOLE = ("embed/guidance/out/", "embed/second_time/out/")


def is_adapted(name: str, leaf) -> bool:
    """Dense kernels [L, in, out] of the blocks; not the taps [L, 9, C] of a depthwise convolution."""
    way = name.split("/")
    return not set(STACKS).isdisjoint(way) and way[-1] == "kernel" and "depth" not in way and len(leaf.shape) == 3


def adapted(trunk: Model, rank: int) -> Model:
    """The trunk with additions of this rank, params {"trunk", "low_rank"}; the trunk's own get no gradient, and the optimizer must leave
    them alone, too."""

    def init(key):
        params = trunk.init(key)
        leaves = tree.paths(params)
        added = {name: fresh(tree.fold(key, name), leaf.shape) for name, leaf in leaves.items() if is_adapted(name, leaf)}
        added |= {name: {"whole": jnp.zeros(leaf.shape)} for name, leaf in leaves.items() if name.startswith(WHOLE)}
        return {"trunk": params, "low_rank": tree.nest(added)}

    def fresh(key, shape):
        layers, inside, outside = shape
        a = jax.random.normal(key, (layers, inside, rank)) / math.sqrt(inside)
        return {"a": a, "b": jnp.zeros((layers, rank, outside))}

    def summed(params, *parts):
        added = {part: params["low_rank"][part] for part in parts if part in params["low_rank"]}
        return merged({"trunk": jax.lax.stop_gradient(params["trunk"]), "low_rank": added})

    def embed(params, x, t, s, cond):
        return trunk.embed(summed(params, "embed"), x, t, s, cond)

    def blocks(params, h, lo, hi, capture=None):
        return trunk.blocks(summed(params, *STACKS), h, lo, hi, capture)

    def head(params, h):
        return trunk.head(summed(params), h)

    return compose(trunk._replace(init=init, embed=embed, blocks=blocks, head=head))


def merged(params):
    """The trunk's params with the additions inside, in the dtype of the trunk."""
    added = tree.paths(params["low_rank"])

    def one(name, leaf):
        if f"{name}/whole" in added:
            return leaf + added[f"{name}/whole"].astype(leaf.dtype)
        if f"{name}/a" not in added:
            return leaf
        return leaf + jnp.matmul(added[f"{name}/a"], added[f"{name}/b"], precision="highest").astype(leaf.dtype)

    return tree.nest({name: one(name, leaf) for name, leaf in tree.paths(params["trunk"]).items()})
