"""The work of `anystep bench steer`: prompts with one relation or several, drawing and judging, what a look and a move cost.

Passes through the network, of one sample as if it were alone, with share = layers that run until the last one is read / depth:

    plain      calls (2 N - 1 of heun, else N) and as many of the null prompt where there is guidance
    steered    + looks x share - steered steps x share (the last look is gone on from);  + moves x share backward;  the corrections' network
               is none of these passes, its FLOPs count

A backward pass counts as one, though it is a little more. FLOPs are of products, by `anystep.flops`; neither counts the text encoder.
"""

import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anystep import api, flops, shapes, steering, tree
from anystep.errors import UserError
from anystep.nets import correction
from anystep.steering import sources
from anystep.steering.at import At, Walk
from anystep.steering.descend import groups_of
from anystep.steering.examples import FIRST
from anystep.steering.maps import look
from anystep.subjects import subject

TUNED = {"fast": (0.05, 0.1, 0.2, 0.4), "faithful": (1.25, 5.0, 20.0, 80.0)}  # steps that are tried; raw ones go with a network's gradients
TUNING = 10_000_000  # number of the first scene to tune on
TIMED = 64  # prompts at least: who is moved, and how often, is luck


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


def cases(model, params, methods, classifiers, steps):
    out = []
    for count in steps:
        out.append(Case("none", "", count))
        for text, (name, settings) in methods.items():
            for label, folder in classifiers.items() if name != "none" else ():
                try:
                    steer = steering.load(folder, model, name, net=params["net"], **settings)
                except UserError as error:
                    if "corrects noises" in str(error):
                        continue  # this classifier has no such part
                    raise
                out.append(Case(text, label, count, steer, tuple(settings)))
    return out


def trials(case):
    """The case with each step that is to be tried; [] where its step is told or does not matter."""
    sizes = TUNED.get(case.method.split(":")[0], ()) if case.steer and "step" not in case.settings else ()
    return [with_step(case, size) for size in sizes]


def with_step(case, size):
    program = case.steer.program
    return case._replace(steer=case.steer._replace(program=program._replace(method=program.method._replace(step=size))))


def draw(case, model, params, what: Asked, seed, fields):
    """Verdicts, a letter a prompt; of each prompt what the steering says; their means and counted costs."""
    prompts = [row["prompt"] for row in what.metadata]
    x, info = api.sample_and_say(model, params, prompts, case.steps, seed, steer=case.steer, first=what.first)
    verdicts = [what.judge(picture, row) for picture, row in zip(x, what.metadata, strict=True)]
    out = {field: "".join(str(int(verdict[field])) for verdict in verdicts) for field in fields}
    said = spoken(info)
    return out | said | counted(case, model, params, prompts[:1], said)


def spoken(info):
    """{"before", "after": probabilities that all relations hold, "moves", "looks", "distance", "steered" of each prompt}, [] without."""
    if not info:
        return dict.fromkeys(("before", "after", "moves", "looks", "distance", "steered"), [])
    here = info["steering"]
    steered = (here["looks"] > 0).sum(0)
    last = np.maximum(steered - 1, 0)

    def of_all(p):  # what is not asked for is 0
        return [None if np.isnan(row).any() else round(float(np.prod(row[row > 0])), 4) for row in p]

    after = np.take_along_axis(here["after"], last[None, :, None], 0)[0]
    out = {"before": of_all(here["before"][0]), "after": of_all(after), "steered": steered.tolist()}
    out |= {"moves": here["iterations"].sum(0).tolist(), "looks": here["looks"].sum(0).tolist()}
    return out | {"distance": here["distance"].max(0).round(4).tolist()}


def counted(case, model, params, prompts, said):
    """Means over prompts: {"evaluations", "backward" (a part of them), "flops"} of one picture."""
    net, d = model.net, model.drawing
    cond = jax.tree.map(jnp.zeros_like, model.text.encode(params["text"], model.text.tokenize(prompts)))
    cond |= {"guidance": jnp.ones(1)} if d.told else {}
    x, t = jnp.zeros((1, *net.shape)), jnp.ones(1)
    forward = flops.count(lambda x: net.velocity(params["net"], x, t, t, cond)[0], x).matmul
    scale, inside = api.guidance(d, None, d.sampler, d.ask)
    plain = (2 * case.steps - 1 if d.sampler == "heun" else case.steps) * (2 if scale != 1.0 and inside != "all" else 1)
    if not said["looks"]:
        return {"evaluations": float(plain), "backward": 0.0, "flops": plain * forward}
    part = parts(case, model, params, cond, x, t, prompts)
    looks, moves, steered = (float(np.mean(said[name])) for name in ("looks", "moves", "steered"))
    total = plain * forward + looks * part["look"] + moves * part["back"] + part["correction"] - steered * part["trunk"]
    share = part["share"]
    return {"evaluations": plain + (looks + moves - steered) * share, "backward": moves * share, "flops": total}


