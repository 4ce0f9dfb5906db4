"""What stabilisers do to a size, and that they keep a direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anystep.arrays import rms
from anystep.weighting import calm, l1, weighted

SIZES = np.array([0.0, 1e-3, 0.5, 1.0, 7.0, 1e4])
UNIT = jax.random.normal(jax.random.key(0), (6, 8, 5))
UNIT = UNIT / jnp.sqrt(jnp.mean(UNIT**2, axis=(1, 2), keepdims=True))
TANGENT = UNIT * jnp.asarray(SIZES, jnp.float32)[:, None, None]


def test_rms():
    np.testing.assert_allclose(rms(TANGENT).reshape(-1), SIZES, rtol=1e-5)


@pytest.mark.parametrize(
    "kind, sizes",
    [
        ("none", SIZES),
        ("clip", np.minimum(SIZES, 1.0)),
        ("rms", SIZES / (SIZES + 0.1)),
        ("l2", SIZES / (40**0.5 * SIZES + 0.1)),  # 40 numbers a sample: |g| = sqrt(40) rms
    ],
)
def test_calm(kind, sizes):
    np.testing.assert_allclose(calm(TANGENT, kind), UNIT * jnp.asarray(sizes, jnp.float32)[:, None, None], rtol=2e-5, atol=1e-7)


def test_rms_does_not_depend_on_the_resolution():
    coarse = jnp.full((1, 4, 4, 1), 0.3)
    assert calm(coarse, "rms")[0, 0, 0, 0] == pytest.approx(float(calm(jnp.full((1, 32, 32, 1), 0.3), "rms")[0, 0, 0, 0]), rel=1e-5)


def test_adaptive_divides_by_a_constant():
    loss = jnp.array([0.0, 0.01, 0.5, 90.0])
    np.testing.assert_allclose(weighted(loss, "adaptive"), loss / (loss + 0.01), rtol=1e-6)
    gradient = jax.grad(lambda a: jnp.sum(weighted(a, "huber", c=0.02)))(loss)
    np.testing.assert_allclose(gradient, 1 / np.sqrt(loss + 0.02), rtol=1e-6)


def test_l1_is_drawn_to_the_median():
    """Three numbers of ten are 1, the rest 0: squares answer .3, absolute values 0; and far from 0 it is the absolute value less c."""
    values = jnp.array([1.0] * 3 + [0.0] * 7)
    best = min(np.linspace(-0.5, 1.5, 401), key=lambda guess: float(l1((values - guess)[None])[0]))
    assert abs(best) < 0.05
    np.testing.assert_allclose(l1(TANGENT[5:], c=0.02), jnp.mean(jnp.abs(TANGENT[5:]), axis=(1, 2)) - 0.02, rtol=1e-6)
    assert float(l1(jnp.zeros((1, 3)))[0]) == 0.0
