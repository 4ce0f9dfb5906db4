"""Where samples come from: `open_source(data, split)` gives a function rows(seed, positions) -> (x0 [B, H, W, C] float32 in [-1, 1],
captions).

shapes      the shapes world, endless; nothing is shuffled because nothing repeats
pictures    a folder of pictures, an .npz pack, or a folder of packs; shuffled anew every epoch, one of a picture's captions per draw
mixture2d   points [1, 1, 2] of `modes` Gaussians on a circle, captioned "mode 0", "mode 1", ...: everything about it is known in closed
form
"""

from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from anystep.data.draws import generator, shuffled
from anystep.data.packs import read_packs
from anystep.data.pictures import composite, held_out, list_folder, read_picture
from anystep.errors import UserError
from anystep.shapes.caption import caption
from anystep.shapes.draw import draw
from anystep.shapes.scene import World, check, make_scene

Rows = Callable[[int, Sequence[int]], tuple[np.ndarray, list[str]]]
RADIUS, SPREAD = 0.7, 0.05  # of mixture2d: the circle, and the standard deviation of each Gaussian
CACHE = 2**30  # bytes of pictures kept after they were first read


def open_source(data, split: str) -> Rows:
    """`data` is the section of the config. split: "train", "dev", or for shapes also "test". UserError for what cannot be served."""
    known = {"shapes": ("train", "dev", "test"), "pictures": ("train", "dev"), "mixture2d": ("train", "dev")}
    if data.kind not in known:
        raise UserError(f"data.kind = {data.kind!r}: must be among {', '.join(known)}")
    if split not in known[data.kind]:
        raise UserError(f"split = {split!r}: {data.kind} has {', '.join(known[data.kind])}")
    return {"shapes": _shapes, "pictures": _pictures, "mixture2d": _mixture}[data.kind](data, split)


def describe(data, split: str = "train") -> dict:
    """{"shape": (H, W, C) of one sample, "pictures": how many there are in the split, None for endless}. Reads the listing of pictures, and
    packs whole."""
    if data.kind == "mixture2d":
        return {"shape": (1, 1, 2), "pictures": None}
    pictures = len(_chosen(data, _names(data)[0], split)) if data.kind == "pictures" else None
    return {"shape": (data.size, data.size, 3), "pictures": pictures}


def captions(data, n: int, split: str, seed: int) -> list[str]:
    """The captions of the first `n` samples of a split, in the order of its stream."""
    return open_source(data, split)(seed, range(n))[1]


def _shapes(data, split: str) -> Rows:
    world = check(
        World(data.size, data.shapes, data.colors, data.max_objects, data.color_words, data.wrong_relation, data.missing_relation),
    )

    def rows(seed, positions):
        scenes = [make_scene(world, seed, position, split) for position in positions]
        captions = [caption(scene, generator("caption", seed, position), world) for scene, position in zip(scenes, positions, strict=True)]
        return np.stack([draw(scene, world) for scene in scenes]).astype(np.float32) / 127.5 - 1.0, captions

    return rows


def _mixture(data, split: str) -> Rows:
    if data.modes < 1:
        raise UserError(f"data.modes = {data.modes!r}: must be >= 1")
    means = ring(data.modes)

    def rows(seed, positions):
        points, captions = np.empty((len(positions), 1, 1, 2), np.float32), []
        for row, position in enumerate(positions):
            rng = generator(f"mixture2d {split}", seed, position)
            mode = int(rng.integers(data.modes))
            points[row, 0, 0] = means[mode] + SPREAD * rng.standard_normal(2)
            captions.append(f"mode {mode}")
        return np.clip(points, -1.0, 1.0), captions  # six standard deviations: once in 10^9 points

    return rows


def ring(modes: int) -> np.ndarray:
    """Means [modes, 2] of the mixture, mode k at the angle 2 pi k / modes on the circle of radius RADIUS."""
    angle = 2.0 * np.pi * np.arange(modes) / modes
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], 1)


def _pictures(data, split: str) -> Rows:
    if data.background not in ("white", "random"):
        raise UserError(f"data.background = {data.background!r}: must be white or random")
    names, captions, pixels = _names(data)
    chosen = _chosen(data, names, split)

    def rows(seed, positions):
        which = [int(chosen[shuffled(seed, position, len(chosen))]) for position in positions]
        background = np.full((len(which), 3), 255)
        texts = []
        for row, (index, position) in enumerate(zip(which, positions, strict=True)):
            rng = generator("picture", seed, position)
            texts.append(captions[index][int(rng.integers(len(captions[index])))])
            if data.background == "random":
                background[row] = rng.integers(256, size=3)
        return composite(pixels(which), background), texts

    return rows


def _names(data):
    """(name of each picture for the dev share, its captions, indices -> [B, S, S, 4] uint8)."""
    path = epath.Path(data.path) if data.path else None
    if path is None or not path.exists():
        raise UserError(f"data.path = {data.path!r}: must be a folder of pictures or an .npz pack that exists")
    packs = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if packs:
        if not path.is_dir() and path.suffix != ".npz":
            raise UserError(f"data.path = {data.path!r}: must be a folder of pictures or an .npz pack")
        arrays, captions = read_packs(packs, data.size, data.style_captions)
        names = [row[0].rpartition(", ")[0] if data.style_captions else row[0] for row in captions]  # one caption, one side of the split
        return names, captions, arrays.__getitem__
    if data.style_captions:
        raise UserError("data.style_captions = True: only packs know the style of a picture")
    names, captions = zip(*list_folder(path), strict=True)
    return names, captions, _from_files([path / name for name in names], data.size)


def _from_files(files, size: int):
    keep = len(files) * size * size * 4 <= CACHE
    store = np.zeros((len(files) if keep else 0, size, size, 4), np.uint8)
    done = np.zeros(len(files), bool)

    def pixels(which):
        out = np.empty((len(which), size, size, 4), np.uint8)
        for row, index in enumerate(which):
            out[row] = store[index] if done[index] else read_picture(files[index], size)
            if keep and not done[index]:
                store[index] = out[row]
                done[index] = True  # after the bytes: another thread may look
        return out

    return pixels


def _chosen(data, names, split: str) -> np.ndarray:
    chosen = np.flatnonzero([held_out(name, data.dev_share) == (split == "dev") for name in names])
    if not len(chosen):
        raise UserError(f"data.dev_share = {data.dev_share}: none of the {len(names)} pictures of {data.path} is in the split {split!r}")
    return chosen
