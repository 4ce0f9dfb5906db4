"""Paths: ends, velocities, round trips, exact jumps, and Prop. 3.1 of SANA-Sprint, in float64 against differences and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep import path as paths
from anystep.path import LINEAR, TRIG, VE, as_trig

ALL = pytest.mark.parametrize("path", [LINEAR, TRIG, VE], ids=lambda p: p.name)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def pair(rows=5):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(rows, 2, 3))), jnp.asarray(rng.normal(size=(rows, 2, 3)))


def inside(path, rows=5):
    return jnp.linspace(0.07, 0.93, rows) * path.t_noise


@ALL
def test_ends(path):
    x0, noise = pair()
    low, high = (jnp.full(5, t, jnp.float64) for t in (path.t_data, path.t_noise))
    np.testing.assert_allclose(paths.interpolate(path, x0, noise, low), x0, atol=1e-15)
    end = x0 + 80.0 * noise if path is VE else noise
    np.testing.assert_allclose(paths.interpolate(path, x0, noise, high), end, atol=1e-15)


@ALL
def test_velocity_is_the_derivative_of_the_path(path):
    x0, noise = pair()
    t, h = inside(path), 1e-5
    difference = (paths.interpolate(path, x0, noise, t + h) - paths.interpolate(path, x0, noise, t - h)) / (2 * h)
    np.testing.assert_allclose(paths.velocity(path, x0, noise, t), difference, rtol=1e-8, atol=1e-9)


@ALL
def test_data_and_noise_come_back(path):
    x0, noise = pair()
    for t in (inside(path), jnp.full(5, path.t_data, jnp.float64), jnp.full(5, path.t_noise, jnp.float64)):
        x, v = paths.interpolate(path, x0, noise, t), paths.velocity(path, x0, noise, t)
        for found, true in zip(paths.data_and_noise(path, x, v, t), (x0, noise), strict=True):
            np.testing.assert_allclose(found, true, atol=1e-12)


@ALL
def test_jump_follows_the_path(path):
    x0, noise = pair()
    t = inside(path)
    x, v = paths.interpolate(path, x0, noise, t), paths.velocity(path, x0, noise, t)
    for s in (t, 0.3 * t, jnp.zeros(5), jnp.full(5, path.t_noise, jnp.float64)):
        np.testing.assert_allclose(paths.jump(path, x, v, t, s), paths.interpolate(path, x0, noise, s), atol=1e-11)


def test_jump_closed_forms():
    x, u = pair()
    t, s = inside(TRIG), inside(TRIG)[::-1]
    w = (t - s)[:, None, None]
    np.testing.assert_allclose(paths.jump(TRIG, x, u, t, s), jnp.cos(w) * x - jnp.sin(w) * u, atol=1e-14)
    np.testing.assert_allclose(paths.jump(LINEAR, x, u, t, s), x - w * u, atol=1e-14)


@ALL
def test_flow_time_keeps_the_noise_to_signal_ratio(path):
    flow = jnp.linspace(0.0, 0.98, 23)
    t = paths.from_flow_time(path, flow)
    np.testing.assert_allclose(path.sigma(t) / path.alpha(t), flow / (1 - flow), atol=1e-12, rtol=1e-12)
    np.testing.assert_allclose(paths.to_flow_time(path, t), flow, atol=1e-14)
    assert float(paths.from_flow_time(path, jnp.float64(0.0))) == path.t_data
    assert float(paths.from_flow_time(path, jnp.float64(1.0))) == pytest.approx(path.t_noise, abs=1e-15)


def wavy_models():
    rng = np.random.default_rng(3)
    params = {"a": jnp.asarray(rng.normal(size=(3, 3))), "b": jnp.asarray(rng.normal(size=3))}

    def function(params, x, t, s, cond):
        return toys.wavy(params, x[:, 0], t, s, cond)[:, None]

    linear = toys.analytic(function, shape=(1, 3))
    return linear, as_trig(linear), params


ANGLES = np.array([0.0, 0.3, 0.8, 1.2, np.pi / 2])


@pytest.mark.parametrize("end", [0.0, 0.2, 0.7, 1.0], ids="b={} a".format)
def test_as_trig_lands_where_the_linear_jump_lands(end):
    linear, trig, params = wavy_models()
    a = jnp.asarray(ANGLES)
    b = end * a
    x = pair()[0][:, :1]
    q_a, q_b = (jnp.sin(c) + jnp.cos(c) for c in (a, b))
    t, s = jnp.sin(a) / q_a, jnp.sin(b) / q_b  # Prop. 3.1: t = sin / (sin + cos)
    x_linear = x / q_a[:, None, None]
    there = paths.jump(LINEAR, x_linear, linear.velocity(params, x_linear, t, s, {})[0], t, s)
    np.testing.assert_allclose(paths.jump(TRIG, x, trig.velocity(params, x, a, b, {})[0], a, b), q_b[:, None, None] * there, atol=1e-13)


def test_as_trig_of_the_conditional_velocity():
    x0, noise = pair()
    linear = toys.analytic(lambda params, x, t, s, cond: noise - x0)
    a = jnp.asarray(ANGLES)[:, None, None]
    found = as_trig(linear).velocity({}, jnp.cos(a) * x0 + jnp.sin(a) * noise, a[:, 0, 0], a[:, 0, 0], {})[0]
    np.testing.assert_allclose(found, jnp.cos(a) * noise - jnp.sin(a) * x0, atol=1e-14)


def test_as_trig_derivative_is_finite_and_right_at_both_ends():
    _, trig, params = wavy_models()
    x, dx = (z[:, :1] for z in pair())
    a, h = jnp.asarray(ANGLES), 1e-5

    def u(x, a):
        return trig.velocity(params, x, a, 0.5 * a, {})[0]

    _, found = jax.jvp(u, (x, a), (dx, jnp.ones(5)))
    difference = (u(x + h * dx, a + h) - u(x - h * dx, a - h)) / (2 * h)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, difference, atol=1e-8)


def test_as_trig_composes():
    _, trig, params = wavy_models()
    x, a = pair()[0][:, :1], jnp.asarray(ANGLES)
    h, _ = trig.blocks(params, trig.embed(params, x, a, 0 * a, {}), 0, trig.depth)
    assert (trig.head(params, h) == trig.velocity(params, x, a, 0 * a, {})[0]).all()
    assert trig.path is TRIG


def test_as_trig_refuses_another_path():
    with pytest.raises(ValueError, match="trig"):
        as_trig(wavy_models()[1])
