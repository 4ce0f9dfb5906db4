"""The work of `anystep bench steer`: prompts with one relation or several, ways to draw them, drawing and judging. What it costs is counted
and measured in `_steer_costs`."""

from typing import Any, NamedTuple

import jax
import numpy as np

from anystep import api, shapes, steering, tree
from anystep.bench._draw import variety
from anystep.errors import UserError
from anystep.steering import sources
from anystep.steering.examples import FIRST
from anystep.steering.method import method_of
from anystep.subjects import subject

TUNED = {"fast": (0.05, 0.1, 0.2, 0.4), "faithful": (1.25, 5.0, 20.0, 80.0)}  # steps that are tried, normalised and raw ones
PICTURES, AGAIN = 8, 2**23  # of one prompt, whose distance is its variety; their noises come so many after those of the prompts
TUNING = 10_000_000  # number of the first scene to tune on


class Case(NamedTuple):
    """A way to draw."""

    method: str
    classifier: str
    steps: int
    steer: Any = None  # Steering, None for none
    settings: Any = ()  # names of those that are told


class Asked(NamedTuple):
    """Prompts with what judges their pictures, and the number of the first noise."""

    metadata: list[dict]
    judge: Any
    first: int


def asked(model, n, relations, split, seed, tuning=False) -> Asked:
    """n position prompts of so many relations, from scenes of the split."""
    if model.config is None or model.config.data.kind != "shapes":
        raise UserError("--model: must have learned data.kind = 'shapes', whose pictures can be judged")
    if relations > model.config.data.chain:
        learned = f"the model learned scenes of at most {model.config.data.chain} (config.data.chain)"
        raise UserError(f"--relations {relations}: {learned}")
    world, colors = sources.world_of(model.config)._replace(chain=relations), model.config.data.color_words > 0
    metadata, number = [], TUNING if tuning else 0
    while len(metadata) < n:
        scene = shapes.make_scene(world, seed, number, split, "position")
        metadata += [shapes.metadata(scene, colors)] if len(scene.relations) == relations else []
        number += 1
    return Asked(metadata, subject(model.config.data, 1, split, seed).judge, FIRST["bench tune" if tuning else f"bench {split}"])


def cases(model, params, methods, classifiers, steps) -> list[Case]:
    """Of each number of steps "none" and every method with every classifier, and a printed line for each of these pairs that cannot be.

    methods: {text: (name, settings)}, classifiers: {label: folder}. UserError for what cannot be loaded or set.
    """
    loaded, ways = {label: steering.load(folder, model, net=params["net"]) for label, folder in classifiers.items()}, []
    for text, (name, settings) in methods.items():
        for label, steer in loaded.items() if name != "none" else ():
            method = method_of(name, settings)
            if method.amortised and steer.program.reader.corrects is None:
                print(f"{text}: left out for classifier {label!r}, which has no network that corrects noises (steer-train --amortise)")
                continue
            program = steer.program._replace(method=method)
            ways.append(Case(text, label, 0, steer._replace(program=program), tuple(settings)))
    return [case for count in steps for case in (Case("none", "", count), *(way._replace(steps=count) for way in ways))]


def trials(case):
    """The case with each step that is to be tried; [] where its step is told or does not matter."""
    method = case.steer.program.method if case.steer else None
    if method is None or not method.iterations or "step" in case.settings:
        return []
    return [with_step(case, size) for size in TUNED["fast" if method.normalised else "faithful"]]


def with_step(case, size):
    program = case.steer.program
    return case._replace(steer=case.steer._replace(program=program._replace(method=program.method._replace(step=size))))


def draw(case, model, params, what: Asked, seed, fields):
    """Verdicts, a letter a prompt; of each prompt what the steering says."""
    prompts = [row["prompt"] for row in what.metadata]
    x, info = api.sample_and_say(model, params, prompts, case.steps, seed, steer=case.steer, first=what.first)
    jax.clear_caches()  # each case is a program of its own, and some fifty of them use up the maps of memory that a process may have
    verdicts = [what.judge(picture, row) for picture, row in zip(x, what.metadata, strict=True)]
    return {field: "".join(str(int(verdict[field])) for verdict in verdicts) for field in fields} | spoken(info)


def spread(case, model, params, what: Asked, seed, prompts):
    """{"variety": how far PICTURES pictures of each of so many prompts lie apart}."""
    some = [row["prompt"] for row in what.metadata[:prompts] for _ in range(PICTURES)]
    x = api.sample_array(model, params, some, case.steps, seed, steer=case.steer, first=what.first + AGAIN)
    jax.clear_caches()
    return {"variety": variety(x, PICTURES).round(5).tolist()}


def spoken(info):
    """{"before", "after": probabilities that all relations hold, "distance", "steered": steps [N], "moves", "looks": of each of these steps
    [S, N]} of the prompts, [] without."""
    if not info:
        return dict.fromkeys(("before", "after", "moves", "looks", "distance", "steered"), [])
    here = info["steering"]
    steered = (here["looks"] > 0).sum(0)
    last = np.maximum(steered - 1, 0)

    def of_all(p):  # what is not asked for is 0
        return [None if np.isnan(row).any() else round(float(np.prod(row[row > 0])), 4) for row in p]

    after = np.take_along_axis(here["after"], last[None, :, None], 0)[0]
    out = {"before": of_all(here["before"][0]), "after": of_all(after), "steered": steered.tolist()}
    out |= {"moves": here["iterations"][: steered.max()].tolist(), "looks": here["looks"][: steered.max()].tolist()}
    return out | {"distance": here["distance"].max(0).round(4).tolist()}


def digest(case) -> str:
    """Of all of a case that changes its pictures but the model, the prompts and the noise."""
    if case.steer is None:
        return ""
    program = case.steer.program
    program = program._replace(method=program.method.over(case.steps))
    return f"{program!r} {case.steer.strength} {tree.crc32(case.steer.params):08x}"
