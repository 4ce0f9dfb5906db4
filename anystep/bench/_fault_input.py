"""Faults of what is given: damaged pictures, senseless config values."""

import io
import json
import random
import subprocess
import sys

import numpy as np
from PIL import Image

from anystep.data.pictures import read_picture
from anystep.errors import UserError


def originals():
    """Bytes of sound pictures of many kinds: (suffix, bytes)."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (24, 20, 3), np.uint8))
    kinds = [
        (noise, "png", {}),
        (noise.convert("P"), "png", {}),
        (noise.convert("LA"), "png", {}),
        (noise.convert("RGBA"), "webp", {"lossless": True}),
        (noise, "jpeg", {"quality": 80, "progressive": True}),
        (noise.convert("CMYK"), "jpeg", {}),
        (noise.convert("P"), "gif", {"save_all": True, "append_images": [noise.convert("P")]}),
        (noise, "bmp", {}),
        (Image.fromarray(rng.integers(0, 65535, (9, 7), np.uint16)), "tiff", {}),
        (Image.fromarray(rng.integers(0, 65535, (9, 7), np.uint16)), "png", {}),
        (noise.convert("L"), "ppm", {}),
        (noise, "tiff", {"compression": "tiff_lzw"}),
    ]
    for picture, kind, options in kinds:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        yield kind, file.getvalue()


def damage(data, dice):
    """Cut, with bits flipped, a part overwritten, a part doubled; or a header that announces another size."""
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at, kind = dice.randrange(len(data)), dice.randrange(5)
        if kind == 0:
            data = data[: max(at, 1)]
        elif kind == 1:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            end = min(at + dice.randrange(1, 16), len(data))
            data[at:end] = bytes(dice.randrange(256) for _ in range(end - at))
        elif kind == 3:
            data[at:at] = data[at : at + dice.randrange(1, 32)]
        else:
            at = dice.randrange(min(len(data), 40))
            data[at : at + 4] = dice.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\xff\xff"))[: len(data) - at]
    return bytes(data)


def pictures(folder, seed, number):
    """A damaged picture is [8, 8, 4] uint8 or one UserError that names the file."""
    dice, kept, read, broken = random.Random(seed), 0, 0, []
    sources = list(originals())
    for turn in range(number):
        kind, data = sources[turn % len(sources)]
        file = folder / f"picture.{kind}"
        file.write_bytes(damage(data, dice))
        try:
            pixels = read_picture(file, 8)
            good = pixels.shape == (8, 8, 4) and pixels.dtype == np.uint8
            read += 1
        except UserError as error:
            good = str(file) in str(error) and "\n" not in str(error)
        except Exception as error:
            good = False
            broken.append(f"{turn}: {type(error).__name__}")
        kept += good
    return {"tried": number, "kept": kept, "seen": f"{read} could still be read" + (f"; {', '.join(broken[:5])}" if broken else "")}


VALUES = """
import json, sys
from anystep import config
from anystep.errors import UserError
good, wrong = 0, []
for path, value in json.load(sys.stdin):
    try:
        config.load(["--config", "shapes", f"--config.{path}={value}"])
        wrong.append(f"{path}={value}: taken")
    except UserError as error:
        named = f"config.{path}" in str(error) and any(word in str(error) for word in ("must be", "allowed")) and "\\n" not in str(error)
        good += named
        if not named:
            wrong.append(f"{path}={value}: {error}")
from jax._src import xla_bridge
touched = xla_bridge.backends_are_initialized()
print(json.dumps([good, wrong[:5], touched]))
"""


def values(folder, seed, number):
    """Values outside of a field's type, range or choices, by the table of fields: each refused with its name and what is allowed."""
    from anystep.config import fields_of

    dice, asked = random.Random(seed), []
    known = {path: field for path, field in fields_of("shapes").items() if senseless(field, dice)}
    for turn in range(number):
        path = list(known)[turn % len(known)]
        asked.append((path, dice.choice(senseless(known[path], dice))))
    done = subprocess.run([sys.executable, "-c", VALUES], input=json.dumps(asked), capture_output=True, text=True, check=True)
    good, wrong, touched = json.loads(done.stdout.splitlines()[-1])
    seen = f"{len(known)} fields, devices {'TOUCHED' if touched else 'untouched'}" + (f"; {'; '.join(wrong)}" if wrong else "")
    return {"tried": number, "kept": 0 if touched else good, "seen": seen}


def senseless(field, dice):
    """Texts that `--config.path=` must refuse."""
    if field.kind is bool:
        return ["maybe", "2", "", "[]", "none"]
    if field.kind in (int, float):
        beyond = (
            [text for low, text in ((field.low, "-1e300"), (field.high, "1e300")) if abs(low) != float("inf")]
            if field.kind is float
            else []
        )
        if field.kind is int:
            beyond = [str(int(field.low) - dice.randrange(1, 10**6))] if field.low > -float("inf") else []
            beyond += [str(int(field.high) + dice.randrange(1, 10**6))] if field.high < float("inf") else []
            beyond += ["1.5", "1e3.2"]
        return [*beyond, "nan", "inf", "x", "", "[1]", "True", "1;2"]
    if field.choices:
        return ["none of them", "", "0", field.choices[0] + " ", field.choices[0].upper() + "!"]
    if field.kind is tuple:
        return ["", "[[1]]", "{}", "'", "None"]
    return []
