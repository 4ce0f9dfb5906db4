"""From pixels back to a scene, without a network: analysis by synthesis with the renderer itself. Judges generated pictures exactly.

1. Ink is what lies further than INK from the paper; its connected components are the things of the picture.
2. A thing's colour is the one whose mixtures with the paper leave the least residual; it gives the coverage of each pixel.
3. Area and centre of mass of the coverage start each silhouette, Gauss-Newton on (x, y, r, gain) refines the best two.
4. The residual of a silhouette is ||coverage - gain * rendered||^2 / ||gain * rendered||^2, the share of the ink's energy left open.
   Over RESIDUAL, or over MARGIN of the second best's, or with a radius outside those of the world, a thing has no shape (None); off the
   palette, no colour.
5. The picture is explained when every thing has both, and the whole scene, painted again, differs nowhere by more than LEFTOVER.

The thresholds are as wide as renderings allow: what is clean or noisy is read right, what is blended, cut, blurred or smeared is refused
(`bench.detector` prints how often).
"""

from collections import Counter
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from anystep.errors import UserError
from anystep.positions import relations
from anystep.shapes.draw import PAPER, coverage, paint, rgb
from anystep.shapes.scene import RADII, World

INK = 0.25  # RGB distance from paper, in [0, 1]^3; colours lie 0.5 (pink) to 1.4 (black) from it
SPECK = 0.3  # a thing with less ink than this share of the smallest object is no object (it may still leave the picture unexplained)
PALETTE = 0.16  # largest RGB distance of a thing's colour from the line through paper and the named one
STRENGTH = 0.75  # a thing has a colour when it holds this share of its distance from the paper; a blend of two pictures holds half
MIXED = 0.1  # and at most this share of the ink's energy is not of that colour
RESIDUAL = 0.16  # one default silhouette leaves at least 0.168 of another open
MARGIN = 0.6  # and at most this share of what the second best leaves: a picture between two silhouettes is neither
RADIUS = (0.85 * min(low for low, _ in RADII.values()), 1.15 * max(high for _, high in RADII.values()))
LEFTOVER = 0.03  # squared RGB length of a 3x3 mean of the difference, so that noise averages out and a blot does not
CROWD = 8  # with more things than this nothing is where it was asked
STEPS = 3
NUDGE = np.array([[0.0, 0.0, 0.0], [0.05, 0.0, 0.0], [0.0, 0.05, 0.0], [0.0, 0.0, 0.05]])  # finite differences, in pixels


class Detection(NamedTuple):
    """A thing in the picture. shape or color is None when no silhouette or no palette colour explains it."""

    shape: str | None
    color: str | None
    box: tuple[float, float, float, float]  # (x0, y0, x1, y1) in units of the side, y down; of the ink alone when shape is None
    residual: float  # of the best silhouette


class Seen(NamedTuple):
    """All detections, and whether they account for the whole picture."""

    objects: list[Detection]
    explained: bool


def detect(image: np.ndarray, world: World) -> Seen:
    """The objects of a square picture, uint8 or float in [-1, 1], [H, W, 3], H >= 16. Values that are not finite count as unexplained."""
    picture = _unit(image)
    if not np.isfinite(picture).all():
        return Seen([], False)
    size = picture.shape[0]
    off_paper = picture - PAPER
    labels, n = ndimage.label(_inked(off_paper), np.ones((3, 3)))
    things = [_thing(off_paper, labels, i, where, world) for i, where in enumerate(ndimage.find_objects(labels, n), 1)]
    things = [thing for thing in things if thing is not None]
    found = [found for found, _ in things]
    if any(thing.shape is None or thing.color is None for thing in found):
        return Seen(found, False)
    left = ndimage.uniform_filter(picture - paint([model for _, model in things], size), (3, 3, 1), mode="nearest")
    return Seen(found, bool((left**2).sum(-1).max() < LEFTOVER))


def foreground(image: np.ndarray) -> np.ndarray:
    """Where a picture, as `detect` takes it, has ink: bool [H, W]."""
    return _inked(_unit(image) - PAPER)


