"""Rows on disk, the progress line, and pictures checked pixel by pixel against what was put in."""

import io
import json
import math
import sys
import types

import numpy as np
import pytest
from PIL import Image

from anystep import logs
from anystep.errors import UserError
from anystep.logs.pictures import clean, font, wrap
from anystep.logs.plots import COLORS


def strict(line):
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_rows_survive_a_restart_after_a_cut_write(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    logs.JsonlWriter(path).write({"step": 1, "loss": 0.5})
    before = path.read_bytes()
    path.write_bytes(before + b'{"step": 2, "lo')
    assert logs.read_rows(path) == [{"step": 1, "loss": 0.5}]
    again = logs.JsonlWriter(path)
    again.write({"step": 2, "loss": 0.25, "start": True})
    assert path.read_bytes().startswith(before + b'{"step": 2, "lo')
    assert logs.read_rows(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "start": True}]
    logs.JsonlWriter(path).write({"step": 3})  # nothing to mend: no empty line
    assert b"\n\n" not in path.read_bytes() and path.read_bytes().endswith(b"\n")


def test_rows_are_on_disk_at_once_and_writers_do_not_overwrite_each_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    one, two = logs.JsonlWriter(path), logs.JsonlWriter(path)
    for step in range(6):
        (one, two)[step % 2].write({"step": step})
        assert [row["step"] for row in logs.read_rows(path)] == list(range(step + 1))


def test_row_values(tmp_path):
    import jax.numpy as jnp

    path = tmp_path / "metrics.jsonl"
    writer = logs.JsonlWriter(path)
    third, large = 1 / 3, 123456789.0
    row = {"a": np.float32(third), "b": jnp.float32(large), "n": np.int64(123456789), "bad": math.nan, "inf": jnp.inf}
    others = {"ok": True, "t": "x\ny", "z": None}
    writer.write(row | others)
    text = path.read_text()
    assert text.count("\n") == 1 and len(text.split('"a": ')[1].split(",")[0]) == len("0.333333")
    row = strict(text)
    assert abs(row["a"] - third) < 1e-6 * third and 0 < abs(row["b"] - large) < 5e-6 * large
    assert row["n"] == 123456789 and row["bad"] is None and row["inf"] is None
    assert {name: row[name] for name in others} == others and row["ok"] is True
    for nested in ({"x": 1}, [1], np.zeros(2), jnp.zeros((1, 2))):
        with pytest.raises(ValueError, match="loss"):
            writer.write({"loss": nested})
    assert path.read_text() == text


def test_event_files_only_where_asked_and_importable(tmp_path, monkeypatch):
    seen = []
    fake = types.SimpleNamespace(SummaryWriter=lambda folder: types.SimpleNamespace(add_scalar=lambda *scalar: seen.append(scalar)))
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    logs.JsonlWriter(tmp_path / "a.jsonl").write({"step": 3, "loss": 1.0})
    assert seen == []
    logs.JsonlWriter(tmp_path / "a.jsonl", also=["tensorboard"]).write({"step": 3, "loss": 1.0, "note": "text", "bad": math.nan})
    assert sorted(seen) == [("loss", 1.0, 3), ("step", 3, 3)]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        logs.JsonlWriter(tmp_path / "a.jsonl", also=["tensorboard"])
    with pytest.raises(UserError, match="unknown"):
        logs.JsonlWriter(tmp_path / "a.jsonl", also=["tensorflow"])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_file_says_a_line_every_few_seconds():
    now, out = [0.0], io.StringIO()
    progress = logs.Progress(1000, 100, batch=64, flops=2e9, peak=1e11, every=10.0, file=out, clock=lambda: now[0])
    assert progress.rates() == {}
    for step in range(101, 201):  # 5 steps a second
        now[0] += 0.2
        progress.update(step, loss=0.125)
    rates = progress.rates()
    assert rates["images_per_second"] == pytest.approx(320) and rates["utilisation"] == pytest.approx(0.1)
    lines = out.getvalue().splitlines()
    assert 2 <= len(lines) <= 3 and all("\r" not in line for line in lines)  # 20 seconds
    assert all(word in lines[-1] for word in ("/1000", "loss 0.125", "320 images/s", "10.0% of peak", "left"))
    now[0] += 1.0
    progress.update(1000)
    assert out.getvalue().splitlines()[-1].startswith("step 1000/1000 (100%)")


