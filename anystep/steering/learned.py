"""Examples and readers for a given model: which prompts and pictures, which layers, which times."""

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from anystep import shapes
from anystep.errors import UserError
from anystep.nets import correction, relation
from anystep.path import from_flow_time, to_flow_time
from anystep.sampling import asked_by
from anystep.steering import examples, fit
from anystep.steering.classifier import Reader
from anystep.steering.files import maps_of
from anystep.steering.maps import Lens
from anystep.steering.program import Recorder, Steering, Walk
from anystep.steering.prompts import Asked, arrays
from anystep.steering.symmetry import CLASSES, WORDS

CORRECTION_TOKENS = 1024  # a side of a patch is doubled until the noise has no more


class Task(NamedTuple):
    """A model with what a classifier of it is to learn from."""

    model: Any  # with net, text, drawing, codec
    params: Any
    shape: tuple[int, ...]  # of a sample of the network
    times: Callable  # number of steps -> flow times [steps + 1]
    sample: Callable  # (prompts, steps, steer) -> (pictures at the door, what the sampler says)
    seed: int
    data: Any  # ShapesData | PicturesData


class ShapesData:
    """Position scenes of the shapes world at any size, labelled exactly."""

    def __init__(self, world, seed, size, boxes=None):
        self.world, self.seed, self.size = world, seed, size
        self.boxes = boxes or examples.boxes_in_shapes(world)
        self.things = tuple(world.shapes)

    def rows(self, split, n, kinds):
        rows, self.scenes = examples.scene_rows(self.world, self.seed, -(-n // len(kinds)), split, kinds)
        return rows[:n]

    def labels(self, rows):
        return examples.labels_of_scenes(self.scenes, rows)

    def pictures(self, numbers):
        side = max(16, *self.size)
        return np.stack([fitted(Image.fromarray(shapes.draw(self.scenes[n], side)), self.size) for n in numbers])


class PicturesData:
    """Pictures with one known relation each, from a .jsonl file; a tenth of them, by crc32 of the names, is for dev."""

    def __init__(self, path, size, boxes=None):
        self.path, self.size, self.boxes = path, size, boxes
        try:
            self.entries = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
            good = all(
                e["relation"] in WORDS and all(isinstance(e[name], str) for name in ("image", "subject", "object")) for e in self.entries
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--data {str(path)!r}: {type(error).__name__} ({error})") from None
        if not good or not self.entries:
            raise UserError(f"--data {str(path)!r}: needs image, subject, relation ({', '.join(WORDS)}) and object in every line")
        names = {e[side].lower().split()[-1] for e in self.entries for side in ("subject", "object")}
        self.things = tuple(sorted(names)) if len(names) <= 200 else ()

    def rows(self, split, n, kinds):
        dev = [zlib.crc32(e["image"].encode()) % 10 == 1 for e in self.entries]
        self.here = [e for e, held in zip(self.entries, dev, strict=True) if held == (split == "dev")]
        if not self.here:
            raise UserError(f"--data {str(self.path)!r}: {len(dev)} pictures leave none for {split}")
        return examples.triplet_rows([(e["subject"], e["relation"], e["object"]) for e in self.here], 0, kinds)[:n]

    def labels(self, rows):
        return np.eye(len(CLASSES), dtype=np.float32)[[CLASSES.index(self.here[row.scene]["relation"]) for row in rows]]

    def pictures(self, numbers):
        return np.stack([fitted(Image.open(self.path.parent / self.here[n]["image"]).convert("RGB"), self.size) for n in numbers])


def fitted(picture, size):
    """float32 [H, W, 3] in [-1, 1]."""
    picture = picture if picture.size == size[::-1] else picture.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture, np.float32) / 127.5 - 1.0


def world_of(config):
    """The world that a model learned from, the default one for others."""
    if config is not None and config.data.kind == "shapes":
        return shapes.World(**{name: config.data[name] for name in shapes.World._fields})._replace(wrong_relation=0.0, missing_relation=0.0)
    return shapes.World()


def lens_of(model, kind, layers=None, heads=(), side=None) -> Lens:
    there = model.net.maps
    layers = tuple(range(-(-there // 2) if kind == "light" else there)) if layers is None else tuple(sorted(layers))
    if len(set(layers)) < len(layers) or not set(layers) <= set(range(there)):
        raise UserError(f"--layers {list(layers)}: allowed are different ones of 0 to {there - 1}")
    if len(set(heads)) < len(heads):
        raise UserError(f"--heads {list(heads)}: one is named twice")
    return Lens(layers, tuple(heads), side or (8 if kind == "light" else 16))


def reader_of(kind, lens, data: examples.Examples) -> Reader:
    """A fresh classifier for such maps and times."""
    maps, clock = data.maps.shape[2], tuple(sorted({float(t) for t in data.t}, reverse=True))
    if kind == "light":
        return Reader(lens, relation.Light(maps, side=lens.side))
    layout = relation.FLUX if kind == "faithful" else relation.STABLE
    return Reader(lens, relation.Faithful(maps, clock, tuple(range(len(clock))), side=lens.side, **layout))


def collect(task: Task, split, n, lens, source, kinds, counts, first, at) -> examples.Examples:
    """n prompts of each source, at the first steps of each number of steps, or noised to the times `at`."""
    model, found = task.model, []
    maps_of(model, lens)  # refuses heads that are not there
    if source != "noised":
        rows = task.data.rows(split, n, ("true", "none"))
        steer = Steering(
            Recorder(lens), {}, given={row.prompt: one for row, one in zip(rows, examples.understood(model.text, rows), strict=True)}
        )
        for number, steps in enumerate(counts):
            some = rows[number :: len(counts)]

            def draw(prompts, steps=steps):
                pictures, said = task.sample(prompts, steps, steer)
                return pictures, said["maps"]

            found.append(examples.on_policy(draw, some, task.data.boxes, first, task.times(steps)))
    if source != "policy":
        rows = task.data.rows(split, n, kinds)
        ask, path = asked_by(model.drawing.sampler, model.net, model.drawing.ask), model.net.path
        pairs = [(t, flow_time_asked(ask, path, t)) for t in at]
        found.append(
            examples.noised(
                model, task.params, rows, task.data.pictures, task.data.labels(rows), lens, pairs, task.seed, model.drawing.batch
            )
        )
    return examples.Examples(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def flow_time_asked(ask, path, t):
    """What is asked at a time that is no step of a grid: as if the next time were half of it."""
    t, after = (from_flow_time(path, jnp.full(1, value, jnp.float32)) for value in (t, t / 2))
    return float(to_flow_time(path, ask(t, after))[0])


def amortised(task: Task, reader: Reader, params, steps, penalty, counts, prompts):
    """(reader, params) with a network that corrects the first noise of walks of counts[0] steps."""
    model, shape = task.model, task.shape
    rows = task.data.rows("train", prompts, ("true",))
    tokens = model.text.tokenize([row.prompt for row in rows])
    length = examples.length_of(model, task.params, jax.tree.map(lambda a: a[:1], tokens))
    known = arrays(examples.understood(model.text, rows), length, 1)
    width = jax.eval_shape(model.text.encode, task.params["text"], jax.tree.map(lambda a: a[:1], tokens))["features"].shape[-1]
    patch = 2
    while shape[0] * shape[1] // patch**2 > CORRECTION_TOKENS and shape[0] % (2 * patch) == shape[1] % (2 * patch) == 0:
        patch *= 2
    if shape[0] % patch or shape[1] % patch:
        raise UserError(f"--amortise: samples of {shape[0]} x {shape[1]} are not cut into patches of 2")
    reader = reader._replace(corrects=correction.Options(shape, width, max(patch, 4 if shape[0] % 4 == shape[1] % 4 == 0 else patch)))
    times = from_flow_time(model.net.path, jnp.asarray(task.times(counts[0]), jnp.float32))
    ask = asked_by(model.drawing.sampler, model.net, model.drawing.ask)
    t, s = float(times[0]), float(ask(times[:1], times[1:2])[0])

    def walk_of(data):
        tokens, asked = data
        cond = examples.conditioned(model, task.params, tokens)
        walk = Walk(model.net, task.params["net"], cond, ask, lambda t: t, lambda velocity: velocity)
        return walk, {"asked": asked, "strength": jnp.float32(1.0)}

    def batch_of(which):
        return jax.tree.map(lambda a: a[which], tokens), Asked(*(a[which] for a in known))

    found = fit.fit_correction(reader, params, walk_of, batch_of, len(rows), t, s, steps, penalty=penalty, seed=task.seed, say=print)
    return reader, params | found
