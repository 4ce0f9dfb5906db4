"""One picture: from a file of any mode and size to [S, S, 4] uint8, colour multiplied by alpha. And the folders that hold them, with their
captions.

The centre square is cut out and resized by Lanczos with the colour multiplied by alpha, so that hidden colours do not bleed into edges. A
picture over a background of colour b (0 to 255) is then rgb + (255 - alpha) / 255 b. Layouts: the Hugging Face imagefolder (metadata.jsonl
or metadata.csv with the columns file_name and text), or a .txt beside every picture, one caption a line. Not here: .npz packs (`packs`).
"""

import csv
import io
import json
import zlib

import numpy as np
from etils import epath
from PIL import Image, ImageOps

from anystep.errors import UserError
from anystep.files import below

SIDE, PIXELS = 8192, 64_000_000  # what a header may announce
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no EPS or PDF: those start programs
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
CAPTIONS = ("text", "captions", "caption", "name", "object")  # the first of these that is there
LENGTH = 1000  # characters of a caption


def read_picture(path, size: int | None) -> np.ndarray:
    """[size, size, 4] uint8, colour multiplied by alpha, EXIF rotation applied, of an animation the first frame. UserError names a file
    that is no picture."""
    try:
        with epath.Path(path).open("rb") as file:
            return decode(file, path, size)
    except OSError as error:
        raise UserError(f"{path}: not a readable picture ({type(error).__name__}: {error})") from None


def read_whole(path) -> np.ndarray:
    """[H, W, 3] uint8 at its own size, over white, else as `read_picture`."""
    return read_picture(path, None)


def decode(file, where, size: int | None) -> np.ndarray:
    """As `read_picture`, of an open file; `where` names it in errors. Without a size as `read_whole`."""
    try:
        with Image.open(file, formats=FORMATS) as picture:
            check_size(where, picture.size)
            found = to_rgba(ImageOps.exif_transpose(picture))
            return square(found, size) if size else on_white(found)
    except UserError:
        raise
    except Exception as error:  # decoders answer damaged bytes with nearly every type there is
        raise UserError(f"{where}: not a readable picture ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from None


def check_size(path, size: tuple[int, int]) -> None:
    """UserError for a (width, height) beyond the limits; asked before anything is decoded."""
    if max(size) > SIDE or size[0] * size[1] > PIXELS:
        raise UserError(f"{path}: {size[0]} x {size[1]} pixels, allowed are {SIDE} a side and {PIXELS} in all")


def to_rgba(picture: Image.Image) -> Image.Image:
    """RGB or RGBA of every mode Pillow reads but F (float), whose white is not known. 16-bit grey keeps its upper 8 bits."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return Image.fromarray((np.clip(np.asarray(picture).astype(np.int64), 0, 65535) >> 8).astype(np.uint8), "L").convert("RGB")
    if picture.mode == "F":
        raise ValueError("mode F (float) has no known white")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def square(picture: Image.Image, size: int) -> np.ndarray:
    """Centre square of an RGB or RGBA picture at `size`, [size, size, 4] uint8, colour multiplied by alpha."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if picture.mode == "RGBA":
        picture = picture.convert("RGBa")
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side)))
    return pixels if pixels.shape[2] == 4 else np.concatenate([pixels, np.full((size, size, 1), 255, np.uint8)], 2)


def on_white(picture: Image.Image) -> np.ndarray:
    """[H, W, 3] uint8 of an RGB or RGBA picture."""
    paper = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB"))


def composite(pixels: np.ndarray, background: np.ndarray) -> np.ndarray:
    """[B, S, S, 4] uint8, colour multiplied by alpha, over `background` [B, 3] (0 to 255) -> [B, S, S, 3] float32 in [-1, 1]."""
    pixels = pixels.astype(np.float32)
    over = pixels[..., :3] + (255.0 - pixels[..., 3:]) / 255.0 * background[:, None, None, :].astype(np.float32)
    return np.clip(over / 127.5 - 1.0, -1.0, 1.0)  # Lanczos overshoots where colour meets alpha


def captions_of(row: dict, where: str) -> tuple[str, ...]:
    """The captions of one row: text, or a list of texts, under the first of the CAPTIONS keys. UserError when there are none."""
    for key in CAPTIONS:
        if key in row:
            found = row[key] if isinstance(row[key], (list, tuple)) else [row[key]]
            if not found or not all(isinstance(text, str) for text in found):
                raise UserError(f"{where}: {key} must be a text or a list of texts")
            return tuple(clean(text) for text in found)
    raise UserError(f"{where}: no caption; expected one of the columns {', '.join(CAPTIONS)}")


def clean(text: str) -> str:
    """One line without NULs, at most LENGTH characters."""
    return " ".join(text[: 8 * LENGTH].replace("\0", " ").split())[:LENGTH]


def held_out(name: str, share: float) -> bool:
    """Whether the picture called `name` belongs to the dev share: crc32 of the name, so it stays there when other pictures come or go."""
    return bool(held_out_crc(zlib.crc32(name.encode("utf-8", "surrogatepass")), share))


def held_out_crc(crc, share: float):
    """The same of the crc32 of names, an int or an array of them."""
    return crc % 10000 < round(share * 10000)


def list_folder(path) -> tuple[list[tuple[str, tuple[str, ...]]], list[tuple[str, UserError]]]:
    """(file name relative to `path`, captions) of every picture of a folder, sorted by name; and (where, why) of those that are not in
    order. UserError for a folder without pictures."""
    folder = epath.Path(path)
    found, bad = [], []
    for name, rows in (("metadata.jsonl", _jsonl), ("metadata.csv", _csv)):
        if (folder / name).exists():
            for number, row in rows(folder / name):
                where = f"{folder / name}:{number}"
                try:
                    found.append(_listed(folder, where, row))
                except UserError as why:
                    bad.append((where, why))
            return sorted(found), bad
    for name, file in below(folder):
        if file.suffix.lower() in SUFFIXES:
            note = file.with_suffix(".txt")
            lines = [clean(line) for line in note.read_bytes().decode("utf-8", "replace").splitlines()] if note.is_file() else []
            if not any(lines):
                why = f"{file}: no caption; expected {note.name} beside it, or metadata.jsonl or metadata.csv in {folder}"
                bad.append((name, UserError(why)))
                continue
            found.append((name, tuple(line for line in lines if line)))
    if not found and not bad:
        raise UserError(f"data.path = {folder}: neither metadata.jsonl, metadata.csv nor pictures ({', '.join(SUFFIXES)})")
    return found, bad


def _listed(folder, where: str, row) -> tuple[str, tuple[str, ...]]:
    if isinstance(row, UserError):
        raise row
    name = row.get("file_name") if isinstance(row, dict) else None
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: no file_name")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise UserError(f"{where}: file_name {name!r} must stay inside the folder")
    if not (folder / name).exists():
        raise UserError(f"{where}: {name} is not there")
    return name, captions_of(row, where)


def read_jsonl(path):
    """(line number, value) of every line that is not blank. UserError names one that is not JSON."""
    for number, row in _jsonl(path):
        if isinstance(row, UserError):
            raise row
        yield number, row


def _jsonl(path):
    """As `read_jsonl`, with the UserError in the place of the value."""
    lines = path.read_bytes().decode("utf-8-sig", "replace").split("\n")  # splitlines would also cut at U+2028, legal inside a string
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = UserError(f"{path}:{number}: not JSON ({error})")
            yield number, row


def _csv(path):
    reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig", "replace")))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV ({error})") from None
