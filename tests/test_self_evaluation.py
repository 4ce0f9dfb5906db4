"""Self-evaluation against the paper's equations, written in x and lambda where the code speaks of velocities and rho.

A loss per sample gives no target away, its gradient does: with u = u0 + offset and a mean over D numbers,
d loss / d offset = 2 (u - v_target) / D, and D = 2 here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep.objectives.self_evaluation import Auxiliary, mixing_ratio, self_evaluation
from anystep.types import Roles, Text

ROWS, KEY = 8, jax.random.key(4)
TEXT = Text(None, None, encode=lambda params, tokens: tokens, prepend=None)  # tokens that are features already


def class_velocity(x, t, which):
    """The exact velocity inside a component of the mixture, of the whole mixture where which = -1."""
    x0, noise = toys.means_given_component(x, t)
    inside = jnp.take_along_axis(noise - x0, jnp.maximum(which, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where((which < 0)[:, None], toys.exact_velocity(x, t), inside)


def judged(objective, batch, step=1, ema=0.0, function=None):
    """Everything that the objective looked at and what it aimed for: (calls, target of x0, losses).

    Weights are {"offset": [B, 2], "mark": scalar}: the marks tell live (0) from EMA (`ema`) weights, and add to the answer.
    """
    calls = []

    def velocity(params, x, t, s, cond):
        if not isinstance(x, jax.core.Tracer) and not isinstance(params["offset"], jax.core.Tracer):
            calls.append({"x": x, "t": t, "s": s, "cond": cond, "mark": float(params["mark"])})
        inner = function or (lambda x, t, s, which: class_velocity(x, t, which) + 0.1 * jnp.sin(3 * x) * (t - s)[:, None])
        return inner(x, t, s, cond["which"]) + params["offset"] + params["mark"]

    model = toys.analytic(velocity, ends="renoise")

    def losses(offset):
        live = {"net": {"offset": offset, "mark": jnp.float32(0.0)}}
        mean = {"net": {"offset": jnp.zeros((ROWS, 2)), "mark": jnp.float32(ema)}}
        return objective({"net": model, "text": TEXT}, Roles(live | {"text": {}}, mean, {}, {}), batch, KEY, jnp.int32(step))[0]

    zero = jnp.zeros((ROWS, 2))
    found = losses(zero)
    u = velocity({"offset": zero, "mark": jnp.float32(0.0)}, calls[0]["x"], calls[0]["t"], calls[0]["s"], calls[0]["cond"])
    v_target = u - jax.grad(lambda o: jnp.sum(losses(o)))(zero)
    first = calls[0]
    return calls[:3], u, first["x"] - first["t"][:, None] * v_target, found


def make_batch():
    x0, which = toys.draw(jax.random.key(7), ROWS)
    return toys.plain_batch(x0, {"which": which}, {"which": -jnp.ones_like(which)}) | {"fake": {"which": (which + 1) % 3}}


def data_norm(x):
    return jnp.linalg.norm(x, axis=1, keepdims=True)


def test_mixing_ratio_is_lambda_over_one_plus_lambda():
    with jax.enable_x64(True):
        t, share = (a.reshape(-1) for a in jnp.meshgrid(jnp.linspace(0.01, 0.999, 30), jnp.linspace(0, 1, 30)))
        s = share * t
        lam = t / (1 - t) - s / (1 - s)
        np.testing.assert_allclose(mixing_ratio(t, s), lam / (1 + lam), atol=1e-12)
    assert mixing_ratio(1.0, 0.5) == 1 and mixing_ratio(0.7, 0.0) == pytest.approx(0.7)


@pytest.mark.slow
@pytest.mark.parametrize("renorm", [True, False])
def test_target_is_the_papers(renorm):
    batch = make_batch()
    (asked, null, cond), u, target, losses = judged(self_evaluation(renorm=renorm), batch, ema=0.05)
    t, s, x_s = asked["t"][:, None], asked["s"][:, None], null["x"]
    assert (s < t).all()
    x0_hat = asked["x"] - t * u
    g_null = x_s - s * class_velocity(x_s, s[:, 0], -jnp.ones(ROWS, int))
    g_cond = x_s - s * (class_velocity(x_s, s[:, 0], batch["cond"]["which"]) + 0.05)
    x_self = x0_hat - (g_null - g_cond)  # Eq. 14
    lam = t / (1 - t) - s / (1 - s)  # Eq. 17
    mixed = batch["x0"] + lam * x_self
    expected = mixed / data_norm(mixed) * data_norm(batch["x0"]) if renorm else mixed / (1 + lam)  # Eq. 18, 19
    np.testing.assert_allclose(target, expected, atol=2e-4)
    np.testing.assert_allclose(losses, jnp.mean((x0_hat - expected) ** 2, axis=1) / t[:, 0] ** 2, rtol=2e-3)  # Eq. 20, w = 1 / t^2
    if renorm:
        np.testing.assert_allclose(data_norm(target), data_norm(batch["x0"]), rtol=1e-4)


def test_the_evaluators_are_asked_as_the_paper_says():
    batch = make_batch()
    (asked, null, cond), u, *_ = judged(self_evaluation(), batch, ema=0.05)
    assert (null["mark"], cond["mark"]) == (0.0, pytest.approx(0.05))  # live for the null prompt, EMA for the prompt
    assert (null["cond"]["which"] == -1).all() and (cond["cond"]["which"] == batch["cond"]["which"]).all()
    for call in (null, cond):
        assert (call["t"] == asked["s"]).all() and (call["s"] == asked["s"]).all() and (call["x"] == null["x"]).all()
    t, s = asked["t"][:, None], asked["s"][:, None]
    fresh = (null["x"] - (1 - s) * (asked["x"] - t * u)) / s
    used = (asked["x"] - (1 - t) * batch["x0"]) / t
    assert np.abs(fresh - used).min(axis=1).max() > 0.05 and 0.3 < np.std(fresh) < 2  # unit noise, not that of x_t


def test_the_diagonal_is_flow_matching():
    batch = make_batch()
    for objective, step in ((self_evaluation(anneal=10), 0), (self_evaluation(s_min=1.0), 5)):
        (asked, *_), u, _, losses = judged(objective, batch, step=step)
        assert (asked["s"] == asked["t"]).all()
        noise = (asked["x"] - (1 - asked["t"][:, None]) * batch["x0"]) / asked["t"][:, None]
        np.testing.assert_allclose(losses, jnp.mean((u - (noise - batch["x0"])) ** 2, axis=1), rtol=1e-4)


def test_nothing_to_say_where_the_prompt_is_the_null_one():
    """c = null, equal weights: x_self = x0_hat, so the target mixes x0 and the prediction itself."""
    batch = make_batch()
    batch["cond"] = batch["ema_cond"] = batch["null"]
    (asked, *_), u, target, _ = judged(self_evaluation(renorm=False, dropped="keep"), batch)
    t, s = asked["t"][:, None], asked["s"][:, None]
    rho = (t - s) / (1 - 2 * s + t * s)
    np.testing.assert_allclose(target, (1 - rho) * batch["x0"] + rho * (asked["x"] - t * u), atol=1e-4)


def test_correction_is_the_classifier_score():
    """With exact denoisers -Delta alpha_s / sigma_s^2 = grad log q(c | x_s)."""
    batch = make_batch()
    (asked, null, _), u, target, _ = judged(self_evaluation(renorm=False), batch)
    t, s, x_s = asked["t"][:, None], asked["s"][:, None], null["x"]
    rho = (t - s) / (1 - 2 * s + t * s)
    x_self = (target - (1 - rho) * batch["x0"]) / rho
    delta = asked["x"] - t * u - x_self

    def log_posterior(x):
        log = jax.nn.log_softmax(toys.log_joint(x, s[:, 0]), axis=1)
        return jnp.sum(jnp.take_along_axis(log, batch["cond"]["which"][:, None], axis=1))

    np.testing.assert_allclose(-delta * (1 - s) / s**2, jax.grad(log_posterior)(x_s), atol=5e-3)


def test_the_fake_term_is_the_papers():
    """s.6 and s.8 with a wrong component as what the model thinks of its own pictures."""
    batch = make_batch()
    plain, weighed = (self_evaluation(renorm=False, auxiliary=Auxiliary(k=0.7, start=3, weight=weight)) for weight in (0.0, 0.25))
    (asked, null, _), u, target, main = judged(plain, batch, ema=0.05, step=3)
    t, s, x_s = asked["t"][:, None], asked["s"][:, None], null["x"]
    x0_hat = asked["x"] - t * u

    def denoised(which):
        return x_s - s * class_velocity(x_s, s[:, 0], which)

    against = 0.7 * denoised(-jnp.ones(ROWS, int)) + 0.3 * denoised(batch["fake"]["which"])
    x_self = x0_hat - (against - (denoised(batch["cond"]["which"]) - s * 0.05))
    rho = (t - s) / (1 - 2 * s + t * s)
    np.testing.assert_allclose(target, (1 - rho) * batch["x0"] + rho * x_self, atol=2e-4)
    fake = jnp.mean((denoised(batch["fake"]["which"]) - x0_hat) ** 2, axis=1) / s[:, 0] ** 2
    np.testing.assert_allclose(main, jnp.mean((x0_hat - target) ** 2, axis=1) / t[:, 0] ** 2, rtol=2e-3)
    np.testing.assert_allclose(judged(weighed, batch, ema=0.05, step=3)[3] - main, 0.25 * fake, rtol=2e-3)


def test_in_its_warm_up_the_fake_is_learned_and_does_not_act():
    batch = make_batch()
    late = self_evaluation(auxiliary=Auxiliary(k=0.7, start=3, warmup=2, weight=0.0))
    plain = judged(self_evaluation(), batch, step=4)[2]
    np.testing.assert_allclose(judged(late, batch, step=4)[2], plain, atol=1e-6)
    assert np.abs(judged(late, batch, step=5)[2] - plain).max() > 1e-3
    learned = self_evaluation(auxiliary=Auxiliary(k=0.7, start=3, warmup=2))
    assert (judged(learned, batch, step=4)[3] > judged(late, batch, step=4)[3]).all()


def test_before_its_start_there_is_no_fake_term():
    batch = make_batch()
    late = self_evaluation(auxiliary=Auxiliary(k=0.7, start=3))
    for got, plain in zip(judged(late, batch, step=2)[2:], judged(self_evaluation(), batch, step=2)[2:], strict=True):
        np.testing.assert_array_equal(got, plain)


@pytest.mark.parametrize(("scale", "right"), [(1.0, True), (1.1, False)])
def test_the_fake_is_learned_where_it_is_the_mean_of_what_the_model_draws(scale, right):
    """A model that answers x0_hat ~ N(0, w^2) from every t, whose posterior mean under fresh noise is linear: no expected gradient."""
    rows, w = 20000, 0.6
    x0 = jax.random.normal(jax.random.key(5), (rows, 2))
    batch = toys.plain_batch(x0, {"fake": jnp.zeros(rows)}) | {"fake": {"fake": jnp.ones(rows)}}

    def velocity(params, x, t, s, cond):
        t = t[:, None]
        draws = x * (1.0 - w / jnp.sqrt((1 - t) ** 2 + t**2)) / t
        thinks = (t - (1 - t) * w**2) / ((1 - t) ** 2 * w**2 + t**2) * x
        return jnp.where(cond["fake"][:, None] > 0, params["scale"][:, None] * thinks, draws)

    model = toys.analytic(velocity, ends="renoise")

    objective = self_evaluation(s_min=0.3, auxiliary=Auxiliary(k=0.9))

    @jax.jit
    def losses(scale):
        weights = {"net": {"scale": scale}, "text": {}}
        return jnp.sum(objective({"net": model, "text": TEXT}, Roles(weights, weights, {}, {}), batch, KEY, jnp.int32(1))[0])

    per_row = np.asarray(jax.grad(losses)(jnp.full(rows, scale)))
    assert (abs(per_row.mean()) < 4 * per_row.std() / np.sqrt(rows)) == right


def test_the_fakes_own_loss_trains_the_fake_alone():
    """What the model answers on its way to s < t gets the same gradient with and without s.8."""
    batch = make_batch()

    def velocity(params, x, t, s, cond):
        return class_velocity(x, t, cond["which"]) + params["offset"] * (s < t)[:, None]

    def gradient(weight):
        objective = self_evaluation(auxiliary=Auxiliary(k=0.7, weight=weight))

        def loss(offset):
            weights = {"net": {"offset": offset}, "text": {}}
            models = {"net": toys.analytic(velocity, ends="renoise"), "text": TEXT}
            return jnp.sum(objective(models, Roles(weights, weights, {}, {}), batch, KEY, jnp.int32(1))[0])

        return jax.grad(loss)(jnp.full((ROWS, 2), 0.1))

    np.testing.assert_array_equal(gradient(0.0), gradient(5.0))
    assert jnp.abs(gradient(0.0)).max() > 0.01
