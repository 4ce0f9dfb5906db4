"""What the ways to draw of `anystep bench steer` cost: passes and FLOPs as they are counted, seconds and memory as they are measured.

Passes through the network, of one sample, with share = layers that run until the last one is read / depth:

    plain      calls (2 N - 1 of heun, else N) and as many of the null prompt where there is guidance
    steered    + looks x share - steered steps x share (the last look is gone on from);  + moves x share backward;  the corrections' network
               is none of these passes, its FLOPs count

A backward pass counts as one, though it is a little more. FLOPs are of products, by `anystep.flops`; neither counts the text encoder.

A sample that is alone looks and moves for itself. In a batch it pays for the others, too (`descend`): all look once, then groups of it run,
who still moves in front, whole as long as they hold one who does.
"""

import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anystep import api, flops
from anystep.steering.at import At, Walk
from anystep.steering.descend import groups_of
from anystep.steering.maps import reach
from anystep.types import Capture

TIMED = 64  # prompts at least: who is moved, and how often, is luck


class Parts(NamedTuple):
    """Of one sample: passes of the unsteered sampler; FLOPs of such a pass, of a look (to the last layer that is read, and the classifier),
    of what a pass is spared that goes on from a look, of what a backward pass adds, of all corrections; the share of the network's depth
    that a look takes."""

    plain: int
    forward: float
    look: float = 0.0
    spared: float = 0.0
    back: float = 0.0
    correction: float = 0.0
    share: float = 0.0


def parts_of(cases, model, params, prompts) -> list[Parts]:
    """Of each case; what several of them share is traced once. Of the prompts the one with most relations is counted."""
    net, d = model.net, model.drawing
    cond = jax.tree.map(jnp.zeros_like, model.text.encode(params["text"], model.text.tokenize(prompts[:1])))
    cond |= {"guidance": jnp.ones(1)} if d.told else {}
    x, t = jnp.zeros((1, *net.shape)), jnp.ones(1)
    forward = flops.count(lambda x: net.velocity(params["net"], x, t, t, cond)[0], x).matmul
    scale, inside = api.guidance(d, None, d.sampler, d.ask)
    each, known = 2 if scale != 1.0 and inside != "all" else 1, {None: {}}

    def of(case):
        program = case.steer.program if case.steer else None
        key = program and (program.reader, program.method.amortised)
        if key not in known:
            known[key] = steered_parts(case.steer, model, params, cond, x, t, prompts, forward)
        return Parts((2 * case.steps - 1 if d.sampler == "heun" else case.steps) * each, forward, **known[key])

    return [of(case) for case in cases]


def steered_parts(steer, model, params, cond, x, t, prompts, forward):
    """The fields of `Parts` that a Steering adds; x, t, cond: of one sample, forward: FLOPs of a pass."""
    net, program = model.net, steer.program
    most = max(steer.understand(model.text, prompts), key=lambda one: len(one.relations))
    if not most.relations:
        return {}
    told = steer.told([most], cond["features"].shape[1], len(most.relations))
    walk = Walk(net, params["net"], cond, None, None, lambda velocity: velocity)
    here = At(program.reader, program.method, walk, told, t, t, jnp.int32(0))
    h = jax.eval_shape(here.see, x)[1]["h"]
    blocks = reach(net, params["net"], h, Capture(program.reader.lens.layers, told["asked"].tokens))

    def there_and_back(x):
        found, back, aux = jax.vjp(here.see, x, has_aux=True)
        return back(jnp.ones_like(found)), aux  # with the features that are gone on from, as a round has them

    seen, both = (flops.count(part, x).matmul for part in (here.see, there_and_back))
    rest = flops.count(lambda x, h: here.finish(x, h, t, t)[0], x, h).matmul
    corrects = flops.count(here.corrected, x).matmul if program.method.amortised else 0.0
    return {"look": seen, "spared": forward - rest, "back": both - seen, "correction": corrects, "share": blocks / net.depth}


def counted(part: Parts, looks, moves, steered):
    """{"evaluations", "backward" (a part of them), "flops"} of one picture from looks, moves and steered steps of one, or their means."""
    total = part.plain * part.forward + looks * part.look + moves * part.back + part.correction - steered * part.spared
    return {"evaluations": part.plain + (looks + moves - steered) * part.share, "backward": moves * part.share, "flops": total}


def in_batches(looks, moves, batch, groups):
    """(looks, backward passes, looks as if each were alone) of a picture in the mean, as batches of this size run them in so many groups at
    most; None for fewer prompts than a batch. looks, moves [S, N]: of each prompt at each steered step as if it were alone; last prompts
    that fill no batch are left out. A method that chooses among noises and then moves is counted a round too many."""
    looks, moves = (np.asarray(numbers)[:, : len(numbers[0]) // batch * batch] for numbers in (looks, moves))
    if not looks.size:
        return None
    groups, (ran, back) = groups_of(batch, groups), (0, 0)
    for its_looks, its_moves in zip(looks.reshape(-1, batch), moves.reshape(-1, batch), strict=True):
        ran += batch * (groups > 1 and its_looks.any())
        for number in range(its_looks.max()):
            active = (its_looks > number) & ((its_moves > 0) | (number > 0) | (groups == 1))
            order = np.argsort(~active, kind="stable")
            active, moving = (rows[order].reshape(groups, -1).any(1).sum() for rows in (active, active & (its_moves > number)))
            ran, back = ran + active * batch // groups, back + moving * batch // groups
    return tuple(float(number) / looks.shape[1] for number in (ran, back, looks.sum()))


def measured(missing, cases, model, params, prompts, first, seed, batch, rounds):
    """(case, {"seconds" of a picture, "ratio" to none in the same rounds, "memory" in bytes}) of each missing one; first: number of the
    first noise."""
    if not missing:
        return
    model = model._replace(drawing=model.drawing._replace(batch=batch))
    prompts = prompts[: max(TIMED, 8 * batch)]

    def run(case, prompts=prompts):
        began = time.perf_counter()
        api.sample_array(model, params, prompts, case.steps, seed, steer=case.steer, first=first)
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
