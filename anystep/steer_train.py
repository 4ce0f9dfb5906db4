"""`anystep steer-train --model MODEL --out FOLDER`: a relation classifier for any model that is loaded here, for `anystep sample --steer`.

What it learns from is said in `steering.examples`: by default the model's own first steps, labelled by the exact detector of the shapes
world; --source noised takes pictures instead. --data FILE.jsonl has pictures and what they show, {"image": "a.png", "subject": "dog",
"relation": "left", "object": "bicycle"} a line; --boxes FILE.py, with boxes(picture, names) -> {name: (x0, y0, x1, y1)}, labels what the
model drew where it draws no shapes.
"""

import json
from pathlib import Path

from anystep import flags
from anystep.errors import UserError, run_main


def numbers(low, high, real=False):
    """A flag type: numbers with commas between."""
    one = flags.real(low, high) if real else flags.whole(low, high)
    return lambda text: tuple(one(part) for part in text.split(","))


def parse(argv):
    """The checked flags."""
    parser = flags.Parser(prog="anystep steer-train", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a saved model or of a pipeline, or work directory of a run")
    parser.add_argument("--out", required=True, help="folder of the classifier")
    parser.add_argument(
        "--kind", choices=("light", "faithful", "faithful_small"), default="light", help="layout: few maps, 4.85 M or 1.96 M"
    )
    parser.add_argument("--layers", type=numbers(0, 1000), help="cross-attention layers to read (default: light the first half, else all)")
    parser.add_argument("--heads", type=numbers(0, 1000), default=(), help="heads of each layer to read (default: all)")
    parser.add_argument("--side", type=flags.whole(2, 64), help="of the maps (default: light 8, else 16)")
    parser.add_argument("--source", choices=("policy", "noised", "both"), default="policy", help="own drawings, noised pictures")
    parser.add_argument("--wrong", choices=("yes", "no"), default="yes", help="whether prompts with a wrong relation are learned from, too")
    parser.add_argument("--data", default="shapes", help="shapes, or a .jsonl file of pictures and what they show")
    parser.add_argument("--boxes", help="Python file with boxes(picture, names), for what is no shape")
    parser.add_argument("--rows", type=flags.whole(8, 10_000_000), default=8192, help="prompts of each source")
    parser.add_argument("--steps", type=flags.steps, help="step counts of the own drawings (default: the model's, up to 4)")
    parser.add_argument("--first", type=flags.whole(1, 100), default=1, help="of each drawing, how many steps are learned from")
    parser.add_argument("--at", type=numbers(0.0, 1.0, real=True), default=(0.9, 0.75, 0.5), help="flow times of noised pictures")
    parser.add_argument("--size", type=flags.size, help="HEIGHTxWIDTH in pixels (default: the model's)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of a pipeline's activations")
    parser.add_argument("--train", type=flags.whole(1, 10_000_000), default=3000, help="steps of the classifier's training")
    parser.add_argument("--batch", type=flags.whole(1, 65536), default=64)
    parser.add_argument("--lr", type=flags.real(1e-7, 1.0), help="(default: light 2e-3, else 1e-4)")
    parser.add_argument("--no_symmetries", action="store_true", help="learn from the maps as they are alone, as published")
    parser.add_argument(
        "--amortise", type=flags.whole(0, 10_000_000), default=0, help="steps of training of a network that corrects noises"
    )
    parser.add_argument("--penalty", type=flags.real(0.0, 1e6), default=1.0, help="on the size of corrections")
    parser.add_argument("--classifier", help="folder of a classifier that is there already, for --amortise alone")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED), default=0)
    args = parser.parse_args(argv)
    if args.data != "shapes" and not args.data.endswith(".jsonl"):
        raise UserError(f"--data {args.data!r}: shapes, or a .jsonl file")
    if args.data != "shapes" and args.source != "noised" and not args.boxes:
        raise UserError(
            f"--source {args.source}: what the model draws is labelled by --boxes FILE.py, or --source noised takes the pictures"
        )
    if args.classifier and not args.amortise:
        raise UserError(f"--classifier {args.classifier!r}: is for --amortise")
    return args


def main(argv):
    """Parse, load, collect, fit, save. Raises UserError for what the user can mend."""
    args = parse(argv)
    out = flags.folder(args.out, "--out")

    import numpy as np

    from anystep import api, steering  # after the flags: a typing error should not wait for jax
    from anystep.cache import use_compile_cache
    from anystep.steering import fit, learned

    use_compile_cache()
    model, params = api.load(args.model, dtype=args.dtype)
    if not model.net.maps or model.text.place is None:
        raise UserError(f"--model {args.model!r}: has no cross-attention from words, which a classifier would read")
    size = args.size and list(args.size)
    shape = api.shape_of(model, size)

    def times(steps):
        return np.asarray(model.drawing.times(steps, api.tokens_of(model, shape)))

    def sample(prompts, steps, steer):
        return api.sample_and_say(model, params, prompts, steps, args.seed, steer=steer, size=size)

    task = learned.Task(model, params, shape, times, sample, args.seed, data_of(args, model))
    counts = args.steps or tuple(n for n in model.drawing.steps if n <= 4) or model.drawing.steps[:1]
    if args.classifier:
        found = steering.load(args.classifier, model)
        reader, weights, things = found.program.reader, found.params, found.things
        report = json.loads((Path(args.classifier) / "config.json").read_text())["report"]
    else:
        lens = learned.lens_of(model, args.kind, args.layers, args.heads, args.side)
        kinds = ("true", "wrong") if args.wrong == "yes" else ("true",)
        train, dev = (
            learned.collect(task, split, rows, lens, args.source, kinds, counts, args.first, args.at)
            for split, rows in (("train", args.rows), ("dev", max(args.rows // 8, 8)))
        )
        reader = learned.reader_of(args.kind, lens, train)
        lr = args.lr or (2e-3 if args.kind == "light" else 1e-4)
        weights, report = fit.fit(
            reader, train, dev, args.train, args.batch, lr, seed=args.seed, symmetries=not args.no_symmetries, say=print
        )
        report |= {"examples": len(train.t), "source": args.source, "wrong": args.wrong, "times": sorted(set(train.t.tolist()))}
        things = task.data.things
        print("\n".join(f"{name:18} {value:.3f}" for name, value in report.items() if isinstance(value, float)))
    steering.save(out, model, reader, weights, things, report)
    if args.amortise:
        reader, weights = learned.amortised(task, reader, weights, args.amortise, args.penalty, counts, args.rows)
        steering.save(out, model, reader, weights, things, report)
    print(out)


def data_of(args, model):
    from anystep import api
    from anystep.steering import learned

    height, width, _ = api.picture_of(model, api.shape_of(model, args.size))
    if args.data == "shapes":
        return learned.ShapesData(learned.world_of(model.config), args.seed, (height, width), boxes_of(args.boxes))
    return learned.PicturesData(Path(args.data), (height, width), boxes_of(args.boxes))


def boxes_of(path):
    """The function `boxes` of a Python file, or None."""
    if not path:
        return None
    import importlib.util

    if not Path(path).is_file():
        raise UserError(f"--boxes {path!r}: no such file")
    spec = importlib.util.spec_from_file_location("boxes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "boxes", None)):
        raise UserError(f"--boxes {path!r}: has no function boxes(picture, names)")
    return module.boxes


if __name__ == "__main__":
    run_main(main)
