"""What a classifier learns from: the maps of two objects' words, and how the objects stand.

    noised      pictures whose relation is known, noised to a time, with the true prompt and with wrong ones, all with the picture's label.
                For flow models "dual inversion" is just that (the released code's inversion is a straight line)
    on-policy   the model's own first steps, labelled by what it has drawn in the end: the very maps that are asked later, at t = 1 too,
                where a noised picture shows nothing; what a gate needs is this probability

Everything here is drawn unsteered. Scenes, not rows, take turns at the numbers of steps and at the times, so that the prompts of one scene,
true, wrong or without a word, share theirs. Row i of a split is drawn from noise number FIRST[split] + i: no split, number of steps or
benchmark shares a noise with another.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anystep import tree
from anystep.arrays import channels
from anystep.errors import UserError
from anystep.path import from_flow_time, interpolate, to_flow_time
from anystep.sampling import asked_by, whole_step
from anystep.steering.maps import Lens, channels_of, look
from anystep.steering.program import Recorder, Steering
from anystep.steering.prompts import arrays
from anystep.steering.rows import generator, understood
from anystep.steering.sources import labels_of_pictures
from anystep.steering.symmetry import CLASSES

FIRST = {"train": 2**28, "dev": 2**29, "bench dev": 0, "bench test": 2**24, "bench tune": 2**25}  # a split has up to 10^7 rows
ALIKE = 0.98  # a larger share of one label teaches nothing
EARLY = 256  # rows after which that is looked at


class Task(NamedTuple):
    """A model with what a classifier of it is to learn from."""

    model: Any  # with net, text, drawing, codec
    params: Any
    shape: tuple[int, ...]  # of a sample of the network
    times: Callable  # number of steps -> flow times [steps + 1]
    sample: Callable  # (prompts, steps, steer, first) -> (pictures at the door, what the sampler says); first: number of the first noise
    seed: int
    data: Any  # ShapesData | PicturesData


class Examples(NamedTuple):
    """maps [N, 2, C, S, S] float16, labels [N, 5] in {0, 1}, words [N] (-1: none), flow times t [N] as the network was told them, numbers
    of steps [N] (0: noised) and of scenes [N]."""

    maps: np.ndarray
    labels: np.ndarray
    words: np.ndarray
    t: np.ndarray
    steps: np.ndarray
    scenes: np.ndarray

    def where(self, rows):
        return Examples(*(part[rows] for part in self))


def joined(parts) -> Examples:
    return Examples(*(np.concatenate(some) for some in zip(*parts, strict=True)))


def halves(examples: Examples):
    """(one half, the other) of the scenes, by a coin for each of their numbers. UserError where few scenes leave one without any."""
    heads = np.array([generator("halves", 0, scene).random() < 0.5 for scene in examples.scenes])
    if heads.all() or not heads.any():
        count = len(set(examples.scenes.tolist()))
        raise UserError(f"--data: its {count} scenes of dev are too few to be halved; a tenth of all is for dev")
    return examples.where(~heads), examples.where(heads)


def by_turns(rows, options):
    """Which of so many options each row has: scenes take turns."""
    return np.array([row.number % options for row in rows], int)


def on_policy(task: Task, split, n, lens: Lens, counts, firsts) -> Examples:
    """n prompts, true and without a word, each at one of the numbers of steps; firsts: how many of the first steps become examples."""
    rows, start, found, labels = task.data.rows(split, n, ("true", "none")), FIRST[split], [], []
    turns = by_turns(rows, len(counts))
    for number, (steps, first) in enumerate(zip(counts, firsts, strict=True)):
        some = [row for row, turn in zip(rows, turns, strict=True) if turn == number]
        times = on_clock(task.model, np.asarray(task.times(steps), np.float32)[: min(first, steps)])
        for begin in range(0, len(some), EARLY):
            part = some[begin : begin + EARLY]
            found.append(drawn(task, part, steps, times, lens, start))
            labels.append(found[-1].labels[:: len(times)])
            start += len(part)
            if sum(map(len, labels)) in range(EARLY, 2 * EARLY):
                refuse_one_label(np.concatenate(labels), "--source policy")
    refuse_one_label(np.concatenate(labels), "--source policy")
    return joined(found)


def drawn(task, rows, steps, times, lens, start) -> Examples:
    """Of each row the first steps, at `times`, one after the other: [row 0 at times[0], row 0 at times[1], ..., row 1 at times[0], ...]."""
    given = {row.prompt: one for row, one in zip(rows, understood(task.model.text, rows), strict=True)}
    steer = Steering(Recorder(lens, len(times)), {}, given=given)
    pictures, info = task.sample([row.prompt for row in rows], steps, steer, start)
    labels, each = labels_of_pictures(pictures, rows, task.data.boxes), len(times)
    maps = np.asarray(info["maps"]).swapaxes(0, 1)  # [N, first steps, 2, C, S, S]
    return Examples(
        maps.reshape(-1, *maps.shape[2:]),
        np.repeat(labels, each, axis=0),
        np.repeat([row.word for row in rows], each),
        np.tile(times, len(rows)),
        np.full(len(rows) * each, steps),
        np.repeat([row.number for row in rows], each),
    )


def refuse_one_label(labels, flag):
    """UserError where nearly all rows have one label: nothing can be learned from them, least of all after hours."""
    kinds, counts = np.unique(labels, axis=0, return_counts=True)
    if counts.max() > ALIKE * len(labels):
        named = " and ".join(name for name, on in zip(CLASSES, kinds[counts.argmax()], strict=True) if on)
        text = f"{flag}: {counts.max()} of {len(labels)} pictures show the relation {named!r}"
        raise UserError(f"{text}; does the model draw what --boxes (default: the detector of shapes) can find?")


def noised(task: Task, split, n, lens: Lens, kinds, at) -> Examples:
    """Maps of noised pictures, n prompts of `kinds`, each scene at one of the flow times `at`. Rows of one picture do not share their
    noise, as published."""
    model, params = task.model, task.params
    net, path, codec = model.net, model.net.path, model.codec
    rows = task.data.rows(split, n, kinds)
    meant, labels = understood(model.text, rows), task.data.labels(rows)
    ask = asked_by(model.drawing.sampler, net, model.drawing.ask)
    times = np.array([(t, on_clock(model, t), on_clock(model, flow_time_asked(ask, path, t))) for t in at], np.float32)
    level, t, s = times[by_turns(rows, len(at))].T

    @jax.jit
    def seen(params, tokens, asked, x0, level, t, s, keys):
        cond = conditioned(model, params, tokens)
        x = interpolate(path, x0, tree.normal(keys, x0.shape[1:]), from_flow_time(path, level))
        return look(net, params["net"], x, from_flow_time(path, t), from_flow_time(path, s), cond, asked, lens)[0].astype(jnp.float16)

    encode, out, batch = jax.jit(codec.encode) if codec else None, [], model.drawing.batch
    for first in range(0, len(rows), batch):
        index = np.minimum(np.arange(first, first + batch), len(rows) - 1)
        pictures = jnp.asarray(task.data.pictures([rows[i] for i in index]), jnp.float32)
        latents = jnp.concatenate([encode(params["codec"], pictures[i : i + 1]) for i in range(batch)]) if encode else pictures
        x0 = (latents - channels(net.shift, latents)) / channels(net.scale, latents)
        tokens = model.text.tokenize([rows[i].prompt for i in index])
        asked = arrays([meant[i] for i in index], length_of(model, params, tokens), 1).tokens
        keys = tree.sample_keys(jax.random.key(task.seed), "noised", 0, jnp.asarray(FIRST[split] + index))
        out.append(np.asarray(seen(params, tokens, asked, x0, level[index], t[index], s[index], keys))[: len(rows) - first])
    words, scenes = (np.array([getattr(row, name) for row in rows]) for name in ("word", "number"))
    return Examples(np.concatenate(out), labels, words, t, np.zeros(len(rows), int), scenes)


def conditioned(model, params, tokens):
    """What the text encoder says, and the guidance where the network is told it."""
    cond, d = model.text.encode(params["text"], tokens), model.drawing
    rows = cond["features"].shape[0]
    return cond | {"guidance": jnp.full(rows, d.told * d.scale, jnp.float32)} if d.told else cond


def length_of(model, params, tokens):
    return jax.eval_shape(model.text.encode, params["text"], tokens)["features"].shape[1]


def on_clock(model, t):
    """Flow times as the network is told them where it is steered: some know whole steps alone, and walk by exact ones."""
    whole, path = model.drawing.whole, model.net.path
    return np.asarray(to_flow_time(path, whole_step(whole, from_flow_time(path, jnp.asarray(t, jnp.float32))))) if whole else t


def flow_time_asked(ask, path, t):
    """What is asked at a time that is no step of a grid: as if the next time were half of it."""
    t, after = (from_flow_time(path, jnp.full(1, value, jnp.float32)) for value in (t, t / 2))
    return float(to_flow_time(path, ask(t, after))[0])


def collect(task: Task, split, n, lens, source, kinds, counts, firsts, at) -> Examples:
    """Examples of a source: "policy" | "noised" | "both"."""
    channels_of(task.model, lens)  # refuses heads that are not there
    found = [on_policy(task, split, n, lens, counts, firsts)] if source != "noised" else []
    return joined(found + ([noised(task, split, n, lens, kinds, at)] if source != "policy" else []))
