"""Latent adversarial distillation (LADD, 2403.12015) as in SANA-Sprint (2503.09641, Alg. 2): what the student draws in one step must not be
told from data by heads on a frozen teacher's blocks.

    x0_hat = x_t - t u(x_t, t, 0, c),    x_s = (1 - s) x + s noise',    D(x, s, c) = heads(teacher's blocks at (x_s, s, c))
    generator       loss = - mean D(x0_hat)
    discriminator   loss = ( relu(1 - D(x0)) + [ relu(1 + D(x0_hat)) + relu(1 + D(x0 of another row)) ] / 2 ) / 2

Means are over all tokens of all heads. t is the generator's law with a share of the rows at t = 1 exactly ("max-time": there one step
begins; half of them, the paper's text says, where its Table 3 is the run of 70 %, which scored better; diffusers' script hands the heads
t = 1/2 there by mistake), s a law of its own: the released (-0.6, 1.0) of log tan at deviation 0.5 is a logit-normal of mean
-0.6 + log 2. The two losses never see the same step: `train_step` lets them take turns.

Paper and released loop differ: the paper sums over heads and has no halves (for the heads that only scales the learning rate, which Adam
undoes but for clipping; for the generator a sum over K heads is a weight K times ours); it noises both sides to one level, the loop to two
(`one_level`): with one level the two halves of the hinge are paired and their difference is less noisy, with two a head cannot know the
level of the other side, which it is never told anyway; the loop's is the default, though in the shapes world a student with one level drew
more right at one and two steps (one training each, README). The third term, pictures under a neighbour's prompt, is the loop's; without
it nothing asks the heads to read.
"""

import jax
import jax.numpy as jnp

from anystep import tree
from anystep.arrays import expand, mean
from anystep.objectives.draws import draw_point, moved_to_noise
from anystep.path import LINEAR, interpolate
from anystep.times import LOGIT_NORMAL, TimeLaw, draw_t
from anystep.types import Objective


def generator(blocks, law: TimeLaw = LOGIT_NORMAL, levels: TimeLaw = LOGIT_NORMAL, at_noise=0.5) -> Objective:
    """An Objective of the student. blocks: the teacher's, increasing; law of t, with a share `at_noise` of the rows at t = 1; levels: law
    of s. Metrics: t."""

    def objective(models, roles, batch, key, step):
        x0_hat, t = draw_in_one_step("adversarial", models, roles, batch, key, step, law, at_noise)
        weights, _ = models["discriminator"].normalise(roles.params["discriminator"], roles.buffers["discriminator"]["norms"], False)
        s = draw_t(levels, tree.sample_keys(key, "adversarial/s", step, batch["index"]))
        said = judged("adversarial", models, roles, weights, batch, x0_hat, s, key, step, blocks)
        return -mean(said), {"t": t}, {}

    return objective


def discriminator(
    blocks, law: TimeLaw = LOGIT_NORMAL, levels: TimeLaw = LOGIT_NORMAL, at_noise=0.5, one_level=False, misaligned=True
) -> Objective:
    """An Objective of the heads; options as `generator`'s, one_level and misaligned as above. Moves the heads' norms. Metrics: t, logits of
    real and fake."""

    def objective(models, roles, batch, key, step):
        def level(name):
            name = "real" if one_level else name
            return draw_t(levels, tree.sample_keys(key, f"discriminator/{name}/s", step, batch["index"]))

        x0_hat, t = draw_in_one_step("discriminator", models, roles, batch, key, step, law, at_noise)
        state, params = roles.buffers["discriminator"], roles.params["discriminator"]
        weights, norms = models["discriminator"].normalise(params, state["norms"], True)

        def logits(name, x):
            return judged(f"discriminator/{name}", models, roles, weights, batch, x, level(name), key, step, blocks)

        real, fake = logits("real", batch["x0"]), logits("fake", jax.lax.stop_gradient(x0_hat))
        against = mean(jax.nn.relu(1.0 + fake))
        if misaligned:
            other = logits("other", jnp.roll(batch["x0"], 1, axis=0))
            without = batch["dropped"]  # there any picture may stand: no third term, and the second has the weight of both
            against = jnp.where(without, against, (against + mean(jax.nn.relu(1.0 + other))) / 2)
        loss = (mean(jax.nn.relu(1.0 - real)) + against) / 2
        return loss, {"t": t, "real": mean(real), "fake": mean(fake)}, {"discriminator": {**state, "norms": norms}}

    return objective


def draw_in_one_step(name, models, roles, batch, key, step, law, at_noise):
    """(x0_hat, t) of every row."""
    net = models["net"]
    assert net.path is LINEAR, "one step to the data is written for the linear path"
    point = moved_to_noise(name, draw_point(name, LINEAR, law, batch, key, step), at_noise, batch, key, step)
    u, _ = net.velocity(roles.params["net"], point.x_t, point.t, jnp.zeros_like(point.t), batch["cond"])
    return point.x_t - expand(point.t, u) * u, point.t


def judged(name, models, roles, weights, batch, x, s, key, step, blocks):
    """Logits [B, heads x tokens] of x noised to s, as the teacher's blocks see it under the batch's prompts."""
    noise = tree.normal(tree.sample_keys(key, f"{name}/renoise", step, batch["index"]), x.shape[1:])
    seen = features(models["teacher"], roles.frozen["teacher"], interpolate(LINEAR, x, noise, s), s, batch["teacher_cond"], blocks)
    return models["discriminator"].logits(weights, seen)


def features(teacher, params, x, t, cond, blocks):
    """Tokens [K, B, N, C] after each of the teacher's `blocks`, increasing; what lies behind the last is not computed."""
    h, found, lo = teacher.embed(params, x, t, t, cond), [], 0
    for block in blocks:
        h, _ = teacher.blocks(params, h, lo, block + 1)
        found, lo = [*found, h["tokens"]], block + 1
    return jnp.stack(found)
