"""One training step: the config's objectives on one batch, one gradient, one update of every role, the averages. Jitted, sharded,
donated.

Beside a discriminator steps are of two kinds that take turns inside the one compiled program: even ones move the heads and nothing else, on
all rows of the batch, odd ones move all the others, as the objectives share the rows: heads first, as in SANA-Sprint's Alg. 2 (the released
loop begins with the student). Whatever counts steps (schedules, warm-ups, starts,
the averages, the keys of draws) counts those of its own kind. The two losses of an odd step are differentiated one after the other, so that
their gradients have norms of their own: they share no forward pass, so this costs no FLOPs, only a second gradient in memory.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from anystep import flops, spikes, tree
from anystep.nets.build import has_teacher, image_tokens, trained_roles
from anystep.objectives import adversarial
from anystep.objectives import mix as mixing
from anystep.objectives.consistency import Teacher, consistency
from anystep.objectives.flow_matching import flow_matching
from anystep.objectives.self_evaluation import Auxiliary, self_evaluation
from anystep.optim import beside_trunk, make_optimizer
from anystep.state import AVERAGED, EMA, HEADS, SAID, init_state
from anystep.times import TimeLaw, time_law
from anystep.types import Roles, TrainState


def make_terms(config):
    """The config's objectives as `mix` terms, in a fixed order; a share of 0 leaves one out."""
    objective, law = config.objective, time_law(config.objective.time, image_tokens(config))
    f, e, c, a = objective.flow_matching, objective.self_evaluation, objective.consistency, objective.adversarial
    terms = [
        mixing.Term("flow_matching", flow_matching(law, f.weighting), f.share, f.weight),
        mixing.Term("self_evaluation", make_self_evaluation(law, e), e.share, e.weight, e.start),
        mixing.Term("consistency", make_consistency(law, c), c.share, c.weight),
        mixing.Term("adversarial", adversarial.generator(tuple(a.blocks), law, levels(a), a.at_noise), a.share, a.weight),
    ]
    return [term for term in terms if term.share]


def levels(a):
    """The law of the times at which heads look at pictures."""
    return TimeLaw(mean=a.mean, std=a.std)


def make_heads_terms(config):
    """What an even step of two kinds trains."""
    a, law = config.objective.adversarial, time_law(config.objective.time, image_tokens(config))
    objective = adversarial.discriminator(tuple(a.blocks), law, levels(a), a.at_noise, a.one_level, a.misaligned)
    return [mixing.Term(HEADS, objective, 1)]


def kinds(config):
    """How many kinds of steps take turns."""
    return 2 if config.objective.adversarial.share else 1


def make_optimizers(config):
    """{role: optimizer} of the trained roles, each over its own share of the steps."""
    steps = -(-config.train.steps // kinds(config))
    times = {HEADS: config.objective.adversarial.rate}
    found = {role: make_optimizer(config.optim, steps, times.get(role, 1.0)) for role in trained_roles(config)}
    if not config.model.frozen:
        return found
    return found | {"net": beside_trunk(found["net"])} | {role: optax.set_to_zero() for role in found if role == "text"}


def phases(config):
    """Steps after the first, of the network's own, at which the loss changes by plan, increasing."""
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
        form=c.form,
        c=c.tangent_constant,
        prior=c.prior,
    )


def make_loss(config, models, terms=None):
    """(params, roles, batch, step, only=None) -> (loss, (metrics, buffers)): what is differentiated by `params`, some or all of the trained
    roles; `only`: names of the terms that count. A frozen role is its own average."""
    terms, key, t = make_terms(config) if terms is None else terms, jax.random.key(config.seed), config.objective.teacher
    fake = bool(config.objective.self_evaluation.share and config.objective.self_evaluation.auxiliary_k < 1.0)
    guidance = mixing.Guidance(tuple(t.scales), t.null_mask) if has_teacher(config) else None

    def loss(params, roles, batch, step, only=None):
        roles = roles._replace(params=roles.params | params | roles.frozen, ema=roles.ema | roles.frozen)
        dropout, uncontrolled = config.objective.prompt_dropout, config.objective.control_dropout
        prepared = mixing.prepare(models, roles, batch, key, step, dropout, fake, guidance, uncontrolled)
        total, metrics, buffers = mixing.mix(terms, models, roles, prepared, key, step, only)
        return total, (metrics, buffers)

    return loss


def make_gradients(config, models, roles):
    """For each kind of steps, in turn, (roles, batch, step) -> (gradients by role, metrics, buffers); `roles`: names of those trained.
    Each is jitted for the sake of its trace: who counts, compares or compiles the same ones waits for Python once."""
    roles = tuple(role for role in roles if role != "text" or not config.model.frozen)

    def gradient(loss, moved, only=None):
        def of(roles, batch, step):
            params = {role: roles.params[role] for role in moved}
            grads, (metrics, buffers) = jax.grad(functools.partial(loss, only=only), has_aux=True)(params, roles, batch, step)
            return grads, metrics | {f"grad_norm/{role}": tree.global_norm(grads[role]) for role in moved}, buffers

        return of

    loss = make_loss(config, models)
    if kinds(config) == 1:
        return [jax.jit(gradient(loss, roles))]
    others = tuple(role for role in roles if role != HEADS)
    names = {"adversarial": ("adversarial",), "others": tuple(t.name for t in make_terms(config) if t.name != "adversarial")}
    parts = {name: gradient(loss, others, only) for name, only in names.items() if only}

    def generate(roles, batch, step):
        total, metrics, whole = None, {}, 0.0
        for name, part in parts.items():
            grads, found, buffers = part(roles, batch, step)
            total = grads if total is None else jax.tree.map(jnp.add, total, grads)
            whole = whole + found["loss"]
            metrics |= found | {f"grad_norm/{name}": tree.global_norm(grads["net"])}
        metrics |= {"loss": whole} | {f"grad_norm/{role}": tree.global_norm(total[role]) for role in others}
        return total, metrics | dict(zip(SAID, buffers[HEADS]["said"], strict=True)), buffers

    heads = gradient(make_loss(config, models, make_heads_terms(config)), (HEADS,))

    def judge(roles, batch, step):
        grads, metrics, buffers = heads(roles, batch, step)
        said = jnp.stack([metrics[name] for name in SAID])
        return grads, metrics, {**buffers, HEADS: {**buffers[HEADS], "said": said}}

    return [jax.jit(judge), jax.jit(generate)]


