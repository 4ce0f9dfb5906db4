"""Consistency as SANA-Sprint distils it: the released loop's step, written from its description for data of deviation 0.5, against ours;
what a teacher is asked; the learned weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep.nets import logvar
from anystep.objectives.consistency import Teacher, consistency
from anystep.objectives.draws import draw_point
from anystep.objectives.mix import Guidance, beside_teacher
from anystep.path import LINEAR, as_trig
from anystep.times import TimeLaw, draw_t
from anystep.types import Roles

KEY, STEP, ROWS = jax.random.key(8), jnp.int32(2), 6
RNG = np.random.default_rng(4)
MATRIX, TEACHERS = (jnp.asarray(RNG.normal(size=(3, 3)) / 2, jnp.float32) for _ in range(2))
B = jnp.asarray(RNG.normal(size=3), jnp.float32)
X0 = jnp.asarray(RNG.normal(size=(ROWS, 3)), jnp.float32)
SCALES = jnp.array([1.0, 4.0, 4.5, 5.0, 2.0, 0.5])
NET = toys.analytic(toys.wavy, shape=(3,), ends="none")
FROZEN = toys.analytic(lambda params, x, t, s, cond: jnp.tanh(x @ params) + cond["bias"] * t[:, None], shape=(3,), ends="none")
BATCH = toys.plain_batch(X0) | {
    "teacher_cond": {"bias": jnp.full((ROWS, 3), 0.7)},
    "teacher_null": {"bias": jnp.full((ROWS, 3), -0.2)},
    "scale": SCALES,
}


class Weight:
    """In the place of the learned weight: a number for all rows."""

    of = staticmethod(lambda params, t, told: params + 0.0 * t)


def ours(b, lv=0.0, **options):
    """Loss [B] of a student with the shared vector b."""
    params = {"net": {"a": MATRIX, "b": b}, "weighting": lv}
    models = {"net": NET, "teacher": FROZEN, "weighting": Weight}
    objective = consistency(teacher=Teacher("teacher"), form="trig", **options)
    return objective(models, Roles(params, params, {"teacher": TEACHERS}, {}), BATCH, KEY, STEP)[0]


def angle_and_noise():
    point = draw_point("consistency", LINEAR, TimeLaw(), BATCH, KEY, STEP)
    return jnp.arctan2(point.t, 1.0 - point.t), point.noise


def released(b, r=1.0, normed=True, prior=True, lv=0.0):
    """The generator's consistency step of SANA-Sprint's loop: latents and noise times 0.5, the network on x / 0.5."""
    sigma, (t, noise) = 0.5, angle_and_noise()
    cos, sin = jnp.cos(t)[:, None], jnp.sin(t)[:, None]
    x0, z = sigma * X0, sigma * noise
    xt = cos * x0 + sin * z

    def student(x, t):
        return as_trig(NET).velocity({"a": MATRIX, "b": b}, x, t, 0 * t, {})[0]

    def asked(cond):
        return as_trig(FROZEN).velocity(TEACHERS, xt / sigma, t, t, cond)[0]

    null = asked(BATCH["teacher_null"])
    dx = sigma * (null + SCALES[:, None] * (asked(BATCH["teacher_cond"]) - null))
    f, j = jax.jvp(student, (xt / sigma, t), (cos * sin * dx / sigma, (cos * sin)[:, 0]))
    f, j = jax.lax.stop_gradient((f, j))
    g = -(cos**2) * (sigma * f - dx) - r * (cos * sin * xt + sigma * j)
    g = g / (jnp.sqrt(jnp.sum(g**2, axis=1, keepdims=True)) + 0.1) if normed else g / sigma
    square = jnp.mean((student(xt / sigma, t) - f - g) ** 2, axis=1)
    square = square / (sigma * jnp.tan(t)) if prior else square
    return jnp.exp(-lv) * square + lv


def gradients(loss):
    """Loss and gradient by the shared vector of every sample."""
    return jax.jit(lambda b: (loss(b), jax.jacrev(loss)(b)))(B)


@pytest.mark.slow
@pytest.mark.parametrize("warmup, r", [(0, 1.0), (12, 3 / 12)])
@pytest.mark.parametrize("normed", [True, False])
def test_the_released_step_is_ours_by_options(warmup, r, normed):
    """To the last factor: the constant of the norm is 0.1 / 0.5 = 0.2, and the loop's 1 / (0.5 tan) is twice `prior`'s 1 / tan."""
    lv = -1.5
    options = dict(tangent="l2" if normed else "none", c=0.2, warmup=warmup, weighting="learned")
    loss, gradient = gradients(lambda b: released(b, r, normed, False, lv))
    found, its = gradients(lambda b: ours(b, lv, **options))
    np.testing.assert_allclose(found, loss, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(its, gradient, rtol=1e-3, atol=1e-5)
    once_more = gradients(lambda b: released(b, r, normed, True, lv))[1]
    np.testing.assert_allclose(2.0 * gradients(lambda b: ours(b, lv, **options, prior=True))[1], once_more, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_weight_over_tan_is_inside_already():
    """The gradient of the bare step is 1 / tan times that of <f, sg df/dt>, f the consistency function: no further factor is due."""
    t, noise = angle_and_noise()
    cos, sin = jnp.cos(t)[:, None], jnp.sin(t)[:, None]
    x = cos * X0 + sin * noise

    def along(b):
        def f(x, t):
            cos, sin = jnp.cos(t)[:, None], jnp.sin(t)[:, None]
            return cos * x - sin * as_trig(NET).velocity({"a": MATRIX, "b": b}, x, t, 0 * t, {})[0]

        def asked(cond):
            return as_trig(FROZEN).velocity(TEACHERS, x, t, t, cond)[0]

        null = asked(BATCH["teacher_null"])
        dx = null + SCALES[:, None] * (asked(BATCH["teacher_cond"]) - null)
        value, slope = jax.jvp(f, (x, t), (dx, jnp.ones(ROWS)))
        return jnp.mean(2.0 * value * jax.lax.stop_gradient(slope), axis=1) / jnp.tan(t)  # the loss is a square, not half of one

    bare = gradients(lambda b: ours(b, tangent="none", weighting="none"))[1]
    np.testing.assert_allclose(bare, gradients(along)[1], rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_the_exact_map_of_the_teacher_is_a_fixed_point_of_every_row():
    """Along an exact velocity no row has a gradient at the exact map, and all have one at 1.1 times the map."""
    x0 = toys.draw(jax.random.key(1), 32)[0]
    batch = toys.plain_batch(x0) | {"teacher_cond": {}, "teacher_null": {}, "scale": jnp.ones(32)}
    teacher = toys.analytic(lambda params, x, t, s, cond: toys.exact_velocity(x, t))
    objective = consistency(TimeLaw(mean=-1.0), teacher=Teacher("teacher"), form="trig", tangent="none", weighting="none")

    @jax.jit
    def error(scale):
        student = toys.analytic(lambda params, x, t, s, cond: scale * toys.exact_map(x, t, 0 * t))
        params = {"net": {}}
        return objective({"net": student, "teacher": teacher}, Roles(params, params, {"teacher": {}}, {}), batch, KEY, STEP)[0]

    assert float(error(1.0).max()) < 1e-6 < 1e-4 < float(jnp.median(error(1.1)))


def test_the_tangent_is_the_difference_along_the_teachers_way():
    h = 1e-2
    point = draw_point("consistency", LINEAR, TimeLaw(), BATCH, KEY, STEP)
    t, x = point.t, point.x_t

    def asked(cond):
        return FROZEN.velocity(TEACHERS, x, t, t, cond)[0]

    v = asked(BATCH["teacher_null"]) + SCALES[:, None] * (asked(BATCH["teacher_cond"]) - asked(BATCH["teacher_null"]))
    up, down = (toys.wavy({"a": MATRIX, "b": B}, x + d * v, t + d, 0 * t, {}) for d in (h, -h))
    params = {"net": {"a": MATRIX, "b": B}}
    models, roles = {"net": NET, "teacher": FROZEN}, Roles(params, params, {"teacher": TEACHERS}, {})
    metrics = consistency(teacher=Teacher("teacher"), tangent="none")(models, roles, BATCH, KEY, STEP)[1]
    np.testing.assert_allclose(metrics["tangent"], np.sqrt(np.mean((t[:, None] * (up - down) / (2 * h)) ** 2, axis=1)), rtol=5e-3)


def test_the_learned_weight_is_least_at_the_logarithm_of_the_loss():
    errors = ours(B, tangent="none", weighting="none")
    total = jax.grad(lambda lv: jnp.mean(ours(B, lv, tangent="none", weighting="learned")))
    assert float(total(jnp.log(jnp.mean(errors)))) == pytest.approx(0.0, abs=1e-5)
    assert float(total(jnp.log(2 * jnp.mean(errors)))) == pytest.approx(0.5, abs=1e-5)
    head = logvar.build(True)
    params, t = head.init(KEY), jnp.linspace(0.0, 1.0, ROWS)
    np.testing.assert_array_equal(head.of(params, t, SCALES), np.zeros(ROWS))
    for name in ("time", "guidance"):  # each moves it, and none is dead at the start
        slope = jax.grad(lambda params: jnp.sum(t * head.of(params, t, SCALES)))(params)[name]
        assert float(jnp.abs(slope).max()) > 0.1
    assert "guidance" not in logvar.build(False).init(KEY)


def test_the_released_law_is_a_logit_normal():
    """log-normal in tan of the angle, (0.2, 1.6) at deviation 0.5."""
    keys = jax.random.split(KEY, 5000)
    tau = 0.2 + 1.6 * jax.vmap(jax.random.normal)(keys)
    angle = jnp.arctan(jnp.exp(tau) / 0.5)
    t = jnp.sin(angle) / (jnp.sin(angle) + jnp.cos(angle))
    np.testing.assert_allclose(draw_t(TimeLaw(mean=0.2 + np.log(2.0), std=1.6), keys), t, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("null_mask", ["own", "prompt"])
def test_what_stands_beside_a_teacher(null_mask):
    rows = 400
    cond = {"features": jnp.ones((rows, 4, 2)), "mask": jnp.ones((rows, 4), bool)}
    null = {"features": jnp.zeros((rows, 4, 2)), "mask": jnp.arange(4)[None] < jnp.ones((rows, 1))}
    models = {"net": NET._replace(told=0.1), "teacher": NET}
    found = {"cond": cond, "null": null, "ema_cond": cond, "ema_null": null}
    chance = jax.random.uniform(KEY, (rows,))
    more = beside_teacher(models, found, Guidance((4.0, 4.5, 5.0), null_mask), chance)
    counts = [float(jnp.mean(more["scale"] == scale)) for scale in (4.0, 4.5, 5.0)]
    assert sum(counts) == pytest.approx(1.0) and min(counts) > 0.25
    for name in ("cond", "null", "ema_cond", "ema_null"):
        np.testing.assert_allclose(more[name]["guidance"], 0.1 * more["scale"])
    assert "guidance" not in more["teacher_cond"] and (more["teacher_null"]["features"] == 0).all()
    np.testing.assert_array_equal(more["teacher_null"]["mask"], (null if null_mask == "own" else cond)["mask"])
    told = beside_teacher(models | {"teacher": NET._replace(told=1.0)}, found, Guidance((3.5,)), chance)
    np.testing.assert_allclose(told["teacher_cond"]["guidance"], 3.5)


def test_a_teacher_that_is_told_the_scale_is_asked_once():
    asked = []

    def answer(params, x, t, s, cond):
        asked.append(cond["guidance"])
        return x + cond["guidance"][:, None]

    models = {"net": NET, "teacher": toys.analytic(answer, shape=(3,))._replace(told=1.0)}
    batch = BATCH | {"teacher_cond": {"guidance": SCALES}, "teacher_null": {"guidance": SCALES}}
    params = {"net": {"a": MATRIX, "b": B}}
    consistency(teacher=Teacher("teacher"))(models, Roles(params, params, {"teacher": {}}, {}), batch, KEY, STEP)
    assert len(asked) == 1
