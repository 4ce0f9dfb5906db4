"""What of a run is kept, and where it goes back to when its steps are not believed any more.

Regular checkpoints come after step 1 and every config.checkpoint.every steps; a stop leaves one more. A run goes back to regular ones only,
from before the first of the steps in a row: whether and when it was stopped must not decide where it goes on. The newest of them is never
deleted. The stream stays where it is when a run goes back, so that other data follow; a run that is killed meanwhile comes to the same
point again. Steps are looked at two late, so that the device is not waited for.
"""

import sys
from collections import deque

import jax

from anystep import checkpoint
from anystep import mesh as meshes


class Recovery:
    """`start`, `state` and `info` as restored, info None for a run that begins; `target`: the abstract state to restore into."""

    def __init__(self, config, workdir, target, start, state, info):
        self.config, self.workdir, self.target = config, workdir, target
        self.guard, self.rewinds, self.last = config.train.guard, info["rewinds"] if info else 0, start
        self.wait = lambda: True  # for the last save; whether it was written
        self.sound = max(sound_steps(workdir, start), default=None)
        in_row = int(state.guard.in_row.max())
        self.recent = deque([max(in_row - 1, 0), in_row])  # disbelieved in a row after each of the last two steps

    def settle(self, metrics) -> bool:
        """After every step: waits for the one before the last; whether to go back because of it."""
        self.recent.append(metrics["guard/in_row"])
        return int(self.recent.popleft()) >= self.guard.patience

    def doubtful(self) -> bool:
        """Whether to go back because of one of the last two steps; waits for them."""
        return any(int(in_row) >= self.guard.patience for in_row in self.recent)

    def due(self, step) -> bool:
        return step == 1 or step % self.config.checkpoint.every == 0 or step == self.config.train.steps

    def save(self, step, state, stream):
        """Starts to write a checkpoint, once the one before is written; waits for the first, so that a run gets further however often it is
        killed from then on."""
        self.wait()
        in_row = int(state.guard.in_row.max())
        info = {"config": self.config.to_dict(), "in_row": in_row, "regular": self.due(step), "rewinds": self.rewinds}
        if info["regular"] and not in_row:
            self.sound = step
        self.wait = checkpoint.save(self.workdir, step, state, stream, info, self.config.checkpoint.keep, self.sound)
        self.last = step
        if step == 1:
            self.wait()

    def go_back(self, step, state):
        """(step, state) of the newest sound checkpoint; `state` is given up, later checkpoints are deleted. SystemExit with 1 when that was
        done often enough, when there is none, or when they cannot be deleted."""
        self.wait()
        self.rewinds += 1
        found = meshes.agree(max(sound_steps(self.workdir, step), default=-1))
        if self.rewinds > self.guard.rewinds or found < 0:
            self._give_up(f"{self.guard.rewinds} rewinds did not help" if found >= 0 else "no checkpoint is from before them")
        jax.tree.map(lambda leaf: leaf.delete(), state)  # two states need not fit
        back, state, _ = checkpoint.restore(self.workdir, self.target, step=found)
        try:
            checkpoint.drop_after(self.workdir, back)
        except OSError as error:
            self._give_up(f"the checkpoints after {back} cannot be deleted ({error})")
        self.recent, self.last, self.sound = deque([0, 0]), back, back
        return back, state

    def _give_up(self, why):
        said = f"error: config.train.guard: {self.guard.patience} steps in a row were not believed, and {why}"
        print(said, file=sys.stderr, flush=True)
        raise SystemExit(1)


def sound_steps(workdir, most) -> list[int]:
    """Regular checkpoints up to step `most` whose own step was believed."""
    return [step for step in checkpoint.committed_steps(workdir) if step <= most and _is_sound(workdir, step)]


def _is_sound(workdir, step):
    try:
        info = checkpoint.read_info(workdir, step)
    except Exception:  # whatever a damaged file makes orbax or json raise
        return False
    return info["regular"] and info["in_row"] == 0
