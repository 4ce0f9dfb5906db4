"""Flow maps from data or from the model's own velocity: continuous-time consistency (sCM, 2410.11081), MeanFlow (2505.13447) and discrete
consistency distillation (2303.01469; guided, LCM 2310.04378) are one identity with two laws of s and two lengths of step.

    u = v - (t - s) du/dt,    du/dt total along dx/dt = v                                    MeanFlow Eq. 6
    loss = || u - sg[ u - g ] ||^2,    g = (u - v) + r (t - s) du/dt                         r: tangent warm-up of sCM

and over a walk from t to t' >= s, x_t' = x_t - (t - t') v with v now the mean velocity of the walk, du/dt is the difference quotient of
u(x_t, t, s) and the averaged weights' u(x_t', t', s):

    g = (t - t') / (t - s) [ (u - v) + r (t' - s) du/dt ],    so that at r = 1 the target u - g is the mean velocity of the walk and
                                                              the jump after it, ((t - t') v + (t' - s) u(x_t', t', s)) / (t - s)

s = 0 always is consistency; s ~ U(0, t) is MeanFlow; a share `at_zero` of the rows at s = 0 and the others at s ~ U(s_min t, t) is both.
Seen from the trig path through Prop. 3.1, sCM's gradient is this one's at s = 0 times (1 - t)(1 - 2 t + 2 t^2) per sample: a weight, not
another method (tests/test_objectives.py). g has zero mean at the exact flow map. Over a step it has Euler's error along the model's own
velocity; along the data there is also a bias of second order in the step, from the spread of v about its mean. Normalising g (`tangent`)
buys calm with a bias.

On the trig path (`form` = "trig") the same step reads, with n = sqrt(t^2 + (1 - t)^2) and F the network through Prop. 3.1,

    g_trig = (1 - t) n [ (u - v) (r + (1 - r) (1 - t) / n^2) + r t du/dt ],      loss = || n u - sg[ n u - g_trig ] ||^2

since F is n u plus what the weights do not reach: sCM's Eq. 8 to the last factor, its warm-up and its norm included, which are taken of
g_trig. (1 - t) n is cos of the angle times n^2: the weight 1 / tan that sCM puts on <f, df/dt> is inside already, because the gradient of
|| F - sg F - g ||^2 / 2 is exactly w <grad f, df/dt> with w = 1 / tan. SANA-Sprint's loop divides the squares by tan once more (`prior`):
it pulls the weight to the clean end, whose steps need it least, and is off unless its released loop is to be met. Its law, log-normal in
tan with (mean, std) for data of deviation 0.5, is the logit-normal of flow time with (mean + log 2, std): log(t / (1 - t)) = log tan.

v is noise - x0 ("data"), or what the averaged weights answer at s = t under guidance ("ema"): the model is then the teacher of its own
jumps, and guidance is inside them. Or a frozen network's guided answer ("teacher"), under each row's own scale. With live weights on the
right side of a step small models collapsed. The derivative at s = 0 diverged for students that put out the data; some that put out u
collapsed, by a law with few rows near t = 0 and under a learned weight (configs/sprint_shapes.py). Along its own velocity one input has one
target, so that every distance has the same optimum; "l1" is then the better one, because where a network cannot yet tell two pictures apart
it draws one of them and not both faintly. Before `start` every row asks s = t along the data, flow matching under the same weighting ("l1":
as "huber", since the data have many answers): a teacher must have learned first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from anystep import times, tree
from anystep.arrays import expand, mean_square, rms
from anystep.flow_map import total_derivative
from anystep.guide import classifier_free
from anystep.objectives.draws import draw_point, moved_to_noise
from anystep.path import LINEAR
from anystep.times import LOGIT_NORMAL, TimeLaw
from anystep.types import Objective
from anystep.weighting import calm, l1, weighted


class Teacher(NamedTuple):
    """Along what a jump is learned. velocity: "data" | "ema" | "teacher"; guidance w at s = 0 within `interval` of the path's time, of a
    teacher batch["scale"] instead.

    Jumps to s > 0 are never guided: as s nears t they must meet the plain velocity.
    """

    velocity: str = "data"
    guidance: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)


DATA = Teacher()
TOUCHING = 1e-4  # a node nearer than this to t is t


def consistency(
    law: TimeLaw = LOGIT_NORMAL,
    at_zero=1.0,
    s_min=0.0,
    nodes=0,
    hops=1,
    teacher: Teacher = DATA,
    at_noise=0.0,
    warmup=0,
    tangent="clip",
    weighting="adaptive",
    start=0,
    form="linear",
    c=0.1,
    prior=False,
) -> Objective:
    """An Objective.

    nodes: 0 takes the derivative by `jax.jvp`, N a step to the next lower of the N nodes of a sampler's grid (warped as `law`): stable
    where the derivative is not, exact only up to N Euler steps. hops: over how many nodes a step walks, a guided evaluation each. With 1
    the jumps learn from lower jumps, and what they know climbs node by node at the pace of the averages; with N from the whole walk.
    at_zero, s_min: see above. at_noise: share of rows at t = 1, where one step starts and where no continuous law puts a row. tangent:
    "none" | "clip" | "l2" | "rms" (see `weighting`); "clip" bounds the drift alone, which leaves the flow-matching part untouched, "l2" and
    "rms" normalise the whole g as sCM and SANA-Sprint do, with their constant `c`. weighting: "none" | "adaptive" | "huber" | "l1" (of
    where the jump ends) | "learned": exp(-lv) loss + lv by the role `weighting`. r grows over `warmup` steps after `start`. form "linear"
    | "trig", prior: see above; "trig" is for at_zero = 1. Metrics: t, tangent = rms of the drift before calming, error = the unweighted
    loss, weight = the learned one.
    """

    def objective(models, roles, batch, key, step):
        net = models["net"]
        assert net.path is LINEAR, "use the linear path; as_trig serves the same weights as a TrigFlow network"
        begun = step >= start
        point = _draw(law, at_noise, begun, batch, key, step)
        s = jnp.where(begun, _draw_s(point.t, at_zero, s_min, batch, key, step), point.t)

        def along(x, t):
            return point.v if teacher.velocity == "data" else _answer(models, roles, batch, x, t, s, teacher)

        if nodes:
            grid = times.grid(nodes, law.shift)
            v, after = jax.lax.cond(begun, lambda: _walk(along, point, s, grid, hops), lambda: (point.v, point.t))
            u, _ = net.velocity(roles.params["net"], point.x_t, point.t, s, batch["cond"])
            drift, share = _over_step(net, roles, batch, point, s, after, v, jax.lax.stop_gradient(u), begun)
        else:
            v = jax.lax.cond(begun, lambda: along(point.x_t, point.t), lambda: point.v)
            u, drift = _derivative(net, roles, batch, point, s, v)
            share = 1.0
        r = jnp.clip((step - start + 1) / warmup, 0.0, 1.0) if warmup else 1.0
        answer, size, keep = _on_trig(u, point.t, r) if form == "trig" else (u, 1.0, 1.0)
        if tangent == "clip":
            g = size * (keep * (u - v) + r * calm(drift, "clip"))
        else:
            g = calm(size * (keep * (u - v) + r * drift), tangent, c)
        answer, g = (jnp.where(begun, learned, plain) for learned, plain in ((answer, u), (g, u - v)))  # no norm: that has another mean
        miss = answer - jax.lax.stop_gradient(answer - share * g)
        error = mean_square(miss)
        metrics = {"t": point.t, "tangent": rms(drift).reshape(-1), "error": error}
        if prior:
            error = error * (1.0 - point.t) / jnp.maximum(point.t, TOUCHING)
        if weighting == "learned":
            told = batch["cond"].get("guidance")
            lv = models["weighting"].of(roles.params["weighting"], point.t, told)
            loss, metrics["weight"] = jnp.exp(-lv) * error + lv, jnp.exp(-lv)
        elif weighting == "l1":
            loss = jnp.where(begun, l1(expand(point.t - s, miss) * miss), weighted(error, "huber"))
        else:
            loss = weighted(error, weighting)
        return loss, metrics, {}

    return objective


def _on_trig(u, t, r):
    """(n u, (1 - t) n, r + (1 - r)(1 - t) / n^2) of the trig path's g: what answers, what scales g, what scales u - v inside it."""
    n = jnp.sqrt(jnp.square(t) + jnp.square(1.0 - t))
    keep = r + (1.0 - r) * (1.0 - t) / jnp.square(n)
    return expand(n, u) * u, expand((1.0 - t) * n, u), expand(keep, u)


