"""`anystep train --config NAME|FILE --workdir DIR [--config.x.y=z ...] [--dry_run]`: from a config to a trained model, read from top to
bottom.

Started again with the same command it goes on from the newest checkpoint, bit for bit. WORKDIR holds config.json, parameters.txt,
metrics.jsonl, checkpoints/<step>/, samples/<step>.png, samples/curve.png and, at the end, model/ (config.json + weights.safetensors, the
averaged weights). Exit codes: 0 done, 1 bug, a result that could not be written, or numbers that no going back mended, 2 bad config or
input, 42 stopped by a signal, saved unless a line says otherwise, or stuck: start me again (launch/supervise.sh does).
"""

import json
import os
import sys
import time

from anystep.errors import UserError, run_main


def main(argv):
    began = time.monotonic()  # imports count, too
    from anystep import config as configs
    from anystep.flags import Parser

    config, rest = configs.load(argv)
    parser = Parser(prog="anystep train", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="", help="where everything is written; a local path or gs://")
    parser.add_argument("--dry_run", action="store_true", help="print one JSON line of sizes and costs, and leave")
    parser.add_argument("--processes", default="", help="of a run on several hosts: auto, or HOST:PORT,PROCESSES,ID for this one")
    flags = parser.parse_args(rest)
    if not flags.dry_run and not flags.workdir:
        raise UserError("--workdir: missing; a folder to write to")
    if flags.dry_run:
        return dry_run(config)
    return train(config, flags.workdir, flags.processes, began)


def build(config):
    """Everything that the config decides and no step changes: (mesh, models, optimizers, abstract state, shardings, names left whole)."""
    import jax

    from anystep import mesh as meshes
    from anystep.nets.build import training_models
    from anystep.state import init_state
    from anystep.teachers import model_of
    from anystep.train_step import make_optimizers

    mesh = meshes.make_mesh(config.mesh)
    models = training_models(config, meshes.constrain, model_of(config, meshes.constrain))
    optimizers = make_optimizers(config)
    abstract = jax.eval_shape(lambda: init_state(models, optimizers, config.seed, config.train.guard.window))
    shardings, whole = meshes.shard_rule(abstract, mesh)
    return mesh, models, optimizers, abstract, shardings, whole


def dry_run(config):
    """Prints what a run would cost, exactly where shapes and shardings tell it; touches no data."""
    import jax

    from anystep import mesh as meshes
    from anystep import tree
    from anystep.train_step import abstract_batch, abstract_frozen, count_flops

    mesh, models, optimizers, abstract, shardings, whole = build(config)
    sizes = {role: tree.count(params) for role, params in abstract.params.items()}
    frozen = abstract_frozen(models, optimizers)
    sizes |= {role: count for role, params in frozen.items() if (count := tree.count(params))}
    step_flops = count_flops(config, models, optimizers, abstract_batch(config, models))
    facts = {
        "parameters": sizes,
        "flops_per_step": step_flops,
        "state_bytes_per_device": meshes.state_bytes(abstract, shardings),
        "frozen_bytes_per_device": meshes.state_bytes(frozen, meshes.shard_rule(frozen, mesh)[0]),
        "unsharded": whole,
        "devices": mesh.size,
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(facts))


