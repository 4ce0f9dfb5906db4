"""Flow-Euler against TrigFlow-Euler: one set of weights on both paths by SANA-Sprint's Prop. 3.1, from the same prompts and noise.

    anystep bench trig --model FOLDER [--steps 4,8,16,32,64] [--reference 256] [--prompts 128] [--out FILE.json]

A flow-matching network is walked by Euler on the linear path and, through `path.as_trig`, on the trig path (2503.09641, Tab. 1):

    linear            x - (t - s) v on the model's own flow times
    trig, arcs        cos(a - b) x - sin(a - b) F on the angles of the same log-SNR: DDIM's step, by which `euler` walks here
    trig, tangents    x - (a - b) F on the same angles: Euler's method for dx / da = F
    the same, even    on even angles from pi / 2 to 0

By Prop. 3.1 an arc ends where the linear step ends, so the first two differ by rounding alone; tangents differ by the order of a step, even
angles by what the times are worth. Distances are root mean squares over all pictures at the door ([-1, 1]), "end" to the linear path's Heun
at --reference steps, and the order is the slope of log distance on log steps.
"""

import jax.numpy as jnp
import numpy as np

from anystep import api, compare, flags, times
from anystep.bench import _asked as asking
from anystep.bench import _record as record
from anystep.cache import use_compile_cache
from anystep.errors import UserError, run_main
from anystep.path import LINEAR, TRIG, as_trig, to_flow_time

ARCS, TANGENTS = "trig, arcs", "trig, tangents"
WALKS = ("linear", ARCS, TANGENTS, f"{ARCS}, even", f"{TANGENTS}, even")


def main(argv):
    parser = flags.Parser(prog="anystep bench trig", description=__doc__.splitlines()[0])
    asking.add_flags(parser)
    parser.add_argument("--steps", type=flags.steps, default=(4, 8, 16, 32, 64))
    parser.add_argument("--reference", type=flags.whole(1, flags.MOST_STEPS), default=256, help="steps of Heun's method")
    parser.add_argument("--prompts", type=flags.whole(2, 100_000), default=128, help="of the test split")
    args = parser.parse_args(argv)

    use_compile_cache()
    model, params = asking.load(args.model)
    if model.net.path is not LINEAR:
        raise UserError(f"--model {args.model!r}: is on the {model.net.path.name} path, Prop. 3.1 starts from the linear one")
    if model.drawing.jumps_only:
        raise UserError(f"--model {args.model!r}: answers with jumps to the data alone, there is no velocity to walk along")
    asked = asking.put(model, params, args.prompts, "test", args.seed, {"guide": args.scale})
    pictures, end = walk(asked.draw, model, args.steps, args.reference)
    right = {(name, steps): asked.right(x) for name in WALKS for steps, x in pictures[name].items()}
    rows = [row | scored(right, row, asked.tags) for row in distances(pictures, end)]
    result = {"model": args.model, "prompts": args.prompts, "seed": args.seed, "scale": args.scale, "reference": args.reference}
    result |= {"right": float(compare.overall(asked.right(end), asked.tags)), "rows": rows, "orders": orders(rows)}
    print(table(result))
    if args.out:
        record.write(args.out, "anystep bench trig " + " ".join(argv), result)


def walk(draw, model, steps, reference):
    """({walk: {steps: pictures}}, the end). draw(steps, model, **how) -> pictures, always from the same noise."""
    trig = api.assemble(as_trig(model.net), model.text, model.drawing, model.config, model.codec)
    how, found = {"sampler": "euler", "ask": "now"}, {name: {} for name in WALKS}
    for count in steps:
        even = {"times": np.minimum(to_flow_time(TRIG, np.float32(times.scm_angles(count, middle=None))), 1.0)}
        found["linear"][count] = draw(count, model, **how)
        for name, steer in ((ARCS, None), (TANGENTS, tangents)):
            found[name][count] = draw(count, trig, steer=steer, **how)
            found[f"{name}, even"][count] = draw(count, trig, steer=steer, **how, **even)
    return found, draw(reference, model, sampler="heun", ask="now")


def tangents(sampler):
    """Sampler -> Sampler: where a step goes along an arc, x cos h - F sin h, this one goes straight on, x - h F."""

    def step(state, t_pair, first=None):
        after, info = sampler.step(state, t_pair, first)
        h = t_pair[0] - t_pair[1]
        slope = (jnp.cos(h) * state.x - after.x) / jnp.sin(h)
        return after._replace(x=state.x - h * slope), info

    return sampler._replace(step=step)


def distances(pictures, end):
    """A row a walk and number of steps: root mean square distance to the end, and to the linear path at as many steps."""
    return [
        {"walk": name, "steps": steps, "to_end": apart(x, end), "to_linear": apart(x, pictures["linear"][steps])}
        for name in WALKS
        for steps, x in pictures[name].items()
    ]


def apart(a, b):
    return float(np.sqrt(np.mean(np.square(np.float64(a) - np.float64(b)))))


def scored(right, row, tags):
    """How many are right, and the paired difference to the linear path at as many steps."""
    found = compare.difference(*(right[name, row["steps"]][None] for name in (row["walk"], "linear")), tags)
    return {"right": found.mine, "less_linear": found.mean, "error": found.error}


def orders(rows):
    """{walk: {"to_end", "to_linear"}}: the orders of convergence, None where two numbers of steps are not there or it is rounding."""
    out = {}
    for name in WALKS:
        out[name] = {}
        for distance in ("to_end", "to_linear"):
            steps, far = np.array([(row["steps"], row[distance]) for row in rows if row["walk"] == name]).T
            known = len(steps) > 1 and far.min() > 1e-4
            out[name][distance] = float(-np.polyfit(np.log(steps), np.log(far), 1)[0]) if known else None
    return out


def table(result):
    lines = [["walk", "steps", "right", "less linear", "to the end", "to linear"]]
    for row in result["rows"]:
        less = "" if row["walk"] == "linear" else f"{row['less_linear']:+.3f} ± {row['error']:.3f}"
        far = [f"{row[name]:.2g}" for name in ("to_end", "to_linear")]
        lines.append([row["walk"], str(row["steps"]), f"{row['right']:.3f}", less, *far])
    for name, order in result["orders"].items():
        lines.append([name, "order", "", "", *("" if order[to] is None else f"{order[to]:.2f}" for to in ("to_end", "to_linear"))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    out = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*out, f"the end: Heun at {result['reference']} steps, {result['right']:.3f} right"])


if __name__ == "__main__":
    run_main(main)
