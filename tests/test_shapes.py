"""Scenes, pictures and words of the shapes world: streams, splits, geometry, areas in closed form, captions that are true."""

import re
import zlib
from collections import Counter

import numpy as np
import pytest

from anystep.errors import UserError
from anystep.relations import read
from anystep.shapes import (
    BACKGROUND,
    COLORS,
    KINDS,
    RELATIONS,
    SILHOUETTES,
    SPLITS,
    Object,
    Scene,
    World,
    canonical,
    caption,
    check,
    draw,
    judge,
    make_scene,
    metadata,
    prompt_of,
    prompts,
    relations,
    scene_of,
    split_of,
)

WORLD = World()
RED_RING = Object("ring", "red", 0.25, 0.5, 0.19)
BLUE_CROSS = Object("cross", "blue", 0.75, 0.45, 0.18)


def _scenes(n, **options):
    return [make_scene(WORLD, 5, i, **options) for i in range(n)]


def test_a_scene_depends_on_seed_and_index_alone():
    forward = [make_scene(WORLD, 7, i) for i in range(50)]
    assert [make_scene(WORLD, 7, i) for i in reversed(range(50))] == forward[::-1]
    assert len({(s.kind, s.objects) for s in forward}) == 50
    assert make_scene(WORLD, 8, 0) != forward[0]
    far = make_scene(WORLD, 7, 2**40)
    assert far != forward[0] and far == make_scene(WORLD, 7, 2**40)


def test_kinds_come_in_equal_parts():
    counts = Counter(s.kind for s in _scenes(1500))
    assert set(counts) == set(KINDS)
    assert max(abs(n - 250) for n in counts.values()) < 5 * np.sqrt(250)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_keep_their_distance_and_stay_inside(kind):
    for scene in _scenes(400, kind=kind):
        assert scene.kind == kind
        for i, a in enumerate(scene.objects):
            assert min(a.box) > 0.0 and max(a.box) < 1.0
            low = 2.7 if len(scene.objects) < 3 else 2.4
            assert low <= 16 * a.r <= 3.4
            for b in scene.objects[:i]:
                clear = max(max(a.box[k], b.box[k]) - min(a.box[k + 2], b.box[k + 2]) for k in (0, 1))
                assert 16 * clear > 1.5


def test_what_the_kinds_mean():
    by_kind = {kind: _scenes(400, kind=kind) for kind in KINDS}
    assert {len(s.objects) for s in by_kind["single_object"] + by_kind["colors"]} == {1}
    assert {len(s.objects) for s in by_kind["counting"]} == {2, 3}
    assert all(len({(o.shape, o.color) for o in s.objects}) == 1 for s in by_kind["counting"])
    assert all(a.shape != b.shape for kind in ("two_object", "position") for a, b in (s.objects for s in by_kind[kind]))
    assert all(a.color != b.color for a, b in (s.objects for s in by_kind["color_attr"]))
    assert any(a.shape == b.shape for a, b in (s.objects for s in by_kind["color_attr"]))
    assert {s.relation for kind in KINDS if kind != "position" for s in by_kind[kind]} == {None}
    assert min(Counter(s.relation for s in by_kind["position"]).values()) > 60
    assert {o.shape for s in by_kind["colors"] for o in s.objects} == set(WORLD.shapes)
    assert {o.color for s in by_kind["colors"] for o in s.objects} == set(WORLD.colors)
    assert {len(make_scene(WORLD._replace(max_objects=2), 0, i, kind="counting").objects) for i in range(50)} == {2}


def test_relations_are_clear():
    """The only relation that holds, and still so when both boxes are moved by two thirds of a pixel."""
    rng = np.random.default_rng(0)
    for scene in _scenes(300, kind="position"):
        a, b = (np.array(o.box) for o in scene.objects)
        assert relations(a, b) == {scene.relation}
        for _ in range(4):
            shift = rng.choice([-1, 1], (2, 2)) * 0.66 / 16
            assert scene.relation in relations(a + np.tile(shift[0], 2), b + np.tile(shift[1], 2))


