"""Pictures, captions and records that cannot be read: a line each in a file, another one drawn in their place, and an end when there are
too many."""

import threading

from etils import epath

from anystep import logs
from anystep.errors import UserError


class Quarantine:
    """`most`: share of all that may be bad, as far as this process sees them. `file`: where the lines go, JSON objects {"name", "why"}, and
    whence those of an earlier start come; None for nowhere."""

    def __init__(self, most: float = 0.0, file=None):
        self.most, self.file, self.lines = most, file, None  # a file is made when there is something to write
        self.total, self.bad, self.lock = 0, {}, threading.Lock()
        if file is not None and epath.Path(file).exists():
            self.bad = {row.get("name"): row.get("why") for row in logs.read_rows(file)}

    def expect(self, total: int) -> None:
        """`total` more pictures of which some may be bad."""
        self.total += total

    def add(self, name: str, why: Exception) -> None:
        """UserError when there are too many by now. A name counts once."""
        with self.lock:
            if name not in self.bad:
                self.bad[name] = str(why)
                if self.file is not None:
                    self.lines = self.lines or logs.JsonlWriter(self.file, every=0.0)
                    self.lines.write({"name": name, "why": str(why)})
            if len(self.bad) > self.most * self.total:
                what = f"{len(self.bad)} of {self.total:,} pictures cannot be used, more than config.data.most_bad = {self.most:g} allows"
                raise UserError(f"{what}; the last: {why}")
