"""Better times for a few steps: a search on dev prompts by the judge, and what is left of the gain on held-out ones.

    anystep bench times --model FOLDER [--steps 2] [--prompts 256] [--held_out 512] [--out FILE.json]

A list of N steps has N - 1 inner times. One after the other, from noise to data, each is tried at four values around itself, in
log(sigma / alpha), then all again at a quarter of that width; all lists draw the same prompts from the same noise. The best one is taken if
it gains more than a standard error of the paired difference, so that chance alone seldom moves a time; but it is the best of many, and its
gain on dev is too large by that. What counts is the last line: the list found against the model's own on prompts that neither training nor
the search has seen, from other noise (where data has no test split: dev's prompts again). It "holds" beyond two standard errors.
SANA-Sprint searched by FID (2503.09641, F.2), here it is the share of prompts drawn right. Times are data: one compilation.
"""

import math
import time

import numpy as np

from anystep import compare, flags
from anystep.bench import _asked as asking
from anystep.bench import _record as record
from anystep.cache import use_compile_cache
from anystep.errors import run_main
from anystep.walks import tokens_of

OFFSETS = ((-1.6, -0.8, 0.8, 1.6), (-0.4, -0.2, 0.2, 0.4))  # of log(sigma / alpha), a tuple a round


def main(argv):
    parser = flags.Parser(prog="anystep bench times", description=__doc__.splitlines()[0])
    asking.add_flags(parser)
    parser.add_argument("--steps", type=flags.whole(2, 16), default=2)
    parser.add_argument("--prompts", type=flags.whole(2, 100_000), default=256, help="of dev, for the search")
    parser.add_argument("--held_out", type=flags.whole(2, 100_000), default=512, help="prompts of test, for the comparison")
    parser.add_argument("--sampler", choices=flags.SAMPLERS, help="(default: the model's)")
    parser.add_argument("--ask", choices=flags.ASKS, help="(default: the model's)")
    args = parser.parse_args(argv)

    use_compile_cache()
    model, params = asking.load(args.model)
    how = {"sampler": args.sampler, "ask": args.ask, "guide": args.scale}
    dev = asking.put(model, params, args.prompts, "dev", args.seed, how)
    test = asking.put(model, params, args.held_out, "test", args.seed + 1, how)
    began = time.perf_counter()
    result = {"model": args.model, "steps": args.steps, "prompts": args.prompts, "held_out": args.held_out, "seed": args.seed} | how
    result |= measure(dev, test, args.steps)
    result["seconds"] = time.perf_counter() - began
    print(table(result))
    if args.out:
        record.write(args.out, "anystep bench times " + " ".join(argv), result)


def measure(dev, test, steps):
    """{"default" and "found": lists; "tried": rows of the search; "dev" and "test": the found list's difference to the default}."""
    model = dev.model
    first = rounded(model.drawing.times(steps, tokens_of(model, model.net.shape)))
    found, tried = search(lambda times: dev.right(dev.draw(times=times)), first, dev.tags)
    both = [[asked.right(asked.draw(times=times)) for times in (found, first)] for asked in (dev, test)]
    sides = [compare.difference(a[None], b[None], asked.tags) for (a, b), asked in zip(both, (dev, test), strict=True)]
    said = dict(zip(("dev", "test"), (said_of(side) for side in sides), strict=True))
    verdict = compare.verdict(sides[1], "better") if found != first else "nothing found"
    return {"default": list(first), "found": list(found), "tried": tried, "verdict": verdict} | said


def search(right, first, tags, rounds=OFFSETS):
    """(times, rows of what was tried) by coordinates. right(times) -> [prompts] 0 or 1; first: where to begin, from 1 to 0."""
    now, known, tried = first, {first: right(first)}, []
    for number, offsets in enumerate(rounds, 1):
        for place in range(1, len(first) - 1):
            rows = []
            for offset in offsets:
                times = moved(now, place, offset)
                if times is None or times == now:
                    continue
                if times not in known:
                    known[times] = right(times)
                found = compare.difference(known[times][None], known[now][None], tags)
                rows.append({"round": number, "place": place, "times": list(times), **said_of(found), "taken": False})
            best = max(rows, key=lambda row: row["difference"], default=None)
            if best and best["difference"] > best["error"]:
                best["taken"] = True
                now = tuple(best["times"])
            tried += rows
    return now, tried


def moved(times, place, offset):
    """The list with one inner time elsewhere, None where it would leave the place between its neighbours."""
    t = times[place]
    there = rounded([1.0 / (1.0 + math.exp(-(math.log(t / (1.0 - t)) + offset)))])[0]
    return (*times[:place], there, *times[place + 1 :]) if times[place + 1] < there < times[place - 1] else None


def rounded(times):
    """As they are printed, so that what is handed to --times is what was measured."""
    return tuple(round(float(t), 4) for t in np.asarray(times))


def said_of(found):
    return {"overall": found.mine, "difference": found.mean, "error": found.error}


def table(result):
    lines = [["round", "times", "right", "less the one before", ""]]
    for row in result["tried"]:
        less = f"{row['difference']:+.3f} ± {row['error']:.3f}"
        lines.append([str(row["round"]), flags.spoken(row["times"]), f"{row['overall']:.3f}", less, "taken" if row["taken"] else ""])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    out = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    out += ["", f"the model's own  --times {flags.spoken(result['default'])}", f"found            --times {flags.spoken(result['found'])}"]
    for name in ("dev", "test"):
        side = result[name]
        base = side["overall"] - side["difference"]
        said = f"{side['overall']:.3f} against {base:.3f}, {side['difference']:+.3f} ± {side['error']:.3f}"
        out.append(f"on {name:14}{said}" + (f": {result['verdict']}" if name == "test" else ", the best of many"))
    return "\n".join(out)


if __name__ == "__main__":
    run_main(main)
