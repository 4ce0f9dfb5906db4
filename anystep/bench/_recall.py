"""What a study's record keeps of its runs, so that another machine goes on from it: costs and the verdict on each picture, not weights."""

import json
from pathlib import Path

from anystep import logs
from anystep.bench import _draw as drawing
from anystep.bench import _record as record
from anystep.bench._plan import begins_with, identity
from anystep.errors import UserError
from anystep.files import write_whole


def kept(runs, plan, costs):
    """{run: {"identity", "points", "cost", "rows"}} of what answers the plan's questions so far, for the record."""
    found = {}
    for run in runs:
        asked = drawing.asked_of(run, plan)[1]
        rows = [row for row in drawing.read_rows(run).values() if row["asked"] == asked]
        if rows:
            points, cost = drawing.points(run, plan, costs[run.method]), costs[run.method]
            found[run.folder.name] = {"identity": identity(run, runs), "points": points, "cost": cost, "rows": rows}
    return found


def bring(path, runs, plan):
    """Writes what a record holds of the same runs into their folders, beside what is there, unless they were trained there: config, points,
    rows; and costs if they were measured on a device like this one, with these versions. UserError for a file that would be lost: one that
    is no record of a study, or keeps no verdicts to go on from."""
    if not Path(path).exists():
        return
    try:
        said = json.loads(Path(path).read_text())
        held, made = said["result"]["drawn"], {name: said[name] for name in ("device", "versions")}
        found = {run.folder.name: held[run.folder.name]["identity"] for run in runs if run.folder.name in held}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__} ({error})"
        raise UserError(f"--out {path}: is there and no record that a study can go on from, {why}; name another file") from None
    same = [run for run in runs if found.get(run.folder.name) == identity(run, runs)]
    for run in same:
        if run.done() and not run.model:
            continue
        there, writer = drawing.read_rows(run), logs.JsonlWriter(run.folder / "rows.jsonl")
        for row in held[run.folder.name]["rows"]:
            if drawing.found_by(row) not in there:
                writer.write(row)
        if not (run.folder / "config.json").exists():
            write_whole(run.folder / "config.json", json.dumps(run.config.to_dict()).encode())  # another one is refused from now on
        write_whole(run.folder / drawing.POINTS, json.dumps(held[run.folder.name]["points"]).encode())
    folder = runs[0].folder.parent
    if runs[0] in same and made == record.place() and not (folder / drawing.COSTS).exists():  # the first one's time is the unit of all
        costs = {drawing.digest(run): held[run.folder.name]["cost"] for run in same}
        write_whole(folder / drawing.COSTS, json.dumps(costs, indent=1).encode())


def drawn(run, plan):
    """Whether all is recorded that the plan asks of a run, by an earlier one's points."""
    points, rows, asked = drawing.read_points(run), drawing.read_rows(run), drawing.asked_of(run, plan)[1]
    end, wanted = run.config.train.steps, {"end", *(f"step {most}" for most in plan["at_steps"] if most <= run.config.train.steps)}
    if cost := drawing.read_costs(run.folder.parent).get(drawing.digest(run)):
        wanted |= {f"{most} s" for most in plan["at_seconds"] if most <= drawing.seconds_until(cost, end)}
    if not wanted <= set(points):
        return False
    return all((asked, step, *key) in rows for name, step in points.items() for key in run.keys(plan, name == "end"))


def to_train(run, runs, plan):
    """Whether weights are missing that a run, or one which begins with it, is to be drawn with."""
    if run.done():
        return False
    return not drawn(run, plan) or any(begins_with(other, run) and to_train(other, runs, plan) for other in runs if other is not run)


def forget(run):
    """What a record said of a run that is to be trained here: rows of two trainings are not put together."""
    for name in ("rows.jsonl", drawing.POINTS):
        (run.folder / name).unlink(missing_ok=True)
