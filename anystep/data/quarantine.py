"""Pictures, captions and records that cannot be read: a line each in a file, another one drawn in their place, and an end when there are
too many."""

import json
import sys
import threading

from etils import epath

from anystep.errors import UserError


class Quarantine:
    """`most`: share of all that may be bad. `file`: where the lines go, JSON objects {"name", "why"}; None for nowhere."""

    def __init__(self, most: float = 0.0, file=None):
        self.most, self.file = most, None if file is None else epath.Path(file)
        self.total, self.bad, self.lock = 0, {}, threading.Lock()

    def expect(self, total: int) -> None:
        """`total` more pictures of which some may be bad."""
        self.total += total

    def add(self, name: str, why: Exception) -> None:
        """UserError when one more is too many. A name counts once."""
        with self.lock:
            if name in self.bad:
                return
            self.bad[name] = str(why)
            if self.file is not None:
                try:
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    with self.file.open("ab") as lines:
                        lines.write((json.dumps({"name": name, "why": str(why)}) + "\n").encode())
                except OSError as error:
                    print(f"WARNING: {self.file.name} was not written ({error})", file=sys.stderr, flush=True)
            if len(self.bad) > self.most * self.total:
                what = f"{len(self.bad)} of {self.total:,} pictures cannot be used, more than config.data.most_bad = {self.most:g} allows"
                raise UserError(f"{what}; the last: {why}")
