"""Pictures for a person: grids with captions, strips (rows are prompts, columns step counts), harmless text. Plots live in `plots`.

Images are uint8 [N, H, W, 3]; small ones are enlarged by whole factors without smoothing, so that a pixel stays a pixel.
"""

import functools
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anystep.files import write_whole

INK, MUTED, RULE, PAPER = (32, 33, 36), (112, 117, 124), (222, 225, 229), (255, 255, 255)
MARGIN, GAP = 24, 8
_SMALLEST = 96  # pixels: pictures below are enlarged
_LONGEST = 400  # characters of a prompt that are worth drawing


@functools.cache
def font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


@functools.cache
def _drawn(character: str) -> str:
    """The character, or its letter without accents where Pillow's font has no shape for it (it has little beyond ASCII)."""
    missing = bytes(font(16).getmask("\U0010ffff"))
    if bytes(font(16).getmask(character)) != missing:
        return character
    return "".join(part for part in unicodedata.normalize("NFKD", character) if unicodedata.category(part) != "Mn") or character


def clean(text: str) -> str:
    """One line that can be drawn: no control, format (bidirectional, zero-width), surrogate and private characters."""
    spaced = "".join(" " if character.isspace() else character for character in text)
    return " ".join("".join(_drawn(character) for character in spaced if unicodedata.category(character)[0] != "C").split())


def wrap(text: str, face: ImageFont.FreeTypeFont, width: float, lines: int) -> list[str]:
    """`clean(text)` in at most `lines` lines of `width` pixels, broken at spaces, or inside a word wider than a line; "…" where cut."""
    out, words = [], clean(text)[:_LONGEST].split()
    line = ""
    while words:
        word = words.pop(0)
        joined = f"{line} {word}" if line else word
        if face.getlength(joined) <= width:
            line = joined
        elif line:
            out.append(line)
            line, words = "", [word, *words]
        else:
            cut = max(1, next((n for n in range(len(word), 0, -1) if face.getlength(word[:n]) <= width), 1))
            out.append(word[:cut])
            words = [word[cut:], *words] if word[cut:] else words
    out += [line] if line else []
    if len(out) > lines:
        out = out[:lines]
        while out[-1] and face.getlength(out[-1] + "…") > width:
            out[-1] = out[-1][:-1]
        out[-1] = out[-1].rstrip() + "…"
    return out


def _tiles(images: Any, scale: int | None) -> list[Image.Image]:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(f"images: uint8 [N, H, W, 3] is needed, got {images.dtype} {list(images.shape)}")
    height, width = images.shape[1:3]
    scale = scale or max(1, math.ceil(_SMALLEST / max(height, width)))
    return [Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST) for image in images]


def _place(page: Image.Image, tile: Image.Image, x: int, y: int) -> None:
    ImageDraw.Draw(page).rectangle((x - 1, y - 1, x + tile.width, y + tile.height), outline=RULE)  # many scenes are white too
    page.paste(tile, (x, y))


def _title(draw: ImageDraw.ImageDraw, title: str, width: int) -> int:
    """Draw `title` at the top of a page and return where the rest begins."""
    if not title:
        return MARGIN
    for row, line in enumerate(wrap(title, font(20), width - 2 * MARGIN, 1)):
        draw.text((MARGIN, MARGIN + 24 * row), line, INK, font(20))
    return MARGIN + 40


def grid(
    images: Any,
    columns: int | None = None,
    scale: int | None = None,
    labels: Sequence[str] = (),
    captions: Sequence[str] = (),
    title: str = "",
) -> Image.Image:
    """A sheet of pictures: `labels` head the columns, `captions` stand under their picture. `scale` enlarges (None: to about 96 pixels)."""
    tiles = _tiles(images, scale)
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    width, height = tiles[0].size
    face, leading = font(12), 15
    texts = [wrap(caption, face, width, 3) for caption in captions] or [[]] * len(tiles)
    rows = [range(first, min(first + columns, len(tiles))) for first in range(0, len(tiles), columns)]
    under = [leading * max(len(texts[n]) for n in row) for row in rows]
    page_width = 2 * MARGIN + columns * (width + GAP) - GAP
    top = _title(ImageDraw.Draw(Image.new("RGB", (1, 1))), title, page_width) + (24 if labels else 0)
    page = Image.new("RGB", (page_width, top + sum(under) + len(rows) * (height + GAP + (4 if captions else 0)) - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    _title(draw, title, page_width)
    for column, label in enumerate(labels):
        x = MARGIN + column * (width + GAP) + width / 2
        draw.text((x, top - 8), "".join(wrap(label, font(13), width, 1)), MUTED, font(13), anchor="ms")
    y = top
    for row, space in zip(rows, under, strict=True):
        for column, n in enumerate(row):
            x = MARGIN + column * (width + GAP)
            _place(page, tiles[n], x, y)
            for line, text in enumerate(texts[n]):
                draw.text((x, y + height + 4 + leading * line), text, INK, face)
        y += height + GAP + space + (4 if captions else 0)
    return page


def strip(images_by_steps: Mapping[int, Any], prompts: Sequence[str], scale: int | None = None, title: str = "") -> Image.Image:
    """Rows are prompts, columns step counts in the order given; the values are uint8 [len(prompts), H, W, 3], a row from the same noise."""
    tiles = {steps: _tiles(images, scale) for steps, images in images_by_steps.items()}
    if not tiles or any(len(column) != len(prompts) for column in tiles.values()):
        counts = {steps: len(column) for steps, column in tiles.items()}
        raise ValueError(f"images_by_steps: {len(prompts)} pictures for each step count are needed, got {counts}")
    width, height = next(iter(tiles.values()))[0].size
    side, face, leading = 208, font(14), 18
    left = MARGIN + side + 16
    page_width = left + len(tiles) * (width + GAP) - GAP + MARGIN
    top = _title(ImageDraw.Draw(Image.new("RGB", (1, 1))), title, page_width) + 24
    page = Image.new("RGB", (page_width, top + len(prompts) * (height + GAP) - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    _title(draw, title, page_width)
    for column, (steps, pictures) in enumerate(tiles.items()):
        x = left + column * (width + GAP)
        draw.text((x + width / 2, top - 9), f"{steps} step" if steps == 1 else f"{steps} steps", MUTED, font(14), anchor="ms")
        for row, tile in enumerate(pictures):
            _place(page, tile, x, top + row * (height + GAP))
    for row, prompt in enumerate(prompts):
        lines = wrap(prompt, face, side, max(1, height // leading)) or ["(no prompt)"]
        middle = top + row * (height + GAP) + height / 2
        for n, line in enumerate(lines):
            draw.text((MARGIN, middle + leading * (n - (len(lines) - 1) / 2)), line, INK if prompt.strip() else MUTED, face, anchor="lm")
    return page


def save(image: Image.Image, path: Any) -> None:
    """Write a PNG to `path` (local or gs://), whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_whole(path, buffer.getvalue())
