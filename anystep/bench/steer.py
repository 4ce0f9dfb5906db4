"""Steering: what each method gives and costs beside the unsteered sampler, from the same prompts and noise.

    anystep bench steer --model MODEL --classifier FOLDER --rows ROWS.jsonl [--classifier "noised=FOLDER" ...] [--steps 1,2,4,32]
                        [--methods none,best,flips,faithful,fast,amortised,fast:iterations=8:until=0.8] [--relations 2] [--out FILE.json]

A method is a name with settings behind colons. Several classifiers, named, are compared by the same table: what they learned from, their
layers. The size of a step that is not told is the best of a few on `--tune` prompts of dev, which are no others' here, for each method,
classifier and number of steps. The verdict on each picture and the costs are kept in ROWS, one line each, and nothing that stands there is
drawn again.

All prompts are of the tag position: those of other tags name no relation and are drawn by the sampler as it is. What a steered picture must
not lose are its objects, colours and their number, beside the unsteered picture of the same noise; "worst" is the largest loss of the three
in its standard errors. Of each prompt evaluations and FLOPs are counted as if it were alone (`bench._steer`). A batch goes on in groups as
long as somebody in them moves: its seconds show what that costs, and "waits" how many more looks it takes than its samples would alone.
Memory is what the compiler plans beside its arguments. ECE before is of the probability that the gate sees, beside what is drawn unsteered;
after, of the probability that the steering ends with, beside what it has drawn.

A sampler that draws new noise at every step, as restart does, forgets the first one, and with it a steering of the first step alone: many
steps want --sampler euler --ask now, here and for the drawings that the classifier learns from, or more steered steps.
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np

from anystep import compare, flags, logs, tree
from anystep.bench import _record as record
from anystep.bench import _steer as work
from anystep.errors import UserError, run_main
from anystep.steering.measures import expected_calibration_error

FIELDS = ("position", "objects", "colors", "count", "correct", "joint")
KEPT = ("objects", "colors", "count")  # what steering must not lose
METHODS = "none,best,flips,faithful,fast,amortised"


def main(argv):
    parser = flags.Parser(prog="anystep bench steer", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a model that learned the shapes world")
    parser.add_argument("--classifier", action="append", default=[], required=True, help="folder or NAME=FOLDER, once or more")
    parser.add_argument("--rows", required=True, help="file of verdicts and costs; the same file goes on")
    parser.add_argument("--methods", default=METHODS, help=f"(default: {METHODS})")
    parser.add_argument("--steps", type=flags.steps, default=(1, 2, 4, 32))
    flags.add_walk(parser)
    parser.add_argument("--prompts", type=flags.whole(2, 100_000), default=400)
    parser.add_argument("--relations", type=flags.whole(1, 3), default=1, help="in a prompt")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED), default=0)
    parser.add_argument("--tune", type=flags.whole(0, 100_000), default=64, help="prompts to tune steps on, 0 for the defaults")
    parser.add_argument("--timed", type=flags.whole(0, 1000), default=3, help="rounds of timing, 0 for none")
    parser.add_argument("--batches", type=flags.steps, default=(1, 8), help="batch sizes that are timed")
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)
    methods = dict(read_method(text.strip()) for text in re.split(r",(?![^\[]*\])", args.methods) if text.strip())
    methods = {"none": ("none", {})} | methods
    classifiers = dict(named(text) for text in args.classifier)

    from anystep import api
    from anystep.cache import use_compile_cache

    use_compile_cache()
    model, params = api.load(args.model)
    model = api.walking(model, args.sampler, args.ask, args.scale)
    what = work.asked(model, args.prompts, args.relations, args.split, args.seed)
    cases, writer = work.cases(model, params, methods, classifiers, args.steps), logs.JsonlWriter(Path(args.rows))
    if args.tune:
        tuning = work.asked(model, args.tune, args.relations, "dev", args.seed, tuning=True)
        kept = Rows(args, tuning, model, params)
        cases = [tuned(case, kept, writer, model, params, tuning, args.seed) for case in cases]
    for line in dict.fromkeys(line for case in cases if case.steer for line in strange(case, model)):
        print(line)
    kept = Rows(args, what, model, params)
    for case in cases:
        if kept.drawn(case) is None:
            kept.add(writer, work.draw(case, model, params, what, args.seed, FIELDS), "drawn", case)
    for batch in args.batches if args.timed else ():
        missing = [case for case in cases if kept.cost(case, batch) is None]
        for case, found in work.costs(missing, cases, model, params, what, args.seed, batch, args.timed):
            kept.add(writer, found, "cost", case, batch)
    rows = [summary(case, cases, kept, args.batches if args.timed else (), len(what.metadata)) for case in cases]
    result = {"prompts": args.prompts, "relations": args.relations, "split": args.split, "seed": args.seed, "rows": rows}
    print(table(rows))
    if args.out:
        record.write(args.out, "anystep bench steer " + " ".join(argv), result)


def tuned(case, kept, writer, model, params, what, seed):
    """The case with the step that is right most often, of those the one with the fewest looks."""

    def worth(trial):
        if kept.drawn(trial) is None:
            kept.add(writer, work.draw(trial, model, params, what, seed, FIELDS), "drawn", trial)
        row = kept.drawn(trial)
        return row["position"].count("1"), -sum(row["looks"])

    return max(work.trials(case), key=worth, default=case)


def strange(case, model):
    from anystep import api

    times = model.drawing.times(case.steps, api.tokens_of(model, model.net.shape))
    return [*case.steer.notes, *(f"{case.method} at {case.steps} steps, {line}" for line in case.steer.strange(times))]


def read_method(text):
    """ "fast:iterations=8:until=0.8" -> (itself, ("fast", {"iterations": 8, "until": 0.8}))."""
    name, *settings = text.split(":")
    if name not in ("none", *flags.STEERING):
        raise UserError(f"--methods {text!r}: allowed none, {', '.join(flags.STEERING)}")
    found = {}
    for setting in settings:
        field, equal, value = setting.partition("=")
        try:
            found[field] = json.loads(value.lower()) if value.lower() in ("true", "false") or not value.isalpha() else value
        except ValueError:
            equal = ""
        if not equal:
            raise UserError(f"--methods {text!r}: {setting!r} is no FIELD=VALUE")
    return text, (name, found)


def named(text):
    name, equal, folder = text.partition("=")
    return (name, folder) if equal else (Path(text).name, text)


class Rows:
    """What is recorded of this model, these prompts and the way that it draws."""

    def __init__(self, args, what, model, params):
        asked = zlib.crc32(json.dumps([what.metadata, what.first, args.seed]).encode())
        d = model.drawing
        self.asked = f"{asked:08x} {tree.crc32(params):08x} {d.sampler} {d.ask} {d.scale:g} {d.eta:g}"
        there = logs.read_rows(Path(args.rows)) if Path(args.rows).exists() else []
        self.found = {row["key"]: {name: unpacked(value) for name, value in row.items()} for row in there if "key" in row}

    def key(self, kind, case, batch=0):
        return " | ".join(map(str, (self.asked, kind, case.method, case.steps, work.digest(case), batch)))

    def drawn(self, case):
        return self.found.get(self.key("drawn", case))

    def cost(self, case, batch):
        return self.found.get(self.key("cost", case, batch))

    def add(self, writer, row, kind, case, batch=0):
        key = self.key(kind, case, batch)
        writer.write({"key": key} | {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()})
        self.found[key] = row


def unpacked(value):
    """Rows are flat: what each prompt has of its own is a list as a text."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def summary(case, cases, kept, batches, prompts):
    """One row of the table: shares with the standard errors of paired differences to the unsteered sampler, costs relative to it."""
    base = next(other for other in cases if other.method == "none" and other.steps == case.steps)
    mine, its = kept.drawn(case), kept.drawn(base)
    out = {"method": case.method, "classifier": case.classifier, "steps": case.steps}
    out["step"] = case.steer.program.method.step if case.steer and case.steer.program.method.iterations else None
    for field in FIELDS:
        a, b = (np.array(list(row[field]), int)[None] for row in (mine, its))
        found = compare.difference(a, b, ["position"] * prompts)
        out[field] = {"mean": found.mine, "difference": found.mean, "error": found.error}
    for name in ("moves", "looks", "distance"):
        out[name] = float(np.mean(mine[name])) if mine[name] else 0.0
    for name, shown in (("before", its), ("after", mine)):
        p = mine[name] if mine[name] and None not in mine[name] else None
        out[name] = float(np.mean(p)) if p else None
        out[f"ece_{name}"] = expected_calibration_error(p, np.array(list(shown["position"]), int)) if p else None
    for name in ("evaluations", "flops"):
        out |= {name: mine[name], f"{name}_ratio": mine[name] / its[name]}
    out["backward"] = mine["backward"]
    for batch in batches:
        cost, plain = kept.cost(case, batch), kept.cost(base, batch)
        out[f"batch_{batch}"] = {
            "seconds": cost["seconds"],
            "seconds_ratio": cost["ratio"],
            "memory_ratio": cost["memory"] / plain["memory"] if plain["memory"] else None,
            "waits": work.waiting(mine["looks"], mine["moves"], batch, case.steer.program.method.groups) if mine["looks"] else None,
        }
    return out