def _draw(law, at_noise, begun, batch, key, step):
    """A point of the path; a share `at_noise` of the rows starts at t = 1 once the jumps have begun."""
    point = draw_point("consistency", LINEAR, law, batch, key, step)
    return moved_to_noise("consistency", point, jnp.where(begun, at_noise, 0.0), batch, key, step)


def _draw_s(t, at_zero, s_min, batch, key, step):
    """0 on a share `at_zero` of the rows, elsewhere U(s_min t, t)."""

    def keys(name):
        return tree.sample_keys(key, f"consistency/{name}", step, batch["index"])

    if at_zero == 1.0:
        return jnp.zeros_like(t)
    return jnp.where(tree.uniform(keys("at_zero")) < at_zero, 0.0, times.draw_below(t, keys("s"), s_min))


def _answer(models, roles, batch, x, t, s, teacher):
    """The velocity of the averaged weights or of the teacher at s = t, guided for rows that jump to 0. A teacher that is told the scale is
    guided already."""
    if teacher.velocity == "teacher":
        net, weights, prompt, null = models["teacher"], roles.frozen["teacher"], batch["teacher_cond"], batch["teacher_null"]
        scale = 1.0 if net.told else batch["scale"]
    else:
        net, weights, prompt, null = models["net"], roles.ema["net"], batch["ema_cond"], batch["ema_null"]
        scale = teacher.guidance

    def under(cond):
        return lambda x, t, s: net.velocity(weights, x, t, s, cond)

    velocity = under(prompt)
    if not (isinstance(scale, float) and scale == 1.0):
        scale = jnp.where(s > 0, 1.0, scale)
        velocity = classifier_free(under(null), scale, interval=teacher.interval)(velocity)
    return jax.lax.stop_gradient(velocity(x, t, t)[0])


