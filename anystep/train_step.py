"""One training step: the config's objectives on one batch, one gradient, one update of every role, the averages. Jitted, sharded,
donated."""

import jax
import jax.numpy as jnp
import optax

from anystep import flops, spikes, tree
from anystep.nets.build import image_tokens
from anystep.objectives import mix as mixing
from anystep.objectives.consistency import Teacher, consistency
from anystep.objectives.flow_matching import flow_matching
from anystep.objectives.self_evaluation import Auxiliary, self_evaluation
from anystep.state import EMA, init_state
from anystep.times import time_law
from anystep.types import Roles, TrainState


def make_terms(config):
    """The config's objectives as `mix` terms, in a fixed order; a share of 0 leaves one out."""
    objective, law = config.objective, time_law(config.objective.time, image_tokens(config))
    f, e, c = objective.flow_matching, objective.self_evaluation, objective.consistency
    terms = [
        mixing.Term("flow_matching", flow_matching(law, f.weighting), f.share, f.weight),
        mixing.Term("self_evaluation", make_self_evaluation(law, e), e.share, e.weight, e.start),
        mixing.Term("consistency", make_consistency(law, c), c.share, c.weight),
    ]
    return [term for term in terms if term.share]


def phases(config):
    """Steps after the first at which the loss changes by plan, increasing."""
    e, c = config.objective.self_evaluation, config.objective.consistency
    found = {c.start} if c.share else set()
    if e.share:
        found |= {e.start} | ({e.auxiliary_start, e.auxiliary_start + e.auxiliary_warmup} if e.auxiliary_k < 1 else set())
    return tuple(sorted(found - {0}))


def make_self_evaluation(law, e):
    """The objective of the section `objective.self_evaluation`."""
    auxiliary = Auxiliary(e.auxiliary_k, e.auxiliary_start, e.auxiliary_warmup, e.auxiliary_weight)
    return self_evaluation(law, e.s_min, e.anneal, e.renorm, e.dropped, e.start, auxiliary, e.weighting)


def make_consistency(law, c):
    """The objective of the section `objective.consistency`."""
    return consistency(
        law,
        at_zero=c.at_zero,
        s_min=c.s_min,
        nodes=c.nodes,
        hops=c.hops,
        teacher=Teacher(c.velocity, c.guidance, tuple(c.interval)),
        at_noise=c.at_noise,
        warmup=c.warmup,
        tangent=c.tangent_norm,
        weighting=c.weighting,
        start=c.start,
    )


def make_loss(config, models):
    """(params, roles, batch, step) -> (loss, (metrics, buffers)): the function that is differentiated, and that `bench` counts. A frozen
    role is its own average."""
    terms, key = make_terms(config), jax.random.key(config.seed)
    fake = bool(config.objective.self_evaluation.share and config.objective.self_evaluation.auxiliary_k < 1.0)

    def loss(params, roles, batch, step):
        roles = roles._replace(params=params | roles.frozen, ema=roles.ema | roles.frozen)
        prepared = mixing.prepare(models, roles, batch, key, step, config.objective.prompt_dropout, fake)
        total, metrics, buffers = mixing.mix(terms, models, roles, prepared, key, step)
        return total, (metrics, buffers)

    return loss


def make_train_step(config, models, optimizers, shardings=None, batch_sharding=None):
    """train_step(state, frozen, batch) -> (state, metrics), jitted with `state` donated.

    shardings: a TrainState of shardings (None: one device); batch_sharding: of every leaf of the batch. Metrics are those of the weights
    before the update. A step that `spikes` does not believe moves the step number and the guard, and nothing else.
    """
    loss, sigma = make_loss(config, models), config.train.guard.sigma

    def train_step(state: TrainState, frozen, batch):
        roles = Roles(state.params, state.ema[EMA], frozen, state.buffers)
        grads, (metrics, buffers) = jax.grad(loss, has_aux=True)(state.params, roles, batch, state.step)
        metrics |= {f"grad_norm/{role}": tree.global_norm(grads[role]) for role in optimizers}
        params, opt = {}, {}
        for role, tx in optimizers.items():
            updates, opt[role] = tx.update(grads[role], state.opt[role], state.params[role])
            params[role] = optax.apply_updates(state.params[role], updates)
        ema = {EMA: tree.ema_update(state.ema[EMA], params, config.optim.ema, state.step)}

        norm = tree.global_norm(grads)
        window = spikes.emptied_at(state.guard, state.step, phases(config))
        good = spikes.believed(window, metrics["loss"], norm, sigma)
        before, after = (state.params, state.opt, state.ema, state.buffers), (params, opt, ema, buffers)
        moved = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before)
        window = spikes.after(window, metrics["loss"], norm, good)
        metrics |= {"guard/skipped": window.skipped, "guard/in_row": window.in_row}
        return TrainState(state.step + 1, *moved, window), metrics

    if shardings is None:
        return jax.jit(train_step, donate_argnums=0)
    return jax.jit(train_step, donate_argnums=0, in_shardings=(shardings, None, batch_sharding), out_shardings=(shardings, None))


def abstract_batch(config, models):
    """Shapes of the global batch as the data gives it."""
    tokens = models["text"].tokenize([""])
    rows = config.data.batch
    return {
        "x0": jax.ShapeDtypeStruct((rows, *models["net"].shape), jnp.float32),
        "index": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "cond": {"tokens": jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), tokens)},
    }


def count_flops(config, models, optimizers, batch):
    """Matrix-product FLOPs of one step's gradient, without the optimizer, from abstract shapes."""
    state = jax.eval_shape(lambda: init_state(models, optimizers, 0))
    loss = make_loss(config, models)

    def gradient(state, frozen, batch):
        roles = Roles(state.params, state.ema[EMA], frozen, state.buffers)
        return jax.grad(loss, has_aux=True)(state.params, roles, batch, jnp.int32(0))

    return flops.count(gradient, state, abstract_frozen(models, optimizers), batch).matmul


def abstract_frozen(models, optimizers):
    """Shapes of the roles that no optimizer moves."""
    return {role: jax.eval_shape(model.init, jax.random.key(0)) for role, model in models.items() if role not in optimizers}
