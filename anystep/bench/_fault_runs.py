"""Faults of whole processes: runs as a user starts them, killed, terminated, stuck, out of disk; and a long quiet one."""

import hashlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time

import jax
import numpy as np

from anystep import checkpoint, config, logs, weights
from anystep.api import pipeline
from anystep.tree import paths

STEPS = 120
RUN = [  # every objective there is, on a world that trains in seconds; a teacher is put beside it
    "--config=smoke",
    f"--config.train.steps={STEPS}",
    "--config.train.log_every=5",
    "--config.train.sample_every=0",
    "--config.data.batch=16",
    "--config.model.width=32",
    "--config.checkpoint.every=15",
    "--config.objective.flow_matching.share=1",
    "--config.objective.self_evaluation.share=1",
    "--config.objective.self_evaluation.auxiliary_k=0.5",
    "--config.objective.self_evaluation.auxiliary_start=20",
    "--config.objective.consistency.share=1",
    "--config.objective.consistency.start=30",
    "--config.objective.consistency.weighting=learned",
    "--config.objective.adversarial.share=1",
    "--config.objective.adversarial.blocks=0,2",
]
FLOW = [f"--config.objective.{name}.share=0" for name in ("self_evaluation", "consistency", "adversarial")]


def beside(folder, run):
    """`run` with a teacher in `folder`, of fresh weights, if it asks for one."""
    if run is not RUN:
        return run
    place = folder / "teacher"
    if not (place / weights.WEIGHTS).exists():
        untaught = pipeline(config.load([*RUN, *FLOW])[0])
        params = {role: jax.jit(getattr(untaught, role).init)(jax.random.key(7)) for role in ("net", "text")}
        weights.save_folder(place, untaught.config.to_dict(), params)
    return [*RUN, f"--config.objective.teacher.folder={place}"]


def start(workdir, *more, program=("-m", "anystep"), run=RUN):
    said = open(f"{workdir}.log", "a")
    command = [sys.executable, *program, "train", *beside(workdir.parent, run), "--workdir", str(workdir), *more]
    return subprocess.Popen(command, stdout=said, stderr=said)


def said_by(workdir):
    with open(f"{workdir}.log") as file:
        return file.read()


