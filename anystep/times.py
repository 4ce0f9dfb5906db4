"""Draws of (t, s) for training and grids of times for sampling, all in flow time [0, 1] (1 noise, 0 data); `path.from_flow_time` converts.

logit-normal   t = sigmoid(mean + std z)                                        (2403.03206)
shift          t -> shift t / (1 + (shift - 1) t),   shift = exp(mu) of FLUX and Self-E; one warp for training and sampling
gap            s ~ U(max(1 - tau, s_min) t, t),   tau from 0 to 1 over `anneal` steps      (Self-E, 2512.22374, S.2)

Peers count otherwise, their grids stand below: `discrete_steps` in step numbers (`nets.discrete` knows their flow times), `scm_angles` in
TrigFlow's angles.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anystep import tree


class TimeLaw(NamedTuple):
    """law: "logit_normal" | "uniform"; mean and std of the logit; shift > 0, more noise above 1."""

    law: str = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0


LOGIT_NORMAL = TimeLaw()


def warp(t, shift):
    """Moves times toward noise (shift > 1) and keeps both ends."""
    return shift * t / (1.0 + (shift - 1.0) * t)


def flux_shift(tokens, low=(256, 0.5), high=(4096, 1.15)):
    """exp(mu) with mu linear in the number of latent patches, through two anchors (patches, mu)."""
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return math.exp(low[1] + slope * (tokens - low[0]))


def time_law(section, tokens) -> TimeLaw:
    """The law of a config's `objective.time` for pictures of so many tokens; its shift is also that of the sampler's grid.

    base_tokens: 0 takes `shift` as it is, N the shift that grows with the length from exp(0.5) at N tokens: 512 as Self-E prints it, 256 as
    in FLUX and minFM.
    """
    shift = flux_shift(tokens, low=(section.base_tokens, 0.5)) if section.base_tokens else section.shift
    return TimeLaw(section.law, section.mean, section.std, shift)


def draw_t(law: TimeLaw, keys):
    """[B] flow times in (0, 1), one key a sample."""
    if law.law == "uniform":
        t = jax.vmap(lambda k: jax.random.uniform(k, minval=1e-5, maxval=1.0))(keys)
    else:
        t = jax.nn.sigmoid(law.mean + law.std * jax.vmap(jax.random.normal)(keys))
    return warp(t, law.shift)


def draw_below(t, keys, low_share):
    """s ~ U(low_share t, t), shape [B]; low_share in [0, 1]."""
    share = tree.uniform(keys)
    return t * (low_share + (1.0 - low_share) * share)


def annealed_low_share(step, anneal, s_min=0.0):
    """max(1 - tau, s_min), tau growing linearly from 0 to 1 over `anneal` steps: s starts next to t and its lower bound falls to s_min
    t."""
    tau = jnp.clip(step / max(anneal, 1), 0.0, 1.0)
    return jnp.maximum(1.0 - tau, s_min)


def grid(steps, shift=1.0, first=1.0, last=None):
    """[steps + 1] decreasing flow times from 1 to 0, evenly spaced before the warp. `first` and `last` (before the warp, too) as peers have
    them: from first to 0, or from first to last and then 0."""
    even = jnp.linspace(first, 0.0, steps + 1) if last is None else jnp.append(jnp.linspace(first, last, steps), 0.0)
    return warp(even, shift)


def discrete_steps(steps, spacing, offset=0, known=1000):
    """[steps] decreasing step numbers of a network that knows 0 to known - 1 (2305.08891, Tab. 2; diffusers' roundings).

    "leading": the lower end of each of `steps` parts, plus offset; "trailing": its upper end; "linspace": from end to end, not rounded.
    """
    number = np.arange(steps)
    if spacing == "leading":
        return number[::-1] * (known // steps) + offset
    if spacing == "trailing":
        return np.round(known - number * (known / steps)) - 1
    return np.linspace(0.0, known - 1, steps)[::-1]


SPRINT_ANGLES = {1: (np.pi / 2, 0.0), 2: (1.5683, 1.3, 0.0), 4: (1.5683, 1.3, 1.1, 0.6, 0.0)}  # searched by FID (2503.09641, Tab. 7)


def scm_angles(steps, first=1.5708, middle=1.3):
    """[steps + 1] decreasing angles of TrigFlow as SANA-Sprint's released pipeline has them: even, but `middle` inside of two steps.

    first = 1.5708 lies 4e-6 above pi / 2: clip its flow time at 1.
    """
    return np.array([first, middle, 0.0]) if steps == 2 and middle is not None else np.linspace(first, 0.0, steps + 1)


PUBLISHED = {  # name -> {steps: angles}, None for any number of steps by `scm_angles`
    "sprint": SPRINT_ANGLES,
    "sprint_released": None,
    "sprint_ablations": {2: (np.pi / 2, 1.0, 0.0)},  # under which the paper compares losses
}


def quarter(t, t_noise):
    """Which quarter of the path's time a sample lies in: [B] int32 in 0..3."""
    return jnp.clip(jnp.floor(4.0 * t / t_noise), 0, 3).astype(jnp.int32)
