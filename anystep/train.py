"""`anystep train --config NAME|FILE --workdir DIR [--config.x.y=z ...] [--dry_run]`: from a config to a trained model, read from top to
bottom.

Started again with the same command it goes on from the newest checkpoint, bit for bit. WORKDIR holds config.json, parameters.txt,
metrics.jsonl, checkpoints/<step>/, samples/<step>.png, samples/curve.png and, at the end, model/ (config.json + weights.safetensors, the
averaged weights). Exit codes: 0 done, 1 bug, 2 bad config or input, 42 stopped by a signal, saved unless a line says otherwise: start
me again.
"""

import json
import time

from anystep.errors import UserError, run_main


def main(argv):
    from anystep import config as configs
    from anystep.flags import Parser

    config, rest = configs.load(argv)
    parser = Parser(prog="anystep train", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="", help="where everything is written; a local path or gs://")
    parser.add_argument("--dry_run", action="store_true", help="print one JSON line of sizes and costs, and leave")
    flags = parser.parse_args(rest)
    if not flags.dry_run and not flags.workdir:
        raise UserError("--workdir: missing; a folder to write to")
    if flags.dry_run:
        return dry_run(config)
    return train(config, flags.workdir)


def build(config):
    """Everything that the config decides and no step changes: (mesh, models, optimizers, abstract state, shardings, names left whole)."""
    import jax

    from anystep import mesh as meshes
    from anystep.nets.build import build_models
    from anystep.optim import make_optimizer
    from anystep.state import init_state

    mesh = meshes.make_mesh(config.mesh)
    models = build_models(config, meshes.constrain)
    optimizers = {role: make_optimizer(config.optim, config.train.steps) for role in ("net", "text")}
    abstract = jax.eval_shape(lambda: init_state(models, optimizers, config.seed))
    shardings, whole = meshes.shard_rule(abstract, mesh)
    return mesh, models, optimizers, abstract, shardings, whole


def dry_run(config):
    """Prints what a run would cost, exactly where shapes and shardings tell it; touches no data."""
    import jax

    from anystep import mesh as meshes
    from anystep import tree
    from anystep.train_step import abstract_batch, count_flops

    mesh, models, optimizers, abstract, shardings, whole = build(config)
    sizes = {role: tree.count(params) for role, params in abstract.params.items()}
    step_flops = count_flops(config, models, optimizers, abstract_batch(config, models))
    facts = {
        "parameters": sizes,
        "flops_per_step": step_flops,
        "state_bytes_per_device": meshes.state_bytes(abstract, shardings),
        "unsharded": whole,
        "devices": mesh.size,
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(facts))


def train(config, workdir):
    import jax
    from clu.parameter_overview import get_parameter_overview
    from etils import epath

    from anystep import checkpoint, flops, logs
    from anystep import mesh as meshes
    from anystep.cache import use_compile_cache
    from anystep.data import make_stream
    from anystep.files import write_whole
    from anystep.guard import RESTART, Stop
    from anystep.state import EMA
    from anystep.train_step import abstract_batch, count_flops, make_train_step
    from anystep.watch import Watch

    # ---------------------------------------------------------------- what the config decides
    began = time.monotonic()
    workdir = epath.Path(workdir)
    begun = checkpoint.committed_steps(workdir)
    also = () if config.train.also == "none" else (config.train.also,)
    check(config, workdir, begun, also)
    use_compile_cache()
    mesh, models, optimizers, abstract, shardings, _ = build(config)
    stream = make_stream(config.data, models["text"].tokenize, config.seed, config.data.batch, jax.process_index(), jax.process_count())
    rows = meshes.batch_sharding(mesh)

    # ---------------------------------------------------------------- where the run stands
    with Stop() as stop, jax.set_mesh(mesh):
        if jax.process_index() == 0:
            write_whole(workdir / "config.json", json.dumps(config.to_dict(), indent=1).encode())
            write_whole(workdir / "parameters.txt", get_parameter_overview(abstract.params, include_stats=False).encode())
        if begun:
            target = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
            start, state, _ = checkpoint.restore(workdir, target, stream)
            said = f"going on from step {start}"
        else:
            start, state = 0, first_state(config, models, optimizers, shardings)
            said = f"starting from {config.init_from}" if config.init_from else "starting from fresh weights"

        # ------------------------------------------------------------ the loop
        step_fn = make_train_step(config, models, optimizers, shardings, rows)
        cost = count_flops(config, models, optimizers, abstract_batch(config, models))
        peak = (flops.peak(jax.devices()[0].device_kind) or 0.0) * mesh.size
        writer = logs.JsonlWriter(workdir / "metrics.jsonl", also) if jax.process_index() == 0 else None
        watch = Watch(config, workdir, writer)
        progress = logs.Progress(config.train.steps, start, batch=config.data.batch, flops=cost, peak=peak)
        progress.say(f"{workdir}: {said}, {config.train.steps} steps")
        row, pending, saved, last = {"start": start}, None, lambda: True, start
        for step in range(start + 1, config.train.steps + 1):
            state, metrics = step_fn(state, {}, meshes.device_batch(next(stream), mesh))
            if step % config.train.log_every == 0 or step == config.train.steps:
                row |= {"step": step, "seconds": time.monotonic() - began, **metrics, **progress.rates()}
            if pending is not None:  # fetched one step late, so that the device is never waited for
                progress.loss = report(writer, pending)
                pending = None
            if "step" in row:
                pending, row = row, {}
            progress.update(step)
            if config.train.sample_every and (step % config.train.sample_every == 0 or step == config.train.steps):
                watch(step, state.ema[EMA])
            leaving = stop(step)
            if leaving or step % config.checkpoint.every == 0 or step in (1, config.train.steps):
                saved()
                saved = checkpoint.save(workdir, step, state, stream, {"config": config.to_dict()}, config.checkpoint.keep)
                last = step
            if leaving and step < config.train.steps:
                break

        # ------------------------------------------------------------ the end
        if pending is not None:
            report(writer, pending)
        written = saved()
        progress.close()
        if last < config.train.steps:
            progress.say(f"stopped at step {last}; " + ("the same command goes on from there" if written else "NOT saved"))
            return RESTART
        export(config, state, workdir)
        progress.say(
            f"done in {time.monotonic() - began:.0f} s: {workdir}" + ("" if written else ", but its last checkpoint is NOT written")
        )
    return 0


