"""The benchmarks of times and paths: the search finds what is there and nothing else; both paths on an exact field; their mains."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toys

from anystep import api, times, tree, weights
from anystep.bench import _asked, trig
from anystep.bench import times as bench_times
from anystep.errors import UserError
from anystep.nets.build import build_models
from anystep.types import Drawing, Text

TAGS = ["a", "b"] * 100


def mixture_pipeline(batch):
    """A Pipeline of the exact velocity of a mixture in the plane."""

    def velocity(params, x, t, s, cond):
        return toys.exact_velocity(x.reshape(-1, 2), t).reshape(x.shape)

    told = {"features": jnp.zeros((1, 1, 1)), "mask": jnp.ones((1, 1), bool)}
    text = Text(None, lambda prompts: np.zeros((len(prompts), 1), np.int32), lambda params, tokens: told, None)
    drawing = Drawing(lambda steps, tokens: times.grid(steps), patch=1, steps=(1,), sampler="euler", ask="now", batch=batch)
    return api.assemble(toys.analytic(velocity, ends="none", shape=(1, 1, 2)), text, drawing), {"net": {}, "text": {}}


# Flow-Euler and TrigFlow-Euler


@pytest.fixture(scope="module")
def walked():
    model, params = mixture_pipeline(24)

    def draw(count, model, **how):
        return api.sample_array(model, params, [""] * 24, count, seed=1, **how)

    return trig.walk(draw, model, (8, 32), 128)


@pytest.mark.slow
def test_the_reference_is_where_the_exact_flow_ends(walked):
    keys = tree.sample_keys(tree.fold(jax.random.key(1), "sample"), "noise", 0, jnp.arange(24))
    noise = tree.normal(jax.vmap(jax.random.split)(keys)[:, 0], (2,))
    end = noise - toys.exact_map(noise, jnp.ones(24), jnp.zeros(24), 200)
    assert trig.apart(walked[1].reshape(-1, 2), end) < 1e-3


def test_both_paths_end_at_the_same_points_by_first_order(walked):
    rows = trig.distances(*walked)
    orders = trig.orders(rows)
    for name in trig.WALKS:
        assert orders[name]["to_end"] == pytest.approx(1.0, abs=0.25), name
    assert orders[trig.TANGENTS]["to_linear"] == pytest.approx(1.0, abs=0.25)
    far = {(row["walk"], row["steps"]): row for row in rows}
    for steps in (8, 32):
        assert far[trig.ARCS, steps]["to_linear"] < 1e-5  # Prop. 3.1: the same points
        assert far[trig.TANGENTS, steps]["to_linear"] > 1e-4 and far[f"{trig.ARCS}, even", steps]["to_linear"] > 1e-4
    assert orders["linear"]["to_linear"] is None and orders[trig.ARCS]["to_linear"] is None


def test_tangents_are_eulers_method():
    """One step from pi / 2 to 0: noise - (pi / 2) F, where F = -mean of the data."""
    model, params = mixture_pipeline(8)
    model = api.assemble(trig.as_trig(model.net), model.text, model.drawing)
    noise = np.random.default_rng(0).standard_normal((8, 1, 1, 2)).astype(np.float32)
    x = api.sample_array(model, params, [""] * 8, 1, noise=noise, steer=trig.tangents)
    mean = toys.MIXTURE.weights @ toys.MIXTURE.means
    np.testing.assert_allclose(x[:, 0, 0], noise[:, 0, 0] + np.pi / 2 * mean, atol=1e-5)


# The search


def wells(*places, width=0.5):
    """Prompt i is drawn right where every inner time is near its place, more or less so by prompt."""
    spread = np.linspace(0.1, 4.0, len(TAGS))

    def right(found):
        off = [abs(np.log(t / (1 - t)) - place) for t, place in zip(found[1:-1], places, strict=True)]
        return (spread > sum(off) / width).astype(int)

    return right


def test_the_search_finds_the_best_times():
    for places in ((1.2,), (1.5, -1.1)):
        first = (1.0, *np.linspace(0.6, 0.4, len(places)).round(4), 0.0)
        found, tried = bench_times.search(wells(*places), first, TAGS)
        logits = [np.log(t / (1 - t)) for t in found[1:-1]]
        np.testing.assert_allclose(logits, places, atol=0.21)
        assert found[0] == 1 and found[-1] == 0 and len(tried) <= 8 * len(places)
        assert all(np.diff(row["times"]).max() < 0 for row in tried)


def test_the_search_stays_where_nothing_is_to_be_gained():
    first = (1.0, 0.5, 0.0)
    assert bench_times.search(lambda found: np.array([1, 0] * 100), first, TAGS)[0] == first
    found, tried = bench_times.search(lambda found: np.ones(200, int) * (found == first), first, TAGS)
    assert found == first and len(tried) == 8 and not any(row["taken"] for row in tried)


def test_a_gain_must_exceed_its_error():
    """Of 200 prompts 3 better and 2 worse is less than one deviation, 20 better is more."""
    base = np.array([0, 1] * 100)

    def with_(better, worse):
        out = base.copy()
        out[: 2 * better : 2] = 1
        out[1 : 2 * worse : 2] = 0
        return out

    for gain, moves in (((3, 2), False), ((20, 0), True)):
        found, _ = bench_times.search(lambda found, gain=gain: base if found[1] == 0.5 else with_(*gain), (1.0, 0.5, 0.0), TAGS)
        assert (found[1] != 0.5) == moves


def test_times_that_would_leave_their_place_are_not_tried():
    assert bench_times.moved((1.0, 0.6, 0.5, 0.0), 1, -0.8) is None
    assert bench_times.moved((1.0, 0.6, 0.5, 0.0), 2, 0.8) is None
    assert bench_times.moved((1.0, 0.5, 0.0), 1, np.log(3)) == (1.0, 0.75, 0.0)


def test_lists_are_measured_on_the_same_noise_by_one_program():
    model, params = mixture_pipeline(8)
    metadata = [{"prompt": str(i), "tag": "ab"[i % 2]} for i in range(20)]
    seen = []

    def judge(x, row):
        seen.append(x)
        return {"correct": x[0, 0, 0] > 0}

    asked = _asked.Asked(model, params, metadata, judge, 3, {"sampler": None, "ask": None, "guide": None})
    result = bench_times.measure(asked, asked._replace(seed=4), 3)
    assert model.draw._cache_size() == 1 and result["default"] == [1.0, 0.6667, 0.3333, 0.0]
    drawn = {x.tobytes() for x in seen}
    assert len(drawn) % 20 == 0 and len(drawn) < len(seen)  # the default list again on dev: the same pictures
    if result["found"] == result["default"]:
        assert result["test"]["difference"] == 0 == result["test"]["error"]


# Mains


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with random weights of the config `smoke`, small."""
    place = tmp_path_factory.mktemp("model")
    config = tiny.config("smoke", place, *tiny.FLOW_ALONE)
    models = build_models(config)
    weights.save_folder(place / "model", config.to_dict(), {role: toys.random_params(models[role]) for role in ("net", "text")})
    return place / "model"


