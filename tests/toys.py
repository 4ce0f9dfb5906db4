"""Truths to test against: a Gaussian mixture with its exact velocity and flow map, analytic Models, tiny networks with random weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anystep.arrays import expand
from anystep.nets import mlp, sana, text
from anystep.path import LINEAR, compose
from anystep.types import Model, Roles


class Mixture(NamedTuple):
    weights: np.ndarray  # [K]
    means: np.ndarray  # [K, D]
    stds: np.ndarray  # [K]


MIXTURE = Mixture(np.array([0.5, 0.2, 0.3]), np.array([[1.0, 0.5], [-1.2, 0.3], [0.2, -1.0]]), np.array([0.5, 0.4, 0.6]))


def draw(key, n, mixture=MIXTURE):
    """(x0 [n, D], component [n])."""
    k, z = jax.random.split(key)
    which = jax.random.choice(k, len(mixture.weights), (n,), p=jnp.asarray(mixture.weights))
    noise = jax.random.normal(z, (n, mixture.means.shape[1]))
    return jnp.asarray(mixture.means, jnp.float32)[which] + jnp.asarray(mixture.stds, jnp.float32)[which][:, None] * noise, which


def log_joint(x, t, mixture=MIXTURE):
    """log p(x_t, component) on the linear path, [B, K] for x [B, D] and t [B], without the constant (2 pi)^(-D/2)."""
    t = t[:, None]
    variance = ((1 - t) * mixture.stds[None]) ** 2 + t**2
    distance = jnp.sum((x[:, None] - (1 - t)[..., None] * mixture.means[None]) ** 2, -1)
    return jnp.log(mixture.weights)[None] - distance / (2 * variance) - x.shape[1] / 2 * jnp.log(variance)


def means_given_component(x, t, mixture=MIXTURE):
    """(E[x0 | x_t, k], E[noise | x_t, k]), each [B, K, D]: jointly Gaussian, and no division by what vanishes at an end."""
    t = t[:, None]
    variance = ((1 - t) * mixture.stds[None]) ** 2 + t**2
    off = x[:, None] - (1 - t)[..., None] * mixture.means[None]
    return mixture.means[None] + ((1 - t) * mixture.stds[None] ** 2 / variance)[..., None] * off, (t / variance)[..., None] * off


def exact_velocity(x, t, mixture=MIXTURE):
    """E[noise - x0 | x_t] on the linear path."""
    x0, noise = means_given_component(x, t, mixture)
    return jnp.sum(jax.nn.softmax(log_joint(x, t, mixture))[..., None] * (noise - x0), axis=1)


def exact_map(x, t, s, steps=16):
    """The average of the exact velocity along its own path from t to s: the mean of Runge-Kutta's slopes, so that s = t needs no limit."""
    h = (t - s) / steps

    def step(carry, i):
        x, total = carry
        now = t - i * h
        k1 = exact_velocity(x, now)
        k2 = exact_velocity(x - h[:, None] / 2 * k1, now - h / 2)
        k3 = exact_velocity(x - h[:, None] / 2 * k2, now - h / 2)
        k4 = exact_velocity(x - h[:, None] * k3, now - h)
        slope = (k1 + 2 * k2 + 2 * k3 + k4) / 6
        return (x - h[:, None] * slope, total + slope), None

    (_, total), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), jnp.arange(steps, dtype=x.dtype))
    return total / steps


def analytic(function, path=LINEAR, ends="map", shape=(2,), gap=0.0):
    """A Model from `function(params, x, t, s, cond) -> u`."""
    return compose(
        Model(
            path,
            ends,
            shape,
            init=lambda key: {},
            velocity=None,
            embed=lambda params, x, t, s, cond: (x, t, s, cond),
            blocks=lambda params, h, lo, hi, capture=None: (h, {}),
            head=lambda params, h: function(params, *h),
            gap=gap,
        )
    )


PROBES = 7
_rng = np.random.default_rng(0)
_WAVES, _SIDES = _rng.normal(size=(2, PROBES, 2)).astype(np.float32)
_CLOCKS = _rng.normal(size=(PROBES, 3)).astype(np.float32)


