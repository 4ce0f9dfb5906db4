"""Per-sample arithmetic: what turns a number per sample, [B], into something that meets a batch, [B, ...], and back."""

import jax.numpy as jnp


def expand(t, x):
    """[B] -> [B, 1, ...] with the rank of x."""
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def channels(c, x):
    """A number, or one for each channel, -> something that meets x [B, ..., C]."""
    return jnp.asarray(c, jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))


def in_units(model, x):
    """Data at the door -> a Model's units."""
    return (x - channels(model.shift, x)) / channels(model.scale, x)


def mean(x):
    """[B, ...] -> [B], in float32."""
    return jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim)))


def mean_square(x):
    """[B, ...] -> [B], in float32."""
    return mean(jnp.square(x.astype(jnp.float32)))


def norm(x):
    """Per-sample L2 norm over all axes but the first, [B, 1, ...] float32."""
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=tuple(range(1, x.ndim)), keepdims=True))


def rms(x):
    """Per-sample root mean square, [B, 1, ...] float32."""
    return expand(jnp.sqrt(mean_square(x)), x)
