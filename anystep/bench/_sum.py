"""The sum of a study's rows: scores with their errors, claims with their verdicts, as a record, a table and a picture."""

import numpy as np

from anystep import compare, logs
from anystep.bench import _draw as drawn


def summary(runs, plan, folder):
    """{"rows": scores of every method, point, draw, scale and number of steps; "claims": verdicts; "costs"} of what is recorded so far."""
    costs = {run.method: drawn.read_costs(folder)[drawn.digest(run)] for run in runs}
    tags = [row["tag"] for row in drawn.asked_of(runs[0], plan)[0]]
    found, at = {}, {}  # (method, point, sampler, ask, scale, steps) -> {seed: truth values}; (method, point) -> training step
    for run in runs:
        rows = drawn.read_rows(run)
        asked = drawn.asked_of(run, plan)[1]
        for point, step in drawn.points(run, plan, costs[run.method]).items() if rows else ():
            at[run.method, point] = step
            for key in run.keys(plan):
                if (asked, step, *key) in rows:
                    right = np.array(list(rows[asked, step, *key]["correct"]), int)
                    found.setdefault((run.method, point, *key), {})[run.seed] = right
    complete = {key for key in found if len(found[key]) == plan["methods"][key[0]]["seeds"]}
    return {
        "prompts": len(tags),
        "split": plan["split"],
        "costs": costs,
        "rows": [score(key, found[key], tags, at, costs) for key in found],
        "claims": [judged(found, complete, runs, plan, tags, *claim) for claim in plan["claims"]],
    }


def score(key, by_seed, tags, at, costs):
    """One row of the table; `error` as of a difference to a model that is never right."""
    method, point, sampler, ask, scale, steps = key
    right = stack(by_seed)
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
    } | {tag: float(right[:, np.array(tags) == tag].mean()) for tag in sorted(set(tags))}


def judged(found, complete, runs, plan, tags, a, claim, b):
    """A claim with its difference and verdict; "not recorded" until every seed of both sides is, of all other methods for "best"."""
    said = {"a": a, "claim": claim, "b": b, "verdict": "not recorded"}
    mine, rivals = key_of(a), [key_of(b)] if b["method"] != "best" else others(a["method"], b["steps"], runs, plan)
    if not {mine, *rivals} <= complete:
        return said
    theirs = max(rivals, key=lambda key: compare.overall(stack(found[key]), tags).mean())
    gap = compare.difference(stack(found[mine]), stack(found[theirs]), tags)
    return said | {"against": list(theirs), **gap._asdict(), "verdict": compare.verdict(gap, claim)}


def key_of(place):
    return (place["method"], "end", place["sampler"], place["ask"], place["scale"], place["steps"])


def others(method, steps, runs, plan):
    """Every way to draw that the other methods have at so many steps. The best of them is chosen on the prompts of the claim, which favours
    it."""
    return sorted(
        {(run.method, "end", *key) for run in runs for key in run.keys(plan) if run.method != method and key[-1] == steps}, key=str
    )


def stack(by_seed):
    return np.stack([by_seed[seed] for seed in sorted(by_seed)])


def lines_of(result):
    """At the end of training: {"method, sampler asking, w": [(steps, overall, error), ...]}"""
    lines = {}
    for row in result["rows"]:
        if row["at"] == "end":
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
        out.append(f"{claim['verdict']:12} {a}: {claim['claim']}: {b}{size}")
    return "\n".join(out)


def picture(result):
    """Accuracy against steps at the end of training, a line a method and way to draw."""
    return logs.curves(lines_of(result), "steps", "share of prompts drawn right", logx=True, ylim=(0, 1), size=(900, 520))
