"""How two benchmarks judge where detected things stand: pure functions of boxes, no detector here.

A box is (x0, y0, x1, y1), y down. `relations` and `geneval` follow GenEval (djghosh13/geneval, evaluate_images.py), `t2i_position` and
`t2i_compbench` T2I-CompBench (Karine-Huang/T2I-CompBench, 2D_spatial_eval.py), `all_hold` the multi-relation benchmark of Learn-to-Steer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Box = Sequence[float]

CONFIDENCE, COUNTING_CONFIDENCE, MOST = 0.3, 0.9, 16  # GenEval: a detection counts above it; so many of a class
SHRINK, REACH = 0.1, 0.5  # GenEval: share of both sizes taken off an offset; what is left must exceed this share of the offset
SEEN, SIDE = 0.5, 479.0  # T2I-CompBench: lowest score of a detection; pixels of the shorter side to which its pictures are resized
NEAR, OVERLAP = 150.0 / SIDE, 0.1  # "near" within this share of the shorter side; IoU from which a direction loses


class Detection(NamedTuple):
    """A thing that a detector found: its box, its class and the confidence in [0, 1]."""

    box: Box
    name: str
    confidence: float


def relations(box_a: Box, box_b: Box) -> set[str]:
    """The relations in which A stands to B: empty, one, or two on a diagonal.

    GenEval's rule (`relative_position`), in pixels or in shares of the side: the offset of the centres, shrunk per axis by a tenth of both
    sizes, over its own length before shrinking, must exceed 0.5. Offsets below 1e-3 of the boxes' unit are none.
    """
    dx, dy = offset(box_a, box_b)
    held = {"left of": dx < -REACH, "right of": dx > REACH, "above": dy < -REACH, "below": dy > REACH}
    return {name for name, holds in held.items() if holds}


def offset(a: Box, b: Box) -> tuple[float, float]:
    """Of A from B as `relations` weighs it: (dx, dy) in [-1, 1], y down."""
    between = ((a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2)
    sizes = (a[2] - a[0] + b[2] - b[0], a[3] - a[1] + b[3] - b[1])
    shrunk = [math.copysign(max(abs(o) - SHRINK * s, 0.0), o) for o, s in zip(between, sizes, strict=True)]
    if max(abs(shrunk[0]), abs(shrunk[1])) < 1e-3:
        return 0.0, 0.0
    length = math.hypot(*between)
    return shrunk[0] / length, shrunk[1] / length


def geneval(detections: Sequence[Detection], asked: Mapping) -> bool:
    """Whether a picture is right for a row of GenEval's metadata: counts, positions, `exclude`.

    Only detections above 0.3 (0.9 for the tag "counting") count, the 16 surest of a class; of these the `count` surest must be there, and
    for a position each of them stands so to each of its reference's, which must itself be right. Raises ValueError for a "color": that
    takes the pixels.
    """
    least = COUNTING_CONFIDENCE if asked.get("tag") == "counting" else CONFIDENCE
    found: dict[str, list[Box]] = {}
    for thing in sorted(detections, key=lambda thing: -thing.confidence):
        if thing.confidence > least and len(found.setdefault(thing.name, [])) < MOST:
            found[thing.name].append(thing.box)
    groups: list[list[Box] | None] = []
    for entry in asked["include"]:
        if "color" in entry:
            raise ValueError(f"color = {entry['color']!r}: boxes do not tell")
        boxes = found.get(entry["class"], [])[: entry["count"]]
        right = len(boxes) == entry["count"]
        if right and "position" in entry:
            word, index = entry["position"]
            right = groups[index] is not None and all(word in relations(a, b) for a in boxes for b in groups[index])
        groups.append(boxes if right else None)
    too_many = any(len(found.get(entry["class"], [])) >= entry["count"] for entry in asked.get("exclude", []))
    return None not in groups and not too_many


def t2i_position(word: str, box_a: Box, box_b: Box, side: float = SIDE) -> float:
    """The position score in [0, 1] of "A `word` B", word "left", "right", "above", "below" or "near"; boxes in a picture whose shorter side
    is `side` long.

    A direction: 1 if the centres differ that way and more along its axis than along the other, and the IoU is below 0.1; from there
    0.1 / IoU. "near": 1 if the centres are closer than 150 of 479 pixels on *either* axis, else 150 over the larger distance. (The official
    script knows no branch for the words "on top of" and gives 0; its spatial prompts say "on the top of".) ValueError for another word.
    """
    x, y = ((box_b[i] + box_b[i + 2] - box_a[i] - box_a[i + 2]) / 2 for i in (0, 1))  # from A to B
    if word == "near":
        near = NEAR * side
        return 1.0 if abs(x) < near or abs(y) < near else near / max(abs(x), abs(y))
    ways = {"left": (x, y), "right": (-x, y), "above": (y, x), "below": (-y, x)}
    if word not in ways:
        raise ValueError(f"word = {word!r}: must be among near, {', '.join(ways)}")
    along, across = ways[word]
    if along <= abs(across):
        return 0.0
    overlap = iou(box_a, box_b)
    return 1.0 if overlap < OVERLAP else OVERLAP / overlap


def iou(a: Box, b: Box) -> float:
    """Intersection over union; 0 for two boxes without area."""
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - width * height
    return width * height / union if union else 0.0


def t2i_compbench(detections: Sequence[Detection], subject: str, word: str, reference: str, side: float = SIDE) -> float:
    """The score in {0} + [0.5, 1] of a picture for "SUBJECT word REFERENCE".

    0.25 (confidence A + confidence B) + 0.5 position score, and 0 where that is below 0.5, hence whenever a thing is missing. Of each class
    the first detection at 0.5 or more is taken, in the detector's order. Girl, boy, man and woman are looked for as "person".
    """
    first: dict[str, Detection] = {}
    for thing in detections:
        if thing.confidence >= SEEN:
            first.setdefault(thing.name, thing)
    a, b = (first.get("person" if name in ("girl", "boy", "man", "woman") else name) for name in (subject, reference))
    if a is None or b is None:
        return 0.0  # 0.25 of one confidence is below 0.5
    score = 0.25 * (a.confidence + b.confidence) + 0.5 * t2i_position(word, a.box, b.box, side)
    return score if score >= 0.5 else 0.0


def all_hold(boxes: Mapping[str, Box], triplets: Sequence[tuple[str, str, str]]) -> bool:
    """Whether every (subject, word, object) holds by GenEval's rule; `boxes` by name, a missing name is a thing not found.

    The released multi-relation score adds what it finds between the two things of each clause to one list per picture and looks the clause
    up in that list, so that "A left of B and C left of D" passes however C stands, once A is left of B. Here a clause is looked up among
    the relations of its own two boxes.
    Words are those of `anystep.relations`; ValueError for "near", which the rule does not know.
    """
    phrases = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
    unknown = [word for _, word, _ in triplets if word not in phrases]
    if unknown:
        raise ValueError(f"word = {unknown[0]!r}: must be among {', '.join(phrases)}")
    return all(a in boxes and b in boxes and phrases[word] in relations(boxes[a], boxes[b]) for a, word, b in triplets)
