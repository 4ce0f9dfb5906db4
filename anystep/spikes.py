"""Which steps are not believed: a loss or gradient that is not finite, or far above what the last steps had. Numbers only.

A step is believed if its loss l and gradient norm g are finite and, once half a window of believed steps is known,

    l <= mean(l) + sigma max(std(l), |mean(l)| / 100)        log g <= mean(log g) + sigma max(std(log g), 1 / 100)

What is not believed never enters the window (one NaN would spoil every mean for a window's length), and the caller keeps parameters,
averages, optimizers and buffers as they were, by `where`: a product with zero would keep the NaN. Where the loss changes by plan, an
objective coming in, the window is emptied.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Window(NamedTuple):
    """The believed steps: a ring of the last ones, how many since the ring was emptied; all disbelieved ones, those of them in a row. Where
    steps of several kinds take turns, all but `skipped` have the kind first: each is compared with its own."""

    losses: Array  # [W]
    norms: Array  # [W], logarithms
    seen: Array
    skipped: Array
    in_row: Array


def empty(size: int, kinds: int = 1) -> Window:
    """Buffers of their own, because a state is donated."""
    first = (kinds,) if kinds > 1 else ()
    rings = (jnp.zeros((*first, size), jnp.float32) for _ in range(2))
    return Window(*rings, *(jnp.zeros(shape, jnp.int32) for shape in (first, (), first)))


def of_kind(window: Window, kind: int) -> Window:
    """The window of one kind of steps."""
    if window.losses.ndim == 1:
        return window
    return Window(window.losses[kind], window.norms[kind], window.seen[kind], window.skipped, window.in_row[kind])


def put_kind(window: Window, kind: int, new: Window) -> Window:
    """`window` after a step of that kind."""
    if window.losses.ndim == 1:
        return new
    return new._replace(**{name: getattr(window, name).at[kind].set(getattr(new, name)) for name in ("losses", "norms", "seen", "in_row")})


def emptied_at(window: Window, step, phases: tuple[int, ...]) -> Window:
    """The window without what it has seen, if `step` is one of `phases`."""
    new = jnp.any(step == jnp.asarray(phases, jnp.int32)) if phases else False
    return window._replace(seen=jnp.where(new, 0, window.seen))


def believed(window: Window, loss, norm, sigma: float):
    """Whether a step of this loss and gradient norm may count: bool scalar."""
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    known = window.seen >= window.losses.size // 2
    usual = loss <= _most(window.losses, window.seen, sigma, lambda mean: jnp.abs(mean) / 100)
    usual &= _log(norm) <= _most(window.norms, window.seen, sigma, lambda mean: 0.01)
    return finite & (usual | ~known)


def after(window: Window, loss, norm, good) -> Window:
    """The window after a step, `good` as `believed` said."""
    at = window.seen % window.losses.size
    return Window(
        jnp.where(good, window.losses.at[at].set(loss), window.losses),
        jnp.where(good, window.norms.at[at].set(_log(norm)), window.norms),
        window.seen + good,
        window.skipped + ~good,
        jnp.where(good, 0, window.in_row + 1),
    )


def _log(norm):
    return jnp.log(jnp.maximum(norm, 1e-30))


def _most(values, seen, sigma, least):
    """Mean + sigma deviations, each at least `least(mean)`, of the first `seen` of a ring."""
    there = jnp.arange(values.size) < seen
    count = jnp.maximum(jnp.sum(there), 1)
    mean = jnp.sum(jnp.where(there, values, 0.0)) / count
    deviation = jnp.sqrt(jnp.sum(jnp.where(there, jnp.square(values - mean), 0.0)) / count)
    return mean + sigma * jnp.maximum(deviation, least(mean))
