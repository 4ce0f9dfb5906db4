"""Exact solutions: where a loss should have no gradient it has none, elsewhere it has; and the identities that the papers promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep.objectives.consistency import consistency
from anystep.objectives.draws import draw_point
from anystep.objectives.flow_matching import flow_matching
from anystep.objectives.self_evaluation import self_evaluation
from anystep.path import as_trig
from anystep.times import TimeLaw
from anystep.types import Roles

ROWS = 40_000
LAW = TimeLaw(mean=-1.0)  # near t = 1 the gradient is right too, but so noisy that many more samples would be needed
BARE = {
    "flow matching": flow_matching(LAW),
    "consistency": consistency(LAW, at_zero=1.0, tangent="none", weighting="none"),
    "consistency in TrigFlow": consistency(LAW, at_zero=1.0, tangent="none", weighting="none", form="trig"),
    "meanflow": consistency(LAW, at_zero=0.0, tangent="none", weighting="none"),
}


@pytest.fixture(scope="module")
def mixture():
    return toys.probed(lambda x, t, s, cond: toys.exact_map(x, t, s)), toys.plain_batch(toys.draw(jax.random.key(1), ROWS)[0])


def z_scores(objective, model, batch, scale, step=0):
    mean, error = toys.expected_gradient(objective, model, batch, scale, step)
    return np.abs(mean / error)


@pytest.mark.slow
@pytest.mark.parametrize("name", BARE)
def test_no_gradient_at_the_exact_flow_map_of_a_mixture(mixture, name):
    assert z_scores(BARE[name], *mixture, 1.0).max() < 4
    assert z_scores(BARE[name], *mixture, 1.1).max() > 10


@pytest.mark.slow
def test_flow_matching_wants_the_velocity_not_the_map(mixture):
    """The diagonal is not the whole story: the map to s = 0 in the place of the velocity is no solution of flow matching."""
    model = toys.probed(lambda x, t, s, cond: toys.exact_map(x, t, jnp.zeros_like(t)))
    assert z_scores(BARE["flow matching"], model, mixture[1], 1.0).max() > 10


@pytest.mark.slow
@pytest.mark.parametrize("tangent, weighting", [("clip", "none"), ("rms", "none"), ("none", "adaptive")])
def test_bias_of_the_stabilisers_is_reported(mixture, tangent, weighting):
    """Not zero and not meant to be. The size is told against the gradient that the same loss has at 1.1 times the map."""
    objective = consistency(LAW, tangent=tangent, weighting=weighting)
    (bias, error), (away, _) = (toys.expected_gradient(objective, *mixture, scale) for scale in (1.0, 1.1))
    worst = np.abs(bias).max() / np.abs(away - bias).max()
    print(f"\ntangent {tangent}, weighting {weighting}: bias {worst:.3f} of a tenth's gradient, z up to {np.abs(bias / error).max():.0f}")
    assert np.isfinite(bias).all()


def jointly_gaussian(v=0.36):
    """c ~ N(0, 1), x0 | c ~ N(c, v): the fixed point of self-evaluation, affine in x_t and c."""

    def kalman(share, variance, level):
        return share * variance / (share**2 * variance + level**2)

    def velocity(x, t, s, cond):
        k_c, k_u, k_t = kalman(1 - s, v, s), kalman(1 - s, 1 + v, s), kalman(1 - t, v, t)
        lam = t / (1 - t) - s / (1 - s)
        d = 1 - lam * (k_c - k_u) * (1 - s)
        a, b = k_t / d, (1 - k_t * (1 - t) + lam * (1 - k_c * (1 - s))) / d
        x0_null = kalman(1 - t, 1 + v, t)[:, None] * x
        x0_cond = a[:, None] * x + b[:, None] * cond["c"]
        return (x - jnp.where(cond["null"], x0_null, x0_cond)) / t[:, None]

    kc, kx = jax.random.split(jax.random.key(2))
    c = jax.random.normal(kc, (ROWS, 2))
    x0 = c + v**0.5 * jax.random.normal(kx, c.shape)
    no, yes = jnp.zeros((ROWS, 1), bool), jnp.ones((ROWS, 1), bool)
    return toys.probed(velocity, "renoise"), toys.plain_batch(x0, {"c": c, "null": no}, {"c": c, "null": yes})


@pytest.mark.slow
def test_self_evaluation_has_no_gradient_at_its_fixed_point():
    law = TimeLaw(std=0.7)  # s near 0 and t near 1 are right too, only noisier
    assert z_scores(self_evaluation(law, renorm=False), *jointly_gaussian(), 1.0, step=5).max() < 4
    assert z_scores(self_evaluation(law, renorm=False), *jointly_gaussian(), 1.1, step=5).max() > 10
    renormed = toys.expected_gradient(self_evaluation(law), *jointly_gaussian(), 1.0, step=5)
    print(f"\nrenormalised target at the fixed point of the plain one: gradient up to {np.abs(renormed[0]).max():.3f}")


def test_self_evaluation_of_dropped_rows_is_flow_matching():
    model, batch = jointly_gaussian()
    batch["dropped"] = jnp.ones(ROWS, bool)
    batch["cond"] = batch["null"]
    assert z_scores(self_evaluation(), model, batch, 1.0, step=5).max() < 4  # the null branch is the exact velocity
    model, batch = jointly_gaussian()
    assert z_scores(self_evaluation(s_min=1.0, renorm=False), model, batch, 1.0, step=5).max() < 4


def per_sample(function, b, rows):
    """Gradient of the loss of every sample by the shared vector b, [B, P]."""
    return jax.vmap(jax.grad(lambda b, i: function(b)[i]), (None, 0))(b, jnp.arange(rows))


@pytest.mark.slow
def test_scm_is_meanflow_at_zero_up_to_a_weight():
    """sCM's tangent written from 2410.11081 on the trig path against ours on the linear one, same weights, same points."""
    rng = np.random.default_rng(4)
    rows = 6
    batch = toys.plain_batch(jnp.asarray(rng.normal(size=(rows, 3)), jnp.float32))
    linear = toys.analytic(toys.wavy, shape=(3,))
    matrix, b = jnp.asarray(rng.normal(size=(3, 3)), jnp.float32), jnp.asarray(rng.normal(size=3), jnp.float32)
    key, step = jax.random.key(8), jnp.int32(3)

    def ours(b):
        params = {"net": {"a": matrix, "b": b}}
        return consistency(tangent="none", weighting="none")({"net": linear}, Roles(params, params, {}, {}), batch, key, step)[0]

    point = draw_point("consistency", linear.path, TimeLaw(), batch, key, step)
    angle = jnp.arctan2(point.t, 1 - point.t)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    x, dx = cos * batch["x0"] + sin * point.noise, cos * point.noise - sin * batch["x0"]

    def trig(b, x, angle):
        return as_trig(linear).velocity({"a": matrix, "b": b}, x, angle, jnp.zeros_like(angle), {})[0]

    f, df = jax.jvp(lambda x, angle: trig(b, x, angle), (x, angle), (dx, jnp.ones(rows)))
    g = -(cos**2) * (f - dx) - cos * sin * (x + df)
    scm = per_sample(lambda b: jnp.mean((trig(b, x, angle) - f - g) ** 2, axis=1), b, rows)
    t = point.t[:, None]
    np.testing.assert_allclose(scm, (1 - t) * (1 - 2 * t + 2 * t**2) * per_sample(ours, b, rows), rtol=2e-4, atol=1e-5)


