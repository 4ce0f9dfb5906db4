"""ControlNet: how closely drawn pictures follow edges, at each step count and scale, beside the same model without them.

    anystep bench control --model MODEL [--against MODEL] [--prompts 256] [--steps 1,2,4] [--scales 0,0.5,1] [--split dev] [--out FILE.json]

Held-out scenes of the shapes world: each gives a prompt and the edges of its own picture. IoU is intersection over union between the drawn
picture and the one that the edges came from, the mean over pictures: "area" of the foregrounds, the pixels further than `shapes.detect`'s
INK from the paper, "outline" of those among them that touch other pixels or the border: one pixel aside is a miss. "right" is the exact
judge's overall score of the prompts, which knows nothing of the edges. All rows see the same prompts and noise; "more" is the paired
difference of the outline's IoU to the first row of its step count, "none": the model of --against, or without it the model's own, drawing
without a picture. Scale 0 is the trunk by way of the ControlNet. ± is one standard error.
"""

import numpy as np

from anystep import evals, flags, shapes
from anystep.bench import _record as record
from anystep.control import edges
from anystep.errors import UserError, run_main


def main(argv):
    parser = flags.Parser(prog="anystep bench control", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a model with a ControlNet that learned the shapes world")
    parser.add_argument("--against", default="", help="a model without, such as the one that it began with")
    parser.add_argument("--prompts", type=flags.whole(12, 100_000), default=256)
    parser.add_argument("--steps", type=flags.steps, default=(1, 2, 4))
    parser.add_argument("--scales", type=scales, default=(0.0, 0.5, 1.0), help="of what the ControlNet adds (default: 0,0.5,1)")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED), default=0)
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)

    from anystep import api
    from anystep.cache import use_compile_cache

    use_compile_cache()
    model, params = api.load(args.model)
    if not model.net.controls:
        raise UserError(f"--model {args.model!r}: has no ControlNet (config.model.control)")
    world = world_of("--model", args.model, model)
    rival = api.load(args.against) if args.against else (model, params)
    if world_of("--against", args.against, rival[0]) != world:
        raise UserError(f"--against {args.against!r}: learned another world than --model")
    metadata, pictures, shown = scenes(world, args.prompts, args.split, args.seed)
    prompts = [row["prompt"] for row in metadata]

    def look(model, params, count, **how):
        x = api.sample(model, params, prompts, count, args.seed, **how)
        verdicts = [shapes.judge(picture, row, world) for picture, row in zip(x, metadata, strict=True)]
        drawn, meant = (np.stack([shapes.foreground(picture) for picture in side]) for side in (x, pictures))
        return {"outline": overlap(outline(drawn), outline(meant)), "area": overlap(drawn, meant)}, evals.scores(verdicts, metadata)

    rows = []
    for count in args.steps:
        base = look(*rival, count)
        rows.append(summary(count, None, base, base))
        for scale in args.scales:
            rows.append(summary(count, scale, look(model, params, count, control=shown, control_scale=scale), base))
    print(table(rows))
    if args.out:
        asked = {"prompts": args.prompts, "split": args.split, "seed": args.seed, "against": "another model" if args.against else "itself"}
        record.write(args.out, "anystep bench control " + " ".join(argv), asked | {"rows": rows})


def scales(text):
    """A flag type: "0,0.5,1"."""
    return tuple(flags.real(-10.0, 10.0)(part) for part in text.split(","))


def world_of(flag, name, model):
    if model.config is None or model.config.data.kind != "shapes":
        raise UserError(f"{flag} {name!r}: must have learned data.kind = 'shapes', whose pictures can be judged")
    return shapes.World(**{field: model.config.data[field] for field in shapes.World._fields})


def scenes(world, n, split, seed):
    """(metadata, pictures uint8 [n, H, W, 3], their edges) of n scenes, the six kinds in turn."""
    from anystep.subjects import to_uint8

    found = [shapes.make_scene(world, seed, i, split, shapes.KINDS[i % len(shapes.KINDS)]) for i in range(n)]
    pictures = np.stack([shapes.draw(scene, world) for scene in found])
    metadata = [shapes.metadata(scene, world.color_words > 0) for scene in found]
    return metadata, pictures, to_uint8(edges(pictures / 127.5 - 1.0))


def outline(inked):
    """bool [N, H, W] -> those of them with a neighbour above, below, left or right that is not."""
    wide = np.pad(inked, ((0, 0), (1, 1), (1, 1)))
    return inked & ~(wide[:, :-2, 1:-1] & wide[:, 2:, 1:-1] & wide[:, 1:-1, :-2] & wide[:, 1:-1, 2:])


def overlap(a, b):
    """[N]: intersection over union of bool [N, H, W]; two empty ones agree."""
    union = (a | b).sum((1, 2))
    return np.where(union > 0, (a & b).sum((1, 2)) / np.maximum(union, 1), 1.0)


def mean(values):
    """(mean, its standard error)"""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def summary(count, scale, found, base):
    """One row; `scale` None: without a picture."""
    values = found[0] | {"more": found[0]["outline"] - base[0]["outline"]}
    out = {"steps": count, "scale": scale} | {name: found[1][name] for name in ("overall", "overall_se")}
    for name, each in values.items():
        out[name], out[f"{name}_se"] = mean(each)
    return out


def table(rows):
    lines = [["steps", "scale", "outline", "more", "area", "right"]]
    for row in rows:
        scale = "none" if row["scale"] is None else f"{row['scale']:g}"
        shown = [f"{row[name]:.3f} ± {row[f'{name}_se'] or 0.0:.3f}" for name in ("outline", "more", "area", "overall")]
        lines.append([str(row["steps"]), scale, *shown])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


if __name__ == "__main__":
    run_main(main)
