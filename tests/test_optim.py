"""Optimizers against closed forms and the singular value decomposition: which leaf is whose, what a step does, the schedule's ends."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anystep import optim, tree
from anystep.errors import UserError

LR, DECAY, STEPS = 0.01, 0.1, 100


def config(**changes):
    base = dict(name="adamw", lr=LR, final_lr=0.1, warmup=0, b1=0.9, b2=0.99, muon_rms=0.2, weight_decay=DECAY, clip=0.0)
    return SimpleNamespace(**{**base, **changes})


@cache
def optimizer(**changes):
    """(init, update) of one config, each compiled once for all tests."""
    tx = optim.make_optimizer(config(**changes), STEPS)
    return jax.jit(tx.init), jax.jit(tx.update)


def params():
    """Leaves as the backbones have them: blocks stacked with the layer axis first."""
    shapes = {
        "embed": {"patches": {"kernel": (12, 16), "bias": (16,)}},
        "blocks": {
            "table": (3, 6, 16),
            "attention": {"q": {"kernel": (3, 16, 16)}, "out": {"kernel": (3, 16, 16), "bias": (3, 16)}, "q_norm": {"scale": (3, 4)}},
            "mlp": {"in": {"kernel": (3, 16, 40)}, "out": {"kernel": (3, 40, 16)}},
            "conv": {"depth": {"kernel": (3, 9, 32), "bias": (3, 32)}},
        },
        "head": {"out": {"kernel": (16, 12)}, "table": (2, 16)},
        "words": {"embedding": (30, 16)},
    }
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return jax.tree.unflatten(treedef, [jax.random.normal(k, s) for k, s in zip(keys, leaves, strict=True)])


MATRICES = {"blocks/attention/q/kernel", "blocks/attention/out/kernel", "blocks/mlp/in/kernel", "blocks/mlp/out/kernel"}
KERNELS = MATRICES | {"embed/patches/kernel", "blocks/conv/depth/kernel", "head/out/kernel"}


def gradients(seed=1):
    p = params()
    leaves, treedef = jax.tree.flatten(p)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(treedef, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


def updates(grads, p=None, times=1, **changes):
    init, update = optimizer(**changes)
    p = params() if p is None else p
    state = init(p)
    for _ in range(times):
        step, state = update(grads, state, p)
    return tree.paths(step)


@pytest.mark.slow
def test_who_is_whose():
    flat = tree.paths(params())
    assert {name for name, leaf in flat.items() if optim.is_matrix(name, leaf)} == MATRICES
    assert {name for name, leaf in flat.items() if optim.is_decayed(name, leaf)} == KERNELS
    others = ("attention_0/q/kernel", (16, 16)), ("stem/kernel", (3, 16, 16)), ("blocks/positions", (3, 16, 16)), ("blocks/kernel", (3, 16))
    assert not any(optim.is_matrix(name, jnp.zeros(shape)) for name, shape in others)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_zero_gradient_gives_only_decay_and_only_to_kernels(name):
    step = updates(jax.tree.map(jnp.zeros_like, params()), name=name)
    for path, leaf in tree.paths(params()).items():
        expected = -LR * DECAY * leaf if path in KERNELS else jnp.zeros_like(leaf)
        np.testing.assert_allclose(step[path], expected, rtol=1e-5, atol=1e-9, err_msg=path)


@pytest.mark.slow
def test_adamw_by_hand():
    """A constant gradient g leaves Adam's corrected moments at g and g^2, so every step is -lr (sign(g) + decay p)."""
    grads = gradients()
    step = updates(grads, times=5, name="adamw")
    rate = LR * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * 4 / STEPS)))
    for path, leaf in tree.paths(params()).items():
        decayed = DECAY * leaf if path in KERNELS else 0.0
        np.testing.assert_allclose(step[path], -rate * (jnp.sign(tree.paths(grads)[path]) + decayed), rtol=1e-3, atol=1e-7, err_msg=path)


def test_b1_and_b2_are_used():
    """Gradients 2, -1, 4 with b1 = 1/2, b2 = 3/4: m = (2/8 - 1/4 + 4/2) / (7/8) = 16/7, v = (36/64 + 3/16 + 16/4) / (37/64) = 304/37."""
    p = {"w": jnp.zeros(1)}
    init, update = optimizer(name="adamw", b1=0.5, b2=0.75, final_lr=1.0)
    state = init(p)
    for g in (2.0, -1.0, 4.0):
        step, state = update({"w": jnp.array([g])}, state, p)
    assert float(step["w"][0]) == pytest.approx(-LR * (16 / 7) / (304 / 37) ** 0.5, rel=1e-4)


@pytest.mark.slow
def test_leaves_that_are_not_muons_are_adamws():
    grads = gradients()
    muon, adamw = (updates(grads, times=4, name=name) for name in ("muon", "adamw"))
    for path in muon:
        same = bool((muon[path] == adamw[path]).all())
        assert same == (path not in MATRICES), path


def test_muon_orthogonalises_every_matrix_of_a_stack():
    """Against the decomposition: update = -lr 0.2 sqrt(max(in, out)) U S V' with the gradient's singular
    vectors and S near 1 (a singular value below 2 % of the Frobenius norm does not get there in five iterations)."""
    grads, nowhere = gradients(), jax.tree.map(jnp.zeros_like, params())  # at p = 0 there is no decay
    step = updates(grads, nowhere, name="muon")
    for path in MATRICES:
        for layer in range(3):
            g, u = (np.asarray(tree.paths(t)[path][layer], np.float64) for t in (grads, step))
            left, before, right = np.linalg.svd(g, full_matrices=False)
            s = left.T @ (u / (-LR * 0.2 * max(g.shape) ** 0.5)) @ right.T
            values, large = np.diag(s), before > 0.02 * np.linalg.norm(g)
            assert large.mean() > 0.9
            assert values[large].min() > 0.5 and values.max() < 1.3, (path, layer, values)
            assert np.abs(s - np.diag(values)).max() < 0.02, (path, layer)
            assert 0.6 * 0.2 < np.sqrt((u**2).mean()) / LR < 1.3 * 0.2  # of an adamw step, whatever the shape


