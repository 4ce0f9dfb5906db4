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
    """What a round hands to the next; `aux` and `first` are what `see` says of x and of the x that it began with."""

    x: jax.Array
    aux: dict
    first: dict
    active: jax.Array  # [B] still to be moved
    moved: jax.Array  # [B] int32, rounds that moved it
    momentum: jax.Array
    number: jax.Array
    going: jax.Array


def descend(see, x, known, method, size, limit, radius=None) -> Descent:
    """see(x) -> (losses [B, R], aux); known [B, R]: which of them count; size [B]: of one step; limit: a loss at or below it is done;
    radius [B, 1, ...]: |x| is put back to it, where it is finite. A sample moves while any of its losses is above the limit,
    `method.iterations` times at most, by the loss whose turn it is ("alternate") or the largest ("hardest").
    """
    shapes = jax.eval_shape(see, x)[1]
    empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    count = jnp.maximum(jnp.sum(known, axis=-1), 1)

    def chosen(losses, number):
        if method.order == "hardest":
            which = jnp.argmax(jnp.where(known, losses, -jnp.inf), axis=-1)
        else:
            which = number % count
        return jax.nn.one_hot(which, known.shape[-1], dtype=losses.dtype)

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
        active = c.active & jnp.any(known & (losses > limit), axis=-1)
        going = jnp.any(active) & (c.number < method.iterations)

        def move(_):
            weights = chosen(losses, c.number) * active[:, None]
            return step(c.x, c.momentum, back(weights)[0], active)

        x, momentum = jax.lax.cond(going, move, lambda _: (c.x, c.momentum), None)
        first = jax.tree.map(lambda new, old: jnp.where(c.number == 0, new, old), said(aux), c.first)
        return Descent(x, aux, first, active, c.moved + (active & going), momentum, c.number + 1, going)

    if method.iterations == 0:
        aux = see(x)[1]
        none = jnp.zeros(x.shape[0], jnp.int32)
        return Descent(x, aux, said(aux), none > 0, none, x, jnp.int32(1), jnp.bool_(False))
    begin = Descent(
        x, empty, said(empty), jnp.any(known, axis=-1), jnp.zeros(x.shape[0], jnp.int32), jnp.zeros_like(x), jnp.int32(0), jnp.bool_(True)
    )
    return jax.lax.while_loop(lambda c: c.going, round_, begin)


def said(aux):
    """What of `see`'s answer a person is told."""
    return {"p": aux["p"], "maps": aux["maps"]}