def test_chains_are_clear_and_can_be_read():
    world, seen = check(WORLD._replace(chain=3)), Counter()
    for number in range(40):
        scene = make_scene(world, 5, number, "dev", "position")
        seen[len(scene.objects)] += 1
        pairs = zip(scene.objects[:-1], scene.objects[1:], strict=True)
        assert [relations(a.box, b.box) for a, b in pairs] == [{word} for word in scene.relations]
        if len(scene.objects) > 2:
            assert len({o.shape for o in scene.objects}) == len(scene.objects) and len(set(scene.relations)) == len(scene.relations)
        asked = metadata(scene)
        assert split_of(scene) == "dev" and all(judge(draw(scene, 16), asked, world).values())
        turned = draw(scene, 16)[:, ::-1]  # mirrored, where one relation at least is another
        assert not {"left of", "right of"} & set(scene.relations) or not judge(turned, asked, world)["position"]
        assert [(found.subject, found.word, found.object) for found in read(asked["prompt"]).relations] == [
            (f"{a.color} {a.shape}", word.removesuffix(" of"), f"{b.color} {b.shape}")
            for a, word, b in zip(scene.objects[:-1], scene.relations, scene.objects[1:], strict=True)
        ]
        said = caption(scene, np.random.default_rng(number), world)
        assert len(said.split()) <= 6 + 7 * len(scene.relations) and len(read(said).relations) == len(scene.relations)
        again = scene_of(asked, world, np.random.default_rng(number))
        assert metadata(again) == asked
    assert min(seen[n] for n in (2, 3, 4)) > 5


def test_split_is_the_crc_of_the_sorted_words():
    scene = Scene("position", (RED_RING, BLUE_CROSS), "left of")
    assert canonical(scene) == "blue cross, red ring"
    assert split_of(scene) == split_of(Scene("two_object", (BLUE_CROSS, RED_RING))) == "train"  # crc32 0x853e4e88
    assert split_of(Scene("colors", (BLUE_CROSS,))) == "dev" and split_of(Scene("colors", (RED_RING._replace(color="purple"),))) == "test"
    assert canonical(Scene("counting", (RED_RING,) * 2)) == "red ring, red ring"


def test_splits_are_disjoint_across_kinds_and_all_there():
    seen = {split: set() for split in SPLITS}
    for split in SPLITS:
        for kind in KINDS:
            made = {canonical(s) for s in _scenes(80, split=split, kind=kind)}
            assert {zlib.crc32(c.encode()) % 10 for c in made} <= {"train": set(range(2, 10)), "dev": {1}, "test": {0}}[split]
            assert len(made) >= 2
            seen[split] |= made
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["dev"] and not seen["dev"] & seen["test"]


@pytest.mark.parametrize(
    "change, word",
    [
        ({"size": 15}, "size"),
        ({"size": 16.0}, "size"),
        ({"shapes": ("ring", "blob")}, "blob"),
        ({"shapes": ("ring", "ring")}, "shapes"),
        ({"colors": ("red",)}, "colors"),
        ({"max_objects": 4}, "max_objects"),
        ({"color_words": 1.1}, "color_words"),
        ({"wrong_relation": -0.1}, "wrong_relation"),
        ({"chain": 3, "shapes": ("ring", "cross", "square")}, "world.chain = 3"),
        ({"missing_relation": float("nan")}, "missing_relation"),
        ({"wrong_relation": 0.6, "missing_relation": 0.6}, "at most 1"),
    ],
)
def test_bad_worlds_are_refused(change, word):
    with pytest.raises(UserError, match=word):
        check(WORLD._replace(**change))


def test_check_takes_lists_and_all_names():
    world = check(World(shapes=list(SILHOUETTES), colors=list(COLORS)))
    assert isinstance(hash(world), int) and len(world.shapes) >= 7 and len(world.colors) >= 8


def test_bad_questions_are_refused():
    with pytest.raises(UserError, match="split"):
        make_scene(WORLD, 0, 0, split="validation")
    with pytest.raises(UserError, match="kind"):
        make_scene(WORLD, 0, 0, kind="texture")
    tiny = World(shapes=("ring", "square"), colors=("red", "black"))  # none of its four objects is held out
    with pytest.raises(UserError, match="no 'colors' scene"):
        make_scene(tiny, 0, 0, split="test", kind="colors")


AREAS = {
    "circle": np.pi,
    "ring": np.pi * (1 - 0.44**2),
    "square": 1.8**2,
    "triangle": 1.9,
    "cross": 2 * 2 * 0.64 - 0.64**2,
    "diamond": 2.0,
    "star": 0.99**2 * 10 * 0.5 * 0.42 * np.sin(np.pi / 5),  # ten triangles center, tip, valley
    "heart": (0.5 + np.pi / 8) / 0.6036**2,  # Two half discs of radius sqrt(2)/4 on a square of side sqrt(2)/2
}


