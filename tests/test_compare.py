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
    assert compare.difference(three[:1], half, TAGS).seeds is None and compare.difference(three[:1], half, TAGS).freedom == np.inf
    assert found.freedom == pytest.approx(2) and found.mine == pytest.approx(1 / 3) and found.theirs == 0.5
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
    found = Difference(mean, error, error, None, np.inf, 0.5 + mean, 0.5)
    assert [compare.verdict(found, claim) for claim in compare.CLAIMS] == [better, no_worse, equal]
    with pytest.raises(ValueError, match="worse"):
        compare.verdict(found, "worse")


def test_the_same_trainings_share_their_luck():
    """Two numbers of steps of three trainings: what a training learned falls out, and the error is that of repeated studies."""

    def study():
        difficulty, luck = RNG.beta(0.4, 0.4, len(TAGS)), 0.2 * RNG.normal(size=(3, 1))
        noise = RNG.random(len(TAGS))
        right = [np.clip(difficulty + luck + 0.02 * RNG.normal(size=(3, 1)), 0, 1) > noise for _ in range(2)]
        return compare.difference(*right, TAGS, same=True), compare.difference(*right, TAGS)

    both = [study() for _ in range(400)]
    spread = np.std([same.mean for same, _ in both])
    assert spread < np.sqrt(np.mean([same.error**2 for same, _ in both])) < 1.6 * spread
    assert np.mean([apart.error for _, apart in both]) > 3 * spread


@pytest.mark.slow
def test_few_trainings_need_larger_differences():
    """Equal methods, three seeds against one: the share of false verdicts is that of two standard errors."""
    tags = np.repeat(["a", "b"], 4000)
    false = 0
    for _ in range(500):
        scores = 0.5 + 0.06 * RNG.normal(size=4)
        right = (np.arange(8000) % 4000 + 0.5) / 4000 < scores[:, None]  # no luck with prompts
        false += compare.verdict(compare.difference(right[:3], right[3:], tags), "better") != "unresolved"
    assert false / 500 == pytest.approx(0.0455, abs=0.03)


def test_the_best_of_many_must_be_ahead_by_more():
    found = Difference(-0.05, 0.02, 0.02, None, np.inf, 0.45, 0.5)
    assert compare.verdict(found, "no worse") == "does not" and compare.verdict(found, "no worse", rivals=24) == "unresolved"
    assert compare.verdict(found._replace(mean=-0.07), "no worse", rivals=24) == "does not"


def test_two_that_know_nothing_are_not_equal():
    found = Difference(0.0, 0.0, 0.0, None, np.inf, 0.04, 0.04)
    assert [compare.verdict(found, claim) for claim in compare.CLAIMS] == ["unresolved"] * 3
    assert compare.verdict(found._replace(mine=0.2, theirs=0.2), "equal") == "holds"
    ahead = found._replace(mean=0.05, error=0.01, mine=0.09)
    assert [compare.verdict(ahead, claim) for claim in compare.CLAIMS] == ["holds", "holds", "does not"]  # little, but more than nothing
