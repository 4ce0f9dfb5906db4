"""Prompts that name two objects, and where the words of each lie. Rows are pure functions of (seed, number)."""

from typing import Any, NamedTuple

import jax
import numpy as np

from anystep import shapes
from anystep.errors import UserError
from anystep.shapes.caption import CONVERSE, PHRASES
from anystep.steering.prompts import Understood
from anystep.steering.symmetry import CLASSES, WORDS
from anystep.steering.symmetry import PHRASES as SHORT

OPENINGS = ("a photo of ", "a picture of ", "", "there is ")
LINKS = {short: PHRASES[phrase] for phrase, short in SHORT.items()}  # "left": ("left of", "to the left of")


class Row(NamedTuple):
    """A prompt, the characters of its subject and object, the class that it says (-1: none), the number of its scene and the scene or the
    picture itself, which has a relation of its own."""

    prompt: str
    names: tuple[str, str]
    spans: tuple[tuple[int, int], tuple[int, int]]
    word: int
    number: int
    shows: Any


class Word(NamedTuple):
    """What `prompts.arrays` reads of a relation."""

    word: str


def generator(name, seed, number):
    return np.random.default_rng([*name.encode(), seed, number])


def pick(rng, options):
    return options[int(rng.integers(len(options)))]


def row_of(a, b, word, rng, number, shows) -> Row:
    """ "<opening>a <a> <word> a <b>", or "and" for no word (None)."""
    link = pick(rng, LINKS[word]) if word else "and"
    prompt, spans = pick(rng, OPENINGS), []
    for name, after in ((a, f" {link} "), (b, "")):
        prompt += "an " if name[0].lower() in "aeiou" else "a "
        spans.append((len(prompt), len(prompt) + len(name)))
        prompt += name + after
    return Row(prompt, (a, b), tuple(spans), CLASSES.index(word) if word else -1, number, shows)


def word_for(kind, word, rng):
    """The word of a prompt where `word` is true: itself ("true"), another ("wrong") or None ("none")."""
    return {"true": word, "wrong": pick(rng, [w for w in WORDS if w != word]), "none": None}[kind]


def scene_rows(world, seed, n, split, kinds=("true",)):
    """Rows of n position scenes of the shapes world, one for each of `kinds`. Either object may come first."""
    rows = []
    for number in range(n):
        scene = shapes.make_scene(world, seed, number, split, "position")
        objects, relation = scene.objects, scene.relation
        rng = generator("steering rows", seed, number)
        for kind in kinds:
            if rng.random() < 0.5:
                objects, relation = objects[::-1], CONVERSE[relation]
            a, b = (f"{o.color} {o.shape}" if world.color_words > 0 else o.shape for o in objects)
            rows.append(row_of(a, b, word_for(kind, SHORT[relation], rng), rng, number, scene))
    return rows


def picture_rows(entries, seed, kinds=("true",)):
    """Rows of entries {"subject", "relation", "object", ...}, one for each of `kinds`."""
    rows = []
    for number, entry in enumerate(entries):
        rng = generator("steering rows", seed, number)
        for kind in kinds:
            rows.append(row_of(entry["subject"], entry["object"], word_for(kind, entry["relation"], rng), rng, number, entry))
    return rows


def understood(text, rows) -> list[Understood]:
    """The rows as `prompts.arrays` wants them, also those without a relation. UserError where an object has no place among the features."""

    def one(row):
        places = tuple(tuple(text.place(row.prompt, span)) for span in row.spans)
        for name, found in zip(row.names, places, strict=True):
            if not found:
                said = f"the text encoder reads {length_read(text)} tokens, which is not as far as {name!r} in {row.prompt[:80]!r}"
                raise UserError(f"--data: {said}; allowed are shorter names")
        return Understood(row.prompt, (Word(CLASSES[row.word]),), (places,), ())  # -1 is the last class, none

    return [one(row) for row in rows]


def length_read(text) -> int:
    """How many features a prompt has, from shapes alone."""
    made = jax.eval_shape(lambda: text.encode(text.init(jax.random.key(0)), text.tokenize([""])))
    return made["features"].shape[1]
