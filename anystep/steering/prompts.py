"""What a prompt asks for, as arrays: its relations (`relations.read`), and where the words of each object lie among the features."""

from typing import NamedTuple

import numpy as np

from anystep.errors import UserError
from anystep.relations import Relation, read
from anystep.steering.symmetry import CLASSES, WORDS
from anystep.types import Text


class Asked(NamedTuple):
    """tokens [B, 2 R, L] float32: the mean over the sub-words of subject and object of each relation, zeros where there is none; word
    [B, R] int32, a class; known [B, R] bool."""

    tokens: np.ndarray
    word: np.ndarray
    known: np.ndarray


class Understood(NamedTuple):
    """relations: those that can be steered to, with the rows of their subject and object among the features; notes: a line for the rest."""

    prompt: str
    relations: tuple[Relation, ...]
    rows: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    notes: tuple[str, ...]


def understand(text: Text, prompt: str, things=()) -> Understood:
    """`things`: last words of what a classifier has learned from, () for anything. UserError where words have no place among features."""
    if text.place is None:
        raise UserError("steer: the prompts of this model are features, its text encoder is not here; --text FOLDER brings it")
    found = read(prompt)
    notes, relations, rows = list(found.notes), [], []
    for relation in found.relations:
        places = tuple(tuple(text.place(prompt, span)) for span in (relation.subject_span, relation.object_span))
        if reason := refusal(relation, places, things):
            notes.append(f'"{relation.subject}" {relation.word} "{relation.object}": {reason}')
        else:
            relations.append(relation)
            rows.append(places)
    return Understood(prompt, tuple(relations), tuple(rows), tuple(notes))


def refusal(relation, places, things):
    """Why a relation is not steered to, or None."""
    if relation.word not in WORDS:
        return f"classifiers know {', '.join(WORDS)}"
    if relation.subject.lower() == relation.object.lower():
        return "two equal nouns have the same words to look for"
    for name, found in zip((relation.subject, relation.object), places, strict=True):
        if not found:
            return f'the text encoder does not read as far as "{name}"'
        if things and name.lower().split()[-1] not in things:
            return f'"{name}" is not among what the classifier learned from: {", ".join(things)}'
    if set(places[0]) & set(places[1]):
        return "the text encoder has the words of both in one token"
    return None


def not_steered(understood, first=0) -> list[str]:
    """A line for each thing that is not steered to; first: number of the first prompt."""
    return [
        f"prompt {row + 1}: not steered: {''.join(c if c.isprintable() else '?' for c in note)}"
        for row, one in enumerate(understood, first)
        for note in one.notes
    ]


def arrays(understood: list[Understood], length: int, most: int) -> Asked:
    """Asked of at most `most` relations a prompt; length: of the features."""
    asked = Asked(
        np.zeros((len(understood), 2 * most, length), np.float32),
        np.zeros((len(understood), most), np.int32),
        np.zeros((len(understood), most), bool),
    )
    for row, one in enumerate(understood):
        for r, (relation, places) in enumerate(zip(one.relations[:most], one.rows, strict=False)):
            for side, found in enumerate(places):
                asked.tokens[row, 2 * r + side, list(found)] = 1.0 / len(found)
            asked.word[row, r], asked.known[row, r] = CLASSES.index(relation.word), True
    return asked