def probes(x, t, s):
    """Smooth test functions of (x, t, s), [B, PROBES, 2]."""
    phase = x @ _WAVES.T + t[:, None] * _CLOCKS[None, :, 0] + s[:, None] * _CLOCKS[None, :, 1] + _CLOCKS[None, :, 2]
    return jnp.cos(2 * phase)[..., None] * _SIDES[None]


def probed(function, ends="map"):
    """u = scale u*(x, t, s, cond) + sum_p theta_p phi_p, theta [B, PROBES + 1].

    theta has a row a sample, so the gradient of the summed loss is every sample's own. The last test function is
    u* itself, so that a scaled map cannot hide from the others.
    """

    def velocity(params, x, t, s, cond):
        exact = function(x, t, s, cond)
        directions = jnp.concatenate([probes(x, t, s), jax.lax.stop_gradient(exact)[:, None]], axis=1)
        return params["scale"] * exact + jnp.einsum("bp,bpd->bd", params["theta"], directions)

    return analytic(velocity, ends=ends)


def expected_gradient(objective, model, batch, scale, step=0):
    """(mean over the batch of the loss gradient by theta at theta = 0, its standard error), [PROBES + 1] each."""
    theta = jnp.zeros((batch["x0"].shape[0], PROBES + 1))

    @jax.jit
    def gradient(theta, scale, batch):
        def total(theta):
            params = {"net": {"theta": theta, "scale": scale}}
            return jnp.sum(objective({"net": model}, Roles(params, params, {}, {}), batch, jax.random.key(5), jnp.int32(step))[0])

        return jax.grad(total)(theta)

    found = np.asarray(gradient(theta, jnp.float32(scale), batch), np.float64)
    return found.mean(0), found.std(0) / np.sqrt(len(found))


def plain_batch(x0, cond=None, null=None):
    """A prepared batch, as an objective sees it."""
    rows = x0.shape[0]
    cond = {} if cond is None else cond
    null = cond if null is None else null
    prompts = {"cond": cond, "null": null, "ema_cond": cond, "ema_null": null}
    return {"x0": x0, "index": jnp.arange(rows), "dropped": jnp.zeros(rows, bool), **prompts}


TEXT = dict(vocabulary=64, length=6, width=16, depth=1, heads=2)
OPTIONS = sana.Options(shape=(8, 8, 3), width=16, depth=3, heads=2, cross_heads=2, patch=4, stem=8)
SANA = {"attention": "linear", "ffn": "conv", "stem": 0, "predicts": "v", "positions": "none"}


def tiny_text():
    return text.build(**TEXT)


def tiny_sana(**options):
    return sana.build(OPTIONS._replace(**options), TEXT["width"])


def tiny_mlp(**common):
    return mlp.build(mlp.Options(width=16, depth=2), TEXT["width"], **common)


def random_params(model, seed=1, size=0.3):
    """Every leaf random: no zero-initialised layer hides what is behind it."""
    leaves, shape = jax.tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(shape, [size * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)])


def picture_inputs(model, rows=4, seed=2):
    """(x, t, s, cond): times away from the ends, prompts of different lengths."""
    x, t, s, f = jax.random.split(jax.random.key(seed), 4)
    t = jax.random.uniform(t, (rows,), minval=0.2, maxval=0.9)
    s = t * jax.random.uniform(s, (rows,))
    mask = jnp.arange(6)[None] < jnp.array([1, 6, 3, 2] * rows)[:rows, None]
    features = jax.random.normal(f, (rows, 6, TEXT["width"]))
    return jax.random.normal(x, (rows, *model.shape)), t, s, {"features": features, "mask": mask}


def wavy(params, x, t, s, cond):
    """A smooth nonlinear u of x, t and s in any precision: params {"a": [D, D], "b": [D]}."""
    clock = expand(jnp.sin(2 * t) - 0.7 * s * t, x)
    return jnp.tanh(x @ params["a"] + clock * params["b"][None]) + 0.3 * x * expand(jnp.cos(s + t), x)
