"""A work directory on an object store: the same run, stopped and started again, verified and drawn from, all under gs://."""

import os
import subprocess
import sys

import fake_gcs
import pytest
import tiny

from anystep import logs
from anystep.errors import UserError
from anystep.flags import require_remote


@pytest.fixture
def server():
    with fake_gcs.serve() as running:
        yield running


def anystep(server, *arguments, module="anystep"):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | server.environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_run_under_gs(server, tmp_path):
    flags = tiny.arguments("smoke", tmp_path, *tiny.FLOW_ALONE, "--workdir", "gs://bucket/run")
    done = anystep(server, "train", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    before = dict(server.objects)
    assert {"run/config.json", "run/model/weights.safetensors", "run/metrics.jsonl", "run/checkpoints/6.files.json"} <= set(before)
    assert not any(".part" in name for name in before)
    rows = [row for row in logs_of(before["run/metrics.jsonl"], tmp_path) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]

    for name in list(server.objects):  # as if it had been killed after step 3
        if "checkpoints/6" in name or name.startswith("run/model"):
            del server.objects[name]
    done = anystep(server, "train", *flags)
    assert done.returncode == 0 and "going on from step 3" in done.stderr, done.stderr[-2000:]
    assert server.objects["run/model/weights.safetensors"] == before["run/model/weights.safetensors"]
    assert len(logs_of(server.objects["run/metrics.jsonl"], tmp_path)) > len(rows)  # nothing that was there is lost

    verified = anystep(server, "ckpt", "verify", "gs://bucket/run")
    assert verified.returncode == 0 and verified.stdout.count("sound") == 3, verified.stdout
    name = next(name for name in sorted(server.objects) if "checkpoints/6/state/d/" in name)
    data = bytearray(server.objects[name])
    data[len(data) // 2] ^= 1
    server.objects[name] = bytes(data)
    assert anystep(server, "ckpt", "verify", "gs://bucket/run", "--step", 6).returncode == 1


def logs_of(data, folder):
    (folder / "rows.jsonl").write_bytes(data)
    return logs.read_rows(folder / "rows.jsonl")


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs://bucket/run: gs:// needs the package gcsfs"):
        require_remote("gs://bucket/run")
    require_remote("/local/run")
