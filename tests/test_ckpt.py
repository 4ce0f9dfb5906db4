"""`anystep ckpt` on a small run: what it lists, what it finds wrong, what it exports."""

import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from anystep import api, checkpoint, ckpt, mesh, optim, train, weights
from anystep.errors import UserError
from anystep.nets.build import build_models
from anystep.state import EMA, init_state
from anystep.tree import paths


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two checkpoints of a network that was never trained, as `train` writes them."""
    folder = tmp_path_factory.mktemp("ckpt")
    config = tiny.config("smoke", folder)
    models = build_models(config, mesh.constrain)
    optimizers = {role: optim.make_optimizer(config.optim, 6) for role in ("net", "text")}
    for step in (1, 3):
        state = init_state(models, optimizers, step)
        assert checkpoint.save(
            folder / "run", step, state, None, {"config": config.to_dict(), "in_row": 0, "regular": True, "rewinds": 0}
        )()
    (folder / "run" / "config.json").write_text(json.dumps(config.to_dict()))
    return folder / "run"


@pytest.fixture
def copy(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "run")


def test_ls_lists_what_is_finished(copy, capsys):
    shutil.copytree(copy / "checkpoints/3", copy / "checkpoints/4.orbax-checkpoint-tmp-1")
    assert not ckpt.main(["ls", str(copy)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1", "3"] and all(" MB " in line and " files " in line for line in lines)


def test_a_sound_run_is_sound(workdir, capsys):
    assert ckpt.main(["verify", str(workdir)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["step", "1", "sound"], ["step", "3", "sound"]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")  # orbax, when a read fails
def test_verify_finds_every_flipped_bit_of_every_file(copy, capsys):
    dice = random.Random(0)
    files = [file for file in (copy / "checkpoints/3").rglob("*") if file.is_file() and file.stat().st_size]
    for file in files:
        sound = file.read_bytes()
        broken = bytearray(sound)
        broken[dice.randrange(len(sound))] ^= 1 << dice.randrange(8)
        file.write_bytes(broken)
        assert ckpt.main(["verify", str(copy), "--step", "3"]) == 1
        assert f"{file.relative_to(copy / 'checkpoints/3').as_posix()} is not what was written" in capsys.readouterr().out
        file.write_bytes(sound)
    assert ckpt.main(["verify", str(copy), "--step", "3"]) == 0


def test_verify_finds_files_that_came_or_went(copy, capsys):
    (copy / "checkpoints/3/notes.txt").write_text("mine")
    (copy / "checkpoints/1.files.json").unlink()
    assert ckpt.main(["verify", str(copy)]) == 1
    said = capsys.readouterr().out
    assert "notes.txt was not written by the save" in said and "sound leaves; its files were never listed" in said
    assert ckpt.main(["verify", str(copy), "--step", "1"]) == 0
    (copy / "checkpoints/3/_CHECKPOINT_METADATA").unlink()
    assert ckpt.main(["verify", str(copy), "--step", "3"]) == 1 and "_CHECKPOINT_METADATA is missing" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ckpt.DTYPES)
def test_export_writes_a_model_folder(workdir, tmp_path, dtype, capsys):
    out = tmp_path / "model"
    assert not ckpt.main(["export", str(workdir), "--out", str(out), "--dtype", dtype, "--step", "1"])
    _, loaded = weights.load_folder(out)
    _, state, _ = checkpoint.restore(workdir, {"ema": checkpoint.saved_tree(workdir, 1)["ema"]}, step=1, partial=True)
    for name, leaf in paths(state["ema"][EMA]).items():
        assert str(paths(loaded)[name].dtype) == dtype
        np.testing.assert_array_equal(np.asarray(leaf).astype(jnp.dtype(dtype)), paths(loaded)[name])
    assert dtype in capsys.readouterr().out
    _, params = api.load(out)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "argv, part",
    [
        (["ls", "nowhere"], "nowhere: no finished checkpoint"),
        (["verify", "RUN", "--step", "2"], "no finished checkpoint of step 2"),
        (["export", "RUN"], "--out: export needs a folder"),
        (["ls", "RUN", "--out", "x"], "--out: ls writes nothing"),
        (["export", "RUN", "--out", "x", "--dtype", "int8"], "--dtype"),
        (["prune", "RUN"], "invalid choice"),
        (["ls", "RUN", "--step", "-1"], "outside 0.."),
    ],
)
def test_bad_flags_are_refused(workdir, argv, part):
    with pytest.raises(UserError, match=part):
        ckpt.main([str(workdir) if word == "RUN" else word for word in argv])


@pytest.mark.slow
def test_a_real_run_verifies(tmp_path):
    train.main(tiny.arguments("smoke", tmp_path, *tiny.FLOW_ALONE, "--workdir", str(tmp_path / "run")))
    assert ckpt.main(["verify", str(tmp_path / "run")]) == 0
