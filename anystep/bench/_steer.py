"""The work of `anystep bench steer`: prompts with one relation or several, drawing and judging, what a look and a move cost."""

import statistics
import time
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anystep import api, flops, shapes, steering
from anystep.errors import UserError
from anystep.nets import correction
from anystep.steering import learned
from anystep.steering.program import At, Walk
from anystep.subjects import subject


class Case(NamedTuple):
    """A way to draw."""

    method: str
    classifier: str
    steps: int
    steer: Any  # Steering, None for none
    digest: str  # of the classifier's weights


def asked(model, n, relations, split, seed):
    """(metadata of n prompts of position and n // 4 of each other tag, judge)."""
    if model.config is None or model.config.data.kind != "shapes":
        raise UserError("--model: must have learned data.kind = 'shapes', whose pictures can be judged")
    world, colors = learned.world_of(model.config), model.config.data.color_words > 0

    def scenes(kind, count):
        return [shapes.metadata(shapes.make_scene(world, seed, i, split, kind), colors) for i in range(count)]

    metadata = scenes("position", n) if relations == 1 else [chain(world, seed, i, relations) for i in range(n)]
    for kind in shapes.KINDS:
        metadata += scenes(kind, n // 4) if kind != "position" and n // 4 > 1 else []
    return metadata, subject(model.config.data, 1, split, seed).judge


def chain(world, seed, number, relations):
    """Metadata of "a A r1 a B r2 a C", every thing and every relation another (Learn-to-Steer's benchmark), that some picture can show."""
    if len(world.shapes) <= relations:
        raise UserError(f"--relations {relations}: needs {relations + 1} shapes, the world has {len(world.shapes)}")
    rng = np.random.default_rng([seed, number])
    names = rng.permutation(world.shapes)[: relations + 1].tolist()
    words = rng.permutation(shapes.RELATIONS)[:relations].tolist()
    include = [{"class": names[-1], "count": 1}]
    for place, (name, word) in enumerate(zip(names[-2::-1], words[::-1], strict=True)):
        include.append({"class": name, "count": 1, "position": [word, place]})
    prompt = " ".join(f"a {name} {word}" for name, word in zip(names, words, strict=False)) + f" a {names[-1]}"
    return {"tag": "position", "include": include, "prompt": prompt}


def cases(model, methods, classifiers, steps):
    out = []
    for count in steps:
        out.append(Case("none", "", count, None, ""))
        for text, (name, settings) in methods.items():
            for label, folder in classifiers.items() if name != "none" else ():
                published = {"steps": 1 if count <= 4 else count // 2} if name == "faithful" else {}
                try:
                    steer = steering.load(folder, model, name, **(published | settings))
                except UserError as error:
                    if "corrects noises" in str(error):
                        continue  # this classifier has no such part
                    raise
                digest = 0
                for leaf in jax.tree.leaves(steer.params):
                    digest = zlib.crc32(np.asarray(leaf).tobytes(), digest)
                out.append(Case(text, label, count, steer, f"{digest:08x}"))
    return out


def draw(case, model, params, metadata, judge, seed, fields):
    """Verdicts, a letter a prompt; means over the prompts of position of what the steering says; counted costs."""
    prompts = [row["prompt"] for row in metadata]
    x, said = api.sample_and_say(model, params, prompts, case.steps, seed, steer=case.steer)
    verdicts = [judge(picture, row) for picture, row in zip(x, metadata, strict=True)]
    out = {field: "".join(str(int(verdict[field])) for verdict in verdicts) for field in fields}
    position = np.array([row["tag"] == "position" for row in metadata])
    return out | spoken(said, position) | counted(case, model, params, prompts[:1], said, position)


def spoken(said, where):
    if not said:
        return {"before": None, "after": None, "iterations": 0.0, "looks": 0.0}
    here = said["steering"]
    steered = np.maximum((here["looks"] > 0).sum(0) - 1, 0)
    known = here["before"][0] > 0
    after = np.take_along_axis(here["after"], steered[None, :, None], 0)[0]
    means = {name: float(a[where][known[where]].mean()) for name, a in (("before", here["before"][0]), ("after", after))}
    return means | {name: float(here[name].sum(0)[where].mean()) for name in ("iterations", "looks")}


def spied(model, params, prompts, case, seed=0):
    """(positional, keyword arguments) with which `model.draw` is called for these prompts."""
    calls = []

    def draw(*args, **words):
        calls.append((args, words))
        return model.draw(*args, **words)

    api.sample_array(model._replace(draw=draw), params, prompts, case.steps, seed, steer=case.steer)
    return calls[0]


def counted(case, model, params, prompts, said, where):
    """{"flops": of a picture, "evaluations": the same in forward passes of the conditional network}; from jaxprs, nothing is timed."""
    one = model._replace(drawing=model.drawing._replace(batch=1))
    plain, words = spied(one, params, prompts, case._replace(steer=None))
    total = flops.count(lambda *args: model.draw(*args, **words), *plain).matmul
    net, tokens = model.net, plain[1]
    cond = jax.tree.map(jnp.zeros_like, model.text.encode(params["text"], tokens))
    x, t = jnp.zeros((1, *net.shape)), jnp.ones(1)
    forward = flops.count(lambda x: net.velocity(params["net"], x, t, t, cond)[0], x).matmul
    if said:
        here, part = said["steering"], parts(case, model, params, cond, x, t)
        looks, moves = (float(here[name].sum(0)[where].mean()) for name in ("looks", "iterations"))
        steered = float((here["looks"] > 0).sum(0)[where].mean())
        total += looks * part["look"] + moves * part["back"] + part["correction"]
        total -= steered * part["trunk"] if case.steer.program.method.reuse else 0.0
    return {"flops": total, "evaluations": total / forward}


def parts(case, model, params, cond, x, t):
    """FLOPs of one sample's look (to the last layer that is read, and the classifier), of the network's part in it, of what a backward pass
    adds, of a correction."""
    steer, net = case.steer, model.net
    understood = steer.understand(model.text, ["a ring left of a square"])
    told = steer.told(understood, cond["features"].shape[1], 1)
    walk = Walk(net, params["net"], cond, None, None, lambda velocity: velocity)
    here = At(steer.program, walk, told, t, t, jnp.int32(0))
    look = flops.count(lambda x: here.see(x)[0], x).matmul
    both = flops.count(jax.grad(lambda x: jnp.sum(here.see(x)[0])), x).matmul
    reader = steer.program.reader
    maps = jnp.zeros((1, 2, reader.options.maps, reader.options.side, reader.options.side))
    alone = flops.count(lambda maps: reader.logits(steer.params, maps, t), maps).matmul
    corrects = 0.0
    if steer.program.method.amortised:
        apply, features = correction.build(reader.corrects).apply, jnp.zeros((1, 2, cond["features"].shape[-1]))
        corrects = flops.count(lambda x: apply(steer.params["correction"], x, features, jnp.zeros(1, jnp.int32)), x).matmul
    return {"look": look, "back": both - look, "trunk": look - alone, "correction": corrects}


def costs(missing, cases, model, params, metadata, seed, batch, rounds):
    """(case, {"seconds" of a picture, "ratio" to none in the same rounds, "memory"}) of each missing one, on prompts of position."""
    if not missing:
        return
    model = model._replace(drawing=model.drawing._replace(batch=batch))
    prompts = [row["prompt"] for row in metadata if row["tag"] == "position"][: max(2 * batch, 8)]

    def run(case):
        began = time.perf_counter()
        api.sample_array(model, params, prompts, case.steps, seed, steer=case.steer)
        return (time.perf_counter() - began) / len(prompts)

    for case in missing:
        base = next(other for other in cases if other.method == "none" and other.steps == case.steps)
        for one in (base, case):
            run(one)  # compiles
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
