"""Jumps learned over a step of a grid, along the model's own velocity: orders of convergence, guidance, and what happens before `start`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep import times, tree
from anystep.objectives.consistency import Teacher, consistency
from anystep.objectives.draws import draw_point
from anystep.path import LINEAR
from anystep.times import TimeLaw
from anystep.types import Roles

ROWS = 512
KEY = jax.random.key(3)
SELF = Teacher("ema")


@pytest.fixture(scope="module")
def batch():
    return toys.plain_batch(toys.draw(jax.random.key(1), ROWS)[0])


def gradients(objective, function, batch, step=0, ema=None):
    """(g of every sample [B, 2], metrics): u = function + an offset per sample; its gradient is g, the loss being a mean over D = 2."""
    model = toys.analytic(lambda params, x, t, s, cond: function(x, t, s, cond) + params["offset"])
    none = {"net": {"offset": jnp.zeros((ROWS, 2))}}

    def loss(offset):
        roles = Roles({"net": {"offset": offset}}, ema or none, {}, {})
        out, metrics, _ = objective({"net": model}, roles, batch, KEY, jnp.int32(step))
        return jnp.sum(out), metrics

    return jax.jit(jax.grad(loss, has_aux=True))(none["net"]["offset"])


def bare(**options):
    return consistency(**({"tangent": "none", "weighting": "none"} | options))


def exact(x, t, s, cond):
    return toys.exact_map(x, t, s)


@pytest.mark.slow
@pytest.mark.parametrize("at_zero", [1.0, 0.0])
@pytest.mark.parametrize("hops", [1, 3])
def test_the_error_of_a_step_is_of_second_order(batch, at_zero, hops):
    """At the exact map, along the exact velocity, only Euler's local error is left: a sixteenth of it on four times the nodes."""
    errors = []
    for nodes in (16, 64):
        g, metrics = gradients(bare(nodes=nodes, hops=hops, teacher=SELF, at_zero=at_zero, at_noise=0.2), exact, batch)
        t = metrics["t"]
        s = times.draw_below(t, tree.sample_keys(KEY, "consistency/s", 0, batch["index"]), 0.0) if at_zero == 0.0 else 0.0 * t
        errors.append(float(jnp.sqrt(jnp.mean(((t - s)[:, None] * g) ** 2))))
    assert abs(np.log(errors[0] / errors[1]) / np.log(4) - 2.0) < 0.25


@pytest.mark.slow
def test_a_step_tends_to_the_derivative(batch):
    """For any u the difference quotient converges to the jvp, to first order in the step."""

    def rough(x, t, s, cond):
        return toys.wavy({"a": jnp.eye(2), "b": jnp.ones(2)}, x, t, s, cond)

    limit = gradients(bare(teacher=SELF), rough, batch)[1]["tangent"]
    errors = [float(jnp.mean(jnp.abs(gradients(bare(teacher=SELF, nodes=n), rough, batch)[1]["tangent"] - limit))) for n in (64, 128, 256)]
    assert (np.abs(np.log2(np.divide(errors[:-1], errors[1:])) - 1.0) < 0.2).all()


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [Teacher(), Teacher("ema", 3.0)])
@pytest.mark.parametrize("how", [{}, {"nodes": 8, "at_noise": 0.5}, {"form": "trig", "tangent": "rms", "warmup": 4}, {"tangent": "l2"}])
def test_before_start_it_is_flow_matching(batch, how, teacher):
    """Whose mean no norm bends."""
    objective = bare(teacher=teacher, start=10, **how)

    def asks(x, t, s, cond):
        return 0.3 * x + (t - s)[:, None]

    early, metrics = gradients(objective, asks, batch, step=9)
    assert float(metrics["tangent"].max()) == 0.0 and float(metrics["t"].max()) < 1.0
    late, metrics = gradients(objective, asks, batch, step=10)
    assert float(metrics["tangent"].mean()) > 0.0 and abs(float(jnp.mean(metrics["t"] == 1.0)) - how.get("at_noise", 0.0)) < 0.1
    point = draw_point("consistency", LINEAR, TimeLaw(), batch, KEY, jnp.int32(9))
    np.testing.assert_allclose(early, 0.3 * point.x_t - (point.noise - batch["x0"]), atol=1e-5)
    assert float(jnp.abs(late - early).max()) > 0.1


def test_guidance_goes_into_the_jumps(batch):
    """One node: the step reaches t' = s = 0, so the target is the guided velocity itself, within the interval."""
    cond, null = {"bias": jnp.ones((ROWS, 2))}, {"bias": jnp.zeros((ROWS, 2))}
    prompted = toys.plain_batch(batch["x0"], cond, null)
    objective = bare(nodes=1, teacher=Teacher("ema", 3.0, (0.0, 0.6)))
    g, metrics = gradients(objective, lambda x, t, s, cond: 0.5 * cond["bias"], prompted)
    inside = np.asarray(metrics["t"] <= 0.6)
    np.testing.assert_allclose(g[inside], 0.5 - 1.5, atol=1e-6)
    np.testing.assert_allclose(g[~inside], 0.0, atol=1e-6)
    assert inside.any() and not inside.all()


