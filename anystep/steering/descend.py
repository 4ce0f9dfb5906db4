"""Moving x until a classifier agrees: gradient steps, one sample stopping before another, all in one while loop.

    x <- x - step g                                raw, as published
    x <- x - step sigma(t) sqrt(d) m,  m <- b m + g / |g|           a step is a share of the length of pure noise

A round looks once; its backward pass runs only if somebody still has to move. So the last round's features belong to the last x, and
the sampler goes on from them. What is done keeps its bits.

A batch is first looked at whole, without a backward pass. Before every round it is then put together anew, who still moves in front, and
goes on in groups of one size; groups in which nobody moves are left out.
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


class Fixed(NamedTuple):
    """What stays: which losses count [B, R]; the size of a step [B]; the length that x keeps [B, 1, ...], inf for any."""

    known: jax.Array
    size: jax.Array
    radius: jax.Array


def descend(see, x, fixed: Fixed, method, limit, seen=None) -> Descent:
    """see(x, rows) -> (losses [B, R], aux) of those rows, None for all; limit: a loss at or below it is done; seen: see(x), where somebody
    has looked. A sample moves while any of its losses is above the limit, `method.iterations` times at most, by the loss whose turn it is
    ("alternate") or the largest ("hardest").
    """
    asking, none = jnp.any(fixed.known, axis=-1), jnp.zeros(len(x), jnp.int32)
    if method.iterations == 0:
        aux = see(x, None)[1] if seen is None else seen[1]
        looks = asking.astype(jnp.int32) if seen is None else none
        return Descent(x, aux, reading(aux), none > 0, none, looks, x, jnp.int32(1), jnp.bool_(False))

    def advance(c, fixed, rows):
        losses, back, aux = jax.vjp(lambda x: see(x, rows), c.x, has_aux=True)
        active = c.active & unhappy(losses, fixed.known, limit)
        going = jnp.any(active) & (c.number < method.iterations)

        def move(_):
            weights = whose_turn(losses, fixed.known, c.number, method.order) * active[:, None]
            return step(c, back(weights)[0], active, fixed, method)

        x, momentum = jax.lax.cond(going, move, lambda _: (c.x, c.momentum), None)
        first = jax.tree.map(lambda new, old: jnp.where(c.number == 0, new, old), reading(aux), c.first)
        return Descent(x, aux, first, active, c.moved + (active & going), c.looks + c.active, momentum, c.number, going)

    def round_(c):
        def group(rows, c):
            found = advance(some(c, rows, len(x)), some(fixed, rows, len(x)), rows)
            return put(c, rows, found)._replace(going=c.going | found.going)

        return over_groups(c.active, groups, group, c._replace(going=jnp.bool_(False)))._replace(number=c.number + 1)

    groups, looks, active, going = groups_of(len(x), method.groups), none, asking, jnp.bool_(True)
    if groups > 1 and seen is None:
        seen = see(x, None)
        looks = (asking & ~unhappy(seen[0], fixed.known, limit)).astype(jnp.int32)  # the others' is counted in their first round
    if seen is None:
        aux = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda x: see(x, None), x)[1])
    else:
        aux, active = seen[1], asking & unhappy(seen[0], fixed.known, limit)
        going = jnp.any(active)
    begin = Descent(x, aux, reading(aux), active, none, looks, jnp.zeros_like(x), jnp.int32(0), going)
    return jax.lax.while_loop(lambda c: c.going, round_, begin)


def groups_of(rows: int, most: int) -> int:
    """In how many groups of one size, at most."""
    return max(count for count in range(1, min(most, rows) + 1) if rows % count == 0)


def over_groups(active, groups: int, group, carry):
    """`carry` after group(rows, carry) for each of `groups` sets of rows that holds active ones, in front of the others."""
    if groups == 1:
        return group(jnp.arange(len(active)), carry)
    order, length = jnp.argsort(~active), len(active) // groups

    def one(i, carry):
        return group(jax.lax.dynamic_slice(order, (i * length,), (length,)), carry)

    return jax.lax.fori_loop(0, -(-jnp.sum(active) // length), one, carry)


def unhappy(losses, known, limit):
    return jnp.any(known & (losses > limit), axis=-1)


def whose_turn(losses, known, number, order):
    """[B, R]: 1 at the loss that a sample moves by."""
    if order == "hardest":
        which = jnp.argmax(jnp.where(known, losses, -jnp.inf), axis=-1)
    else:
        which = number % jnp.maximum(jnp.sum(known, axis=-1), 1)
    return jax.nn.one_hot(which, known.shape[-1], dtype=losses.dtype)


def step(c, gradient, active, fixed, method):
    """(x, momentum) after a step of who is active."""
    direction = gradient / jnp.maximum(norm(gradient), 1e-20) if method.normalised else gradient
    direction = method.momentum * c.momentum + direction if method.momentum else direction
    there = c.x - expand(fixed.size, c.x) * direction
    there = there * jnp.where(jnp.isfinite(fixed.radius), fixed.radius / jnp.maximum(norm(there), 1e-20), 1.0)
    return jnp.where(expand(active, c.x), there, c.x), jnp.where(expand(active, c.x), direction, c.momentum)


def some(tree, rows, whole: int):
    """Those rows of every leaf that has rows, as many as `whole`."""
    return jax.tree.map(lambda a: a[rows] if a.shape[:1] == (whole,) else a, tree)


def put(tree, rows, part):
    """`tree` with `part` in those rows; of what has no rows, `part`'s."""
    return jax.tree.map(lambda old, new: new if new.shape == old.shape else old.at[rows].set(new), tree, part)


def reading(aux):
    """What of `see`'s answer a person is told: {"p": [B, R], "maps": [B, 2 R, S, S]}."""
    return {"p": aux["p"], "maps": aux["maps"]}
