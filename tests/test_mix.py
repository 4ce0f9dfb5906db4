"""Who gets which rows, what counts and when, and that a draw depends on its name, the step and the sample's position alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep.objectives.consistency import consistency
from anystep.objectives.flow_matching import flow_matching
from anystep.objectives.mix import Term, mix, prepare
from anystep.objectives.self_evaluation import self_evaluation
from anystep.types import Roles

KEY = jax.random.key(11)
EMPTY = Roles({}, {}, {}, {"kept": jnp.float32(3.0)})
MODELS = {"net": toys.analytic(toys.wavy, shape=(2,)), "text": toys.tiny_text()}


def spy(seen, name):
    def objective(models, roles, batch, key, step):
        seen[name] = batch
        return batch["index"].astype(jnp.float32), {"t": batch["x0"][:, 0], "twice": 2.0 * batch["index"]}, {name: jnp.float32(1.0)}

    return objective


def numbered(rows=12):
    return toys.plain_batch(jnp.stack([(jnp.arange(rows) + 0.5) / rows, jnp.zeros(rows)], axis=1))


@pytest.mark.slow
def test_shares_are_strided_rows():
    seen = {}
    terms = [Term(name, spy(seen, name), share) for name, share in (("a", 2), ("b", 1), ("c", 3))]
    mix(terms, MODELS, EMPTY, numbered(), KEY, jnp.int32(0))
    assert {name: batch["index"].tolist() for name, batch in seen.items()} == {"a": [0, 1, 6, 7], "b": [2, 8], "c": [3, 4, 5, 9, 10, 11]}
    assert (seen["b"]["x0"] == numbered()["x0"][jnp.array([2, 8])]).all()


def test_weights_starts_and_the_mean_over_the_batch():
    terms = [Term("a", spy({}, "a"), 1, 2.0), Term("b", spy({}, "b"), 2, 0.5, start=7)]
    index = np.arange(12.0)
    a, b = index[::3], index.reshape(4, 3)[:, 1:].reshape(-1)
    for step, on in ((6, 0.0), (7, 0.5)):
        loss, metrics, buffers = mix(terms, MODELS, EMPTY, numbered(), KEY, jnp.int32(step))
        assert loss == pytest.approx((2.0 * a.sum() + on * b.sum()) / 12) == metrics["loss"]
        assert metrics["loss/a"] == pytest.approx(a.mean()) and metrics["loss/b"] == pytest.approx(b.mean())
        assert metrics["b/twice"] == pytest.approx(2 * b.mean())
        assert set(buffers) == {"kept", "a", "b"}


def test_quarters():
    _, metrics, _ = mix([Term("a", spy({}, "a"), 1)], MODELS, EMPTY, numbered(), KEY, jnp.int32(0))
    quarters = [float(metrics[f"loss/a/q{i}"]) for i in (1, 2, 3, 4)]
    assert quarters == pytest.approx([1, 4, 7, 10])  # rows 0-2, 3-5, 6-8, 9-11; next to data first


ALL = [
    Term("flow_matching", flow_matching(), 1),
    Term("self_evaluation", self_evaluation(), 1),
    Term("consistency", consistency(at_zero=0.0), 1),
]
RNG = np.random.default_rng(0)
NET = {"a": jnp.asarray(RNG.normal(size=(2, 2)), jnp.float32), "b": jnp.asarray(RNG.normal(size=2), jnp.float32)}
WEIGHTS = Roles({"net": NET}, {"net": NET}, {}, {})


def losses(term, batch, step=2, key=KEY):
    return np.asarray(term.objective(MODELS, WEIGHTS, batch, key, jnp.int32(step))[0])


@pytest.mark.slow
@pytest.mark.parametrize("term", ALL, ids=lambda term: term.name)
def test_noise_depends_on_the_sample_and_the_step_only(term):
    batch = toys.plain_batch(jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32))
    plain = losses(term, batch)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(losses(term, jax.tree.map(lambda a: a[order], batch)), plain[order], rtol=1e-5)
    np.testing.assert_allclose(losses(term, jax.tree.map(lambda a: a[2:4], batch)), plain[2:4], rtol=1e-5)
    assert (np.abs(losses(term, batch, step=3) - plain) > 1e-4).all()
    assert (np.abs(losses(term, {**batch, "index": batch["index"] + 6}) - plain) > 1e-4).all()


@pytest.mark.slow
def test_adding_an_objective_moves_no_draw_of_another():
    batch = toys.plain_batch(jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32))
    together = mix(ALL, MODELS, WEIGHTS, batch, KEY, jnp.int32(2))[1]
    for row, term in enumerate(ALL):
        alone = mix([term], MODELS, WEIGHTS, jax.tree.map(lambda a, row=row: a[row::3], batch), KEY, jnp.int32(2))[1]
        assert together[f"loss/{term.name}"] == pytest.approx(float(alone[f"loss/{term.name}"]), rel=1e-5)


def raw_batch(rows=400):
    words = ["a red ring", "two blue squares", "cross", "a photo of a green cross"]
    tokens = jnp.asarray(MODELS["text"].tokenize([words[i % 4] for i in range(rows)]))
    return {"x0": jnp.ones((rows, 2)), "index": jnp.arange(rows), "cond": {"tokens": tokens}}


@pytest.fixture(scope="module")
def text_weights():
    live, mean = (MODELS["text"].init(jax.random.key(i)) for i in (0, 1))
    return Roles({"text": live}, {"text": mean}, {}, {})


@pytest.mark.slow
def test_prepare_drops_encodes_and_normalises(text_weights):
    raw, text = raw_batch(), MODELS["text"]
    models = {**MODELS, "net": MODELS["net"]._replace(shift=0.25, scale=0.5)}
    batch = prepare(models, text_weights, raw, KEY, jnp.int32(0), 0.3)
    assert (batch["x0"] == 1.5).all()
    dropped = np.asarray(batch["dropped"])
    assert abs(dropped.mean() - 0.3) < 5 * (0.21 / 400) ** 0.5
    null, ema_null = (text.encode(weights["text"], jnp.asarray(text.tokenize([""]))) for weights in (text_weights.params, text_weights.ema))
    live, mean = (text.encode(weights["text"], raw["cond"]["tokens"]) for weights in (text_weights.params, text_weights.ema))
    for found, empty, full in ((batch["cond"], null, live), (batch["ema_cond"], ema_null, mean)):
        for name in ("features", "mask"):
            away = dropped.reshape(-1, *(1,) * (full[name].ndim - 1))
            np.testing.assert_allclose(found[name], np.where(away, empty[name], full[name]), atol=1e-5)
    np.testing.assert_allclose(batch["null"]["features"][7:8], null["features"], atol=1e-6)
    np.testing.assert_allclose(batch["ema_null"]["features"][7:8], ema_null["features"], atol=1e-6)


@pytest.mark.slow
def test_the_prompt_mask_depends_on_sample_and_step_only(text_weights):
    def dropped(raw, step=0):
        return np.asarray(prepare(MODELS, text_weights, raw, KEY, jnp.int32(step), 0.5)["dropped"])

    raw = raw_batch(40)
    other = {**raw, "x0": 7 * raw["x0"], "cond": {"tokens": raw["cond"]["tokens"][::-1]}}
    assert (dropped(raw) == dropped(other)).all()
    assert (dropped(jax.tree.map(lambda a: a[::-1], raw)) == dropped(raw)[::-1]).all()
    assert (dropped(raw) != dropped(raw, 1)).any()


@pytest.mark.slow
def test_gradient_reaches_the_text_role_through_cond_alone(text_weights):
    def through(name):
        def total(params):
            batch = prepare(MODELS, text_weights._replace(params={"text": params}), raw_batch(4), KEY, jnp.int32(0), 0.0)
            return jnp.sum(jnp.sin(batch[name]["features"]))

        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(jax.grad(total)(text_weights.params["text"])))

    assert through("cond") > 0 and through("null") == through("ema_cond") == through("ema_null") == 0
