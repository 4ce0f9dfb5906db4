"""Scenes: which objects, of which colour, where, and how they stand to each other. No pixels and no words here.

A scene is a pure function of (seed, index), so the stream is infinite and can be entered anywhere. The six kinds are GenEval's tags
(Ghosh et al. 2023). Lengths are in units of the picture's side, y down, so one scene renders at every size >= 16. Objects are enclosed
in their boxes [x - r, x + r] x [y - r, y + r], which neither touch each other nor leave the picture.

Held out: a hash of the canonical scene (sorted "color shape" words; neither kind nor places nor relation) decides between train, dev and
test, so that no training picture of any kind shows exactly a held-out combination.
"""

import zlib
from typing import NamedTuple

import numpy as np

from anystep.errors import UserError
from anystep.positions import offset
from anystep.shapes.silhouette import COLORS, SILHOUETTES

KINDS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
LISTED = ("two_object", "color_attr")  # told as "A and B"
RELATIONS = ("left of", "right of", "above", "below")
SPLITS = ("train", "dev", "test")

RADII = {1: (2.7 / 16, 3.4 / 16), 2: (2.7 / 16, 3.2 / 16), 3: (2.4 / 16, 2.8 / 16), 4: (2.4 / 16, 2.6 / 16)}  # by number of objects
GAP = 1.8 / 16  # between boxes: at 16 pixels a line of pixels with at most a tenth of ink survives the antialiasing
EDGE = 0.3 / 16  # between box and picture edge
CLEAR = 0.75  # GenEval's rule asks for 0.5; what the shrinking takes away keeps the other axis below that, so one relation is true
TRIES = 2000
CHAIN = 4096  # places looked at in one try for a chain; four objects are apart in one of 2,000
PAIRS = {n: np.triu_indices(n, 1) for n in RADII}  # of objects whose boxes must keep their distance


class World(NamedTuple):
    """What there is to draw and how it is described. `check` it once at the door."""

    size: int = 16
    shapes: tuple[str, ...] = tuple(SILHOUETTES)[:4]
    colors: tuple[str, ...] = tuple(COLORS)[:6]
    max_objects: int = 3
    color_words: float = 1.0  # share of two_object, counting and position captions that name the colours
    wrong_relation: float = 0.0  # share of position captions with another relation than the picture's
    missing_relation: float = 0.0  # share of position captions with "and" in the relation's place
    chain: int = 1  # relations of a position scene at most: above 1 some have three or four objects, each in a relation to the next


class Object(NamedTuple):
    """A silhouette of radius r at (x, y), in units of the picture's side."""

    shape: str
    color: str
    x: float
    y: float
    r: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1), the square of side 2r."""
        return self.x - self.r, self.y - self.r, self.x + self.r, self.y + self.r


class Scene(NamedTuple):
    """Objects in the order in which a caption names them: objects[0] is `relation` objects[1] (None outside "position"), which is then[0]
    objects[2] and so on. No two things and no two relations of a chain are the same."""

    kind: str
    objects: tuple[Object, ...]
    relation: str | None = None
    then: tuple[str, ...] = ()

    @property
    def relations(self) -> tuple[str, ...]:
        return (self.relation, *self.then) if self.relation else ()


def check(world: World) -> World:
    """The world with tuples for lists. Raises UserError for sizes, names and shares out of range."""
    world = world._replace(shapes=tuple(world.shapes), colors=tuple(world.colors))
    if not isinstance(world.size, int) or world.size < 16:
        raise UserError(f"world.size = {world.size!r}: must be an integer >= 16")
    for field, names, known in (("shapes", world.shapes, SILHOUETTES), ("colors", world.colors, COLORS)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(f"world.{field} = {unknown[0]!r}: must be among {', '.join(known)}")
        if len(set(names)) != len(names) or len(names) < 2:
            raise UserError(f"world.{field} = {names}: must be two or more different names")
    if world.max_objects not in (2, 3):
        raise UserError(f"world.max_objects = {world.max_objects!r}: must be 2 or 3")
    if world.chain not in range(1, min(3, len(world.shapes) - 1) + 1):
        raise UserError(f"world.chain = {world.chain!r}: must be 1 to 3, and less than the number of shapes")
    for field in ("color_words", "wrong_relation", "missing_relation"):
        share = getattr(world, field)
        if not 0.0 <= share <= 1.0:
            raise UserError(f"world.{field} = {share!r}: must be in [0, 1]")
    both = world.wrong_relation + world.missing_relation
    if both > 1.0:
        raise UserError(f"world.wrong_relation + world.missing_relation = {both}: must be at most 1")
    return world


def canonical(scene: Scene) -> str:
    """The scene's combination: its objects as sorted "color shape" words. Scenes that differ in kind, places or relation share it."""
    return _combination([(o.shape, o.color) for o in scene.objects])


def _combination(things) -> str:
    return ", ".join(sorted(f"{color} {shape}" for shape, color in things))


def _split_of(combination: str) -> str:
    return {0: "test", 1: "dev"}.get(zlib.crc32(combination.encode()) % 10, "train")


def split_of(scene: Scene) -> str:
    """ "test", "dev" or "train", by crc32 of the canonical scene."""
    return _split_of(canonical(scene))