@pytest.mark.slow
def test_the_mains_print_and_record(folder, tmp_path, capsys, monkeypatch):
    for module in (bench_times, trig):
        monkeypatch.setattr(module, "use_compile_cache", lambda: None)
    asked = ["--model", str(folder), "--prompts", "16", "--out"]
    bench_times.main([*asked, str(tmp_path / "times.json"), "--steps", "2", "--held_out", "16"])
    said = json.loads((tmp_path / "times.json").read_text())
    found = said["result"]["found"]
    assert said["command"].startswith("anystep bench times --model") and found[0] == 1 and found[-1] == 0 and len(found) == 3
    assert f"found            --times {','.join(f'{t:g}' for t in found)}\n" in capsys.readouterr().out
    trig.main([*asked, str(tmp_path / "trig.json"), "--steps", "2", "--reference", "3"])
    rows = json.loads((tmp_path / "trig.json").read_text())["result"]["rows"]
    assert {(row["walk"], row["steps"]) for row in rows} == {(name, 2) for name in trig.WALKS}
    assert all(row["to_linear"] < 1e-4 for row in rows if row["walk"] == trig.ARCS)
    assert "the end: Heun at 3 steps" in capsys.readouterr().out
    with pytest.raises(UserError, match="--prompts 1|outside 2"):
        trig.main(["--model", str(folder), "--prompts", "1"])
    with pytest.raises(UserError, match="2..16"):
        bench_times.main(["--model", str(folder), "--steps", "1"])
    with pytest.raises(UserError, match="is none of"):
        bench_times.main(["--model", str(tmp_path)])
