"""Steering on a network whose maps are known functions of x, so that it can be seen to go where it should; and its parts by themselves."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toys

from anystep import api, positions, sampling, shapes, steering, tree
from anystep.errors import UserError
from anystep.flags import STEERING
from anystep.nets import correction, relation
from anystep.path import LINEAR, compose
from anystep.relations import read
from anystep.shapes import World
from anystep.steering import amortise, classifier, examples, fit, maps, measures, prompts, sources, symmetry
from anystep.steering.at import At, Walk
from anystep.steering.method import METHODS, Method
from anystep.steering.program import Program, Recorder, Steering
from anystep.steering.rows import scene_rows
from anystep.types import Capture, Model

pytestmark = pytest.mark.usefixtures("light_compilation")
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


def walk(method, what, strength=1.0, grid=(1.0, 0.5, 0.0), noise=NOISE):
    ask = sampling.asked_by("euler", STILL)
    here = Walk(STILL, {}, {"features": jnp.zeros((len(noise), 3, 1))}, ask, lambda t: t, lambda velocity: velocity)
    plain = sampling.make("euler", lambda x, t, s: STILL.velocity({}, x, t, s, {}), STILL)

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


@pytest.mark.parametrize("name", ["fast", "faithful"])
def test_objects_go_where_they_are_asked(name):
    method = METHODS[name]._replace(step=0.3 if name == "fast" else 5.0)
    x, info = walk(method, asked())
    assert (along(NOISE) < 0.02).any() and (along(x) > 0.02).all() and (along(x) > along(NOISE) - 1e-6).all()
    assert (info["after"][0] > 0.6).all() and (info["iterations"][0] >= 1).any() and (info["iterations"][1] == 0).all()
    length = np.linalg.norm(np.asarray(x).reshape(ROWS, -1), axis=1) / np.linalg.norm(np.asarray(NOISE).reshape(ROWS, -1), axis=1)
    assert name == "faithful" or length == pytest.approx(1.0, abs=1e-5)


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


@pytest.mark.parametrize("order", ["hardest", pytest.param("alternate", marks=pytest.mark.slow)])
def test_two_relations(order):
    words = np.stack([WORD, (WORD + 1) % 4], axis=1)
    x, info = walk(Method(12, 0.3, until=(0.7,), order=order), asked(words, pairs=((0, 1), (1, 2))))
    assert (info["after"][0] >= 0.7).all()
    assert (along(x) > 0).all() and (along(x, words[:, 1], (1, 2)) > 0).all()
    half = np.stack([np.ones(ROWS, bool), np.arange(ROWS) < 4], axis=1)
    _, info = walk(Method(12, 0.3, until=(0.7,), order=order), asked(words, half, ((0, 1), (1, 2))))
    assert (np.asarray(info["after"][0])[half] >= 0.7).all() and (np.asarray(info["after"][0])[~half] == 0).all()


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


def counted():
    """`STILL`, and a list to which each pass through some of its two blocks adds their number as it runs."""
    passes = []

    def blocks(params, h, lo, hi, capture=None):
        jax.debug.callback(lambda: passes.append(hi - lo))
        return STILL.blocks(params, h, lo, hi, capture)

    net = STILL._replace(blocks=blocks)
    return compose(net._replace(velocity=None)), passes


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
    net, passes = counted()
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

    found, report = amortise.fit_correction(
        reader, params, {}, walk_of, lambda rows: data[int(rows[0])], data, len(data), 1.0, 1.0, 60, lr=3e-2, penalty=0.01
    )
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
    found = api.pipeline(tiny.config("shapes", tmp_path_factory.mktemp("x")))
    return found, {role: toys.random_params(getattr(found, role)) for role in ("net", "text")}


def reader_of(found, layers=(0,), corrects=False):
    lens = maps.Lens(layers, side=4)
    options = relation.Light(maps.channels_of(found, lens), side=4, channels=2, width=8)
    made = classifier.Reader(lens, options, correction.Options((16, 16, 3), 16, 4, 16, 1, 2) if corrects else None)
    params = made.init(jax.random.key(5))
    if corrects:
        params["correction"] = toys.random_params(correction.build(made.corrects))
    return made, params


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


def test_maps_on_the_small_grid():
    """A bilinear resize keeps a linear ramp (inside its ends), each map sums to one, heads and layers are in order."""
    ramp = jnp.broadcast_to(jnp.arange(1.0, 5.0)[None, :], (4, 4)).reshape(-1)
    found = jnp.stack([ramp, 2 * ramp])[:, None, None, None, :] * jnp.array([1.0, 3.0])[None, None, :, None, None]
    out = maps.gather(found, (8, 8), maps.Lens((0, 1), side=8))
    assert out.shape == (1, 1, 4, 8, 8)
    np.testing.assert_allclose(out.sum((-2, -1)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.diff(out[0, 0, 0, 3, 1:-1], n=2), 0.0, atol=1e-6)
    raw = maps.gather(found, (8, 8), maps.Lens((0, 1), heads=(1,), side=4, renormalise=False))
    np.testing.assert_allclose(raw[0, 0], 3 * jnp.stack([ramp, 2 * ramp]).reshape(2, 4, 4))
    assert maps.grid_of(15, 9, 5) == (5, 3) and maps.grid_of(6, 8, 12) == (2, 3)
    with pytest.raises(ValueError, match="7 tokens"):
        maps.grid_of(7, 8, 8)


# The classifier


@pytest.mark.parametrize("layout, steps, count", [("FLUX", 4, 4_848_453), ("FLUX", 50, 4_860_965), ("STABLE", 50, 1_964_581)])
def test_parameters_as_published(layout, steps, count):
    clock = tuple(1 - i / steps for i in range(steps))
    options = relation.Faithful(1368, clock, (1, 3), **getattr(relation, layout))
    assert tree.count(jax.eval_shape(relation.build(options).init, jax.random.key(0))) == count
    assert 1e4 < tree.count(jax.eval_shape(relation.build(relation.Light(16)).init, jax.random.key(0))) < 1e5


def test_the_next_trained_step():
    """FLUX schnell: step 0 has the embedding of step 1, 2 that of 3; of fifty steps the last ones have that of 49."""
    found = relation.row_of(jnp.array([1.0, 0.75, 0.5, 0.25]), (1.0, 0.75, 0.5, 0.25), (1, 3))
    assert found.tolist() == [1, 1, 3, 3]
    clock = tuple(1 - i / 50 for i in range(50))
    found = relation.row_of(jnp.array([1.0, clock[6], clock[26], 0.01]), clock, (5, 10, 15, 20, 25, 49))
    assert found.tolist() == [5, 10, 49, 49]


@pytest.mark.slow
def test_every_weight_of_the_faithful_layout_acts():
    options = relation.Faithful(3, (1.0, 0.5), (0, 1), side=4, width=16, heads=2, hidden=8, pool_heads=2, pair_heads=2)
    net = relation.build(options)
    params = toys.random_params(net)
    found = jax.random.normal(jax.random.key(2), (4, 2, 3, 4, 4))
    t = jnp.array([1.0, 0.5, 1.0, 0.5])
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(net.apply(p, found, t)))))(params)
    silent = {name for name, leaf in tree.paths(gradient).items() if float(jnp.abs(leaf).max()) < 1e-7}
    assert all(name.endswith("k/bias") or "pair_layer" in name and ("/q/" in name or "/k/" in name) for name in silent)  # one token
    dropped = [net.apply(params, found, t, jax.random.key(k)) for k in (0, 1)]
    assert float(jnp.abs(dropped[0] - dropped[1]).max()) > 1e-3


def test_symmetries_are_exact():
    """Boxes drawn as maps, turned, are the maps of the turned boxes; and labels turn with them."""
    rng = np.random.default_rng(0)

    def drawn(box):
        picture = np.zeros((16, 16), np.float32)
        picture[box[1] : box[3], box[0] : box[2]] = 1.0
        return picture

    def moved(box, g):
        x0, y0, x1, y1 = box
        x0, x1 = (16 - x1, 16 - x0) if g & 2 else (x0, x1)
        y0, y1 = (16 - y1, 16 - y0) if g & 4 else (y0, y1)
        return x0, y0, x1, y1

    seen = set()
    for places in [[[5, 5], [5, 5]], *rng.integers(0, 12, (9, 2, 2)).tolist()]:
        pair = [(x, y, x + 3, y + 4) for x, y in places]
        found = jnp.asarray(np.stack([drawn(box) for box in pair])[None, :, None])
        label = jnp.asarray(symmetry.label_of(*([box] for box in pair))[None])
        seen |= {symmetry.CLASSES[i] for i in np.flatnonzero(label[0])}
        for g in range(symmetry.GROUP):
            turned, its = symmetry.turned(found, label, jnp.array([g]))
            there = [moved(box, g) for box in (pair[::-1] if g & 1 else pair)]
            np.testing.assert_array_equal(turned[0, :, 0], np.stack([drawn(box) for box in there]))
            np.testing.assert_array_equal(its[0], symmetry.label_of(*([box] for box in there)))
    assert seen == set(symmetry.CLASSES)
    assert symmetry.label_of([], [(0, 0, 1, 1)]).tolist() == [0, 0, 0, 0, 1]
    diagonal = (0, 0, 10, 10), (20, 20, 30, 30)
    assert positions.relations(*diagonal) == {"left of", "above"}
    assert symmetry.label_of(*([box] for box in diagonal)).tolist() == [1, 0, 1, 0, 0]  # a benchmark has both for true


def test_noises_of_one_noise():
    all_of_it = symmetry.noises(NOISE)
    assert len(all_of_it) == 8 and len(symmetry.noises(NOISE[:, :4])) == 4
    assert len({np.asarray(x).tobytes() for x in all_of_it}) == 8
    np.testing.assert_array_equal(all_of_it[0], NOISE)
    assert all((np.sort(np.asarray(x).reshape(-1)) == np.sort(np.asarray(NOISE).reshape(-1))).all() for x in all_of_it)


# Measures


def test_calibration_of_a_known_distribution():
    """Right with probability p^2 where p is said: ECE is E|p - p^2| = 1/6 for uniform p; nothing where p is true."""
    rng = np.random.default_rng(0)
    p = rng.uniform(size=200_000)
    assert measures.expected_calibration_error(p, rng.uniform(size=len(p)) < p) == pytest.approx(0.0, abs=0.01)
    assert measures.expected_calibration_error(p, rng.uniform(size=len(p)) < p**2) == pytest.approx(1 / 6, abs=0.01)
    assert measures.expected_calibration_error(np.full(10, 0.9), np.arange(10) < 5) == pytest.approx(0.4)


def test_the_temperature_that_was_left_out():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(50_000, 5)) * 2
    labels = (rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)  # events of their own, as on diagonals
    assert measures.fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.03)
    report = measures.report(3.0 * logits, labels, rng.integers(0, 4, len(labels)), 3.0)
    assert report["ece"] < 0.015 < 0.1 < report["ece_raw"] and report["probability"] == pytest.approx(report["true"], abs=0.01)
    assert measures.report(logits, labels, np.full(len(labels), -1), 1.0)["ece"] is None


def test_what_reads_only_the_prompt_leaks():
    labels, words = np.eye(5)[[0, 1, 2, 3, 4]], np.array([0, 0, 2, 2, -1])
    echo = measures.leakage(np.eye(5)[[0, 0, 2, 2, 4]], labels, words)
    assert echo == {"accuracy": 0.6, "matching": 1.0, "mismatching": 0.0, "echo": 1.0, "share_mismatching": 0.4}
    sound = measures.leakage(labels, labels, words)
    assert (sound["mismatching"], sound["echo"]) == (1.0, 0.0)


@pytest.mark.slow
def test_a_classifier_learns_and_symmetries_help():
    """Bright spots as maps: from examples of "left" and "above" alone all four are known."""
    rng = np.random.default_rng(0)

    def spots_of(n, words):
        label = np.array(words)[rng.integers(len(words), size=n)]
        a, b = rng.uniform(0.1, 0.4, (2, n)), rng.uniform(0.6, 0.9, (2, n))
        low, high = np.stack([a[0], b[0]], 1), rng.uniform(0.3, 0.7, (n, 2))
        x = np.where((label < 2)[:, None], np.where((label == 0)[:, None], low, low[:, ::-1]), high)
        y = np.where((label < 2)[:, None], high, np.where((label == 2)[:, None], low, low[:, ::-1]))
        grid = (np.arange(8) + 0.5) / 8
        spots = np.exp(-40 * ((grid[None, None, None] - x[..., None, None]) ** 2 + (grid[None, None, :, None] - y[..., None, None]) ** 2))
        spots = spots / spots.sum((-2, -1), keepdims=True)
        found = np.stack([spots, np.roll(spots, 1, -1)], axis=2).astype(np.float16)
        none = np.zeros(n, int)
        return examples.Examples(found, np.eye(5, dtype=np.float32)[label], none - 1, np.ones(n, np.float32), none, np.arange(n))

    made = classifier.Reader(maps.Lens((0,), side=8), relation.Light(2, width=16))
    seen, unseen = spots_of(1024, (0, 2)), spots_of(512, (0, 1, 2, 3))
    reports = [fit.fit(made, seen, examples.halves(unseen), 200, symmetries=on)[1] for on in (True, False)]
    assert reports[0]["accuracy"] > 0.95 and reports[1]["accuracy"] < 0.7


# Prompts and words


@pytest.mark.parametrize(
    "prompt, known, note",
    [
        ("a red ring left of a blue square", 1, None),
        ("a ring next to a square", 0, '"ring" near "square": classifiers know left, right, above, below'),
        ("a ring above a ring", 0, "two equal nouns"),
        ("a ring left of a zebra", 0, '"zebra" is not among what the classifier learned from: ring, square'),
        ("a very big shiny red ring left of a very big shiny red square", 0, 'does not read as far as "very big shiny red square"'),
        ("two rings", 0, "says nothing of left"),
    ],
)
def test_what_is_understood(model, prompt, known, note):
    text = model[0].text
    found = prompts.understand(text, prompt, ("ring", "square"))
    assert len(found.relations) == known and (note is None) == (not found.notes)
    assert note is None or note in found.notes[0]
    what = prompts.arrays([found], 14, 1)
    assert what.known.sum() == known and what.tokens.sum() == pytest.approx(2 * known)
    if known:
        words = ["", *prompt.split()]
        assert [[words[i] for i in rows] for rows in found.rows[0]] == [["red", "ring"], ["blue", "square"]]
        assert what.tokens[0].max(-1).tolist() == [0.5, 0.5]


def test_features_have_no_words(model):
    text = model[0].text._replace(place=None)
    with pytest.raises(UserError, match="prompts of this model are features"):
        prompts.understand(text, "a ring left of a square")


@pytest.mark.parametrize("name", ["sd1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sana_sprint", "flux_schnell", "sd2"))])
def test_where_words_lie_among_the_features(name):
    """Ids at the places of a noun phrase are those that it adds elsewhere; with another noun there, all others are the same."""
    pytest.importorskip("tokenizers")
    text = api.load(Path(__file__).parent / "fixtures" / f"pipeline_{name}")[0].text
    prompt, other = ("  A photo of a blue square, above an unbelievable red ring".replace("square", word) for word in ("square", "king"))
    a, b = (text.tokenize([p])[0][..., 0] for p in (prompt, other))
    first = {"flux_schnell": 77}.get(name, 0)  # the pooled encoder's tokens stand before
    hidden = {"sana_sprint": len(a) - 300}.get(name, 0)  # of the instruction's tokens only the first has features

    def ids(tokens, span, prompt=prompt):
        return [int(tokens[first + (hidden + row if row else 0)]) for row in text.place(prompt, span)]

    one = prompt.index("blue"), prompt.index(", above")
    two = prompt.index("unbelievable"), len(prompt)
    found, last = ids(a, one), ids(a, two)
    for phrase, its in (("blue square", found), ("unbelievable red ring", last)):
        among, without = (text.tokenize([p])[0][first:, 0].tolist() for p in (f"king {phrase} king", "king king"))
        assert len(its) == sum(i != among[-1] for i in among) - sum(i != without[-1] for i in without)
        assert any(among[at : at + len(its)] == its for at in range(len(among)))
    assert ids(b, (two[0] - 2, len(other)), other) == last and ids(b, (one[0], one[1] - 2), other) != found
    rows = [row for span in (one, two) for row in text.place(prompt, span)]
    assert rows == sorted(set(rows)) and read(prompt).relations[0].subject_span == one
    assert text.place(prompt, (0, 0)) == [] == text.place("a ring " * 200, (1393, 1397))


def test_prompts_of_scenes_say_what_they_should():
    rows = scene_rows(World(), 3, 20, "train", ("true", "wrong", "none"))
    assert len(rows) == 60 and len({row.number for row in rows}) == 20
    labels = sources.ShapesData(World(), 3, (16, 16)).labels(rows)
    for row, label in zip(rows, labels, strict=True):
        found = read(row.prompt).relations
        assert row.prompt[slice(*row.spans[0])] == row.names[0] and row.prompt[slice(*row.spans[1])] == row.names[1]
        assert label.max() == 1.0 and label[-1] == 0.0
        if row.word < 0:
            assert not found
            continue
        assert [(r.subject, r.word, r.object) for r in found] == [(row.names[0], symmetry.WORDS[row.word], row.names[1])]
        assert found[0].subject_span == row.spans[0] and found[0].object_span == row.spans[1]
    said = np.array([row.word for row in rows])
    true, wrong = (np.arange(60) % 3 == k for k in (0, 1))
    assert (labels[true, said[true]] == 1).all() and (labels[wrong, said[wrong]] == 0).all()


# Examples


def test_a_time_says_nothing_of_the_prompt():
    """Every kind of prompt has every number of steps and every time equally often, for even numbers of them, too."""
    for kinds, options in ((("true", "none"), 2), (("true", "none"), 4), (("true", "wrong"), 2), (("true", "wrong", "none"), 3)):
        rows = scene_rows(World(), 0, 12, "train", kinds)
        turns, kind = examples.by_turns(rows, options), np.arange(len(rows)) % len(kinds)
        assert {int(((turns == a) & (kind == b)).sum()) for a in range(options) for b in range(len(kinds))} == {12 // options}


def test_examples_of_drawings(model):
    """Maps, labels, words and times of a row stay together where several of its steps are learned from; no two rows share a noise."""
    calls, lens = [], maps.Lens((0,), side=2)
    data = sources.ShapesData(World(), 0, (16, 16), lambda picture, names: {names[0]: (0, 0, 1, 1), names[1]: tuple(picture[0, 0])})

    def sample(texts, steps, steer, first):
        numbers = np.arange(first, first + len(texts))
        calls.append((steps, texts, numbers))
        box = np.where((numbers % 3 == 0)[:, None], (5, 0, 6, 1), (0, 5, 1, 6))  # left of it, or above it
        found = numbers % 1000 + 0.25 * np.arange(steer.program.first)[:, None]
        return box[:, None, None], {"maps": np.broadcast_to(found[..., None, None, None, None], (*found.shape, 2, 1, 2, 2))}

    def times(steps):
        return np.linspace(1, 0, steps + 1)

    task = examples.Task(model[0], model[1], (16, 16, 3), times, sample, 0, data)
    found = {split: examples.on_policy(task, split, 40, lens, (1, 4), (1, 3)) for split in ("train", "dev")}
    assert len(found["train"].t) == 20 + 3 * 20 and [call[0] for call in calls] == [1, 4, 1, 4]
    numbers = np.concatenate([call[2] for call in calls])
    assert len(set(numbers.tolist())) == 80 and numbers.min() > 2 * 10**7
    rows = {row.prompt: row for row in data.rows("train", 40, ("true", "none"))}
    at = 0
    for steps, texts, numbers in calls[:2]:
        for text, number in zip(texts, numbers, strict=True):
            for step in range(min(steps, 3)):
                assert found["train"].maps[at, 0, 0, 0, 0] == number % 1000 + 0.25 * step
                assert found["train"].t[at] == pytest.approx(times(steps)[step]) and found["train"].steps[at] == steps
                assert found["train"].labels[at].tolist() == [number % 3 == 0, 0, number % 3 != 0, 0, 0]
                assert found["train"].words[at] == rows[text].word and found["train"].scenes[at] == rows[text].number
                at += 1
    part, rest = examples.halves(found["train"])
    assert not set(part.scenes) & set(rest.scenes) and len(part.t) + len(rest.t) == 80 and min(len(part.t), len(rest.t)) > 15
    with pytest.raises(UserError, match="20 of 20 pictures show the relation 'none'; does the model draw"):
        examples.on_policy(
            task._replace(data=sources.ShapesData(World(), 0, (16, 16), lambda picture, names: {})), "dev", 20, lens, (1,), (1,)
        )


def test_labels_are_the_verdicts_of_the_benchmark():
    """What a word's label says of a picture is what the judge says of its prompt, with wrong colours, diagonals and things too many."""
    world, rng, seen = World(size=24), np.random.default_rng(0), []
    for number in range(60):
        n = 2 + number % 2
        r = 0.16
        places = rng.uniform(0.2, 0.8, (n, 2))
        while min(np.abs(a - b).max() for i, a in enumerate(places) for b in places[:i]) < 0.42:
            places = rng.uniform(0.2, 0.8, (n, 2))
        things = [("ring", "red"), ("square", rng.choice(["blue", "green"])), ("square", "blue")][:n]
        picture = shapes.draw(shapes.Scene("position", tuple(shapes.Object(*t, *p, r) for t, p in zip(things, places, strict=True))), world)
        found = sources.boxes_in_shapes(world)(picture, ["red ring", "blue square"])
        label = symmetry.label_of(found["red ring"], found["blue square"])
        for word, held in zip(shapes.RELATIONS, label, strict=False):
            entries = [
                {"class": "square", "count": 1, "color": "blue"},
                {"class": "ring", "count": 1, "color": "red", "position": [word, 0]},
            ]
            verdict = shapes.judge(picture, {"tag": "position", "include": entries, "prompt": ""}, world)["position"]
            assert verdict == (held > 0)
        seen.append(int(label[:4].sum()))
    assert {0, 1, 2} <= set(seen) | {0}


