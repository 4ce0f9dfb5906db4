"""Prompts put to a model from the same noise again and again, and what its judge says. Not a benchmark: `times` and `trig` call it."""

from typing import Any, NamedTuple

import numpy as np

from anystep import api, flags
from anystep.errors import UserError
from anystep.subjects import subject


class Asked(NamedTuple):
    model: Any
    params: Any
    metadata: list
    judge: Any
    seed: int
    how: dict  # sampler, ask, guide

    @property
    def tags(self):
        return [row["tag"] for row in self.metadata]

    def draw(self, steps=0, model=None, **how):
        """Pictures [N, ...] at the door, of `model` instead of its own if there is one."""
        prompts = [row["prompt"] for row in self.metadata]
        return api.sample_array(model or self.model, self.params, prompts, steps, self.seed, **self.how | how)

    def right(self, x):
        """[N] 0 or 1: whether the pictures show what was asked for."""
        return np.array([int(self.judge(picture, row)["correct"]) for picture, row in zip(x, self.metadata, strict=True)])


def add_flags(parser):
    parser.add_argument("--model", required=True, help="folder of a saved model, or work directory of a run")
    parser.add_argument("--scale", type=flags.real(0.0, flags.MOST_SCALE), help="guidance scale, 1 = none (default: the model's)")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED - 1), default=0, help="of the prompts and of the noise")
    parser.add_argument("--out", default="", help="JSON record to write")


def load(name):
    """(model, params) of what can be judged."""
    model, params = api.load(name)
    if model.config is None:
        raise UserError(f"--model {name!r}: was not trained here, so there is nothing that its pictures could be judged by")
    return model, params


def put(model, params, n, split, seed, how) -> Asked:
    """`n` prompts of a split, "test" (where there is none: "dev") or "dev". UserError where they cannot be judged, or are too few."""
    data = model.config.data
    metadata, judge, *_ = subject(data, n, split if data.kind == "shapes" else "dev", seed)
    if judge is None:
        raise UserError(f"--model: learned data.kind = {data.kind!r}, for which there is no judge")
    asked = Asked(model, params, metadata, judge, seed, how)
    if (fewest := min(map(asked.tags.count, asked.tags))) < 2:
        raise UserError(f"{n} prompts: leave {fewest} of a tag, each needs two for its standard error")
    return asked
