"""The clock of networks trained on 1000 steps of a variance-preserving diffusion (Stable Diffusion 1.x and 2.x), behind flow time.

With abar_i = prod_{j <= i} (1 - beta_j) and sqrt(beta) evenly spaced ("scaled_linear"), alpha = sqrt(abar), sigma = sqrt(1 - abar),

    x_vp = alpha x0 + sigma noise = (alpha + sigma) x_lin,        t = sigma / (alpha + sigma)                   (1)

so step i is a point t_i of the linear path, t_0 = 0.028 to t_999 = 0.936. Below and above the network knows no step: it is asked at the
last one it knows, about x at its own scale (so that pure noise has unit variance, as samplers of these networks start). What the answer
says of data and noise is then taken at that step,

    epsilon        x0 = (x_vp - sigma epsilon) / alpha,     noise = epsilon                    alpha >= alpha_999 = 0.068
    v_prediction   x0 = alpha x_vp - sigma v,               noise = sigma x_vp + alpha v       v = alpha noise - sigma x0 (2202.00512)

and the velocity u = noise - x0 keeps x and one of the two, the data at t > 1/2 and else the noise:

    u = (x - x0) / t   or   (noise - x) / (1 - t)                                                               (2)

On the table both are noise - x0. Beyond its ends the first gives x - t u = x0 at t = 1 and the second x + (1 - t) u = noise at t = 0,
and nothing divides by less than 1/2.
"""

import jax
import jax.numpy as jnp
import numpy as np

from anystep.arrays import expand

BETAS, STEPS = (0.00085, 0.012), 1000


def flow_times():
    """t_i of Eq. (1), [1000] float64, increasing."""
    betas = np.linspace(*np.sqrt(BETAS), STEPS) ** 2
    squared = np.cumprod(1.0 - betas)
    return np.sqrt(1.0 - squared) / (np.sqrt(squared) + np.sqrt(1.0 - squared))


TIMES = flow_times()


def step_number(t):
    """Flow time [B] -> the network's step [B], not an integer: between two steps linear in log(sigma / alpha), as k-diffusion and
    diffusers' Euler do; the integer itself at float(t_i); 0 and 999 beyond the table, with derivative zero there."""
    knots = jnp.asarray(TIMES, t.dtype)
    t = jnp.clip(t, knots[0], knots[-1])
    i = jnp.clip(jnp.searchsorted(knots, jax.lax.stop_gradient(t), side="right") - 1, 0, STEPS - 2)
    low, high = knots[i], knots[i + 1]

    def rise(t):  # of log(t / (1 - t)) since low, exactly zero at low
        return jnp.log1p((t - low) / (low * (1.0 - t)))

    return i + rise(t) / rise(high)


def length(t):
    """1 / (alpha + sigma): what x_lin is divided by to become x_vp."""
    return jnp.sqrt((1.0 - t) ** 2 + t**2)


def to_preserving(x, t):
    """x_lin at flow time t -> x_vp, of unit variance if data and noise are, at every t."""
    return x / expand(length(t), x)


def velocity_of(x, prediction, t, predicts):
    """The linear-path velocity u at x_lin, Eq. (2), from the network's prediction at `step_number(t)`; x and prediction of one shape."""
    known = jnp.clip(t, float(TIMES[0]), float(TIMES[-1]))
    alpha, sigma = (expand(c / length(known), x) for c in (1.0 - known, known))
    preserving, t = to_preserving(x, t), expand(t, x)
    if predicts == "epsilon":
        x0, noise = (preserving - sigma * prediction) / alpha, prediction
    else:
        x0, noise = alpha * preserving - sigma * prediction, sigma * preserving + alpha * prediction
    return jnp.where(t > 0.5, (x - x0) / jnp.maximum(t, 0.5), (noise - x) / jnp.maximum(1.0 - t, 0.5))
