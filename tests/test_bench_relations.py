"""The multi-relation benchmark: prompts of every template, and pictures that were placed by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from anystep import shapes
from anystep.bench import relations
from anystep.errors import UserError
from anystep.positions import Detection, geneval
from anystep.relations import read

FORMS = {"2o1r": "0-1", "3o2r": "0-1 1-2", "4o2r": "0-1 2-3", "4o3r": "0-1 1-2 2-3", "5o3r": "0-1 1-2 3-4"}  # who stands to whom


def test_prompts_of_every_template(tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    relations.main(["--write", str(file), "--prompts", "20"])
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert capsys.readouterr().out == f"{file}: 100 prompts of {', '.join(FORMS)}\n" and len({row["prompt"] for row in rows}) == 100
    for number, row in enumerate(rows):
        form = FORMS[row["tag"]]
        assert row["tag"] == list(FORMS)[number // 20] and row["prompt"].startswith("a photo of a ")
        assert [list(relation[:3]) for relation in read(row["prompt"]).relations] == row["relations"] and row["version"] == 2
        order = list(dict.fromkeys(name for subject, _, thing in row["relations"] for name in (subject, thing)))
        assert " ".join(f"{order.index(a)}-{order.index(b)}" for a, _, b in row["relations"]) == form and len(order) == int(row["tag"][0])
        words = [word for _, word, _ in row["relations"]]
        assert len(set(words)) == len(words) == int(row["tag"][2])
        assert len({name.split()[-1] for name in order}) == min(len(order), 4)  # no two of one shape, of which there are four
        for i, (a, word, b) in enumerate(row["relations"]):
            thing, subject = row["include"][2 * i : 2 * i + 2]
            phrase = {"left": "left of", "right": "right of"}.get(word, word)
            assert (thing["class"], subject["class"], subject["position"]) == (b, a, [phrase, 2 * i])
    assert len({row["relations"][0][1] for row in rows}) == 4
    one = relations.row_of("3o2r", ("dog", "cat", "teapot"), 0, 0)
    box = {name: (30 * i, 0, 30 * i + 10, 10) for i, name in enumerate([name for name, *_ in one["relations"]])}
    assert not geneval([Detection(at, name, 1.0) for name, at in box.items()], one)  # the third thing is nowhere


BOXES = """
def boxes(picture, names):
    return {name: [(40 * i, 0, 40 * i + 9, 9), (0, 0, 99, 99)] for i, name in enumerate(names)}
"""
PLACES = {"red ring": (0.2, 0.2), "blue square": (0.75, 0.5), "green cross": (0.8, 0.85), "yellow ring": (0.25, 0.8)}


def placed(folder, number, rows, places):
    here = folder / f"{number:05d}"
    (here / "samples").mkdir(parents=True)
    (here / "metadata.jsonl").write_text(json.dumps(rows))
    for picture, at in enumerate(places):
        things = tuple(shapes.Object(*reversed(name.split()), *xy, 0.15) for name, xy in at.items())
        drawn = shapes.draw(shapes.Scene("position", things), 32)
        Image.fromarray(drawn).save(here / "samples" / f"{picture:04d}.png")


def test_pictures_that_were_placed_by_hand(tmp_path, capsys):
    """The ring is left of the square, but the cross is not left of the other ring: found relations that pile up would pass it."""
    asked = {"tag": "4o2r", "relations": [["red ring", "left", "blue square"], ["green cross", "left", "yellow ring"]]}
    turned = PLACES | {"green cross": PLACES["yellow ring"], "yellow ring": PLACES["green cross"]}
    fewer = {name: at for name, at in PLACES.items() if name != "yellow ring"}
    placed(tmp_path / "out", 0, asked, [PLACES, turned, fewer, turned])  # half of them, three quarters with all things
    placed(tmp_path / "out", 1, asked, [turned])
    relations.main(["--score", str(tmp_path / "out"), "--out", str(tmp_path / "record.json")])
    (row,) = json.loads((tmp_path / "record.json").read_text())["result"]["rows"]
    spread = np.sqrt(2 * 0.25**2 / 1)  # of 0.5 and 1 about 0.75
    assert row == {"tag": "4o2r", "prompts": 2, "relations": 0.75, "error": pytest.approx(spread / np.sqrt(2)), "things": 0.875}
    assert capsys.readouterr().out.startswith("4o2r: relations 0.750 ± 0.250, things 0.875, 2 prompts\n")
    placed(tmp_path / "plain", 0, asked, [fewer])
    placed(tmp_path / "plain", 1, asked, [turned])  # 0.5 less 0, 1 less 1
    relations.main(["--score", str(tmp_path / "out"), "--against", str(tmp_path / "plain")])
    assert capsys.readouterr().out == "4o2r: relations 0.750 ± 0.250, things 0.875, 2 prompts, difference +0.250 ± 0.250\n"
    with pytest.raises(UserError, match="holds other prompts than --score"):
        placed(tmp_path / "other", 0, asked, [turned])
        relations.main(["--score", str(tmp_path / "out"), "--against", str(tmp_path / "other")])
    (tmp_path / "boxes.py").write_text(BOXES)  # the small ones stand as asked, the large ones over each other
    relations.main(["--score", str(tmp_path / "out"), "--boxes", str(tmp_path / "boxes.py")])
    assert capsys.readouterr().out == "4o2r: relations 0.000 ± 0.000, things 1.000, 2 prompts\n"


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "--write FILE.jsonl or --score FOLDER: one of them is needed"),
        (["--write", "p.txt"], "--write 'p.txt': allowed is a file that ends in .jsonl"),
        (["--write", "p.jsonl", "--templates", "6o1r"], "--templates '6o1r': allowed 2o1r, 3o2r, 4o2r, 4o3r, 5o3r"),
        (["--write", "p.jsonl", "--things", "a,b,c,d,a"], "--things 'a,b,c,d,a': allowed five or more names, each once"),
        (["--write", "p.jsonl", "--against", "plain"], "--against 'plain': is for --score"),
        (["--score", "/nowhere"], "--score '/nowhere': holds no NNNNN/metadata.jsonl"),
    ],
)
def test_a_mistake_is_one_line(argv, said):
    with pytest.raises(UserError, match=said):
        relations.main(argv)


def test_folders_of_others_are_refused(tmp_path):
    placed(tmp_path, 0, {"tag": "position", "include": []}, [PLACES])
    with pytest.raises(UserError, match="metadata.jsonl has no tag and relations"):
        relations.main(["--score", str(tmp_path)])
