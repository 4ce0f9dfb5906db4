"""Several objectives in one step: who gets which rows, what the batch looks like to them, and the only averages of the house.

A batch of B rows is read as B / k groups of k = sum of the shares; an objective with share n owns n fixed rows of every group (row mod
k), never a leading slice: shapes are static and each device keeps its own rows. The total is the mean over the batch of weight * loss, so
a share is also a weight.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from anystep import times, tree
from anystep.arrays import expand, in_units
from anystep.control import edges
from anystep.types import Objective


class Term(NamedTuple):
    name: str
    objective: Objective
    share: int  # rows of each group
    weight: float = 1.0
    start: int = 0  # step from which it counts; its rows are idle before


FAKE = "fake image"  # said before the prompt of a picture that the model made itself (Self-E, S.1.2)


class Guidance(NamedTuple):
    """Of a teacher: the scales that each row draws one of, and whose mask its null prompt has, "own" | "prompt".

    The released SANA-Sprint loop gives the null prompt the mask of the prompt that it stands in for, so that as many padding tokens are
    attended to as the prompt has words: not what the teacher learned as its null prompt, hence "own" unless that loop is to be met.
    """

    scales: tuple[float, ...] = (1.0,)
    null_mask: str = "own"


def prepare(models, roles, batch, key, step, dropout, fake=False, guidance: Guidance | None = None, control_dropout=0.0):
    """The batch as objectives see it: unit standard deviation, prompts dropped and encoded, `fake` tokens if wanted, the edges of the
    pictures for a network that reads them, what a teacher is asked under `guidance` (see `types.Batch`). Differentiable through the text
    role."""
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
    if net.controls:
        picture = shown(net, batch["x0"], tree.uniform(tree.sample_keys(key, "control_dropout", step, index)) < control_dropout)
        found = {name: cond | {"picture": picture} for name, cond in found.items()}
    if guidance:
        found |= beside_teacher(models, found, guidance, tree.uniform(tree.sample_keys(key, "guidance", step, index)))
    return (
        more
        | found
        | {
            "x0": in_units(net, batch["x0"]),
            "index": index,
            "dropped": drop,
        }
    )


def shown(net, x0, dropped):
    """What a ControlNet sees of pictures at the door: their edges, zeros where `dropped` [B]. Zeros are no picture of an empty scene, whose
    edges are black: the data's mean says that nothing is known."""
    picture = in_units(net, edges(x0))
    return jnp.where(expand(dropped, picture), 0.0, picture)


def beside_teacher(models, found, guidance, chance):
    """What else rows hold that a teacher answers: a scale each, the teacher's prompts, and the scale for networks that are told it."""
    scale = jnp.asarray(guidance.scales, jnp.float32)[jnp.floor(chance * len(guidance.scales)).astype(jnp.int32)]

    def told(model, cond):
        return cond | {"guidance": model.told * scale} if model.told else cond

    null = found["null"] | ({"mask": found["cond"]["mask"]} if guidance.null_mask == "prompt" else {})
    its = {"teacher_cond": found["ema_cond"], "teacher_null": null}
    return {
        "scale": scale,
        **{name: told(models["teacher"], cond) for name, cond in its.items()},
        **{name: told(models["net"], found[name]) for name in ("cond", "null", "ema_cond", "ema_null")},
    }


def take_rows(batch, first, share, group):
    """Rows with first <= row mod group < first + share of every leaf."""
    if share == group:
        return batch

    def take(a):
        return a.reshape(a.shape[0] // group, group, *a.shape[1:])[:, first : first + share].reshape(-1, *a.shape[1:])

    return jax.tree.map(take, batch)


def mix(terms: list[Term], models, roles, batch, key, step, only=None):
    """(loss, metrics, buffers) of a prepared batch. Metrics are scalars: loss/<name>, its four time quarters loss/<name>/q1..q4 (q1 next
    to data), <name>/<metric>. `only`: names of the terms that are computed, on their own rows as ever."""
    group = sum(term.share for term in terms)
    total, metrics, buffers, first = 0.0, {}, dict(roles.buffers), 0
    for term in terms:
        rows = take_rows(batch, first, term.share, group)
        first += term.share
        if only is not None and term.name not in only:
            continue
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
