"""The heads against torch's own parts, number by number; and what the two adversarial losses see and ask."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep import tree
from anystep.nets import discriminator
from anystep.objectives import adversarial
from anystep.objectives.draws import draw_point
from anystep.path import LINEAR
from anystep.times import TimeLaw
from anystep.types import Roles

RECORDED = np.load(Path(__file__).parent / "fixtures" / "discriminator" / "io.npz")
KEY, STEP, ROWS = jax.random.key(3), jnp.int32(4), 8


def recorded_heads():
    """(params, norms, features) of the two recorded heads."""

    def both(read):
        return jax.tree.map(lambda *a: jnp.stack(a), *(read(k) for k in range(2)))

    def kernel(k, name):
        return jnp.asarray(RECORDED[f"{k}.{name}.weight"].transpose(2, 1, 0))

    params = both(
        lambda k: (
            {name: {"kernel": kernel(k, name), "bias": jnp.asarray(RECORDED[f"{k}.{name}.bias"])} for name in discriminator.TAPS}
            | {
                f"{name}_norm": {
                    "scale": jnp.asarray(RECORDED[f"{k}.{name}_norm.weight"]),
                    "bias": jnp.asarray(RECORDED[f"{k}.{name}_norm.bias"]),
                }
                for name in ("first", "wide")
            }
        )
    )
    norms = both(lambda k: {name: {what: jnp.asarray(RECORDED[f"{k}.{name}.{what}"]) for what in "uv"} for name in discriminator.TAPS})
    return params, norms, jnp.asarray(RECORDED["x"].transpose(0, 1, 3, 2))


def of_heads(found):
    """[B, 2 N] -> [2, B, N]"""
    return np.asarray(found).reshape(found.shape[0], 2, -1).transpose(1, 0, 2)


def close(a, b, share=2e-5):
    np.testing.assert_allclose(a, b, atol=share * np.abs(b).max(), rtol=0)


@pytest.mark.slow
def test_heads_are_torchs_to_the_number():
    params, norms, x = recorded_heads()
    heads = discriminator.build(2, 6)
    weights, moved = heads.normalise(params, norms, True)
    learning = of_heads(heads.logits(weights, x))
    for k in range(2):
        close(learning[k], RECORDED[f"{k}.learning"])
        for name in discriminator.TAPS:
            for what in "uv":
                close(moved[name][what][k], RECORDED[f"{k}.{name}.{what}_after"])
    weights, still = heads.normalise(params, moved, False)
    for k in range(2):
        close(of_heads(heads.logits(weights, x))[k], RECORDED[f"{k}.fixed"])
    jax.tree.map(np.testing.assert_array_equal, still, moved)

    def weighed(params, x):
        found = heads.logits(heads.normalise(params, norms, True)[0], x)
        each = jnp.cos(jnp.arange(found.shape[0] * found.shape[1] // 2, dtype=jnp.float32)).reshape(found.shape[0], 1, -1)
        return jnp.sum(found.reshape(found.shape[0], 2, -1) * each)

    by_params, by_x = jax.grad(weighed, (0, 1))(params, x)
    for k in range(2):
        close(by_x[k].transpose(0, 2, 1), RECORDED[f"{k}.grad_x"], 1e-4)
        close(by_params["wide"]["kernel"][k].transpose(2, 1, 0), RECORDED[f"{k}.grad_wide"], 1e-4)


@pytest.mark.slow
def test_fresh_heads_have_kernels_of_spectral_norm_one_after_some_steps():
    heads = discriminator.build(3, 8)
    params = heads.init(KEY)
    norms = heads.buffers(KEY, params)
    for _ in range(60):
        weights, norms = heads.normalise(params, norms, True)
    for name in discriminator.TAPS:
        for k in range(3):
            matrix = np.asarray(discriminator.matrix(weights[name]["kernel"][k]))
            assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1.0, abs=1e-3)


def test_groups_of_a_batch_that_eight_does_not_divide():
    weights = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    x = jax.random.normal(KEY, (9, 5, 3)) * jnp.arange(1, 10)[:, None, None]
    y = discriminator.batch_norm(weights, x).reshape(3, 15, 3)  # two groups would be uneven: three
    np.testing.assert_allclose(np.mean(y, axis=1), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, axis=1), 1.0, atol=1e-3)


class Setting:
    """A tiny student and teacher, both of random weights, heads on the teacher's two blocks."""

    def __init__(self):
        student = teacher = toys.tiny_mlp()
        heads = discriminator.build(2, 16)
        params = {"net": toys.random_params(student), "discriminator": heads.init(KEY)}
        frozen = {"teacher": toys.random_params(teacher, seed=7)}
        x, _, _, cond = toys.picture_inputs(student, ROWS)
        self.models = {"net": student, "teacher": teacher, "discriminator": heads}
        buffers = {"discriminator": {"norms": heads.buffers(KEY, params["discriminator"]), "said": jnp.zeros(4)}}
        self.roles = Roles(params, {}, frozen, buffers)
        self.batch = toys.plain_batch(x, cond) | {"teacher_cond": cond, "teacher_null": cond, "scale": jnp.ones(ROWS)}


@pytest.fixture(scope="module")
def setting():
    return Setting()


