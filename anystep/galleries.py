"""Pictures in the folders that GenEval's and T2I-CompBench's own scripts score.

    geneval         FOLDER/00000/metadata.jsonl, FOLDER/00000/samples/0000.png, 0001.png, ...: a folder for each row of GenEval's metadata
    t2i_compbench   FOLDER/samples/PROMPT_000000.png: the number counts all pictures, prompt by prompt

T2I-CompBench reads the prompt from the file name, up to the first "_". There "/", "_" and control characters become spaces, and what is
longer than a file name may be is cut.

export.json says how the pictures were made. The same export goes on where it was interrupted; another one in its folder is refused.
"""

import json
import re

from PIL import Image

from anystep import logs
from anystep.errors import UserError
from anystep.files import write_whole

COUNTS = {"geneval": 4, "t2i_compbench": 10}  # pictures of a prompt, as published
MOST = 1000  # pictures of a prompt: numbers keep their digits
RECORD = "export.json"
STEM = 255 - len("._000000.png.part")  # bytes of a prompt in a file name, its draft's included


def check(kind: str, rows: list[dict]) -> None:
    """UserError where `rows` cannot be exported: GenEval's script needs its metadata."""
    for number, row in enumerate(rows, 1) if kind == "geneval" else ():
        entries = row.get("include")
        sound = isinstance(entries, list) and all(isinstance(e, dict) and {"class", "count"} <= e.keys() for e in entries)
        if not sound or not isinstance(row.get("tag"), str):
            raise UserError(
                f'--export geneval: prompt {number} ({row["prompt"][:40]!r}) has no "tag" and "include"; give GenEval\'s metadata'
            )


def stem(prompt: str) -> str:
    """The prompt as T2I-CompBench's file names hold it."""
    return re.sub(r"[/_\x00-\x1f\x7f]", " ", prompt).encode()[:STEM].decode(errors="ignore")


def name(kind: str, prompt: str, row: int, number: int, count: int) -> str:
    """Where picture `number` of `count` of prompt number `row` belongs, below the folder."""
    if kind == "geneval":
        return f"{row:05d}/samples/{number:04d}.png"
    return f"samples/{stem(prompt)}_{row * count + number:06d}.png"


def begin(folder, kind: str, rows: list[dict], made: dict) -> None:
    """Writes the record `made` and the metadata. UserError if the folder holds anything but the same export."""
    record = folder / RECORD
    if record.exists():
        try:
            found = dict(json.loads(record.read_text()))
        except (ValueError, TypeError):
            raise UserError(f"{record}: is no record of an export") from None
        for field in {**made, **found}:
            if found.get(field) != made.get(field):
                raise UserError(f"--out {str(folder)!r}: holds pictures with {field} = {found.get(field)!r}, not {made.get(field)!r}")
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"--out {str(folder)!r}: is not empty, and no export")
    write_whole(record, (json.dumps(made, indent=1) + "\n").encode())
    for number, row in enumerate(rows) if kind == "geneval" else ():
        write_whole(folder / f"{number:05d}" / "metadata.jsonl", (json.dumps(row) + "\n").encode())


def write(folder, kind: str, prompts: list[str], count: int, draw, batch: int) -> int:
    """Draws and writes what is missing, `batch` prompts at a time; returns how many pictures were there already.

    draw(prompts, first, number) -> uint8 [N, H, W, 3]: picture `number` of the prompts number `first` and on. Files appear whole.
    """
    there = 0
    for number in range(count):
        for first in range(0, len(prompts), batch):
            some = prompts[first : first + batch]
            places = [folder / name(kind, prompt, first + i, number, count) for i, prompt in enumerate(some)]
            missing = [not place.exists() for place in places]
            there += missing.count(False)
            for place, picture, absent in zip(places, draw(some, first, number), missing, strict=True) if any(missing) else ():
                if absent:
                    logs.save(Image.fromarray(picture), place)
    return there
