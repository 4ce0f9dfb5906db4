"""`anystep sample`: prompts in, one PNG out. Rows are prompts, columns step counts, the pictures of a row drawn from the same noise. Or,
with --export, the folders of pictures that a benchmark's own script scores.

`anystep.sample(model, params, prompts, ...)` is the same name: this module can be called, and then is `api.sample`, where drawing lives.
"""

import hashlib
import json
import sys
import types

from etils import epath

from anystep import flags, galleries, logs
from anystep.errors import UserError, run_main
from anystep.prompts import MOST, check_prompt, read_rows

PAGE = 2**28  # pixels of a grid


def parse(argv):
    """The checked flags; `prompts` is the list of prompts."""
    parser = flags.Parser(prog="anystep sample", description="Draw prompts at several step counts from the same noise, into one picture.")
    said = "folder of a saved model or of a pipeline, work directory of a run, or name of a packaged model"
    parser.add_argument("--model", default=flags.MODEL, help=f"{said} (default: {flags.MODEL}, coloured shapes)")
    parser.add_argument("--prompt", action="append", default=[], help="what to draw; may be given several times")
    parser.add_argument("--prompts", default="", help="file with one prompt a line, or GenEval metadata (.jsonl)")
    flags.add_drawing(parser)
    parser.add_argument("--image", help="picture to begin with, of the size that is drawn, noised as far as --strength says")
    parser.add_argument("--strength", type=flags.real(0.0, 1.0), help="flow time at which --image begins, above 0 (default: 0.6)")
    parser.add_argument("--text", help="folder of the text encoder, for prompts that the store of the model does not hold")
    parser.add_argument("--size", type=flags.size, help="HEIGHTxWIDTH in pixels (default: the model's)")
    parser.add_argument("--control", help="picture that a ControlNet follows as it is, edges white on black, of the drawn size")
    parser.add_argument("--control_from", help="picture whose edges it follows")
    parser.add_argument("--control_scale", type=flags.real(-10.0, 10.0), help="of what the ControlNet adds (default: 1)")
    parser.add_argument(
        "--steer",
        help="folder of a classifier (anystep steer-train), or name of a packaged model that has one: objects go where the prompt says",
    )
    parser.add_argument("--method", choices=flags.STEERING, help="how to steer (default: fast)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of a pipeline's activations (default: float32)")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED), default=0, help="of the noise")
    parser.add_argument("--out", help="PNG to write (default: grid.png), or with --export the folder")
    parser.add_argument("--export", choices=tuple(galleries.COUNTS), help="one picture a file, in the folders that the benchmark scores")
    parser.add_argument(
        "--count", type=flags.whole(1, galleries.MOST), help="pictures a prompt of an export (default: as published, 4 and 10)"
    )
    args = parser.parse_args(argv)
    if len(args.prompt) > MOST:
        raise UserError(f"--prompt: given {len(args.prompt):,} times, at most {MOST:,} are allowed")
    args.rows = [{"prompt": check_prompt(prompt, "--prompt")} for prompt in args.prompt] + (read_rows(args.prompts) if args.prompts else [])
    args.prompts = [row["prompt"] for row in args.rows]
    if not args.prompts:
        raise UserError("nothing to draw: give --prompt TEXT or --prompts FILE")
    if args.control and args.control_from:
        raise UserError("--control_from: not beside --control, one picture is followed")
    if args.control_scale is not None and not (args.control or args.control_from):
        raise UserError(f"--control_scale {args.control_scale:g}: is for --control or --control_from")
    if args.method and not args.steer:
        raise UserError(f"--method {args.method}: is for --steer")
    args.over = flags.check_times(args)
    _check_image(args)
    if args.export:
        return _check_export(args)
    if args.count:
        raise UserError(f"--count {args.count}: is for --export; a grid has one picture for each step count")
    args.out = args.out or "grid.png"
    if not args.out.lower().endswith(".png"):
        raise UserError(f"--out {args.out!r}: must end in .png")
    if epath.Path(args.out).is_dir():
        raise UserError(f"--out {args.out!r}: is a folder")
    return args


