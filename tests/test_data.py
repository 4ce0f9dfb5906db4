"""Streams: the same rows in every topology and after every restart; pictures of every kind at the right colour and place."""

import io
import json
import random
import struct
import time
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anystep.data import describe, make_stream
from anystep.data.sources import ring
from anystep.errors import UserError
from anystep.shapes.draw import draw
from anystep.shapes.scene import World, make_scene, split_of

SHAPES = SimpleNamespace(
    kind="shapes", size=16, shapes=("circle", "square", "ring"), colors=("red", "blue", "green"), max_objects=2,
    color_words=1.0, wrong_relation=0.0, missing_relation=0.0,
)  # fmt: skip
MIXTURE = SimpleNamespace(kind="mixture2d", size=1, modes=5)


def pictures(path, **changes):
    plain = {"kind": "pictures", "size": 4, "path": str(path), "style_captions": False, "dev_share": 0.0, "background": "white"}
    return SimpleNamespace(**plain | changes)


def texts(captions):
    """In the place of a tokenizer: the captions themselves."""
    return np.array(captions)


def crc(captions):
    return np.array([zlib.crc32(caption.encode()) & 0x7FFFFFFF for caption in captions], np.int32)


def take(stream, count):
    return [next(stream) for _ in range(count)]


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


def show(path, size=4, **changes):
    """x0 of the only picture at `path`, in 0 to 255."""
    return (next(make_stream(pictures(path, size=size, **changes), crc, 0, 1))["x0"][0] + 1.0) * 127.5


def put(tmp_path, picture, name, **options):
    picture.save(tmp_path / name, **options)
    (tmp_path / name).with_suffix(".txt").write_text("a picture")
    return tmp_path


