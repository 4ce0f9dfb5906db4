"""What stands between a run and its end: the request to stop. Saving and leaving with exit code 42 ("restart me") is the main's part."""

import signal
import sys

import jax
from jax.experimental import multihost_utils

RESTART = 42  # exit code: saved, start the same command again


class Stop:
    """`with Stop() as stop:` turns SIGTERM and SIGINT into a flag, `stop(step)`, to be polled once a step; a second signal kills as usual.

    With several processes, jax.distributed listens for SIGTERM instead and every process must ask at every step: all are told at the same
    step.
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

    def __call__(self, step: int) -> bool:
        """True once a signal has come: save `step` and leave."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _catch(self, number, _):
        self._asked = True
        print(f"{signal.Signals(number).name}: saving after this step; once more to leave at once", file=sys.stderr, flush=True)
        self._give_back()

    def _give_back(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
