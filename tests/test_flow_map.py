"""The total derivative: against differences, and the gradient of a loss that uses it, with what is stopped written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep.flow_map import total_derivative


def setting():
    rng = np.random.default_rng(1)
    x, v = (jnp.asarray(rng.normal(size=(4, 3))) for _ in range(2))
    params = {"a": jnp.asarray(rng.normal(size=(3, 3))), "b": jnp.asarray(rng.normal(size=3))}
    return params, x, v, jnp.array([0.2, 0.5, 0.9, 1.0]), jnp.array([0.0, 0.1, 0.9, 0.4])


def asked(params):
    return lambda x, t, s: (toys.wavy(params, x, t, s, {}), {"seen": t})


@pytest.mark.slow
def test_du_dt_along_the_velocity_with_s_held():
    with jax.enable_x64(True):
        params, x, v, t, s = setting()
        u, derivative, aux = total_derivative(asked(params), x, t, s, v)
        h = 1e-5
        difference = (toys.wavy(params, x + h * v, t + h, s, {}) - toys.wavy(params, x - h * v, t - h, s, {})) / (2 * h)
        np.testing.assert_allclose(derivative, difference, atol=1e-9)
        assert (u == toys.wavy(params, x, t, s, {})).all() and (aux["seen"] == t).all()


def meanflow_loss(params, x, v, t, s):
    u, derivative, _ = total_derivative(asked(params), x, t, s, v)
    target = jax.lax.stop_gradient(v - (t - s)[:, None] * derivative)
    return jnp.sum((u - target) ** 2)


def test_the_loss_gradient_holds_the_target_fixed():
    with jax.enable_x64(True):
        params, x, v, t, s = setting()
        h = 1e-6
        derivative = (toys.wavy(params, x + 1e-5 * v, t + 1e-5, s, {}) - toys.wavy(params, x - 1e-5 * v, t - 1e-5, s, {})) / 2e-5
        target = v - (t - s)[:, None] * derivative  # by differences, at the params where the gradient is taken, and constant from here on

        def frozen(b):
            return jnp.sum((toys.wavy({**params, "b": b}, x, t, s, {}) - target) ** 2)

        found = jax.grad(meanflow_loss)(params, x, v, t, s)["b"]
        difference = [(frozen(params["b"] + h * e) - frozen(params["b"] - h * e)) / (2 * h) for e in jnp.eye(3)]
        np.testing.assert_allclose(found, difference, rtol=1e-6)


def test_the_tangent_carries_no_gradient():
    params, x, v, t, s = jax.tree.map(lambda a: a.astype(jnp.float32), setting())
    gradient = jax.grad(lambda p: jnp.sum(total_derivative(asked(p), x, t, s, v)[1]))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


NETS = {"scanned": {}, "unrolled": {"scan": False}, "remat": {"remat": True}}


def net_loss(model, fused=True):
    def loss(params, x, t, s, v, cond):
        def velocity(x, t, s):
            return model.velocity(params, x, t, s, cond)

        if fused:
            u, derivative, _ = total_derivative(velocity, x, t, s, v)
        else:  # two passes: the tangent of a call of its own, then a plain forward
            derivative = jax.lax.stop_gradient(jax.jvp(lambda x, t: velocity(x, t, s)[0], (x, t), (v, jnp.ones_like(t)))[1])
            u = velocity(x, t, s)[0]
        target = jax.lax.stop_gradient(v - (t - s)[:, None, None, None] * derivative)
        return jnp.mean((u - target) ** 2), (u, derivative)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def scanned():
    model = toys.tiny_sana()
    x, t, s, cond = toys.picture_inputs(model)
    arguments = toys.random_params(model), x, t, s, jax.random.normal(jax.random.key(9), x.shape), cond
    return arguments, net_loss(model)(*arguments)


def agree(found, true, tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(true), strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max() + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(NETS)[1:])
def test_scan_unroll_and_remat_are_one_network(scanned, kind):
    arguments, truth = scanned
    agree(net_loss(toys.tiny_sana(**NETS[kind]))(*arguments), truth, 2e-5)


@pytest.mark.slow
def test_one_fused_pass_equals_two(scanned):
    arguments, truth = scanned
    agree(net_loss(toys.tiny_sana(), fused=False)(*arguments), truth, 1e-5)  # two programs, which XLA fuses each in its own way


@pytest.mark.slow
def test_du_dt_of_a_network(scanned):
    (params, x, t, s, v, cond), ((_, (_, derivative)), _) = scanned
    model, h = toys.tiny_sana(), 1e-3
    ahead, behind = (model.velocity(params, x + d * v, t + d, s, cond)[0] for d in (h, -h))
    difference = (ahead - behind) / (2 * h)
    assert np.abs(derivative - difference).max() < 0.01 * np.abs(difference).max()
