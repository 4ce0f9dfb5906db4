"""What stands between a run and its end: the request to stop, and a watchdog for the run that does neither. Saving and leaving with exit
code 42 ("restart me") is the main's part. Which steps are believed: `spikes`."""

import faulthandler
import os
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import jax
from jax.experimental import multihost_utils

SPARED = 3  # beats after `busy` that may take long: the host runs two steps ahead
RESTART = 42  # exit code: saved, start the same command again


class Stop:
    """`with Stop() as stop:` turns SIGTERM and SIGINT into a flag, `stop(turn)`, to be polled once a step; a second signal kills as usual.

    With several processes, jax.distributed listens for SIGTERM instead and every process must ask at every turn: all are told at the same
    one. Turns are the steps since this start; they never go back.
    """

    def __init__(self):
        self._asked = False
        self._before: dict = {}

    def __enter__(self):
        if jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._catch) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        self._give_back()

    def __call__(self, turn: int) -> bool:
        """True once a signal has come: save and leave."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(turn)
        return self._asked

    def _catch(self, number, _):
        self._asked = True
        print(f"{signal.Signals(number).name}: saving after this step; once more to leave at once", file=sys.stderr, flush=True)
        self._give_back()

    def _give_back(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class Watchdog:
    """Ends a process in which nothing happens any more: all stacks to stderr, exit code 42.

    `beat()` after every step that has really ended; one may take `factor` medians of the last ones, but at least `least` seconds. `busy()`
    before what takes as long as it takes (compiling, restoring, drawing, here or in another process): until the third beat after it `most`
    seconds are allowed.
    """

    def __init__(self, least=60.0, factor=3.0, most=1800.0, leave: Callable[[int], object] = os._exit, clock=time.monotonic):
        self.least, self.factor, self.most, self.leave, self.clock = least, factor, most, leave, clock
        self.taken: deque[float] = deque(maxlen=64)
        self.last, self.spared, self.ended = clock(), SPARED, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()

    def beat(self):
        now = self.clock()
        if not self.spared:
            self.taken.append(now - self.last)
        self.last, self.spared = now, max(self.spared - 1, 0)

    def busy(self):
        self.spared = SPARED

    def limit(self) -> float:
        """Seconds after the last beat."""
        if self.spared:
            return self.most
        return max(self.least, self.factor * statistics.median(self.taken)) if self.taken else self.most

    def _watch(self):
        while not self.ended.wait(min(1.0, self.least / 4)):
            if self.clock() - self.last > self.limit():
                print(f"WATCHDOG: no step ended within {self.limit():.0f} s; leaving with {RESTART}", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(file=sys.stderr)
                self.leave(RESTART)
                return
