"""The sum of a study's rows: scores with their errors, claims with their verdicts, as a record, a table and a picture."""

import numpy as np

from anystep import compare, logs
from anystep.bench import _draw as drawn
from anystep.subjects import subject


def summary(runs, plan, folder):
    """{"rows": scores of every method, point, draw, scale and number of steps; "claims": verdicts; "costs"} of what is recorded so far."""
    measured = drawn.read_costs(folder)
    costs = {run.method: measured[drawn.digest(run)] for run in runs if drawn.digest(run) in measured}
    metadata = drawn.asked_of(runs[0], plan)[0]
    tags = [row["tag"] for row in metadata]
    found, at = {}, {}  # (method, point, sampler, ask, scale, steps) -> {seed: row}; (method, point) -> training step
    for run in runs:
        rows = drawn.read_rows(run)
        asked = drawn.asked_of(run, plan)[1]
        for point, step in drawn.points(run, plan, costs[run.method]).items() if rows else ():
            at[run.method, point] = step
            for key in run.keys(plan, point == "end"):
                if (asked, step, *key) in rows:
                    found.setdefault((run.method, point, *key), {})[run.seed] = rows[asked, step, *key]
    complete = {key for key in found if len(found[key]) == plan["methods"][key[0]]["seeds"]}
    return {
        "plan": plan,
        "prompts": len(tags),
        "split": plan["split"],
        "costs": costs,
        "data": of_the_data(runs[0], plan),
        "rows": [score(key, found[key], metadata, at, costs) for key in found],
        "claims": [judged(found, complete, runs, plan, tags, *claim) for claim in plan["claims"]],
    }


def of_the_data(run, plan):
    """How the data's own pictures of the same prompts look, and how far those of one prompt lie apart."""
    metadata, (some, each) = drawn.asked_of(run, plan)[0], plan["variety"]
    example = subject(run.config.data, plan["prompts"], plan["split"]).example
    pictures = np.stack([example(row, 0) for row in metadata])
    again = np.stack([example(row, number) for row in metadata[:some] for number in range(each)]) if some * each else None
    return drawn.look(pictures, run.config.model) | {"variety": None if again is None else float(np.mean(drawn.variety(again, each)))}


def score(key, by_seed, metadata, at, costs):
    """One row of the table; `error` as of a difference to a model that is never right."""
    method, point, sampler, ask, scale, steps = key
    right, tags = stack(by_seed), [row["tag"] for row in metadata]
    objects = np.array([sum(entry.get("count", 1) for entry in row.get("include", [{}])) for row in metadata])
    mean = {name: [row[name] for row in by_seed.values()] for name in ("norm", "deviation", "variety")}
    found = compare.difference(right, np.zeros((1, len(tags))), tags)
    each = compare.overall(right, tags)
    seeds = float(np.std(each, ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
    return {
        "method": method,
        "at": point,
        "step": at[method, point],
        "seconds": drawn.seconds_until(costs[method], at[method, point]),
        "sampler": sampler,
        "ask": ask,
        "scale": scale,
        "steps": steps,
        "seeds": len(each),
        "overall": found.mean,
        "error": float(np.hypot(found.prompts, seeds or 0.0)),
        "joint": float(np.mean(stack(by_seed, "joint"))),  # objects, colours and places, whatever the silhouettes
        "tags": {tag: float(right[:, np.array(tags) == tag].mean()) for tag in sorted(set(tags))},
        "objects": {str(number): float(right[:, objects == number].mean()) for number in sorted(set(objects.tolist()))},
    } | {name: None if None in values else float(np.mean(values)) for name, values in mean.items()}


def judged(found, complete, runs, plan, tags, a, claim, b, share=1.0):
    """A claim with its difference (a less `share` of b) and verdict; "not recorded" until every seed of both sides is, of all other methods
    for "best"."""
    said = {"a": a, "claim": claim, "b": b, "share": share, "verdict": "not recorded"}
    mine, rivals = key_of(a), [key_of(b)] if b["method"] != "best" else others(a["method"], b["steps"], runs, plan)
    if not {mine, *rivals} <= complete:
        return said
    theirs = max(rivals, key=lambda key: compare.overall(stack(found[key]), tags).mean())
    same = mine[0] == theirs[0]
    d = compare.difference(stack(found[mine]), share * stack(found[theirs]), tags, same)
    return said | {
        "against": list(theirs),
        "rivals": len(rivals),
        **d._asdict(),
        "freedom": finite(d.freedom),
        "verdict": compare.verdict(d, claim, len(rivals)),
    }


def finite(number):
    """None for the infinite, which JSON does not know."""
    return number if np.isfinite(number) else None


def key_of(place):
    return (place["method"], "end", place["sampler"], place["ask"], place["scale"], place["steps"])


def others(method, steps, runs, plan):
    """Every way to draw that the other methods have at so many steps. The best of them is chosen on the prompts of the claim, which favours
    it: `compare.verdict` asks for more, by their number."""
    return sorted(
        {(run.method, "end", *key) for run in runs for key in run.keys(plan) if run.method != method and key[-1] == steps}, key=str
    )


def stack(by_seed, name="correct"):
    """Truth values [seeds, prompts]."""
    return np.array([list(by_seed[seed][name]) for seed in sorted(by_seed)], int)


def lines_of(result, first_only=False):
    """At the end of training: {"method, sampler asking, w": [(steps, overall, error), ...]}; `first_only`: of a method's first draw."""
    lines, first = {}, {}
    for row in result["rows"]:
        how = (row["sampler"], row["ask"], row["scale"])
        if row["at"] == "end" and (first.setdefault(row["method"], how) == how or not first_only):
            name = f"{row['method']}, {row['sampler']} {row['ask']}" + ("" if row["scale"] is None else f", w {row['scale']:g}")
            lines.setdefault(name, []).append((row["steps"], row["overall"], row["error"]))
    return lines


def table(result):
    """Scores at the end of training, then the claims."""
    out = []
    for name, line in lines_of(result).items():
        out.append(f"{name:48}" + "  ".join(f"{steps}: {score:.3f} ± {error:.3f}" for steps, score, error in sorted(line)))
    for claim in result["claims"]:
        a, b = (" ".join(str(part) for part in claim[side].values()) for side in ("a", "b"))
        size = f" ({claim['mean']:+.3f} ± {claim['error']:.3f})" if "mean" in claim else ""
        share = "" if claim["share"] == 1.0 else f"{claim['share']:g} of "
        out.append(f"{claim['verdict']:12} {a}: {claim['claim']}: {share}{b}{size}")
    return "\n".join(out)


def picture(result):
    """Accuracy against steps at the end of training, a line a method, drawn in the first of its ways."""
    return logs.curves(lines_of(result, first_only=True), "steps", "share of prompts drawn right", logx=True, ylim=(0, 1), size=(900, 520))
