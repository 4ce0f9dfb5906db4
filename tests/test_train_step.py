"""Steps of two kinds in one program: who moves in which, whose clock counts, what is logged; and the cost of a step beside a teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from anystep import begin, checkpoint, mesh, spikes, tree
from anystep import config as configs
from anystep.data import make_stream
from anystep.nets.build import training_models
from anystep.state import SAID, init_state
from anystep.teachers import model_of
from anystep.train_step import abstract_batch, count_flops, kinds_flops, make_optimizers, make_train_step

pytestmark = pytest.mark.slow  # steps of two kinds are compiled


class Run:
    """Four steps of a config with all there is; `states` and `metrics` before and after each."""

    def __init__(self, folder):
        config = tiny.config("smoke", folder, *tiny.everything("smoke", folder), "--config.objective.consistency.warmup=2")
        models, self.optimizers = training_models(config, teacher=model_of(config)), make_optimizers(config)
        frozen = begin.frozen_params(config, mesh.make_mesh(config.mesh))
        self.roles = set(models)
        stream = make_stream(config.data, models["text"].tokenize, 0, config.data.batch)
        state = jax.jit(lambda: init_state(models, self.optimizers, 0, 8))()
        batch = next(stream)
        step = make_train_step(config, models, self.optimizers).lower(state, frozen, batch).compile()
        self.states, self.metrics, self.batches = [jax.device_get(state)], [], []
        for number in range(5):
            batch = next(stream) if number else batch
            if number == 4:
                batch = batch | {"x0": np.full_like(batch["x0"], np.nan)}
            state, metrics = step(state, frozen, batch)
            self.states.append(jax.device_get(state))
            self.metrics.append(jax.device_get(metrics))
            self.batches.append(batch)
        checkpoint.save(folder, 1, self.states[1])()  # inside a pair
        _, state, _ = checkpoint.restore(folder, jax.eval_shape(lambda: state))
        for batch in self.batches[1:4]:
            state, _ = step(state, frozen, batch)
        self.again = jax.device_get(state)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"))


def changed(before, after):
    """Names of the leaves that differ."""
    after = tree.paths(after)
    return {name for name, leaf in tree.paths(before).items() if not np.array_equal(leaf, after[name])}


def test_even_steps_move_the_heads_and_odd_ones_all_else(run):
    assert run.roles == {"net", "text", "teacher", "weighting", "discriminator"} and set(run.optimizers) == run.roles - {"text", "teacher"}
    for number in range(4):
        before, after = run.states[number], run.states[number + 1]
        moved = {role for role in run.optimizers if changed(before.params[role], after.params[role])}
        kept = {role for role in run.optimizers if not changed(before.opt[role], after.opt[role])}
        assert moved == ({"net", "weighting"} if number % 2 else {"discriminator"}) == set(run.optimizers) - kept
        assert bool(changed(before.ema, after.ema)) == bool(number % 2)
        assert bool(changed(before.buffers, after.buffers)) == (number % 2 == 0)
    assert set(run.states[0].ema["main"]) == {"net"}


def test_clocks_count_steps_of_their_own_kind(run):
    for role in run.optimizers:
        counts = [int(leaf) for name, leaf in tree.paths(run.states[4].opt[role]).items() if name.endswith("count")]
        assert counts and set(counts) == {2}


def test_a_step_of_each_kind_after_a_restore_has_the_same_bits(run):
    assert not changed(run.states[4]._asdict(), run.again._asdict())


def test_what_is_logged(run):
    heads, network = run.metrics[0], run.metrics[1]
    assert set(heads) == set(network)
    for name in SAID:  # a row of the network also says how the heads last did
        np.testing.assert_allclose(network[name], heads[name], rtol=1e-6)
    assert all(np.isnan(heads[name]) for name in ("loss/consistency", "loss/adversarial", "grad_norm/net", "grad_norm/adversarial"))
    for name in ("loss/consistency", "loss/adversarial", "grad_norm/net", "grad_norm/others", "grad_norm/adversarial"):
        assert np.isfinite(network[name]), name
    total, (first, second) = network["grad_norm/net"], (network[f"grad_norm/{name}"] for name in ("others", "adversarial"))
    assert abs(first - second) <= total <= first + second and second > 0


def test_a_step_that_is_not_finite_moves_nothing(run):
    """The fifth, of the heads."""
    before, after = run.states[4], run.states[5]
    assert not changed((before.params, before.opt, before.ema, before.buffers), (after.params, after.opt, after.ema, after.buffers))
    assert after.guard.in_row.tolist() == [1, 0] and int(after.guard.skipped) == 1 and int(after.step) == 5
    np.testing.assert_array_equal(after.guard.seen, [1, 1])  # emptied where consistency came in, at the second of each kind


def test_each_kind_of_steps_is_believed_by_its_own():
    window = spikes.empty(8, 2)
    for loss in (1.0, 1.1, 0.9, 1.0, 1.05):
        for kind, times in ((0, 1.0), (1, 100.0)):
            own = spikes.of_kind(window, kind)
            window = spikes.put_kind(window, kind, spikes.after(own, times * loss, jnp.float32(times), jnp.array(True)))
    judged = [bool(spikes.believed(spikes.of_kind(window, kind), 100.0, jnp.float32(1.0), 6.0)) for kind in (0, 1)]
    assert judged == [False, True] and window.losses.shape == (2, 8)
    for _ in range(6):  # the other kind's good steps between do not hide that one has stopped
        for kind in (0, 1):
            own = spikes.of_kind(window, kind)
            window = spikes.put_kind(window, kind, spikes.after(own, jnp.float32(1.0), jnp.float32(1.0), jnp.array(kind == 1)))
    assert window.in_row.tolist() == [6, 0] and int(window.skipped) == 6


def costs(*fields):
    """(FLOPs of each kind of steps, their mean) of a scanned SANA of some depth."""
    small = ("model.scan=True", "model.text.depth=0", "model.stem=0", "model.width=64", "model.depth=6", "data.batch=8", *fields)
    config = configs.load(["--config", "sprint_shapes", *(f"--config.{field}" for field in small)])[0]
    models, optimizers = training_models(config), make_optimizers(config)
    asked = config, models, optimizers, abstract_batch(config, models)
    return kinds_flops(*asked), count_flops(*asked)


def test_a_teacher_costs_two_forward_passes():
    """Of flow matching's 3: 4.1 with the tangent, 2.0 more for the teacher with and without a prompt, 4.8 of 3.7 with remat."""
    alone = ("objective.adversarial.share=0",)
    flow = ("objective.consistency.share=0", "objective.flow_matching.share=1", "model.guidance=False", "eval.scale=1.0", *alone)
    for floor, fields in ((6.1 / 3.0, ()), (6.8 / 3.7, ("model.remat=True",))):
        (base,), _ = costs(*flow, *fields)
        (taught,), mean = costs(*alone, *fields)
        assert taught == mean and taught / base == pytest.approx(floor, rel=0.1)
    kinds, mean = costs()
    assert len(kinds) == 2 and mean == sum(kinds) / 2
