"""Flow matching (2210.02747; linear path 2209.03003): || V(x_t, t, t, c) - (alpha' x0 + sigma' noise) ||^2, the diagonal s = t of a
two-time network."""

from anystep.arrays import mean_square
from anystep.objectives.draws import draw_point
from anystep.times import LOGIT_NORMAL, TimeLaw
from anystep.weighting import weighted


def flow_matching(law: TimeLaw = LOGIT_NORMAL, weighting="none"):
    """An Objective. weighting of a sample: "none" | "adaptive" | "huber" (see `weighting`). Only "none" has the mean velocity as its
    optimum; the others are drawn from it toward where many answers lie, the less the more numbers a sample has. Metrics: t, error = its
    squares."""

    def objective(models, roles, batch, key, step):
        net = models["net"]
        point = draw_point("flow_matching", net.path, law, batch, key, step)
        u, _ = net.velocity(roles.params["net"], point.x_t, point.t, point.t, batch["cond"])
        error = mean_square(u - point.v)
        return weighted(error, weighting), {"t": point.t, "error": error}, {}

    return objective
