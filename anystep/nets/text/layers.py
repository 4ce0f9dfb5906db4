"""What pretrained text encoders share: attention with its projections, feed-forwards, who sees whom, the walk over stacked layers.

Not here: what tells one from another (`t5`, `clip`, `gemma`, `bert`), tokenizers (`pretrained`).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from anystep.nets.attention import attend

GELU_TANH = functools.partial(jax.nn.gelu, approximate=True)
ACTIVATIONS = {  # as transformers calls them
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": GELU_TANH,
    "gelu_pytorch_tanh": GELU_TANH,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}


class SelfAttention(nn.Module):
    """Attention of x [B, N, D] with itself; `turn` rotates queries and keys [B, N, heads, d]. With fewer heads for keys and values each
    serves a run of neighbouring queries' heads (2305.13245)."""

    heads: int
    head_width: int
    kv_heads: int
    bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, mask=None, turn=lambda a: a, **how):
        def project(name, heads):
            y = nn.Dense(heads * self.head_width, use_bias=self.bias, dtype=self.dtype, name=name)(x)
            return y.reshape(*x.shape[:2], heads, self.head_width)

        q, k, v = turn(project("q", self.heads)), turn(project("k", self.kv_heads)), project("v", self.kv_heads)
        if self.kv_heads < self.heads:
            k, v = (jnp.repeat(a, self.heads // self.kv_heads, axis=2) for a in (k, v))
        out, _ = attend(q, k, v, mask=mask, **how)
        return nn.Dense(x.shape[-1], use_bias=self.bias, dtype=self.dtype, name="out")(out.reshape(*x.shape[:2], -1))


class FeedForward(nn.Module):
    """out(act(in x)), or, gated, out(act(gate x) * in x) (2002.05202)."""

    hidden: int
    act: str
    gated: bool = False
    bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        def dense(name, width):
            return nn.Dense(width, use_bias=self.bias, dtype=self.dtype, name=name)

        act, y = ACTIVATIONS[self.act], dense("in", self.hidden)(x)
        y = act(dense("gate", self.hidden)(x)) * y if self.gated else act(y)
        return dense("out", x.shape[-1])(y)


def layer_norm(epsilon, dtype=jnp.float32, name=None):
    """With scale and bias, in float32, the variance in two passes: nearly even states have a mean that drowns it in one."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def causal(length, window=0):
    """[N, N] bool: a token sees itself and what came before, with a window only its last `window` tokens."""
    ago = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    return (ago >= 0) & (ago < window) if window else ago >= 0


def init_layers(init: Callable, key, depth):
    """`depth` layers of `init`(key), stacked on axis 0."""
    return jax.vmap(init)(jax.random.split(key, depth))


def walk(step, x, layers, keep=False):
    """(x after step(x, layer) of every layer, what each gave [depth, ...] if `keep`). The layers are a tree's first axis."""

    def one(x, layer):
        x = step(x, layer)
        return x, x if keep else None

    return jax.lax.scan(one, x, layers)
