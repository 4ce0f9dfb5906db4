"""Checkpoints: what is restored is what was saved, bit for bit, or it is not restored."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anystep import checkpoint, spikes
from anystep.data import make_stream
from anystep.errors import UserError
from anystep.types import TrainState

MIXTURE = SimpleNamespace(kind="mixture2d", size=1, modes=3)
TX = optax.adam(0.1)


def stream(batch=4):
    return make_stream(MIXTURE, lambda captions: np.array([int(text.split()[1]) for text in captions], np.int32), 7, batch)


def start():
    params = {"net": {"w": jnp.full((2, 3), 0.5), "b": jnp.zeros((3,), jnp.bfloat16)}}
    return TrainState(
        jnp.int32(0), params, {"net": TX.init(params["net"])}, {"0.9": params}, {"odd": {"seen": jnp.zeros((4,), bool)}}, spikes.empty(4)
    )


@jax.jit
def update(state, batch):
    """A step in which every sample and every leaf of the state counts."""

    def loss(net):
        answer = batch["x0"][:, 0, 0] @ net["w"] + net["b"].astype(jnp.float32)[None]
        return jnp.mean((answer - jnp.cos(batch["cond"]["tokens"] + 1.0 * batch["index"])[:, None]) ** 2)

    updates, opt = TX.update(jax.grad(loss)(state.params["net"]), state.opt["net"])
    params = {"net": optax.apply_updates(state.params["net"], updates)}
    ema = jax.tree.map(lambda old, new: (0.9 * old + 0.1 * new).astype(old.dtype), state.ema["0.9"], params)
    return TrainState(state.step + 1, params, {"net": opt}, {"0.9": ema}, {"odd": {"seen": ~state.buffers["odd"]["seen"]}}, state.guard)


def run(state, batches, steps):
    for _ in range(steps):
        state = update(state, next(batches))
    return state


def empty(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_three_and_three_steps_are_six_bit_for_bit(tmp_path):
    truth = run(start(), stream(), 6)
    batches = stream()
    half = run(start(), batches, 3)
    assert checkpoint.save(tmp_path, 3, half, batches, {"config": {"seed": 1, "path": ["linear"]}})()
    fresh = stream()
    step, state, info = checkpoint.restore(tmp_path, empty(start()), fresh)
    assert step == 3 and info == {"config": {"seed": 1, "path": ["linear"]}}
    assert isinstance(state, TrainState)
    equal(state, half)
    equal(run(state, fresh, 3), truth)


def test_what_changes_after_save_is_not_saved(tmp_path):
    batches = stream()
    state = run(start(), batches, 1)
    truth = jax.tree.map(np.array, state)
    wait = checkpoint.save(tmp_path, 1, state, batches)
    next(batches)
    jax.tree.map(lambda leaf: leaf.delete(), state)  # as donation does
    assert wait()
    fresh = stream()
    equal(checkpoint.restore(tmp_path, empty(start()), fresh)[1], truth)
    assert next(fresh)["index"].tolist() == [4, 5, 6, 7]


def test_only_the_newest_are_kept_and_only_once_the_new_one_is_there(tmp_path):
    for step in (1, 2, 3, 10):
        wait = checkpoint.save(tmp_path, step, start(), keep=2)
        assert set(checkpoint.committed_steps(tmp_path)) >= {max(step - 1, 1)} or step in (1, 10)
        assert wait()
    assert checkpoint.committed_steps(tmp_path) == [3, 10]
    assert checkpoint.save(tmp_path, 4, start(), keep=2)()  # after a fall back past 10: what lies ahead is not counted and not touched
    assert checkpoint.committed_steps(tmp_path) == [3, 4, 10]


def test_other_things_in_the_folder_are_no_checkpoints(tmp_path):
    assert checkpoint.committed_steps(tmp_path / "nowhere") == []
    checkpoint.save(tmp_path, 1, start())()
    shutil.copytree(tmp_path / "checkpoints/1", tmp_path / "checkpoints/2.orbax-checkpoint-tmp-5")
    shutil.copytree(tmp_path / "checkpoints/1", tmp_path / "checkpoints/backup")
    shutil.copytree(tmp_path / "checkpoints/1", tmp_path / "checkpoints/3")
    (tmp_path / "checkpoints/3/commit_success.txt").unlink()
    (tmp_path / "checkpoints/4").write_text("")
    assert checkpoint.committed_steps(tmp_path) == [1]


KILLED = """
import os, signal, sys, threading, time
import jax.numpy as jnp
from anystep import checkpoint
checkpoint.save(sys.argv[1], 1, {"w": jnp.arange(4.0)})()
def kill():
    while not any(name.startswith("2.") for name in os.listdir(sys.argv[1] + "/checkpoints")):
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill).start()
checkpoint.save(sys.argv[1], 2, {"w": jnp.arange(2.0**24) % 1013})()
"""


@pytest.mark.slow
def test_a_save_that_was_killed_is_ignored_and_can_be_repeated(tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment(), capture_output=True, timeout=300)
    assert ended.returncode == -9, ended.stderr
    left = [entry.name for entry in (tmp_path / "checkpoints").iterdir()]
    assert len(left) == 3 and {"1", "1.files.json"} < set(left) and "2" not in left
    assert checkpoint.committed_steps(tmp_path) == [1]
    step, state, _ = checkpoint.restore(tmp_path, {"w": jax.ShapeDtypeStruct((4,), jnp.float32)})
    assert step == 1 and state["w"].tolist() == [0, 1, 2, 3]
    assert checkpoint.save(tmp_path, 2, state)()
    assert checkpoint.committed_steps(tmp_path) == [1, 2]


def environment():
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}


def data_files(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size and "d" in file.parent.name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7)])
def test_the_digest_is_the_same_on_the_host_and_across_processes(dtype, shape):
    leaf = jnp.asarray(np.random.default_rng(0).integers(0, 200, shape)).astype(dtype)
    assert checkpoint._digest(leaf) == int(checkpoint._digest_across_processes(leaf))


def test_the_digest_is_its_formula():
    words = np.array([[3, 5], [2**32 - 1, 7]], np.uint32)
    assert checkpoint._digest(words) == (3 * 1 + 5 * 3 + (2**32 - 1) * 5 + 7 * 7) % 2**32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")  # orbax, when a read fails
def test_no_flipped_bit_is_ever_restored(tmp_path, capfd):
    old = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((64, 8)), jnp.float32), "b": jnp.arange(40) % 7 == 0}
    new = {"w": jnp.asarray(np.random.default_rng(1).standard_normal((64, 8)), jnp.float32), "b": jnp.arange(40) % 5 == 0}
    checkpoint.save(tmp_path, 1, old)()
    checkpoint.save(tmp_path, 2, new)()
    dice, fell, files = random.Random(0), 0, data_files(tmp_path / "checkpoints/2")
    weights = [file.stat().st_size for file in files]
    for _ in range(40):
        file = dice.choices(files, weights)[0]
        sound = file.read_bytes()
        broken = bytearray(sound)
        broken[dice.randrange(len(sound))] ^= 1 << dice.randrange(8)
        file.write_bytes(broken)
        step, state, _ = checkpoint.restore(tmp_path, empty(old))
        equal(state, {1: old, 2: new}[step])
        fell += step == 1
        file.write_bytes(sound)
    assert fell > 20
    assert capfd.readouterr().err.count("WARNING: checkpoint 2 cannot be read") == fell
    assert checkpoint.restore(tmp_path, empty(old))[0] == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")  # orbax, when a read fails
@pytest.mark.parametrize("damage", ["truncate", "empty", "delete", "no metadata", "swap", "iterator"])
def test_a_damaged_checkpoint_costs_one_line_and_the_one_before_is_taken(tmp_path, damage, capfd):
    batches = stream()
    states = {}
    for step in (1, 2):
        states[step] = run(start(), batches, step)
        checkpoint.save(tmp_path, step, states[step], batches)()
    newest = tmp_path / "checkpoints/2"
    for file in data_files(newest):
        if damage == "truncate":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        if damage == "empty":
            file.write_bytes(b"")
        if damage == "delete":
            file.unlink()
    if damage == "no metadata":
        (newest / "_CHECKPOINT_METADATA").unlink()
    if damage == "iterator":
        text = (newest / "_CHECKPOINT_METADATA").read_text()
        assert text.count('"next_index": 3') == 1
        (newest / "_CHECKPOINT_METADATA").write_text(text.replace('"next_index": 3', '"next_index": 7'))
    if damage == "swap":
        shutil.rmtree(newest / "state")
        shutil.copytree(tmp_path / "checkpoints/1/state", newest / "state")
    fresh = stream()
    step, state, _ = checkpoint.restore(tmp_path, empty(start()), fresh)
    assert step == 1
    equal(state, states[1])
    assert next(fresh)["index"][0] == 4  # where checkpoint 1 stood
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("WARNING: checkpoint 2 cannot be read")]
    assert len(lines) == 1
    shutil.rmtree(tmp_path / "checkpoints/1")
    with pytest.raises(UserError, match=r"none of the checkpoints \[2\] can be read"):
        checkpoint.restore(tmp_path, empty(start()))


def test_a_changed_model_is_one_error_with_every_difference_and_no_way_back(tmp_path):
    checkpoint.save(tmp_path, 1, {"net": {"a": jnp.zeros((2, 3)), "gone": jnp.zeros(1), "kind": jnp.zeros(1)}})()
    wanted = {"net": {"a": jax.ShapeDtypeStruct((3, 3), jnp.float32), "new": jax.ShapeDtypeStruct((1,), jnp.float32)}}
    wanted["net"]["kind"] = jax.ShapeDtypeStruct((1,), jnp.bfloat16)
    with pytest.raises(UserError) as caught:
        checkpoint.restore(tmp_path, wanted)
    message = str(caught.value)
    for part in ("1 missing: net/new;", "1 unused: net/gone;", "2 mis-shaped: net/a (", ", net/kind ("):
        assert part in message
    assert "[3, 3]" in message and "[2, 3]" in message and "bfloat16" in message and "\n" not in message


def test_a_branch_can_be_read_alone_and_to_the_host(tmp_path):
    state = run(start(), stream(), 2)
    checkpoint.save(tmp_path, 2, state)()
    saved = checkpoint.saved_tree(tmp_path, 2)
    assert saved["params"]["net"]["b"].dtype == jnp.bfloat16
    _, part, _ = checkpoint.restore(tmp_path, {"ema": saved["ema"]}, partial=True)
    equal(part["ema"], state.ema)
    host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved["ema"])
    _, part, _ = checkpoint.restore(tmp_path, {"ema": host}, partial=True)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(part))
    equal(part["ema"], state.ema)
    with pytest.raises(UserError, match="unused"):
        checkpoint.restore(tmp_path, {"ema": saved["ema"]})


def test_an_asked_step_is_taken_or_refused(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"w": jnp.float32(step)})()
    abstract = {"w": jax.ShapeDtypeStruct((), jnp.float32)}
    assert checkpoint.restore(tmp_path, abstract, step=1)[1]["w"] == 1.0
    assert checkpoint.save(tmp_path, 1, {"w": jnp.float32(8)})()  # again, as after a fall back
    assert checkpoint.restore(tmp_path, abstract, step=1)[1]["w"] == 8.0
    with pytest.raises(UserError, match="no finished checkpoint of step 3"):
        checkpoint.restore(tmp_path, abstract, step=3)
    with pytest.raises(UserError, match="no finished checkpoint"):
        checkpoint.restore(tmp_path / "none", abstract)


def test_a_disk_that_refuses_does_not_end_the_run(tmp_path, capfd):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    assert checkpoint.save(tmp_path, 1, {"w": jnp.zeros(2)})() is False
    assert "WARNING: checkpoint 1 was not written" in capfd.readouterr().err
    (tmp_path / "checkpoints").unlink()
    assert checkpoint.save(tmp_path, 1, {"w": jnp.zeros(2)})() is True


MESH = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
from anystep import checkpoint
mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
tree = {"rows": np.arange(64.0, dtype=np.float32).reshape(16, 4), "whole": np.arange(5, dtype=np.int32)}
shard = {"rows": NamedSharding(mesh, P("d")), "whole": NamedSharding(mesh, P())}
if sys.argv[3] == "save":
    assert checkpoint.save(sys.argv[1], 1, jax.device_put(tree, shard))()
else:
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shard)
    state = checkpoint.restore(sys.argv[1], abstract)[1]
    assert all(bool((np.asarray(state[k]) == tree[k]).all()) and state[k].sharding == shard[k] for k in tree)
    assert len(state["rows"].addressable_shards) == int(sys.argv[2])
"""


@pytest.mark.slow
def test_eight_devices_save_and_one_and_four_restore(tmp_path):
    for count, act in (("8", "save"), ("4", "restore")):
        command = [sys.executable, "-c", MESH, str(tmp_path), count, act]
        ended = subprocess.run(command, env=environment(), capture_output=True, timeout=300)
        assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    abstract = {"rows": jax.ShapeDtypeStruct((16, 4), jnp.float32), "whole": jax.ShapeDtypeStruct((5,), jnp.int32)}
    _, state, _ = checkpoint.restore(tmp_path, abstract)
    assert state["rows"].ravel().tolist() == list(range(64)) and state["whole"].tolist() == list(range(5))


def test_a_relative_work_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"w": jnp.arange(3.0)}
    assert checkpoint.save("run", 7, state)()
    step, loaded, _ = checkpoint.restore("run", {"w": np.zeros(3, np.float32)})
    assert step == 7 and checkpoint.committed_steps(tmp_path / "run") == [7]
    np.testing.assert_array_equal(loaded["w"], [0.0, 1.0, 2.0])
