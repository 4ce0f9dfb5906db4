"""Training a network that corrects noises on the classifier's loss (HyperNoise, 2508.09968, with a loss of our own):

    mean over samples of  -log p(the asked event | maps(z + dz)) + penalty / (2 d) ||dz||^2              z, dz of d numbers

HyperNoise has ||dz||^2 / 2 itself: its weight is our penalty over d.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anystep import tree
from anystep.arrays import mean_square, norm
from anystep.errors import UserError
from anystep.nets import correction
from anystep.path import from_flow_time, to_flow_time
from anystep.sampling import asked_by
from anystep.steering.at import At, Walk
from anystep.steering.classifier import Reader
from anystep.steering.examples import Task, conditioned, length_of, on_clock
from anystep.steering.fit import CHECKS, rate_of
from anystep.steering.method import Method
from anystep.steering.prompts import Asked, arrays
from anystep.steering.rows import understood

TOKENS = 1024  # a side of a patch is doubled until the noise has no more
DEV = 4  # batches of prompts of dev


class Prompts(NamedTuple):
    """What is learned from. of(rows) -> data of some of `count` prompts, on the host; dev: such data of other prompts, several times."""

    of: Callable
    count: int
    dev: list


def fit_correction(
    reader: Reader, params, net, walk_of, prompts: Prompts, begins, steps, batch=32, lr=1e-3, penalty=1.0, seed=0, say=lambda text: None
):
    """({"correction": weights}, report on dev: "loss_before" and "loss" of the classifier in nats, "correction" as a share of the noise).

    params: the reader's; net: weights of what walk_of needs; walk_of(net, data) -> (a Walk, told without the correction), traced; begins:
    (t, s) that the network is told at the first step, in the path's time; steps: batches of `batch` prompts.
    """
    made, method = correction.build(reader.corrects), Method(0, amortised=True)
    optimizer, weights = optax.adam(rate_of(lr, steps)), made.init(tree.fold(jax.random.key(seed), "correction"))

    def losses(weights, net, key, data):
        """(loss of the classifier [B], mean dz^2 [B], |dz| / |z| [B])."""
        walk, told = walk_of(net, data)
        rows = told["asked"].word.shape[0]
        times = (jnp.full(rows, time, jnp.float32) for time in begins)
        here = At(reader, method, walk, told | {"params": params | {"correction": weights}}, *times, jnp.int32(0))
        noise = tree.normal(jax.random.split(key, rows), reader.corrects.shape)
        x = here.level(noise) * noise
        there = here.corrected(x)
        moved = (there - x) / here.level(x)
        return here.see(there)[0][:, 0], mean_square(moved), (norm(moved) / norm(noise)).reshape(-1)

    @jax.jit
    def step(weights, opt, net, key, data):
        def loss(weights):
            found, size, _ = losses(weights, net, key, data)
            return jnp.mean(found) + 0.5 * penalty * jnp.mean(size), jnp.mean(found)

        (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, opt = optimizer.update(gradient, opt, weights)
        return optax.apply_updates(weights, updates), opt, found

    judged = jax.jit(losses)

    def on_dev(weights):
        keys = jax.random.split(tree.fold(jax.random.key(seed), "amortise dev"), len(prompts.dev))
        found = [judged(weights, net, key, data) for key, data in zip(keys, prompts.dev, strict=True)]
        return [float(np.mean([parts[i] for parts in found])) for i in (0, 2)]

    opt, key, rng, recent = optimizer.init(weights), tree.fold(jax.random.key(seed), "amortise"), np.random.default_rng(seed), []
    before = on_dev(weights)[0]
    for number in range(steps):
        rows = rng.integers(prompts.count, size=batch)
        weights, opt, found = step(weights, opt, net, jax.random.fold_in(key, number), prompts.of(rows))
        recent.append(found)
        if (number + 1) % max(steps // CHECKS, 1) == 0 or number + 1 == steps:
            say(f"step {number + 1}: loss of the classifier {float(np.mean(recent)):.3f}")
            recent = []
    after, size = on_dev(weights)
    return {"correction": weights}, {"loss_before": before, "loss": after, "correction": size, "penalty": penalty}


def amortised(task: Task, reader: Reader, params, steps, penalty, counts, prompts, batch=32):
    """(reader, params, report) with a network that corrects the first noise of walks of counts[0] steps, as `fit_correction` has it.

    reader, params: of a classifier of the task's model; steps: of training, of `batch` prompts each; penalty: on the mean square of a
    correction; prompts: how many are learned from. UserError for samples that are not cut into patches, and for names that the text
    encoder does not reach.
    """
    model, shape = task.model, task.shape
    one = model.text.tokenize([""])
    features = jax.eval_shape(model.text.encode, task.params["text"], one)["features"]
    reader = reader._replace(corrects=correction.Options(shape, features.shape[-1], patch_of(shape)))
    path, ask = model.net.path, asked_by(model.drawing.sampler, model.net, model.drawing.ask)
    times = from_flow_time(path, jnp.asarray(task.times(counts[0]), jnp.float32))
    now = to_flow_time(path, jnp.append(times[:1], ask(times[:1], times[1:2])))
    begins = tuple(float(time) for time in from_flow_time(path, on_clock(model, now)))
    start = float(model.drawing.ends(jnp.asarray(task.times(counts[0]), jnp.float32))[0])

    def walk_of(held, data):
        tokens, asked = data
        walk = Walk(model.net, held["net"], conditioned(model, held, tokens), ask, lambda t: t, lambda velocity: velocity, start=start)
        return walk, {"asked": asked, "strength": jnp.float32(1.0)}

    def data_of(split, n):
        rows = task.data.rows(split, n, ("true",))
        tokens = model.text.tokenize([row.prompt for row in rows])
        known = arrays(understood(model.text, rows), length_of(model, task.params, one), 1)
        return len(rows), lambda which: (jax.tree.map(lambda a: a[which], tokens), Asked(*(a[which] for a in known)))

    count, batch_of = data_of("train", prompts)
    held_count, held_of = data_of("dev", DEV * batch)
    data = Prompts(batch_of, count, [held_of(np.arange(i * batch, (i + 1) * batch) % held_count) for i in range(DEV)])
    held = {role: task.params[role] for role in ("net", "text")}
    found, report = fit_correction(reader, params, held, walk_of, data, begins, steps, batch, penalty=penalty, seed=task.seed, say=print)
    return reader, params | found, report


def patch_of(shape):
    """A side of a patch that leaves few tokens; 4 at least, or 2 where 4 does not divide."""
    patch = 4 if shape[0] % 4 == shape[1] % 4 == 0 else 2
    while shape[0] * shape[1] // patch**2 > TOKENS and shape[0] % (2 * patch) == shape[1] % (2 * patch) == 0:
        patch *= 2
    if shape[0] % patch or shape[1] % patch:
        raise UserError(f"--amortise: samples of {shape[0]} x {shape[1]} are not cut into patches of 2")
    return patch
