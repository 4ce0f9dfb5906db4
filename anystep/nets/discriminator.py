"""Heads that tell pictures of the data from pictures of a network, on features of a frozen one (LADD, 2403.12015; StyleGAN-T, 2301.09515).

    head(C)   y = leaky(norm(conv1(x)));   y = (y + leaky(norm(conv9(y)))) / sqrt 2;   logit = conv1(y) of every token

conv1 and conv9 run over the flattened tokens, circularly, their kernels divided by their spectral norm; `norm` takes its mean and variance
of a group of eight samples, of this batch alone. The spectral norm follows the kernels by one power iteration for each update of the heads:
its vectors u and v are state, not parameters. Parameters and buffers have the axis of the K heads first.

No Linen: half of this is state that moves without a gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

TAPS = {"first": 1, "wide": 9, "last": 1}  # of the three convolutions
GROUP = 8  # samples whose statistics a norm shares
SLOPE = 0.2  # of the leaky ReLU


class Discriminator(NamedTuple):
    init: Callable  # key -> params
    buffers: Callable  # (key, params) -> {"u": ..., "v": ...}
    normalise: Callable  # (params, buffers, iterate) -> (weights, buffers): kernels over their spectral norm; `iterate`: follow them first
    logits: Callable  # (weights, features [K, B, N, C]) -> [B, K N] float32


def build(heads: int, width: int) -> Discriminator:
    """`heads` heads on tokens of `width` numbers."""

    def init(key):
        def one(key):
            params = {f"{name}_norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)} for name in ("first", "wide")}
            for k, (name, taps) in zip(jax.random.split(key, len(TAPS)), TAPS.items(), strict=True):
                shape, bound = (taps, width, 1 if name == "last" else width), (taps * width) ** -0.5
                kernel, bias = (jax.random.uniform(part, s, minval=-bound, maxval=bound)
                                for part, s in zip(jax.random.split(k), (shape, shape[-1:]), strict=True))  # fmt: skip
                params[name] = {"kernel": kernel, "bias": bias}
            return params

        return jax.vmap(one)(jax.random.split(key, heads))

    def buffers(key, params):
        def one(key, params):
            keys = jax.random.split(key, len(TAPS))
            start = {name: jax.random.normal(k, params[name]["kernel"].shape[-1:]) for k, name in zip(keys, TAPS, strict=True)}
            return {name: iterated(matrix(params[name]["kernel"]), u) for name, u in start.items()}

        return jax.vmap(one)(jax.random.split(key, heads), params)

    def normalise(params, buffers, iterate):
        def one(params, buffers):
            moved, out = {}, dict(params)
            for name in TAPS:
                w = matrix(params[name]["kernel"])
                moved[name] = iterated(jax.lax.stop_gradient(w), buffers[name]["u"]) if iterate else buffers[name]
                sigma = moved[name]["u"] @ (w @ moved[name]["v"])
                out[name] = params[name] | {"kernel": params[name]["kernel"] / sigma}
            return out, moved

        return jax.vmap(one)(params, buffers)

    def logits(weights, features):
        found = jax.vmap(head)(weights, features)  # [K, B, N]
        return found.transpose(1, 0, 2).reshape(features.shape[1], -1)

    return Discriminator(init, buffers, normalise, logits)


def matrix(kernel):
    """[taps, in, out] as the matrix [out, in taps] whose largest singular value is the kernel's spectral norm, in torch's order."""
    return kernel.transpose(2, 1, 0).reshape(kernel.shape[2], -1)


def iterated(w, u):
    """One power iteration: {"u", "v"} of unit length."""
    v = unit(w.T @ u)
    return {"u": unit(w @ v), "v": v}


def unit(x):
    return x / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), 1e-12)


def head(weights, x):
    """[B, N, C] -> [B, N] float32; the products in x's dtype."""
    y = leaky(batch_norm(weights["first_norm"], conv(weights["first"], x)))
    y = (y + leaky(batch_norm(weights["wide_norm"], conv(weights["wide"], y)))) * 2**-0.5
    return conv(weights["last"], y)[..., 0].astype(jnp.float32)


def leaky(x):
    return jnp.where(x > 0, x, SLOPE * x)


def conv(weights, x):
    """Over the tokens of x [B, N, C], circularly: a product for each tap, one after the other, added up in float32. Convolutions whose
    kernels are mapped over, heads here, become grouped ones, slow on CPU; and nine taps at once would hold nine
    times the features."""
    kernel, around = weights["kernel"].astype(x.dtype), len(weights["kernel"]) // 2

    def add(y, tap):
        number, matrix = tap
        return y + jnp.roll((x @ matrix).astype(jnp.float32), around - number, axis=1), None

    start = jnp.zeros((*x.shape[:2], kernel.shape[-1]), jnp.float32) + weights["bias"][None, None]
    return jax.lax.scan(add, start, (jnp.arange(len(kernel)), kernel))[0].astype(x.dtype)


def batch_norm(weights, x, epsilon=1e-5):
    """Every channel by mean and variance over the tokens of a group: B in ceil(B / 8) equal groups of neighbours, more where that does not
    divide it."""
    rows, tokens, width = x.shape
    groups = next(n for n in range(-(-rows // GROUP), rows + 1) if rows % n == 0)
    y = x.astype(jnp.float32).reshape(groups, -1, width)
    mean = jnp.mean(y, axis=1, keepdims=True)
    variance = jnp.mean(jnp.square(y - mean), axis=1, keepdims=True)
    y = ((y - mean) * jax.lax.rsqrt(variance + epsilon)).reshape(rows, tokens, width)
    return (y * weights["scale"][None, None] + weights["bias"][None, None]).astype(x.dtype)
