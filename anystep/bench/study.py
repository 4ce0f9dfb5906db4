"""A study: methods and seeds trained on one world, drawn from the same prompts and noise, compared prompt by prompt.

    anystep bench study --plan any_step --runs FOLDER [--out FILE.json] [--only "flow matching"]

The plan (see `_plan`) says which configs, seeds, steps, guidance scales and claims. The same command again goes on where it stopped: runs
from their checkpoints, rows from FOLDER/<method>-<seed>/rows.jsonl, where the verdict on each picture is kept, so that nothing recorded is
drawn again. FILE.json keeps them, too: on another machine, with an empty FOLDER, what it holds of the same runs is neither trained nor
drawn again, but for the teachers of what is still to be trained. (`any_step_16px_cpu.json` was written before that and is refused.) Rows
are taken at fixed steps and at fixed seconds of one run: seconds are steps times the step times of all methods, measured side by side on
the machine that drew them, not the clock of a shared machine on two different days. Training and drawing are processes of their own, one at
a time: an accelerator has one owner. It takes hours: `nohup anystep bench study ... > study.log &` leaves it in the background.
"""

import subprocess
import sys
from pathlib import Path

from anystep import flags, logs
from anystep.bench import _plan as plans
from anystep.bench import _recall as recall
from anystep.bench import _record as record
from anystep.bench import _sum as sums
from anystep.errors import UserError, run_main


def main(argv):
    parser = flags.Parser(prog="anystep bench study", description=__doc__.splitlines()[0])
    parser.add_argument("--plan", required=True, help="a Python file with get_plan(), or the name of one in anystep/bench/plans")
    parser.add_argument("--runs", required=True, help="folder of the runs; the same folder goes on")
    parser.add_argument("--only", default="", help="methods to train now, separated by semicolons (default: all)")
    parser.add_argument("--out", default="", help="JSON record to write, or to go on from, and a picture beside it")
    args = parser.parse_args(argv)
    plan = plans.read(args.plan)
    asked = [name.strip() for name in args.only.split(";") if name.strip()]
    for name in asked:
        if name not in plan["methods"]:
            raise UserError(f"--only {name!r}: allowed {', '.join(plan['methods'])}")
    if "://" in args.runs:
        raise UserError(f"--runs {args.runs!r}: must be a folder of this machine")
    folder = Path(flags.folder(args.runs, "--runs"))
    runs = plans.list_runs(plan, folder)

    for run in runs:
        run.done()  # a run of another plan is no part of this one, whether it is trained now or not
    if args.out:
        recall.bring(args.out, runs, plan)
    costs = ("anystep.bench._draw", "costs", args.plan, str(folder))
    if plan["at_seconds"]:  # which checkpoints those are, the costs say
        process(*costs)
    for run in runs:
        if not asked or run.method in asked:
            if recall.to_train(run, runs, plan):
                recall.forget(run)
                process("anystep", "train", *run.arguments, "--workdir", str(run.folder))
            process("anystep.bench._draw", "rows", args.plan, str(folder), run.folder.name)
    process(*costs)
    result = sums.summary(runs, plan, folder)
    print(sums.table(result))
    if args.out:
        record.write(args.out, "anystep bench study " + " ".join(argv), result | {"drawn": recall.kept(runs, plan, result["costs"])})
        if result["rows"]:
            logs.save(sums.picture(result), Path(args.out).with_suffix(".png"))


def process(*command):
    """`python -m` of it; SystemExit with its code if it does not end well: it has said why."""
    code = subprocess.call([sys.executable, "-m", *command])
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    run_main(main)
