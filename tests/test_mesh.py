"""The mesh on eight fake devices, in a process of its own, and what holds on one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from anystep import mesh as meshes
from anystep.errors import UserError


@pytest.mark.slow
def test_on_eight_devices():
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    file = Path(__file__).with_name("on_eight_devices.py")
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file], capture_output=True, text=True, env=env)
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-4000:] + run.stderr[-1000:]


def test_one_device_is_a_mesh_too():
    n = len(jax.devices())
    mesh = meshes.make_mesh(SimpleNamespace(data=1, fsdp=1))
    shardings, whole = meshes.shard_rule({"blocks": {"w": jax.ShapeDtypeStruct((4, 512, 512), np.float32)}}, mesh)
    assert whole == [] and shardings["blocks"]["w"].is_fully_replicated
    np.testing.assert_array_equal(meshes.device_batch(np.arange(3), mesh), np.arange(3))
    with pytest.raises(UserError, match=rf"config\.mesh\.fsdp = {n + 1}: allowed are the divisors of {n},"):
        meshes.make_mesh(SimpleNamespace(data=-1, fsdp=n + 1))


def test_stacked_is_decided_by_a_key_not_by_a_substring():
    assert meshes.is_stacked("net/blocks/mlp/kernel") and meshes.is_stacked("0/mu/blocks/w")
    assert not meshes.is_stacked("net/blocks_0/kernel") and not meshes.is_stacked("net/head/kernel")


@pytest.mark.parametrize(
    "address", ["all", "host,2,0", "host:1,2", "host:1,,0", "host:1,2,2", "host:1,2,-1", "host:1,two,0", "host:x,2,0", ",,"]
)
def test_bad_addresses_of_processes_are_one_line(address):
    with pytest.raises(UserError, match="--processes .*: must be"):
        meshes.join(address)


def test_alone_nothing_is_joined():
    meshes.join("")
    assert meshes.agree(7) == 7 and meshes.leave_alone(ValueError("goes on")) is None