def make_train_step(config, models, optimizers, shardings=None, batch_sharding=None, gradients=None):
    """train_step(state, frozen, batch) -> (state, metrics), jitted with `state` donated.

    shardings: a TrainState of shardings (None: one device); batch_sharding: of every leaf of the batch; gradients: of `make_gradients`, to
    share their traces. Metrics are those of the weights before the update; of two kinds of steps each says NaN for what only the other
    knows. A step that `spikes` does not believe moves the step number and the guard, and nothing else.
    """
    gradients, sigma = gradients or make_gradients(config, models, tuple(optimizers)), config.train.guard.sigma

    def update(kind, state: TrainState, frozen, batch):
        own = state.step // len(gradients)  # how many steps of this kind there were
        roles = Roles(state.params, state.ema[EMA], frozen, state.buffers)
        grads, metrics, buffers = gradients[kind](roles, batch, own)
        params, opt = dict(state.params), dict(state.opt)
        for role in grads:
            updates, opt[role] = optimizers[role].update(grads[role], state.opt[role], state.params[role])
            params[role] = optax.apply_updates(state.params[role], updates)
        ema = state.ema
        if "net" in grads:
            new = {role: params[role] for role in AVERAGED if role in params}
            ema = {EMA: tree.ema_update(state.ema[EMA], new, config.optim.ema, own)}

        norm = tree.global_norm(grads)
        window = spikes.emptied_at(spikes.of_kind(state.guard, kind), own, phases(config))
        good = spikes.believed(window, metrics["loss"], norm, sigma)
        before, after = (state.params, state.opt, state.ema, state.buffers), (params, opt, ema, buffers)
        moved = jax.tree.map(lambda new, old: new if new is old else jnp.where(good, new, old), after, before)
        window = spikes.put_kind(state.guard, kind, spikes.after(window, metrics["loss"], norm, good))
        metrics |= {"guard/skipped": window.skipped, "guard/in_row": jnp.max(window.in_row)}
        return TrainState(state.step + 1, *moved, window), metrics

    def train_step(state: TrainState, frozen, batch):
        if len(gradients) == 1:
            return update(0, state, frozen, batch)
        known = [jax.eval_shape(functools.partial(update, kind), state, frozen, batch)[1] for kind in range(len(gradients))]
        names = {name for metrics in known for name in metrics if not all(name in other for other in known)}
        nothing = {name: jnp.float32(jnp.nan) for name in names}

        def of_kind(kind):
            def branch(state, frozen, batch):
                state, metrics = update(kind, state, frozen, batch)
                return state, nothing | metrics

            return branch

        return jax.lax.cond(state.step % 2 == 0, of_kind(0), of_kind(1), state, frozen, batch)

    if shardings is None:
        return jax.jit(train_step, donate_argnums=0)
    return jax.jit(train_step, donate_argnums=0, in_shardings=(shardings, None, batch_sharding), out_shardings=(shardings, None))


def abstract_batch(config, models, sharding=None):
    """Shapes of the global batch as the data gives it, on `sharding`."""
    tokens, rows = models["text"].tokenize([""]), config.data.batch

    def array(shape, dtype):
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

    cond = {"tokens": jax.tree.map(lambda a: array(a.shape[1:], a.dtype), tokens)}
    return {"x0": array(models["net"].shape, jnp.float32), "index": array((), jnp.int32), "cond": cond}


def count_flops(config, models, optimizers, batch, gradients=None, weights=None):
    """Matrix-product FLOPs of one step's gradient, without the optimizer, from shapes; the mean of the kinds that take turns.

    gradients, weights: of `make_gradients` and (state, frozen), where a step takes the same ones: with equal shapes and shardings it is not
    traced again.
    """
    found = kinds_flops(config, models, optimizers, batch, gradients, weights)
    return sum(found) / len(found)


def kinds_flops(config, models, optimizers, batch, gradients=None, weights=None):
    """The same for each kind of steps."""
    weights = weights or (jax.eval_shape(lambda: init_state(models, optimizers, 0)), abstract_frozen(models, optimizers))

    def counted(gradient):
        def of(state, frozen, batch):
            return gradient(Roles(state.params, state.ema[EMA], frozen, state.buffers), batch, state.step)

        return flops.count(of, *weights, batch).matmul

    return [counted(gradient) for gradient in gradients or make_gradients(config, models, tuple(optimizers))]


def abstract_frozen(models, optimizers):
    """Shapes of the roles that no optimizer moves."""
    return {role: jax.eval_shape(model.init, jax.random.key(0)) for role, model in models.items() if role not in optimizers}
