"""Steering: what each method gives and costs beside the unsteered sampler, from the same prompts and noise.

    anystep bench steer --model MODEL --classifier FOLDER --rows ROWS.jsonl [--classifier "noised=FOLDER" ...] [--steps 1,2,4,32]
                        [--methods none,best,flips,faithful,fast,amortised,fast:iterations=8:until=0.8] [--relations 2] [--out FILE.json]

A method is a name with settings behind colons. Several classifiers, named, are compared by the same table: what they learned from, their
layers. The size of a step that is not told is the best of a few on `--tune` prompts of dev, which are no others' here, for each method,
classifier and number of steps. The verdict on each picture and the costs are kept in ROWS, one line each, and nothing that stands there is
drawn again.

All prompts are of the tag position: those of other tags name no relation and are drawn by the sampler as it is. What a steered picture must
not lose are its objects, colours and their number, beside the unsteered picture of the same noise; "worst" is the largest loss of the three
in its standard errors. Of each prompt evaluations and FLOPs are counted as if it were alone (`bench._steer_costs`). A batch goes on in
groups as long as somebody in them moves: columns with a batch size count what its samples pay for each other, too, and "waits" says how
many more looks that is than they would take alone. Memory is what the compiler plans beside its arguments. ECE before is of the probability
that the gate sees (of several relations their product), beside what is drawn unsteered; after, of the probability that the steering ends
with, beside what it has drawn. "variety x" is the root-mean-square distance of two pictures of one prompt over the unsteered one.

Two claims stand below the table, with differences that are paired by prompt: that a method keeps 90 % of the gain of `faithful` at the same
steps, by whichever classifier that is right most often, and that it closes half of the gap between position and two objects among the
unsteered pictures,

    d = p(method) - 0.1 p(none) - 0.9 p(faithful),        d = p(method) - (p(none) + objects(none)) / 2

Each "holds" where d is above zero by two standard errors, and "does not" where it is below by as many.

What a classifier was calibrated on are scenes of dev, too: its ECE is measured with --split test.

A sampler that draws new noise at every step, as restart does, forgets the first one, and with it a steering of the first step alone: many
steps want --sampler euler --ask now, here and for the drawings that the classifier learns from, or more steered steps.
"""

import json
import re
import zlib
from pathlib import Path

import jax
import numpy as np

from anystep import flags, logs, tree
from anystep.bench import _record as record
from anystep.bench import _steer as work
from anystep.bench import _steer_costs as costs
from anystep.bench import _steer_table as tables
from anystep.errors import UserError, run_main
from anystep.steering.method import method_of

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
    parser.add_argument("--variety", type=flags.whole(0, 100_000), default=32, help="prompts that are drawn eight times, 0 for none")
    parser.add_argument("--timed", type=flags.whole(0, 1000), default=3, help="rounds of timing, 0 for none")
    parser.add_argument("--batches", type=flags.steps, default=(1, 8), help="batch sizes that are timed")
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)
    methods = dict(read_method(text.strip()) for text in re.split(r",(?![^\[]*\])", args.methods) if text.strip())
    methods = {"none": ("none", {})} | methods
    classifiers = labelled(args.classifier)
    for flag, path in (("--rows", args.rows), ("--out", args.out)):
        if path and Path(path).is_dir():
            raise UserError(f"{flag} {path!r}: is a folder, allowed is a file")

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
            kept.add(writer, work.draw(case, model, params, what, args.seed, tables.FIELDS), "drawn", case)
        if args.variety and kept.spread(case) is None:
            kept.add(writer, work.spread(case, model, params, what, args.seed, args.variety), "variety", case, args.variety)
    prompts = [row["prompt"] for row in what.metadata]
    for batch in args.batches if args.timed else ():
        missing = [case for case in cases if kept.cost(case, batch) is None]
        for case, found in costs.measured(missing, cases, model, params, prompts, what.first, args.seed, batch, args.timed):
            kept.add(writer, found, "cost", case, batch)
    parts = costs.parts_of(cases, model, params, prompts)
    rows = [tables.summary(case, part, cases, kept, args.batches) for case, part in zip(cases, parts, strict=True)]
    result = {"prompts": args.prompts, "relations": args.relations, "split": args.split, "seed": args.seed, "rows": rows}
    print(tables.table(rows), *tables.said_claims(rows), sep="\n")
    if args.out:
        record.write(args.out, "anystep bench steer " + " ".join(argv), result)


def tuned(case, kept, writer, model, params, what, seed):
    """The case with the step that is right most often, of those the one with the fewest looks."""

    def worth(trial):
        if kept.drawn(trial) is None:
            kept.add(writer, work.draw(trial, model, params, what, seed, tables.FIELDS), "drawn", trial)
        row = kept.drawn(trial)
        return row["position"].count("1"), -np.sum(row["looks"])

    return max(work.trials(case), key=worth, default=case)


def strange(case, model):
    from anystep import api

    d = model.drawing
    times, how = d.times(case.steps, api.tokens_of(model, model.net.shape)), (d.sampler, d.ask, d.eta)
    return [*case.steer.notes, *(f"{case.method} at {case.steps} steps, {line}" for line in case.steer.strange(times, *how))]


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
        if not equal or name == "none":
            raise UserError(f"--methods {text!r}: {setting!r} is no FIELD=VALUE" + " of a method" * (name == "none"))
    try:
        if name != "none":
            method_of(name, found)
    except UserError as error:
        raise UserError(f"--methods {text!r}: {error}") from None
    return text, (name, found)


def labelled(texts):
    """{NAME: FOLDER} of NAME=FOLDER, or FOLDER alone under its last part. UserError for a name that comes twice."""
    found = {}
    for text in texts:
        name, equal, folder = text.partition("=")
        name, folder = (name, folder) if equal else (Path(text).name, text)
        if name in found:
            raise UserError(f"--classifier {text!r}: {name!r} is the name of {found[name]!r} already; NAME=FOLDER gives another")
        found[name] = folder
    return found


class Rows:
    """What is recorded of this model, these prompts and the way that it draws."""

    def __init__(self, args, what, model, params):
        asked = zlib.crc32(json.dumps([what.metadata, what.first, args.seed]).encode())
        self.varied, d = args.variety, model.drawing
        self.asked = f"{asked:08x} {tree.crc32(params):08x} {d.sampler} {d.ask} {d.scale:g} {d.eta:g}"
        there = logs.read_rows(Path(args.rows)) if Path(args.rows).exists() else []
        self.found = {row["key"]: {name: unpacked(value) for name, value in row.items()} for row in there if "key" in row}

    def key(self, kind, case, batch=0):
        place = (jax.devices()[0].device_kind, jax.__version__) if kind == "cost" else ()  # seconds and bytes are a machine's own
        return " | ".join(map(str, (self.asked, kind, case.method, case.steps, work.digest(case), batch, *place)))

    def drawn(self, case):
        return self.found.get(self.key("drawn", case))

    def spread(self, case):
        """{"variety": of each prompt}, None where it is not drawn or not asked for."""
        return self.found.get(self.key("variety", case, self.varied))

    def cost(self, case, batch):
        return self.found.get(self.key("cost", case, batch))

    def add(self, writer, row, kind, case, batch=0):
        key = self.key(kind, case, batch)
        writer.write({"key": key} | {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()})
        self.found[key] = row


def unpacked(value):
    """Rows are flat: what each prompt has of its own is a list as a text."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


if __name__ == "__main__":
    run_main(main)