def make_scene(world: World, seed: int, index: int, split: str = "train", kind: str | None = None) -> Scene:
    """Scene number `index` >= 0 of the stream `seed`, its combination in `split`; of the given kind, else of a kind drawn evenly.

    Raises UserError for an unknown kind or split, and when the world has no scene of this kind in this split.
    """
    if split not in SPLITS:
        raise UserError(f"split = {split!r}: must be among {', '.join(SPLITS)}")
    if kind is not None and kind not in KINDS:
        raise UserError(f"kind = {kind!r}: must be among {', '.join(KINDS)}")
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    kind = kind or KINDS[int(rng.random() * len(KINDS))]
    links = 1 + int(rng.random() * world.chain) if kind == "position" and world.chain > 1 else 1
    for _ in range(TRIES):
        things = _things(world, kind, rng.random(5).tolist()) if links == 1 else _different(world, links + 1, rng)
        if things is not None and _split_of(_combination(things)) == split:
            break
    else:
        extent = f"{len(world.shapes)} shapes and {len(world.colors)} colors"
        raise UserError(f"split = {split!r}: a world of {extent} has no {kind!r} scene in it")
    if links > 1:
        return place_chain(things, None, rng)
    relation = RELATIONS[int(rng.random() * len(RELATIONS))] if kind == "position" else None
    scene = place(kind, things, relation, rng)
    return scene._replace(objects=reading_order(scene.objects)) if kind in LISTED else scene


def place(kind: str, things: list[tuple[str, str]], relation: str | None, rng: np.random.Generator) -> Scene:
    """A scene of (shape, color) at drawn places and sizes."""
    places = _places(rng, len(things), relation)
    return Scene(kind, tuple(Object(*thing, *place) for thing, place in zip(things, places, strict=True)), relation)


def place_chain(things: list[tuple[str, str]], relations: tuple[str, ...] | None, rng: np.random.Generator) -> Scene:
    """A position scene of three or four (shape, color), each in a relation to the next: those that are given, or any that all differ."""
    for _ in range(TRIES):
        for places in _apart(rng, len(things), CHAIN):
            held = tuple(next((word for word in RELATIONS if _clear(pair, word)), "") for pair in zip(places[:-1], places[1:], strict=True))
            if held == relations or (relations is None and _all_differ(held)):
                objects = tuple(Object(*thing, *place) for thing, place in zip(things, places, strict=True))
                return Scene("position", objects, held[0], held[1:])
    raise UserError(f"relations = {relations}: no picture can show them all")


def _all_differ(held) -> bool:
    """Four objects with a relation beside its converse have next to no room; there the middle one is across the others."""
    return all(held) and len(set(held)) == len(held) and (len(held) < 3 or (held[0] in RELATIONS[:2]) == (held[2] in RELATIONS[:2]))


def _different(world: World, n: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(shape, color) of n objects of n shapes."""
    shapes = [world.shapes[i] for i in rng.permutation(len(world.shapes))[:n]]
    return [(shape, world.colors[int(u * len(world.colors))]) for shape, u in zip(shapes, rng.random(n), strict=True)]


def _things(world: World, kind: str, u: list[float]) -> list[tuple[str, str]] | None:
    """(shape, color) of each object from uniform numbers, or None when they are no scene of this kind."""
    first, second = ((world.shapes[int(u[i] * len(world.shapes))], world.colors[int(u[i + 1] * len(world.colors))]) for i in (0, 2))
    if kind in ("single_object", "colors"):
        return [first]
    if kind == "counting":
        return [first] * (2 + int(u[4] * (world.max_objects - 1)))
    differ = 1 if kind == "color_attr" else 0  # in colour, else in shape, so that captions without colours can tell them apart
    return None if first[differ] == second[differ] else [first, second]


def reading_order(objects):
    """Two objects as a person lists them, left or upper one first, by the axis that separates them more: the order of "A and B"."""
    first, second = objects
    dx, dy = second.x - first.x, second.y - first.y
    return objects if (dx if abs(dx) > abs(dy) else dy) > 0 else (second, first)


def _places(rng: np.random.Generator, n: int, relation: str | None) -> list[tuple[float, float, float]]:
    """(x, y, r) of n objects whose boxes keep their distance, objects[0] clearly in the relation to objects[1] if there is one."""
    for _ in range(TRIES):
        for places in _apart(rng, n, 1 if n == 1 else 64):
            if relation is None or _clear(places, relation):
                return places
    raise AssertionError("no room for the objects: RADII, GAP and EDGE do not fit together")


def _apart(rng: np.random.Generator, n: int, draws: int):
    """Of so many drawn places of n objects, (x, y, r) each, those where boxes keep their distance."""
    low, high = RADII[n]
    first, second = PAIRS[n]
    u = rng.random((draws, n, 3))
    r = low + (high - low) * u[..., 2:]
    xy = r + EDGE + (1.0 - 2.0 * (r + EDGE)) * u[..., :2]
    apart = np.abs(xy[:, first] - xy[:, second]).max(-1) >= (r[:, first] + r[:, second])[..., 0] + GAP
    for row in np.nonzero(apart.all(-1))[0]:
        yield [(x, y, radius) for (x, y), (radius,) in zip(xy[row].tolist(), r[row].tolist(), strict=True)]


def _clear(places, relation: str) -> bool:
    dx, dy = offset(*[(x - r, y - r, x + r, y + r) for x, y, r in places])
    return {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation] > CLEAR
