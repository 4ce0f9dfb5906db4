"""Where samples come from: `open_source(data, split)` gives a function rows(seed, positions) -> (x0 [B, H, W, C] float32 in [-1, 1],
captions).

shapes      the shapes world, endless; nothing is shuffled because nothing repeats
pictures    one album or several, mixed by weight (see `albums`); shuffled anew every epoch, one of a picture's captions per draw
store       the same pictures in the same order, as `anystep encode` wrote them down: latents, or pixels
mixture2d   points [1, 1, 2] of `modes` Gaussians on a circle, captioned "mode 0", "mode 1", ...: everything about it is known in closed
form
"""

from collections.abc import Callable, Sequence

import numpy as np

from anystep.data.albums import WANTED, Album, open_album
from anystep.data.draws import generator, shuffled
from anystep.data.pictures import composite, held_out, held_out_crc
from anystep.data.quarantine import Quarantine
from anystep.errors import UserError
from anystep.shapes.caption import caption
from anystep.shapes.draw import draw
from anystep.shapes.scene import World, check, make_scene
from anystep.stores import Store, check_made_with, verify

Rows = Callable[[int, Sequence[int]], tuple[np.ndarray, list[str]]]
RADIUS, SPREAD = 0.7, 0.05  # of mixture2d: the circle, and the standard deviation of each Gaussian
TRIES = 100  # pictures in the place of one that cannot be read


def open_source(data, split: str, quarantine=None, processes: int = 1) -> Rows:
    """`data` is the section of the config. split: "train", "dev", or for shapes also "test". What cannot be read is noted in the file
    `quarantine`; each of several processes may find its part of config.data.most_bad. UserError for what cannot be served."""
    known = {"shapes": ("train", "dev", "test"), "pictures": ("train", "dev"), "store": ("train", "dev"), "mixture2d": ("train", "dev")}
    if data.kind not in known:
        raise UserError(f"data.kind = {data.kind!r}: must be among {', '.join(known)}")
    if split not in known[data.kind]:
        raise UserError(f"split = {split!r}: {data.kind} has {', '.join(known[data.kind])}")
    if data.kind == "pictures":
        return _pictures(data, split, Quarantine(data.most_bad / processes, quarantine))
    return {"shapes": _shapes, "store": _store, "mixture2d": _mixture}[data.kind](data, split)


def describe(data, split: str = "train") -> dict:
    """{"shape": (H, W, C) of one sample, "pictures": how many there are in the split, None for endless}. Reads the listing of pictures,
    packs whole, and stores as far as config.data.verify says."""
    if data.kind == "mixture2d":
        return {"shape": (1, 1, 2), "pictures": None}
    if data.kind == "store":
        verify(data.path, data.verify)
        store = Store(data.path)
        for what in ("text", "autoencoder"):
            if data.pipeline and store.index["made_with"][what]:
                check_made_with(store.folder, store.index, what, data.pipeline, "config.data.pipeline")
        if data.autoencoder:
            check_made_with(store.folder, store.index, "autoencoder", data.autoencoder, "config.data.autoencoder")
        return {"shape": tuple(store.index["picture"]["shape"]), "pictures": sum(map(len, _parts(data, store, split)))}
    if data.kind != "pictures":
        return {"shape": (data.size, data.size, 3), "pictures": None}
    albums = _albums(data, Quarantine(data.most_bad))
    return {"shape": (data.size, data.size, 3), "pictures": sum(len(_chosen(data, album.names, split)) for album in albums)}


def captions(data, n: int, split: str, seed: int) -> list[str]:
    """The captions of the first `n` samples of a split, in the order of its stream."""
    return open_source(data, split)(seed, range(n))[1]


def _shapes(data, split: str) -> Rows:
    world = check(World(*(getattr(data, name) for name in World._fields)))

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


