"""Streams: the same rows in every topology and after every restart."""

import json
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
from folders import crc, pictures, take, texts
from PIL import Image

from anystep.data import describe, make_stream
from anystep.data.sources import ring
from anystep.errors import UserError
from anystep.shapes.draw import draw
from anystep.shapes.scene import World, make_scene, split_of

SHAPES = SimpleNamespace(
    kind="shapes", size=16, shapes=("circle", "square", "ring"), colors=("red", "blue", "green"), max_objects=2,
    color_words=1.0, wrong_relation=0.0, missing_relation=0.0, chain=1,
)  # fmt: skip
MIXTURE = SimpleNamespace(kind="mixture2d", size=1, modes=5)


def same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_array_equal(a["x0"], b["x0"])
        np.testing.assert_array_equal(a["cond"]["tokens"], b["cond"]["tokens"])


@pytest.fixture
def folder(tmp_path):
    """Ten grey pictures, number k of brightness 20 k, with two captions each."""
    for k in range(10):
        Image.new("L", (6, 5), 20 * k).save(tmp_path / f"p{k}.png")
        (tmp_path / f"p{k}.txt").write_text(f"number {k}\n\npicture {k}\n")
    return tmp_path


def which(batch):
    """The number of each picture of the fixture, read off its brightness."""
    return np.rint((batch["x0"][:, 0, 0, 0] + 1.0) * 127.5 / 20).astype(int)


@pytest.mark.parametrize("kind", ["shapes", "mixture2d", "pictures"])
def test_the_global_batch_is_the_same_for_every_number_of_processes(kind, folder):
    data = {"shapes": SHAPES, "mixture2d": MIXTURE, "pictures": pictures(folder, background="random")}[kind]
    whole = take(make_stream(data, crc, 3, 8), 3)
    for count in (2, 4):
        parts = [take(make_stream(data, crc, 3, 8, p, count), 3) for p in range(count)]
        joined = [
            {
                "x0": np.concatenate([part[n]["x0"] for part in parts]),
                "index": np.concatenate([part[n]["index"] for part in parts]),
                "cond": {"tokens": np.concatenate([part[n]["cond"]["tokens"] for part in parts])},
            }
            for n in range(3)
        ]
        same(whole, joined)


def test_a_batch_is_what_the_contract_says(folder):
    for data, shape in ((SHAPES, (16, 16, 3)), (MIXTURE, (1, 1, 2)), (pictures(folder), (4, 4, 3))):
        batches = take(make_stream(data, crc, 0, 6), 4)
        assert describe(data)["shape"] == shape
        for batch in batches:
            assert set(batch) == {"x0", "index", "cond"} and set(batch["cond"]) == {"tokens"}
            assert batch["x0"].shape == (6, *shape) and batch["x0"].dtype == np.float32
            assert np.abs(batch["x0"]).max() <= 1.0
            assert batch["index"].dtype == np.int32
        np.testing.assert_array_equal(np.concatenate([batch["index"] for batch in batches]), np.arange(24))


def test_a_fresh_stream_goes_on_from_every_state_across_the_end_of_an_epoch(folder):
    data = pictures(folder, background="random")
    truth = take(make_stream(data, crc, 1, 4), 9)  # 36 samples of 10 pictures: epochs end inside and between batches
    stream = make_stream(data, crc, 1, 4)
    for offset in range(8):
        state = json.loads(json.dumps(stream.get_state()))
        fresh = make_stream(data, crc, 1, 4)
        fresh.set_state(state)
        same(truth[offset:], take(fresh, 9 - offset))
        next(stream)


def test_threads_change_nothing(folder):
    dice = random.Random(0)

    def slow(captions):
        time.sleep(dice.random() * 0.02)
        return crc(captions)

    truth = take(make_stream(pictures(folder), crc, 1, 4, threads=0), 12)
    same(truth, take(make_stream(pictures(folder), slow, 1, 4, threads=4), 12))


def test_every_epoch_holds_every_picture_once_in_a_new_order(folder):
    def epochs(seed):
        seen = np.concatenate([which(batch) for batch in take(make_stream(pictures(folder), crc, seed, 5), 6)])
        return seen.reshape(3, 10)

    orders = [tuple(order) for seed in (0, 1) for order in epochs(seed)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(orders)) == 6


def test_captions_belong_to_their_picture_and_all_are_used(folder):
    seen = set()
    for batch in take(make_stream(pictures(folder), texts, 0, 10), 8):
        for number, caption in zip(which(batch), batch["cond"]["tokens"], strict=True):
            assert caption in (f"number {number}", f"picture {number}")
            seen.add(str(caption))
    assert len(seen) == 20


