"""What a user asks for: prompts checked, and read from files of text or of JSON lines."""

import json
import os

from anystep.errors import UserError

LONGEST = 8000  # characters of a prompt
LARGEST = 4 * 2**20  # bytes of a file of prompts
MOST = 1000  # prompts that are drawn in one go


def check_prompt(prompt: str, where: str) -> str:
    """The prompt, or a UserError that names `where` it stands."""
    if len(prompt) > LONGEST:
        raise UserError(f"{where}: {len(prompt):,} characters, at most {LONGEST:,} are allowed")
    if "\0" in prompt:
        raise UserError(f"{where}: holds a NUL character at position {prompt.index(chr(0))}")
    if any("\ud800" <= character <= "\udfff" for character in prompt):  # what the command line makes of bytes that are not UTF-8
        raise UserError(f"{where}: is not UTF-8")
    return prompt


def read_rows(path: str, name: str = "--prompts", most: int = MOST) -> list[dict]:
    """Rows with a "prompt" from a UTF-8 file: {"prompt": line} of each line, or each object of a .jsonl (GenEval's metadata).
    Empty lines are skipped. UserErrors call the file by `name`."""
    try:
        if not os.path.isfile(path):  # nor a pipe or a device, which need not end
            raise UserError(f"{name} {path!r}: no such file")
        with open(path, "rb") as stream:  # never more than the limit, whatever the file says of its size
            data = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{name} {path!r}: cannot be read ({type(error).__name__})") from None
    if len(data) > LARGEST:
        raise UserError(f"{name} {path!r}: more than {LARGEST:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} {path!r}: is not UTF-8 at byte {error.start:,}") from None
    lines = [(f"{name} {path!r} line {number}", line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not 1 <= len(lines) <= most:
        raise UserError(f"{name} {path!r}: {len(lines):,} prompts, 1..{most:,} are allowed")
    rows = [_from_json(line, where) if path.endswith(".jsonl") else {"prompt": line} for where, line in lines]
    for (where, _), row in zip(lines, rows, strict=True):
        check_prompt(row["prompt"], where)
    return rows


def _from_json(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: is not JSON") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f'{where}: is no object with a text "prompt"')
    return row