def state_of(workdir, step=STEPS):
    """SHA-256 of every leaf of a checkpoint and of where its stream stands."""
    tree = checkpoint.saved_tree(workdir, step)
    host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
    _, state, _ = checkpoint.restore(workdir, host, step=step)
    digest = hashlib.sha256()
    for name, leaf in paths(state).items():
        digest.update(name.encode() + np.ascontiguousarray(leaf).tobytes())
    metadata = json.loads((workdir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").read_text())
    digest.update(json.dumps(metadata["custom_metadata"]["iterator"]).encode())
    return digest.hexdigest()


def kills(folder, seed, number):
    """Two undisturbed runs; then runs that are killed at random times, most of them after the first step, and started again until `number`
    kills have been made."""
    dice = random.Random(seed)
    start(folder / "whole").wait()  # the first compiles
    began = time.monotonic()
    again = start(folder / "again")
    assert again.wait() == 0, said_by(folder / "again")
    length, whole = time.monotonic() - began, state_of(folder / "whole")
    killed, ended, good, lost = 0, 0, 0, []
    while killed < number:
        workdir, here = folder / f"run{ended}", 0
        while True:
            run, last = start(workdir), time.monotonic() + dice.uniform(0.3, 1.0) * length
            while run.poll() is None and time.monotonic() < last and killed < number:
                time.sleep(0.01)
            if run.poll() is None and killed < number:
                run.kill()
                killed, here = killed + 1, here + 1
            if run.wait() == 0:
                break
            assert run.returncode == -signal.SIGKILL, said_by(workdir)
        same = state_of(workdir) == whole
        ended, good, lost = ended + 1, good + same * here, [*lost, here]
    same = state_of(folder / "again") == whole
    return {
        "tried": number,
        "kept": good if same else 0,
        "seen": f"{ended} runs, kills in each: {', '.join(map(str, lost))}; an undisturbed run takes {length:.0f} s",
    }


SAVER = """
import sys, time
import jax.numpy as jnp
from anystep import checkpoint
wait, step = (lambda: True), (checkpoint.committed_steps(sys.argv[1]) or [0])[-1]
while True:
    step += 1
    tree = {f"leaf{i}": jnp.full((2**19,), step, jnp.int32) + jnp.arange(2**19) for i in range(4)}
    wait()
    print(time.monotonic(), flush=True)
    wait = checkpoint.save(sys.argv[1], step, tree, None, {"of": step}, keep=3)
"""


def window(folder, seed, number):
    """A process that does nothing but save is killed within a save; what can be restored then is whole and at most one save old."""
    dice, good, seen = random.Random(seed), 0, []
    like = {f"leaf{i}": np.zeros((2**19,), np.int32) for i in range(4)}
    for _ in range(number):
        command = [sys.executable, "-c", SAVER, str(folder / "run")]
        saver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        began = [float(saver.stdout.readline()) for _ in range(3)]
        time.sleep(dice.uniform(0, max(began[2] - began[1], 0.01)))
        before = checkpoint.committed_steps(folder / "run")
        saver.kill()
        saver.wait()
        step, state, info = checkpoint.restore(folder / "run", like)
        whole = all((leaf == step + np.arange(2**19)).all() for leaf in state.values()) and info == {"of": step}
        good += whole and step >= before[-1]
        seen.append(began[2] - began[1])
    half = len([entry for entry in (folder / "run" / "checkpoints").iterdir() if "tmp" in entry.name])
    return {"tried": number, "kept": good, "seen": f"a save takes {statistics.median(seen):.2f} s; {half} half-written ones lie beside"}


def two(folder, *more, second=("-m", "anystep")):
    """Both processes of a run; `second`: the program of the other one."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    programs = ("-m", "anystep"), second
    return [start(folder / "run", *more, "--processes", f"localhost:{port},2,{i}", program=programs[i]) for i in range(2)]


def until_step(workdir, step, processes, seconds=300):
    """Waits until the run has made so many steps. RuntimeError if it ends before."""
    metrics, last = workdir / "metrics.jsonl", time.monotonic() + seconds
    while time.monotonic() < last and all(process.poll() is None for process in processes):
        if metrics.exists() and any((row.get("step") or 0) >= step for row in logs.read_rows(metrics)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{workdir} never came to step {step}")


POISONED = """
import sys
import numpy as np
from anystep import data
from anystep.__main__ import main
make = data.make_stream
class Poisoned:
    def __init__(self, stream): self.stream, self.get_state, self.set_state = stream, stream.get_state, stream.set_state
    def __next__(self):
        batch = next(self.stream)
        bad = np.isin(batch["index"] // 16, range(52, 67))[:, None, None, None]
        return batch | {"x0": np.where(bad, np.nan, batch["x0"])}
data.make_stream = lambda *a, **k: Poisoned(make(*a, **k))
main()
"""


def rewinds(folder, seed, number):
    """Batches 52 to 66 are not finite, ten disbelieved steps in a row take the run back: the undisturbed one from step 64 to 45. Others are
    killed or terminated at steps before, within and after that."""
    dice, more = random.Random(seed), ("--config.train.guard.patience=10", "--config.train.log_every=1", "--config.checkpoint.keep=2")
    whole = start(folder / "whole", *more, program=("-c", POISONED))
    assert whole.wait() == 0 and "back to step 45" in said_by(folder / "whole"), said_by(folder / "whole")
    digest, kept, seen = state_of(folder / "whole"), 0, []
    for turn in range(number):
        workdir, step, kind = folder / f"run{turn}", dice.randrange(44, 66), (signal.SIGTERM, signal.SIGKILL)[turn % 2]
        run = start(workdir, *more, program=("-c", POISONED))
        until_step(workdir, step, [run])
        run.send_signal(kind)
        code = run.wait(120)
        again = start(workdir, *more, program=("-c", POISONED))
        good = code in (42, -signal.SIGKILL) and again.wait() == 0 and state_of(workdir) == digest
        kept += good
        seen.append(f"{kind.name[3:]} at {step}{'' if good else ' BROKEN'}")
    return {"tried": number, "kept": kept, "seen": ", ".join(seen)}


def terminate(folder, seed, number):
    """One of two processes; then one that is alone and trains the demo."""
    endless = ("--config.train.steps=100000", "--config.optim.warmup=1")
    one = ("--config.objective.self_evaluation.share=0", "--config.objective.consistency.share=0")  # which one does not matter here
    kept, seen = 0, []
    for turn, expected in enumerate(([42, 42], [42])[:number]):
        workdir = folder / str(turn) / "run"
        workdir.parent.mkdir(parents=True, exist_ok=True)
        runs = [start(workdir, *endless, run=["--config=shapes"])] if turn else two(workdir.parent, *endless, *one)
        until_step(workdir, 10, runs)
        began = time.monotonic()
        runs[-1].terminate()
        left, seconds = [run.wait(120) for run in runs], time.monotonic() - began
        steps = checkpoint.committed_steps(workdir)
        kept += left == expected and f"stopped at step {steps[-1]};" in said_by(workdir) and seconds < 5
        seen.append(f"codes {left}, saved {steps[-1]}, {seconds:.1f} s")
    return {"tried": number, "kept": kept, "seen": "; ".join(seen)}


def orphan(folder, seed, number):
    """Either of two processes is killed; the other must end, and both together go on to the end of an undisturbed run."""
    from anystep.mesh import HEARTBEAT

    few = (
        "--config.train.steps=40",
        "--config.train.sample_every=20",
        "--config.eval.steps=1",
        "--config.optim.warmup=1",
        "--config.objective.consistency.start=25",
    )
    assert [process.wait(600) for process in two(folder / "whole", *few)] == [0, 0]
    digest, kept, seen = state_of(folder / "whole" / "run", 40), 0, []
    for turn in range(number):
        both = two(folder / str(turn), *few)
        until_step(folder / str(turn) / "run", 17, both)
        began = time.monotonic()
        both[turn % 2].kill()
        code, seconds = both[1 - turn % 2].wait(300), time.monotonic() - began
        codes = [process.wait(600) for process in two(folder / str(turn), *few)]
        kept += code != 0 and seconds <= HEARTBEAT + 5 and codes == [0, 0] and state_of(folder / str(turn) / "run", 40) == digest
        seen.append(f"the other left with {code} after {seconds:.1f} s")
    return {"tried": number, "kept": kept, "seen": f"{', '.join(seen)}; heartbeat {HEARTBEAT} s"}


STUCK = """
import sys, time
from anystep import data, guard
from anystep.__main__ import main
guard.Watchdog.__init__.__defaults__ = (3.0, *guard.Watchdog.__init__.__defaults__[1:])
make = data.make_stream
class Stuck:
    def __init__(self, stream): self.stream, self.left, self.get_state = stream, 20, stream.get_state
    def __next__(self):
        self.left -= 1
        if not self.left: time.sleep(1000)
        return next(self.stream)
data.make_stream = lambda *a, **k: Stuck(make(*a, **k))
main()
"""


def stuck(folder, seed, number):
    """A process that is alone; then one of two, whose watchdog ends it, and the other notices."""
    from anystep.mesh import HEARTBEAT

    kept, seen = 0, []
    for turn in range(number):
        workdir = folder / str(turn) / "run"
        workdir.parent.mkdir(parents=True, exist_ok=True)
        runs = two(workdir.parent, second=("-c", STUCK)) if turn else [start(workdir, program=("-c", STUCK))]
        until_step(workdir, 15, runs)
        began = time.monotonic()
        code, seconds = runs[-1].wait(120), time.monotonic() - began
        others = [run.wait(120) for run in runs[:-1]]
        noticed = time.monotonic() - began - seconds <= HEARTBEAT + 5 and 0 not in others
        said = said_by(workdir)
        kept += code == 42 and "WATCHDOG" in said and "__next__" in said and noticed
        seen.append(f"code {code} after {seconds:.1f} s" + "".join(f", the other left with {other}" for other in others))
    return {"tried": number, "kept": kept, "seen": "; ".join(seen) + " where 3 s are the least"}


def disk(folder, seed, number):
    """A tmpfs of 3 MB fills up while the run goes on; another turns read-only. Needs the right to mount."""
    kept, seen = 0, []
    for name, size in (("full", "3m"), ("read-only", "64m")):
        place = folder / name
        place.mkdir(exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True).returncode:
            return {"tried": 0, "kept": 0, "seen": "not tried: no right to mount a tmpfs"}
        try:
            run = start(folder / name, "--config.checkpoint.keep=100", "--workdir", str(place / "run"))  # its log lies elsewhere
            until_step(place / "run", 30, [run])
            while name == "read-only" and run.poll() is None:  # refused while a file is open
                if not subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True).returncode:
                    break
            code = run.wait(300)
            sound = [step for step in checkpoint.committed_steps(place / "run") if not checkpoint.verify(place / "run", step)]
            newest = checkpoint.committed_steps(place / "run")[-1]
            kept += (
                code == 1
                and newest in sound
                and f"/{STEPS} (100%)" in said_by(folder / name)
                and "NOT be written" in said_by(folder / name)
            )
            seen.append(f"{name}: code {code}, newest {newest}")
        finally:
            subprocess.run(["umount", "-l", str(place)], capture_output=True)
    return {"tried": number, "kept": kept, "seen": "; ".join(seen)}


SOAK = """
import json, os, sys, threading, time
import jax
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: "backend_compile" in name and compiled.append(time.monotonic()))
began, memory = time.monotonic(), []
def watch():
    while True:
        memory.append((time.monotonic() - began, int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")))
        time.sleep(0.25)
threading.Thread(target=watch, daemon=True).start()
from anystep import train
main = time.monotonic() - began
train.main(sys.argv[2:])
seen = {"main": main, "memory": memory, "compiled": [at - began for at in compiled], "seconds": time.monotonic() - began - main}
json.dump(seen, open(sys.argv[1], "w"))
"""


def soak(folder, seed, number):
    """Memory over the second half of twice `number` steps: in the first, allocators come to rest."""
    flags = [*beside(folder, RUN), f"--config.train.steps={2 * number}", "--config.checkpoint.every=200", "--workdir", str(folder / "run")]
    with open(folder / "run.log", "w") as said:
        subprocess.run(
            [sys.executable, "-c", SOAK, str(folder / "seen.json"), *flags], stdout=said, stderr=said, check=True, env=os.environ
        )
    seen = json.loads((folder / "seen.json").read_text())
    rows = [row for row in logs.read_rows(folder / "run" / "metrics.jsonl") if "time/step" in row]
    early, late = seen["main"] + rows[0]["seconds"], seen["main"] + rows[-2]["seconds"]  # after the first compilation, before the export
    late_compiled = [when for when in seen["compiled"] if early < when < late]

    def held(first, last):
        return statistics.median(size for when, size in seen["memory"] if first <= (when - early) / (late - early) <= last)

    growth = held(0.9, 1.0) / held(0.5, 0.6) - 1
    booked = sum(value for name, value in rows[-1].items() if name.startswith("time/")) / seen["seconds"]
    blocked = saving(folder)
    promises = (growth < 0.01, seen["compiled"] and not late_compiled, abs(booked - 1) < 0.01, blocked < 0.02)
    said = f"memory {growth:+.2%}, {len(late_compiled)} late compilations, booked {booked:.2%} of {seen['seconds']:.0f} s"
    said += f", a save of shapes blocks {blocked:.2%} of its interval"
    return {"tried": len(promises), "kept": sum(map(bool, promises)), "seen": said, "ledger": rows[-1]}


def saving(folder):
    """How much of the default interval between two checkpoints of the demo one of them blocks the loop."""
    fields = ("train.steps=40", "train.log_every=1", "train.sample_every=0", "checkpoint.every=20", "optim.warmup=5")
    flags = [f"--config.{field}" for field in (*fields, "objective.consistency.start=5")]
    with open(folder / "shapes.log", "w") as said:
        command = [sys.executable, "-m", "anystep", "train", "--config=shapes", *flags, "--workdir", str(folder / "shapes")]
        subprocess.run(command, stdout=said, stderr=said, check=True)
    rows = {row["step"]: row for row in logs.read_rows(folder / "shapes" / "metrics.jsonl") if "loss" in row}
    each = (rows[39]["seconds"] - rows[21]["seconds"]) / 18
    return (rows[21]["time/save"] - rows[19]["time/save"]) / (config.load(["--config", "shapes"])[0].checkpoint.every * each)
