"""Guidance: exact at 1, extrapolates, keeps the energy, acts in its interval only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anystep.arrays import norm
from anystep.guide import classifier_free

X = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
T = jnp.array([0.1, 0.5, 0.9])


def conditional(x, t, s):
    return jnp.sin(3 * x) * 1.7 + s[:, None, None, None], {"maps": x}


def unconditional(x, t, s):
    return jnp.cos(x), {"maps": jnp.zeros_like(x)}


C, U = conditional(X, T, T)[0], unconditional(X, T, T)[0]


@pytest.mark.parametrize("energy", [False, True])
def test_one_changes_no_bit(energy):
    def guided(scale):
        return classifier_free(unconditional, scale, energy)(conditional)(X, T, T)

    assert (guided(1.0)[0] == C).all()
    assert (jax.jit(lambda w: guided(w)[0])(jnp.float32(1.0)) == jax.jit(lambda: conditional(X, T, T)[0])()).all()
    assert (guided(1.0)[1]["maps"] == X).all()  # what the conditional branch hands out


def test_extrapolates():
    v, _ = classifier_free(unconditional, 3.0)(conditional)(X, T, T)
    np.testing.assert_allclose(v, 3 * C - 2 * U, atol=1e-5)  # the textbook form u + w (c - u)
    v, _ = classifier_free(unconditional, 0.0)(conditional)(X, T, T)
    np.testing.assert_allclose(v, U, atol=1e-6)


def test_energy_is_that_of_the_conditional_velocity():
    v, _ = classifier_free(unconditional, 5.0, energy_preserving=True)(conditional)(X, T, T)
    energy = [np.sum(np.asarray(a, np.float64) ** 2, axis=(1, 2, 3)) for a in (v, C)]
    np.testing.assert_allclose(*energy, rtol=1e-5)
    plain = 5 * C - 4 * U
    cosine = np.sum(v * plain, (1, 2, 3)) / (norm(v) * norm(plain)).reshape(-1)
    np.testing.assert_allclose(cosine, 1.0, atol=1e-6)  # only the length changes


def test_interval():
    v, _ = classifier_free(unconditional, 3.0, interval=(0.4, 0.6))(conditional)(X, T, T)
    assert (v[0] == C[0]).all() and (v[2] == C[2]).all()
    np.testing.assert_allclose(v[1], (3 * C - 2 * U)[1], atol=1e-5)
    v, _ = classifier_free(unconditional, 3.0, interval=(0.5, 0.9))(conditional)(X, T, T)
    assert ((v != C).any(axis=(1, 2, 3)) == jnp.array([False, True, True])).all()  # both ends belong to it


def test_jumps_that_learned_guidance_are_left_alone():
    s = T * jnp.array([1.0, 0.5, 0.0])
    c, u = conditional(X, T, s)[0], unconditional(X, T, s)[0]
    v, _ = classifier_free(unconditional, 3.0, jumps=False)(conditional)(X, T, s)
    np.testing.assert_allclose(v[:2], (3 * c - 2 * u)[:2], atol=1e-5)
    assert (v[2] == c[2]).all()


def test_a_scale_per_sample():
    v, _ = classifier_free(unconditional, jnp.array([1.0, 2.0, 4.0]))(conditional)(X, T, T)
    assert (v[0] == C[0]).all()
    np.testing.assert_allclose(v[1:], (jnp.array([2.0, 4.0]).reshape(2, 1, 1, 1) * (C - U)[1:] + U[1:]), atol=1e-5)


def test_norm():
    assert norm(jnp.full((2, 3, 4), 2.0)).tolist() == [[[pytest.approx(48**0.5)]]] * 2
