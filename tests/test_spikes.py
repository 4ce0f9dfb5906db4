"""Which steps are not believed, on made-up losses; and that a step which is not leaves everything as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from anystep import spikes, tree
from anystep.data import make_stream
from anystep.nets.build import build_models
from anystep.optim import make_optimizer
from anystep.state import init_state
from anystep.train_step import make_train_step, phases

SIGMA = 6.0


def walk(losses, norms=None, size=128, phases=()):
    """Which of the steps are believed, and the window at the end."""
    norms = np.ones_like(losses) if norms is None else norms

    def step(window, given):
        at, loss, norm = given
        window = spikes.emptied_at(window, at, phases)
        good = spikes.believed(window, loss, norm, SIGMA)
        return spikes.after(window, loss, norm, good), good

    given = (jnp.arange(len(losses)), jnp.asarray(losses, jnp.float32), jnp.asarray(norms, jnp.float32))
    window, good = jax.lax.scan(step, spikes.empty(size), given)
    return np.asarray(good), window


def healthy(n, seed=0):
    """Losses that fall and scatter as those of small batches do, log-normal gradient norms."""
    rng = np.random.default_rng(seed)
    return np.exp(-np.arange(n) / n) * (1.0 + 0.15 * rng.standard_normal(n)), np.exp(0.4 * rng.standard_normal(n))


def test_healthy_steps_are_believed():
    losses, norms = healthy(30_000)
    good, window = walk(losses, norms)
    assert (~good).sum() <= 3 and window.skipped == (~good).sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["loss", "norm"])
def test_one_nan_in_ten_thousand_costs_one_step(bad, what):
    losses, norms = healthy(10_000)
    plain = walk(losses, norms)[0]
    {"loss": losses, "norm": norms}[what][4321] = bad
    good, window = walk(losses, norms)
    assert np.flatnonzero(good != plain).tolist() == [4321] and window.in_row == 0
    assert np.isfinite(window.losses).all() and np.isfinite(window.norms).all()


def test_the_first_steps_may_not_be_finite_either():
    good, window = walk(np.array([np.nan, 1.0, np.nan, np.nan]))
    assert good.tolist() == [False, True, False, False] and window.skipped == 3 and window.in_row == 2 and window.seen == 1


@pytest.mark.parametrize("what", ["loss", "norm"])
def test_ten_times_the_usual_is_not_believed_nor_kept(what):
    losses, norms = healthy(400)
    before = walk(losses[:300], norms[:300])[1]
    {"loss": losses, "norm": norms}[what][300:] *= 10.0 if what == "loss" else 100.0
    good, window = walk(losses, norms)
    assert good[:300].all() and not good[300:].any() and window.in_row == 100
    np.testing.assert_array_equal(window.losses, before.losses)


def test_the_rule_is_its_formula():
    losses, norms = healthy(200)
    window = walk(losses, norms)[1]
    last, kept = losses[-128:], np.log(norms[-128:])
    for value, at, most in ((losses, "loss", last.mean() + 6 * last.std()), (norms, "norm", np.exp(kept.mean() + 6 * kept.std()))):
        for factor, believed in ((0.999, True), (1.001, False)):
            given = {"loss": 0.5, "norm": 1.0} | {at: most * factor}
            assert bool(spikes.believed(window, jnp.float32(given["loss"]), jnp.float32(given["norm"]), SIGMA)) == believed, (at, value)


def test_a_constant_loss_may_move_by_percents():
    assert walk(np.array([1.0] * 100 + [1.05]))[0].all() and not walk(np.array([1.0] * 100 + [1.07]))[0][-1]
    steady = np.ones(101)
    assert walk(steady, np.array([1.0] * 100 + [1.05]))[0].all() and not walk(steady, np.array([1.0] * 100 + [1.07]))[0][-1]


def test_a_phase_empties_the_window():
    losses = np.concatenate([healthy(300)[0], 30.0 * healthy(300)[0]])
    assert walk(losses)[0][300:].sum() == 0 and walk(losses, phases=(5, 300))[0].all()


def test_phases_are_those_of_the_config(tmp_path):
    own = [
        "consistency.start=3",
        "self_evaluation.auxiliary_k=0.5",
        "self_evaluation.auxiliary_start=1",
        "self_evaluation.auxiliary_warmup=4",
    ]
    flags = [*tiny.ALL_OBJECTIVES, "--config.train.steps=9", *(f"--config.objective.{field}" for field in own)]
    assert phases(tiny.config("smoke", tmp_path, *flags)) == (1, 3, 5)
    assert phases(tiny.config("smoke", tmp_path, *flags, "--config.objective.self_evaluation.share=0", "--config.data.batch=9")) == (3,)


@pytest.fixture(scope="module")
def stepper(tmp_path_factory):
    config = tiny.config("smoke", tmp_path_factory.mktemp("stepper"), *tiny.ALL_OBJECTIVES, "--config.objective.consistency.start=0")
    models = build_models(config)
    optimizers = {role: make_optimizer(config.optim, config.train.steps) for role in ("net", "text")}
    stream = make_stream(config.data, models["text"].tokenize, 0, config.data.batch)
    state, batches = jax.jit(lambda: init_state(models, optimizers, 0, 60))(), [next(stream) for _ in range(3)]
    return state, make_train_step(config, models, optimizers).lower(state, {}, batches[0]).compile(), batches


def bits(some):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(some)]


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_believed_moves_nothing_but_its_number(stepper, value):
    state, step, batches = jax.tree.map(jnp.copy, stepper[0]), *stepper[1:]
    state, _ = step(state, {}, batches[0])
    before = {name: bits(getattr(state, name)) for name in ("params", "opt", "ema", "buffers")}
    spoiled = {**batches[1], "x0": np.where(batches[1]["index"][:, None, None, None] == 9, np.float32(value), batches[1]["x0"])}
    state, metrics = step(state, {}, spoiled)
    assert {name: bits(getattr(state, name)) for name in before} == before and state.step == 2
    assert metrics["guard/skipped"] == metrics["guard/in_row"] == 1
    state, metrics = step(state, {}, batches[2])
    assert bits(state.params) != before["params"] and metrics["guard/in_row"] == 0 and np.isfinite(metrics["loss"])


@pytest.mark.slow
def test_a_finite_spike_is_not_believed_once_the_window_is_known(stepper):
    """The wiring: quiet steps of the real thing, then data far away."""
    state, step, batches = jax.tree.map(jnp.copy, stepper[0]), *stepper[1:]
    far = batches[1] | {"x0": 100.0 * batches[1]["x0"]}
    for number in range(40):
        state, metrics = step(state, {}, batches[number % 3])
    skipped, before = int(metrics["guard/skipped"]), bits(state.params)
    assert skipped <= 1
    state, metrics = step(state, {}, far)
    assert np.isfinite(metrics["loss"]) and metrics["guard/skipped"] == skipped + 1 and bits(state.params) == before


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_not_believed(stepper):
    """Where the loss is: at a weight whose own gradient overflows."""
    state, step, batches = jax.tree.map(jnp.copy, stepper[0]), *stepper[1:]
    huge = state._replace(params=jax.tree.map(lambda a: a * 1e19, state.params))
    state, metrics = step(huge, {}, batches[0])
    names = tree.paths(metrics)
    assert metrics["guard/skipped"] == 1 and not all(np.isfinite(names[f"grad_norm/{role}"]) for role in ("net", "text"))