@pytest.mark.parametrize("shape", AREAS)
@pytest.mark.parametrize("size", [16, 256])
def test_ink_is_the_area_of_the_silhouette(shape, size):
    """At 16 pixels, too: antialiasing keeps the area, wherever the object lies."""
    for x, y in ((0.5, 0.5), (0.52, 0.47), (0.44, 0.51)):
        picture = draw(Scene("colors", (Object(shape, "black", x, y, 0.2),)), size) / 255.0
        paper, ink = np.array(BACKGROUND) / 255.0, np.array(COLORS["black"]) / 255.0
        share = ((picture - paper) @ (ink - paper) / ((ink - paper) @ (ink - paper))).sum() / (0.2 * size) ** 2
        assert share == pytest.approx(AREAS[shape], rel=0.08 if size == 16 else 0.005)


@pytest.mark.parametrize("shape", SILHOUETTES)
def test_silhouettes_fill_their_box_and_stay_in_it(shape):
    picture = draw(Scene("colors", (Object(shape, "black", 0.5, 0.5, 0.25),)), 512)
    rows, columns = np.nonzero((picture != BACKGROUND).any(-1))
    edges = np.array([columns.min(), columns.max() + 1, rows.min(), rows.max() + 1])
    assert (np.abs(edges - np.array([128, 384] * 2)) <= 17).all()  # an eighth of the radius, for square and crescent
    assert (edges[[0, 2]] >= 127).all() and (edges[[1, 3]] <= 385).all()
    assert abs(edges[0] + edges[1] - 512) <= 3


def test_directions_and_colours():
    """x is columns, y is rows downward: the triangle's base is below, the crescent opens to the right."""
    picture = draw(Scene("two_object", (Object("triangle", "red", 0.25, 0.25, 0.2), Object("crescent", "blue", 0.75, 0.75, 0.2))), 64)
    ink = (picture != BACKGROUND).any(-1)
    assert (picture[16, 16] == COLORS["red"]).all() and (picture[48, 40] == COLORS["blue"]).all()
    assert not ink[:32, 32:].any() and not ink[32:, :32].any()
    assert ink[26].sum() > 2 * ink[8].sum() > 0
    assert ink[32:, 36:48].sum() > 1.5 * ink[32:, 49:60].sum()
    assert picture.dtype == np.uint8 and picture.shape == (64, 64, 3)


def test_every_size_shows_the_same_scene():
    """A picture of 16 pixels is about the mean of the 4x4 blocks of one of 64."""
    for scene in _scenes(60):
        small, large = draw(scene, 16) / 255.0, draw(scene, WORLD._replace(size=64)) / 255.0
        error = np.abs(small - large.reshape(16, 4, 16, 4, 3).mean((1, 3)))
        assert error.max() < 0.3 and error.mean() < 0.012


OPENING = re.compile(r"a (?:photo|picture) of |there (?:is|are) |")
THING = re.compile(rf"(an?|two|three|2|3) (?:({'|'.join(COLORS)}) )?({'|'.join(SILHOUETTES)})(?:e?s)?")
LINK = re.compile(r" (and|(?:to the )?left of|(?:to the )?right of|above|below) ")


def _read(text):
    """[(number, colour or None, shape)], link, by a grammar of its own."""
    parts = LINK.split(text[OPENING.match(text).end() :])
    things = []
    for part in parts[::2]:
        number, color, shape = THING.fullmatch(part).groups()
        things.append(({"two": 2, "2": 2, "three": 3, "3": 3}.get(number, 1), color, shape))
    return things, parts[1].removeprefix("to the ") if len(parts) > 1 else None


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_short_and_true(kind):
    rng = np.random.default_rng(0)
    texts, colored = set(), 0
    for scene in _scenes(400, kind=kind):
        text = caption(scene, rng, WORLD._replace(color_words=0.5))
        assert len(text.split()) <= 13
        things, link = _read(text)
        texts.add((OPENING.match(text)[0], link))
        assert len({color is None for _, color, _ in things}) == 1, "all the colours or none"
        colored += things[0][1] is not None
        shown = [(o.color, o.shape) for o in scene.objects]
        told = [(color or next(c for c, s in shown if s == shape), shape) for n, color, shape in things for _ in range(n)]
        assert things[0][1] is None and len(told) == len(shown) or Counter(told) == Counter(shown)
        if kind == "position":
            first, second = (next(o for o in scene.objects if o.shape == shape) for _, _, shape in things)
            assert link in relations(first.box, second.box)
        else:
            assert link == (None if kind in ("single_object", "colors", "counting") else "and")
    assert {"single_object": colored == 0, "colors": colored == 400, "color_attr": colored == 400}.get(kind, 150 < colored < 250)
    assert len(texts) >= (16 if kind == "position" else 4)


