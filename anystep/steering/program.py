"""Sampler -> Sampler: at the first steps of a walk x is moved, before the sampler takes its step, to where the classifier reads what the
prompt asks for.

    faithful    16 raw gradient steps as published, stopped at a cross-entropy of 1e-5 to 7e-5, the forward pass repeated afterwards
    fast        asks first, moves only who is below a calibrated probability, by shares of the noise's length; the network runs to the last
                layer that is read, and the sampler goes on from there
    amortised   one pass of a small network says how to move the first noise (`nets.correction`)
    best        the likeliest of k noises;       flips   of one noise mirrored and turned: both unmoved draws of the same law

All settings of one `Method`, so they compose. Noise is chosen or corrected at the first step alone. A strength of 0.0, and a walk without a
relation, take the sampler's own step; the strength may be traced. Random keys are the sample's own: nothing depends on other rows but a
shared number of rounds. Rows are not put together anew between rounds: a batch goes on until its last sample is done.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from anystep import tree
from anystep.arrays import expand, norm
from anystep.nets import correction
from anystep.path import to_flow_time
from anystep.sampling import broadcast
from anystep.steering import prompts, symmetry
from anystep.steering.classifier import Reader, losses
from anystep.steering.descend import Descent, descend, said
from anystep.steering.maps import Lens, look, reach
from anystep.types import Capture, Model, Sampler


class Method(NamedTuple):
    """iterations: gradient steps at most; step: their size; until: the probability (of every relation) to stop at, by number of the
    sampler's step, the last for all later ones; steps: of the sampler that are steered; candidates: noises to choose from."""

    iterations: int = 4
    step: float = 0.1
    normalised: bool = True
    until: tuple[float, ...] = (0.9,)
    steps: int = 1
    momentum: float = 0.0
    shell: bool = True  # at the first step |x| stays: of high-dimensional noise it is all but a constant
    order: str = "hardest"
    calibrated: bool = True
    reuse: bool = True
    candidates: int = 1
    symmetries: bool = False
    amortised: bool = False
    measure: bool = False  # look once more, so that the probability before a correction is known too


METHODS = {
    "fast": Method(),
    "faithful": Method(
        16,
        5.0,
        normalised=False,
        until=(1 - 1e-5, 1 - 3e-5, 1 - 5e-5, 1 - 7e-5),
        shell=False,
        order="alternate",
        calibrated=False,
        reuse=False,
    ),
    "amortised": Method(0, amortised=True),
    "best": Method(0, candidates=4),
    "flips": Method(0, symmetries=True),
}


class Walk(NamedTuple):
    """What of a drawing a steerer must know: the network with weights and condition, what the sampler asks at (t, t_next), the times that
    the network is told, and `around`: Velocity -> Velocity, the guidance; reuse: it asks for the velocity at its own (x, t, s) alone."""

    net: Model
    params: Any
    cond: dict
    ask: Callable
    clock: Callable
    around: Callable
    reuse: bool = True


class Program(NamedTuple):
    """The static, hashable part of a steering."""

    reader: Reader
    method: Method

    def __call__(self, sampler: Sampler, walk: Walk, told) -> Sampler:
        """told: {"asked": Asked, "params": the reader's, "strength": scalar}."""
        asked, strength, m = told["asked"], told["strength"], self.method

        def init(key, noise, t):
            state = sampler.init(key, noise, t)
            return state._replace(inner=(state.inner, jnp.int32(0)))

        def step(state, t_pair, first=None):
            inner, number = state.inner
            t, t_next = broadcast(state.x, t_pair)
            here = At(self, walk, told, walk.clock(t), walk.clock(walk.ask(t, t_next)), number)
            plain_step = (t, walk.ask(t, t_next))

            def steered(x):
                found, looks, before = here.moved(x, state.key)
                known = here.finish(found.x, found.aux["h"], *plain_step) if m.reuse and walk.reuse else here.velocity(found.x, *plain_step)
                return found.x, known, here.info(x, found, looks, before)

            def plain(x):
                known = here.velocity(x, *plain_step) if first is None else first
                return x, known, here.silence()

            on = (number < m.steps) & (strength != 0) & jnp.any(asked.known)
            x, known, info = jax.lax.cond(on, steered, plain, state.x)
            state, aux = sampler.step(state._replace(x=x, inner=inner), t_pair, known)
            return state._replace(inner=(state.inner, number + 1)), {**aux, "steering": info}

        return Sampler(init, step)


