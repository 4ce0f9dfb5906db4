"""What reads attention maps: maps, layouts, symmetries, calibration, learning, and the examples it learns from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from steered import model_in

from anystep import positions, sampling, shapes, times, tree
from anystep.errors import UserError
from anystep.nets import relation
from anystep.relations import read
from anystep.shapes import World
from anystep.steering import classifier, examples, fit, maps, measures, sources, symmetry
from anystep.steering.rows import picture_rows, scene_rows, understood


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_in(tmp_path_factory.mktemp("x"))


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


@pytest.mark.long
def test_every_weight_of_the_faithful_layout_acts():
    options = relation.Faithful(3, (1.0, 0.5), (0, 1), side=4, width=16, heads=2, hidden=8, pool_heads=2, pair_heads=2)
    net = relation.build(options)
    params = toys.random_params(net)
    found = jax.random.normal(jax.random.key(2), (4, 2, 3, 4, 4))
    t = jnp.array([1.0, 0.5, 1.0, 0.5])
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(net.apply(p, found, t)))))(params)
    silent = {name for name, leaf in tree.paths(gradient).items() if float(jnp.abs(leaf).max()) < 1e-7}
    assert all(name.endswith("k/bias") or "pair_layer" in name and ("/q/" in name or "/k/" in name) for name in silent)  # one token
    scaled = relation.build(options._replace(scaled=True))
    np.testing.assert_allclose(scaled.apply(params, found / 16, t), net.apply(params, found, t), atol=1e-5)
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
    noise = jax.random.normal(jax.random.key(0), (8, 6, 6, 3))
    all_of_it = symmetry.noises(noise)
    assert len(all_of_it) == 8 and len(symmetry.noises(noise[:, :4])) == 4
    assert len({np.asarray(x).tobytes() for x in all_of_it}) == 8
    np.testing.assert_array_equal(all_of_it[0], noise)
    assert all((np.sort(np.asarray(x).reshape(-1)) == np.sort(np.asarray(noise).reshape(-1))).all() for x in all_of_it)


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
    halves = examples.halves(unseen)
    (params, report), (_, without) = (fit.fit(made, seen, halves, 200, symmetries=on) for on in (True, False))
    assert report["accuracy"] > 0.95 and without["accuracy"] < 0.7
    events = jax.nn.sigmoid(fit.logits_of(made, params, halves[1]))  # of the half that chose nothing
    assert report["cross_entropy"] == pytest.approx(-np.log(np.where(halves[1].labels > 0, events, 1 - events)).sum(1).mean(), rel=1e-4)


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


def test_an_object_that_the_encoder_does_not_reach(model):
    """The tiny encoder reads 14 tokens."""
    entry = {"subject": "very big shiny red ring", "relation": "left", "object": "very big shiny red square with a very thin blue border"}
    with pytest.raises(UserError, match="--data: the text encoder reads 14 tokens, .* as far as 'very big shiny red square with"):
        understood(model[0].text, picture_rows([entry], 0))


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
    with pytest.raises(UserError, match="--data: its 1 scenes of dev are too few to be halved"):
        examples.halves(found["train"].where(found["train"].scenes == found["train"].scenes[0]))
    with pytest.raises(UserError, match="20 of 20 pictures show the relation 'none'; does the model draw"):
        examples.on_policy(
            task._replace(data=sources.ShapesData(World(), 0, (16, 16), lambda picture, names: {})), "dev", 20, lens, (1,), (1,)
        )


def test_times_are_those_that_the_network_is_told(model):
    """A pipeline that knows whole steps alone walks by exact times: of 0.999667 and 0.749625 (a shift of 3) it is told 0.999 and 0.749, in
    training as in use, so that each step has its own row of the time embedding."""
    grid, lens = np.asarray(times.grid(2, 3.0, first=0.999)), maps.Lens((0,), side=4)
    assert grid[:2] == pytest.approx([0.999667, 0.749625], abs=1e-6)
    found = model[0]._replace(drawing=model[0].drawing._replace(whole=1000))
    data = sources.ShapesData(World(), 0, (16, 16), lambda picture, names: {names[0]: (0, 0, 1, 1), names[1]: tuple(picture[0, 0])})

    def sample(texts, steps, steer, first):
        boxes = np.where((np.arange(len(texts)) % 2 == 0)[:, None], (5, 0, 6, 1), (0, 5, 1, 6))  # left of it, or above it
        return boxes[:, None, None], {"maps": np.zeros((steer.program.first, len(texts), 2, 1, 4, 4))}

    task = examples.Task(found, model[1], (16, 16, 3), lambda steps: grid, sample, 0, data)
    drawn = examples.on_policy(task, "train", 8, lens, (2,), (2,))
    assert drawn.t == pytest.approx([0.999, 0.749] * 8, abs=1e-6)
    made = classifier.fresh("faithful", lens, 1, drawn.t)
    used = sampling.whole_step(1000, jnp.asarray(grid[:2]))
    assert relation.row_of(used, made.options.clock, made.options.trained).tolist() == [0, 1]
    assert examples.noised(task, "train", 4, lens, ("true",), (0.7505,)).t == pytest.approx(0.75)
    assert examples.on_clock(model[0], grid) is grid


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