@pytest.mark.slow
def test_features_are_the_tokens_after_the_blocks():
    teacher = toys.tiny_sana(**toys.SANA)
    params = toys.random_params(teacher)
    x, t, _, cond = toys.picture_inputs(teacher, 4)
    found = adversarial.features(teacher, params, x, t, cond, (0, 1))
    h = teacher.embed(params, x, t, t, cond)
    for i, hi in enumerate((1, 2)):
        np.testing.assert_allclose(found[i], teacher.blocks(params, h, 0, hi)[0]["tokens"], rtol=1e-5, atol=1e-6)


def spied(objective, setting, monkeypatch):
    """(loss, metrics, buffers, {name: what was judged and its s}) of an objective whose heads are asked by way of a spy."""
    real = adversarial.judged

    @jax.jit
    def run(roles, batch):
        seen = {}

        def judged(name, models, roles, weights, batch, x, s, key, step, blocks):
            seen[name] = x, s
            return real(name, models, roles, weights, batch, x, s, key, step, blocks)

        monkeypatch.setattr(adversarial, "judged", judged)
        found = objective(setting.models, roles, batch, KEY, STEP)
        monkeypatch.setattr(adversarial, "judged", real)
        return *found, seen

    return run(setting.roles, setting.batch)


@pytest.mark.slow
def test_the_student_starts_at_pure_noise_where_max_time_says_so(setting, monkeypatch):
    loss, metrics, _, seen = spied(adversarial.generator((0, 1), at_noise=1.0), setting, monkeypatch)
    assert loss.shape == (ROWS,) and (metrics["t"] == 1.0).all()
    noise = draw_point("adversarial", LINEAR, TimeLaw(), setting.batch, KEY, STEP).noise
    one = jnp.ones(ROWS)
    u, _ = setting.models["net"].velocity(setting.roles.params["net"], noise, one, 0 * one, setting.batch["cond"])
    np.testing.assert_allclose(seen["adversarial"][0], noise - u, rtol=1e-5, atol=1e-5)
    _, metrics, _, _ = spied(adversarial.generator((0, 1), at_noise=0.0), setting, monkeypatch)
    assert (metrics["t"] < 1.0).all()


@pytest.mark.slow
def test_the_heads_see_real_drawn_and_misaligned_pictures(setting, monkeypatch):
    objective = adversarial.discriminator((0, 1), levels=TimeLaw(mean=0.1))
    loss, metrics, buffers, seen = spied(objective, setting, monkeypatch)
    x0 = setting.batch["x0"]
    assert set(seen) == {f"discriminator/{name}" for name in ("real", "fake", "other")}
    np.testing.assert_array_equal(seen["discriminator/real"][0], x0)
    np.testing.assert_array_equal(seen["discriminator/other"][0][1:], x0[:-1])
    levels = [seen[f"discriminator/{name}"][1] for name in ("real", "fake", "other")]
    assert all((a != b).all() for i, a in enumerate(levels) for b in levels[:i])
    assert loss.shape == (ROWS,) and set(metrics) == {"t", "real", "fake"}
    moved = buffers["discriminator"]["norms"]["wide"]["u"] - setting.roles.buffers["discriminator"]["norms"]["wide"]["u"]
    assert np.abs(moved).max() > 0
    one = spied(adversarial.discriminator((0, 1), one_level=True, misaligned=False), setting, monkeypatch)[3]
    assert set(one) == {"discriminator/real", "discriminator/fake"}
    np.testing.assert_array_equal(one["discriminator/real"][1], one["discriminator/fake"][1])


@pytest.mark.parametrize("logits, expected", [((2.0, -2.0, -2.0), 0.0), ((0.0, 0.0, 0.0), 1.0), ((-1.0, -2.0, 1.0), (2 + (0 + 2) / 2) / 2)])
def test_hinge(setting, monkeypatch, logits, expected):
    said = dict(zip(("real", "fake", "other"), logits, strict=True))
    monkeypatch.setattr(adversarial, "judged", lambda name, *_: jnp.full((ROWS, 6), said[name.rpartition("/")[2]]))
    loss, *_ = adversarial.discriminator((0, 1))(setting.models, setting.roles, setting.batch, KEY, STEP)
    np.testing.assert_allclose(loss, expected, atol=1e-6)


def test_hinge_without_a_prompt(setting, monkeypatch):
    """No picture stands under a wrong one there, and a fake counts as much as a real one: (2 + 1) / 2 and not (2 + (1 + 3) / 2) / 2."""
    said = {"real": -1.0, "fake": 0.0, "other": 2.0}
    monkeypatch.setattr(adversarial, "judged", lambda name, *_: jnp.full((ROWS, 6), said[name.rpartition("/")[2]]))
    batch = setting.batch | {"dropped": jnp.arange(ROWS) == 0}
    loss, *_ = adversarial.discriminator((0, 1))(setting.models, setting.roles, batch, KEY, STEP)
    np.testing.assert_allclose(loss, [1.5] + (ROWS - 1) * [2.0], atol=1e-6)


@pytest.mark.slow
def test_who_is_moved_by_which_loss(setting):
    """The student's loss reaches the student through the frozen teacher; the heads' loss does not."""

    def size(objective):
        def total(params):
            return jnp.sum(objective(setting.models, setting.roles._replace(params=params), setting.batch, KEY, STEP)[0])

        return {role: float(tree.global_norm(grads)) for role, grads in jax.jit(jax.grad(total))(setting.roles.params).items()}

    assert size(adversarial.generator((0, 1)))["net"] > 0
    heads = size(adversarial.discriminator((0, 1)))
    assert heads["net"] == 0 and heads["discriminator"] > 0