@pytest.mark.slow
def test_warmup_starts_from_flow_matching():
    """r = (step + 1) / warmup: the tangent's part of g grows linearly from next to nothing to all of it."""
    model = toys.analytic(lambda params, x, t, s, cond: toys.wavy({"a": jnp.eye(2), "b": jnp.ones(2)}, x, t, s, cond) + params["net"])
    batch = toys.plain_batch(jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32))

    def g(warmup, tangent="none"):
        def loss(offset):
            params = {"net": {"net": offset}}
            objective = consistency(tangent=tangent, weighting="none", warmup=warmup)
            return jnp.sum(objective({"net": model}, Roles(params, params, {}, {}), batch, jax.random.key(0), jnp.int32(0))[0])

        return jax.grad(loss)(jnp.zeros((5, 2)))  # D = 2 and the loss is a mean: the gradient is g

    bare, quarter, none = g(0), g(4), g(10**9)
    np.testing.assert_allclose(quarter, none + (bare - none) / 4, atol=1e-5)
    point = draw_point("consistency", model.path, TimeLaw(), batch, jax.random.key(0), jnp.int32(0))
    u = toys.wavy({"a": jnp.eye(2), "b": jnp.ones(2)}, point.x_t, point.t, 0 * point.t, {})
    np.testing.assert_allclose(none, u - (point.noise - batch["x0"]), atol=1e-5)
    assert (np.sqrt(np.mean((g(0, "clip") - none) ** 2, axis=1)) <= 1 + 1e-5).all()
    assert (np.sqrt(np.mean((bare - none) ** 2, axis=1)) > 1).any()  # the clip had work to do