PALETTE = Image.new("P", (8, 8), 1)
PALETTE.putpalette([0, 0, 0, 200, 100, 50])
GREY16 = Image.fromarray(np.full((8, 8), 200 * 256 + 17, np.uint16))
CASES = {
    "1.png": (Image.new("1", (8, 8), 1), {}, (255, 255, 255), 0),
    "l.png": (Image.new("L", (8, 8), 77), {}, (77, 77, 77), 0),
    "la.png": (Image.new("LA", (8, 8), (100, 51)), {}, (224, 224, 224), 1),
    "rgb.png": (Image.new("RGB", (8, 8), (9, 80, 250)), {}, (9, 80, 250), 0),
    "rgba.png": (Image.new("RGBA", (8, 8), (0, 100, 200, 51)), {}, (204, 224, 244), 1),
    "trns.png": (Image.new("RGB", (8, 8), (9, 80, 250)), {"transparency": (9, 80, 250)}, (255, 255, 255), 0),
    "p.png": (PALETTE, {}, (200, 100, 50), 0),
    "pt.png": (PALETTE, {"transparency": 1}, (255, 255, 255), 0),
    "p.gif": (PALETTE, {}, (200, 100, 50), 0),
    "i16.png": (GREY16, {}, (200, 200, 200), 0),
    "i16.tiff": (GREY16, {}, (200, 200, 200), 0),
    "cmyk.jpg": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), {"quality": 100}, (255, 0, 0), 6),
    "cmyk.tiff": (Image.new("CMYK", (8, 8), (255, 0, 255, 0)), {}, (0, 255, 0), 6),
    "rgb.jpg": (Image.new("RGB", (8, 8), (9, 80, 250)), {"quality": 100}, (9, 80, 250), 3),
    "rgb.webp": (Image.new("RGB", (8, 8), (9, 80, 250)), {"lossless": True}, (9, 80, 250), 0),
    "animated.gif": (PALETTE, {"save_all": True, "append_images": [Image.new("RGB", (8, 8), (1, 2, 3))]}, (200, 100, 50), 0),
    "dot.png": (Image.new("RGB", (1, 1), (9, 80, 250)), {}, (9, 80, 250), 0),
    "thread.png": (Image.new("RGB", (3000, 1), (9, 80, 250)), {}, (9, 80, 250), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_flat_picture_of_any_mode_keeps_its_colour_on_white(name, tmp_path):
    picture, options, color, near = CASES[name]
    np.testing.assert_allclose(show(put(tmp_path, picture, name, **options)), np.broadcast_to(color, (4, 4, 3)), atol=near + 1e-3)


def test_exif_turns_the_picture(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    exif = Image.Exif()
    exif[274] = 6  # the camera was held so that the picture must turn a quarter clockwise
    put(tmp_path, Image.fromarray(pixels), "turned.png", exif=exif)
    np.testing.assert_allclose(show(tmp_path), np.rot90(pixels, -1), atol=1e-3)


def test_the_centre_square_is_cut_out(tmp_path):
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = np.arange(48).reshape(4, 4, 3)
    pixels[:, 8:] = 255
    np.testing.assert_allclose(show(put(tmp_path, Image.fromarray(pixels), "wide.png")), pixels[:, 4:8], atol=1e-3)


def test_hidden_colours_do_not_bleed(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:] = (255, 0, 0, 0)  # red that nobody may see
    pixels[:, :27] = (0, 0, 255, 255)
    seen = show(put(tmp_path, Image.fromarray(pixels, "RGBA"), "half.png"))
    assert np.abs(seen[..., 0] - seen[..., 1]).max() < 2.0  # blue over white: red and green are equal everywhere
    assert seen[..., 2].min() > 253.0
    assert 10.0 < seen[0, 1, 0] < 245.0  # the column that the edge crosses


def test_a_random_background_shows_only_where_the_picture_is_clear(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (10, 20, 30, 255)
    put(tmp_path, Image.fromarray(pixels, "RGBA"), "x.png")
    stream = make_stream(pictures(tmp_path, background="random"), crc, 0, 400)
    seen = (next(stream)["x0"] + 1.0) * 127.5
    np.testing.assert_allclose(seen[:, :2], np.broadcast_to((10, 20, 30), (400, 2, 4, 3)), atol=1e-3)
    np.testing.assert_allclose(seen[:, 2:], np.broadcast_to(seen[:, 2:3, :1], (400, 2, 4, 3)), atol=1e-3)
    colors = seen[:, 3, 3]
    assert np.abs(colors.mean(0) - 127.5).max() < 5 * 256 / np.sqrt(12 * 400) and np.abs(np.corrcoef(colors.T)[0, 1:]).max() < 0.25


def png_header(width, height):
    """A PNG that announces a size and carries nothing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width, height", [(8193, 1), (1, 8193), (8001, 8000), (30000, 30000)])
def test_a_bomb_is_refused_by_its_header(tmp_path, width, height):
    (tmp_path / "bomb.png").write_bytes(png_header(width, height))
    (tmp_path / "bomb.txt").write_text("boom")
    start = time.process_time()
    with pytest.raises(UserError, match=r"bomb\.png.*(allowed are 8192 a side|exceeds limit)"):
        show(tmp_path)
    assert time.process_time() - start < 0.5


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_are_user_errors_that_name_the_file(tmp_path):
    dice = random.Random(0)
    sound = {}
    for suffix in ("png", "jpg", "gif", "webp", "tiff", "bmp"):
        file = io.BytesIO()
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8))
        picture.save(file, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
        sound[suffix] = file.getvalue()
    refused = 0
    for number in range(240):
        suffix = list(sound)[number % len(sound)]
        data = bytearray(sound[suffix])
        for _ in range(1 + number % 5):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if number % 4 == 0:
            data = data[: dice.randrange(len(data))]
        path = tmp_path / f"x{number}.{suffix}"
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(str(number))
    stream = make_stream(pictures(tmp_path), texts, 0, 1, threads=0)
    for number in range(240):
        stream.set_state({"next_index": number})
        try:
            assert np.isfinite(next(stream)["x0"]).all()
        except UserError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 40


def test_only_the_common_formats_are_decoded(tmp_path):
    for disguised in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", pcx()):
        (tmp_path / "x.png").write_bytes(disguised)
        (tmp_path / "x.txt").write_text("x")
        with pytest.raises(UserError, match=r"x\.png: not a readable picture"):
            show(tmp_path)


def pcx():
    """A sound picture of a format that is not asked for."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PCX")
    return file.getvalue()


@pytest.mark.parametrize(
    "rows, message",
    [
        ('{"file_name": "../secret.png", "text": "a"}', "must stay inside"),
        ('{"file_name": "/etc/passwd", "text": "a"}', "must stay inside"),
        ('{"file_name": "none.png", "text": "a"}', r"jsonl:1: none\.png is not there"),
        ('{"file_name": "a.png"}', r"jsonl:1: no caption"),
        ('{"file_name": "a.png", "text": 5}', "must be a text"),
        ('{"text": "a"}', "no file_name"),
        ('{"file_name": "a.png", "text": "a"}\n{"file', r"jsonl:2: not JSON"),
        ("[1]", "no file_name"),
    ],
)
def test_bad_listings_are_refused_with_file_and_line(tmp_path, rows, message):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(rows)
    with pytest.raises(UserError, match=message):
        make_stream(pictures(tmp_path), crc, 0, 1)


def test_listings_of_both_kinds(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, grey in (("a.png", 10), ("sub/b.png", 200)):
        Image.new("L", (4, 4), grey).save(tmp_path / name)
    wanted = {10: "a dog, red", 200: "a cat\u202e"}
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a dog, red"\nsub/b.png,a cat\u202e\n', encoding="utf-8")
    assert captions_by_grey(tmp_path) == wanted
    (tmp_path / "metadata.csv").unlink()
    rows = [{"file_name": "a.png", "text": "a dog,\0 red"}, {"file_name": "sub/b.png", "text": ["a cat\u202e"]}]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert captions_by_grey(tmp_path) == wanted


LISTED = "\ufeff" + "\r\n".join(  # as Windows writes it; JSON allows these three unescaped in a string
    [
        '{"file_name": "a.png", "text": "one\u2028two"}',
        '{"file_name": "b.png", "text": "three\u0085four\u2029five"}',
        "",
    ]
)


def test_lines_of_json_end_at_newlines_only(tmp_path):
    for name, grey in (("a.png", 10), ("b.png", 200)):
        Image.new("L", (4, 4), grey).save(tmp_path / name)
    (tmp_path / "metadata.jsonl").write_bytes(LISTED.encode())
    wanted = {10: "one two", 200: "three four five"}
    assert captions_by_grey(tmp_path) == wanted
    np.savez(tmp_path / "x.npz", images4=np.full((2, 4, 4, 3), [[[[10]]], [[[200]]]], np.uint8))
    (tmp_path / "x.jsonl").write_bytes(LISTED.encode())
    assert captions_by_grey(tmp_path / "x.npz") == wanted


def captions_by_grey(path, batch=2, **changes):
    rows = next(make_stream(pictures(path, **changes), texts, 0, batch))
    return {round((float(x[0, 0, 0]) + 1.0) * 127.5): str(text) for x, text in zip(rows["x0"], rows["cond"]["tokens"], strict=True)}


def test_monstrous_captions_are_cut(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe word" * 200000)
    caption = str(next(make_stream(pictures(tmp_path), texts, 0, 1))["cond"]["tokens"][0])
    assert 900 < len(caption) <= 1000 and "\n" not in caption


def test_packs_give_the_nearest_size_and_composite_alpha(tmp_path):
    grey = {size: np.full((3, size, size, 3), size, np.uint8) for size in (8, 16, 32)}
    np.savez(tmp_path / "rgb.npz", images8=grey[8], images16=grey[16], images32=grey[32], text=np.array(["a", "b", "c"]))
    for size, taken in ((4, 8), (8, 8), (11, 8), (12, 16), (17, 16), (24, 32), (64, 32)):
        np.testing.assert_allclose(show(tmp_path / "rgb.npz", size), np.full((size, size, 3), taken), atol=1e-3)
    rgba = np.zeros((1, 4, 4, 4), np.uint8)
    rgba[:] = (0, 100, 200, 51)  # a fifth of the colour, four fifths of white
    np.savez(tmp_path / "rgba.npz", rgba4=rgba, object=np.array(["a"]))
    np.testing.assert_allclose(show(tmp_path / "rgba.npz"), np.broadcast_to((204, 224, 244), (4, 4, 3)), atol=1.01)


def test_styles_come_from_the_pack_or_its_name(tmp_path):
    np.savez(tmp_path / "emoji_noto.npz", images=np.full((1, 4, 4, 3), 10, np.uint8), name=np.array(["cat"]))
    np.savez(
        tmp_path / "sprites.npz", images=np.full((2, 4, 4, 3), [[[[20]]], [[[30]]]], np.uint8), object=np.array(["dog", "cow"]),
        style=np.array(["flat", "round"]),
    )  # fmt: skip
    assert captions_by_grey(tmp_path, 3, style_captions=True) == {10: "cat, noto", 20: "dog, flat", 30: "cow, round"}


def test_captions_beside_a_pack_must_be_its_own(tmp_path):
    np.savez(tmp_path / "x.npz", images4=np.zeros((2, 4, 4, 3), np.uint8), id=np.array([7, 8]))
    rows = [{"id": 7, "captions": ["a", "b"]}, {"id": 8, "captions": ["c"]}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    seen = {str(text) for batch in take(make_stream(pictures(tmp_path / "x.npz"), texts, 0, 2), 12) for text in batch["cond"]["tokens"]}
    assert seen == {"a", "b", "c"}
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows[::-1])))
    with pytest.raises(UserError, match="its ids are not those of the pack"):
        make_stream(pictures(tmp_path / "x.npz"), texts, 0, 2)
    (tmp_path / "x.jsonl").write_text(json.dumps({"captions": ["a"]}))
    with pytest.raises(UserError, match="2 pictures but captions for 1"):
        make_stream(pictures(tmp_path / "x.npz"), texts, 0, 2)
    (tmp_path / "x.jsonl").unlink()
    with pytest.raises(UserError, match=r"no captions.*x\.jsonl"):
        make_stream(pictures(tmp_path / "x.npz"), texts, 0, 2)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"text": np.array(["a"])}, "no pictures"),
        ({"images": np.zeros((1, 4, 4, 3), np.float32), "text": np.array(["a"])}, r"float32 \[1, 4, 4, 3\], must be uint8"),
        ({"images": np.zeros((1, 4, 4), np.uint8), "text": np.array(["a"])}, "must be uint8"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8), "text": np.array(["a", "b"])}, "1 pictures but captions for 2"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8), "text": np.array([" "])}, "picture 0 has no caption"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8), "text": np.array([3])}, "must be texts"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8), "text": np.array(["a", None], object)}, "not a readable .npz of plain arrays"),
    ],
)
def test_bad_packs_are_refused_in_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        make_stream(pictures(tmp_path / "x.npz"), crc, 0, 1)
    assert "x.npz" in str(caught.value) and "\n" not in str(caught.value)


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
        (lambda: make_stream(pictures(tmp_path / "none"), crc, 0, 4), "data.path = .*none.*exists"),
        (lambda: make_stream(pictures(tmp_path / "x.npz.txt"), crc, 0, 4), "must be a folder of pictures or an .npz pack"),
        (lambda: make_stream(pictures(tmp_path / "broken.npz"), crc, 0, 4), "broken.npz: not a readable"),
        (lambda: make_stream(pictures(empty), crc, 0, 4), "neither metadata.jsonl"),
        (lambda: make_stream(pictures(folder), crc, 0, 4, split="dev"), "data.dev_share = 0.0: none of the 10"),
        (lambda: make_stream(pictures(folder, style_captions=True), crc, 0, 4), "data.style_captions"),
        (lambda: make_stream(pictures(folder, background="black"), crc, 0, 4), "data.background = 'black'"),
    ):
        with pytest.raises(UserError, match=message):
            call()
