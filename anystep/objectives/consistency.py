"""Flow maps from data: continuous-time consistency (sCM, 2410.11081) and MeanFlow (2505.13447) are one identity with two laws of s.

    u = v - (t - s) du/dt,    du/dt total along dx/dt = v                                    MeanFlow Eq. 6
    loss = || u - sg[ u - g ] ||^2,    g = (u - v) + r (t - s) du/dt                         r: tangent warm-up of sCM

s = 0 always ("zero") is consistency; s ~ U(0, t) ("uniform") is MeanFlow. Seen from the trig path through Prop. 3.1, sCM's gradient is
this one's at s = 0 times (1 - t)(1 - 2 t + 2 t^2) per sample: a weight, not another method (tests/test_objectives.py). g has zero mean at
the exact flow map. Any normalisation of it (`tangent`, `calm`) keeps the direction per sample but not the mean: a bias bought for calm.
"""

import jax
import jax.numpy as jnp

from anystep import times, tree
from anystep.arrays import expand, mean_square, rms
from anystep.flow_map import total_derivative
from anystep.objectives.draws import draw_point
from anystep.path import LINEAR
from anystep.times import LOGIT_NORMAL, TimeLaw
from anystep.weighting import adaptive, calm


def consistency(law: TimeLaw = LOGIT_NORMAL, s_law="zero", warmup=0, tangent="clip", weighting="adaptive", start=0):
    """An Objective.

    tangent: "none" | "clip" | "l2" | "rms" (see `weighting`). "clip" bounds (t - s) du/dt alone, which leaves the flow-matching part
    untouched and is the default: with it small models drew in one step where the bare tangent did not; "l2" and "rms" normalise the whole
    g as sCM and SANA-Sprint do. weighting: "none" | "adaptive" (MeanFlow). r grows over `warmup`
    steps after `start`. Metrics: t, tangent = rms of (t - s) du/dt before calming,
    error = the unweighted loss.
    """

    def objective(models, roles, batch, key, step):
        net, cond = models["net"], batch["cond"]
        assert net.path is LINEAR, "use the linear path; as_trig serves the same weights as a TrigFlow network"
        point = draw_point("consistency", net.path, law, batch, key, step)
        s = jnp.zeros_like(point.t)
        if s_law == "uniform":
            s = times.draw_below(point.t, tree.sample_keys(key, "consistency/s", step, batch["index"]), 0.0)

        def velocity(x, t, s):
            return net.velocity(roles.params["net"], x, t, s, cond)

        u, derivative, _ = total_derivative(velocity, point.x_t, point.t, s, point.v)
        drift = expand(point.t - s, u) * derivative
        r = jnp.clip((step - start + 1) / warmup, 0.0, 1.0) if warmup else 1.0
        if tangent == "clip":
            g = (u - point.v) + r * calm(drift, "clip")
        else:
            g = calm((u - point.v) + r * drift, tangent)
        error = mean_square(u - jax.lax.stop_gradient(u - g))
        loss = adaptive(error) if weighting == "adaptive" else error
        return loss, {"t": point.t, "tangent": rms(drift).reshape(-1), "error": error}, {}

    return objective
