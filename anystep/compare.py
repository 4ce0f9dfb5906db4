"""Two models on the same prompts and noise: the difference of their scores, its standard error, and what that says of a claim.

With d_i the difference of prompt i (a mean over seeds, in [-1, 1]) and n_k the prompts of tag k of K,

    difference = sum_k mean_k(d) / K                  overall is the plain mean of the tag means, as in `evals`
    prompts^2  = sum_k var_k(d) / n_k / K^2           pairing: what is easy or hard for both falls out
    seeds^2    = v (1 / seeds of A + 1 / seeds of B)  v: variance of a seed's score, pooled over the sides that have several
    error^2    = prompts^2 + seeds^2                  a little too wide: v holds some of the luck with prompts, too

Without a second seed on either side the error is that of these two trainings, not of two methods: `seeds` is None.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CLAIMS = ("better", "no worse", "equal")
HOLDS, FAILS, UNRESOLVED = "holds", "does not", "unresolved"


class Difference(NamedTuple):
    """A minus B with its standard error and the two parts of it."""

    mean: float
    error: float
    prompts: float
    seeds: float | None


def overall(right, tags: Sequence[str]):
    """[..., prompts] -> [...]: the plain mean of the tag means."""
    right, tags = np.asarray(right, np.float64), np.asarray(tags)
    return np.mean([right[..., tags == tag].mean(-1) for tag in sorted(set(tags))], axis=0)


def difference(a, b, tags: Sequence[str]) -> Difference:
    """a, b: [seeds, prompts] of truth values on the same prompts and noise, seeds may differ in number; tags: one a prompt, each tag on two
    prompts or more (ValueError)."""
    a, b, tags = np.asarray(a, np.float64), np.asarray(b, np.float64), np.asarray(tags)
    d = a.mean(0) - b.mean(0)
    groups = [d[tags == tag] for tag in sorted(set(tags))]
    if min(len(group) for group in groups) < 2:
        raise ValueError("tags: one with a single prompt has no standard error")
    prompts = float(np.sqrt(sum(group.var(ddof=1) / len(group) for group in groups)) / len(groups))
    seeds = between(a, b, tags)
    return Difference(float(np.mean([group.mean() for group in groups])), float(np.hypot(prompts, seeds or 0.0)), prompts, seeds)


def between(a, b, tags):
    """The part of the error that another training would show; None where both sides have one seed."""
    several = [side for side in (a, b) if len(side) > 1]
    if not several:
        return None
    squares = sum(np.square(scores - scores.mean()).sum() for scores in (overall(side, tags) for side in several))
    return float(np.sqrt(squares / sum(len(side) - 1 for side in several) * (1 / len(a) + 1 / len(b))))


def verdict(found: Difference, claim: str, errors: float = 2.0, margin: float = 0.05) -> str:
    """ "holds" | "does not" | "unresolved" for "A is better than B", "no worse" or "equal".

    A claim fails where the difference speaks against it by more than so many standard errors. "better" holds beyond them on the right side;
    "no worse" and "equal" hold where even that many errors more would stay within `margin`: not knowing is no proof of them.
    """
    bound = errors * found.error
    if claim == "better":
        return HOLDS if found.mean > bound else FAILS if found.mean < -bound else UNRESOLVED
    if claim == "no worse":
        return FAILS if found.mean < -bound else HOLDS if found.mean - bound > -margin else UNRESOLVED
    if claim == "equal":
        return FAILS if abs(found.mean) > bound else HOLDS if abs(found.mean) + bound < margin else UNRESOLVED
    raise ValueError(f"claim: {claim!r}, allowed {', '.join(CLAIMS)}")
