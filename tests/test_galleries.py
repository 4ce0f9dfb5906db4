"""Folders of pictures: names that file systems take, rows that GenEval's script can read, nothing written twice."""

import numpy as np
import pytest

from anystep import galleries
from anystep.errors import UserError

ROW = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


@pytest.mark.parametrize("prompt", ["", "..", "a/b", "../../etc/passwd", "x" * 1000, "日" * 500, "a\x1bb\nc", "a_b", "a" * 237 + "é"])
def test_any_prompt_makes_a_file_name(tmp_path, prompt):
    place = tmp_path / galleries.name("t2i_compbench", prompt, 0, 3, 10)
    assert galleries.write(tmp_path, "t2i_compbench", [prompt], 4, lambda some, *_: np.zeros((len(some), 4, 4, 3), np.uint8), 8) == 0
    assert place.exists() and place.parent == tmp_path / "samples" and len(list(place.parent.iterdir())) == 4
    said, number = place.stem.split("_")  # as the script reads them
    assert number == "000003" and prompt.startswith(said[:2].replace(" ", "")[:1]) and len(place.name.encode()) <= 255


def test_numbers_count_all_pictures():
    names = [galleries.name("t2i_compbench", "a", row, number, 3) for row in range(3) for number in range(3)]
    assert names == [f"samples/a_{i:06d}.png" for i in range(9)]
    assert galleries.name("geneval", "a/b", 552, 3, 4) == "00552/samples/0003.png"


@pytest.mark.parametrize(
    "change", [{"tag": 3}, {"include": {}}, {"include": ["bench"]}, {"include": [{"class": "bench"}]}, {"include": None}]
)
def test_geneval_needs_its_metadata(change):
    galleries.check("geneval", [ROW])
    galleries.check("t2i_compbench", [ROW | change])
    with pytest.raises(UserError, match=r"--export geneval: prompt 2 \('a photo of a bench'\) has no \"tag\" and \"include\""):
        galleries.check("geneval", [ROW, ROW | change])


def test_a_picture_that_is_there_is_not_drawn_again(tmp_path):
    calls = []

    def draw(prompts, first, number):
        calls.append((prompts, first, number))
        return np.zeros((len(prompts), 4, 4, 3), np.uint8)

    assert galleries.write(tmp_path, "geneval", ["a", "b", "c"], 2, draw, 2) == 0
    assert calls == [(["a", "b"], 0, 0), (["c"], 2, 0), (["a", "b"], 0, 1), (["c"], 2, 1)]
    calls.clear()
    (tmp_path / "00001" / "samples" / "0001.png").unlink()
    kept = (tmp_path / "00000" / "samples" / "0001.png").stat().st_mtime_ns
    assert galleries.write(tmp_path, "geneval", ["a", "b", "c"], 2, draw, 2) == 5 and calls == [(["a", "b"], 0, 1)]
    assert (tmp_path / "00000" / "samples" / "0001.png").stat().st_mtime_ns == kept