def _walk(along, point, s, grid, hops):
    """(mean velocity, t') of Euler steps from t over the next `hops` nodes of `grid` [N + 1] below it, not beyond s."""

    def below(t):
        node = jnp.max(jnp.where(grid[None, :] < t[:, None] - TOUCHING, grid[None, :], 0.0), axis=1)
        return jnp.minimum(jnp.maximum(node, s), t)

    def hop(walk, _):
        way, t = walk
        return (way + expand(t - below(t), way) * along(point.x_t - way, t), below(t)), None

    first, t = along(point.x_t, point.t), below(point.t)
    if hops == 1:
        return first, t
    way = expand(point.t - t, first) * first
    (way, after), _ = jax.lax.scan(hop, (way, t), length=hops - 1)
    length = expand(point.t - after, way)
    return jnp.where(length > TOUCHING, way / jnp.maximum(length, TOUCHING), first), after


def _over_step(net, roles, batch, point, s, after, v, u, begun):
    """((t' - s) du/dt, (t - t') / (t - s)) over the walk to t' = `after` along the mean velocity v; (0, 1) at s = t."""
    t, x = point.t, point.x_t
    step = t - after

    def drift():
        u_after, _ = net.velocity(roles.ema["net"], x - expand(step, v) * v, after, s, batch["ema_cond"])
        return expand((after - s) / jnp.maximum(step, TOUCHING), v) * (u - u_after)

    drift = jax.lax.cond(begun, drift, lambda: jnp.zeros_like(v))
    share = jnp.where(after > s, step / jnp.maximum(t - s, TOUCHING), 1.0)
    return jax.lax.stop_gradient(drift), expand(share, v)


def _derivative(net, roles, batch, point, s, v):
    """(u, (t - s) du/dt)."""

    def velocity(x, t, s):
        return net.velocity(roles.params["net"], x, t, s, batch["cond"])

    u, derivative, _ = total_derivative(velocity, point.x_t, point.t, s, v)
    return u, expand(point.t - s, u) * derivative