def _pictures(data, split: str, bad: Quarantine) -> Rows:
    if data.background not in ("white", "random"):
        raise UserError(f"data.background = {data.background!r}: must be white or random")
    albums = _albums(data, bad)
    chosen = [_chosen(data, album.names, split) for album in albums]

    def row(seed, position):
        """A picture that can be read: where one cannot, another of its album is drawn."""
        which, index = _pick(data, chosen, seed, position)
        album, indices, instead = albums[which], chosen[which], generator("instead", seed, position)
        for _ in range(TRIES):
            try:
                return album.row(index)
            except UserError as why:
                bad.add(f"{data.path[which]}: {album.names[index]}", why)
                index = int(indices[int(instead.integers(len(indices)))])
        raise UserError(f"data.path: {TRIES} pictures in a row cannot be read")

    def rows(seed, positions):
        found = [row(seed, position) for position in positions]
        background, texts = np.full((len(found), 3), 255), []
        for number, ((_, captions), position) in enumerate(zip(found, positions, strict=True)):
            rng = generator("picture", seed, position)
            texts.append(captions[int(rng.integers(len(captions)))])
            if data.background == "random":
                background[number] = rng.integers(256, size=3)
        return composite(np.stack([pixels for pixels, _ in found]), background), texts

    return rows


def _pick(data, chosen, seed: int, position: int) -> tuple[int, int]:
    """(which album, which of its pictures) sample `position` is; `chosen`: the pictures of the split, album by album."""
    ends = np.cumsum(np.array(data.weights, np.float64)) / np.sum(data.weights)
    which = int(np.searchsorted(ends, generator("album", seed, position).random(), side="right")) if len(chosen) > 1 else 0
    return which, int(chosen[which][shuffled(seed, position, len(chosen[which]))])


def _store(data, split: str) -> Rows:
    store = Store(data.path)
    chosen, pixels = _parts(data, store, split), store.index["picture"]["kind"] == "pixels"

    def rows(seed, positions):
        arrays, texts = [], []
        for position in positions:
            found, captions = store.picture(_pick(data, chosen, seed, position)[1])
            x0 = found[0].astype(np.float32)
            if len(found) == 2:  # another draw of the autoencoder's own distribution at every visit
                x0 += found[1].astype(np.float32) * generator("latent", seed, position).standard_normal(x0.shape, np.float32)
            arrays.append(x0)
            texts.append(captions[int(generator("picture", seed, position).integers(len(captions)))])
        x0 = np.stack(arrays)
        return x0 / 127.5 - 1.0 if pixels else x0, texts

    return rows


def _parts(data, store: Store, split: str) -> list[np.ndarray]:
    """The pictures of the split, source by source."""
    if data.key and data.key != store.index["key"]:
        raise UserError(f"config.data.path = {data.path!r}: is not the store that this run or model was trained on, its key is another")
    dev, first, found = held_out_crc(store.names, data.dev_share), 0, []
    for count in store.index["albums"]:
        found.append(first + np.flatnonzero(dev[first : first + count] == (split == "dev")))
        first += count
    if not all(map(len, found)):
        raise UserError(f"data.dev_share = {data.dev_share}: none of the {len(dev)} pictures of {data.path} is in the split {split!r}")
    return found


def _albums(data, bad: Quarantine) -> list[Album]:
    if not data.path:
        raise UserError(f"data.path = (): {WANTED}, or several of them")
    if len(data.weights) != len(data.path):
        raise UserError(f"data.weights = {tuple(data.weights)}: must be {len(data.path)} numbers, one for each of data.path")
    return [open_album(path, data.size, data.style_captions, bad) for path in data.path]


def _chosen(data, names, split: str) -> np.ndarray:
    chosen = np.flatnonzero([held_out(name, data.dev_share) == (split == "dev") for name in names])
    if not len(chosen):
        where = ", ".join(data.path)
        raise UserError(f"data.dev_share = {data.dev_share}: none of the {len(names)} pictures of {where} is in the split {split!r}")
    return chosen
