"""An album: captioned pictures from one place, read one by one.

FOLDER of pictures, FILE.npz or a folder of them, FILE.array_record or a folder of them, "tfds:NAME" or "tfds:NAME/SPLIT"
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from anystep.data.packs import read_packs
from anystep.data.pictures import list_folder, read_picture
from anystep.data.quarantine import Quarantine
from anystep.data.records import open_records, open_tfds
from anystep.errors import UserError

WANTED = "must be a folder of pictures, an .npz pack, an .array_record file or tfds:NAME"
CACHE = 2**30  # bytes of pictures kept after they were first read


class Album(NamedTuple):
    names: Sequence[str]  # of the pictures: their side of the dev share hangs on it
    row: Callable[[int], tuple[np.ndarray, tuple[str, ...]]]  # -> (pixels [S, S, 4] uint8, colour times alpha; captions), or UserError


def open_album(path: str, size: int, style_captions: bool, bad: Quarantine) -> Album:
    """UserError for a place that has no pictures; pictures and captions that are not in order go to `bad`."""
    if path.startswith("tfds:"):
        album = _of_records(path, open_tfds(path.removeprefix("tfds:"), size), bad)
    else:
        place = epath.Path(path) if path else None
        if place is None or not place.exists():
            raise UserError(f"data.path = {path!r}: {WANTED}")
        inside = [place] if not place.is_dir() else sorted(place.iterdir())
        packs, records = ([file for file in inside if file.suffix == suffix] for suffix in (".npz", ".array_record"))
        if packs:
            album = _of_packs(packs, size, style_captions)
        elif records:
            album = _of_records(path, open_records(records, size), bad)
        elif not place.is_dir():
            raise UserError(f"data.path = {path!r}: {WANTED}")
        else:
            album = _of_files(place, size, bad)
    if style_captions and (path.startswith("tfds:") or not packs):
        raise UserError("data.style_captions = True: only packs know the style of a picture")
    return album


def _of_records(path, opened, bad):
    count, row = opened
    bad.expect(count)
    return Album([f"{path.rstrip('/').rpartition('/')[2]}:{index}" for index in range(count)], row)


def _of_packs(packs, size, style_captions):
    arrays, captions = read_packs(packs, size, style_captions)
    names = [row[0].rpartition(", ")[0] if style_captions else row[0] for row in captions]  # one caption, one side of the split
    return Album(names, lambda index: (arrays[index], captions[index]))


def _of_files(folder, size, bad):
    listed, wrong = list_folder(folder)
    bad.expect(len(listed) + len(wrong))
    for where, why in wrong:
        bad.add(where, why)
    names, captions = [name for name, _ in listed], [found for _, found in listed]
    keep = len(names) * size * size * 4 <= CACHE
    store, done = np.zeros((len(names) if keep else 0, size, size, 4), np.uint8), np.zeros(len(names), bool)

    def row(index):
        if done[index]:
            return store[index], captions[index]
        pixels = read_picture(folder / names[index], size)
        if keep:
            store[index] = pixels
            done[index] = True  # after the bytes: another thread may look
        return pixels, captions[index]

    return Album(names, row)
