"""Albums: records and TFDS beside folders and packs, mixed by weight; what cannot be read is noted, replaced and, if too much, the end."""

import io
import json
import struct
import sys

import numpy as np
import pytest
from folders import crc, pictures, take, texts
from PIL import Image

from anystep.data import describe, make_stream, write_records
from anystep.data.records import open_records, texts_of
from anystep.errors import UserError


def png(value, size=(6, 5)):
    file = io.BytesIO()
    Image.new("L", size, value).save(file, "PNG")
    return file.getvalue()


def grey(batch):
    return np.rint((batch["x0"][:, 0, 0, 0] + 1.0) * 127.5).astype(int)


@pytest.fixture
def folder(tmp_path):
    """Forty grey pictures, number k of brightness 5 k; numbers 3 and 17 are no pictures."""
    place = tmp_path / "pictures"
    place.mkdir()
    rows = []
    for k in range(40):
        (place / f"{k:02}.png").write_bytes(b"no picture" if k in (3, 17) else png(5 * k))
        rows.append(json.dumps({"file_name": f"{k:02}.png", "text": f"number {k}"}))
    (place / "metadata.jsonl").write_text("\n".join(rows))
    return place


def test_bad_pictures_are_noted_and_replaced(folder, tmp_path):
    data, note = pictures(folder, most_bad=0.05), tmp_path / "run" / "quarantine.jsonl"
    batches = take(make_stream(data, texts, 0, 10, quarantine=note), 8)
    for batch in batches:
        assert [f"number {value // 5}" for value in grey(batch)] == batch["cond"]["tokens"].tolist()
    seen = np.concatenate([grey(batch) for batch in batches]) // 5
    assert not {3, 17} & set(seen) and len(set(seen)) == 38 and len(seen) == 80
    lines = [json.loads(line) for line in note.read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == [f"{folder}: 03.png", f"{folder}: 17.png"] and all(
        "not a readable picture" in line["why"] for line in lines
    )
    again = take(make_stream(data, texts, 0, 10, 0, 1, threads=1), 8)
    assert all((a["x0"] == b["x0"]).all() for a, b in zip(batches, again, strict=True))  # what comes instead hangs on the position alone
    late = make_stream(data, texts, 0, 10, quarantine=note)
    late.set_state({"next_index": 5})
    assert (next(late)["x0"] == batches[5]["x0"]).all() and len(note.read_text().splitlines()) == 2  # an earlier start's count


def test_too_many_bad_pictures_end_the_stream(folder):
    with pytest.raises(
        UserError, match=r"2 of 40 pictures cannot be used, more than config\.data\.most_bad = 0\.03 allows; the last: .*png"
    ):
        take(make_stream(pictures(folder, most_bad=0.03), crc, 0, 10), 8)


def test_bad_rows_of_a_listing_count_too(folder, tmp_path):
    with (folder / "metadata.jsonl").open("a") as listing:
        listing.write('\n{"file_name": "../secret.png", "text": "x"}\nno json\n{"file_name": "00.png"}')
    note = tmp_path / "quarantine.jsonl"
    stream = make_stream(pictures(folder, most_bad=0.2), crc, 0, 10, quarantine=note)
    said = [json.loads(line)["why"] for line in note.read_text().splitlines()]
    assert len(said) == 3 and "must stay inside" in said[0] and "not JSON" in said[1] and "no caption" in said[2]
    take(stream, 4)
    with pytest.raises(UserError, match="3 of 43 pictures cannot be used"):
        describe(pictures(folder, most_bad=0.06))


@pytest.fixture
def records(tmp_path):
    file = tmp_path / "some.array_record"
    write_records(file, [(png(100 + k), [f"one {k}", f"other {k}"]) for k in range(20)])
    return file


def test_records_are_read_as_written(records):
    batch = next(make_stream(pictures(records), texts, 0, 20))
    assert sorted(grey(batch)) == list(range(100, 120))
    for value, text in zip(grey(batch), batch["cond"]["tokens"], strict=True):
        assert text in (f"one {value - 100}", f"other {value - 100}")
    assert describe(pictures(records))["pictures"] == 20 == describe(pictures(records.parent))["pictures"]


@pytest.mark.parametrize(
    "record, part",
    [
        (b"", "not a record"),
        (b"\xff\xff\xff\xff{}", "its header says 4,294,967,295 bytes"),
        (struct.pack(">I", 2) + b"[]", "no JSON object"),
        (struct.pack(">I", 3) + b"{} ", "no caption"),
        (struct.pack(">I", 18) + b'{"captions": ["a"]}', "not a record"),
        (struct.pack(">I", 19) + b'{"captions": ["a"]}' + b"no picture", "not a readable picture"),
        (struct.pack(">I", 17) + b'{"captions": [1]}' + png(1), "must be a text"),
    ],
)
def test_hostile_records_are_refused(tmp_path, record, part):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    writer.write(record)
    writer.close()
    _, row = open_records([tmp_path / "x.array_record"], 4)
    with pytest.raises(UserError, match=part):
        row(0)


def test_a_damaged_record_file_is_refused(tmp_path, records):
    data = records.read_bytes()
    for number, broken in enumerate((b"", b"x" * 100, data[: len(data) // 2])):
        (tmp_path / f"{number}.array_record").write_bytes(broken)
        with pytest.raises(UserError, match="not readable as ArrayRecord"):
            describe(pictures(tmp_path / f"{number}.array_record"))


def test_albums_are_mixed_by_weight(folder, records):
    data = pictures(folder, weights=(1.0, 3.0), most_bad=0.2)
    data.path += (str(records),)
    batches = take(make_stream(data, texts, 0, 50), 16)
    share = np.mean([text.startswith(("one", "other")) for batch in batches for text in batch["cond"]["tokens"]])
    assert abs(share - 0.75) < 3 * np.sqrt(0.75 * 0.25 / 800)
    halves = [take(make_stream(data, texts, 0, 50, p, 2), 16) for p in range(2)]
    for whole, *parts in zip(batches, *halves, strict=True):
        assert (whole["x0"] == np.concatenate([part["x0"] for part in parts])).all()
    assert describe(data)["pictures"] == 60
    with pytest.raises(UserError, match=r"data\.weights = \(1\.0,\): must be 2 numbers"):
        data.weights = (1.0,)
        describe(data)


def test_a_tfds_data_set_with_labels():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=7):
        data = pictures("tfds:mnist/test", size=8)
        assert describe(data)["pictures"] == 7
        batch = next(make_stream(data, texts, 0, 7))
    assert batch["x0"].shape == (7, 8, 8, 3) and np.ptp(batch["x0"]) > 0.5 and set(batch["cond"]["tokens"]) <= set("0123456789")
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name, part", [("tfds:no_such_set", "cannot be opened"), ("tfds:", "tfds:")])
def test_tfds_names_that_do_not_do(name, part):
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=3), pytest.raises(UserError, match=part):
        describe(pictures(name))


@pytest.mark.parametrize(
    "found, expected",
    [
        ({"caption": b"a caf\xc3\xa9"}, {"caption": ["a café"]}),
        ({"captions": {"text": np.array([b"one", b"two"], object), "id": np.arange(2)}}, {"captions": ["one", "two"]}),
        ({"text": "plain"}, {"text": ["plain"]}),
    ],
)
def test_captions_of_tfds_records(found, expected):
    assert texts_of(found) == expected
