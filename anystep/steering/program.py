"""Sampler -> Sampler: at the first steps of a walk x is moved, before the sampler takes its step, to where the classifier reads what the
prompt asks for. What moves it is a `method.Method`.

A strength of 0.0, and a walk without a relation, take the sampler's own step; the strength may be traced. Random keys are the sample's own:
nothing depends on other rows but how long a batch takes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anystep.sampling import broadcast
from anystep.steering import prompts
from anystep.steering.at import At, Walk
from anystep.steering.classifier import Reader
from anystep.steering.maps import Lens, look
from anystep.steering.method import Method
from anystep.types import Sampler


class Program(NamedTuple):
    """The static, hashable part of a steering."""

    reader: Reader
    method: Method

    def __call__(self, sampler: Sampler, walk: Walk, told) -> Sampler:
        """told: see `At`."""
        asked, strength, m = told["asked"], told["strength"], self.method.over(walk.count)

        def init(key, noise, t):
            state = sampler.init(key, noise, t)
            return state._replace(inner=(state.inner, jnp.int32(0)))

        def step(state, t_pair, first=None):
            inner, number = state.inner
            t, t_next = broadcast(state.x, t_pair)
            here = At(self.reader, m, walk, told, walk.clock(t), walk.clock(walk.ask(t, t_next)), number)
            plain_step = (t, walk.ask(t, t_next))

            def steered(x):
                found, looks, before = here.moved(x, state.key)
                known = here.finish(found.x, found.aux["h"], *plain_step) if walk.reuse else here.velocity(found.x, *plain_step)
                return found.x, known, here.info(x, found, looks, before)

            def plain(x):
                known = here.velocity(x, *plain_step) if first is None else first
                return x, known, here.silence()

            on = (number < m.steps) & (strength != 0) & jnp.any(asked.known)
            x, known, info = jax.lax.cond(on, steered, plain, state.x)
            state, aux = sampler.step(state._replace(x=x, inner=inner), t_pair, known)
            return state._replace(inner=(state.inner, number + 1)), {**aux, "steering": info}

        return Sampler(init, step)


class Recorder(NamedTuple):
    """A program that moves nothing and hands out maps of the first steps, info["maps"] [B, 2 R, C, S, S] float16: what to learn from."""

    lens: Lens
    first: int = 1

    def __call__(self, sampler: Sampler, walk: Walk, told) -> Sampler:
        def step(state, t_pair, first=None):
            t, t_next = broadcast(state.x, t_pair)
            asked = told["asked"].tokens
            maps = look(walk.net, walk.params, state.x, walk.clock(t), walk.clock(walk.ask(t, t_next)), walk.cond, asked, self.lens)[0]
            state, _ = sampler.step(state, t_pair, first)
            return state, {"maps": maps.astype(jnp.float16)}

        return Sampler(sampler.init, step)


class Steering(NamedTuple):
    """What `anystep.sample(..., steer=)` takes: a program with its weights; `things`: last words of what can be placed, () for all."""

    program: Any  # Program | Recorder
    params: Any
    strength: Any = 1.0
    things: tuple[str, ...] = ()
    given: Any = None  # {prompt: Understood}, where nothing is to be read
    times: tuple[float, ...] = ()  # flow times that the classifier has learned from, () for unknown
    walk: tuple[str, ...] = ()  # sampler and what it asked, of the drawings that the classifier has learned from, () for unknown or none
    notes: tuple[str, ...] = ()  # what a user should know of the classifier and this model

    def understand(self, text, texts):
        """An `Understood` of each prompt."""
        if self.given is not None:
            return [self.given[prompt] for prompt in texts]
        return [prompts.understand(text, prompt, self.things) for prompt in texts]

    def told(self, understood, length, most):
        """What the program is told of a batch; length: of the features, most: relations of one prompt."""
        asked = jax.tree.map(jnp.asarray, prompts.arrays(understood, length, most))
        return {"asked": asked, "params": self.params, "strength": jnp.float32(self.strength)}

    def strange(self, times, sampler, ask, eta=1.0) -> list[str]:
        """Lines where steered steps of a walk over flow times [N + 1] are unlike those that the classifier has learned from, or where the
        sampler forgets them."""
        walked, lines = np.asarray(times)[:-1], []
        steered = walked[: self.program.method.over(len(walked)).steps]
        if self.walk and self.walk != (sampler, ask):
            learned, here = (f"{one} asking {s}" for one, s in (self.walk, (sampler, ask)))
            lines.append(f"steer: the classifier learned from drawings by {learned}, not by {here}")
        if self.times and not (min(self.times) - 1e-3 <= steered.min() and steered.max() <= max(self.times) + 1e-3):
            seen = f"{min(self.times):.3g} to {max(self.times):.3g}"
            lines.append(f"steer: steps at flow times {steered.min():.3g} to {steered.max():.3g}, the classifier learned from {seen} alone")
        draws = sampler == "restart" or (eta and sampler in ("ddim", "ddim_ratio"))
        if draws and len(walked) > 2 * len(steered):
            lines.append(
                f"steer: {len(steered)} of {len(walked)} steps are steered, and {sampler} draws new noise in the others, which forget it; "
                "euler keeps it, or more steered steps do"
            )
        return lines
