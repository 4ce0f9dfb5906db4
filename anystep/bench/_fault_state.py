"""Faults of what is kept: bits and files of checkpoints, and numbers that are not finite in a step."""

import contextlib
import io
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from anystep import checkpoint, config
from anystep.bench import _fault_runs as runs
from anystep.data import make_stream
from anystep.nets.build import training_models
from anystep.state import init_state
from anystep.train_step import make_optimizers, make_train_step


def setting(*more):
    """(config, models, optimizers, state) of the run that all faults are tried on."""
    settings, _ = config.load([*runs.RUN, *more])
    models = training_models(settings)
    optimizers = make_optimizers(settings)
    return settings, models, optimizers, init_state(models, optimizers, 0)


def two_checkpoints(folder):
    """Steps 1 and 2 of different weights; (what each holds, an empty tree)."""
    _, models, optimizers, _ = setting()
    states = {step: init_state(models, optimizers, step) for step in (1, 2)}
    for step, state in states.items():
        assert checkpoint.save(folder, step, state, None, {"in_row": 0, "regular": True, "rewinds": 0})()
    like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), states[1])
    return {step: jax.device_get(state) for step, state in states.items()}, like


def outcome(folder, states, like):
    """ "harmless" | "detected" | "SILENT" for a damaged checkpoint 2."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            step, state, _ = checkpoint.restore(folder, like)
        except Exception:
            return "SILENT"  # the one before is sound: nothing may stop its being read
    same = jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), state, states[step]))
    return "SILENT" if not same else "harmless" if step == 2 else "detected"


def told(found, control):
    """`control`: what was found where nothing was damaged, so that "detected" means something."""
    counts = {name: found.count(name) for name in ("detected", "harmless", "SILENT")}
    return {
        "tried": len(found),
        "kept": len(found) - counts["SILENT"] if control == ["harmless"] * len(control) else 0,
        "seen": ", ".join(f"{count} {name}" for name, count in counts.items()),
    }


def undamaged(folder, states, like):
    return outcome(folder, states, like) if not checkpoint.verify(folder, 2) else "verify complains"


def damageable(folder):
    return sorted(file for file in (folder / "checkpoints" / "2").rglob("*") if file.is_file() and file.stat().st_size)


def flips(folder, seed, number):
    """Files are drawn half by their size, half evenly, so that the small ones that say what is where are hit, too."""
    states, like = two_checkpoints(folder)
    dice, found, files = random.Random(seed), [], damageable(folder)
    control = [undamaged(folder, states, like)]
    sizes = [file.stat().st_size for file in files]
    for turn in range(number):
        file = dice.choices(files, sizes if turn % 2 else None)[0]
        sound = file.read_bytes()
        broken = bytearray(sound)
        broken[dice.randrange(len(sound))] ^= 1 << dice.randrange(8)
        file.write_bytes(broken)
        found.append(outcome(folder, states, like))
        seen_by_verify = bool(checkpoint.verify(folder, 2))
        found[-1] = found[-1] if seen_by_verify else "SILENT"  # `ckpt verify` promises every flip
        file.write_bytes(sound)
    return told(found, [*control, undamaged(folder, states, like)])


def files(folder, seed, number):
    states, like = two_checkpoints(folder)
    dice, found, names = random.Random(seed), [], [file.relative_to(folder) for file in damageable(folder)]
    control = [undamaged(folder, states, like)]
    shutil.copytree(folder / "checkpoints", folder / "sound")
    for turn in range(number):
        file, kind = folder / dice.choice(names), ("truncate", "zero", "delete", "swap")[turn % 4]
        data = file.read_bytes()
        if kind == "truncate":
            file.write_bytes(data[: dice.randrange(len(data))])
        elif kind == "zero":
            file.write_bytes(bytes(len(data)))
        elif kind == "delete":
            file.unlink()
        else:  # with the same part of the other checkpoint: whole folders have the names that fit
            part = next(entry for entry in (folder / "checkpoints/1").iterdir() if entry.is_dir())
            shutil.rmtree(folder / "checkpoints/2" / part.name)
            shutil.copytree(part, folder / "checkpoints/2" / part.name)
        if checkpoint.committed_steps(folder)[-1] == 1:
            found.append("detected")  # its mark is gone: it counts as never finished
        else:
            found.append(outcome(folder, states, like))
        shutil.rmtree(folder / "checkpoints")
        shutil.copytree(folder / "sound", folder / "checkpoints")
    return told(found, [*control, undamaged(folder, states, like)])


def numbers(folder, seed, number):
    """Step 2 of three is spoiled in the batch, the loss, the gradient or the tangent: it moves nothing, and step 3 moves again."""
    kept, seen = 0, []
    for where in ("batch", "loss", "gradient", "tangent"):
        nodes = 0 if where == "tangent" else 4  # what replaces a gradient cannot be differentiated forward
        one_kind = ("--config.objective.adversarial.share=0", "--config.data.batch=15")
        jumps = (f"--config.objective.consistency.nodes={nodes}", "--config.objective.consistency.start=0")
        settings, models, optimizers, state = setting(*one_kind, *jumps)
        stream = make_stream(settings.data, models["text"].tokenize, 0, settings.data.batch)
        spoiled = models if where == "batch" else models | {"net": spoil(models["net"], where)}
        step = make_train_step(settings, spoiled, optimizers)
        batches = [next(stream) for _ in range(3)]
        if where == "batch":
            batches[1]["x0"] = np.where(np.arange(settings.data.batch)[:, None, None, None] == 3, np.nan, batches[1]["x0"])
        else:  # what the spoiled network waits for
            batches[1]["x0"] = np.where(np.arange(settings.data.batch)[:, None, None, None] >= 0, batches[1]["x0"] + TRIGGER, 0)
        state, _ = step(state, {}, batches[0])
        before = jax.device_get(state)
        state, metrics = step(state, {}, batches[1])
        middle = jax.device_get(state)
        state, _ = step(state, {}, batches[2])
        still = all(jax.tree.all(jax.tree.map(np.array_equal, getattr(before, part), getattr(middle, part))) for part in PARTS)
        moved = not jax.tree.all(jax.tree.map(np.array_equal, middle.params, jax.device_get(state.params)))
        finite = jax.tree.all(jax.tree.map(lambda leaf: bool(np.isfinite(leaf).all()), jax.device_get((state.params, state.ema))))
        good = still and moved and finite and int(metrics["guard/skipped"]) == 1 and int(state.guard.skipped) == 1
        kept += good
        seen.append(f"{where} {'held' if good else 'BROKEN'}")
    return {"tried": len(seen), "kept": kept, "seen": ", ".join(seen)}


PARTS = ("params", "opt", "ema", "buffers")
TRIGGER = 1e4  # far from any data, near to nothing that overflows


@jax.custom_jvp
def bad_tangent(u, far):
    return u


@bad_tangent.defjvp
def _(primals, tangents):
    u, far = primals
    return u, jnp.where(far, jnp.nan, 1.0) * tangents[0]


@jax.custom_vjp
def bad_gradient(u, far):
    return u


bad_gradient.defvjp(lambda u, far: (u, far), lambda far, g: (jnp.where(far, jnp.nan, 1.0) * g, None))


def spoil(net, where):
    """`net` whose answers, gradients or tangents are NaN for inputs beyond all data."""

    def velocity(params, x, t, s, cond, capture=None):
        u, aux = net.velocity(params, x, t, s, cond)
        far = jnp.max(jnp.abs(jax.lax.stop_gradient(x))) > 100.0
        if where == "loss":
            return jnp.where(far, jnp.nan, u), aux
        return (bad_gradient if where == "gradient" else bad_tangent)(u, far), aux

    return net._replace(velocity=velocity)
