"""`anystep sample`: prompts in, one PNG out. Rows are prompts, columns step counts, the pictures of a row drawn from the same noise.

`anystep.sample(model, params, prompts, ...)` is the same name: this module can be called, and then is `api.sample`, where drawing lives.
"""

import json
import os
import sys
import types

from etils import epath

from anystep import flags, logs
from anystep.errors import UserError, run_main

LONGEST = 1000  # characters of a prompt
LARGEST = 4 * 2**20  # bytes of a file of prompts
MOST = 1000  # prompts
PAGE = 2**28  # pixels of a grid


def check_prompt(prompt: str, where: str) -> str:
    """The prompt, or a UserError that names `where` it stands."""
    if len(prompt) > LONGEST:
        raise UserError(f"{where}: {len(prompt):,} characters, at most {LONGEST:,} are allowed")
    if "\0" in prompt:
        raise UserError(f"{where}: holds a NUL character at position {prompt.index(chr(0))}")
    if any("\ud800" <= character <= "\udfff" for character in prompt):  # what the command line makes of bytes that are not UTF-8
        raise UserError(f"{where}: is not UTF-8")
    return prompt


def read_prompts(path: str) -> list[str]:
    """The prompts of a UTF-8 file: one a line, or the "prompt" of each object of a .jsonl (GenEval's metadata). Empty lines are skipped."""
    try:
        if not os.path.isfile(path):  # nor a pipe or a device, which need not end
            raise UserError(f"--prompts {path!r}: no such file")
        with open(path, "rb") as stream:  # never more than the limit, whatever the file says of its size
            data = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"--prompts {path!r}: cannot be read ({type(error).__name__})") from None
    if len(data) > LARGEST:
        raise UserError(f"--prompts {path!r}: more than {LARGEST:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"--prompts {path!r}: is not UTF-8 at byte {error.start:,}") from None
    lines = [(f"--prompts {path!r} line {number}", line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not 1 <= len(lines) <= MOST:
        raise UserError(f"--prompts {path!r}: {len(lines):,} prompts, 1..{MOST:,} are allowed")
    return [check_prompt(_from_json(line, where) if path.endswith(".jsonl") else line, where) for where, line in lines]


def _from_json(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: is not JSON") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f'{where}: is no object with a text "prompt"')
    return row["prompt"]


def parse(argv):
    """The checked flags; `prompts` is the list of prompts."""
    parser = flags.Parser(prog="anystep sample", description="Draw prompts at several step counts from the same noise, into one picture.")
    parser.add_argument("--model", required=True, help="folder of a saved model or of a pipeline, or work directory of a run")
    parser.add_argument("--prompt", action="append", default=[], help="what to draw; may be given several times")
    parser.add_argument("--prompts", default="", help="file with one prompt a line, or GenEval metadata (.jsonl)")
    flags.add_drawing(parser)
    parser.add_argument("--text", help="folder of the text encoder, for prompts that the store of the model does not hold")
    parser.add_argument("--size", type=flags.size, help="HEIGHTxWIDTH in pixels (default: the model's)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of a pipeline's activations (default: float32)")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED), default=0, help="of the noise")
    parser.add_argument("--out", default="grid.png", help="PNG to write")
    args = parser.parse_args(argv)
    if len(args.prompt) > MOST:
        raise UserError(f"--prompt: given {len(args.prompt):,} times, at most {MOST:,} are allowed")
    args.prompts = [check_prompt(prompt, "--prompt") for prompt in args.prompt] + (read_prompts(args.prompts) if args.prompts else [])
    if not args.prompts:
        raise UserError("nothing to draw: give --prompt TEXT or --prompts FILE")
    if not args.out.lower().endswith(".png"):
        raise UserError(f"--out {args.out!r}: must end in .png")
    if epath.Path(args.out).is_dir():
        raise UserError(f"--out {args.out!r}: is a folder")
    return args


def main(argv):
    """Parse, load, draw at each step count, write the grid. Raises UserError for what the user can mend."""
    args = parse(argv)
    flags.folder(epath.Path(args.out).parent, "--out")

    from anystep import api  # after the flags: a typing error should not wait for jax
    from anystep.cache import use_compile_cache

    use_compile_cache()
    model, params = api.load(args.model, dtype=args.dtype, text=args.text)
    height, width, colours = api.picture_of(model, api.shape_of(model, args.size))
    if colours < 3:
        raise UserError(f"--model {args.model!r}: draws samples of shape {list(model.net.shape)}, a grid needs pictures")
    steps = args.steps or model.drawing.steps
    how = {"sampler": args.sampler or model.drawing.sampler, "ask": args.ask or model.drawing.ask}
    scale, _ = api.guidance(model.drawing, args.scale, **how)
    if (pixels := len(args.prompts) * len(steps) * height * width) > PAGE:
        pictures = f"{len(args.prompts)} x {len(steps)} pictures of {height} x {width}"
        raise UserError(f"--prompts: {pictures} are {pixels:,} pixels, a page has at most {PAGE:,}")
    how |= {"seed": args.seed, "guide": args.scale, "eta": args.eta, "size": args.size}
    drawn = {count: api.sample(model, params, args.prompts, steps=count, **how) for count in steps}
    logs.save(logs.strip(drawn, args.prompts), args.out)
    counts = ", ".join(map(str, steps))
    said = f"guidance {scale:g}, {how['sampler']} asking {how['ask']}, seed {args.seed}"
    print(f"{args.out}: {len(args.prompts)} prompts at {counts} steps, {said}")


class _Callable(types.ModuleType):
    """Lets `anystep.sample` be a function for Python and a module for the import system, whichever was asked first."""

    def __call__(self, model, params, prompts, steps=4, seed=0, guide=None, steer=None, **how):
        """Draw `prompts`: see `anystep.api.sample`."""
        from anystep import api

        return api.sample(model, params, prompts, steps, seed, guide, steer, **how)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    run_main(main)