def train(config, workdir, processes, began):
    import jax
    from clu.parameter_overview import get_parameter_overview

    from anystep import begin, checkpoint, flops, logs
    from anystep import mesh as meshes
    from anystep.cache import use_compile_cache
    from anystep.data import make_stream
    from anystep.files import write_whole
    from anystep.flags import folder, require_remote
    from anystep.guard import RESTART, Stop, Watchdog
    from anystep.nets.build import drawn_roles
    from anystep.recovery import Recovery
    from anystep.state import EMA
    from anystep.train_step import abstract_batch, count_flops, make_gradients, make_train_step
    from anystep.watch import Watch

    # ---------------------------------------------------------------- what the config decides
    ledger = logs.Ledger(began)
    require_remote(workdir)
    workdir = folder(workdir, "--workdir")
    begun = checkpoint.committed_steps(workdir)
    also = () if config.train.also == "none" else (config.train.also,)
    config = begin.pinned(config)
    begin.check(config, workdir, begun, also)
    meshes.join(processes)
    use_compile_cache()
    mesh, models, optimizers, abstract, shardings, _ = build(config)
    rows, first = meshes.batch_sharding(mesh), jax.process_index() == 0
    begin.check_rows(config, mesh.size)
    stream = make_stream(
        config.data,
        models["text"].tokenize,
        config.seed,
        config.data.batch,
        jax.process_index(),
        jax.process_count(),
        quarantine=workdir / ("quarantine.jsonl" if first else f"quarantine.{jax.process_index()}.jsonl"),
    )
    target = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)

    with Stop() as stop, Watchdog() as watchdog, jax.set_mesh(mesh):
        # ------------------------------------------------------------ where the run stands
        ledger.now("restore")
        if first:
            write_whole(workdir / "config.json", json.dumps(config.to_dict(), indent=1).encode())
            write_whole(workdir / "parameters.txt", get_parameter_overview(abstract.params, include_stats=False).encode())
            checkpoint.sweep(workdir)
        if meshes.agree(bool(begun)):
            start, state, info = checkpoint.restore(workdir, target, stream)
            said = f"going on from step {start}"
        else:
            start, (state, new), info = 0, begin.first_state(config, models, optimizers, shardings), None
            said = f"starting from {config.init_from or 'fresh weights'}{f', but for {new}' if new else ''}"

        frozen = begin.frozen_params(config, mesh)

        # ------------------------------------------------------------ the loop
        ledger.now("compile")
        gradients = make_gradients(config, models, tuple(optimizers))
        step_fn = make_train_step(config, models, optimizers, shardings, rows, gradients)
        shapes = abstract_batch(config, models, rows)
        cost = count_flops(config, models, optimizers, shapes, gradients, (state, frozen))
        peak = (flops.peak(jax.devices()[0].device_kind) or 0.0) * mesh.size
        writer = logs.JsonlWriter(workdir / "metrics.jsonl", also) if first else None
        watch, recovery = Watch(config, workdir, writer), Recovery(config, workdir, target, start, state, info)
        shown = sys.stderr if first else open(os.devnull, "w")
        progress = logs.Progress(config.train.steps, start, batch=config.data.batch, flops=cost, peak=peak, file=shown)
        progress.say(f"{workdir}: {said}, {config.train.steps} steps")
        row = {"start": start, "lost_steps": begin.steps_beyond(workdir, start)}
        pending, step, turn, leaving, back = None, start, 0, False, False
        while not leaving:
            if back or (step == config.train.steps and recovery.doubtful()):
                watchdog.busy()
                ledger.now("restore")
                if pending is not None:
                    report(writer, pending)
                made = step
                step, state = recovery.go_back(step, state)
                ledger.lose(min((made - step) / turn, 1.0))
                progress.back(step)
                progress.say(f"{config.train.guard.patience} steps in a row were not believed: back to step {step}, on with other data")
                row, pending, back = {"start": step, "rewinds": recovery.rewinds}, None, False
            if step == config.train.steps:
                break
            step, turn = step + 1, turn + 1
            compiling = turn == 1
            ledger.now("data")
            try:
                batch = next(stream)
            except UserError as error:  # the data are used up; what was learned is not
                meshes.leave_alone(error)
                if step - 1 > recovery.last:
                    recovery.save(step - 1, state, stream)
                    recovery.wait()
                raise
            ledger.now("compile" if compiling else "step")
            state, metrics = step_fn(state, frozen, meshes.device_batch(batch, mesh))
            if compiling:
                jax.block_until_ready(metrics)
            ledger.now("step")
            back = recovery.settle(metrics)
            watchdog.beat()
            progress.update(step)
            if step % config.train.log_every == 0 or step == config.train.steps:
                row |= {"step": step, **ledger.row(), **metrics, **progress.rates()}
            if pending is not None:  # fetched one step late, so that the device is never waited for
                progress.loss = report(writer, pending)
                pending = None
            if "step" in row:
                pending, row = row, {}
            leaving = stop(turn)
            if back:
                continue
            if config.train.sample_every and (step % config.train.sample_every == 0 or step == config.train.steps):
                watchdog.busy()
                ledger.now("sample")
                watch(step, state.ema[EMA] | frozen)
            if leaving or recovery.due(step):
                watchdog.busy()
                jax.block_until_ready(state)
                ledger.now("save")
                recovery.save(step, state, stream)
            ledger.now("step")

        # ------------------------------------------------------------ the end
        watchdog.busy()
        if pending is not None:
            report(writer, pending)
        ledger.now("save")
        written = recovery.wait()
        if first:
            writer.flush()
        progress.close()
        if recovery.last < config.train.steps:
            progress.say(f"stopped at step {recovery.last}; " + ("the same command goes on from there" if written else "NOT saved"))
            return RESTART
        exported = export(config, state.ema[EMA] | {role: frozen[role] for role in drawn_roles(config) if role in frozen}, workdir)
        if first:
            writer.write({"step": step, **ledger.row()})
            writer.flush()
        unsaved = [name for name, sound in (("its last checkpoint", written), ("its model folder", exported)) if not sound]
        but = f", but {' and '.join(unsaved)} could NOT be written" if unsaved else ""
        lost = f", {skipped} steps were not believed" if (skipped := int(state.guard.skipped)) else ""
        progress.say(f"done in {ledger.row()['seconds']:.0f} s: {workdir}{lost}{but}")
    return 1 if unsaved else 0


def report(writer, row):
    """Writes a row of metrics; returns its loss as a number."""
    import jax

    row = jax.device_get(row)
    if writer is not None:
        writer.write(row)
    return float(row["loss"])


def export(config, params, workdir):
    """WORKDIR/model: the averaged weights, beside a teacher with its text encoder, as a model folder; whether the disk took it. What a low
    rank added goes into the kernels, so that whatever reads a model reads this one; the parts are in the checkpoints."""
    import jax

    from anystep import mesh as meshes
    from anystep import weights
    from anystep.nets.build import plain

    saved, params = plain(config.to_dict(), meshes.on_every_host(params))
    try:
        if jax.process_index() == 0:
            weights.save_folder(workdir / "model", saved, params)
    except OSError as error:
        print(f"WARNING: {workdir / 'model'} was not written ({error})", file=sys.stderr, flush=True)
        return False
    return True


if __name__ == "__main__":
    run_main(main)
