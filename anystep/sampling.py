"""Walking a network from noise to data in any number of steps: samplers are pairs of pure functions, `sample` is one scan.

    euler     x <- jump(x_t, u(x_t, t, s), t, t_next)                         order 1; exact in one step for a flow map asked s = t_next
    heun      the mean of the velocities at both ends                         order 2; two evaluations a step, one on the last
    dpm       DPM-Solver++ 2M, the data extrapolated in log(alpha / sigma)    order 2; one evaluation a step
    restart   x <- alpha x0 + sigma fresh noise, x0 = data end of u           the marginals Self-E trains; s = 0: multistep of sCM
    ddim      x <- alpha x0 + b noise_hat + sqrt(sigma^2 - b^2) fresh noise   eta = 0 keeps all of the noise, as a jump to t_next does

What to ask of a two-time network (`ask`): "next" s = t_next, "now" s = t, "zero" s = 0, "half" s = t / 2
(Self-E, S.3.1: one step wants about half).
"""

import jax
import jax.numpy as jnp

from anystep import tree
from anystep.arrays import expand
from anystep.path import data_and_noise, from_flow_time, interpolate, jump, to_flow_time
from anystep.types import Model, Sampler, SamplerState


def asker(model: Model, ask="next"):
    """(t, t_next) -> s by name, [B] each. A one-time model is always asked s = t, the others s >= gap t, and
    s = 0 where they learned to jump there."""

    def share(t, part):  # of flow time, in which halves and gaps are meant
        return from_flow_time(model.path, part * to_flow_time(model.path, t))

    def choose(t, t_next):
        if model.ends == "none" or ask == "now":
            return t
        s = {"next": t_next, "zero": jnp.full_like(t, model.path.t_data), "half": share(t, 0.5)}[ask]
        floor = jnp.maximum(s, share(t, model.gap))
        return jnp.where(s == model.path.t_data, s, floor) if model.ends in ("map", "hybrid") else floor

    return choose


def euler(velocity, path, ask) -> Sampler:
    """One evaluation a step; `velocity(x, t, s) -> (u, aux)`, `ask(t, t_next) -> s`."""

    def step(state, t_pair, first=None):
        t, t_next = broadcast(state.x, t_pair)
        u, aux = velocity(state.x, t, ask(t, t_next)) if first is None else first
        return state._replace(x=jump(path, state.x, u, t, t_next)), aux

    return Sampler(starter(path), step)


def heun(velocity, path) -> Sampler:
    """Second order, always on the diagonal s = t: a flow map's average velocity must not be averaged again.

    The last step is Euler's, where t_next is the data end.
    """

    def step(state, t_pair, first=None):
        t, t_next = broadcast(state.x, t_pair)
        u, aux = velocity(state.x, t, t) if first is None else first
        guess = jump(path, state.x, u, t, t_next)

        def correct(_):
            v, _ = velocity(guess, t_next, t_next)
            return state.x + expand(t_next - t, u) * (u + v) / 2

        x = jax.lax.cond(t_pair[1] <= path.t_data, lambda _: guess, correct, None)
        return state._replace(x=x), aux

    return Sampler(starter(path), step)


def dpm(velocity, path) -> Sampler:
    """DPM-Solver++ 2M (2211.01095, Alg. 2) with lambda = log(alpha / sigma), h = lambda_next - lambda: Euler's jump, its data extrapolated,

        x <- jump + (h / 2 h_before) (alpha_next - sigma_next alpha / sigma) (x0 - x0_before)

    Like `heun` on the diagonal s = t. The first step, which has no x0_before, and one to the data end, where h is infinite, are Euler's:
    so are diffusers' for every number of steps where it ends at sigma = 0, whatever lower_order_final and euler_at_final say. Its order
    counts steps of lambda, and those next to an end of an even grid do not become small.
    """

    def init(key, noise, t):
        state = starter(path)(key, noise, t)
        return state._replace(inner=(jnp.zeros_like(state.x), t))  # the last data and its time; still at t: none yet

    def step(state, t_pair, first=None):
        t, t_next = broadcast(state.x, t_pair)
        u, aux = velocity(state.x, t, t) if first is None else first
        x0, _ = data_and_noise(path, state.x, u, t)
        x0_before, t_before = state.inner
        (alpha, sigma, ratio), (alpha_next, sigma_next, ratio_next) = (levels(path, time) for time in t_pair)
        between = (t_pair[0] < t_before) & (t_pair[1] > path.t_data)
        slope = jnp.where(between, 0.5 * (ratio_next - ratio) / (ratio - levels(path, t_before)[2]), 0.0)
        x = jump(path, state.x, u, t, t_next) + slope * (alpha_next - sigma_next * alpha / sigma) * (x0 - x0_before)
        return state._replace(x=x, inner=(x0, t_pair[0])), aux

    return Sampler(init, step)


def levels(path, t):
    """(alpha, sigma, log(alpha / sigma)) at a scalar t; infinite at an end, also where cos(pi / 2) has rounded below 0."""
    alpha, sigma = jnp.maximum(path.alpha(t), 0.0), path.sigma(t)
    return alpha, sigma, jnp.log(alpha) - jnp.log(sigma)


