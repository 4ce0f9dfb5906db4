"""Where the seconds of a run went. The clock is always in exactly one account, so that they sum to the wall time."""

import time
from collections.abc import Callable


class Ledger:
    """`ledger.now("data")` books what passed since the last call to the account before, and opens "data". Begins with "start", at `began`
    by `clock` (default: now)."""

    def __init__(self, began: float | None = None, clock: Callable[[], float] = time.monotonic):
        self.clock, self.account = clock, "start"
        self.began = self.since = clock() if began is None else began
        self.spent: dict[str, float] = {}

    def now(self, account: str) -> None:
        at = self.clock()
        self.spent[self.account] = self.spent.get(self.account, 0.0) + at - self.since
        self.account, self.since = account, at

    def lose(self, share: float) -> None:
        """Books `share` of what went into "step" as "lost": steps that have to be made again."""
        self.now(self.account)
        lost = share * self.spent.get("step", 0.0)
        self.spent["step"] = self.spent.get("step", 0.0) - lost
        self.spent["lost"] = self.spent.get("lost", 0.0) + lost

    def row(self) -> dict[str, float]:
        """{"seconds": since the beginning, "time/<account>": of each, ...}"""
        self.now(self.account)
        return {"seconds": self.since - self.began} | {f"time/{name}": spent for name, spent in sorted(self.spent.items())}
