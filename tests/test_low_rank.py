"""Low-rank additions: what they begin as, what of them a step moves, what a model with them is saved as."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toys
from test_control import moved, two_steps

from anystep import api, ckpt, teachers, train, tree
from anystep import config as configs
from anystep.flow_map import total_derivative
from anystep.nets import low_rank

PARTS = [f"{part}/{letter}" for part in ("attention", "cross") for letter in ("q", "k", "v", "out")] + ["mlp/in", "mlp/out"]
RANK = ("--config.model.rank=2", "--config.model.frozen=True")


@pytest.mark.slow
def test_at_first_nothing_is_added_and_merging_adds_what_is_drawn_with():
    trunk = toys.tiny_sana(depth=2)
    model, p = low_rank.adapted(trunk, 2), toys.random_params(trunk, size=0.2)
    x, t, s, cond = toys.picture_inputs(trunk, rows=2)
    params = jax.jit(model.init)(jax.random.key(0)) | {"trunk": p}
    kernels = {name.rpartition("/")[0] for name in tree.paths(params["low_rank"])}
    whole = {f"embed/second_time/out/{leaf}" for leaf in ("kernel", "bias")}
    assert kernels == {f"blocks/{part}/kernel" for part in PARTS} | whole and not moved(p, low_rank.merged(params))
    alone, both = (jax.jit(lambda p, m=m: m.velocity(p, x, t, s, cond)[0]) for m in (trunk, model))
    np.testing.assert_array_equal(both(params), alone(p))
    params["low_rank"] = toys.random_params(model, seed=4, size=0.2)["low_rank"]
    kernel, added = p["blocks"]["mlp"]["in"]["kernel"], params["low_rank"]["blocks"]["mlp"]["in"]["kernel"]
    found = low_rank.merged(params)
    want = kernel + np.einsum("lir,lro->lio", added["a"], added["b"])
    np.testing.assert_allclose(found["blocks"]["mlp"]["in"]["kernel"], want, rtol=1e-4, atol=1e-5)
    u, whole = both(params), alone(found)
    assert np.abs(u - alone(p)).max() > 0.1
    np.testing.assert_allclose(u, whole, rtol=1e-4, atol=1e-4 * np.abs(whole).max())


@pytest.mark.slow
def test_its_derivative_is_that_of_the_sum():
    trunk = toys.tiny_sana(depth=2)
    model = low_rank.adapted(trunk, 2)
    params, (x, t, s, cond) = toys.random_params(model, size=0.2), toys.picture_inputs(trunk, rows=2)
    du, want = (
        jax.jit(lambda p, m=m: total_derivative(lambda x, t, s: m.velocity(p, x, t, s, cond), x, t, s, jnp.ones_like(x))[1])(q)
        for m, q in ((model, params), (trunk, low_rank.merged(params)))
    )
    np.testing.assert_allclose(du, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


@pytest.mark.slow
def test_a_step_moves_the_additions_and_no_bit_of_the_trunk(tmp_path):
    _, _, (first, _, last), metrics, _ = two_steps(tmp_path, *RANK)
    changed = moved(first.params, last.params)
    assert {"net/low_rank/blocks/mlp/out/kernel/b", "net/low_rank/blocks/cross/out/kernel/b"} <= changed
    assert all(name.startswith("net/low_rank/") for name in changed)
    assert all(name.startswith("main/net/low_rank/") for name in moved(first.ema, last.ema))
    assert not [name for name in tree.paths(last.opt) if "trunk" in name or name.startswith("text/")]
    assert 0 < metrics["grad_norm/net"] < np.inf


@pytest.mark.long
def test_a_distilled_one_learns_what_its_teacher_was_never_told(tmp_path):
    """The guidance scale, whose embedding begins at zero."""
    assert not train.main([*tiny.arguments("sprint_shapes", tmp_path), *RANK, "--workdir", str(tmp_path / "run")])
    model, params = api.load(tmp_path / "run")
    assert np.abs(params["net"]["embed"]["guidance"]["out"]["kernel"]).max() > 0
    few, much = (api.sample_array(model, params, ["a red ring"], steps=1, guide=scale) for scale in (1.5, 6.0))
    assert np.abs(few - much).max() > 1e-5


@pytest.mark.long
def test_what_is_saved_is_an_ordinary_model(tmp_path):
    """Model folder, export and work directory hold one network, without a rank; whose run goes on with the parts."""
    flags = tiny.arguments("sprint_teacher_shapes", tmp_path)
    run, place = tmp_path / "run", tiny.teacher(tmp_path, flags, "trunk")
    flags += [*RANK, f"--config.init_from={place}", "--workdir", str(run)]
    assert not train.main(flags)
    (run / "checkpoints" / "6").rename(tmp_path / "six")
    before = (run / "model" / "weights.safetensors").read_bytes()
    assert not train.main(flags)
    assert (run / "model" / "weights.safetensors").read_bytes() == before
    ckpt.main(["export", str(run), "--out", str(tmp_path / "out")])
    (_, plain), *three = (api.load(folder) for folder in (place, run, run / "model", tmp_path / "out"))
    for model, params in three:
        assert model.config.model.rank == 0 and not model.config.model.frozen
        assert set(moved(plain["net"], params["net"])) == {f"blocks/{part}/kernel" for part in PARTS}
        assert not moved(three[0][1], params)
    student = configs.flatten(tiny.config("sprint_shapes", tmp_path).to_dict()) | {"objective.teacher.folder": str(run)}
    assert not moved(three[0][1]["net"], teachers.load(configs.from_dict(student))["net"])
