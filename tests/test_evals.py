"""The any-step report, driven by pictures whose verdict is known: the world's own renderings, noise, and mixtures of both."""

import json
import math

import numpy as np
import pytest

from anystep import evals
from anystep.shapes.caption import prompts
from anystep.shapes.detect import judge
from anystep.shapes.draw import draw
from anystep.shapes.scene import KINDS, World, make_scene

WORLD = World(size=24)


def oracle(n, seed=0, split="test"):
    return np.stack([draw(make_scene(WORLD, seed, i, split, KINDS[i % len(KINDS)]), WORLD) for i in range(n)])


def report(pictures, metadata, steps=(4,), **options):
    """`pictures`: {steps: images}, in the order of the metadata."""
    verdict = lambda image, asked: judge(image, asked, WORLD)  # noqa: E731
    return evals.any_step_report(lambda _, count: pictures[count], metadata, steps, verdict, **options)


def test_the_worlds_own_pictures_are_right_noise_is_wrong_and_a_mixture_between():
    n = 48
    metadata = prompts(WORLD, 0, n)
    right = oracle(n)
    noise = np.random.default_rng(0).integers(0, 256, right.shape).astype(np.uint8)
    broken = np.arange(n) % 12 < 2  # the first of every two of single_object and two_object
    mixed = np.where(broken[:, None, None, None], noise, right)
    out = report({1: noise, 2: mixed, 32: right}, metadata, (1, 2, 32), split="dev", seed=7, guide={"scale": 2.0})
    rows = out["steps"]
    for name in ("overall", *KINDS, "joint"):
        assert rows["1"][name] == 0.0 and rows["32"][name] == 1.0 and rows["1"][f"{name}_se"] == rows["32"][f"{name}_se"] == 0.0
    assert rows["2"]["single_object"] == rows["2"]["two_object"] == 0.5 and rows["2"]["position"] == 1.0
    assert rows["2"]["overall"] == pytest.approx(5 / 6) and rows["2"]["joint"] == pytest.approx(5 / 6)
    assert (out["prompts"], out["split"], out["seed"], out["guide"]) == (n, "dev", 7, {"scale": 2.0})
    assert set(out["seconds"]) == {"1", "2", "32"} and out["versions"]["numpy"] == np.__version__
    assert json.loads(json.dumps(out, allow_nan=False)) == out
    text = evals.table(out).splitlines()
    assert len(text) == 4 and len({len(line) for line in text}) == 1 and "0.83" in text[2]


def verdicts(tags, right):
    return [{"correct": bool(r), "joint": bool(r)} for r in right], [{"tag": tag, "prompt": tag} for tag in tags]


def test_overall_is_the_mean_of_tags_not_of_prompts():
    judged, metadata = verdicts(["a"] * 3 + ["b"] * 9, [1] * 3 + [0] * 9)
    row = evals.scores(judged, metadata)
    assert row["overall"] == 0.5 and row["joint"] == 0.25
    one = evals.scores(*verdicts(["a", "b", "b"], [1, 1, 0]))
    assert one["a_se"] is None and one["overall_se"] is None and one["b_se"] == pytest.approx(0.5)


def test_standard_errors_are_those_of_repeated_experiments():
    rng, tags, shares = np.random.default_rng(1), ["a"] * 5 + ["b"] * 20 + ["c"] * 8, {"a": 0.7, "b": 0.2, "c": 0.5}
    rows = []
    for _ in range(4000):
        rows.append(evals.scores(*verdicts(tags, [rng.random() < shares[tag] for tag in tags])))
    for name in ("overall", "a", "b", "joint"):
        spread = np.var([row[name] for row in rows])
        expected = np.mean([row[f"{name}_se"] ** 2 for row in rows])
        # "joint" ignores that prompts of one tag are alike, so its error may only be too large
        assert 0.9 * spread < expected < (1.1 if name != "joint" else 1.6) * spread


def test_a_report_of_nothing_is_refused():
    metadata = prompts(WORLD, 0, 6)
    for bad in (dict(metadata=[], steps=(1,)), dict(metadata=metadata, steps=())):
        with pytest.raises(ValueError, match="needs prompts and step counts"):
            report({1: oracle(6)}, **bad)
    with pytest.raises(ValueError, match="6 prompts gave 5 images"):
        report({4: oracle(6)[:5]}, metadata)
    assert math.isfinite(report({4: oracle(6)}, metadata)["seconds"]["4"])