def parts(case, model, params, cond, x, t, prompts):
    """FLOPs of one sample's look (to the last layer that is read, and the classifier), of the network's part in it, of what a backward pass
    adds, of the corrections; and the share of the network's depth that a look takes."""
    steer, net = case.steer, model.net
    understood = steer.understand(model.text, prompts)
    relations = len(understood[0].relations)
    told = steer.told(understood, cond["features"].shape[1], relations)
    walk = Walk(net, params["net"], cond, None, None, lambda velocity: velocity)
    reader = steer.program.reader
    here = At(reader, steer.program.method, walk, told, t, t, jnp.int32(0))
    both = flops.count(jax.grad(lambda x: jnp.sum(here.see(x)[0])), x).matmul
    blocks = []

    def trunk(x):
        maps, h, count = look(net, params["net"], x, t, t, cond, told["asked"].tokens, reader.lens)
        blocks.append(count)
        return maps, h

    seen, alone = flops.count(here.see, x).matmul, flops.count(trunk, x).matmul
    corrects = 0.0
    if steer.program.method.amortised:
        apply, features = correction.build(reader.corrects).apply, jnp.zeros((1, 2, cond["features"].shape[-1]))
        corrects = flops.count(lambda x: apply(steer.params["correction"], x, features, jnp.zeros(1, jnp.int32)), x).matmul
    return {"look": seen, "back": both - seen, "trunk": alone, "correction": relations * corrects, "share": blocks[0] / net.depth}


def waiting(looks, moves, batch, groups):
    """How much more a batch looks than its samples would alone: all look once, then groups that hold somebody who still moves."""
    n = len(looks) // batch * batch
    if not n:
        return None
    looks, moves = (np.array(numbers[:n]).reshape(-1, batch) for numbers in (looks, moves))
    if (groups := groups_of(batch, groups)) == 1:
        return float(looks.max(1).sum() * batch / max(looks.sum(), 1))
    length = batch // groups
    rounds = [((looks > number) & ((moves > 0) | (number > 0))).sum(1) for number in range(int(looks.max()))]
    return float((n + sum((-(-left // length) * length).sum() for left in rounds)) / max(looks.sum(), 1))


def costs(missing, cases, model, params, what: Asked, seed, batch, rounds):
    """(case, {"seconds" of a picture, "ratio" to none in the same rounds, "memory"}) of each missing one."""
    if not missing:
        return
    model = model._replace(drawing=model.drawing._replace(batch=batch))
    prompts = [row["prompt"] for row in what.metadata][: max(TIMED, 8 * batch)]

    def run(case, prompts=prompts):
        began = time.perf_counter()
        api.sample_array(model, params, prompts, case.steps, seed, steer=case.steer, first=what.first)
        return (time.perf_counter() - began) / len(prompts)

    for case in missing:
        base = next(other for other in cases if other.method == "none" and other.steps == case.steps)
        for one in (base, case):
            run(one, prompts[:batch])  # compiles
        seconds = [(run(base), run(case)) for _ in range(rounds)]
        args, words = spied(model, params, prompts[:batch], case)
        memory = model.draw.lower(*args, **words).compile().memory_analysis()
        yield (
            case,
            {
                "seconds": statistics.median(mine for _, mine in seconds),
                "ratio": statistics.median(mine / base for base, mine in seconds),
                "memory": memory.temp_size_in_bytes + memory.output_size_in_bytes,
            },
        )


def spied(model, params, prompts, case, seed=0):
    """(positional, keyword arguments) with which `model.draw` is called for these prompts."""
    calls = []

    def draw(*args, **words):
        calls.append((args, words))
        return model.draw(*args, **words)

    api.sample_array(model._replace(draw=draw), params, prompts, case.steps, seed, steer=case.steer)
    return calls[0]


def digest(case) -> str:
    """Of all of a case that changes its pictures but the model, the prompts and the noise."""
    if case.steer is None:
        return ""
    program = case.steer.program
    program = program._replace(method=program.method.over(case.steps))
    return f"{program!r} {case.steer.strength} {tree.crc32(case.steer.params):08x}"