def test_progress_forgets_the_compilation():
    now = [0.0]
    progress = logs.Progress(10_000, batch=8, file=io.StringIO(), clock=lambda: now[0])
    now[0] = 300.0  # the first step compiles
    progress.update(1)
    assert progress.rates() == {}
    for step in range(2, 200):
        now[0] += 0.5
        progress.update(step)
        assert progress.rates()["images_per_second"] == pytest.approx(16)
    for step in range(200, 300):  # and an old pace
        now[0] += 2.0
        progress.update(step)
    assert progress.rates()["images_per_second"] == pytest.approx(4)


def test_progress_on_a_terminal_is_one_line():
    out, now = Terminal(), [0.0]
    progress = logs.Progress(50, batch=4, flops=3e12, file=out, clock=lambda: now[0])
    for step in range(1, 51):
        now[0] += 1.0
        progress.update(step, loss=2.0)
    assert "\n" not in out.getvalue()
    progress.close()
    last = out.getvalue().split("\r")[-1]
    assert "50/50" in last and "4 images/s" in last and "3 TFLOP/s" in last and out.getvalue().count("\n") == 1


def unique(n, height, width, first=0):
    """[n, height, width, 3] without two equal pixels and without the colours of the page."""
    number = first + np.arange(n * height * width).reshape(n, height, width)
    return np.stack([number % 200 + 10, number // 200 + 10, np.full_like(number, 250 - 3)], -1).astype(np.uint8)


def place_of(page, color):
    """(number, left, top, width, height) of the pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(page) == color).all(-1))
    return len(rows), columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1


def test_grid_enlarges_every_pixel_to_a_block():
    images = unique(5, 3, 4)
    page = logs.grid(images, columns=2, scale=7, captions=["a", "b " * 40, "", "d", "e"], labels=["left", "right"], title="title")
    corners = {}
    for n in range(5):
        for y, x in ((0, 0), (1, 2), (2, 3)):
            number, left, top, width, height = place_of(page, images[n, y, x])
            assert (number, width, height) == (49, 7, 7)
            corners[n] = corners.get(n, (left, top))
            assert (left - corners[n][0], top - corners[n][1]) == (7 * x, 7 * y)
    assert corners[0][1] == corners[1][1] < corners[2][1] == corners[3][1] < corners[4][1]
    assert corners[0][0] == corners[2][0] == corners[4][0] < corners[1][0] == corners[3][0]
    assert place_of(logs.grid(images[:1]), images[0, 0, 0])[0] >= 24**2  # small pictures are enlarged unasked
    assert place_of(logs.grid(unique(1, 120, 100)), unique(1, 120, 100)[0, 5, 5])[0] == 1  # large ones are not
    for bad in (images.astype(np.float32), images[..., :1], images[0], images[:0]):
        with pytest.raises(ValueError, match="uint8"):
            logs.grid(bad)


def test_strip_has_prompts_down_and_step_counts_across():
    pictures = {steps: unique(3, 4, 4, 1000 * n) for n, steps in enumerate((1, 2, 32))}
    page = logs.strip(pictures, ["one", "two " * 100, ""], scale=20)
    lefts = {steps: {place_of(page, pictures[steps][row, 0, 0])[1] for row in range(3)} for steps in pictures}
    tops = [{place_of(page, pictures[steps][row, 0, 0])[2] for steps in pictures} for row in range(3)]
    assert all(len(found) == 1 for found in [*lefts.values(), *tops])
    assert max(lefts[1]) < max(lefts[2]) < max(lefts[32]) and max(tops[0]) < max(tops[1]) < max(tops[2])
    with pytest.raises(ValueError, match="2 pictures"):
        logs.strip(pictures, ["one", "two"])


def test_hostile_text_is_drawn_as_if_it_were_not_there():
    dirty, plain = "a\u202e red\x00 \x1b[31mcir\u200bcle\u2066\r\n now\ud800", "a red [31mcircle now"
    assert clean(dirty) == plain
    images = unique(1, 8, 8)
    for page in (lambda text: logs.strip({1: images}, [text]), lambda text: logs.grid(images, captions=[text], title=text)):
        assert page(dirty).tobytes() == page(plain).tobytes()
    assert logs.strip({1: images}, ["x" * 1_000_000]).size == logs.strip({1: images}, ["x"]).size


@pytest.mark.parametrize("text", ["a red circle left of a blue square and above a green one", "W" * 90, "short", "", "no " + "i" * 300])
def test_wrap_keeps_all_text_within_the_width(text):
    face = font(14)
    whole = wrap(text, face, 120, 100)
    assert all(face.getlength(line) <= 120 for line in whole)
    assert "".join(whole).replace(" ", "") == text.replace(" ", "")
    cut = wrap(text, face, 120, 2)
    assert len(cut) <= 2 and all(face.getlength(line) <= 120 for line in cut)
    assert bool(cut and cut[-1].endswith("…")) == (len(whole) > 2)


def columns_of(page, color, rows=slice(None)):
    return np.nonzero((np.asarray(page)[rows] == color).all(-1).any(0))[0]


def test_curves_place_points_by_their_values():
    size = (500, 300)
    dot = (COLORS[0], 8)

    def center(points, **options):
        page = np.asarray(logs.curves({"one": points}, "", "", size=size, **options))
        rows, columns = np.nonzero((page == dot[0]).all(-1))
        return rows, columns

    def heights(y, error):
        rows, columns = center([(1, y, error), (2, None, None), (3, math.nan, 0.1)], ylim=(0, 1))
        return rows.min(), rows.max(), np.median(rows)

    low, middle, high = (heights(y, None)[2] for y in (0.2, 0.5, 0.8))
    assert low > middle > high and abs((low + high) / 2 - middle) <= 1
    span = (low - high) / 0.6  # pixels for 1
    top, bottom, _ = heights(0.5, 0.2)
    assert abs((bottom - top) - 0.4 * span) <= 3
    assert set(range(top + 2, bottom - 1)) <= set(center([(1, 0.5, 0.2)], ylim=(0, 1))[0])  # the bar has no holes

    def spots(xs, logx):
        found = []
        for x in xs:  # equal heights but for one: the raised dot is the highest
            rows, columns = center([(other, 0.9 if other == x else 0.1, None) for other in xs], ylim=(0, 1), logx=logx)
            found.append(np.median(columns[rows <= rows.min() + 3]))
        return found

    one, two, four = spots((1, 2, 4), True)
    assert abs((two - one) - (four - two)) <= 2
    one, two, four = spots((1, 2, 4), False)
    assert abs(2 * (two - one) - (four - two)) <= 3
    for bad, options in (({"one": [(1, None, None)]}, {}), ({}, {}), ({"one": [(0, 1, None)]}, {"logx": True})):
        with pytest.raises(ValueError, match="series"):
            logs.curves(bad, "x", "y", **options)
    logs.curves({"flat": [(5, 2.0, None)], "also flat": [(5, 2.0, 0.0)]}, "x", "y")


def test_report_picture_shows_the_whole_strip_and_every_score():
    images = {steps: unique(8, 4, 4, 200 * n) for n, steps in enumerate((1, 4))}
    strip = logs.strip(images, list("abcdefgh"))
    row = {"overall": 0.5, "overall_se": 0.1, "two_object": 0.25, "two_object_se": None, "joint": 1.0, "joint_se": 0.0}
    report = {"steps": {"1": row, "4": row | {"overall": 0.75}}}
    assert logs.score_names(report) == ["overall", "two_object", "joint"]
    page = logs.report_picture(report, strip, "title", "subtitle")
    for pictures in images.values():
        for color in pictures.reshape(-1, 3)[[0, 17, -1]]:
            assert place_of(page, color)[0] == place_of(strip, color)[0] > 0
            _, left, top, width, height = place_of(page, color)
            assert 10 < left and left + width < page.width - 10 and 10 < top and top + height < page.height - 10
    other = logs.report_picture({"steps": {"1": row, "4": row | {"overall": 0.75, "joint": 0.98}}}, strip, "title", "subtitle")
    assert other.size == page.size and other.tobytes() != page.tobytes()
    assert all((np.asarray(page) == color).all(-1).sum() > 30 for color in COLORS[1:3])


def test_save_replaces_the_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "samples" / "7.png"
    for number in (0, 500):
        image = Image.fromarray(unique(1, 9, 9, number)[0])
        logs.save(image, path)
        assert Image.open(path).format == "PNG" and Image.open(path).tobytes() == image.tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["7.png"]


def test_a_ledger_adds_up_to_the_wall_time():
    at = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    ledger = logs.Ledger(clock=lambda: next(at))
    for account in ("data", "step", "data"):
        ledger.now(account)
    row = ledger.row()
    assert row == {"seconds": 10.0, "time/data": 2.0 + 4.0, "time/start": 1.0, "time/step": 3.0}
    assert ledger.row()["time/data"] == 11.0


def test_lost_steps_move_to_their_own_account():
    at = iter([0.0, 1.0, 9.0, 9.0, 9.0])
    ledger = logs.Ledger(clock=lambda: next(at))
    ledger.now("step")
    ledger.now("restore")
    ledger.lose(0.25)
    assert ledger.row() == {"seconds": 9.0, "time/lost": 2.0, "time/restore": 0.0, "time/start": 1.0, "time/step": 6.0}
