"""The parts of a study that hold the devices, each a process: step times of all methods in turn, and the rows of one run.

    python -m anystep.bench._draw costs PLAN FOLDER
    python -m anystep.bench._draw rows PLAN FOLDER RUN

A row is one line of rows.jsonl: what was asked (a digest of prompts and guidance), the training step, sampler, ask, scale, steps; then a
letter a prompt, "1" for right, so that later questions about tags or pairs need no second drawing; how the pictures look beside the
data's (`look`, `variety`); `seconds` include compiling; and with what it was `made`.
"""

import json
import math
import statistics
import time
import zlib
from pathlib import Path

import numpy as np

from anystep import logs
from anystep.bench import _plan as plans
from anystep.bench import _record as record
from anystep.bench.steps import Case
from anystep.checkpoint import committed_steps
from anystep.errors import UserError, run_main
from anystep.files import write_whole
from anystep.subjects import subject
from anystep.train_step import kinds, phases

NAMED = ("asked", "step", "sampler", "ask", "scale", "steps")  # what a row is found by
COSTS, POINTS = "costs.json", "points.json"  # of a study; of a run whose checkpoints are on another machine


def main(argv):
    verb, plan, folder, *names = argv
    plan, folder = plans.read(plan), Path(folder)
    runs = plans.list_runs(plan, folder)
    if verb == "costs":
        costs([run for run in runs if run.method == runs[0].method or plan["at_seconds"] or read_rows(run)], folder)
    for run in runs:
        if run.folder.name in names:
            draw(run, plan, points(run, plan, read_costs(folder).get(digest(run))))


def digest(run):
    """What a step costs depends on the config, not on the seed, nor on what it begins with, on how long or how fast it learns."""
    said = {name: value for name, value in run.config.to_dict().items() if name not in ("seed", "init_from", "checkpoint", "eval")}
    said["objective"] = said["objective"] | {"teacher": said["objective"]["teacher"]["scales"]}
    said["train"], said["optim"] = said["train"] | {"steps": 0}, said["optim"] | {"lr": 0.0}
    return f"{zlib.crc32(json.dumps(said, sort_keys=True).encode()):08x}"


def read_costs(folder):
    """{digest: {"phases": [[first step, seconds per step], ...], "flops_ratio", "memory_bytes"}}"""
    kept = folder / COSTS
    return json.loads(kept.read_text()) if kept.exists() else {}


def costs(runs, folder, rounds=5, steps=4):
    """Measures the methods that have not been measured yet, each in turn with the first of all, whose first time stays the unit: a machine
    may be slower another day. A phase begins where an objective comes in; `flops_ratio` is that of the last phase over the first method's.
    Every method is kept as soon as it is measured."""
    configs, found = {digest(run): run.config for run in runs if run.seed == 0}, read_costs(folder)
    unit = next(iter(configs))
    missing = {name: config for name, config in configs.items() if name not in found}
    base = Case(configs[unit], 0) if missing else None
    for name, config in missing.items():
        cases = {first: base if (name, first) == (unit, 0) else Case(config, first) for first in starts(config)}
        beside, seconds = [], {first: [] for first in cases}
        for _ in range(rounds):
            beside.append(base.run(steps))
            for first, case in cases.items():
                seconds[first].append(case.run(steps))
        scale = found[unit]["phases"][0][1] / statistics.median(beside) if unit in found else 1.0
        last = cases[max(cases)]
        phases = [[first, scale * statistics.median(taken)] for first, taken in seconds.items()]
        found[name] = {"phases": phases, "flops_ratio": last.flops / base.flops, "memory_bytes": last.memory}
        write_whole(folder / COSTS, json.dumps(found, indent=1).encode())


def starts(config):
    """Steps of training at which the work of a step may change."""
    return sorted({0, *(kinds(config) * step for step in phases(config))})


def seconds_until(cost, step):
    """Seconds of training until `step`, from the phases of one method."""
    ends = [first for first, _ in cost["phases"][1:]] + [float("inf")]
    return sum(each * max(min(step, end) - first, 0) for (first, each), end in zip(cost["phases"], ends, strict=True))