def test_dev_pictures_are_never_trained_on_and_stay_when_others_come(folder):
    def numbers(split):
        batches = take(make_stream(pictures(folder, dev_share=0.5), crc, 0, 5, split=split), 8)
        return set(np.concatenate([which(batch) for batch in batches]))

    train, dev = numbers("train"), numbers("dev")
    assert train and dev and not train & dev and train | dev == set(range(10))
    assert describe(pictures(folder, dev_share=0.5))["pictures"] == len(train)
    for k in range(5):
        (folder / f"p{k}.png").unlink()
    assert numbers("dev") == {k for k in dev if k >= 5}


def test_the_dev_share_is_the_share_asked_for(tmp_path):
    names = np.array([f"thing {k}" for k in range(4000)])
    np.savez(tmp_path / "x.npz", images=np.zeros((4000, 1, 1, 3), np.uint8), name=names)
    held = describe(pictures(tmp_path / "x.npz", size=1, dev_share=0.1), "dev")["pictures"]
    assert abs(held - 400) < 5 * np.sqrt(4000 * 0.1 * 0.9)


def test_shapes_are_the_scenes_of_their_positions_and_never_held_out():
    world = World(16, SHAPES.shapes, SHAPES.colors, 2)
    batch = take(make_stream(SHAPES, texts, 5, 32), 2)[1]
    for row, position in enumerate(range(32, 64)):
        scene = make_scene(world, 5, position, "train")
        assert split_of(scene) == "train"
        np.testing.assert_allclose((batch["x0"][row] + 1.0) * 127.5, draw(scene, 16), atol=1e-4)
        assert any(thing.shape in batch["cond"]["tokens"][row] for thing in scene.objects)
    held = [make_scene(world, 5, position, "dev") for position in range(4)]
    dev = next(make_stream(SHAPES, texts, 5, 4, split="dev"))
    np.testing.assert_allclose((dev["x0"] + 1.0) * 127.5, [draw(scene, 16) for scene in held], atol=1e-4)


def test_the_mixture_has_the_moments_of_its_closed_form():
    points, modes = [], []
    for batch in take(make_stream(MIXTURE, texts, 0, 500), 8):
        points.append(batch["x0"][:, 0, 0])
        modes += [int(caption.split()[1]) for caption in batch["cond"]["tokens"]]
    points, modes = np.concatenate(points), np.array(modes)
    for k in range(5):
        mine = points[modes == k]
        assert abs(len(mine) - 800) < 5 * np.sqrt(4000 * 0.2 * 0.8)
        center = 0.7 * np.array([np.cos(2 * np.pi * k / 5), np.sin(2 * np.pi * k / 5)])
        np.testing.assert_allclose(ring(5)[k], center, atol=1e-12)
        assert np.abs(mine.mean(0) - center).max() < 5 * 0.05 / np.sqrt(len(mine))
        np.testing.assert_allclose(np.cov(mine.T), 0.05**2 * np.eye(2), atol=5 * 0.05**2 * np.sqrt(2 / len(mine)))


def test_bad_requests_are_refused(tmp_path_factory, folder):
    tmp_path = tmp_path_factory.mktemp("bad")
    (tmp_path / "x.npz.txt").write_text("no pack")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 but no more")
    empty = tmp_path / "empty"
    empty.mkdir()
    for call, message in (
        (lambda: make_stream(MIXTURE, crc, -1, 4), r"seed = -1: must be in \[0, 2\^32\)"),
        (lambda: make_stream(MIXTURE, crc, 0, 6, 0, 4), "data.batch = 6: must be a positive multiple of the 4"),
        (lambda: make_stream(SimpleNamespace(kind="audio"), crc, 0, 4), "data.kind = 'audio': must be among"),
        (lambda: make_stream(MIXTURE, crc, 0, 4, split="test"), "split = 'test'"),
        (lambda: make_stream(pictures(""), crc, 0, 4), "data.path = ''"),
        (lambda: make_stream(pictures(tmp_path / "none"), crc, 0, 4), "data.path = .*none.*must be a folder of pictures"),
        (lambda: make_stream(pictures(tmp_path / "x.npz.txt"), crc, 0, 4), "must be a folder of pictures, an .npz pack"),
        (lambda: make_stream(pictures(tmp_path / "broken.npz"), crc, 0, 4), "broken.npz: not a readable"),
        (lambda: make_stream(pictures(empty), crc, 0, 4), "neither metadata.jsonl"),
        (lambda: make_stream(pictures(folder), crc, 0, 4, split="dev"), "data.dev_share = 0.0: none of the 10"),
        (lambda: make_stream(pictures(folder, style_captions=True), crc, 0, 4), "data.style_captions"),
        (lambda: make_stream(pictures(folder, background="black"), crc, 0, 4), "data.background = 'black'"),
    ):
        with pytest.raises(UserError, match=message):
            call()
