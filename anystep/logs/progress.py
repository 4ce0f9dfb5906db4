"""How far a run is and how fast: one line that renews itself on a terminal, a plain line every few seconds in a file.

    images/s = batch * steps/s        utilisation = FLOPs per step * steps/s / peak FLOP/s of all devices

over the last `WINDOW` updates; the first step, which compiles, is in none of them. The caller counts the FLOPs and knows the peak (dense,
in the matrix type in use); what remat computes twice is in them. Without a peak the line shows FLOP/s instead of a share.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

WINDOW = 50
_BAR = "{percentage:3.0f}% {bar:20} {n_fmt}/{total_fmt} [{desc}]"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _flops(rate: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}FLOP/s"
    return f"{rate / 1e9:.3g} GFLOP/s"


class Progress:
    """Counts from step `start` to step `total`. `batch` images and `flops` per step, `peak` FLOP/s of all devices; 0 leaves a figure out.

    `every`: seconds between two lines where `file` (default stderr) is not a terminal.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        *,
        batch: int = 0,
        flops: float = 0.0,
        peak: float = 0.0,
        every: float = 10.0,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.batch, self.flops, self.peak, self.every, self.clock = total, batch, flops, peak, every, clock
        self.file = file or sys.stderr
        self.step, self.loss = start, None
        self.seen: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self.said = -float("inf")
        self.bar = None
        if self.file.isatty():
            self.bar = tqdm(total=total, initial=start, file=self.file, bar_format=_BAR, dynamic_ncols=True)

    def rates(self) -> dict[str, float]:
        """{"steps_per_second", "images_per_second", "flops_per_second", "utilisation"} as far as they are known."""
        if len(self.seen) < 2 or self.seen[-1][0] <= self.seen[0][0]:
            return {}
        (then, first), (now, last) = self.seen[0], self.seen[-1]
        speed = (last - first) / (now - then)
        known = {"steps_per_second": speed}
        if self.batch:
            known["images_per_second"] = self.batch * speed
        if self.flops:
            known["flops_per_second"] = self.flops * speed
        if self.flops and self.peak:
            known["utilisation"] = self.flops * speed / self.peak
        return known

    def _figures(self) -> str:
        rates, parts = self.rates(), []
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4g}")
        if "images_per_second" in rates:
            images = rates["images_per_second"]
            parts.append(f"{images:.3g} images/s" if images < 100 else f"{images:,.0f} images/s")
        if "utilisation" in rates:
            parts.append(f"{rates['utilisation']:.1%} of peak")
        elif "flops_per_second" in rates:
            parts.append(_flops(rates["flops_per_second"]))
        if rates and self.step < self.total:
            parts.append(f"{_duration((self.total - self.step) / rates['steps_per_second'])} left")
        return ", ".join(parts)

    def update(self, step: int, loss: Any = None) -> None:
        """`step` steps are done. `loss` only where it is already on the host: reading it from a device would stop the queue."""
        now = self.clock()
        self.seen.append((now, step))
        self.step = step
        self.loss = self.loss if loss is None else float(loss)
        if self.bar is not None:
            self.bar.set_description_str(self._figures(), refresh=False)
            self.bar.update(step - self.bar.n)
        elif now - self.said >= self.every or step >= self.total:
            self.said = now
            print(f"step {step}/{self.total} ({step / self.total:.0%})  {self._figures()}".rstrip(), file=self.file, flush=True)

    def back(self, step: int) -> None:
        """The run goes on from an earlier step: what was seen of its speed no longer counts."""
        self.seen.clear()
        self.step = step
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def say(self, text: str) -> None:
        """A line of its own that does not break the bar."""
        if self.bar is not None:
            self.bar.write(text, file=self.file)
        else:
            print(text, file=self.file, flush=True)

    def close(self) -> None:
        """End the line; what it last showed stays."""
        if self.bar is not None:
            self.bar.close()