def points(run, plan, cost):
    """{"step 800": saved step, "120 s": ..., "end": ...}: the newest checkpoint not beyond it, if there is one; no point beyond the end."""
    end = run.config.train.steps
    saved = [end] if run.model else committed_steps(run.folder)
    if end not in saved and (kept := read_points(run)):
        names = {"end", *(f"step {most}" for most in plan["at_steps"]), *(f"{most} s" for most in plan["at_seconds"])}
        return {name: step for name, step in kept.items() if name in names}
    if end not in saved:
        raise UserError(f"{run.folder}: has no checkpoint of its last step, {end}; remove the folder to train it again")
    found = {f"step {most}": [step for step in saved if step <= most] for most in plan["at_steps"] if most <= end}
    for most in plan["at_seconds"]:
        if most <= seconds_until(cost, end):
            found[f"{most} s"] = [step for step in saved if seconds_until(cost, step) <= most]
    return {name: steps[-1] for name, steps in found.items() if steps} | {"end": end}


def read_points(run):
    """`points` as a record had them, {} where none was brought."""
    kept = run.folder / POINTS
    return json.loads(kept.read_text()) if kept.exists() else {}


def asked_of(run, plan):
    """(metadata of the prompts, digest of all that decides a picture but the key)."""
    metadata = subject(run.config.data, plan["prompts"], plan["split"]).metadata
    settings = run.config.eval
    said = [metadata, plan["split"], plan["variety"], settings.eta, list(settings.interval), settings.energy_preserving]
    return metadata, f"{zlib.crc32(json.dumps(said, sort_keys=True, default=str).encode()):08x}"


def read_rows(run):
    """{what the row is found by: row}"""
    kept = run.folder / "rows.jsonl"
    return {found_by(row): row for row in (logs.read_rows(kept) if kept.exists() else [])}


def found_by(row):
    return tuple(row[name] for name in NAMED)


def draw(run, plan, at):
    """Draws and judges what is not recorded yet, at every point."""
    from anystep import api

    done, writer = read_rows(run), logs.JsonlWriter(run.folder / "rows.jsonl")
    judge = subject(run.config.data, plan["prompts"], plan["split"]).judge
    metadata, asked = asked_of(run, plan)
    prompts, model = [row["prompt"] for row in metadata], None
    for step in sorted(set(at.values())):
        end = step == run.config.train.steps
        missing = [key for key in run.keys(plan, end) if (asked, step, *key) not in done]
        if not missing:
            continue
        loaded, params = api.load(run.model) if run.model else api.load(run.folder, step)
        model = model or loaded  # one compilation for all the steps of a run
        for sampler, ask, scale, count in missing:
            began = time.perf_counter()
            x = api.sample_array(model, params, prompts, count, guide=scale, sampler=sampler, ask=ask)
            seconds = time.perf_counter() - began
            verdicts = [judge(picture, row) for picture, row in zip(x, metadata, strict=True)]
            said = {name: "".join(str(int(verdict[name])) for verdict in verdicts) for name in ("correct", "joint")}
            key = dict(zip(NAMED, (asked, step, sampler, ask, scale, count), strict=True))
            more = {"seconds": seconds, "variety": None, "made": record.made()}
            if end and (sampler, ask, scale) == run.draws[0] and math.prod(plan["variety"]):
                some, each = plan["variety"]
                again = [prompt for prompt in prompts[:some] for _ in range(each)]
                pictures = api.sample_array(model, params, again, count, guide=scale, sampler=sampler, ask=ask)
                more["variety"] = float(np.mean(variety(pictures, each)))
            writer.write(key | said | look(x, run.config.model) | more)


def look(x, section):
    """Of pictures at the door, in units of the data's deviation (the section `model` says how): root mean square, and the mean over
    pictures and channels of the deviation over pixels. Above the data's own: saturated; below: washed out."""
    unit = (np.asarray(x) - section.shift) / section.scale
    return {"norm": float(np.sqrt(np.mean(np.square(unit)))), "deviation": float(np.mean(np.std(unit, axis=(1, 2))))}


def variety(x, each):
    """Of each prompt the mean root-mean-square distance of two of its pictures, at the door; x has `each` of every prompt in turn."""
    x = np.asarray(x).reshape(-1, each, math.prod(x.shape[1:]))
    first, second = np.triu_indices(each, 1)
    return np.mean(np.sqrt(np.mean(np.square(x[:, first] - x[:, second]), axis=-1)), axis=-1)


if __name__ == "__main__":
    run_main(main)