class At(NamedTuple):
    """One step of one walk."""

    program: Program
    walk: Walk
    told: dict
    t: jax.Array  # [B], what the network is told
    s: jax.Array
    number: jax.Array  # of the step

    def see(self, x):
        """(losses [B, R], {"p": calibrated probabilities [B, R], "maps": means over layers and heads [B, 2 R, S, S], "h"})."""
        reader, params, asked, walk = self.program.reader, self.told["params"], self.told["asked"], self.walk
        maps, h, _ = look(walk.net, walk.params, x, self.t, self.s, walk.cond, asked.tokens, reader.lens)
        logits = reader.logits(params, maps, to_flow_time(walk.net.path, self.t))
        calm = logits / params["temperature"]
        found = losses(calm, asked.word)
        aux = {"p": jnp.exp(-found), "maps": jnp.mean(maps, axis=2), "h": h}
        return (found if self.program.method.calibrated else losses(logits, asked.word)), aux

    def velocity(self, x, t, s):
        walk = self.walk
        return walk.around(lambda x, t, s: walk.net.velocity(walk.params, x, t, s, walk.cond))(x, t, s)

    def finish(self, x, h, t, s):
        """(u, aux) of x from the features that `see` has of it."""
        walk = self.walk
        capture = Capture(self.program.reader.lens.layers, self.told["asked"].tokens)
        before = jax.eval_shape(walk.net.embed, walk.params, x, self.t, self.s, walk.cond)
        blocks = reach(walk.net, walk.params, before, capture)
        h, _ = walk.net.blocks(walk.params, h, blocks, walk.net.depth)
        u = walk.net.head(walk.params, h)
        return walk.around(lambda x, t, s: (u, {}))(x, t, s)

    def moved(self, x, key):
        """(Descent, forward passes [B] up to the last layer that is read, what was said of x before it was replaced or None)."""
        m, asked, before, looks = self.program.method, self.told["asked"], None, 0
        radius = norm(x) if m.shell else None
        if m.measure and m.amortised:
            before, looks = said(self.see(x)[1]), 1
        if m.amortised:
            x = self.at_first(lambda x: self.corrected(x, radius), x)
        if m.candidates > 1 or m.symmetries:
            (x, chosen), tried = self.chosen(x, key)
            before, looks = before or chosen, looks + tried
        sigma = self.walk.net.path.sigma(self.t)
        size = self.told["strength"] * m.step * (sigma * jnp.sqrt(float(x[0].size)) if m.normalised else jnp.ones_like(sigma))
        limit = jnp.array([-math.log(p) for p in m.until], jnp.float32)[jnp.minimum(self.number, len(m.until) - 1)]
        if radius is not None:  # later there is data in x, whose length says something
            radius = jnp.where(self.number == 0, radius, jnp.inf)
        found = descend(self.see, x, asked.known, m, size, limit, radius)
        return found, looks + 1 + found.moved, before

    def at_first(self, change, x):
        """change(x) at the first step, x later."""
        return change(x) if self.program.method.steps == 1 else jax.lax.cond(self.number == 0, change, lambda x: x, x)

    def corrected(self, x, radius):
        asked, net = self.told["asked"], correction.build(self.program.reader.corrects)
        objects = jnp.einsum("bol,bld->bod", asked.tokens, self.walk.cond["features"].astype(jnp.float32))
        sigma = expand(self.walk.net.path.sigma(self.t), x)
        for r in range(asked.word.shape[1]):
            word = jnp.minimum(asked.word[:, r], len(symmetry.WORDS) - 1)
            step = net.apply(self.told["params"]["correction"], x / sigma, objects[:, 2 * r : 2 * r + 2], word)
            there = x + self.told["strength"] * sigma * step
            there = there if radius is None else there * (radius / norm(there))
            x = jnp.where(expand(asked.known[:, r], x), there, x)
        return x

    def chosen(self, x, key):
        """((the likeliest of several noises, what is said of the first), how many were looked at); who is likely enough keeps his own."""
        m, asked = self.program.method, self.told["asked"]
        others = symmetry.noises(x)[1:] if m.symmetries else jnp.zeros((0, *x.shape), x.dtype)
        if m.candidates > 1:
            keys = jax.vmap(lambda k: jax.random.split(tree.fold(k, "candidates"), m.candidates - 1))(key)
            drawn = jax.vmap(lambda k: tree.normal(k, x.shape[1:]), in_axes=1)(keys)
            others = jnp.concatenate([others, expand(self.walk.net.path.sigma(self.t), x)[None] * drawn])

        def worst(p):
            return jnp.min(jnp.where(asked.known, p, 1.0), axis=-1)

        def choose(x):
            own = said(self.see(x)[1])
            enough = worst(own["p"]) >= jnp.array(m.until)[0]

            def look_at(best, other):
                p = worst(self.see(other)[1]["p"])
                better = (p > best[1]) & ~enough
                return (jnp.where(expand(better, x), other, best[0]), jnp.where(better, p, best[1])), None

            (x, _), _ = jax.lax.scan(look_at, (x, worst(own["p"])), others)
            return x, own

        def keep(x):
            return x, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(choose, x)[1])

        tried = jnp.where(self.number == 0, 1 + len(others), 0)
        return (choose(x) if m.steps == 1 else jax.lax.cond(self.number == 0, choose, keep, x)), tried

    def silence(self):
        """The `info` of a step that is not steered."""
        (rows, objects, _), side = self.told["asked"].tokens.shape, self.program.reader.lens.side
        out = {name: jnp.zeros((rows, objects // 2)) for name in ("before", "after")} | {"maps": jnp.zeros((rows, 2, objects, side, side))}
        return out | {name: jnp.zeros(rows, jnp.int32) for name in ("iterations", "looks", "rounds")} | {"distance": jnp.zeros(rows)}

    def info(self, x, found: Descent, looks, before):
        """What a person, and a count of costs, want to know of a steered step."""
        first = found.first if before is None else before
        if before is not None and self.program.method.steps > 1:
            first = jax.tree.map(lambda a, b: jnp.where(self.number == 0, a, b), before, found.first)
        last = said(found.aux)
        asked = self.told["asked"].known
        return {
            "before": jnp.where(asked, first["p"], 0.0),
            "after": jnp.where(asked, last["p"], 0.0),
            "maps": jnp.stack([first["maps"], last["maps"]], axis=1),  # [B, 2, 2 R, S, S]
            "iterations": found.moved,
            "looks": jnp.broadcast_to(looks, found.moved.shape).astype(jnp.int32),
            "rounds": jnp.broadcast_to(found.number, found.moved.shape),  # of the batch
            "distance": (norm(found.x - x) / norm(x)).reshape(-1),
        }


class Recorder(NamedTuple):
    """A program that moves nothing and hands out the maps of every step, info["maps"] [B, 2 R, C, S, S]: what to learn from."""

    lens: Lens

    def __call__(self, sampler: Sampler, walk: Walk, told) -> Sampler:
        def step(state, t_pair, first=None):
            t, t_next = broadcast(state.x, t_pair)
            asked = told["asked"].tokens
            maps = look(walk.net, walk.params, state.x, walk.clock(t), walk.clock(walk.ask(t, t_next)), walk.cond, asked, self.lens)[0]
            state, _ = sampler.step(state, t_pair, first)
            return state, {"maps": maps}

        return Sampler(sampler.init, step)


class Steering(NamedTuple):
    """What `anystep.sample(..., steer=)` takes: a program with its weights; `things`: last words of what can be placed, () for all."""

    program: Any  # Program | Recorder
    params: Any
    strength: Any = 1.0
    things: tuple[str, ...] = ()
    given: Any = None  # {prompt: Understood}, where nothing is to be read

    def understand(self, text, texts):
        """An `Understood` of each prompt."""
        if self.given is not None:
            return [self.given[prompt] for prompt in texts]
        return [prompts.understand(text, prompt, self.things) for prompt in texts]

    def told(self, understood, length, most):
        """What the program is told of a batch; length: of the features, most: relations of one prompt."""
        asked = jax.tree.map(jnp.asarray, prompts.arrays(understood, length, most))
        return {"asked": asked, "params": self.params, "strength": jnp.float32(self.strength)}
