"""Named randomness, EMA: a draw depends on its name, step and sample and on nothing else, and averages are averages."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anystep import tree


class Pair(NamedTuple):
    first: object
    second: object


def example():
    return {"b": Pair(jnp.arange(6.0).reshape(2, 3), [jnp.ones(4, jnp.bfloat16)]), "a": jnp.int32(7)}


def bits(keys):
    return np.asarray(jax.random.key_data(keys))


def test_fold_is_crc32_of_the_name():
    key = jax.random.key(3)
    assert zlib.crc32(b"123456789") == 0xCBF43926  # the check value of the CRC-32 standard
    assert (bits(tree.fold(key, "123456789")) == bits(jax.random.fold_in(key, 0xCBF43926))).all()
    assert (bits(tree.fold(key, "noise")) != bits(tree.fold(key, "time"))).any()


def test_a_sample_keeps_its_key_wherever_it_sits():
    key, step = jax.random.key(0), jnp.int32(5)
    many = bits(tree.sample_keys(key, "noise", step, jnp.arange(100)))
    few = bits(tree.sample_keys(key, "noise", step, jnp.array([17, 3])))
    assert (few == many[[17, 3]]).all()
    inside = bits(jax.jit(lambda s, i: tree.sample_keys(key, "noise", s, i))(step, jnp.array([17, 3])))
    assert (inside == few).all()


def test_name_step_and_index_all_matter():
    key = jax.random.key(0)
    names = [tree.sample_keys(key, name, step, jnp.arange(8)) for name in ("noise", "time") for step in range(4)]
    assert len({row.tobytes() for keys in names for row in bits(keys)}) == 2 * 4 * 8
    swapped = bits(tree.sample_keys(key, "noise", 2, jnp.array([1]))), bits(tree.sample_keys(key, "noise", 1, jnp.array([2])))
    assert (swapped[0] != swapped[1]).any()


@pytest.mark.slow
def test_draws_are_per_sample_and_of_the_right_law():
    keys = tree.sample_keys(jax.random.key(1), "noise", 0, jnp.arange(4000))
    z, u = tree.normal(keys, (2, 3)), tree.uniform(keys)
    assert z.shape == (4000, 2, 3) and z.dtype == jnp.float32 and u.shape == (4000,) and u.dtype == jnp.float32
    np.testing.assert_array_equal(z[5], tree.normal(keys[5:6], (2, 3))[0])
    n = z.size
    assert abs(z.mean()) < 5 / n**0.5 and abs((z**2).mean() - 1) < 5 * (2 / n) ** 0.5
    assert abs(np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1]) < 5 / n**0.5  # neighbours in the stream are independent
    assert u.min() >= 0 and u.max() < 1
    assert np.abs(np.sort(u) - np.arange(4000) / 4000).max() < 1.95 / 4000**0.5  # Kolmogorov-Smirnov, 0.1 %


def test_ema_is_exact_on_a_constant_and_follows_the_warm_up():
    constant = {"w": jnp.full(3, 2.5)}
    assert (tree.ema_update(constant, constant, 0.999, 0)["w"] == 2.5).all()
    zero, one = {"w": jnp.zeros(())}, {"w": jnp.ones(())}
    for step, decay in ((0, 0.1), (10, 0.55), (8990, 0.999), (10**6, 0.999)):  # (1 + step) / (10 + step), then the given decay
        assert float(tree.ema_update(zero, one, 0.999, jnp.int32(step))["w"]) == pytest.approx(1 - decay, rel=1e-3)
    assert float(tree.ema_update(zero, one, 0.05, 0)["w"]) == pytest.approx(0.95)


def test_ema_keeps_float32_under_bfloat16_weights():
    out = tree.ema_update({"w": jnp.zeros(2)}, {"w": jnp.ones(2, jnp.bfloat16)}, 0.5, 100)
    assert out["w"].dtype == jnp.float32


def test_count_and_paths():
    assert tree.count(example()) == 2 * 3 + 4 + 1
    assert tree.count(jax.eval_shape(example)) == 11
    assert tree.count({"scalar": jax.ShapeDtypeStruct((), jnp.float32), "none": None}) == 1
    flat = tree.paths(example())
    assert list(flat) == ["a", "b/first", "b/second/0"]
    with pytest.raises(ValueError, match="same name"):
        tree.paths({"x/y": 1, "x": {"y": 2}})


def test_paths_keep_the_order_of_leaves():
    t = example()
    assert [id(x) for x in tree.paths(t).values()] == [id(x) for x in jax.tree.leaves(t)]


def test_global_norm():
    assert float(tree.global_norm({"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)})) == 5.0
    assert float(tree.global_norm({"a": jnp.full(10_000, 1.0, jnp.bfloat16)})) == 100.0  # a bfloat16 sum would stick at 256
    assert float(tree.global_norm({})) == 0.0