NEW = ("net/embed/second_time/*", "net/blocks/*/q_norm/*", "net/blocks/*/k_norm/*")  # what a teacher may lack
FREE = ("mesh", "checkpoint", "eval", "train.log_every", "train.sample_every")  # may change between two starts of one run


def check(config, workdir, begun, also):
    """Refuses what is not there, and a config that would have led a run that has begun elsewhere: before a device is touched."""
    from anystep import logs
    from anystep.api import folder_of
    from anystep.data import describe

    describe(config.data)
    for name in also:
        logs.package_of(name)
    if config.init_from and not begun:
        folder_of(config.init_from)
    path, now = workdir / "config.json", json.loads(json.dumps(config.to_dict()))
    if begun and path.exists():
        changed = [line for name, line in differences(json.loads(path.read_text()), now) if not name.startswith(FREE)]
        if changed:
            raise UserError(
                f"--workdir {workdir}: was begun with another config ({'; '.join(changed[:3])}); take a new folder or the old values"
            )


def differences(before, now, prefix=""):
    """[("optim.lr", "config.optim.lr: 0.001 before, 0.002 now"), ...]."""
    out = []
    for name in sorted(set(before) | set(now)):
        a, b, path = before.get(name), now.get(name), f"{prefix}{name}"
        if isinstance(a, dict) and isinstance(b, dict):
            out += differences(a, b, path + ".")
        elif a != b:
            out.append((path, f"config.{path}: {a!r} before, {b!r} now"))
    return out


def first_state(config, models, optimizers, shardings):
    """Fresh weights, made in place under their shardings, or those of `init_from` where it has them: NEW may be missing there."""
    import jax

    from anystep import weights
    from anystep.api import load
    from anystep.state import EMA, init_state

    state = jax.jit(lambda: init_state(models, optimizers, config.seed), out_shardings=shardings)()
    if not config.init_from:
        return state
    _, loaded = load(config.init_from)
    params = weights.take(state.params, loaded, NEW)
    state = state._replace(params=params, ema={EMA: jax.tree.map(lambda a: a.copy(), params)})
    return jax.device_put(state, shardings)


def report(writer, row):
    """Writes a row of metrics; returns its loss as a number."""
    import jax

    row = jax.device_get(row)
    if writer is not None:
        writer.write(row)
    return float(row["loss"])


def export(config, state, workdir):
    """WORKDIR/model: the averaged weights as a model folder."""
    import jax

    from anystep import weights
    from anystep.state import EMA

    if jax.process_count() == 1:
        weights.save_folder(workdir / "model", config.to_dict(), jax.device_get(state.ema[EMA]))


if __name__ == "__main__":
    run_main(main)
