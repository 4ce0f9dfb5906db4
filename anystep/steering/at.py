"""One step of a walk, steered: looking at x, moving it, going on from the features that were seen."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from anystep import tree
from anystep.arrays import expand, norm
from anystep.errors import UserError
from anystep.nets import correction
from anystep.path import to_flow_time
from anystep.steering import symmetry
from anystep.steering.classifier import Reader, losses, published_losses
from anystep.steering.descend import Descent, Fixed, descend, groups_of, over_groups, put, reading, some
from anystep.steering.maps import look, reach
from anystep.steering.method import Method
from anystep.types import Capture, Model

LEAST = 1e-30  # of a probability that is told: 0 is no relation


class Walk(NamedTuple):
    """What of a drawing a steerer must know: the network with weights and condition, what the sampler asks at (t, t_next), the times that
    the network is told, and `around`: Velocity -> Velocity, the guidance; reuse: it asks for the velocity at its own (x, t, s) alone;
    start: the first x is start sigma(t) noise; count: of the sampler's steps."""

    net: Model
    params: Any
    cond: dict
    ask: Callable
    clock: Callable
    around: Callable
    reuse: bool = True
    start: Any = 1.0
    count: int = 1


class At(NamedTuple):
    """One step of one walk. told: {"asked": Asked, "params": the reader's, "strength": scalar}."""

    reader: Reader
    method: Method
    walk: Walk
    told: dict
    t: jax.Array  # [B], what the network is told
    s: jax.Array
    number: jax.Array  # of the step

    def of(self, rows):
        """The same step of those samples, None for all."""
        if rows is None:
            return self
        cond, asked = some((self.walk.cond, self.told["asked"]), rows, len(self.t))
        return self._replace(walk=self.walk._replace(cond=cond), told=self.told | {"asked": asked}, t=self.t[rows], s=self.s[rows])

    def see(self, x):
        """(losses [B, R], {"p": calibrated probabilities [B, R], "maps": means over layers and heads [B, 2 R, S, S], "h"})."""
        reader, params, asked, walk = self.reader, self.told["params"], self.told["asked"], self.walk
        maps, h, _ = look(walk.net, walk.params, x, self.t, self.s, walk.cond, asked.tokens, reader.lens)
        logits = reader.logits(params, maps, to_flow_time(walk.net.path, self.t))
        found = losses(logits / params["temperature"], asked.word)
        aux = {"p": jnp.exp(-found), "maps": jnp.mean(maps, axis=2), "h": h}
        return (found if self.method.calibrated else published_losses(logits, asked.word)), aux

    def velocity(self, x, t, s):
        walk = self.walk
        return walk.around(lambda x, t, s: walk.net.velocity(walk.params, x, t, s, walk.cond))(x, t, s)

    def finish(self, x, h, t, s):
        """(u, aux) of x from the features that `see` has of it."""
        walk = self.walk
        capture = Capture(self.reader.lens.layers, self.told["asked"].tokens)
        before = jax.eval_shape(walk.net.embed, walk.params, x, self.t, self.s, walk.cond)
        blocks = reach(walk.net, walk.params, before, capture)
        h, _ = walk.net.blocks(walk.params, h, blocks, walk.net.depth)
        u = walk.net.head(walk.params, h)
        return walk.around(lambda x, t, s: (u, {}))(x, t, s)

    def moved(self, x, key):
        """(Descent, looks [B]: forward passes up to the last layer that is read, what was read of x before anything, nan where nobody
        looked). Another noise is taken at the first step alone."""
        m = self.method
        if not (m.amortised or m.candidates > 1 or m.symmetries):
            return self.descended(x)
        return self.replaced(x, key) if m.steps == 1 else jax.lax.cond(self.number == 0, lambda x: self.replaced(x, key), self.descended, x)

    def replaced(self, x, key):
        m, before, seen = self.method, None, None
        looks = jnp.any(self.told["asked"].known, axis=-1) * jnp.int32(m.amortised and m.measure)
        if m.amortised:
            before = reading(self.see(x)[1]) if m.measure else self.unread()
            x = self.corrected(x)
        if m.candidates > 1 or m.symmetries:
            x, seen, own, tried = self.chosen(x, key)
            before, looks = before or own, looks + tried
        found, more, first = self.descended(x, seen)
        return found, looks + more, before or first

    def descended(self, x, seen=None):
        m, sigma = self.method, self.walk.net.path.sigma(self.t)
        size = self.told["strength"] * m.step * (sigma * jnp.sqrt(float(x[0].size)) if m.normalised else jnp.ones_like(sigma))
        limit = jnp.array([-math.log(p) for p in m.until], jnp.float32)[jnp.minimum(self.number, len(m.until) - 1)]
        sphere = (self.number == 0) & m.shell  # later there is data in x, whose length says something
        fixed = Fixed(self.told["asked"].known, size, jnp.where(sphere, norm(x), jnp.inf))
        found = descend(lambda x, rows: self.of(rows).see(x), x, fixed, m, limit, seen)
        return found, found.looks, found.first

    def level(self, x):
        """[B, 1, ...]: of the noise at the beginning of the walk."""
        return expand(self.walk.start * self.walk.net.path.sigma(self.t), x)

    def corrected(self, x):
        """x after the correction of each relation in turn."""
        asked, options, level = self.told["asked"], self.reader.corrects, self.level(x)
        if x.shape[1] % options.patch or x.shape[2] % options.patch or x.shape[-1] != options.shape[-1]:
            sizes = f"{options.shape[-1]} channels and sides that {options.patch} divides"
            raise UserError(f"amortised: samples of {list(x.shape[1:])}, the network that corrects noises takes {sizes}")
        net, radius = correction.build(options), norm(x) if self.method.shell else None
        objects = jnp.einsum("bol,bld->bod", asked.tokens, self.walk.cond["features"].astype(jnp.float32))
        for r in range(asked.word.shape[1]):
            word = jnp.minimum(asked.word[:, r], len(symmetry.WORDS) - 1)
            step = net.apply(self.told["params"]["correction"], x / level, objects[:, 2 * r : 2 * r + 2], word)
            there = x + self.told["strength"] * level * step
            there = there if radius is None else there * (radius / norm(there))
            x = jnp.where(expand(asked.known[:, r], x), there, x)
        return x

    def chosen(self, x, key):
        """(x or another noise in its place, what `see` says of it, what was read of x, looks [B]). Noises are tried until one is likely
        enough, the likeliest is taken."""
        m, asked = self.method, self.told["asked"]
        others = symmetry.noises(x)[1:] if m.symmetries else jnp.zeros((0, *x.shape), x.dtype)
        if m.candidates > 1:
            keys = jax.vmap(lambda k: jax.random.split(tree.fold(k, "candidates"), m.candidates - 1))(key)
            drawn = jax.vmap(lambda k: tree.normal(k, x.shape[1:]), in_axes=1)(keys)
            others = jnp.concatenate([others, self.level(x)[None] * drawn])

        known, groups = asked.known, groups_of(len(x), m.groups)

        def worst(known, seen):
            return jnp.min(jnp.where(known, seen[1]["p"], 1.0), axis=-1)

        def looking(number, seen):
            return (worst(known, seen) < m.until[0]) & (number < len(others))

        def attempt(c):
            number, x, seen, looks = c
            other, active = others[number], looking(number, seen)

            def group(rows, c):
                mine, own = (some(tree, rows, len(x)) for tree in (other, c))
                new = self.of(rows).see(mine)
                better = active[rows] & (worst(known[rows], new) > worst(known[rows], own[1]))
                return put(c, rows, jax.tree.map(lambda new, old: better_of(better, new, old), (mine, new), own))

            x, seen = over_groups(active, groups, group, (x, seen))
            return number + 1, x, seen, looks + active

        own = self.see(x)
        begin = (jnp.int32(0), x, own, jnp.any(asked.known, axis=-1).astype(jnp.int32))
        _, x, seen, looks = jax.lax.while_loop(lambda c: jnp.any(looking(c[0], c[2])), attempt, begin)
        return x, seen, reading(own[1]), looks

    def unread(self):
        rows, objects, _ = self.told["asked"].tokens.shape
        side = self.reader.lens.side
        return {"p": jnp.full((rows, objects // 2), jnp.nan), "maps": jnp.full((rows, objects, side, side), jnp.nan)}

    def silence(self):
        """The `info` of a step that is not steered."""
        (rows, objects, _), side = self.told["asked"].tokens.shape, self.reader.lens.side
        out = {name: jnp.zeros((rows, objects // 2)) for name in ("before", "after")} | {"maps": jnp.zeros((rows, 2, objects, side, side))}
        return out | {name: jnp.zeros(rows, jnp.int32) for name in ("iterations", "looks")} | {"distance": jnp.zeros(rows)}

    def info(self, x, found: Descent, looks, first):
        """What a person, and a count of costs, want to know of a steered step: of the probabilities and maps before and after, how often x
        was moved and looked at, and how far it went as a share of its length."""
        last, asked = reading(found.aux), self.told["asked"].known
        return {
            "before": jnp.where(asked, jnp.maximum(first["p"], LEAST), 0.0),
            "after": jnp.where(asked, jnp.maximum(last["p"], LEAST), 0.0),
            "maps": jnp.stack([first["maps"], last["maps"]], axis=1),  # [B, 2, 2 R, S, S]
            "iterations": found.moved,
            "looks": jnp.broadcast_to(looks, found.moved.shape).astype(jnp.int32),
            "distance": (norm(found.x - x) / norm(x)).reshape(-1),
        }


def better_of(better, new, old):
    """[B, ...]: `new` where it is better [B]; what has no rows is the same for both."""
    return jnp.where(expand(better, new), new, old) if new.shape[:1] == better.shape else old
