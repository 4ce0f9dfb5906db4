"""Paired differences: unbiased, their errors those of repeated experiments, and verdicts that follow."""

import numpy as np
import pytest

from anystep import compare
from anystep.compare import Difference

RNG = np.random.default_rng(0)
TAGS = np.repeat(["single", "two", "position"], [30, 60, 90])


def experiment(gain, seeds=1, spread=0.0):
    """Verdicts of two models on prompts of very different difficulty; B is right less often by `gain`, each training by its own luck."""
    difficulty = RNG.beta(0.4, 0.4, len(TAGS))
    noise = RNG.random(len(TAGS))  # shared by all
    return [
        np.stack([noise < np.clip(difficulty + shift + spread * RNG.normal(), 0, 1) for _ in range(seeds)])
        for shift in (gain / 2, -gain / 2)
    ]


def test_overall_weighs_tags_and_not_prompts():
    right = np.where(TAGS == "single", 1.0, 0.0)
    assert compare.overall(right, TAGS) == pytest.approx(1 / 3)
    assert compare.overall(np.stack([right, 1 - right]), TAGS) == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize("seeds, spread", [(1, 0.0), (3, 0.1)])
def test_the_error_is_that_of_repeated_experiments(seeds, spread):
    found = [compare.difference(*experiment(0.1, seeds, spread), TAGS) for _ in range(600)]
    means, errors = (np.array([getattr(d, name) for d in found]) for name in ("mean", "error"))
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(means.std(), rel=0.12)
    prompts = np.sqrt(np.mean([d.prompts**2 for d in found]))
    assert (prompts < 0.7 * means.std()) == (seeds > 1)  # what pairing alone would claim


def test_pairing_makes_it_smaller():
    a, b = (side[0] for side in experiment(0.1))
    apart = np.sqrt(sum(side[TAGS == tag].var(ddof=1) / (TAGS == tag).sum() for side in (a, b) for tag in set(TAGS))) / 3
    assert compare.difference(a[None], b[None], TAGS).error < 0.6 * apart


def test_one_seed_borrows_the_spread_of_the_other_side():
    three = np.zeros((3, len(TAGS)))
    three[0] = 1.0  # one training learned, two did not: variance 1 / 3
    half = np.full((1, len(TAGS)), 0.5)
    found = compare.difference(three, half, TAGS)
    assert found.prompts == pytest.approx(0.0, abs=1e-9)
    assert found.seeds == pytest.approx(np.sqrt((1 / 3) * (1 / 3 + 1))) == pytest.approx(found.error)
    assert compare.difference(three[:1], half, TAGS).seeds is None
    with pytest.raises(ValueError, match="single prompt"):
        compare.difference(half[:, :2], half[:, :2], ["single", "two"])


@pytest.mark.parametrize(
    "mean, error, better, no_worse, equal",
    [
        (0.05, 0.02, "holds", "holds", "does not"),
        (0.01, 0.015, "unresolved", "holds", "holds"),
        (0.0, 0.2, "unresolved", "unresolved", "unresolved"),
        (-0.05, 0.02, "does not", "does not", "does not"),
    ],
)
def test_verdicts(mean, error, better, no_worse, equal):
    found = Difference(mean, error, error, None)
    assert [compare.verdict(found, claim) for claim in compare.CLAIMS] == [better, no_worse, equal]
    with pytest.raises(ValueError, match="worse"):
        compare.verdict(found, "worse")
