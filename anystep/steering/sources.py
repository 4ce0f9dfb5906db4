"""What a classifier's prompts speak of: scenes of the shapes world, or pictures in files; how each stands, and what a drawing shows.

A drawing is judged as GenEval's position rule judges it: by the class of a thing, whatever its colour. `boxes(picture, names)` -> {name:
box, or boxes} finds things in a picture at the door, float32 [H, W, 3] in [-1, 1].
"""

import importlib.util
import json
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from anystep import shapes
from anystep.errors import UserError
from anystep.steering import rows as prompts
from anystep.steering.symmetry import CLASSES, WORDS, label_of


class ShapesData:
    """Position scenes of the shapes world at any size, labelled exactly; `boxes` None: what is drawn cannot be judged."""

    def __init__(self, world, seed, size, boxes=None):
        self.world, self.seed, self.size, self.boxes = world, seed, size, boxes
        self.things = tuple(world.shapes)

    def rows(self, split, n, kinds):
        return prompts.scene_rows(self.world, self.seed, -(-n // len(kinds)), split, kinds)[:n]

    def labels(self, rows):
        """[N, 5] of the scenes that the rows speak of."""
        out = []
        for row in rows:
            by_name = {name: [o.box] for o in row.shows.objects for name in (o.shape, f"{o.color} {o.shape}")}
            out.append(label_of(*(by_name[name] for name in row.names)))
        return np.stack(out)

    def pictures(self, rows):
        side = max(16, *self.size)
        return np.stack([fitted(Image.fromarray(shapes.draw(row.shows, side)), self.size) for row in rows])


class PicturesData:
    """Pictures with one known relation each, from a .jsonl file; a tenth of them, by crc32 of the names, is for dev."""

    def __init__(self, path, size, boxes=None):
        self.path, self.size, self.boxes = path, size, boxes
        try:
            self.entries = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
            good = all(
                e["relation"] in WORDS and all(isinstance(e[name], str) and e[name].strip() for name in ("image", "subject", "object"))
                for e in self.entries
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--data {str(path)!r}: {type(error).__name__} ({error})") from None
        if not good or not self.entries:
            raise UserError(f"--data {str(path)!r}: needs image, subject, relation ({', '.join(WORDS)}) and object in every line")
        if missing := [e["image"] for e in self.entries if not (path.parent / e["image"]).is_file()]:
            raise UserError(f"--data {str(path)!r}: no file {missing[0]!r} beside it")
        names = {e[side].lower().split()[-1] for e in self.entries for side in ("subject", "object")}
        self.things = tuple(sorted(names)) if len(names) <= 200 else ()

    def rows(self, split, n, kinds):
        held = [zlib.crc32(e["image"].encode()) % 10 == 1 for e in self.entries]
        here = [e for e, dev in zip(self.entries, held, strict=True) if dev == (split == "dev")]
        if not here:
            raise UserError(f"--data {str(self.path)!r}: {len(held)} pictures leave none for {split}")
        return prompts.picture_rows(here, 0, kinds)[:n]

    def labels(self, rows):
        return np.eye(len(CLASSES), dtype=np.float32)[[CLASSES.index(row.shows["relation"]) for row in rows]]

    def pictures(self, rows):
        return np.stack([fitted(opened(self.path.parent / row.shows["image"]), self.size) for row in rows])


def opened(path, flag="--data"):
    try:
        return Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{flag}: {str(path)!r} is no picture ({type(error).__name__})") from None


def fitted(picture, size):
    """float32 [H, W, 3] in [-1, 1]."""
    picture = picture if picture.size == size[::-1] else picture.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture, np.float32) / 127.5 - 1.0


def world_of(config):
    """The world that a model learned from, with true captions of one relation; the default one for others."""
    if config is None or config.data.kind != "shapes":
        return shapes.World()
    world = shapes.World(**{name: config.data[name] for name in shapes.World._fields})
    return world._replace(wrong_relation=0.0, missing_relation=0.0, chain=1)


def boxes_in_shapes(world):
    """`boxes` by the exact detector: all things of the shape that is a name's last word."""

    def boxes(picture, names):
        seen = shapes.detect(picture, world).objects
        return {name: [thing.box for thing in seen if thing.shape == name.split()[-1]] for name in names}

    return boxes


def boxes_of(path):
    """The function `boxes` of a Python file, None for no path. UserError for a file that has none."""
    if not path:
        return None
    spec = importlib.util.spec_from_file_location("boxes", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001  a stranger's code
        raise UserError(f"--boxes {path!r}: {type(error).__name__} ({error})") from None
    if not callable(getattr(module, "boxes", None)):
        raise UserError(f"--boxes {path!r}: has no function boxes(picture, names)")
    return module.boxes


def labels_of_pictures(pictures, rows, boxes):
    """[N, 5] of what the pictures show. UserError for a `boxes` that fails or gives something else."""
    out = []
    for picture, row in zip(pictures, rows, strict=True):
        try:
            found = boxes(picture, list(row.names))
            out.append(label_of(*(several(found.get(name)) for name in row.names)))
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  a stranger's code
            raise UserError(f"--boxes: boxes(picture, {list(row.names)}) failed: {type(error).__name__} ({error})") from None
    return np.stack(out)


def several(found):
    """None, a box or several -> a list of boxes of four numbers."""
    boxes = np.asarray([] if found is None else found, np.float64).reshape(-1, 4)
    return boxes.tolist()