def _inked(off_paper: np.ndarray) -> np.ndarray:
    return (off_paper**2).sum(-1) > INK**2


def _unit(image: np.ndarray) -> np.ndarray:
    """[0, 1] float64."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[0] < 16 or image.shape[2] != 3:
        raise UserError(f"image of shape {image.shape}: must be [H, H, 3] with H >= 16")
    if image.dtype == np.uint8:
        return image / 255.0
    return (np.clip(image.astype(np.float64), -1.0, 1.0) + 1.0) / 2.0


@lru_cache
def _moments(shape: str) -> tuple[float, float, float]:
    """Area and centre of mass of the silhouette of radius 1."""
    grid = np.arange(256)
    ink = coverage(shape, 128.0, 128.0, 120.0, grid, grid)
    area = ink.sum()
    x, y = (ink.sum(0) @ (grid + 0.5)) / area, (ink.sum(1) @ (grid + 0.5)) / area
    return area / 120.0**2, (x - 128.0) / 120.0, (y - 128.0) / 120.0


def _thing(off_paper: np.ndarray, labels: np.ndarray, label: int, where, world: World):
    """(Detection, its `paint` tuple) of one component, or None for a speck. off_paper [H, W, 3] is the picture less the paper."""
    size = labels.shape[0]
    rows, columns = (slice(max(w.start - 2, 0), min(w.stop + 2, size)) for w in where)
    labels = labels[rows, columns]
    own = ndimage.binary_dilation(labels == label, np.ones((3, 3)))
    mask = own | ~ndimage.binary_dilation((labels != label) & (labels != 0), np.ones((3, 3)))  # all but the neighbours
    ink = off_paper[rows, columns] * mask[..., None]
    color = min(world.colors, key=lambda name: _mixture_residual(ink, rgb(name) - PAPER))
    contrast = rgb(color) - PAPER
    share = ink @ contrast / (contrast @ contrast)
    inner = share * own
    area = inner.sum()
    if area < SPECK * min(_moments(shape)[0] for shape in world.shapes) * (RADIUS[0] * size) ** 2:
        return None
    columns, rows = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)
    center = inner.sum(0) @ (columns + 0.5) / area, inner.sum(1) @ (rows + 0.5) / area

    def start(shape: str) -> np.ndarray:
        unit, dx, dy = _moments(shape)
        r = np.sqrt(area / unit)
        return np.array([center[0] - dx * r, center[1] - dy * r, r])

    starts = {shape: start(shape) for shape in world.shapes}
    order = sorted(world.shapes, key=lambda shape: _fit(shape, starts[shape], share, mask, columns, rows, 0)[0])
    fits = {shape: _fit(shape, starts[shape], share, mask, columns, rows, STEPS) for shape in order[:2]}
    shape = min(fits, key=lambda shape: fits[shape][0])
    residual, (x, y, r), rendered = fits[shape]
    second = max(fit[0] for fit in fits.values())
    x, y, r = float(x / size), float(y / size), float(r / size)
    if residual > RESIDUAL or residual > MARGIN * second or not RADIUS[0] <= r <= RADIUS[1]:
        if share[own].max() < STRENGTH or _mixture_residual(ink, contrast) > MIXED * (ink**2).sum():
            color = None
        box = where[1].start / size, where[0].start / size, where[1].stop / size, where[0].stop / size
        return Detection(None, color, box, residual), None
    seen = PAPER + np.tensordot(rendered, ink, 2) / (rendered**2).sum()
    strength = (seen - PAPER) @ contrast / (contrast @ contrast)
    aside = seen - PAPER - strength * contrast
    if not STRENGTH <= strength <= 1.0 / STRENGTH or (aside**2).sum() > PALETTE**2:
        color = None
    return Detection(shape, color, (x - r, y - r, x + r, y + r), residual), (shape, seen, x, y, r)


def _mixture_residual(ink: np.ndarray, contrast: np.ndarray) -> float:
    """What is left of the ink [..., 3] when each pixel is the best mixture of paper and this colour."""
    share = np.clip(ink @ contrast / (contrast @ contrast), 0.0, 1.0)
    return ((ink - share[..., None] * contrast) ** 2).sum()


def _fit(shape: str, start: np.ndarray, share: np.ndarray, mask: np.ndarray, columns, rows, steps: int):
    """(residual, (x, y, r) in pixels, rendered coverage) after Gauss-Newton steps on (x, y, r, gain)."""
    place, best = start, None
    for step in range(steps + 1):
        x, y, r = (place + NUDGE if step < steps else place[None]).T[..., None, None]
        rendered = coverage(shape, x, y, r, columns, rows) * mask
        flat = rendered[0].ravel()
        energy = max(flat @ flat, 1e-9)
        gain = flat @ share.ravel() / energy
        rest = share.ravel() - gain * flat
        residual = float(rest @ rest / max(gain**2 * energy, 1e-9))
        if best is None or residual < best[0]:
            best = residual, tuple(place), rendered[0]
        if step < steps:
            slopes = np.concatenate([gain * (rendered[1:].reshape(3, -1) - flat) / 0.05, flat[None]])
            normal = slopes @ slopes.T
            move = np.linalg.solve(normal + 1e-3 * np.diag(np.diag(normal)) + 1e-9 * np.eye(4), slopes @ rest)
            place = place + np.clip(move[:3], -1.0, 1.0)
            place[2] = max(place[2], 1.0)
    return best


def judge(image: np.ndarray, metadata: dict, world: World) -> dict[str, bool]:
    """Whether the picture shows what the prompt's metadata asks for, and nothing else. Raises UserError for names the world does not have.

    correct: explained, and the objects match the request one to one in shape, colour (where named), number and place.
    objects: each asked shape is there (when counting, at least once).
    colors: all the asked objects are there in their colours; there may be more.
    count: each asked shape as often as asked, and no other thing.
    position: the asked objects are there, of whatever colour, and in their relation; there may be more.
    joint: as correct but with any silhouette, explained or not.
    """
    slots = _slots(metadata, world)
    seen, explained = detect(image, world)
    shapes = Counter(thing.shape for thing in seen)
    asked = Counter(slot["class"] for slot in slots)
    # One-to-one assignments of detections to what was asked; colour, shape and place are then properties of an assignment.
    ways = list(permutations(seen, len(slots))) if len(seen) <= CROWD else []

    def some(*tests) -> bool:
        return any(all(test(way, slots) for test in tests) for way in ways)

    exact = len(seen) == len(slots)
    return {
        "correct": explained and exact and some(_shapes_fit, _colors_fit, _places_fit),
        "objects": all(shapes[shape] >= min(n, 1 if metadata["tag"] == "counting" else n) for shape, n in asked.items()),
        "colors": some(_shapes_fit, _colors_fit),
        "count": shapes == asked,
        "position": some(_shapes_fit, _places_fit),
        "joint": exact and some(_colors_fit, _places_fit),
    }


def _slots(metadata: dict, world: World) -> list[dict]:
    """The asked objects one by one, each with its class, color or None, and (relation, slot of the reference) or None."""
    slots, first = [], []
    for entry in metadata["include"]:
        if entry["class"] not in world.shapes:
            raise UserError(f"class = {entry['class']!r}: must be among {', '.join(world.shapes)}")
        if entry.get("color", world.colors[0]) not in world.colors:
            raise UserError(f"color = {entry['color']!r}: must be among {', '.join(world.colors)}")
        position = entry.get("position")
        first.append(len(slots))
        slot = {"class": entry["class"], "color": entry.get("color"), "position": position and (position[0], first[position[1]])}
        slots += [slot] * entry["count"]
    return slots


def _shapes_fit(way, slots) -> bool:
    return all(thing.shape == slot["class"] for thing, slot in zip(way, slots, strict=True))


def _colors_fit(way, slots) -> bool:
    return all(thing.color == (slot["color"] or thing.color) and thing.color is not None for thing, slot in zip(way, slots, strict=True))


def _places_fit(way, slots) -> bool:
    wanted = [(thing, *slot["position"]) for thing, slot in zip(way, slots, strict=True) if slot["position"]]
    return all(relation in relations(thing.box, way[reference].box) for thing, relation, reference in wanted)
