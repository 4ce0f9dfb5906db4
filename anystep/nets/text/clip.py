"""CLIP's text encoder in transformers' layout (2103.00020): CLIP-L of SD 1 and FLUX, OpenCLIP-H of SD 2, the two of SDXL.

    x += attention(LN x) with a causal mask;  x += act(LN x W_in) W_out;  features = LN x, pooled = features at the first end of text

Parameters are {"embed", "blocks", "head"}; every leaf of "blocks" has the layer axis first.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from anystep.nets.text.layers import FeedForward, SelfAttention, causal, init_layers, layer_norm, walk
from anystep.nets.text.pretrained import role

LAYERS = ("last", "penultimate", "penultimate_normed")
HIGHEST = 2  # old configs say that the end of text is 2, which it never was: they mean the highest id


class Options(NamedTuple):
    """The defaults are CLIP-L's: 123,060,480 parameters. `projection` 0: none. `layer`: which states are the features, as they leave the
    last layer and the final norm, as they leave the last but one (SDXL), or these through the final norm ("clip skip" 1)."""

    vocabulary: int = 49408
    positions: int = 77
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    act: str = "quick_gelu"
    epsilon: float = 1e-5
    end: int = HIGHEST
    projection: int = 0
    layer: str = "last"
    dtype: str = "float32"


class Embed(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, ids):
        o, small = self.o, nn.initializers.normal(0.02)
        words = nn.Embed(o.vocabulary, o.width, embedding_init=small, dtype=jnp.dtype(o.dtype), name="words")(ids)
        places = self.param("positions", small, (o.positions, o.width)).astype(words.dtype)
        return words + places[None, : ids.shape[1]]


class Block(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x, mask):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        y = layer_norm(o.epsilon, dtype, name="norm1")(x)
        x = x + SelfAttention(o.heads, o.width // o.heads, o.heads, True, dtype, name="attention")(y, mask)
        return x + FeedForward(o.hidden, o.act, dtype=dtype, name="mlp")(layer_norm(o.epsilon, dtype, name="norm2")(x))


class Head(nn.Module):
    """States [B, L, D] of the last layer and of the wanted one, place [B] of the end of text -> features, pooled."""

    o: Options

    @nn.compact
    def __call__(self, x, wanted, place):
        o, norm = self.o, layer_norm(self.o.epsilon, name="norm")
        last = norm(x.astype(jnp.float32))
        wanted = wanted.astype(jnp.float32)
        features = {"last": last, "penultimate": wanted, "penultimate_normed": norm(wanted)}[o.layer]
        pooled = jnp.take_along_axis(last, place[:, None, None], axis=1)[:, 0]
        if o.projection:
            pooled = nn.Dense(o.projection, use_bias=False, name="projection")(pooled)
        return features, pooled


def init(options: Options):
    """key -> params."""
    o = options

    def of_key(key):
        k_embed, k_block, k_head = jax.random.split(key, 3)
        x, embed = Embed(o).init_with_output(k_embed, jnp.zeros((1, 1), jnp.int32))
        blocks = init_layers(lambda k: Block(o).init(k, x, None)["params"], k_block, o.depth)
        head = Head(o).init(k_head, x, x, jnp.zeros(1, jnp.int32))["params"]
        return {"embed": embed["params"], "blocks": blocks, "head": head}

    return of_key


def encode(options: Options, params, ids, mask=None, keep=False):
    """ids [B, L] -> ({"features" [B, L, D], "pooled" [B, P]}, what the layers gave [depth, B, L, D] if `keep`).

    mask [B, L] bool may hide tokens besides those that come later; the released pipelines hide none, padding is never looked at."""
    o = options
    sees = jnp.broadcast_to(causal(ids.shape[1])[None], (len(ids), ids.shape[1], ids.shape[1]))
    sees = sees if mask is None else sees & mask[:, None, :]
    upto = o.depth - (o.layer != "last")

    def run(x, layers):
        return walk(lambda x, p: Block(o).apply({"params": p}, x, sees), x, layers, keep)

    wanted, first = run(Embed(o).apply({"params": params["embed"]}, ids), jax.tree.map(lambda p: p[:upto], params["blocks"]))
    x, rest = run(wanted, jax.tree.map(lambda p: p[upto:], params["blocks"]))
    place = jnp.argmax(ids if o.end == HIGHEST else ids == o.end, axis=1)  # the first of them, where padding is of their kind
    features, pooled = Head(o).apply({"params": params["head"]}, x, wanted, place)
    return {"features": features, "pooled": pooled}, jnp.concatenate([first, rest]) if keep else None


def build(tokenizer, options: Options = Options(), length=77):  # noqa: B008  (a tuple of constants)
    """A Text role. The mask is all true: networks trained on CLIP read its padding."""

    def of_tokens(params, ids, mask):
        return encode(options, params, ids)[0] | {"mask": jnp.ones_like(mask)}

    return role(init(options), of_tokens, tokenizer, min(length, options.positions))