def _check_image(args):
    if args.strength is not None and not args.image:
        raise UserError(f"--strength {args.strength:g}: is for --image")
    if args.strength == 0:
        raise UserError("--strength 0: must be above 0; that would be the picture itself")
    for name in ("steer", "export"):
        if args.image and getattr(args, name):
            raise UserError(f"--image {args.image!r}: is not for --{name}")
    args.strength = 0.6 if args.strength is None else args.strength


def _check_export(args):
    args.count = args.count or galleries.COUNTS[args.export]
    if not args.out or args.out.lower().endswith(".png"):
        raise UserError(f"--out {args.out!r}: --export needs a folder")
    if not args.steps or len(args.steps) != 1:
        raise UserError("--steps: --export draws at one step count, such as --steps 4")
    if args.seed + args.count - 1 > flags.MOST_SEED:
        raise UserError(
            f"--seed {args.seed}: with --count {args.count} at most {flags.MOST_SEED - args.count + 1}, picture n takes seed + n"
        )
    galleries.check(args.export, args.rows)
    return args


def main(argv):
    """Parse, load, draw at each step count, write the grid. Raises UserError for what the user can mend."""
    args = parse(argv)
    folder = flags.folder(args.out if args.export else epath.Path(args.out).parent, "--out")

    from anystep import api, steering  # after the flags: a typing error should not wait for jax
    from anystep.cache import use_compile_cache
    from anystep.data.pictures import read_whole

    picture = read_whole(args.image) if args.image else None  # before a large model is read
    use_compile_cache()
    followed = _followed(args)
    model, params = api.load(args.model, dtype=args.dtype, text=args.text)
    height, width, colours = api.picture_of(model, api.shape_of(model, args.size))
    if colours < 3:
        raise UserError(f"--model {args.model!r}: draws samples of shape {list(model.net.shape)}, a grid needs pictures")
    if model.codec is None and colours > 3:
        known = "it was trained without config.data.autoencoder; its config.json may name that folder"
        print(f"WARNING: --model {args.model!r}: three channels of its {colours} are shown, {known}", file=sys.stderr)
    steps = args.steps or model.drawing.steps
    how = {"sampler": args.sampler or model.drawing.sampler, "ask": args.ask or model.drawing.ask}
    scale, _ = api.guidance(model.drawing, args.scale, **how)
    how |= {"guide": args.scale, "eta": args.eta, "size": args.size and list(args.size)} | followed
    how |= args.over | ({"image": picture, "strength": args.strength} if args.image else {})
    steer = steering.load(args.steer, model, args.method or "fast", net=params["net"], measure=not args.export) if args.steer else None
    said = f"guidance {scale:g}, {how['sampler']} asking {how['ask']}, seed {args.seed}"
    said += f", times {flags.spoken(args.times)}" if args.over else ""
    said += f", from {args.image} at {args.strength:g}" if args.image else ""
    for line in dict.fromkeys(
        line
        for count in steps
        for line in api.notes(
            model, args.prompts, steer, count, **args.over, **{name: how[name] for name in ("size", "sampler", "ask", "eta")}
        )
    ):
        print(line)
    if args.export:
        return _export(args, folder, api, model, params, scale, how, said, steer)
    if (pixels := len(args.prompts) * len(steps) * height * width) > PAGE:
        pictures = f"{len(args.prompts)} x {len(steps)} pictures of {height} x {width}"
        raise UserError(f"--prompts: {pictures} are {pixels:,} pixels, a page has at most {PAGE:,}")
    if steer:
        return _steered(args, api, model, params, steer, steps, how, said)
    drawn = {count: api.sample(model, params, args.prompts, steps=count, seed=args.seed, **how) for count in steps}
    logs.save(logs.strip(drawn, args.prompts), args.out)
    counts = ", ".join(map(str, steps))
    print(f"{args.out}: {len(args.prompts)} prompts at {counts} steps, {said}")


