"""The shapes detector: what must be read right, what must be rejected, and what the partial marks mean."""

import json

import numpy as np
import pytest
from scipy import ndimage

from anystep.bench import detector
from anystep.errors import UserError
from anystep.shapes import COLORS, SILHOUETTES, Object, Scene, World, check, detect, draw, judge, make_scene, metadata

WORLD = World()
RED_RING = Object("ring", "red", 0.27, 0.5, 0.18)
BLUE_CROSS = Object("cross", "blue", 0.74, 0.45, 0.18)
LEFT = Scene("position", (RED_RING, BLUE_CROSS), "left of")


def _judged(asked: Scene, shown: Scene | np.ndarray, size: int = 16) -> dict:
    return judge(shown if isinstance(shown, np.ndarray) else draw(shown, size), metadata(asked), WORLD._replace(size=size))


@pytest.mark.parametrize("size, n", [(16, 300), (32, 150), (64, 60)])
def test_renderings_are_read_right(size, n):
    world = WORLD._replace(size=size)
    assert detector.accuracy(world, n)[0] >= 0.99
    assert detector.accuracy(world, n // 2, detector.NOISE)[0] >= 0.97


def test_the_whole_palette_is_read_right():
    world = check(World(shapes=tuple(SILHOUETTES), colors=tuple(COLORS)))
    for shape in SILHOUETTES:
        for color in COLORS:
            scene = Scene("colors", (Object(shape, color, 0.43, 0.58, 0.19),))
            assert judge(draw(scene, 16), metadata(scene), world)["correct"], (shape, color)


def test_places_come_back():
    """Boxes to a fifth of a pixel, from uint8 and from float in [-1, 1] alike."""
    for i in range(60):
        scene = make_scene(WORLD, 2, i)
        picture = draw(scene, 16)
        for image in (picture, (picture / 127.5 - 1.0).astype(np.float32)):
            seen = detect(image, WORLD)
            assert seen.explained
            found = sorted((d.shape, d.color, *np.round(16 * np.array(d.box), 2)) for d in seen.objects)
            drawn = sorted((o.shape, o.color, *np.round(16 * np.array(o.box), 2)) for o in scene.objects)
            if len({(o.shape, o.color) for o in scene.objects}) == len(scene.objects):
                assert [f[:2] for f in found] == [d[:2] for d in drawn]
                assert np.abs(np.array([f[2:] for f in found]) - np.array([d[2:] for d in drawn])).max() < 0.2


@pytest.mark.parametrize("damage", detector.DAMAGES)
@pytest.mark.parametrize("size", [16, 32])
def test_damaged_pictures_are_rejected(damage, size):
    assert detector.rejection(WORLD._replace(size=size), damage, 120) >= (0.9 if damage == "blur" and size == 16 else 0.97)


def test_all_marks_for_the_right_picture():
    assert set(_judged(LEFT, LEFT).values()) == {True}


def test_marks_tell_what_is_wrong():
    """correct, objects, colors, count, position, joint"""
    swapped = LEFT._replace(objects=(RED_RING._replace(color="blue"), BLUE_CROSS._replace(color="red")))
    mirrored = LEFT._replace(objects=(RED_RING._replace(x=BLUE_CROSS.x), BLUE_CROSS._replace(x=RED_RING.x)))
    other = LEFT._replace(objects=(RED_RING._replace(shape="square"), BLUE_CROSS))
    exchanged = LEFT._replace(objects=(RED_RING._replace(shape="cross"), BLUE_CROSS._replace(shape="ring")))
    fewer = LEFT._replace(objects=(RED_RING,))
    cases = {
        "swapped": (swapped, [0, 1, 0, 1, 1, 0]),
        "mirrored": (mirrored, [0, 1, 1, 1, 0, 0]),
        "other": (other, [0, 0, 0, 0, 0, 1]),
        "exchanged": (exchanged, [0, 1, 0, 1, 0, 1]),
        "fewer": (fewer, [0, 0, 0, 0, 0, 0]),
    }
    for name, (shown, marks) in cases.items():
        assert list(_judged(LEFT, shown).values()) == [bool(m) for m in marks], name
    extra = LEFT._replace(objects=(RED_RING._replace(y=0.75), BLUE_CROSS._replace(y=0.72), Object("triangle", "green", 0.5, 0.22, 0.17)))
    assert list(_judged(LEFT, extra).values()) == [False, True, True, False, True, False]


def test_same_shape_in_two_colours():
    scene = Scene("color_attr", (RED_RING, RED_RING._replace(color="black", x=0.74)))
    assert _judged(scene, scene)["correct"]
    assert _judged(scene, scene._replace(objects=scene.objects[::-1]))["correct"], "places are not asked for"
    twice = scene._replace(objects=(RED_RING, RED_RING._replace(x=0.74)))
    assert list(_judged(scene, twice).values()) == [False, True, False, True, True, False]
    assert not any(_judged(scene, scene._replace(objects=(RED_RING,))).values())


def test_counts_are_exact():
    three = tuple(Object("square", "green", x, y, 0.16) for x, y in ((0.2, 0.2), (0.75, 0.25), (0.5, 0.78)))
    for asked in (2, 3):
        marks = _judged(Scene("counting", three[:asked]), Scene("counting", three[: 5 - asked]))
        assert marks["objects"] and not marks["count"] and not marks["correct"] and not marks["joint"]


def test_no_colour_asked_any_colour_will_do():
    asked = Scene("single_object", (RED_RING,))
    assert _judged(asked, Scene("single_object", (RED_RING._replace(color="purple"),)))["correct"]
    assert not _judged(Scene("colors", (RED_RING,)), Scene("colors", (RED_RING._replace(color="purple"),)))["correct"]


def test_joint_needs_no_silhouette():
    """A picture blurred by an eighth of a diameter: colours, number and places are right, the shapes are none."""
    picture = draw(LEFT, 32).astype(np.float64)
    blurred = ndimage.gaussian_filter(picture, (1.4, 1.4, 0), mode="nearest").astype(np.uint8)
    marks = _judged(LEFT, blurred, 32)
    assert marks["joint"] and not marks["objects"] and not marks["correct"]


def test_an_object_too_small_or_too_large_is_none():
    for r in (0.09, 0.29):
        scene = Scene("colors", (Object("square", "red", 0.5, 0.5, r),))
        marks = _judged(scene, scene, 32)
        assert not marks["correct"] and not marks["objects"] and marks["joint"]


def test_colours_off_the_palette_are_none():
    picture = draw(Scene("colors", (RED_RING,)), 16).astype(np.float64)
    paler = (0.5 * picture + 0.5 * draw(Scene("colors", ()), 16)).astype(np.uint8)
    assert [(d.shape, d.color) for d in detect(paler, WORLD).objects] == [("ring", None)]


def test_one_pixel_that_is_no_number_spoils_the_picture():
    picture = draw(LEFT, 16) / 127.5 - 1.0
    assert _judged(LEFT, picture)["correct"]
    picture[0, 0, 0] = np.nan
    assert not any(_judged(LEFT, picture).values())


@pytest.mark.parametrize("fill", ["nan", "zero", "noise", "paper"])
def test_any_picture_gets_an_answer(fill):
    picture = {
        "nan": np.full((16, 16, 3), np.nan),
        "zero": np.zeros((16, 16, 3)),
        "noise": np.random.default_rng(0).standard_normal((64, 64, 3)),
        "paper": draw(Scene("colors", ()), 16),
    }[fill]
    assert not any(judge(picture, metadata(LEFT), WORLD).values())
    assert detect(picture, WORLD).explained == (fill == "paper")


def test_bad_questions_are_refused():
    for shape in ((8, 8, 3), (16, 32, 3), (16, 16), (1, 16, 16, 3)):
        with pytest.raises(UserError, match="image"):
            detect(np.zeros(shape), WORLD)
    with pytest.raises(UserError, match="heart"):
        _judged(Scene("colors", (RED_RING._replace(shape="heart"),)), LEFT)
    with pytest.raises(UserError, match="pink"):
        _judged(Scene("colors", (RED_RING._replace(color="pink"),)), LEFT)


def test_bench_writes_its_record(tmp_path, capsys):
    out = tmp_path / "detector.json"
    detector.main(["--n", "12", "--out", str(out)])
    record = json.loads(out.read_text())["result"]
    counts = np.array(record["confusion"]["counts"])
    assert counts.shape == (24, 25) and counts.sum() == counts.trace() == sum(len(make_scene(WORLD, 0, i).objects) for i in range(12))
    assert record["accuracy"]["clean"]["0"] == 1.0 and set(record["rejected"]) == set(detector.DAMAGES)
    assert "purple cross" in capsys.readouterr().out
    with pytest.raises(UserError, match="size = 8"):
        detector.main(["--size", "8"])
    with pytest.raises(UserError, match="--n"):
        detector.main(["--n", "0"])


@pytest.mark.slow
@pytest.mark.parametrize("size, share", [(16, 0.99), pytest.param(32, 0.995, marks=pytest.mark.long)])
def test_requirements_over_3000_renderings(size, share):
    world = WORLD._replace(size=size)
    assert min(detector.accuracy(world, 3000).values()) >= share
    assert min(detector.accuracy(world, 1000, detector.NOISE).values()) >= 0.97
    assert min(detector.rejection(world, damage, 300) for damage in detector.DAMAGES) >= 0.95
