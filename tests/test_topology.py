"""The same run on 1 device, on 8 and in 2 processes: loss and gradient norms of the first three steps agree to 1e-5. And a run that moves
between machines."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from anystep.logs import read_rows

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return in_own_process(tmp_path_factory.mktemp("one"), 1, 1, 1)


def in_own_process(folder, devices, data, fsdp, what="three_steps"):
    """three_steps where jax has `devices` CPU devices."""
    code = f"import jax; jax.config.update('jax_num_cpu_devices', {devices}); import json, steps, pathlib; "
    code += f"print(json.dumps(steps.{what}({data}, {fsdp}, pathlib.Path({str(folder)!r}))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.parametrize("data, fsdp", [(8, 1), (2, 4)])
def test_eight_devices_take_the_steps_of_one(data, fsdp, one_device, tmp_path):
    many = in_own_process(tmp_path, 8, data, fsdp)
    assert one_device["split"] == 0 and (many["split"] > 5) == (fsdp > 1)
    np.testing.assert_allclose(many["rows"], one_device["rows"], rtol=1e-5)


@pytest.mark.long
def test_eight_devices_distil_as_one(tmp_path):
    """A step of the heads, one of the student, and again: with weights of teacher, student and heads split."""
    one, many = (in_own_process(tmp_path, devices, data, fsdp, "taught_steps") for devices, data, fsdp in ((1, 1, 1), (8, 2, 4)))
    assert one["split"] == one["split_frozen"] == 0 and many["split"] > 5 < many["split_frozen"]
    assert np.isnan(one["rows"][0]).sum() == 3 and np.isfinite(one["rows"][1]).all()
    np.testing.assert_allclose(many["rows"], one["rows"], rtol=2e-5)


@pytest.mark.long
def test_eight_devices_follow_edges_as_one(tmp_path):
    one, many = (in_own_process(tmp_path, devices, data, fsdp, "followed_steps") for devices, data, fsdp in ((1, 1, 1), (8, 2, 4)))
    assert one["split"] == 0 and many["split"] > 5
    np.testing.assert_allclose(many["rows"], one["rows"], rtol=1e-5)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    one = in_own_process(tmp_path, 1, 1, 1, "light_steps")
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "steps.py", str(tmp_path), str(port)]
    both = [subprocess.Popen([*command, str(i)], cwd=HERE, stderr=subprocess.PIPE, text=True) for i in range(2)]
    for process in both:
        _, said = process.communicate(timeout=400)
        assert process.returncode == 0, said[-3000:]
    for i in range(2):
        found = json.loads((tmp_path / f"process_{i}.json").read_text())
        assert found["split"] > 5
        np.testing.assert_allclose(found["rows"], one["rows"], rtol=1e-5)


TRAIN = """
import sys, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from anystep import guard, train
guard.Stop.__call__ = lambda self, turn: turn == int(sys.argv[2])
raise SystemExit(train.main(sys.argv[3:]))
"""


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    """8, then 4, then 1, then 8 again: the samples, the noise and the losses of one device throughout."""
    flags = tiny.arguments("smoke", tmp_path, *tiny.ALL_OBJECTIVES, "--config.data.batch=32")

    def run(name, devices, turns):
        command = [sys.executable, "-c", TRAIN, str(devices), str(turns), *flags, "--workdir", str(tmp_path / name)]
        return subprocess.run(command, capture_output=True, text=True, timeout=400)

    codes = [run("moved", devices, turns).returncode for devices, turns in ((8, 2), (4, 1), (1, 2), (8, 6))]
    assert codes == [42, 42, 42, 0] and run("stayed", 1, 6).returncode == 0
    moved, stayed = ([row for row in read_rows(tmp_path / name / "metrics.jsonl") if "loss" in row] for name in ("moved", "stayed"))
    assert [row["step"] for row in moved] == [row["step"] for row in stayed] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "loss/self_evaluation", "loss/consistency", "grad_norm/net"):
        np.testing.assert_allclose([row[name] for row in moved], [row[name] for row in stayed], rtol=1e-3)
