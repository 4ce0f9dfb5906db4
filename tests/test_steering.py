"""Steering on a network whose maps are known functions of x, so that it can be seen to go where it should; and its parts by themselves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from steered import model_in, reader_of

from anystep import api, sampling
from anystep.bench import _steer_costs as costs
from anystep.errors import UserError
from anystep.nets import correction, relation
from anystep.path import LINEAR, compose
from anystep.steering import amortise, classifier, maps, prompts, symmetry
from anystep.steering.at import At, Walk
from anystep.steering.method import METHODS, Method
from anystep.steering.program import Program, Recorder, Steering
from anystep.types import Capture, Model

SIDE, ROWS = 6, 8
NOISE = jax.random.normal(jax.random.key(0), (ROWS, SIDE, SIDE, 3))
KEYS = jax.random.split(jax.random.key(1), ROWS)

# A network that stands still and attends from a pixel to three words by the pixel's own channels: word c is where channel c is large.


def still():
    def blocks(params, h, lo, hi, capture=None):
        if capture is None or not lo <= 0 < hi:
            return h, {}
        found = jnp.einsum("bhwc,boc->bohw", jax.nn.softmax(h["x"], axis=-1), capture.tokens)
        return h, {"maps": found.reshape(1, found.shape[0], 1, found.shape[1], -1)}

    return compose(
        Model(
            LINEAR, "none", (SIDE, SIDE, 3), lambda key: {}, None, lambda params, x, t, s, cond: {"x": x}, blocks,
            lambda params, h: jnp.zeros_like(h["x"]), depth=2, maps=1,
        )
    )  # fmt: skip


def centres(found):
    """[..., S, S] that sum to one -> [..., 2], (x, y) in shares of the side."""
    place = (jnp.arange(found.shape[-1]) + 0.5) / found.shape[-1]
    return jnp.stack([jnp.sum(found.sum(axis) * place.reshape((1,) * (found.ndim - 2) + (-1,)), axis=-1) for axis in (-2, -1)], axis=-1)


class ByCentres(NamedTuple):
    """A reader without weights: logits are offsets of the centres of mass."""

    lens: maps.Lens = maps.Lens((0,), side=SIDE)
    corrects: None = None

    def logits(self, params, found, t, key=None):
        at = centres(found.mean(2)).reshape(found.shape[0], -1, 2, 2)
        dx, dy = jnp.moveaxis(at[:, :, 0] - at[:, :, 1], -1, 0)
        return 60.0 * jnp.stack([-dx, dx, -dy, dy, jnp.zeros_like(dx)], axis=-1)


STILL = still()
NEVER = (1 - 1e-7,)
WORD = np.arange(ROWS) % 4


def asked(words=WORD[:, None], known=None, pairs=((0, 1),)):
    tokens = np.eye(3, dtype=np.float32)[[c for pair in pairs for c in pair]]
    known = np.ones(words.shape, bool) if known is None else known
    return prompts.Asked(jnp.asarray(np.tile(tokens, (len(words), 1, 1))), jnp.asarray(words), jnp.asarray(known))


def told(what, strength=1.0):
    return {"asked": what, "params": {"temperature": jnp.float32(1.0)}, "strength": jnp.float32(strength)}


def walk(method, what, strength=1.0, grid=(1.0, 0.5, 0.0), noise=NOISE, net=STILL):
    ask = sampling.asked_by("euler", net)
    here = Walk(net, {}, {"features": jnp.zeros((len(noise), 3, 1))}, ask, lambda t: t, lambda velocity: velocity)
    plain = sampling.make("euler", lambda x, t, s: net.velocity({}, x, t, s, {}), net)

    @jax.jit
    def run(noise, strength):
        sampler = Program(ByCentres(), method)(plain, here, told(what, strength))
        return sampling.sample(sampler, KEYS[: len(noise)], noise, jnp.array(grid))

    x, info = run(noise, jnp.float32(strength))
    return x, info["steering"]


def offsets(x, pair=(0, 1)):
    share = jax.nn.softmax(x, axis=-1)
    share = share / share.sum((1, 2), keepdims=True)
    at = centres(jnp.moveaxis(share, -1, 1))
    return np.asarray(at[:, pair[0]] - at[:, pair[1]])


def along(x, word=WORD, pair=(0, 1)):
    """How far the first stands from the second in the direction of the word."""
    dx, dy = offsets(x, pair).T
    return np.choose(word, [-dx, dx, -dy, dy])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fast", "faithful"])
def test_objects_go_where_they_are_asked(name):
    method = METHODS[name]._replace(step=0.3 if name == "fast" else 5.0)
    x, info = walk(method, asked())
    assert (along(NOISE) < 0.02).any() and (along(x) > 0.02).all() and (along(x) > along(NOISE) - 1e-6).all()
    assert (info["after"][0] > 0.6).all() and (info["iterations"][0] >= 1).any() and (info["iterations"][1] == 0).all()
    length = np.linalg.norm(np.asarray(x).reshape(ROWS, -1), axis=1) / np.linalg.norm(np.asarray(NOISE).reshape(ROWS, -1), axis=1)
    assert name == "faithful" or length == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_small_raw_steps_only_gain():
    found = [walk(Method(n, 0.2, normalised=False, until=(0.999999,), shell=False), asked())[1]["after"][0] for n in (0, 1, 3)]
    assert (np.diff(np.stack(found), axis=0) > 0).all()


def test_a_step_is_the_gradient():
    method = Method(1, 1e-3, normalised=False, until=(0.999999,), shell=False)
    gradient = (NOISE - walk(method, asked(), grid=(1.0, 0.0))[0]) / 1e-3
    direction = jax.random.normal(jax.random.key(3), NOISE.shape)

    def loss(x):
        p = walk(method._replace(iterations=0), asked(), noise=x)[1]["after"][0]
        return -np.log(np.asarray(p, np.float64))[:, 0]

    slope = (loss(NOISE + 0.02 * direction) - loss(NOISE - 0.02 * direction)) / 0.04
    np.testing.assert_allclose(np.sum(np.asarray(gradient * direction, np.float64), axis=(1, 2, 3)), slope, rtol=0.03, atol=3e-3)


@pytest.mark.parametrize("name", ["fast", pytest.param("faithful", marks=pytest.mark.slow)])
def test_who_is_done_keeps_every_bit(name):
    known = np.ones((ROWS, 1), bool)
    known[3] = False
    method = METHODS[name]._replace(step=0.1, until=(0.8,))
    x, info = walk(method, asked(known=known))
    moves, before = np.asarray(info["iterations"][0]), np.asarray(info["before"][0, :, 0])
    assert moves[3] == 0 and (moves[before >= 0.8] == 0).all() and len(set(moves.tolist())) > 2
    np.testing.assert_array_equal(x[moves == 0], NOISE[moves == 0])
    assert (np.asarray(info["after"][0, :, 0])[known[:, 0]] >= 0.8).all() and (info["looks"][0] == moves + known[:, 0]).all()
    few, _ = walk(method._replace(iterations=1), asked(known=known))
    np.testing.assert_array_equal(x[moves == 1], few[moves == 1])  # later rounds, of others, change nothing
    none, _ = walk(method, asked(known=known), strength=0.0)
    np.testing.assert_array_equal(none, NOISE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fast", "best", "flips"])
def test_groups_change_what_is_run_and_nothing_else(name):
    """Rows that are looked at and gone back through, counted as they run: all once, then two at a time as long as somebody moves. The
    benchmark's sum is the same."""
    net, passes, back = counted(rows=True)
    known = np.ones((ROWS, 1), bool)
    known[3] = False
    method, what = METHODS[name]._replace(step=0.1, until=(0.8,)), asked(known=known)
    whole, told_whole = walk(method._replace(groups=1), what, net=net)
    jax.effects_barrier()
    passes.clear(), back.clear()
    x, info = walk(method, what, net=net)
    jax.effects_barrier()
    np.testing.assert_allclose(x, whole, atol=1e-6)
    for part in ("iterations", "looks", "after"):
        np.testing.assert_allclose(info[part], told_whole[part], atol=1e-5)
    looks, moves = (np.asarray(info[part][0]) for part in ("looks", "iterations"))
    rounds = [((looks > n) & ((moves > 0) | (n > 0))).sum() for n in range(looks.max())]
    assert sum(passes) - 2 * ROWS == ROWS + sum(-(-left // 2) * 2 for left in rounds)  # the rest finish the two steps
    ran = costs.in_batches(looks[None], moves[None], ROWS, method.groups)
    assert ran == ((sum(passes) - 2 * ROWS) / ROWS, sum(back) / ROWS, looks.sum() / ROWS) and (sum(back) > 0) == (name == "fast")


@pytest.mark.parametrize("order", ["hardest", pytest.param("alternate", marks=pytest.mark.slow)])
def test_two_relations(order):
    words = np.stack([WORD, (WORD + 1) % 4], axis=1)
    x, info = walk(Method(12, 0.3, until=(0.7,), order=order), asked(words, pairs=((0, 1), (1, 2))))
    assert (info["after"][0] >= 0.7).all()
    assert (along(x) > 0).all() and (along(x, words[:, 1], (1, 2)) > 0).all()
    half = np.stack([np.ones(ROWS, bool), np.arange(ROWS) < 4], axis=1)
    _, info = walk(Method(12, 0.3, until=(0.7,), order=order), asked(words, half, ((0, 1), (1, 2))))
    assert (np.asarray(info["after"][0])[half] >= 0.7).all() and (np.asarray(info["after"][0])[~half] == 0).all()


@pytest.mark.slow
def test_the_likeliest_noise_is_taken():
    turned = symmetry.noises(NOISE)
    x, info = walk(METHODS["flips"]._replace(until=NEVER), asked(), grid=(1.0, 0.0))
    best = np.stack([along(y) for y in turned]).max(0)
    np.testing.assert_allclose(along(x), best, atol=1e-6)
    same = [(np.asarray(x)[row] == np.asarray(turned)[:, row]).all((1, 2, 3)).sum() for row in range(ROWS)]
    assert min(same) == 1 and (info["looks"][0] == 8).all()  # one for each, none again for the one that is taken
    many, _ = walk(METHODS["best"]._replace(candidates=16, until=(0.999,)), asked())
    assert (along(many) >= along(NOISE)).all() and along(many).mean() > along(NOISE).mean() + 0.05
    kept, _ = walk(METHODS["best"]._replace(until=(1e-6,)), asked())
    np.testing.assert_array_equal(kept, NOISE)


def counted(rows=False):
    """`STILL`, and two lists to which each pass through some of its two blocks, there and back, adds their number, or that of the rows, as
    it runs."""
    passes, back = [], []

    @jax.custom_vjp
    def seen(x):
        return x

    def returned(_, gradient):
        jax.debug.callback(lambda: back.append(len(gradient)))
        return (gradient,)

    seen.defvjp(lambda x: (x, None), returned)

    def blocks(params, h, lo, hi, capture=None):
        jax.debug.callback(lambda: passes.append(len(h["x"]) if rows else hi - lo))
        return STILL.blocks(params, h | {"x": seen(h["x"])}, lo, hi, capture)

    net = STILL._replace(blocks=blocks)
    return compose(net._replace(velocity=None)), passes, back


COSTS = {  # method -> (moves, looks, what is looked at or finished at the first step); of a look one block runs, the second step runs two
    "nobody moves": (METHODS["fast"]._replace(until=(1e-9,)), 0, 1),
    "fast": (METHODS["fast"]._replace(iterations=2, until=NEVER, step=1e-3), 2, 3),
    "faithful": (METHODS["faithful"]._replace(step=1e-6), 16, 17),
    "best": (METHODS["best"]._replace(until=NEVER), 0, 4),
    "best of what is enough": (METHODS["best"]._replace(until=(1e-9,)), 0, 1),
    "flips": (METHODS["flips"]._replace(until=NEVER), 0, 8),
    "best, then fast": (METHODS["fast"]._replace(candidates=3, iterations=2, until=NEVER, step=1e-3), 2, 3 + 3),
    "amortised": (METHODS["amortised"], 0, 1),
    "amortised, measured": (METHODS["amortised"]._replace(measure=True), 0, 2),
}
CORRECTS = correction.Options((SIDE, SIDE, 3), 1, patch=3, width=8, depth=1, heads=2)


@pytest.mark.parametrize("name", [name if name in ("fast", "best") else pytest.param(name, marks=pytest.mark.slow) for name in COSTS])
def test_what_a_method_costs(name):
    method, moves, looks = COSTS[name]
    net, passes, _ = counted()
    here = Walk(net, {}, {"features": jnp.zeros((1, 3, 1))}, sampling.asked_by("euler", net), lambda t: t, lambda velocity: velocity)
    params = {"temperature": jnp.float32(1.0), "correction": correction.build(CORRECTS).init(jax.random.key(0))}
    what = told(asked(WORD[:1, None])) | {"params": params}

    @jax.jit
    def run(noise):
        sampler = Program(ByCentres(corrects=CORRECTS), method)(
            sampling.make("euler", lambda x, t, s: net.velocity({}, x, t, s, {}), net), here, what
        )
        return sampling.sample(sampler, KEYS[:1], noise, jnp.array((1.0, 0.5, 0.0)))[1]["steering"]

    info = jax.block_until_ready(run(NOISE[:1]))
    jax.effects_barrier()
    assert (info["iterations"][:, 0].tolist(), info["looks"][:, 0].tolist()) == ([moves, 0], [looks, 0])
    assert sum(passes) == looks + 1 + 2  # the last look is gone on from
    assert np.isnan(info["before"][0, 0]) == (name == "amortised")


def test_noises_that_cannot_be_corrected():
    here = Walk(STILL, {}, {"features": jnp.zeros((1, 3, 1))}, None, lambda t: t, lambda velocity: velocity)
    at = At(ByCentres(corrects=CORRECTS), METHODS["amortised"], here, told(asked(WORD[:1, None])), jnp.ones(1), jnp.ones(1), 0)
    with pytest.raises(UserError, match=r"amortised: samples of \[8, 8, 3\], .* 3 channels and sides that 3 divides"):
        at.corrected(jnp.zeros((1, 8, 8, 3)))


@pytest.mark.slow
def test_corrections_are_learned():
    reader, params = ByCentres(corrects=CORRECTS), {"temperature": jnp.float32(1.0)}
    data = [asked(words[:, None]) for words in np.random.default_rng(0).integers(0, 4, (4, ROWS))]

    def walk_of(net, what):
        here = Walk(STILL, net, {"features": jnp.zeros((ROWS, 3, 1))}, None, lambda t: t, lambda velocity: velocity, start=2.0)
        return here, {"asked": what, "strength": jnp.float32(1.0)}

    some = amortise.Prompts(lambda rows: data[int(rows[0])], len(data), data)
    found, report = amortise.fit_correction(reader, params, {}, walk_of, some, (1.0, 1.0), 60, lr=3e-2, penalty=0.01)
    assert report["loss"] < 0.7 * report["loss_before"] and 0.01 < report["correction"] < 2.0
    assert set(found) == {"correction"}


def test_a_recorder_moves_nothing():
    here = Walk(STILL, {}, {}, sampling.asked_by("restart", STILL), lambda t: t, lambda velocity: velocity)
    plain = sampling.make("restart", lambda x, t, s: STILL.velocity({}, x, t, s, {}), STILL)
    sampler, grid = Recorder(maps.Lens((0,), side=SIDE))(plain, here, told(asked())), jnp.array((1.0, 0.6, 0.3, 0.0))
    x, info = sampling.sample(sampler, KEYS, NOISE, grid, 2)
    whole, everything = sampling.sample(sampler, KEYS, NOISE, grid)
    np.testing.assert_array_equal(x, sampling.sample(plain, KEYS, NOISE, grid)[0])
    np.testing.assert_array_equal(whole, x)
    assert info["maps"].shape == (2, ROWS, 2, 1, SIDE, SIDE) and info["maps"].dtype == jnp.float16
    np.testing.assert_array_equal(info["maps"], everything["maps"][:2])


def test_as_many_steps_as_asked():
    _, info = walk(Method(1, 0.05, until=(0.9999,), steps=2), asked(), grid=(1.0, 0.7, 0.4, 0.0))
    assert np.asarray(info["iterations"]).T.tolist() == [[1, 1, 0]] * ROWS and (np.asarray(info["after"][2]) == 0).all()
    assert (np.asarray(info["distance"][0]) > np.asarray(info["distance"][1])).all()  # a share of the noise that is left


# Real networks


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_in(tmp_path_factory.mktemp("x"))


TEXTS = ["a red ring left of a blue square", "a red ring"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["amortised", "fast", "best"])
def test_without_strength_no_bit_moves(model, name):
    made, params = reader_of(model[0], corrects=True)
    steer = Steering(Program(made, METHODS[name]._replace(until=(0.999,))), params)
    plain = api.sample_array(*model, TEXTS, steps=2)
    none, strong = (api.sample_array(*model, TEXTS, steps=2, steer=steer._replace(strength=strength)) for strength in (0.0, 1.0))
    np.testing.assert_array_equal(none, plain)
    scale = np.abs(plain).max()
    assert np.abs(strong[0] - plain[0]).max() > 1e-3 * scale
    assert np.abs(strong[1] - plain[1]).max() < 1e-5 * scale  # no relation; its row was only finished by another program
    silent, said = api.sample_and_say(*model, TEXTS[1:], steps=2, steer=steer)
    assert said == {}
    np.testing.assert_allclose(silent[0], api.sample_array(*model, TEXTS[1:], steps=2)[0], atol=1e-5)


@pytest.mark.long
def test_a_picture_is_followed_by_those_who_move_and_who_do_not(tmp_path):
    """Two residuals of a ControlNet and two prompts: rows and residuals are not taken for each other where a batch goes on in groups."""
    found = model_in(tmp_path, "--config.model.control=2", "--config.model.depth=3")
    made, params = reader_of(found[0])
    steer = Steering(Program(made, METHODS["fast"]._replace(until=(0.999,), iterations=1, step=1e-6)), params)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    plain, steered = (api.sample_array(*found, TEXTS, steps=1, control=pictures, steer=one) for one in (None, steer))
    without = api.sample_array(*found, TEXTS, steps=1)
    scale = np.abs(plain).max()
    assert np.abs(steered - plain).max() < 1e-3 * scale < np.abs(without - plain).max()


@pytest.mark.slow
def test_the_published_method_steers_as_many_steps_as_published(model):
    """The first of up to four, half of more, wherever it is asked for; and notes know of them."""
    made, params = reader_of(model[0])
    steer = Steering(Program(made, METHODS["faithful"]._replace(iterations=1)), params, times=(0.8, 1.0))
    for steps, steered in ((4, 1), (7, 3)):
        looks = api.sample_and_say(*model, TEXTS[:1], steps=steps, steer=steer)[1]["steering"]["looks"]
        assert (looks[:, 0] > 0).tolist() == [True] * steered + [False] * (steps - steered)
    grid = [1.0, 0.9, 0.8, 0.7, 0.4, 0.0]
    euler = ("euler", "now")
    assert steer.strange(grid, *euler) == [] == steer._replace(walk=euler).strange(grid[2:], *euler)
    assert "0.7 to 1, the classifier learned from 0.8 to 1" in steer.strange([*grid[:4], 0.5, 0.4, 0.3, 0.2, 0], *euler)[0]
    said = steer._replace(walk=("restart", "zero")).strange(grid, *euler)
    assert said == ["steer: the classifier learned from drawings by restart asking zero, not by euler asking now"]
    (said,) = steer._replace(program=steer.program._replace(method=METHODS["fast"])).strange(grid, "restart", "zero")
    assert said.startswith("steer: 1 of 5 steps are steered, and restart draws new noise in the others")
    steer = steer._replace(program=steer.program._replace(method=METHODS["fast"]))
    assert "and ddim draws" in steer.strange(grid, "ddim", "now")[0] and steer.strange(grid, "ddim", "now", eta=0.0) == []


@pytest.mark.slow
def test_only_what_is_read_is_run():
    """The gradient through the first layers alone is that through the whole network, and `finish` ends as `velocity` does."""
    net = toys.tiny_sana()
    params = toys.random_params(net)
    x, t, s, cond = toys.picture_inputs(net)
    lens = maps.Lens((0, 1), side=4)
    made = classifier.Reader(lens, relation.Light(4, side=4, channels=2, width=8))
    tokens = jax.nn.one_hot(jnp.array([[0, 1]] * 4), 6)
    here = At(
        made,
        Method(),
        Walk(net, params, cond, None, None, lambda velocity: velocity),
        {"asked": prompts.Asked(tokens, jnp.zeros((4, 1), jnp.int32), jnp.ones((4, 1), bool)), "params": made.init(jax.random.key(0))},
        t,
        s,
        0,
    )

    def whole(x):
        aux = net.velocity(params, x, t, s, cond, Capture(lens.layers, tokens))[1]
        logits = made.logits(here.told["params"], maps.gather(aux["maps"], net.shape, lens), t)
        return jnp.sum(classifier.losses(logits, here.told["asked"].word))

    short = jax.jit(jax.grad(lambda x: jnp.sum(here.see(x)[0])))(x)
    full = jax.jit(jax.grad(whole))(x)
    np.testing.assert_allclose(short, full, atol=1e-6 * float(jnp.abs(full).max()) + 1e-9)
    assert maps.look(net, params, x, t, s, cond, tokens, lens)[2] == 2
    u = jax.jit(lambda x: here.finish(x, here.see(x)[1]["h"], t, s)[0])(x)
    np.testing.assert_allclose(u, jax.jit(lambda x: net.velocity(params, x, t, s, cond)[0])(x), rtol=1e-5, atol=1e-5)
