"""`anystep steer-train --model MODEL --out FOLDER`: a relation classifier for any model that is loaded here, for `anystep sample --steer`.

What it learns from is said in `steering.examples`: by default the model's own first steps, labelled by the exact detector where it learned
the shapes world; --source noised takes pictures instead. Dev is the model's own drawings wherever they can be judged, so that all sources
are compared, and calibrated, on what is asked later. --data FILE.jsonl has pictures and what they show, {"image": "a.png", "subject":
"dog", "relation": "left", "object": "bicycle"} a line; --boxes FILE.py, with boxes(picture, names) -> {name: (x0, y0, x1, y1)} or several
such, labels what the model drew where it draws no shapes.
"""

from pathlib import Path

from anystep import flags
from anystep.errors import UserError, run_main

# what only a new classifier is told
LEARNING = ("kind", "layers", "heads", "side", "source", "wrong", "at", "train", "batch", "lr", "no_symmetries", "unscaled")


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
    parser.add_argument("--wrong", choices=("yes", "no"), help="of noised pictures: prompts with a wrong relation, too (default: yes)")
    parser.add_argument("--data", default="shapes", help="shapes, or a .jsonl file of pictures and what they show")
    parser.add_argument("--boxes", type=flags.python_file, help="Python file with boxes(picture, names), for what is no shape")
    parser.add_argument("--rows", type=flags.whole(8, 10_000_000), default=8192, help="prompts of each source")
    parser.add_argument("--steps", type=flags.steps, help="step counts of the own drawings (default: the model's, up to 4)")
    flags.add_walk(parser)
    parser.add_argument("--first", type=flags.whole(1, 1000), help="of each drawing, how many steps (default: 1 of up to 4, half of more)")
    parser.add_argument("--at", type=numbers(0.0, 1.0, real=True), default=(0.9, 0.75, 0.5), help="flow times of noised pictures")
    parser.add_argument("--text", help="folder of the text encoder, for a model that learned from a store")
    parser.add_argument("--size", type=flags.size, help="HEIGHTxWIDTH in pixels (default: the model's)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of a pipeline's activations")
    parser.add_argument("--train", type=flags.whole(1, 10_000_000), default=3000, help="steps of the classifier's training")
    parser.add_argument("--batch", type=flags.whole(1, 65536), default=64)
    parser.add_argument("--lr", type=flags.real(1e-7, 1.0), help="(default: light 2e-3, else 1e-4)")
    parser.add_argument("--no_symmetries", action="store_true", help="learn from the maps as they are alone, as published")
    parser.add_argument("--unscaled", action="store_true", help="a faithful layout's maps as they sum to one, as published")
    parser.add_argument(
        "--amortise", type=flags.whole(0, 10_000_000), default=0, help="steps of training of a network that corrects noises"
    )
    parser.add_argument("--penalty", type=flags.real(0.0, 1e6), default=1.0, help="on the mean square of corrections")
    parser.add_argument("--classifier", help="folder of a classifier that is there already, for --amortise alone")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED), default=0)
    args = parser.parse_args(argv)
    if args.data != "shapes" and not args.data.endswith(".jsonl"):
        raise UserError(f"--data {args.data!r}: shapes, or a .jsonl file")
    if args.data != "shapes" and args.source != "noised" and not args.boxes and not args.classifier:
        raise UserError(
            f"--source {args.source}: what the model draws is labelled by --boxes FILE.py, or --source noised takes the pictures"
        )
    if args.wrong and args.source == "policy":
        raise UserError(f"--wrong {args.wrong}: is for --source noised or both; what the model draws has no wrong word")
    if args.classifier and not args.amortise:
        raise UserError(f"--classifier {args.classifier!r}: is for --amortise")
    idle = dict.fromkeys(LEARNING, "is for a new classifier, not for --classifier") if args.classifier else {}
    idle |= {"unscaled": "is for --kind faithful or faithful_small"} if args.kind == "light" else {}
    idle |= {} if args.amortise else {"penalty": "is for --amortise"}
    idle |= {"at": "is for --source noised or both"} if args.source == "policy" else {}
    for name, why in idle.items():
        if getattr(args, name) != parser.get_default(name):
            raise UserError(f"--{name} {getattr(args, name)}: {why}")
    return args


