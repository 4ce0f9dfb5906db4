"""Steering: what each method gives and costs beside the unsteered sampler, from the same prompts and noise.

    anystep bench steer --model MODEL --classifier FOLDER --rows ROWS.jsonl [--classifier "noised=FOLDER" ...] [--steps 1,2,4,32]
                        [--methods none,best,flips,faithful,fast,amortised,fast:iterations=8:until=0.8] [--relations 2] [--out FILE.json]

A method is a name with settings behind colons; "faithful" is steered at the first of up to four steps and at half of more, as published.
Several classifiers, named, are compared by the same table: what they learned from, their layers. The verdict on each picture and the costs
are kept in ROWS, one line each, and nothing that stands there is drawn again.

Prompts are `--prompts` of the tag position and a quarter as many of each other tag, drawn together. "evaluations" and "FLOPs" are of the
prompts of position, each counted as if it were alone: forward passes up to the last layer that is read, backward passes, what is left of
the step; a batch waits for its last sample, which its seconds show. Memory is what the compiler plans beside its arguments.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from anystep import compare, flags, logs
from anystep.bench import _record as record
from anystep.bench import _steer as work
from anystep.errors import UserError, run_main

FIELDS = ("position", "objects", "colors", "count", "correct", "joint")
METHODS = "none,best,flips,faithful,fast,amortised"


def main(argv):
    parser = flags.Parser(prog="anystep bench steer", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a model that learned the shapes world")
    parser.add_argument("--classifier", action="append", default=[], required=True, help="folder or NAME=FOLDER, once or more")
    parser.add_argument("--rows", required=True, help="file of verdicts and costs; the same file goes on")
    parser.add_argument("--methods", default=METHODS, help=f"(default: {METHODS})")
    parser.add_argument("--steps", type=flags.steps, default=(1, 2, 4, 32))
    parser.add_argument("--prompts", type=flags.whole(2, 100_000), default=400, help="of the tag position")
    parser.add_argument("--relations", type=flags.whole(1, 3), default=1, help="in a prompt of position")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED), default=0)
    parser.add_argument("--timed", type=flags.whole(0, 1000), default=3, help="rounds of timing, 0 for none")
    parser.add_argument("--batches", type=flags.steps, default=(1, 8), help="batch sizes that are timed")
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)
    methods = dict(read_method(text.strip()) for text in args.methods.split(",") if text.strip())
    methods = {"none": ("none", {})} | methods
    classifiers = dict(named(text) for text in args.classifier)

    from anystep import api
    from anystep.cache import use_compile_cache

    use_compile_cache()
    model, params = api.load(args.model)
    metadata, judge = work.asked(model, args.prompts, args.relations, args.split, args.seed)
    cases = work.cases(model, methods, classifiers, args.steps)
    kept, writer = Rows(args, metadata, params), logs.JsonlWriter(Path(args.rows))
    for case in cases:
        if kept.drawn(case) is None:
            kept.add(writer, work.draw(case, model, params, metadata, judge, args.seed, FIELDS), "drawn", case)
    for batch in args.batches if args.timed else ():
        missing = [case for case in cases if kept.cost(case, batch) is None]
        for case, found in work.costs(missing, cases, model, params, metadata, args.seed, batch, args.timed):
            kept.add(writer, found, "cost", case, batch)
    rows = [summary(case, cases, kept, args.batches if args.timed else (), metadata) for case in cases]
    result = {"prompts": args.prompts, "relations": args.relations, "split": args.split, "seed": args.seed, "rows": rows}
    print(table(rows))
    if args.out:
        record.write(args.out, "anystep bench steer " + " ".join(argv), result)


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
    """What is recorded of this model, these prompts and classifiers."""

    def __init__(self, args, metadata, params):
        import jax

        digest = 0
        for leaf in jax.tree.leaves(params):
            digest = zlib.crc32(np.asarray(leaf).tobytes(), digest)
        self.asked = f"{zlib.crc32(json.dumps([metadata, args.seed]).encode()):08x} {digest:08x}"
        there = logs.read_rows(Path(args.rows)) if Path(args.rows).exists() else []
        self.found = {row["key"]: row for row in there if "key" in row}

    def key(self, kind, case, batch=0):
        return " | ".join(map(str, (self.asked, kind, case.method, case.classifier, case.digest, case.steps, batch)))

    def drawn(self, case):
        return self.found.get(self.key("drawn", case))

    def cost(self, case, batch):
        return self.found.get(self.key("cost", case, batch))

    def add(self, writer, row, kind, case, batch=0):
        key = self.key(kind, case, batch)
        writer.write({"key": key} | row)
        self.found[key] = row


def summary(case, cases, kept, batches, metadata):
    """One row of the table: shares with the standard errors of paired differences to the unsteered sampler, costs relative to it."""
    base = next(other for other in cases if other.method == "none" and other.steps == case.steps)
    mine, its = kept.drawn(case), kept.drawn(base)
    tags = np.array([row["tag"] for row in metadata])
    position = tags == "position"
    out = {"method": case.method, "classifier": case.classifier, "steps": case.steps}

    def paired(field, where):
        a, b = (np.array(list(row[field]), int)[None, where] for row in (mine, its))
        found = compare.difference(a, b, tags[where])
        return {"mean": found.mine, "difference": found.mean, "error": found.error}

    for field in FIELDS:
        out[field] = paired(field, position)
    others = sorted(set(tags) - {"position"})
    out["tags"] = {tag: paired("correct", tags == tag) for tag in others}
    for name in ("before", "after", "iterations", "looks", "evaluations", "flops"):
        out[name] = mine[name]
    for name in ("evaluations", "flops"):
        out[f"{name}_ratio"] = mine[name] / its[name]
    for batch in batches:
        cost, plain = kept.cost(case, batch), kept.cost(base, batch)
        out[f"batch_{batch}"] = {
            "seconds": cost["seconds"],
            "seconds_ratio": cost["ratio"],
            "memory_ratio": cost["memory"] / plain["memory"] if plain["memory"] else None,
        }
    return out


def table(rows):
    batches = [name for name in rows[0] if name.startswith("batch_")]
    heads = ["steps", "method", "classifier", "position", "less none", "objects", "correct", "worst tag", "moves", "evaluations", "FLOPs"]
    heads += [f"{word} {name[6:]}" for name in batches for word in ("seconds x", "memory x")]
    lines = [heads]
    for row in sorted(rows, key=lambda row: row["steps"]):
        worst = min((tag["difference"] / (tag["error"] or 1.0) for tag in row["tags"].values()), default=0.0)
        position, moves = row["position"], row["iterations"]
        line = [str(row["steps"]), row["method"], row["classifier"], f"{position['mean']:.3f}"]
        line += [
            f"{position['difference']:+.3f} ± {position['error']:.3f}",
            f"{row['objects']['mean']:.3f}",
            f"{row['correct']['mean']:.3f}",
        ]
        line += [f"{worst:+.1f} se", f"{moves:.2f}", f"{row['evaluations_ratio']:.2f}", f"{row['flops_ratio']:.2f}"]
        for name in batches:
            memory = row[name]["memory_ratio"]
            line += [f"{row[name]['seconds_ratio']:.2f}", "" if memory is None else f"{memory:.2f}"]
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


if __name__ == "__main__":
    run_main(main)
