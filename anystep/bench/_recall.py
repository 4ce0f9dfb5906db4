"""What a study's record keeps of its runs, so that another machine goes on from it: costs and the verdict on each picture, not weights."""

import json
from pathlib import Path

from anystep import logs
from anystep.bench import _draw as drawing
from anystep.files import write_whole


def kept(runs, plan):
    """{run: {"identity", "rows"}} of what answers the plan's questions so far, for the record."""
    found = {}
    for run in runs:
        asked = drawing.asked_of(run, plan)[1]
        rows = [row for row in drawing.read_rows(run).values() if row["asked"] == asked]
        if rows:
            found[run.folder.name] = {"identity": identity(run, runs), "rows": rows}
    return found


def bring(record, runs, plan):
    """Writes costs and rows that a record holds of the same configs to the folder of the runs, where there are none yet."""
    held = json.loads(Path(record).read_text())["result"] if Path(record).exists() else {}
    same = [run for run in runs if held.get("drawn", {}).get(run.folder.name, {}).get("identity") == identity(run, runs)]
    for run in same:
        if not (run.folder / "rows.jsonl").exists():
            run.folder.mkdir(parents=True, exist_ok=True)
            writer = logs.JsonlWriter(run.folder / "rows.jsonl")
            for row in held["drawn"][run.folder.name]["rows"]:
                writer.write(row)
    costs = runs[0].folder.parent / "costs.json"
    if runs[0] in same and not costs.exists():  # the first run's time is the unit of all
        write_whole(costs, json.dumps({drawing.digest(run): held["costs"][run.method] for run in same}, indent=1).encode())


def identity(run, runs):
    """Digests of a run's config and of those that it begins with: a student of another teacher is another student."""
    return "-".join(drawing.digest(each) for each in runs if each is run or begins_with(run, each))


def begins_with(run, other):
    return any(argument.endswith(f"={other.folder}") for argument in run.arguments)


def drawn(run, plan):
    """Whether all is recorded that is to be drawn at the end of training."""
    asked, rows = drawing.asked_of(run, plan)[1], drawing.read_rows(run)
    return all((asked, run.config.train.steps, *key) in rows for key in run.keys(plan))


def to_train(run, runs, plan):
    """Whether weights are missing that a run, or one which begins with it, is to be drawn with."""
    if run.done():
        return False
    return not drawn(run, plan) or any(begins_with(other, run) and to_train(other, runs, plan) for other in runs)
