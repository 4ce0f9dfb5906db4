"""One attention for the house: `attend`, softmax or ReLU-linear, safe under forward mode.

    softmax   o = softmax(q k' / sqrt(d) + mask) v                        computed in float32
    linear    o_n = sum_m relu(q_n).relu(k_m) v_m / sum_m relu(q_n).relu(k_m)        SANA (2410.10629), float32, O(N d^2)

Epsilons are those of diffusers, whose weights are the ones that are loaded: 1e-5 in every q/k norm, 1e-15 under the linear attention.
SANA's own code has 1e-6 in the cross attention's norm and 1e-8 under the linear one.

Plain einsums on purpose: every stock fused kernel is a custom_vjp that refuses `jax.jvp`, and only at lowering.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def attend(q, k, v, kind="softmax", mask=None, capture=None, eps=1e-15, scale=None, bias=None, cap=None):
    """q [B, N, h, d], k and v [B, M, h, d], mask [B, M] or [B, N, M] bool -> (o [B, N, h, d], maps).

    Logits are scaled by `scale` (None: d^-1/2), held in (-cap, cap) by tanh (2408.00118), and `bias` [1 or B, 1 or h, N, M] is added.
    capture [B, objects, M] contracts the text axis of the softmax probabilities: maps [B, h, objects, N] float32, or None without it.
    A row whose keys are all masked attends evenly rather than giving NaN. A row of linear attention without any weight is divided by one:
    its answer is zero either way, but second derivatives of what is divided by eps are NaN where eps cubed is no number of float32.
    """
    dtype = q.dtype
    q, k, v = (a.astype(jnp.float32) for a in (q, k, v))
    if kind == "linear":
        if any(a is not None for a in (mask, capture, scale, bias, cap)):
            raise ValueError("attend: linear attention takes no mask, capture, scale, bias or cap")
        q, k = jax.nn.relu(q), jax.nn.relu(k)
        state = jnp.einsum("bmhd,bmhe->bhde", k, v)
        top = jnp.einsum("bnhd,bhde->bnhe", q, state)
        bottom = jnp.einsum("bnhd,bhd->bnh", q, jnp.sum(k, axis=1))
        bottom = jnp.where(bottom > 0, bottom, 1.0)
        return (top / (bottom[..., None] + eps)).astype(dtype), None
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :] if mask.ndim == 2 else mask[:, None], logits, -1e4)
    probabilities = jax.nn.softmax(logits, axis=-1)
    maps = None if capture is None else jnp.einsum("bhnm,bom->bhon", probabilities, capture.astype(jnp.float32))
    return jnp.einsum("bhnm,bmhd->bnhd", probabilities, v).astype(dtype), maps


class Attention(nn.Module):
    """Projections around `attend`; RMS norm of q and k over the full width, before the heads are split (SANA's "rms_norm_across_heads").

    The last projection starts at zero, as in every residual branch here: a fresh block is the identity, and small models learn faster."""

    heads: int
    kind: str = "softmax"
    qk_norm: bool = True
    qkv_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, context=None, mask=None, capture=None):
        width = x.shape[-1]
        context = x if context is None else context

        def project(name, y):
            return nn.Dense(width, use_bias=self.qkv_bias, dtype=self.dtype, name=name)(y)

        q, k, v = project("q", x), project("k", context), project("v", context)
        if self.qk_norm:
            q = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype, name="q_norm")(q)
            k = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype, name="k_norm")(k)
        q, k, v = (a.reshape(*a.shape[:2], self.heads, width // self.heads) for a in (q, k, v))
        out, maps = attend(q, k, v, self.kind, mask, capture)
        out = nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(out.reshape(*x.shape))
        return out, maps