def worst(row):
    """The largest loss among what must not be lost, in standard errors."""
    return min(row[field]["difference"] / row[field]["error"] if row[field]["error"] else 0.0 for field in KEPT)


def table(rows):
    batches = [name for name in rows[0] if name.startswith("batch_")]
    heads = ["steps", "method", "step", "classifier", "position", "less none", *KEPT, "worst", "ECE before", "after", "moves"]
    heads += ["evaluations", "FLOPs"] + [f"{word} {name[6:]}" for name in batches for word in ("seconds x", "waits", "memory x")]
    lines = [heads]
    for row in sorted(rows, key=lambda row: row["steps"]):
        position = row["position"]
        line = [str(row["steps"]), row["method"], cell(row["step"], "g"), row["classifier"], f"{position['mean']:.3f}"]
        line += [f"{position['difference']:+.3f} ± {position['error']:.3f}", *(f"{row[field]['mean']:.3f}" for field in KEPT)]
        line += [f"{worst(row):+.1f} se", cell(row["ece_before"]), cell(row["ece_after"]), f"{row['moves']:.2f}"]
        line += [f"{row['evaluations_ratio']:.2f}", f"{row['flops_ratio']:.2f}"]
        line += [cell(row[name][what]) for name in batches for what in ("seconds_ratio", "waits", "memory_ratio")]
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def cell(value, form=".2f"):
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    run_main(main)
