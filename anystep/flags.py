"""What the flags of `sample` and `evaluate` share: their parser and their types. A mistake is a UserError before a device is touched.

Which flags there are is said in each main. Config flags (`--config.a.b=c`) live in `config`.
"""

import argparse
import importlib.util
import os
from collections.abc import Callable
from typing import Any, NoReturn

from etils import epath

from anystep.errors import UserError
from anystep.files import is_remote

SAMPLERS, ASKS = ("euler", "heun", "dpm", "restart", "ddim", "ddim_ratio"), ("next", "now", "zero", "half")
LISTS = {"sprint": (1, 2, 4), "sprint_released": (), "sprint_ablations": (2,)}  # of times.PUBLISHED: numbers of steps, () for all
STEERING = ("fast", "faithful", "amortised", "best", "flips")
MODEL = "nine_shapes"  # the packaged model that draws where none is named
MOST_STEPS, MOST_COLUMNS, MOST_SEED, MOST_SCALE, MOST_SIDE = 1000, 16, 2**31 - 1, 100.0, 8192


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors; no abbreviations."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def add_drawing(parser: Parser) -> None:
    """How to draw, where the model's config should not decide."""
    parser.add_argument("--steps", type=steps, help="step counts, such as 1,2,4,8,32 (default: the model's config.eval.steps)")
    parser.add_argument("--times", type=times, help=f"flow times such as 1,0.6,0, or with --steps a name: {', '.join(LISTS)}")
    add_walk(parser)
    parser.add_argument("--eta", type=real(0.0, 1.0), help="noise that ddim draws afresh (default: config.eval.eta)")


def add_walk(parser: Parser) -> None:
    """Of those, what decides where a step goes."""
    parser.add_argument("--scale", type=real(0.0, MOST_SCALE), help="guidance scale, 1 = none (default: the model's)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="how to walk (default: config.eval.sampler)")
    parser.add_argument("--ask", choices=ASKS, help="s asked for: t_next, t, 0, t / 2 (default: config.eval.ask)")


def check_times(args: Any) -> dict[str, Any]:
    """What --times adds to a call, {} or {"times": ...}; it says the number of steps, or some. UserError where --steps says others."""
    if args.times is None:
        return {}
    known = LISTS[args.times] if isinstance(args.times, str) else (len(args.times) - 1,)
    if known and not set(args.steps or known) <= set(known):
        raise UserError(f"--steps: --times {spoken(args.times)} is for {', '.join(map(str, known))}")
    args.steps = args.steps or known or None
    return {"times": args.times}


def spoken(times: str | list[float]) -> str:
    return times if isinstance(times, str) else ",".join(f"{t:g}" for t in times)


def whole(low: int, high: int) -> Callable[[str], int]:
    """A flag type: an integer in [low, high]."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{_short(text)} is not a whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{_short(text)} is outside {low}..{high}")
        return value

    return read


def real(low: float, high: float) -> Callable[[str], float]:
    """A flag type: a number in [low, high]; nan is in no interval."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{_short(text)} is not a number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{_short(text)} is outside {low:g}..{high:g}")
        return value

    return read


def steps(text: str) -> tuple[int, ...]:
    """A flag type: step counts such as "1,2,4,8,32", each once, in the order given."""
    counts = tuple(whole(1, MOST_STEPS)(part) for part in text.split(","))
    if len(counts) > MOST_COLUMNS:
        raise argparse.ArgumentTypeError(f"{len(counts)} step counts, at most {MOST_COLUMNS} are allowed")
    if len(set(counts)) < len(counts):
        raise argparse.ArgumentTypeError(f"{_short(text)} names a step count twice")
    return counts


def times(text: str) -> str | list[float]:
    """A flag type: flow times such as "1,0.6,0", decreasing from 1 to 0, or the name of a published list."""
    if text in LISTS:
        return text
    found = [real(0.0, 1.0)(part) for part in text.split(",")]
    if len(found) > MOST_STEPS + 1:
        raise argparse.ArgumentTypeError(f"{len(found)} times, at most {MOST_STEPS + 1} are allowed")
    if len(found) < 2 or found[0] != 1 or found[-1] != 0 or any(a <= b for a, b in zip(found[:-1], found[1:], strict=True)):
        raise argparse.ArgumentTypeError(f"{_short(text)} does not decrease from 1 to 0; or a name: {', '.join(LISTS)}")
    return found


def size(text: str) -> tuple[int, int]:
    """A flag type: "512x768", height and width."""
    height, cross, breadth = text.partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{_short(text)} is not HEIGHTxWIDTH")
    return whole(1, MOST_SIDE)(height), whole(1, MOST_SIDE)(breadth)


def python_file(text: str) -> str:
    """A flag type: a file that is there and can be imported."""
    if not (text.endswith(".py") and os.path.isfile(text)):
        raise argparse.ArgumentTypeError(f"{_short(text)} is no Python file that is there (FILE.py)")
    return text


def folder(path: Any, flag: str) -> epath.Path:
    """`path` as a folder that exists from now on. UserError when it cannot be made: better now than after an hour of drawing."""
    path = epath.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not is_remote(path) and not path.is_dir():  # an object store has no folders
            raise NotADirectoryError
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}: {_short(str(path))} is no folder and cannot be made one ({type(error).__name__})") from None
    return path


def require_remote(path) -> None:
    """UserError for a gs:// path where nothing installed can read it."""
    if str(path).startswith("gs://") and not any(importlib.util.find_spec(name) for name in ("gcsfs", "tensorflow")):
        raise UserError(f"{path}: gs:// needs the package gcsfs: pip install anystep[gcs]")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
