"""Metrics as flat JSON lines, appended and never rewritten; a copy to TensorBoard or Weights & Biases for those who ask.

A row is one line and one write, so a reader never sees two rows mixed. A process that dies inside a write leaves a half line: the next
writer starts a new line after it and `read_rows` leaves it out. Numbers keep six significant digits; nan and inf, which JSON does not
know, become null.
"""

import importlib
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from anystep.errors import UserError
from anystep.files import is_remote, write_whole

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def _plain(name: str, value: Any) -> Any:
    if hasattr(value, "item"):  # numpy and jax scalars
        if getattr(value, "size", 1) != 1:
            raise ValueError(f"{name}: a metric is one number, not an array of shape {value.shape}")
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError(f"{name}: a metrics row is flat, {type(value).__name__} is neither a number, a text nor a truth value")


class JsonlWriter:
    """`write(row)` appends one line to `path` and flushes it. `also`: any of "tensorboard", "wandb"; their files go beside `path`.

    An object store cannot append: there the whole file is kept here and written again, at most every `every` seconds and by `flush()`.
    """

    def __init__(self, path: Any, also: Sequence[str] = (), every: float = 10.0):
        self.path, self.every = epath.Path(path), every
        self._kept, self._written = (b"", -math.inf) if is_remote(path) else (None, 0.0)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mend()
        self._refused = False
        self._also = [_sink(name, self.path.parent) for name in also]

    def _mend(self) -> None:
        if not self.path.exists():
            return
        if self._kept is not None:
            self._kept = self.path.read_bytes()
            return
        with self.path.open("rb") as file:
            if file.seek(0, 2) == 0:
                return
            file.seek(-1, 2)
            whole = file.read(1) == b"\n"
        if not whole:
            self._append(b"\n")

    def _append(self, line: bytes) -> None:
        if self._kept is not None:
            self._kept += line
            if time.monotonic() - self._written >= self.every:
                self.flush()
            return
        with self.path.open("ab") as file:  # for each row: the file may be moved or rotated meanwhile
            file.write(line)

    def flush(self) -> None:
        if self._kept is not None:
            self._written = time.monotonic()
            write_whole(self.path, self._kept)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append `row`; values are numbers, numpy or jax scalars, texts, truth values or None. ValueError on anything nested. A disk that
        refuses costs the row and one line on stderr, not the run."""
        flat = {name: _plain(name, value) for name, value in row.items()}
        try:
            self._append((json.dumps(flat, allow_nan=False) + "\n").encode())
        except OSError as error:
            if not self._refused:
                print(f"WARNING: rows of {self.path.name} are lost ({error}), the run goes on", file=sys.stderr, flush=True)
            self._refused = True
        for sink in self._also:
            sink({name: value for name, value in flat.items() if isinstance(value, int | float)}, flat.get("step"))


def package_of(name: str):
    """The imported package of a writer besides metrics.jsonl. UserError for one that is unknown or not installed."""
    if name not in _PACKAGES:
        raise UserError(f"metrics writer {name!r} is unknown: use one of {', '.join(_PACKAGES)}")
    try:
        return importlib.import_module(_PACKAGES[name])
    except ImportError:
        raise UserError(f"metrics writer {name!r} needs the package {_PACKAGES[name]}: pip install {_PACKAGES[name]}") from None


def _sink(name: str, folder: epath.Path):
    package = package_of(name)
    if name == "wandb":
        run = package.init(project="anystep", dir=str(folder), resume="allow")
        return lambda row, step: run.log(row, step=step)
    events = package.SummaryWriter(str(folder))
    return lambda row, step: [events.add_scalar(key, value, step) for key, value in row.items()]


def read_rows(path: Any) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file in their order; lines that are no JSON object (a write that was cut) are left out."""
    rows = []
    for line in epath.Path(path).read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