def test_a_stacks_update_is_each_matrixs_own():
    """Scaling one layer's gradient, or replacing it, moves no other layer's update; and scaling it does not move its own."""
    grads, p = gradients(), params()
    base = updates(grads, p, name="muon")
    other = jax.tree.map(lambda g: g, grads)
    other["blocks"]["mlp"]["in"]["kernel"] = grads["blocks"]["mlp"]["in"]["kernel"].at[1].multiply(100.0)
    scaled = updates(other, p, name="muon")["blocks/mlp/in/kernel"]
    np.testing.assert_allclose(scaled, base["blocks/mlp/in/kernel"], atol=2e-6)
    g = grads["blocks"]["mlp"]["in"]["kernel"]
    other["blocks"]["mlp"]["in"]["kernel"] = g.at[1].set(g[1, ::-1])
    moved = np.abs(updates(other, p, name="muon")["blocks/mlp/in/kernel"] - base["blocks/mlp/in/kernel"]).max(axis=(1, 2))
    assert moved[0] < 2e-6 and moved[2] < 2e-6 and moved[1] > 1e-4
    alone = [{"blocks": {"kernel": t["blocks"]["mlp"]["in"]["kernel"][2:]}} for t in (grads, p)]
    one = updates(*alone, name="muon")["blocks/kernel"]
    np.testing.assert_allclose(one[0], base["blocks/mlp/in/kernel"][2], atol=2e-6)


def test_muons_momentum_remembers():
    """Twenty gradients g hold (1 - 0.95^20) / 0.05 = 13 g in the momentum: three -g after them do not turn the update."""
    (init, update), p, g = optimizer(name="muon"), jax.tree.map(jnp.zeros_like, params()), gradients()
    state = init(p)
    for sign in [1] * 20 + [-1] * 3:
        last, state = update(jax.tree.map(lambda x, s=sign: s * x, g), state, p)
    q = [tree.paths(u)["blocks/attention/q/kernel"] for u in (g, last)]
    assert float(jnp.vdot(*q)) < 0


def test_schedule_ends():
    rate = optim.schedule(config(warmup=9, final_lr=0.2), STEPS)
    assert float(rate(0)) == pytest.approx(LR / 10) and float(rate(4)) == pytest.approx(LR / 2)
    assert float(rate(9)) == pytest.approx(LR) and float(rate(8)) < LR and float(rate(10)) < LR
    assert float(rate(9 + (STEPS - 9) / 2)) == pytest.approx(LR * 0.6, rel=1e-5)  # half way between 1 and 0.2
    assert float(rate(STEPS)) == float(rate(10 * STEPS)) == pytest.approx(0.2 * LR)
    assert float(optim.schedule(config(warmup=0), STEPS)(0)) == pytest.approx(LR)
    assert float(optim.schedule(config(warmup=5), 5)(4)) == pytest.approx(LR * 5 / 6)  # all warm-up


def test_the_schedule_reaches_the_update():
    g = {"blocks": {"kernel": jnp.tile(jnp.eye(4), (100, 1, 1))}, "bias": jnp.ones(3)}
    p = jax.tree.map(jnp.zeros_like, g)
    first, fourth = (updates(g, p, times=n, name="muon", warmup=3) for n in (1, 4))
    for path in first:  # updates 0 and 3 of the warm-up have rates lr / 4 and lr
        np.testing.assert_allclose(fourth[path], 4 * first[path], rtol=1e-3, atol=1e-7)
        rate = LR / 4 * (0.2 * 4**0.5 if path == "blocks/kernel" else 1.0)  # the number of layers has no say
        assert -1.3 * rate < first[path].min() < -0.6 * rate


def test_clipping_bounds_the_gradients_norm_and_zero_is_off():
    p, g = {"w": jnp.zeros(4)}, {"w": jnp.full(4, 5.0)}  # norm 10

    def first_moment(clip):
        tx = optim.make_optimizer(config(clip=clip), STEPS)
        _, state = tx.update(g, tx.init(p), p)
        return next(leaf for name, leaf in tree.paths(state).items() if name.endswith("mu/w"))

    norm = {clip: float(jnp.linalg.norm(first_moment(clip))) / 0.1 for clip in (0.0, 1.0, 9.0, 11.0)}  # mu = (1 - b1) g
    assert norm == pytest.approx({0.0: 10.0, 1.0: 1.0, 9.0: 9.0, 11.0: 10.0}, rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_state_keeps_its_shapes_and_types(name):
    init, update = optimizer(name=name)
    before = jax.eval_shape(init, params())
    _, after = jax.eval_shape(update, gradients(), before, params())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
    moments = {name for name in tree.paths(before) if name.endswith("blocks/mlp/in/kernel")}
    assert len(moments) == (2 if name == "adamw" else 1)  # a matrix of muon has one moment, stacked like the parameter


def test_a_wrong_name_is_refused():
    with pytest.raises(UserError, match="config.optim.name = 'sgd'.*adamw.*muon"):
        optim.make_optimizer(config(name="sgd"), STEPS)
