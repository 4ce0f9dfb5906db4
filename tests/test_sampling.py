"""Samplers on exact fields: order of convergence, jumps that compose, marginals that survive a restart, what is asked of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep import sampling, times
from anystep.flags import SAMPLERS
from anystep.path import as_trig, from_flow_time

FIELD = toys.analytic(lambda params, x, t, s, cond: toys.exact_velocity(x, t), ends="none")
MAP = toys.analytic(lambda params, x, t, s, cond: toys.exact_map(x, t, s), ends="map")
MODELS = {"linear": FIELD, "trig": as_trig(FIELD)}
NOISE = jax.random.normal(jax.random.key(3), (64, 2))
KEYS = jax.random.split(jax.random.key(4), 64)


def closed(model):
    return lambda x, t, s: model.velocity({}, x, t, s, {})


def walk(name, model, grid, noise=NOISE, keys=KEYS, ask="next", eta=1.0):
    sampler = sampling.make(name, closed(model), model, ask, eta)
    return jax.jit(lambda noise, keys, grid: sampling.sample(sampler, keys, noise, grid)[0])(noise, keys, grid)


@pytest.fixture(scope="module")
def end():
    """Where the exact flow takes NOISE: many Runge-Kutta steps of the field itself."""
    return NOISE - jax.jit(toys.exact_map, static_argnums=3)(NOISE, jnp.ones(64), jnp.zeros(64), 400)


@pytest.mark.parametrize("path", MODELS)
@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2)])
def test_order(end, path, name, order):
    model, steps = MODELS[path], np.array([16, 32, 64, 128])
    grids = [from_flow_time(model.path, times.grid(int(n))) for n in steps]
    errors = [np.sqrt(np.mean((walk(name, model, grid) - end) ** 2)) for grid in grids]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order - 0.2 < slope < order + 0.45


@pytest.mark.parametrize("path", MODELS)
@pytest.mark.parametrize("name", ["heun", "dpm"])
def test_one_step_of_heun_and_dpm_is_one_of_euler(name, path):
    grid = jnp.array([MODELS[path].path.t_noise, 0.0])
    np.testing.assert_allclose(walk(name, MODELS[path], grid), walk("euler", MODELS[path], grid), atol=1e-6)


@pytest.mark.parametrize("path", ["linear", "trig"])
def test_dpm_is_of_second_order(path):
    """On x0 ~ N(0, 0.3), whose flow keeps x / std, between two inner times: at the ends steps of log(alpha / sigma) do not become small."""

    def variance(t):
        return (1 - t) ** 2 * 0.3 + t**2

    def velocity(params, x, t, s, cond):
        return x * ((t - (1 - t) * 0.3) / variance(t))[:, None]

    model = toys.analytic(velocity, ends="none")
    model = model if path == "linear" else as_trig(model)
    steps, errors = np.array([8, 16, 32, 64]), []
    for n in steps:
        grid = from_flow_time(model.path, jnp.linspace(0.95, 0.05, int(n) + 1))
        start, end = ((model.path.alpha(t) ** 2 * 0.3 + model.path.sigma(t) ** 2) ** 0.5 for t in (grid[0], grid[-1]))
        errors.append(np.abs(walk("dpm", model, grid) - end / start * model.path.sigma(grid[0]) * NOISE).max())
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(2, abs=0.2)


def test_dpm_where_the_data_is_linear_in_the_log_ratio():
    """Two steps, 0.7 to 0.5 to 0.2: the first keeps the data, the second takes that of its middle, half a step of lambda on."""
    a, b, start = 0.3, -0.8, 1.1

    def ratio(t):
        return np.log((1 - t) / t)

    model = toys.analytic(lambda params, x, t, s, cond: (x - (a + b * jnp.log((1 - t) / t))[:, None]) / t[:, None], ends="none")
    found = walk("dpm", model, jnp.array([0.7, 0.5, 0.2]), jnp.full((1, 1), start / 0.7), KEYS[:1])
    data = a + b * ratio(0.7)
    middle = 0.5 * data + 0.5 * (start - 0.3 * data) / 0.7
    data = a + b * (ratio(0.5) + ratio(0.2)) / 2
    np.testing.assert_allclose(found, [[0.8 * data + 0.2 * (middle - 0.5 * data) / 0.5]], rtol=1e-5)


@pytest.mark.parametrize("path", ["linear", "trig"])
def test_jumps_of_the_exact_map_compose(end, path):
    model = MAP if path == "linear" else as_trig(MAP)
    one, three = (walk("euler", model, from_flow_time(model.path, jnp.array(grid))) for grid in ([1.0, 0.0], [1.0, 0.8, 0.35, 0.0]))
    np.testing.assert_allclose(one, end, atol=2e-4)
    np.testing.assert_allclose(three, end, atol=2e-4)


def test_any_grid_and_any_end():
    through = walk("euler", MAP, jnp.array([1.0, 0.55, 0.4]))
    np.testing.assert_allclose(through, NOISE - 0.6 * toys.exact_map(NOISE, jnp.ones(64), jnp.full(64, 0.4)), atol=2e-4)


def moments(of, n=40000):
    """(variance of x_next, its covariance with x_t) after one step from 0.8 to 0.5 by a network that knows the data, all zero."""
    model = toys.analytic(lambda params, x, t, s, cond: x / t[:, None], ends="none")  # x0 = 0, so that x_t = t noise
    x = 0.8 * jax.random.normal(jax.random.key(8), (n, 2))
    sampler = of(closed(model), model.path, sampling.asker(model))
    state = sampler.init(jax.random.split(jax.random.key(9), n), x, jnp.float32(1.0))._replace(x=x)
    after = sampler.step(state, (jnp.float32(0.8), jnp.float32(0.5)))[0].x
    return float(jnp.mean(after**2)), float(jnp.mean(after * x))


@pytest.mark.parametrize("form, kept", [("posterior", 0.2 / 0.5 * 0.25 / 0.8), ("ratio", 0.25 / 0.8)])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_keeps_the_marginal_whatever_it_draws_afresh(form, kept, eta):
    """Variance t_n^2 for every eta; at eta = 1 the covariance of the Markov chain x_t | x_n (posterior) or t_n^2 (ratio)."""
    variance, covariance = moments(lambda *known: sampling.ddim(*known, eta=eta, form=form))
    assert variance == pytest.approx(0.25, rel=0.02)
    between = {"posterior": (0.25 - eta**2 * (0.25 - kept**2)) ** 0.5, "ratio": 0.5 - eta * (0.5 - kept)}[form]
    assert covariance == pytest.approx(0.8 * between, abs=0.006)


@pytest.mark.parametrize("name", ["ddim", "ddim_ratio"])
@pytest.mark.parametrize("path", MODELS)
def test_ddim_without_fresh_noise_is_euler_on_the_linear_path(name, path):
    """And on the trig path the same picture: both jump along the circle."""
    grid = from_flow_time(MODELS[path].path, times.grid(4))
    np.testing.assert_allclose(walk(name, MODELS[path], grid, eta=0.0), walk("euler", MODELS[path], grid), atol=1e-5)


def test_ancestral_sampling_starts_with_a_restart():
    grid = jnp.array([1.0, 0.6])
    np.testing.assert_allclose(walk("ddim", FIELD, grid), walk("restart", FIELD, grid), atol=1e-6)


@pytest.mark.parametrize("steps", [2, 3])
def test_restart_keeps_the_marginals(steps):
    n = 8000
    noise, keys = jax.random.normal(jax.random.key(5), (n, 2)), jax.random.split(jax.random.key(6), n)
    x = np.asarray(walk("restart", MAP, times.grid(steps), noise, keys, "zero"), np.float64)
    m = toys.MIXTURE
    mean = m.weights @ m.means
    covariance = np.einsum("k,ki,kj->ij", m.weights, m.means - mean, m.means - mean) + np.eye(2) * (m.weights @ m.stds**2)
    assert np.abs(x.mean(0) - mean).max() < 4 * np.sqrt(covariance.max() / n)
    assert np.abs(np.cov(x.T) - covariance).max() < 0.05
    waves = np.random.default_rng(1).normal(size=(6, 2))  # the characteristic function, which a Gaussian of the same moments does not have
    true = np.sum(m.weights[:, None] * np.exp(1j * m.means @ waves.T - (m.stds[:, None] ** 2) * np.sum(waves**2, 1) / 2), axis=0)
    assert np.abs(np.exp(1j * x @ waves.T).mean(0) - true).max() < 4.5 / np.sqrt(n)


@pytest.mark.slow
def test_restart_draws_afresh_and_by_sample():
    grid = jnp.array([1.0, 0.5])
    noise, keys = jnp.tile(NOISE, (20, 1)), jax.random.split(KEYS[0], 20 * 64)
    x = walk("restart", FIELD, grid, noise, keys)
    fresh = (x - 0.5 * (noise - toys.exact_velocity(noise, jnp.ones(len(noise))))) / 0.5
    assert float(fresh.std()) == pytest.approx(1.0, abs=0.06) and np.abs(np.corrcoef(fresh.reshape(-1), noise.reshape(-1))[0, 1]) < 0.08
    x = walk("restart", FIELD, grid)
    swapped = walk("restart", FIELD, grid, NOISE[::-1], KEYS[::-1])
    np.testing.assert_allclose(swapped[::-1], x, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["restart", "ddim"])
def test_noises_that_are_given_are_drawn_in_order(name):
    grid, given = jnp.array([1.0, 0.7, 0.3, 0.0]), jax.random.normal(jax.random.key(7), (3, *NOISE.shape))
    sampler = sampling.make(name, closed(FIELD), FIELD)
    x, times_of_steps = NOISE, [jnp.full(64, t) for t in grid]
    for t, after, noise in zip(times_of_steps[:-1], times_of_steps[1:], given, strict=True):
        x0 = x - t[:, None] * toys.exact_velocity(x, t)
        kept = 0.0
        if name == "ddim":
            kept = (1 - t) * after**2 / ((1 - after) * t)  # of the predicted noise, after a Markov step
            kept = kept[:, None]
        predicted = (x - (1 - t[:, None]) * x0) / t[:, None]
        x = (1 - after[:, None]) * x0 + kept * predicted + jnp.sqrt(after[:, None] ** 2 - kept**2) * noise
    np.testing.assert_allclose(sampling.sample(sampler, given, NOISE, grid)[0], x, atol=2e-5)


def test_whole_steps():
    asked = sampling.on_whole_steps(lambda x, t, s: (t, s), 1000)(None, jnp.array([0.99966, 0.5]), jnp.array([0.2499, 0.0]))
    np.testing.assert_allclose(asked, [[0.999, 0.5], [0.249, 0.0]], rtol=1e-6)


def test_what_is_asked():
    t, after = jnp.array([1.0, 0.8, 0.5, 0.4]), jnp.array([0.5, 0.1, 0.0, 0.05])
    expected = {"next": after, "now": t, "zero": 0 * t, "half": t / 2}
    for word, s in expected.items():
        for ends in ("map", "renoise"):
            assert (sampling.asker(MAP._replace(ends=ends), word)(t, after) == s).all()
        assert (sampling.asker(MAP._replace(ends="none"), word)(t, after) == t).all()
    hybrid = MAP._replace(ends="hybrid", gap=0.25)
    np.testing.assert_allclose(sampling.asker(hybrid, "next")(t, after), [0.5, 0.2, 0.0, 0.1])  # never in (0, 0.25 t), and 0 stays 0
    assert (sampling.asker(hybrid, "zero")(t, after) == 0).all() and (sampling.asker(hybrid, "now")(t, after) == t).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_known_velocity_gives_the_same_bits(name):
    sampler = sampling.make(name, closed(FIELD), FIELD)
    pair = (jnp.float32(0.9), jnp.float32(0.5))
    state = sampler.init(KEYS, NOISE, pair[0])
    known = closed(FIELD)(state.x, jnp.full(64, 0.9), jnp.full(64, 0.9))
    assert (sampler.step(state, pair)[0].x == sampler.step(state, pair, known)[0].x).all()
    wrong = (known[0] + 1.0, {})
    assert (sampler.step(state, pair)[0].x != sampler.step(state, pair, wrong)[0].x).any()


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_steps(name):
    for steps in range(1, 6):
        x = walk(name, FIELD, times.grid(steps))
        assert x.shape == NOISE.shape and np.isfinite(x).all()