def _followed(args):
    """What to draw with a picture that is followed: {} for none."""
    if not (args.control or args.control_from):
        return {}
    from anystep.control import edges
    from anystep.data.pictures import read_whole
    from anystep.subjects import to_uint8

    shown = read_whole(args.control or args.control_from)
    if args.control_from:
        shown = to_uint8(edges(shown[None] / 127.5 - 1.0))[0]
    return {"control": shown, "control_scale": 1.0 if args.control_scale is None else args.control_scale}


def _steered(args, api, model, params, steer, steps, how, said):
    """The grid as steered, and beside it OUT_steered.png, before and after, and OUT_maps.png, where the network had the words."""
    from anystep.steering import show
    from anystep.subjects import to_uint8

    understood, plain, drawn = steer.understand(model.text, args.prompts), {}, {}
    for count in steps:
        x, told = api.sample_and_say(model, params, args.prompts, count, args.seed, steer=steer, **how)
        drawn[count] = to_uint8(x)
        print("\n".join(show.lines(understood, told, count)))
        plain[count] = api.sample(model, params, args.prompts, steps=count, seed=args.seed, **how)
    stem = args.out[: -len(".png")]
    pages = {args.out: logs.strip(drawn, args.prompts), f"{stem}_steered.png": show.before_after(plain, drawn, args.prompts)}
    if told:
        pages[f"{stem}_maps.png"] = show.maps_page(understood, told)
    for path, page in pages.items():
        logs.save(page, path)
    print(f"{', '.join(pages)}: {len(args.prompts)} prompts at {', '.join(map(str, steps))} steps, {said}, steered {args.method or 'fast'}")


def _export(args, folder, api, model, params, scale, how, said, steer=None):
    """Picture n of a prompt takes seed + n and the prompt's place in the list, whatever the count."""
    from anystep import tree

    steps = args.steps[0]
    asked = hashlib.sha256(json.dumps(args.rows).encode()).hexdigest()
    made = {"export": args.export, "prompts": asked, "count": args.count, "steps": steps, "seed": args.seed}
    made |= {"weights": tree.crc32(params)} | ({"steer": [args.method or "fast", tree.crc32(steer.params)]} if steer else {})
    made |= how | {"guide": scale} | ({"control": tree.crc32(how["control"])} if "control" in how else {})
    galleries.begin(folder, args.export, args.rows, made)
    if args.export == "t2i_compbench" and (changed := sum(galleries.stem(prompt) != prompt for prompt in args.prompts)):
        print(f"{changed} prompts differ from their file names: spaces for / and _, or cut", file=sys.stderr)

    def draw(prompts, first, number):
        return api.sample(model, params, prompts, steps=steps, seed=args.seed + number, first=first, steer=steer, **how)

    there = galleries.write(folder, args.export, args.prompts, args.count, draw, model.drawing.batch)
    before = f", {there:,} of them drawn before" if there else ""
    print(f"{folder}: {len(args.prompts)} prompts, {args.count} pictures each at {steps} steps{before}, {said}")


class _Callable(types.ModuleType):
    """Lets `anystep.sample` be a function for Python and a module for the import system, whichever was asked first."""

    def __call__(self, model, params, prompts, steps=4, seed=0, guide=None, steer=None, **how):
        """Draw `prompts`: see `anystep.api.sample`. What a Steering will not do for them (`anystep.api.notes`) is said on stderr."""
        from anystep import api

        x = api.sample(model, params, prompts, steps, seed, guide, steer, **how)
        walk = {name: how.get(name) for name in ("times", "size", "sampler", "ask", "eta")}
        for line in api.notes(model, prompts, steer, steps, **walk) if steer else ():
            print(line, file=sys.stderr)
        return x


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    run_main(main)
