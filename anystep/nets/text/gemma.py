"""Gemma 2 as an encoder of prompts (2408.00118): Gemma-2-2b of SANA, the states that leave its last layer and the final norm.

    x = sqrt(D) words;  x += RMS' attention(RMS x);  x += RMS' ((gelu(x' W_gate) * x' W_in) W_out), x' = RMS x;  RMS y = (1 + w) y / |y|

Attention is causal and rotary, its logits are held in (-50, 50); every other layer, from the first, sees 4,096 tokens back and no more.
Parameters are {"embed", "blocks", "head"}; every leaf of "blocks" has the layer axis first.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError
from anystep.nets.text.layers import FeedForward, SelfAttention, causal, init_layers, walk
from anystep.nets.text.pretrained import role


class Options(NamedTuple):
    """The defaults are Gemma-2-2b's: 2,614,341,888 parameters. `near`: for each layer whether it sees no further than `window`."""

    vocabulary: int = 256000
    width: int = 2304
    depth: int = 26
    heads: int = 8
    kv_heads: int = 4
    head_width: int = 256
    hidden: int = 9216
    act: str = "gelu_pytorch_tanh"
    bias: bool = False
    scale: float = 256.0  # logits are divided by its root
    cap: float | None = 50.0
    window: int = 4096
    near: tuple[bool, ...] = (True, False) * 13
    base: float = 10000.0
    positions: int = 8192
    epsilon: float = 1e-6
    dtype: str = "float32"


class Norm(nn.Module):
    """RMS norm in float32 that multiplies by 1 + scale: weights of zero change nothing."""

    o: Options

    @nn.compact
    def __call__(self, x):
        y = x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],)).astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.o.epsilon)
        return (y * (1.0 + scale[None, None])).astype(x.dtype)


class Embed(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, ids):
        o, small = self.o, nn.initializers.normal(0.02)
        return o.width**0.5 * nn.Embed(o.vocabulary, o.width, embedding_init=small, dtype=jnp.dtype(o.dtype), name="words")(ids)


class Block(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x, mask):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        attention = SelfAttention(o.heads, o.head_width, o.kv_heads, o.bias, dtype, name="attention")
        y = attention(Norm(o, name="norm1")(x), mask, lambda a: rotate(a, o.base), scale=o.scale**-0.5, cap=o.cap)
        x = x + Norm(o, name="post_norm1")(y)
        y = FeedForward(o.hidden, o.act, True, False, dtype, name="mlp")(Norm(o, name="norm2")(x))
        return x + Norm(o, name="post_norm2")(y)


def rotate(x, base):
    """[B, N, h, d]: component i and i + d/2 of the token at n turn by n base^(-2i/d) (2104.09864)."""
    n, d = x.shape[1], x.shape[-1]
    frequencies = 1.0 / (base ** (np.arange(0, d, 2) / d)).astype(np.float32)
    angles = jnp.arange(n, dtype=jnp.float32)[:, None] * frequencies[None, :]
    cos, sin = jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def init(options: Options):
    """key -> params."""
    o = options

    def of_key(key):
        k_embed, k_block, k_head = jax.random.split(key, 3)
        x, embed = Embed(o).init_with_output(k_embed, jnp.zeros((1, 1), jnp.int32))
        blocks = init_layers(lambda k: Block(o).init(k, x, None)["params"], k_block, o.depth)
        return {"embed": embed["params"], "blocks": blocks, "head": {"norm": Norm(o).init(k_head, x)["params"]}}

    return of_key


def encode(options: Options, params, ids, mask=None, keep=False):
    """ids [B, L] and mask [B, L] bool (None: all are seen) -> ({"features"}, what the layers gave [depth, B, L, D] if `keep`)."""
    o, length = options, ids.shape[1]
    mask = jnp.ones(ids.shape, bool) if mask is None else mask
    all_before, near_before = causal(length)[None] & mask[:, None, :], causal(length, o.window)[None] & mask[:, None, :]

    def step(x, layer):
        p, near = layer
        return Block(o).apply({"params": p}, x, jnp.where(near, near_before, all_before))

    x, states = walk(step, Embed(o).apply({"params": params["embed"]}, ids), (params["blocks"], jnp.array(o.near)), keep)
    return {"features": Norm(o).apply({"params": params["head"]["norm"]}, x).astype(jnp.float32)}, states


def build(tokenizer, options: Options = Options(), length=300, instruction="", lower=True):  # noqa: B008
    """A Text role by SANA's rule (2410.10629, Sec. 3.1): the `instruction` is said before the prompt, and of what was encoded the first
    token and the last `length` - 1 are handed on, so that the network sees the prompt and not the instruction.

    The null prompt "" is said without it. `lower`: diffusers' pipelines lower-case prompts, SANA's own code does not; both strip them. They
    differ in the instruction's quotation marks, too: 'Enhanced prompt' in the text that we say, "Enhanced prompt" in SANA's own code.
    """
    around = len(tokenizer.opening) + len(tokenizer.closing)
    whole = len(tokenizer.ids([instruction])[0]) + around + length - 2 if instruction else length
    if whole > options.positions:
        raise UserError(f"model.text: instruction and prompt take {whole} tokens, allowed up to {options.positions}")
    kept = np.r_[0, whole - length + 1 : whole]

    def worded(prompt):
        prompt = prompt.lower().strip() if lower else prompt.strip()
        return instruction + prompt if prompt else ""

    def of_tokens(params, ids, mask):
        features = encode(options, params, ids, mask)[0]["features"]
        return {"features": features[:, kept], "mask": mask[:, kept]}

    return role(init(options), of_tokens, tokenizer, whole, worded, instruction, kept.tolist())
