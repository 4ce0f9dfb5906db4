"""Self-evaluation of Self-E (2512.22374): a prediction made on the way to s < t is judged by the model itself at level s.

    x0_hat = x_t - t V(x_t, t, s, c)                                                        Eq. 6
    x_s    = (1 - s) x0_hat + s noise'          noise' fresh (the paper only says "add noise")
    x_self = sg[ x0_hat - ( G(x_s, s, s, null) - G(x_s, s, s, c) ) ]                         Eq. 14; null: live, c: EMA weights (S.2)
    x_tar  = (1 - rho) x0 + rho x_self,   rho = lambda / (1 + lambda) = (t - s) / (1 - 2 s + t s)
    lambda = t / (1 - t) - s / (1 - s)                                                      Eq. 17, 18
    x_ren  = x_tar |x0| / |x_tar|                                                           Eq. 19, one norm per sample
    loss   = || V - sg[ (noise - x0) + (x0 - x_ren) / t ] ||^2                               Eq. 20 with w = 1/t^2, written for V

rho never overflows where lambda does (t -> 1), and (x0 - x_ren)/t stays bounded as t -> 0. No gradient enters the evaluator or x_s.

The auxiliary term of a late stage (S.1.2) adds what the model thinks of its own pictures, learned under the prompt "fake image ...":

    x_self = sg[ x0_hat - ( k G(x_s, s, s, null) + (1 - k) G(x_s, s, s, fake) - G(x_s, s, s, c) ) ]      s.6; fake: live, it must follow
    loss  += weight || V(x_s, s, s, fake) - (noise' - x0_hat) ||^2                           s.8 over s^2; the paper gives neither weight
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from anystep import times, tree
from anystep.arrays import expand, mean_square, norm, rms
from anystep.objectives.draws import draw_point
from anystep.path import LINEAR
from anystep.times import LOGIT_NORMAL, TimeLaw
from anystep.weighting import weighted


class Auxiliary(NamedTuple):
    """The fake term: k = 1 is none; `start` the step from which the fake is learned (acting from the first on it is harmful: Table 2), and
    `warmup` steps later it acts; weight of its loss. The paper says nothing of a warm-up: 0."""

    k: float = 1.0
    start: int = 0
    warmup: int = 0
    weight: float = 1.0


NONE = Auxiliary()


def mixing_ratio(t, s):
    """rho = lambda / (1 + lambda) on the linear path, in [0, 1]; 0 at s = t, t at s = 0, 1 at t = 1."""
    return (t - s) / (1.0 - 2.0 * s + t * s)


def self_evaluation(
    law: TimeLaw = LOGIT_NORMAL,
    s_min=0.0,
    anneal=1,
    renorm=True,
    dropped="diagonal",
    start=0,
    auxiliary: Auxiliary = NONE,
    weighting="none",
):
    """An Objective on s in [max(1 - tau, s_min) t, t], tau growing from 0 to 1 over `anneal` steps after `start`.

    dropped: rows whose prompt is the null one: "diagonal" asks them s = t, plain flow matching (default: with c = null the evaluator says
    nothing and would only weaken the data term; the paper does not say); "keep" treats them as any other row. The fake term wants
    batch["fake"], tokens of the prompts behind the words "fake image", and from its start on one more forward and backward. weighting of a
    sample: "none", as in the paper, or "adaptive" | "huber" (see `weighting`), of the fake's loss, too. Metrics: t, error = the squares
    without the fake's own, the norm of x0_hat over that of x0, the size of the evaluator's correction, the fake's squares.
    """

    def objective(models, roles, batch, key, step):
        net, x0 = models["net"], batch["x0"]
        assert net.path is LINEAR, "self-evaluation is derived on the linear path"
        point = draw_point("self_evaluation", net.path, law, batch, key, step)
        low = times.annealed_low_share(step - start, anneal, s_min)
        s = times.draw_below(point.t, tree.sample_keys(key, "self_evaluation/s", step, batch["index"]), low)
        if dropped == "diagonal":
            s = jnp.where(batch["dropped"], point.t, s)
        t_, s_ = expand(point.t, x0), expand(s, x0)

        u, _ = net.velocity(roles.params["net"], point.x_t, point.t, s, batch["cond"])
        x0_hat = jax.lax.stop_gradient(point.x_t - t_ * u)
        noise = tree.normal(tree.sample_keys(key, "self_evaluation/renoise", step, batch["index"]), x0.shape[1:])
        x_s = (1.0 - s_) * x0_hat + s_ * noise

        def denoise(params, cond):
            return x_s - s_ * net.velocity(jax.lax.stop_gradient(params), x_s, s, s, jax.lax.stop_gradient(cond))[0]

        against, fake_loss = denoise(roles.params["net"], batch["null"]), jnp.zeros_like(point.t)
        if auxiliary.k < 1.0:

            def judge_the_fake():
                fake = models["text"].encode(roles.params["text"], batch["fake"])
                v_fake, _ = net.velocity(roles.params["net"], x_s, s, s, fake)
                g_fake = x_s - s_ * jax.lax.stop_gradient(v_fake)
                k = jnp.where(step >= auxiliary.start + auxiliary.warmup, auxiliary.k, 1.0)
                return k * against + (1.0 - k) * g_fake, mean_square(v_fake - (noise - x0_hat))

            against, fake_loss = jax.lax.cond(step >= auxiliary.start, judge_the_fake, lambda: (against, fake_loss))
            fake_loss = jnp.where(s < point.t, fake_loss, 0.0)
        correction = against - denoise(roles.ema["net"], batch["ema_cond"])
        x_self = x0_hat - correction
        rho = expand(mixing_ratio(point.t, s), x0)
        target = (1.0 - rho) * x0 + rho * x_self
        if renorm:
            target = target * (norm(x0) / jnp.maximum(norm(target), 1e-12))
        v = point.v + jnp.where(t_ == s_, 0.0, (x0 - target) / t_)
        error = mean_square(u - jax.lax.stop_gradient(v))
        metrics = {
            "t": point.t,
            "error": error,
            "norm_ratio": (norm(x0_hat) / norm(x0)).reshape(-1),
            "correction": rms(correction).reshape(-1),
        }
        return weighted(error, weighting) + auxiliary.weight * weighted(fake_loss, weighting), metrics | {"fake": fake_loss}, {}

    return objective
