"""Laws of times, the warp, the grids: numbers from the papers and moments from quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from anystep import times
from anystep.path import TRIG, to_flow_time
from anystep.times import TimeLaw

KEYS = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(40_000))


def uniforms_of_logit_normal(t, mean, std):
    """Probability integral transform: uniform if and only if t follows the law."""
    z = (np.log(t / (1 - t)) - mean) / std
    return np.asarray(jax.scipy.stats.norm.cdf(z))


def assert_uniform(u):
    n = len(u)
    assert np.abs(np.sort(u) - (np.arange(n) + 0.5) / n).max() < 2.0 / np.sqrt(n)  # Kolmogorov-Smirnov, far beyond 1 in 1,000


@pytest.mark.slow
def test_laws():
    t = np.asarray(times.draw_t(TimeLaw(mean=-0.4, std=1.3), KEYS), np.float64)
    assert_uniform(uniforms_of_logit_normal(t, -0.4, 1.3))
    assert t.min() > 0 and t.max() < 1
    assert_uniform(np.asarray(times.draw_t(TimeLaw("uniform"), KEYS), np.float64))


def test_shift_moves_the_logit_by_its_logarithm():
    t = np.asarray(times.draw_t(TimeLaw(shift=3.0), KEYS), np.float64)
    assert_uniform(uniforms_of_logit_normal(t, np.log(3.0), 1.0))


def test_warp_keeps_ends_and_order():
    t = jnp.linspace(0, 1, 50)
    for shift in (0.3, 1.0, 4.0):
        warped = times.warp(t, shift)
        assert warped[0] == 0 and warped[-1] == 1 and (np.diff(warped) > 0).all()
    assert (times.warp(t, 1.0) == t).all()


@pytest.mark.parametrize(
    "base, tokens, mu",
    [(512, 256, 0.4536), (512, 1024, 0.5929), (256, 256, 0.5), (256, 1024, 0.63), (256, 4096, 1.15)],
)
def test_flux_shift(base, tokens, mu):
    assert np.log(times.flux_shift(tokens, low=(base, 0.5))) == pytest.approx(mu, abs=1e-4)


@pytest.mark.parametrize(
    "tokens, expected",
    [(256, [1, 0.6115, 0]), (256, [1, 0.825, 0.6115, 0.344, 0]), (1024, [1, 0.644, 0]), (1024, [1, 0.844, 0.644, 0.376, 0])],
)
def test_grids_of_self_e(tokens, expected):
    section = ConfigDict(dict(law="uniform", mean=0.0, std=1.0, shift=1.0, base_tokens=512))
    grid = times.grid(len(expected) - 1, times.time_law(section, tokens).shift)
    np.testing.assert_allclose(grid, expected, atol=6e-4)
    assert grid[0] == 1 and grid[-1] == 0


def test_grid_is_even_without_a_shift():
    np.testing.assert_allclose(times.grid(5), [1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-7)


def test_grids_that_stop_before_an_end():
    np.testing.assert_allclose(times.grid(4, 3.0, first=0.8), [12 / 13, 9 / 11, 2 / 3, 3 / 7, 0], rtol=1e-6)
    np.testing.assert_allclose(times.grid(3, 1.0, last=0.2), [1, 0.6, 0.2, 0], atol=1e-7)
    assert times.grid(1, 2.0, last=0.2).tolist() == [1, 0]


@pytest.mark.parametrize(
    "steps, spacing, offset, expected",
    [  # 2305.08891, Tab. 2, which counts from 1
        (10, "leading", 0, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
        (10, "trailing", 0, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        (10, "linspace", 0, [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
        (3, "leading", 1, [667, 334, 1]),
        (3, "trailing", 0, [999, 666, 332]),
        (2, "linspace", 0, [999, 0]),
    ],
)
def test_discrete_steps(steps, spacing, offset, expected):
    np.testing.assert_allclose(times.discrete_steps(steps, spacing, offset), expected)


def test_angles_of_sana_sprint():
    """The published lists in flow time, and what the released pipeline walks."""
    known = {1.5683: 0.9975, 1.3: 0.783, 1.1: 0.663, 0.6: 0.406, 0.0: 0.0, np.pi / 2: 1.0}
    for steps, angles in times.SPRINT_ANGLES.items():
        assert len(angles) == steps + 1
        np.testing.assert_allclose(to_flow_time(TRIG, jnp.array(angles)), [known[angle] for angle in angles], atol=6e-4)
    assert times.scm_angles(1).tolist() == [1.5708, 0] and times.scm_angles(2).tolist() == [1.5708, 1.3, 0]
    np.testing.assert_allclose(times.scm_angles(2, middle=None), [1.5708, 0.7854, 0])
    np.testing.assert_allclose(times.scm_angles(3, first=1.5), [1.5, 1.0, 0.5, 0])


@pytest.mark.parametrize("low", [0.0, 0.25, 1.0])
def test_draw_below(low):
    t = jnp.linspace(0.1, 1.0, len(KEYS))
    s = np.asarray(times.draw_below(t, KEYS, low), np.float64)
    assert (s <= t).all() and (s >= low * t - 1e-6).all()
    if low == 1.0:
        assert (s == t).all()
    else:
        assert_uniform((s / t - low) / (1 - low))


def test_annealing_opens_the_gap():
    steps = jnp.array([0, 25, 50, 100, 1000])
    np.testing.assert_allclose(times.annealed_low_share(steps, 100), [1, 0.75, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(times.annealed_low_share(steps, 100, s_min=0.3), [1, 0.75, 0.5, 0.3, 0.3], atol=1e-6)
    assert times.annealed_low_share(jnp.int32(1), 0) == 0


def test_quarters():
    assert times.quarter(jnp.array([0.0, 0.2, 0.25, 0.6, 0.99, 1.0]), 1.0).tolist() == [0, 0, 1, 2, 3, 3]
    assert times.quarter(jnp.array([0.3, 0.5, 1.0, 1.5, np.pi / 2]), np.pi / 2).tolist() == [0, 1, 2, 3, 3]