# On disk


@pytest.mark.slow
def test_there_and_back(model, tmp_path):
    made, params = reader_of(model[0], (0, 1), corrects=True)
    steering.save(tmp_path, model[0], made, params, ("ring",), {"accuracy": 0.5})
    found = steering.load(tmp_path, model[0], "amortised", 0.5, steps=2)
    assert found.program == Program(made, METHODS["amortised"]._replace(steps=2)) and found.things == ("ring",) and found.strength == 0.5
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert hash(found.program) and set(METHODS) == set(STEERING)


REFUSED = {
    "network": (lambda c: c | {"network": "0"}, {}, "was made for another network, 0 by its digest"),
    "kind": (lambda c: c | {"steering": 1}, {}, "is no classifier of relations"),
    "left out": (lambda c: {name: value for name, value in c.items() if name != "things"}, {}, r"config.json: KeyError \('things'\)"),
    "layers": (lambda c: c | {"lens": c["lens"] | {"layers": [0, 9]}}, {}, r"reads layers \[0, 9\], this network has 0 to 1"),
    "maps": (lambda c: c | {"options": c["options"] | {"maps": 7}}, {}, r"reads 7 maps, layers \[0, 1\] of this network have 4"),
    "weights": (lambda c: c | {"options": c["options"] | {"width": 9}}, {}, "the weights do not fit the model: .* mis-shaped"),
    "method": (lambda c: c, {"method": "slow"}, "method: 'slow', allowed fast, faithful"),
    "setting": (lambda c: c, {"eta": 1}, "eta: no such setting"),
    "range": (lambda c: c, {"until": 1.5}, r"until: \(1.5,\), allowed one number or more above 0 and below 1"),
    "nothing": (lambda c: c, {"until": ()}, r"until: \(\), allowed one number or more"),
    "word": (lambda c: c, {"until": "x"}, r"until: \('x',\), allowed one number or more"),
    "big": (lambda c: c, {"step": "big"}, "step: 'big', allowed a number above 0"),
    "corrects": (lambda c: c, {"method": "amortised"}, "has no network that corrects noises"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_one_line(model, what, tmp_path):
    import json

    change, how, said = REFUSED[what]
    made, params = reader_of(model[0], (0, 1))
    steering.save(tmp_path, model[0], made, params)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=said) as error:
        steering.load(tmp_path, model[0], **how)
    assert "\n" not in str(error.value)
