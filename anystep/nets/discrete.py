"""The clock of networks trained on 1000 steps of a variance-preserving diffusion (Stable Diffusion 1.x and 2.x), behind flow time.

With abar_i = prod_{j <= i} (1 - beta_j), beta ("linear") or sqrt(beta) ("scaled_linear") evenly spaced, alpha = sqrt(abar) and
sigma = sqrt(1 - abar),

    x_vp = alpha x0 + sigma noise = (alpha + sigma) x_lin,        t = sigma / (alpha + sigma)                   (1)

so step i is a point t_i of the linear path, with Stable Diffusion's betas t_0 = 0.028 to t_999 = 0.936. Below and above the network
knows no step: it is asked at the last one it knows, about x at its own scale (so that pure noise has unit variance, as samplers of these
networks start). What the answer says of data and noise is then taken at that step,

    epsilon        x0 = (x_vp - sigma epsilon) / alpha,     noise = epsilon                    alpha >= alpha_999 = 0.068
    v_prediction   x0 = alpha x_vp - sigma v,               noise = sigma x_vp + alpha v       v = alpha noise - sigma x0 (2202.00512)

and the velocity u = noise - x0 keeps x and one of the two, the data at t > 1/2 and else the noise:

    u = (x - x0) / t   or   (noise - x) / (1 - t)                                                               (2)

On the table both are noise - x0. Beyond its ends the first gives x - t u = x0 at t = 1 and the second x + (1 - t) u = noise at t = 0,
and nothing divides by less than 1/2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from anystep.arrays import expand

BETAS, STEPS = ("scaled_linear", 0.00085, 0.012), 1000  # Stable Diffusion's


@functools.cache
def flow_times(betas=BETAS):
    """t_i of Eq. (1), [1000] float64, increasing; betas: ("scaled_linear" | "linear", the first, the last)."""
    law, *ends = betas
    squared = np.cumprod(1.0 - (np.linspace(*np.sqrt(ends), STEPS) ** 2 if law == "scaled_linear" else np.linspace(*ends, STEPS)))
    return np.sqrt(1.0 - squared) / (np.sqrt(squared) + np.sqrt(1.0 - squared))


TIMES = flow_times()


def times_of(steps, betas=BETAS):
    """Flow times (float64) of step numbers in [0, 999]; between two steps linear in sigma / alpha, as diffusers' Euler places them."""
    times = flow_times(betas)
    ratio = np.interp(steps, np.arange(STEPS), times / (1.0 - times))
    return ratio / (1.0 + ratio)


def step_number(t, betas=BETAS):
    """Flow time [B] -> the network's step [B], not an integer: between two steps linear in log(sigma / alpha), as k-diffusion and
    diffusers' Euler do; the integer itself at float(t_i); 0 and 999 beyond the table, with derivative zero there."""
    knots = jnp.asarray(flow_times(betas), t.dtype)
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


def velocity_of(x, prediction, t, predicts, betas=BETAS):
    """The linear-path velocity u at x_lin, Eq. (2), from the network's prediction at `step_number(t)`; x and prediction of one shape."""
    times = flow_times(betas)
    known = jnp.clip(t, float(times[0]), float(times[-1]))
    alpha, sigma = (expand(c / length(known), x) for c in (1.0 - known, known))
    preserving, t = to_preserving(x, t), expand(t, x)
    if predicts == "epsilon":
        x0, noise = (preserving - sigma * prediction) / alpha, prediction
    else:
        x0, noise = alpha * preserving - sigma * prediction, sigma * preserving + alpha * prediction
    return jnp.where(t > 0.5, (x - x0) / jnp.maximum(t, 0.5), (noise - x) / jnp.maximum(1.0 - t, 0.5))