def test_shares_of_wrong_and_missing_relations():
    rng = np.random.default_rng(1)
    world = WORLD._replace(wrong_relation=0.2, missing_relation=0.3)
    fate = Counter()
    for scene in _scenes(1500, kind="position"):
        things, link = _read(caption(scene, rng, world))
        boxes = [next(o.box for o in scene.objects if o.shape == shape) for _, _, shape in things]
        fate["missing" if link == "and" else "true" if link in relations(*boxes) else "wrong"] += 1
    assert abs(fate["missing"] / 1500 - 0.3) < 0.05 and abs(fate["wrong"] / 1500 - 0.2) < 0.05
    assert "and" in caption(Scene("two_object", (RED_RING, BLUE_CROSS)), rng, world._replace(wrong_relation=1.0, missing_relation=0.0))


def test_prompts_read_like_genevals():
    assert prompt_of(Scene("position", (RED_RING, BLUE_CROSS), "left of")) == "a photo of a red ring left of a blue cross"
    assert prompt_of(Scene("single_object", (RED_RING,))) == "a photo of a ring"
    assert prompt_of(Scene("colors", (RED_RING._replace(color="orange"),)), colors=False) == "a photo of an orange ring"
    assert prompt_of(Scene("counting", (BLUE_CROSS,) * 3)) == "a photo of three blue crosses"
    assert prompt_of(Scene("two_object", (RED_RING, BLUE_CROSS)), colors=False) == "a photo of a ring and a cross"
    assert metadata(Scene("position", (RED_RING, BLUE_CROSS), "left of")) == {
        "tag": "position",
        "include": [
            {"class": "cross", "count": 1, "color": "blue"},
            {"class": "ring", "count": 1, "color": "red", "position": ["left of", 0]},
        ],
        "prompt": "a photo of a red ring left of a blue cross",
    }
    assert metadata(Scene("counting", (RED_RING,) * 2), colors=False) == {
        "tag": "counting",
        "include": [{"class": "ring", "count": 2}],
        "exclude": [{"class": "ring", "count": 3}],
        "prompt": "a photo of two rings",
    }
    assert metadata(Scene("single_object", (RED_RING,)))["include"] == [{"class": "ring", "count": 1}]


def test_prompt_lists_are_balanced_held_out_and_nested():
    asked = prompts(WORLD, 0, 60)
    assert Counter(line["tag"] for line in asked) == dict.fromkeys(KINDS, 10)
    assert prompts(WORLD, 0, 14) == asked[:14] and prompts(WORLD, 1, 60) != asked
    for line in asked[5::6]:  # color_attr names everything
        words = ", ".join(sorted(f"{e['color']} {e['class']}" for e in line["include"]))
        assert zlib.crc32(words.encode()) % 10 == 0
    assert {line["tag"] for line in prompts(WORLD, 0, 9, "dev", ("position", "colors"))} == {"position", "colors"}
    bare = prompts(WORLD._replace(color_words=0.0), 0, 60)
    assert all(("color" in line["include"][0]) == (line["tag"] in ("colors", "color_attr")) for line in bare)
    assert {line["include"][1]["position"][0] for line in prompts(WORLD, 0, 40, kinds=("position",))} == set(RELATIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_other_scenes_of_a_prompt(kind):
    """What the prompt leaves open is drawn anew, what it says stays: the metadata of the new scene are those it was made from."""
    for colors in (True, False):
        asked = metadata(make_scene(WORLD, 3, 7, kind=kind), colors)
        scenes = [scene_of(asked, WORLD, np.random.default_rng(number)) for number in range(12)]
        assert all(metadata(scene, colors) == asked for scene in scenes)
        assert len({scene.objects for scene in scenes}) == 12
        assert kind != "counting" or all(len({thing.color for thing in scene.objects}) == 1 for scene in scenes)
        assert all(judge(draw(scene, WORLD) / 127.5 - 1.0, asked, WORLD)["correct"] for scene in scenes[:2])
    assert (len({scene.objects[0].color for scene in scenes}) > 1) == ("color" not in asked["include"][0])
