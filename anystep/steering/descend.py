"""Moving x until a classifier agrees: gradient steps, one sample stopping before another, all in one while loop.

    x <- x - step g                                raw, as published
    x <- x - step sigma(t) sqrt(d) m,  m <- b m + g / |g|           a step is a share of the length of pure noise

A round looks once; its backward pass runs only if somebody still has to move. So the last round's features belong to the last x, and
the sampler goes on from them. What is done keeps its bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from anystep.arrays import expand, norm


class Descent(NamedTuple):
    """What a round hands to the next; `aux` and `first` are what `see` says of x and what was read of the x that it began with."""

    x: jax.Array
    aux: dict
    first: dict
    active: jax.Array  # [B] still to be moved
    moved: jax.Array  # [B] int32, rounds that moved it
    looks: jax.Array  # [B] int32, of each as if it were alone
    momentum: jax.Array
    number: jax.Array
    going: jax.Array


def descend(see, x, known, method, size, limit, radius=None, seen=None) -> Descent:
    """see(x) -> (losses [B, R], aux); known [B, R]: which of them count; size [B]: of one step; limit: a loss at or below it is done;
    radius [B, 1, ...]: |x| is put back to it, where it is finite; seen: see(x), where somebody has looked. A sample moves while any of its
    losses is above the limit, `method.iterations` times at most, by the loss whose turn it is ("alternate") or the largest ("hardest").
    """
    count = jnp.maximum(jnp.sum(known, axis=-1), 1)
    asking, none = jnp.any(known, axis=-1), jnp.zeros(x.shape[0], jnp.int32)

    def chosen(losses, number):
        if method.order == "hardest":
            which = jnp.argmax(jnp.where(known, losses, -jnp.inf), axis=-1)
        else:
            which = number % count
        return jax.nn.one_hot(which, known.shape[-1], dtype=losses.dtype)

    def unhappy(losses):
        return jnp.any(known & (losses > limit), axis=-1)

    def step(x, momentum, gradient, active):
        direction = gradient
        if method.normalised:
            direction = gradient / jnp.maximum(norm(gradient), 1e-20)
        direction = method.momentum * momentum + direction if method.momentum else direction
        there = x - expand(size, x) * direction
        if radius is not None:
            there = there * jnp.where(jnp.isfinite(radius), radius / jnp.maximum(norm(there), 1e-20), 1.0)
        return jnp.where(expand(active, x), there, x), jnp.where(expand(active, x), direction, momentum)

    def round_(c):
        losses, back, aux = jax.vjp(see, c.x, has_aux=True)
        active = c.active & unhappy(losses)
        going = jnp.any(active) & (c.number < method.iterations)

        def move(_):
            weights = chosen(losses, c.number) * active[:, None]
            return step(c.x, c.momentum, back(weights)[0], active)

        x, momentum = jax.lax.cond(going, move, lambda _: (c.x, c.momentum), None)
        first = jax.tree.map(lambda new, old: jnp.where(c.number == 0, new, old), reading(aux), c.first)
        return Descent(x, aux, first, active, c.moved + (active & going), c.looks + c.active, momentum, c.number + 1, going)

    if method.iterations == 0:
        aux = see(x)[1] if seen is None else seen[1]
        looks = asking.astype(jnp.int32) if seen is None else none
        return Descent(x, aux, reading(aux), none > 0, none, looks, x, jnp.int32(1), jnp.bool_(False))
    if seen is None:
        aux = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(see, x)[1])
        active, going = asking, jnp.bool_(True)
    else:
        aux, active = seen[1], asking & unhappy(seen[0])
        going = jnp.any(active)
    begin = Descent(x, aux, reading(aux), active, none, none, jnp.zeros_like(x), jnp.int32(0), going)
    return jax.lax.while_loop(lambda c: c.going, round_, begin)


def reading(aux):
    """What of `see`'s answer a person is told: {"p": [B, R], "maps": [B, 2 R, S, S]}."""
    return {"p": aux["p"], "maps": aux["maps"]}
