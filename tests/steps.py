"""A few training steps of a tiny network with every objective, or with a teacher and heads, under plain SGD, on whatever devices there are:
what test_topology compares."""

import json
import sys
import time
from pathlib import Path

import jax

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else None


SPRINT = (
    "--config.model.dtype=float32",
    "--config.objective.consistency.tangent_norm=none",
    "--config.objective.consistency.weighting=none",
    "--config.model.depth=2",
)
SEEN = ("loss", "grad_norm/net", "grad_norm/text", "loss/self_evaluation", "loss/consistency")
SEEN_BESIDE_HEADS = ("loss", "grad_norm/net", "grad_norm/discriminator", "loss/adversarial", "loss/consistency", "discriminator/fake")


def taught_steps(data, fsdp, folder):
    """The same with the steps of two kinds of SANA-Sprint's config."""
    return three_steps(data, fsdp, folder, name="sana_sprint_600m", more=SPRINT, seen=SEEN_BESIDE_HEADS)


def followed_steps(data, fsdp, folder):
    """The same with a ControlNet beside a network that stays as it is."""
    more = ("--config.model.control=1", "--config.model.frozen=True", "--config.objective.control_dropout=0.25")
    return three_steps(data, fsdp, folder, name="sprint_teacher_shapes", more=more, seen=("loss", "grad_norm/net"))


def light_steps(data, fsdp, folder, meet=lambda: None):
    """The same with flow matching alone, which compiles fastest: what processes tell each other does not depend on what is learned."""
    import tiny

    return three_steps(data, fsdp, folder, meet, more=tiny.FLOW_ALONE, seen=("loss", "grad_norm/net", "grad_norm/text"))


def three_steps(data, fsdp, folder, meet=lambda: None, name="shapes", more=None, seen=SEEN):
    """[[loss, gradient norms, losses], ...] and the shardings' fsdp leaves."""
    import optax
    import tiny

    from anystep import begin
    from anystep import mesh as meshes
    from anystep.data import make_stream
    from anystep.nets.build import trained_roles, training_models
    from anystep.state import init_state
    from anystep.teachers import model_of
    from anystep.train_step import make_train_step

    more = tiny.ALL_OBJECTIVES if more is None else more
    config = tiny.config(name, folder, *more, "--config.data.batch=32", f"--config.mesh.data={data}", f"--config.mesh.fsdp={fsdp}")
    mesh = meshes.make_mesh(config.mesh)
    models = training_models(config, meshes.constrain, model_of(config, meshes.constrain))
    optimizers = {role: optax.sgd(1e-2) for role in trained_roles(config)}
    frozen = begin.frozen_params(config, mesh)
    frozen = jax.device_put(frozen, meshes.shard_rule(frozen, mesh, at_least=1024)[0])
    abstract = jax.eval_shape(lambda: init_state(models, optimizers, 0))
    shardings, _ = meshes.shard_rule(abstract, mesh, at_least=1024)
    split = sum(not s.is_fully_replicated for s in jax.tree.leaves(shardings))
    stream = make_stream(config.data, models["text"].tokenize, 0, 32, jax.process_index(), jax.process_count())
    rows = []
    with jax.set_mesh(mesh):
        state = jax.jit(lambda: init_state(models, optimizers, 0), out_shardings=shardings)()
        step = make_train_step(config, models, optimizers, shardings, meshes.batch_sharding(mesh))
        batch = meshes.device_batch(next(stream), mesh)
        step = step.lower(state, frozen, batch).compile()
        meet()
        for n in range(4 if "discriminator" in optimizers else 3):
            state, m = step(state, frozen, batch if n == 0 else meshes.device_batch(next(stream), mesh))
            rows.append([float(m[name]) for name in seen])
    split_frozen = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(frozen))
    return {"rows": rows, "split": split, "split_frozen": split_frozen}


def both_are_ready():
    """Compiling may take one process half a minute longer than the other, which is all that its first collective would wait."""
    (FOLDER / f"ready_{jax.process_index()}").touch()
    last = time.monotonic() + 300
    while not all((FOLDER / f"ready_{i}").exists() for i in range(2)) and time.monotonic() < last:
        time.sleep(0.05)


if __name__ == "__main__":  # one of two processes: steps.py FOLDER PORT INDEX
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, int(sys.argv[3]))
    (FOLDER / f"process_{jax.process_index()}.json").write_text(json.dumps(light_steps(2, 2, FOLDER, both_are_ready)))
