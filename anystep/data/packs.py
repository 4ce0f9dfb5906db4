"""Packs: an .npz of pictures of one size, with captions in it or in a .jsonl of the same name beside it. Or a folder of packs, read as one.

- Pictures: every uint8 array [N, H, W, 3 or 4] is a candidate (images, images64, rgba64, ...); the one whose height is nearest to the asked
  size is taken, the larger of two. Four channels mean colour and alpha, not multiplied.
- Captions: the first of text, captions, caption, name, object; one text a row, or [N, k] with "" for none. Else one JSON object a line in
  the .jsonl, with the same keys; if both files have an id, the ids must agree.
- Style, wanted only for `style_captions`: the array `style`, else the pack's own name after its last "_": emoji_noto.npz draws in the style
  "noto".
"""

import zipfile

import numpy as np
from etils import epath
from PIL import Image

from anystep.data.pictures import CAPTIONS, captions_of, check_size, clean, read_jsonl, square
from anystep.errors import UserError

Pack = tuple[np.ndarray, list[tuple[str, ...]]]


def read_packs(paths, size: int, style_captions: bool) -> Pack:
    """(pictures [N, size, size, 4] uint8 with colour multiplied by alpha, captions of each) of all packs together."""
    packs = [_read(epath.Path(path), size, style_captions) for path in paths]
    return np.concatenate([pixels for pixels, _ in packs]), [captions for _, rows in packs for captions in rows]


def _read(path, size: int, style_captions: bool) -> Pack:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as pack:
            pixels = _pictures(path, pack, size)
            captions = _captions(path, pack, len(pixels))
            styles = pack["style"].tolist() if "style" in pack.files else [path.stem.rpartition("_")[2]] * len(pixels)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a readable .npz of plain arrays ({' '.join(str(error).split())[:200]})") from None
    if style_captions:
        if len(styles) != len(pixels):
            raise UserError(f"{path}: {len(pixels)} pictures but {len(styles)} styles")
        captions = [tuple(f"{caption}, {style}" for caption in row) for row, style in zip(captions, styles, strict=True)]
    return pixels, captions


def _pictures(path, pack, size: int) -> np.ndarray:
    sizes = {}
    for name in pack.files:
        if name.startswith(("images", "rgba")):
            array = pack[name]
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (3, 4) or 0 in array.shape:
                raise UserError(f"{path}: {name} is {array.dtype} {list(array.shape)}, must be uint8 [N, H, W, 3 or 4]")
            sizes[name] = array
    if not sizes:
        raise UserError(f"{path}: no pictures; expected a uint8 array [N, H, W, 3 or 4] called images, images64, rgba64, ...")
    nearest = sizes[min(sizes, key=lambda name: (abs(sizes[name].shape[1] - size), -sizes[name].shape[1]))]
    check_size(path, nearest.shape[2:0:-1])
    if nearest.shape[1:] == (size, size, 3):
        return np.concatenate([nearest, np.full((*nearest.shape[:3], 1), 255, np.uint8)], 3)
    return np.stack([square(Image.fromarray(picture), size) for picture in nearest])


def _captions(path, pack, count: int) -> list[tuple[str, ...]]:
    beside = path.with_suffix(".jsonl")
    name = next((name for name in CAPTIONS if name in pack.files), None)
    if name:
        texts = pack[name]
        if texts.dtype.kind not in "US" or texts.ndim not in (1, 2):
            raise UserError(f"{path}: {name} is {texts.dtype} {list(texts.shape)}, must be texts, [N] or [N, k]")
        texts = np.char.decode(texts, "utf-8", "replace") if texts.dtype.kind == "S" else texts
        captions = [tuple(filter(None, map(clean, row))) for row in texts.reshape(len(texts), -1).tolist()]
    elif beside.exists():
        captions = _beside(beside, pack)
    else:
        raise UserError(f"{path}: no captions; expected an array called {', '.join(CAPTIONS)}, or {beside.name} beside it")
    if len(captions) != count:
        raise UserError(f"{path}: {count} pictures but captions for {len(captions)}")
    empty = next((row for row, found in enumerate(captions) if not found), None)
    if empty is not None:
        raise UserError(f"{path}: picture {empty} has no caption")
    return captions


def _beside(path, pack) -> list[tuple[str, ...]]:
    rows = list(read_jsonl(path))
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: must be a JSON object")
    if "id" in pack.files and all("id" in row for _, row in rows) and [row["id"] for _, row in rows] != pack["id"].tolist():
        raise UserError(f"{path}: its ids are not those of the pack")
    return [captions_of(row, f"{path}:{number}") for number, row in rows]
