"""Paths between data and noise: x_t = alpha(t) x0 + sigma(t) noise, and every conversion between what a network may predict.

    linear  alpha = 1 - t     sigma = t        t in [0, 1]        flow matching (2209.03003), SANA, FLUX, Self-E
    trig    alpha = cos t     sigma = sin t    t in [0, pi/2]     TrigFlow (2410.11081), SANA-Sprint
    ve      alpha = 1         sigma = t        t in [0, 80]       EDM (2206.00364)

With v = alpha' x0 + sigma' noise, (x_t, v) and (x0, noise) are two bases of one plane, so all conversions are one 2x2 solve:

    x0    = (sigma' x_t - sigma v) / d,     noise = (alpha v - alpha' x_t) / d,     d = alpha sigma' - alpha' sigma      (1)

and a jump that keeps both is the exact step of every path: x_s = alpha_s x0 + sigma_s noise. It reads x - (t - s) v on the linear path and
cos(t - s) x - sin(t - s) v on the trig path.

Prop. 3.1 of SANA-Sprint (2503.09641) turns a linear-path network into a TrigFlow network without training: with
q = sin a + cos a and t = sin a / q,

    x_lin = x_trig / q,        F(x_trig, a, b) = (cos a - sin a) x_lin + u(x_lin, t(a), t(b)) / q                       (2)

The paper states it for one time. It holds for every asked end b: with q_b x_lin(b) = x_trig(b), sin a q_b - sin b q_a = sin(a - b), so a
jump by (2) lands where the linear jump lands. Nothing divides by a quantity that vanishes, so both ends and their derivatives are exact.
"""

import jax
import jax.numpy as jnp

from anystep.arrays import expand
from anystep.types import Model, Path

LINEAR = Path("linear", lambda t: 1.0 - t, lambda t: t, t_noise=1.0)
TRIG = Path("trig", jnp.cos, jnp.sin, t_noise=jnp.pi / 2)
VE = Path("ve", jnp.ones_like, lambda t: t, t_noise=80.0)
PATHS = {path.name: path for path in (LINEAR, TRIG, VE)}


def coefficients(path, t):
    """alpha, sigma and their derivatives at t, each of t's shape. The derivatives come from the functions themselves, so they cannot
    disagree."""
    one = jnp.ones_like(t)
    alpha, d_alpha = jax.jvp(path.alpha, (t,), (one,))
    sigma, d_sigma = jax.jvp(path.sigma, (t,), (one,))
    return alpha, sigma, d_alpha, d_sigma


def interpolate(path, x0, noise, t):
    """x_t, shape of x0; t is [B]."""
    return expand(path.alpha(t), x0) * x0 + expand(path.sigma(t), x0) * noise


def velocity(path, x0, noise, t):
    """The conditional velocity v = alpha' x0 + sigma' noise that flow matching regresses on."""
    _, _, d_alpha, d_sigma = coefficients(path, t)
    return expand(d_alpha, x0) * x0 + expand(d_sigma, x0) * noise


def data_and_noise(path, x, v, t):
    """(x0, noise) of the plane spanned by x_t and its velocity, Eq. (1)."""
    alpha, sigma, d_alpha, d_sigma = (expand(c, x) for c in coefficients(path, t))
    d = alpha * d_sigma - d_alpha * sigma
    return (d_sigma * x - sigma * v) / d, (alpha * v - d_alpha * x) / d


def jump(path, x, u, t, s):
    """Where the answer u, asked at x_t, puts the point at level s. Exact on every path; equals x at s = t."""
    if path is LINEAR:  # the same number with one rounding instead of five
        return x - expand(t - s, x) * u
    x0, noise = data_and_noise(path, x, u, t)
    return interpolate(path, x0, noise, s)


def from_flow_time(path, t):
    """Flow time t in [0, 1] -> the time of `path` with the same sigma / alpha."""
    if path is LINEAR:
        return t
    if path is TRIG:
        return jnp.arctan2(t, 1.0 - t)
    return jnp.minimum(t / jnp.maximum(1.0 - t, 1e-6), path.t_noise)


def to_flow_time(path, t):
    """The inverse of `from_flow_time`: sigma / (alpha + sigma)."""
    return path.sigma(t) / (path.alpha(t) + path.sigma(t))


def as_trig(model: Model) -> Model:
    """Prop. 3.1, Eq. (2): the same weights as a TrigFlow network, for any linear-path Model and any asked end."""
    if model.path is not LINEAR:
        raise ValueError(f"as_trig: the model lives on the {model.path.name} path, Prop. 3.1 starts from linear")

    def to_linear(x, angle):
        return x / expand(jnp.sin(angle) + jnp.cos(angle), x)

    def embed(params, x, t, s, cond):
        x = to_linear(x, t)
        return model.embed(params, x, to_flow_time(TRIG, t), to_flow_time(TRIG, s), cond), x, t

    def blocks(params, h, lo, hi, capture=None):
        inner, aux = model.blocks(params, h[0], lo, hi, capture)
        return (inner, *h[1:]), aux

    def head(params, h):
        inner, x, t = h
        sin, cos = expand(jnp.sin(t), x), expand(jnp.cos(t), x)
        return (cos - sin) * x + model.head(params, inner) / (sin + cos)

    return compose(model._replace(path=TRIG, embed=embed, blocks=blocks, head=head))


def compose(model: Model) -> Model:
    """Fills `velocity` with head(blocks(embed)): written once, so that the parts and the whole cannot differ."""

    def velocity(params, x, t, s, cond, capture=None):
        h, aux = model.blocks(params, model.embed(params, x, t, s, cond), 0, model.depth, capture)
        return model.head(params, h), aux

    return model._replace(velocity=velocity)
