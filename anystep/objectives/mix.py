"""Several objectives in one step: who gets which rows, what the batch looks like to them, and the only averages of the house.

A batch of B rows is read as B / k groups of k = sum of the shares; an objective with share n owns n fixed rows of every group (row mod
k), never a leading slice: shapes are static and each device keeps its own rows. The total is the mean over the batch of weight * loss, so
a share is also a weight.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from anystep import times, tree
from anystep.arrays import channels
from anystep.types import Objective


class Term(NamedTuple):
    name: str
    objective: Objective
    share: int  # rows of each group
    weight: float = 1.0
    start: int = 0  # step from which it counts; its rows are idle before


FAKE = "fake image"  # said before the prompt of a picture that the model made itself (Self-E, S.1.2)


def prepare(models, roles, batch, key, step, dropout, fake=False):
    """The batch as objectives see it: unit standard deviation, prompts dropped and encoded, `fake` tokens if wanted (see `types.Batch`).
    Differentiable through the text role."""
    net, text = models["net"], models["text"]
    tokens, index = batch["cond"]["tokens"], batch["index"]
    null = jax.tree.map(jnp.asarray, text.tokenize([""]))
    drop = tree.uniform(tree.sample_keys(key, "prompt_dropout", step, index)) < dropout
    tokens = jax.tree.map(lambda of_null, a: jnp.where(drop.reshape(drop.shape + (1,) * (a.ndim - 1)), of_null, a), null, tokens)

    def of_null(weights):
        encoded = jax.lax.stop_gradient(text.encode(weights, null))
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (index.shape[0], *a.shape[1:])), encoded)

    more = {"fake": text.prepend(FAKE, tokens)} if fake else {}
    live, mean = roles.params["text"], roles.ema["text"]
    found = {"cond": text.encode(live, tokens), "null": of_null(live)}
    if "text" in roles.frozen:  # its own average: it answers once
        found |= {"ema_cond": jax.lax.stop_gradient(found["cond"]), "ema_null": found["null"]}
    else:
        found |= {"ema_cond": jax.lax.stop_gradient(text.encode(mean, tokens)), "ema_null": of_null(mean)}
    return (
        more
        | found
        | {
            "x0": (batch["x0"] - channels(net.shift, batch["x0"])) / channels(net.scale, batch["x0"]),
            "index": index,
            "dropped": drop,
        }
    )


def take_rows(batch, first, share, group):
    """Rows with first <= row mod group < first + share of every leaf."""
    if share == group:
        return batch

    def take(a):
        return a.reshape(a.shape[0] // group, group, *a.shape[1:])[:, first : first + share].reshape(-1, *a.shape[1:])

    return jax.tree.map(take, batch)


def mix(terms: list[Term], models, roles, batch, key, step):
    """(loss, metrics, buffers) of a prepared batch. Metrics are scalars: loss/<name>, its four time quarters loss/<name>/q1..q4 (q1 next
    to data), <name>/<metric>."""
    group = sum(term.share for term in terms)
    total, metrics, buffers, first = 0.0, {}, dict(roles.buffers), 0
    for term in terms:
        rows = take_rows(batch, first, term.share, group)
        first += term.share
        loss, found, moved = term.objective(models, roles, rows, key, step)
        buffers.update(moved)
        part = term.weight * (term.share / group) * jnp.mean(loss)
        total = total + jnp.where(step >= term.start, part, 0.0)
        t = found.pop("t")
        shown = found.pop("error", loss)
        metrics[f"loss/{term.name}"] = jnp.mean(shown)
        in_quarter = jax.nn.one_hot(times.quarter(t, models["net"].path.t_noise), 4)
        per_quarter = shown @ in_quarter / jnp.maximum(jnp.sum(in_quarter, axis=0), 1.0)
        metrics.update({f"loss/{term.name}/q{i + 1}": per_quarter[i] for i in range(4)})
        metrics.update({f"{term.name}/{name}": jnp.mean(value) for name, value in found.items()})
    return total, {"loss": total, **metrics}, buffers
