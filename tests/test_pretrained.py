"""The packaged models: what the records say of them holds here, samplers and steering do on networks that have learned what they should."""

import json
from pathlib import Path

import numpy as np
import pytest

from anystep import api, config, evaluate, flags, sample, steering, weights
from anystep.begin import FREE, differences
from anystep.bench import _steer
from anystep.models import packaged
from anystep.subjects import subject

pytestmark = pytest.mark.usefixtures("full_compilation")

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "anystep/bench/records" / f"pretrained_{flags.MODEL}_cpu.json"
PROMPTS, STEERED = 192, "steer_shapes"


@pytest.fixture(scope="module")
def model():
    return api.load(flags.MODEL)


@pytest.fixture(scope="module")
def asked(model):
    return subject(model[0].config.data, PROMPTS, "test")


def share_right(model, asked, **how):
    """Verdicts [N] of drawing what is asked."""
    drawn = api.sample_array(*model, [row["prompt"] for row in asked.metadata], **how)
    return np.array([asked.judge(picture, row)["joint"] for picture, row in zip(drawn, asked.metadata, strict=True)], float)


@pytest.mark.parametrize("name", [flags.MODEL, STEERED])
def test_what_is_packaged_is_what_its_config_makes(name):
    folder = Path(weights.PACKAGED) / name
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 8e6 and set(packaged()) == {flags.MODEL, STEERED}
    saved = config.completed(json.loads((folder / "config.json").read_text()))
    now = config.flatten(config.load(["--config", name])[0].to_dict())
    unused = (*FREE, "objective.self_evaluation", "model.remat")
    left = [said for path, said in differences(json.loads(json.dumps(saved)), json.loads(json.dumps(now))) if not path.startswith(unused)]
    assert not left


@pytest.mark.long
def test_steering_needs_two_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    how = ["--model", STEERED, "--steer", STEERED, "--steps", "1"]
    sample.main([*how, "--prompt", "a red ring left of a blue square"])
    assert (tmp_path / "grid_steered.png").exists() and "left" in capsys.readouterr().out


@pytest.mark.long
def test_steering_moves_objects_where_the_prompt_says():
    model, params = api.load(STEERED)
    steer = steering.load(STEERED, model, net=params["net"])
    assert not steer.notes
    what = _steer.asked(model, 96, 1, "dev", seed=5)
    prompts = [row["prompt"] for row in what.metadata]
    right = {}
    for name, way in (("plain", None), ("steered", steer)):
        x = api.sample_array(model, params, prompts, 1, seed=5, steer=way)
        right[name] = np.array([what.judge(picture, row)["position"] for picture, row in zip(x, what.metadata, strict=True)], float)
    gain = right["steered"] - right["plain"]
    assert gain.mean() > max(0.1, 2 * gain.std() / np.sqrt(len(gain)))


@pytest.mark.slow
def test_a_prompt_is_enough(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sample.main(["--prompt", "a pink heart above a brown star", "--steps", "1,4"])
    assert (tmp_path / "grid.png").exists() and "restart asking zero" in capsys.readouterr().out


@pytest.mark.slow
def test_it_draws_as_recorded(tmp_path):
    """Other prompts than the record's: another seed."""
    recorded = json.loads(RECORD.read_text())["result"]["steps"]
    evaluate.main(["--model", flags.MODEL, "--prompts", "128", "--seed", "1", "--steps", "1,4,32", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "report.json").read_text())["steps"]
    for count, row in found.items():
        error = np.hypot(row["joint_se"], recorded[count]["joint_se"])
        assert abs(row["joint"] - recorded[count]["joint"]) < 3.5 * error, count
    assert found["1"]["joint"] + 0.2 < found["4"]["joint"] < found["32"]["joint"] + 0.1


@pytest.mark.long
def test_guidance_gains_where_nothing_of_it_is_learned(model, asked):
    plain, guided = (share_right(model, asked, steps=4, sampler="euler", ask="now", guide=scale) for scale in (1.0, 2.0))
    gain = guided - plain
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))


@pytest.mark.long
@pytest.mark.parametrize("sampler, counts", [("euler", (16, 32, 64, 128)), ("heun", (8, 16, 32)), ("dpm", (16, 32, 64))])
def test_every_solver_nears_the_same_limit(model, sampler, counts):
    """Root mean square distance from 256 steps of Heun, of the same noise. On this network, rougher than a closed form, second orders fall
    like Euler's, by half for twice the steps."""
    prompts = ["a red ring left of a blue square", "three green crosses", "a pink heart", "a black star above an orange circle"] * 4

    def drawn(steps, sampler):
        return api.sample_array(*model, prompts, steps=steps, sampler=sampler, ask="now", guide=1.0)

    limit = drawn(256, "heun")
    far = [np.sqrt(np.mean((drawn(steps, sampler) - limit) ** 2)) for steps in counts]
    assert all(fine < 0.75 * coarse for coarse, fine in zip(far, far[1:], strict=False)) and far[0] < 0.1


@pytest.mark.slow
def test_a_picture_does_not_depend_on_its_company(model, asked):
    prompts = [row["prompt"] for row in asked.metadata[:5]]
    together = api.sample_array(*model, prompts, steps=2, seed=3)
    alone = np.concatenate([api.sample_array(*model, [prompt], steps=2, seed=3, first=n) for n, prompt in enumerate(prompts)])
    np.testing.assert_allclose(together, alone, atol=2e-4)
