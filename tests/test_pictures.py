"""Folders and packs of pictures: of every kind at the right colour and place, with their own captions; damaged ones refused by name."""

import io
import json
import random
import struct
import time
import zlib

import numpy as np
import pytest
from folders import crc, pictures, take, texts
from PIL import Image

from anystep.data import make_stream
from anystep.errors import UserError


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
