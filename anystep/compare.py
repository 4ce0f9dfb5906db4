"""Two models on the same prompts and noise: the difference of their scores, its standard error, and what that says of a claim.

With d_i the difference of prompt i (a mean over seeds, in [-1, 1]) and n_k the prompts of tag k of K,

    difference = sum_k mean_k(d) / K                  overall is the plain mean of the tag means, as in `evals`
    prompts^2  = sum_k var_k(d) / n_k / K^2           pairing: what is easy or hard for both falls out
    seeds^2    = v (1 / seeds of A + 1 / seeds of B)  v: variance of a seed's score, pooled over the sides that have several
               = var(d_s) / seeds                     where both sides are the same trainings, d_s the difference of training s
    error^2    = prompts^2 + seeds^2                  a little too wide: v holds some of the luck with prompts, too

Prompts of a tag are independent draws of the world's own captions, so that a short caption may be drawn more than once: errors are those of
the mean over its captions as often as it says them, not over different texts.

Without a second seed on either side the error is that of these two trainings, not of two methods: `seeds` is None. Few seeds know their
own variance badly: bounds are quantiles of Student's t with the degrees of freedom of error^2 (Welch, Satterthwaite).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CLAIMS = ("better", "no worse", "equal")
HOLDS, FAILS, UNRESOLVED = "holds", "does not", "unresolved"


class Difference(NamedTuple):
    """A minus B with its standard error, the two parts of it, its degrees of freedom, and the scores of both."""

    mean: float
    error: float
    prompts: float
    seeds: float | None
    freedom: float
    mine: float
    theirs: float


def overall(right, tags: Sequence[str]):
    """[..., prompts] -> [...]: the plain mean of the tag means."""
    right, tags = np.asarray(right, np.float64), np.asarray(tags)
    return np.mean([right[..., tags == tag].mean(-1) for tag in sorted(set(tags))], axis=0)


def difference(a, b, tags: Sequence[str], same=False) -> Difference:
    """a, b: [seeds, prompts] of truth values on the same prompts and noise, seeds may differ in number; tags: one a prompt, each tag on two
    prompts or more (ValueError). same: row s of both is one training."""
    a, b, tags = np.asarray(a, np.float64), np.asarray(b, np.float64), np.asarray(tags)
    d = a.mean(0) - b.mean(0)
    groups = [d[tags == tag] for tag in sorted(set(tags))]
    if min(len(group) for group in groups) < 2:
        raise ValueError("tags: one with a single prompt has no standard error")
    prompts = float(np.sqrt(sum(group.var(ddof=1) / len(group) for group in groups)) / len(groups))
    seeds, freedom = within(overall(a, tags) - overall(b, tags)) if same else between(a, b, tags)
    error, scores = float(np.hypot(prompts, seeds or 0.0)), [float(overall(side, tags).mean()) for side in (a, b)]
    if seeds:
        freedom = error**4 / (seeds**4 / freedom + prompts**4 / (len(tags) - len(groups)))
    return Difference(float(np.mean([group.mean() for group in groups])), error, prompts, seeds, float(freedom), *scores)


def within(d):
    """(error of the mean of differences [seeds], degrees of freedom), or (None, inf) for one seed."""
    return (float(d.std(ddof=1) / np.sqrt(len(d))), len(d) - 1) if len(d) > 1 else (None, np.inf)


def between(a, b, tags):
    """(the part of the error that another training would show, degrees of freedom); (None, inf) where both sides have one seed."""
    several = [side for side in (a, b) if len(side) > 1]
    if not several:
        return None, np.inf
    squares = sum(np.square(scores - scores.mean()).sum() for scores in (overall(side, tags) for side in several))
    freedom = sum(len(side) - 1 for side in several)
    return float(np.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))), freedom


def verdict(found: Difference, claim: str, rivals: int = 1, margin: float = 0.05, least: float = 0.1) -> str:
    """ "holds" | "does not" | "unresolved" for "A is better than B", "no worse" or "equal".

    A claim fails where the difference speaks against it by more than two standard errors (the same probability in Student's t). "better"
    holds beyond them on the right side, and "no worse" with it; "no worse" and "equal" hold where even that many errors more would stay
    within `margin`: not knowing is no proof of them, nor is that both scores lie below `least`. rivals: B is the best of so many, which
    luck alone would have put ahead; the probability is divided by them (Bonferroni).
    """
    bound = float(stats.t.isf(stats.norm.sf(2.0) / rivals, found.freedom)) * found.error
    if claim == "better":
        return HOLDS if found.mean > bound else FAILS if found.mean < -bound else UNRESOLVED
    if claim not in CLAIMS:
        raise ValueError(f"claim: {claim!r}, allowed {', '.join(CLAIMS)}")
    low = max(found.mine, found.theirs) < least
    if claim == "no worse":
        within_margin = found.mean - bound > -margin and not low
        return FAILS if found.mean < -bound else HOLDS if found.mean > bound or within_margin else UNRESOLVED
    return FAILS if abs(found.mean) > bound else HOLDS if abs(found.mean) + bound < margin and not low else UNRESOLVED
