"""The table of `anystep bench steer`, and the claims below it: what they mean is said there."""

import numpy as np

from anystep import compare
from anystep.bench import _steer_costs as costs
from anystep.steering.measures import expected_calibration_error

FIELDS = ("position", "objects", "colors", "count", "correct", "joint")
KEPT = ("objects", "colors", "count")  # what steering must not lose
BY_BATCH = {
    "seconds_ratio": "seconds x",
    "waits": "waits",
    "evaluations_ratio": "evals x",
    "flops_ratio": "FLOPs x",
    "memory_ratio": "memory x",
}
CLAIMS = {"keeps": "keeps 90 % of the gain of faithful", "closes": "closes half of the gap to two objects"}


def summary(case, part, cases, kept, batches):
    """One row of the table: shares with the standard errors of paired differences to the unsteered sampler, costs relative to it, claims.

    part: `costs.Parts`; kept: what has the recorded rows of cases, `drawn` and `cost`."""
    base = next(other for other in cases if other.method == "none" and other.steps == case.steps)
    mine, its = kept.drawn(case), kept.drawn(base)
    out = {"method": case.method, "classifier": case.classifier, "steps": case.steps}
    out["step"] = case.steer.program.method.step if case.steer and case.steer.program.method.iterations else None
    for field in FIELDS:
        found = paired(right(mine, field), right(its, field))
        out[field] = {"mean": found.mine, "difference": found.mean, "error": found.error}
    for name in ("moves", "looks", "distance", "steered"):  # of all steered steps together
        out[name] = float(np.sum(mine[name])) / len(mine["position"])
    for name, shown in (("before", its), ("after", mine)):
        p = mine[name] if mine[name] and None not in mine[name] else None
        out[name] = float(np.mean(p)) if p else None
        out[f"ece_{name}"] = expected_calibration_error(p, right(shown, "position")) if p else None
    out["variety"] = varied(kept.spread(case), kept.spread(base))
    out |= relative(part, out["looks"], out["moves"], out["steered"])
    for batch in batches:
        cost, plain = kept.cost(case, batch) or {}, kept.cost(base, batch) or {}
        ran = costs.in_batches(mine["looks"], mine["moves"], batch, case.steer.program.method.groups) if mine["looks"] else None
        out[f"batch_{batch}"] = {
            "seconds": cost.get("seconds"),
            "seconds_ratio": cost.get("ratio"),
            "memory_ratio": cost["memory"] / plain["memory"] if cost and plain.get("memory") else None,
            "waits": ran and ran[0] / ran[2],
        } | (relative(part, *ran[:2], out["steered"]) if ran else relative(part, 0, 0, 0) if not mine["looks"] else {})
    return out | claims(case, base, cases, kept)


def varied(mine, its):
    """How far pictures of one prompt lie apart, {"mean", "difference", "error", "ratio"} beside the unsteered ones; None if not drawn."""
    if not mine or not its:
        return None
    found = paired(*(np.array(row["variety"]) for row in (mine, its)))
    return {"mean": found.mine, "difference": found.mean, "error": found.error, "ratio": found.mine / found.theirs}


def right(row, field):
    """[N] of 0 and 1."""
    return np.array(list(row[field]), int)


def paired(a, b):
    """compare.Difference of two [N] on the same prompts and noise."""
    return compare.difference(a[None], b[None], ["position"] * len(a))


def relative(part, looks, moves, steered):
    """`costs.counted`, and its evaluations and FLOPs as multiples of the unsteered sampler's."""
    mine, plain = costs.counted(part, looks, moves, steered), costs.counted(costs.Parts(part.plain, part.forward), 0, 0, 0)
    return mine | {f"{name}_ratio": mine[name] / plain[name] for name in ("evaluations", "flops")}


def claims(case, base, cases, kept):
    """{"keeps", "closes"}: of each claim the difference, its standard error and a verdict, None where it is not made."""
    if case.steer is None:
        return dict.fromkeys(CLAIMS)
    position, none, objects = (right(kept.drawn(one), field) for one, field in ((case, "position"), (base, "position"), (base, "objects")))
    bars = {"closes": (none + objects) / 2}
    published = [right(kept.drawn(other), "position") for other in cases if named_faithful(other) and other.steps == case.steps]
    if published and not named_faithful(case):
        bars["keeps"] = 0.1 * none + 0.9 * max(published, key=np.sum)
    found = {name: paired(position, bar) for name, bar in bars.items()}
    made = {name: {"difference": d.mean, "error": d.error, "verdict": compare.verdict(d, "better")} for name, d in found.items()}
    return dict.fromkeys(CLAIMS) | made


def named_faithful(case):
    return case.method.split(":")[0] == "faithful"


def said_claims(rows):
    """A line for each claim that is made."""
    return [
        f"at {row['steps']} steps {row['method']} ({row['classifier']}) {text}: "
        f"{row[name]['difference']:+.3f} ± {row[name]['error']:.3f}, {row[name]['verdict']}"
        for row in sorted(rows, key=lambda row: row["steps"])
        for name, text in CLAIMS.items()
        if row[name]
    ]


def worst(row):
    """The largest loss among what must not be lost, in standard errors."""
    return min(in_errors(row[field]["difference"], row[field]["error"]) for field in KEPT)


def in_errors(difference, error):
    return difference / error if error else difference and float(np.copysign(np.inf, difference))


def table(rows):
    batches = [name for name in rows[0] if name.startswith("batch_")]
    heads = ["steps", "method", "step", "classifier", "position", "less none", *KEPT, "worst", "ECE before", "after", "variety x", "moves"]
    heads += ["evaluations", "FLOPs"] + [f"{word} {name[6:]}" for name in batches for word in BY_BATCH.values()]
    lines = [heads]
    for row in sorted(rows, key=lambda row: row["steps"]):
        position = row["position"]
        line = [str(row["steps"]), row["method"], cell(row["step"], "g"), row["classifier"], f"{position['mean']:.3f}"]
        line += [f"{position['difference']:+.3f} ± {position['error']:.3f}", *(f"{row[field]['mean']:.3f}" for field in KEPT)]
        line += [f"{worst(row):+.1f} se", cell(row["ece_before"]), cell(row["ece_after"])]
        line += [cell(row["variety"] and row["variety"]["ratio"]), f"{row['moves']:.2f}"]
        line += [f"{row['evaluations_ratio']:.2f}", f"{row['flops_ratio']:.2f}"]
        line += [cell(row[name].get(what)) for name in batches for what in BY_BATCH]
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def cell(value, form=".2f"):
    return "" if value is None else format(value, form)
