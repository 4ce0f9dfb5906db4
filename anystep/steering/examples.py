"""What a classifier learns from: prompts that name two objects, the maps of their words, and how the objects stand.

    noised      pictures whose relation is known, noised to a time, with the true prompt and with wrong ones, all with the picture's label.
                For flow models "dual inversion" is just that (the released code's inversion is a straight line)
    on-policy   the model's own first steps, labelled by what it has drawn in the end: the very maps that are asked later, at t = 1 too,
                where a noised picture shows nothing; what a gate needs is this probability

Rows are pure functions of (seed, number). Everything here is drawn unsteered.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anystep import shapes, tree
from anystep.arrays import channels
from anystep.path import from_flow_time, interpolate
from anystep.shapes.caption import CONVERSE, PHRASES
from anystep.steering.maps import Lens, look
from anystep.steering.prompts import Understood, arrays
from anystep.steering.symmetry import CLASSES, WORDS, label_of
from anystep.steering.symmetry import PHRASES as SHORT

OPENINGS = ("a photo of ", "a picture of ", "", "there is ")
SAID = {short: PHRASES[phrase] for phrase, short in SHORT.items()}  # "left": ("left of", "to the left of")


class Row(NamedTuple):
    """A prompt, the characters of its subject and object, the class that it says (-1: none), and the number of its scene."""

    prompt: str
    names: tuple[str, str]
    spans: tuple[tuple[int, int], tuple[int, int]]
    word: int
    scene: int


class Examples(NamedTuple):
    """maps [N, 2, C, S, S] float16, labels [N, 5], words [N], flow times t [N]."""

    maps: np.ndarray
    labels: np.ndarray
    words: np.ndarray
    t: np.ndarray


def generator(name, seed, number):
    return np.random.default_rng([*name.encode(), seed, number])


def say(a, b, link, opening="", word=-1, scene=0) -> Row:
    """ "<opening>a <a> <link> a <b>" """
    prompt, spans = opening, []
    for name, after in ((a, f" {link} "), (b, "")):
        prompt += "an " if name[0].lower() in "aeiou" else "a "
        spans.append((len(prompt), len(prompt) + len(name)))
        prompt += name + after
    return Row(prompt, (a, b), tuple(spans), word, scene)


def scene_rows(world, seed, n, split, kinds=("true",)):
    """(rows, scenes): n position scenes of the shapes world, one row for each of `kinds`: "true", "wrong" (another relation's word), "none"
    ("and" in its place). Either object may come first."""
    rows, scenes = [], []
    for number in range(n):
        scene = shapes.make_scene(world, seed, number, split, "position")
        objects, relation = scene.objects, scene.relation
        rng = generator("steering rows", seed, number)
        for kind in kinds:
            if rng.random() < 0.5:
                objects, relation = objects[::-1], CONVERSE[relation]
            word = SHORT[relation]
            word = {"true": word, "wrong": pick(rng, [w for w in WORDS if w != word]), "none": None}[kind]
            link = pick(rng, SAID[word]) if word else "and"
            a, b = (f"{o.color} {o.shape}" if world.color_words > 0 else o.shape for o in objects)
            rows.append(say(a, b, link, pick(rng, OPENINGS), CLASSES.index(word) if word else -1, number))
        scenes.append(scene)
    return rows, scenes


def pick(rng, options):
    return options[int(rng.integers(len(options)))]


def triplet_rows(triplets, seed, kinds=("true",)):
    """Rows of (subject, word, object) triplets, one for each of `kinds`."""
    rows = []
    for number, (a, word, b) in enumerate(triplets):
        rng = generator("steering rows", seed, number)
        for kind in kinds:
            asked = {"true": word, "wrong": pick(rng, [w for w in WORDS if w != word]), "none": None}[kind]
            link = pick(rng, SAID[asked]) if asked else "and"
            rows.append(say(a, b, link, pick(rng, OPENINGS), CLASSES.index(asked) if asked else -1, number))
    return rows


def boxes_in_shapes(world) -> Callable:
    """boxes(picture, names) -> {name: box} by the exact detector; names "ring" or "red ring", found only where one thing fits."""

    def boxes(picture, names):
        seen = shapes.detect(picture, world).objects
        out = {}
        for name in names:
            *color, shape = name.split()
            fits = [thing for thing in seen if thing.shape == shape and (not color or thing.color == color[0])]
            if len(fits) == 1:
                out[name] = fits[0].box
        return out

    return boxes


def labels_of_pictures(pictures, rows, boxes):
    """[N, 5] of what the pictures show."""
    out = []
    for picture, row in zip(pictures, rows, strict=True):
        found = boxes(picture, list(row.names))
        out.append(label_of(*(found.get(name) for name in row.names)))
    return np.stack(out)


def labels_of_scenes(scenes, rows):
    """[N, 5] of the scenes that the rows speak of."""
    out = []
    for row in rows:
        by_name = {name: o.box for o in scenes[row.scene].objects for name in (o.shape, f"{o.color} {o.shape}")}
        out.append(label_of(*(by_name[name] for name in row.names)))
    return np.stack(out)


def understood(text, rows) -> list[Understood]:
    """The rows as `prompts.arrays` wants them, also those without a relation."""
    return [
        Understood(row.prompt, (Said(WORDS[row.word]),), (tuple(tuple(text.place(row.prompt, s)) for s in row.spans),), ()) for row in rows
    ]


class Said(NamedTuple):
    word: str


def noised(model, params, rows, x0_of, labels, lens: Lens, pairs, seed=0, batch=64) -> Examples:
    """Maps of noised pictures: x0_of(numbers of scenes) -> pictures float32 at the door [N, H, W, 3]; labels [N, 5]; pairs: the (t, s) in
    flow time that are looked at, each row at one of them, in turn. Rows of one picture do not share their noise, as published."""
    net, path = model.net, model.net.path
    said, out = understood(model.text, rows), []

    @jax.jit
    def seen(params, tokens, asked, x0, t, s, keys):
        cond = conditioned(model, params, tokens)
        x = interpolate(path, x0, tree.normal(keys, x0.shape[1:]), from_flow_time(path, t))
        return look(net, params["net"], x, from_flow_time(path, t), from_flow_time(path, s), cond, asked, lens)[0].astype(jnp.float16)

    encode = jax.jit(model.codec.encode) if model.codec else None
    t, s = (np.array([pairs[i % len(pairs)][k] for i in range(len(rows))], np.float32) for k in (0, 1))
    for first in range(0, len(rows), batch):
        index = np.minimum(np.arange(first, first + batch), len(rows) - 1)
        pictures = jnp.asarray(x0_of([rows[i].scene for i in index]), jnp.float32)
        latents = jnp.concatenate([encode(params["codec"], pictures[i : i + 1]) for i in range(batch)]) if encode else pictures
        x0 = (latents - channels(net.shift, latents)) / channels(net.scale, latents)
        tokens = model.text.tokenize([rows[i].prompt for i in index])
        asked = arrays([said[i] for i in index], length_of(model, params, tokens), 1).tokens
        keys = tree.sample_keys(jax.random.key(seed), "noised", 0, jnp.asarray(index))
        out.append(np.asarray(seen(params, tokens, asked, x0, t[index], s[index], keys))[: len(rows) - first])
    return Examples(np.concatenate(out), labels, np.array([row.word for row in rows]), t)


def conditioned(model, params, tokens):
    """What the text encoder says, and the guidance where the network is told it."""
    cond, d = model.text.encode(params["text"], tokens), model.drawing
    rows = cond["features"].shape[0]
    return cond | {"guidance": jnp.full(rows, d.told * d.scale, jnp.float32)} if d.told else cond


def length_of(model, params, tokens):
    return jax.eval_shape(model.text.encode, params["text"], tokens)["features"].shape[1]


def on_policy(draw, rows, boxes, first, times) -> Examples:
    """draw(prompts) -> (pictures at the door, maps [steps, N, 2, C, S, S]) of unsteered walks over the flow times [steps + 1]; the first
    `first` steps become examples, labelled by what boxes(picture, names) finds in the end."""
    pictures, maps = draw([row.prompt for row in rows])
    labels, words = labels_of_pictures(pictures, rows, boxes), np.array([row.word for row in rows])
    first = min(first, len(maps))
    return Examples(
        maps[:first].reshape(-1, *maps.shape[2:]).astype(np.float16),
        np.tile(labels, (first, 1)),
        np.tile(words, first),
        np.repeat(np.asarray(times[:first], np.float32), len(rows)),
    )