def test_consistency_and_mean_flow_in_one_batch(batch):
    """A share of the rows asks s = 0 and is guided; the others ask s in [s_min t, t] and are not."""
    cond, null = {"bias": jnp.ones((ROWS, 2))}, {"bias": jnp.zeros((ROWS, 2))}
    objective = bare(nodes=1, at_zero=0.7, s_min=0.25, teacher=Teacher("ema", 3.0))

    def answer(x, t, s, cond):
        """Tells what was asked; the teacher, at s = t, says 10.5 or 10."""
        return 0.5 * cond["bias"] + 10.0 * (s / jnp.maximum(t, 1e-6))[:, None]

    g, metrics = gradients(objective, answer, toys.plain_batch(batch["x0"], cond, null))
    at_zero = np.isclose(g, 0.5 - (10.0 + 1.5), atol=1e-5).all(-1)
    assert abs(at_zero.mean() - 0.7) < 0.08
    asked = 1.0 + np.asarray(g[~at_zero, 0]) / 10.0  # one node: t' = s, the target is the plain velocity 10.5
    assert 0.25 <= asked.min() < 0.3 and 0.95 < asked.max() <= 1.0


def test_the_right_side_is_the_averaged_weights_under_the_averaged_prompts(batch):
    """u = offset + bias of the prompt: 1 + 2 on the average, 0 + 0 live, 7 without a prompt and live."""
    one = {"net": {"offset": jnp.ones((ROWS, 2))}}
    live, mean, nothing = ({"bias": jnp.full((ROWS, 2), value)} for value in (0.0, 2.0, 7.0))
    prompted = {**batch, "cond": live, "ema_cond": mean, "null": nothing, "ema_null": mean}
    for guidance in (1.0, 3.0):  # with the averaged null prompt as with the prompt, guidance changes nothing
        objective = bare(nodes=8, teacher=Teacher("ema", guidance))
        g, _ = gradients(objective, lambda x, t, s, cond: cond["bias"], prompted, ema=one)
        np.testing.assert_allclose(g, -3.0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("hops", [1, 2, 4])
def test_nodes_are_those_of_the_sampler(batch, hops):
    """u that tells when it was asked: t' lies on the sampler's own grid, `hops` nodes below t, and every node on the way is asked."""
    law, nodes = TimeLaw(shift=3.0), 4
    objective = bare(law=law, nodes=nodes, hops=hops, teacher=SELF, at_noise=0.2)
    g, metrics = gradients(objective, lambda x, t, s, cond: 0.0 * x + t[:, None], batch)
    grid = np.asarray(times.grid(nodes, law.shift))
    for got, t in zip(g[:, 0], np.asarray(metrics["t"]), strict=True):
        asked = [t, *grid[grid < t - 1e-4]][: hops + 1]
        walked = sum((high - low) * high for high, low in itertools.pairwise(asked))
        np.testing.assert_allclose(got, t - (walked + asked[-1] ** 2) / t, atol=1e-5)


def test_the_whole_walk_needs_no_other_jump(batch):
    """As many hops as nodes: the end of the sampler's own walk, whatever the jumps answer."""

    def asks(x, t, s, cond):  # -x + 3 at s = t; nonsense at s < t
        return jnp.where((s < t)[:, None], 100.0, 3.0 - x)

    g, metrics = gradients(bare(nodes=4, hops=4, teacher=SELF, at_noise=1.0), asks, batch)
    x = noise = draw_point("consistency", LINEAR, TimeLaw(), batch, KEY, jnp.int32(0)).noise
    for high, low in itertools.pairwise(np.asarray(times.grid(4, 1.0))):
        x = x - (high - low) * (3.0 - x)
    np.testing.assert_allclose(100.0 - g, noise - x, atol=1e-4)


@pytest.mark.slow
def test_l1_measures_where_a_jump_ends(batch):
    """The gradient's sign is that of the miss and its size (t - s) / D; before `start` it is huber's."""
    options = dict(nodes=4, teacher=SELF, start=10, at_noise=0.2)

    def asks(x, t, s, cond):
        return 50.0 * x + (t - s)[:, None]

    square, metrics = gradients(bare(**options), asks, batch, step=10)
    absolute, _ = gradients(bare(**options, weighting="l1"), asks, batch, step=10)
    t = metrics["t"][:, None]
    large = jnp.abs(t * square) > 1.0
    assert large.mean() > 0.5
    np.testing.assert_allclose(absolute[large], (0.5 * t * jnp.sign(square))[large], rtol=2e-3)
    huber, l1 = (gradients(bare(**options, weighting=kind), asks, batch, step=9)[0] for kind in ("huber", "l1"))
    np.testing.assert_allclose(huber, l1, rtol=1e-5)


@pytest.mark.parametrize("hops", [1, 3])
def test_the_shortest_walks_keep_their_velocity(batch, hops):
    """t of about 6e-6, nearer to the end than any node may be to t: the target is still v = 3."""
    objective = bare(law=TimeLaw(mean=-12.0, std=0.1), nodes=4, hops=hops, teacher=SELF)
    g, _ = gradients(objective, lambda x, t, s, cond: jnp.where((s < t)[:, None], 5.0, 3.0) + 0.0 * x, batch)
    np.testing.assert_allclose(g, 2.0, atol=1e-5)
