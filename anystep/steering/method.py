"""How to steer: the settings of every method, which compose.

    faithful    16 raw gradient steps as published, stopped at a cross-entropy of 1e-5 to 7e-5, at the first of up to four steps of the
                sampler and at half of more
    fast        asks first, moves only who is below a calibrated probability, by shares of the noise's length; the network runs to the last
                layer that is read, and the sampler goes on from there
    amortised   one pass of a small network says how to move the first noise (`nets.correction`)
    best        of k noises the first that is likely enough, else the likeliest;       flips   of one noise mirrored and turned: all of them
                unmoved draws of the same law

Unlike the released code, `faithful` does not repeat the last forward pass: what it would have thrown away is finished. It costs the same 17
passes, and says what became of the probability.
"""

import math
from typing import NamedTuple

from anystep.errors import UserError


class Method(NamedTuple):
    """iterations: gradient steps at most; step: their size; until: the probability (of every relation) to stop at, by number of the
    sampler's step, the last for all later ones; steps: of the sampler that are steered, 0 for as many as published; candidates: noises to
    choose from; groups: in how many a batch goes on, so that who is done is not run again (1: whole, until the last one is done)."""

    iterations: int = 4
    step: float = 0.1
    normalised: bool = True
    until: tuple[float, ...] = (0.9,)
    steps: int = 1
    momentum: float = 0.0
    shell: bool = True  # at the first step |x| stays: of high-dimensional noise it is all but a constant
    order: str = "hardest"
    calibrated: bool = True  # else the published loss of raw logits
    candidates: int = 1
    symmetries: bool = False
    amortised: bool = False
    groups: int = 4
    measure: bool = False  # look once more, so that the probability before a correction is known too

    def over(self, count):
        """The method on a walk of `count` steps, with a number of steered ones that is told."""
        return self._replace(steps=self.steps or published_steps(count))


LEAST = {"iterations": 0, "steps": 0, "candidates": 1, "groups": 1}
METHODS = {
    "fast": Method(),
    "faithful": Method(16, 5.0, False, (1 - 1e-5, 1 - 3e-5, 1 - 5e-5, 1 - 7e-5), steps=0, shell=False, order="alternate", calibrated=False),
    "amortised": Method(0, amortised=True),
    "best": Method(0, candidates=4),
    "flips": Method(0, symmetries=True),
}


def published_steps(count) -> int:
    """How many of `count` steps the paper steers: the first of up to four, half of more."""
    return 1 if count <= 4 else count // 2


def method_of(name, settings, corrects=True) -> Method:
    """A Method by name with some settings changed; `until` may be one number; corrects: whether there is a network for "amortised"."""
    if name not in METHODS:
        raise UserError(f"method: {name!r}, allowed {', '.join(METHODS)}")
    unknown = [field for field in settings if field not in Method._fields]
    if unknown:
        raise UserError(f"{unknown[0]}: no such setting of a method, there are {', '.join(Method._fields)}")
    if "until" in settings:
        until = settings["until"]
        settings = settings | {"until": tuple(until) if isinstance(until, list | tuple) else (until,)}
    m = METHODS[name]._replace(**settings)
    truth = [field for field, value in Method()._asdict().items() if isinstance(value, bool)]
    for field, good, allowed in (
        *((field, whole(getattr(m, field), low), f"a whole number, {low} to 1000") for field, low in LEAST.items()),
        ("step", real(m.step) and 0 < m.step < math.inf, "a number above 0"),
        ("until", m.until and all(real(p) and 0 < p < 1 for p in m.until), "one number or more above 0 and below 1"),
        ("momentum", real(m.momentum) and 0 <= m.momentum < 1, "0 to below 1"),
        ("order", m.order in ("hardest", "alternate"), "hardest, alternate"),
        *((field, isinstance(getattr(m, field), bool), "True, False") for field in truth),
    ):
        if not good:
            raise UserError(f"{field}: {getattr(m, field)!r}, allowed {allowed}")
    if m.amortised and not corrects:
        raise UserError(f"method {name!r}: the classifier has no network that corrects noises, anystep steer-train --amortise makes one")
    return m


def whole(value, low):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= 1000


def real(value):
    return isinstance(value, int | float) and not isinstance(value, bool)
