"""The words that a classifier knows, labels from boxes, and the symmetries that carry one labelled pair of maps into eight.

    exchange the two objects   left <-> right, above <-> below
    mirror columns             left <-> right
    mirror rows                above <-> below

The paper has a fifth class "is" (an attribute, "a white dog"); ours is "none": an object is missing, or none of the four holds. On a
diagonal two of the four hold.
"""

import itertools

import jax.numpy as jnp
import numpy as np

from anystep.positions import relations

WORDS = ("left", "right", "above", "below")  # what can be steered to
CLASSES = (*WORDS, "none")
PHRASES = {"left of": "left", "right of": "right", "above": "above", "below": "below"}  # of `positions`
EXCHANGED, COLUMNS, ROWS = np.array([1, 0, 3, 2, 4]), np.array([1, 0, 2, 3, 4]), np.array([0, 1, 3, 2, 4])
GROUP = 8


def label_of(boxes_a, boxes_b) -> np.ndarray:
    """[5] of 0 and 1: which hold, by GenEval's rule, between one of the boxes of either object ([] for one that was not found)."""
    held = set().union(*(relations(a, b) for a in boxes_a for b in boxes_b))
    words = [PHRASES[phrase] for phrase in held] or ["none"]
    return np.array([name in words for name in CLASSES], np.float32)


def turned(maps, labels, which):
    """maps [B, 2, C, S, S] and labels [B, 5] under element `which` [B] in 0..7 of the group, bit by bit: exchange, columns, rows."""
    moves = ((lambda m: m[:, ::-1], EXCHANGED), (lambda m: m[..., ::-1], COLUMNS), (lambda m: m[..., ::-1, :], ROWS))
    for bit, (move, order) in enumerate(moves):
        on = (which >> bit) & 1 == 1
        maps = jnp.where(on[:, None, None, None, None], move(maps), maps)
        labels = jnp.where(on[:, None], labels[:, order], labels)
    return maps, labels


def noises(x):
    """[G, B, H, W, C]: x as it is first, then mirrored and, where it is square, turned. Each is as likely as x where x is noise."""
    mirrored = [x[:, :: -1 if a else 1, :: -1 if b else 1] for a, b in itertools.product((0, 1), (0, 1))]
    square = x.shape[1] == x.shape[2]
    return jnp.stack(mirrored + [y.swapaxes(1, 2) for y in mirrored] * square)
