"""T5 v1.1's encoder (1910.10683, 2002.05202): T5-XXL of FLUX, SD3 and PixArt.

    x += attention(RMS x);  x += (gelu(x' W_gate) * x' W_in) W_out, x' = RMS x         no bias anywhere, logits not scaled

The only positions are a bias of the logits, one number a head for each bucket of the distance; all layers share one table.
Parameters are {"embed", "blocks", "head"}; every leaf of "blocks" has the layer axis first.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anystep.nets.text.layers import FeedForward, SelfAttention, init_layers, walk
from anystep.nets.text.pretrained import role


class Options(NamedTuple):
    """The defaults are T5-XXL's: 4,762,310,656 parameters."""

    vocabulary: int = 32128
    width: int = 4096
    depth: int = 24
    heads: int = 64
    head_width: int = 64
    hidden: int = 10240
    buckets: int = 32
    distance: int = 128
    act: str = "gelu_new"
    gated: bool = True
    epsilon: float = 1e-6
    dtype: str = "float32"


class Embed(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, ids):
        o = self.o
        x = nn.Embed(o.vocabulary, o.width, embedding_init=nn.initializers.normal(1.0), dtype=jnp.dtype(o.dtype), name="words")(ids)
        table = self.param("distances", nn.initializers.normal(o.width**-0.5), (o.buckets, o.heads))
        place = np.arange(ids.shape[1])
        return x, table[buckets(place[None, :] - place[:, None], o.buckets, o.distance)].transpose(2, 0, 1)[None]


class Block(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x, bias, mask):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        y = nn.RMSNorm(epsilon=o.epsilon, dtype=dtype, name="norm1")(x)
        x = x + SelfAttention(o.heads, o.head_width, o.heads, False, dtype, name="attention")(y, mask, bias=bias, scale=1.0)
        y = nn.RMSNorm(epsilon=o.epsilon, dtype=dtype, name="norm2")(x)
        return x + FeedForward(o.hidden, o.act, o.gated, False, dtype, name="mlp")(y)


class Head(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x):
        return nn.RMSNorm(epsilon=self.o.epsilon, name="norm")(x.astype(jnp.float32))


def buckets(ahead, count, distance):
    """Bucket of how far ahead a key lies (int array): half of them for keys behind, half for keys ahead; each half begins with a bucket a
    distance and ends with logarithmic ones up to `distance`, the last for all beyond (1910.10683, Sec. 2.1)."""
    half = count // 2
    exact = half // 2
    away = np.abs(ahead)
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(distance / exact))
    far = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int32), half - 1)
    return np.where(ahead > 0, half, 0) + np.where(away < exact, away, far)


def init(options: Options):
    """key -> params."""
    o = options

    def of_key(key):
        k_embed, k_block, k_head = jax.random.split(key, 3)
        (x, bias), embed = Embed(o).init_with_output(k_embed, jnp.zeros((1, 1), jnp.int32))
        blocks = init_layers(lambda k: Block(o).init(k, x, bias, None)["params"], k_block, o.depth)
        return {"embed": embed["params"], "blocks": blocks, "head": Head(o).init(k_head, x)["params"]}

    return of_key


def encode(options: Options, params, ids, mask=None, keep=False):
    """ids [B, L] and mask [B, L] bool (None: all are seen) -> ({"features"}, what the layers gave [depth, B, L, D] if `keep`)."""
    o = options
    x, bias = Embed(o).apply({"params": params["embed"]}, ids)
    x, states = walk(lambda x, p: Block(o).apply({"params": p}, x, bias, mask), x, params["blocks"], keep)
    return {"features": Head(o).apply({"params": params["head"]}, x)}, states


def build(tokenizer, options: Options = Options(), length=512, see_padding=False):  # noqa: B008  (a tuple of constants)
    """A Text role. `see_padding`: padding is read like words and handed on like words, as FLUX and SD3 do; PixArt masks it."""

    def of_tokens(params, ids, mask):
        mask = jnp.ones_like(mask) if see_padding else mask
        return encode(options, params, ids, mask)[0] | {"mask": mask}

    return role(init(options), of_tokens, tokenizer, length)