def main(argv):
    """Parse, load, collect, fit, save. Raises UserError for what the user can mend."""
    args = parse(argv)
    out = flags.folder(args.out, "--out")

    import numpy as np

    from anystep import api, steering, tree  # after the flags: a typing error should not wait for jax
    from anystep.cache import use_compile_cache
    from anystep.steering import amortise, examples
    from anystep.steering.method import published_steps

    use_compile_cache()
    model, params = api.load(args.model, dtype=args.dtype, text=args.text)
    model = api.walking(model, args.sampler, args.ask, args.scale)
    if not model.net.maps:
        raise UserError(f"--model {args.model!r}: its network has no cross-attention, which a classifier would read")
    if model.text.place is None:
        raise UserError(f"--model {args.model!r}: its prompts are features without words, --text FOLDER brings the encoder that made them")
    size = args.size and list(args.size)
    shape, data = api.shape_of(model, size), data_of(args, model)
    if args.source != "noised" and data.boxes is None and not args.classifier:
        raise UserError(f"--source {args.source}: nothing here can judge what this model draws; --boxes FILE.py does, or --source noised")

    def times(steps):
        return np.asarray(model.drawing.times(steps, api.tokens_of(model, shape)))

    def sample(prompts, steps, steer, first):
        return api.sample_and_say(model, params, prompts, steps, args.seed, steer=steer, size=size, first=first)

    task = examples.Task(model, params, shape, times, sample, args.seed, data)
    counts = args.steps or tuple(n for n in model.drawing.steps if n <= 4) or model.drawing.steps[:1]
    firsts = [args.first or published_steps(count) for count in counts]
    if args.classifier:
        found = steering.load(args.classifier, model, net=params["net"])
        print("\n".join(found.notes), end="\n" * bool(found.notes))
        reader, weights, things = found.program.reader, found.params, found.things
        kept = steering.files.read_config(args.classifier)
        report, checksum = kept["report"], kept["weights"]  # what it was calibrated on
    else:
        reader, weights, report = classifier(args, task, counts, firsts)
        things, checksum = data.things, tree.crc32(params["net"])
    steering.save(out, model, reader, weights, things, report, checksum)
    if args.amortise:
        reader, weights, found = amortise.amortised(task, reader, weights, args.amortise, args.penalty, counts, args.rows)
        change = f"{found['loss_before']:.3f} -> {found['loss']:.3f}"
        print(f"loss of the classifier on dev {change}, corrections {found['correction']:.1%} of the noise")
        steering.save(out, model, reader, weights, things, report | {"amortised": found}, checksum)
    print(out)


def classifier(args, task, counts, firsts):
    """(Reader, weights, report) of a classifier for the task."""
    from anystep.steering import examples, fit
    from anystep.steering.classifier import fresh
    from anystep.steering.maps import lens_of

    lens = lens_of(task.model.net, args.kind, args.layers, args.heads, args.side)
    kinds = ("true", "wrong") if args.wrong != "no" else ("true",)
    train = examples.collect(task, "train", args.rows, lens, args.source, kinds, counts, firsts, args.at)
    judged = "policy" if task.data.boxes else "noised"
    dev = examples.collect(task, "dev", max(args.rows // 4, 64), lens, judged, ("true", "wrong"), counts, firsts, args.at)
    reader = fresh(args.kind, lens, train.maps.shape[2], train.t, not args.unscaled)
    lr = args.lr or (2e-3 if args.kind == "light" else 1e-4)
    halves = examples.halves(dev)
    weights, report = fit.fit(
        reader, train, halves, args.train, args.batch, lr, seed=args.seed, symmetries=not args.no_symmetries, say=print
    )
    report |= {"examples": len(train.t), "source": args.source, "dev": judged, "times": sorted(set(train.t.tolist()))}
    report |= {"wrong": args.wrong != "no"} if args.source != "policy" else {}
    report |= {"walk": [task.model.drawing.sampler, task.model.drawing.ask]} if args.source != "noised" else {}
    print("\n".join(f"{name:18} {value:.3f}" for name, value in report.items() if isinstance(value, float)))
    for steps, part in report["by_steps"].items():
        some = [f"{name} {part[name]:.3f}" for name in ("accuracy", "true", "ece") if part[name] is not None]
        print(f"at {steps} steps: {', '.join(some)}")
    return reader, weights, report


def data_of(args, model):
    import numpy as np

    from anystep import api
    from anystep.steering import sources

    height, width, _ = api.picture_of(model, api.shape_of(model, args.size))
    if args.data != "shapes":
        return sources.PicturesData(Path(args.data), (height, width), sources.boxes_of(args.boxes))
    world, learned = sources.world_of(model.config), model.config is not None and model.config.data.kind == "shapes"
    boxes = sources.boxes_of(args.boxes) or (sources.boxes_in_shapes(world) if learned else None)
    if boxes and not args.boxes:
        try:
            boxes(np.zeros((height, width, 3), np.uint8), ())
        except UserError as error:  # before anything is drawn
            raise UserError(f"--size {height}x{width}: {error}; --boxes FILE.py judges others") from None
    return sources.ShapesData(world, args.seed, (height, width), boxes)


if __name__ == "__main__":
    run_main(main)