def restart(velocity, path, ask) -> Sampler:
    """Predict the data, then noise it afresh to t_next."""

    def step(state, t_pair, first=None):
        t, t_next = broadcast(state.x, t_pair)
        u, aux = velocity(state.x, t, ask(t, t_next)) if first is None else first
        x0, _ = data_and_noise(path, state.x, u, t)
        noise, key = fresh(state)
        return state._replace(x=interpolate(path, x0, noise, t_next), key=key), aux

    return Sampler(starter(path), step)


def ddim(velocity, path, ask, eta=1.0, form="posterior") -> Sampler:
    """Keeps b of the predicted noise and draws the rest afresh; eta in [0, 1], a number or traced.

    form: "posterior", b^2 = sigma_n^2 - eta^2 (sigma_n^2 - c^2) with c = alpha_t sigma_n^2 / (alpha_n sigma_t), at eta = 1 ancestral
    sampling (DDIM, 2010.02502, Eq. 16; from pure noise a full restart); "ratio", b = sigma_n (1 - eta (1 - sigma_n / sigma_t)), minFM's.
    Self-E reports "DDIM-style, eta = 1" and does not say which.
    """

    def step(state, t_pair, first=None):
        t, t_next = broadcast(state.x, t_pair)
        u, aux = velocity(state.x, t, ask(t, t_next)) if first is None else first
        x0, noise = data_and_noise(path, state.x, u, t)
        before, after = (path.sigma(time) for time in t_pair)
        if form == "ratio":
            away = eta * (1.0 - after / before)
            kept, drawn = after * (1.0 - away), after**2 * away * (2.0 - away)
        else:
            markov = after * after * path.alpha(t_pair[0]) / (path.alpha(t_pair[1]) * before)
            drawn = eta**2 * jnp.maximum(after**2 - markov**2, 0.0)
            kept = jnp.sqrt((1.0 - eta**2) * after**2 + eta**2 * markov**2)  # as a difference it could round below 0
        new, key = fresh(state)
        return state._replace(x=path.alpha(t_pair[1]) * x0 + kept * noise + jnp.sqrt(drawn) * new, key=key), aux

    return Sampler(starter(path), step)


def asked_by(name, model: Model, ask="next"):
    """(t, t_next) -> s, as the sampler of that name asks `model` at the beginning of a step."""
    if name in ("heun", "dpm"):
        return asker(model, "now")
    return asker(model, "zero" if name != "euler" and model.ends == "map" else ask)


def make(name, velocity, model: Model, ask="next", eta=1.0) -> Sampler:
    """The sampler of a config word for a (guided) velocity of `model`. Samplers that go by way of the data always ask a flow map for s = 0:
    only there does its answer end at the data."""
    asked = asked_by(name, model, ask)
    if name in ("heun", "dpm"):
        return {"heun": heun, "dpm": dpm}[name](velocity, model.path)
    if name == "euler":
        return euler(velocity, model.path, asked)
    if name == "restart":
        return restart(velocity, model.path, asked)
    return ddim(velocity, model.path, asked, eta, {"ddim": "posterior", "ddim_ratio": "ratio"}[name])


def sample(sampler: Sampler, key, noise, times, said_of=None):
    """Runs `sampler` over `times` [N + 1], decreasing, in the Model's path time. noise [B, ...] is unit normal, key [B] one key a sample
    (or [draws, B, ...] the noises themselves that it is to draw, in order).

    Returns (x at times[-1], info stacked over the N steps, or over the first `said_of`).
    """
    state, pairs = sampler.init(key, noise, times[0]), (times[:-1], times[1:])
    if said_of is None or said_of >= len(pairs[0]):
        state, info = jax.lax.scan(sampler.step, state, pairs)
        return state.x, info
    first, rest = (tuple(part[where] for part in pairs) for where in (slice(said_of), slice(said_of, None)))
    state, info = jax.lax.scan(sampler.step, state, first)
    state, _ = jax.lax.scan(lambda state, pair: (sampler.step(state, pair)[0], None), state, rest)
    return state.x, info


def started_from(sampler: Sampler, path, x0) -> Sampler:
    """The same sampler from the data x0 [B, ...], noised to where the walk begins; alone it begins with noise."""

    def init(key, noise, t):
        state = sampler.init(key, noise, t)
        return state._replace(x=path.alpha(t) * x0 + state.x)

    return sampler._replace(init=init)


def on_whole_steps(velocity, count):
    """Velocity -> Velocity asked at floor(count t) / count: diffusers' DPM-Solver tells a network whole steps while it walks by exact ones.
    Where count t is whole but for a rounding, the two may be told neighbours."""
    return lambda x, t, s: velocity(x, whole_step(count, t), whole_step(count, s))


def whole_step(count, t):
    """The last of `count` even steps that is not beyond t."""
    return jnp.floor(count * t) / count


def fresh(state):
    """(unit noise of x's shape, the next state.key) from one key a sample, or from noises that are given."""
    if state.key.ndim > 1:
        return state.key[0], jnp.roll(state.key, -1, axis=0)
    keys = jax.vmap(lambda k: jax.random.split(k))(state.key)
    return tree.normal(keys[:, 1], state.x.shape[1:]), keys[:, 0]


def starter(path):
    """x = sigma(t_0) noise: the start of every path whose alpha vanishes there, and close enough to EDM's where it does not."""
    return lambda key, noise, t: SamplerState(path.sigma(t) * noise, key)


def broadcast(x, t_pair):
    """Two scalars -> two [B] float32 times, as the network's door wants them."""
    return tuple(jnp.full((x.shape[0],), t, jnp.float32) for t in t_pair)
