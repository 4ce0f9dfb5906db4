"""`steer-train` and `sample --steer` from end to end: own models, linear DiT, MMDiT and UNet folders; the table of `bench steer`."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import toys
from PIL import Image

from anystep import api, sample, steer_train, steering, weights
from anystep.bench import _steer, steer
from anystep.errors import UserError
from anystep.steering import learned

pytestmark = [pytest.mark.usefixtures("light_compilation")]
FIXTURES = Path(__file__).parent / "fixtures"
FEW = ["--rows", "16", "--train", "8", "--batch", "8"]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr("anystep.cache.use_compile_cache", lambda: None)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a tiny model of the shapes world, random weights."""
    folder = tmp_path_factory.mktemp("own")
    config = tiny.config("shapes", folder)
    model = api.pipeline(config)
    params = {role: toys.random_params(getattr(model, role), size=0.1) for role in ("net", "text")}
    weights.save_folder(folder / "model", config.to_dict(), params)
    return folder / "model"


@pytest.mark.slow
def test_own_model(own, tmp_path, capsys):
    made, out = tmp_path / "made", tmp_path / "grid.png"
    steer_train.main(["--model", str(own), "--out", str(made), *FEW, "--steps", "1", "--amortise", "2"])
    said = capsys.readouterr().out
    assert "mismatching" in said and "ece_of_word" in said and "loss of the classifier" in said
    config = json.loads((made / "config.json").read_text())
    assert config["report"]["examples"] == 16 and config["things"] == ["ring", "square", "triangle", "cross"]
    assert config["lens"]["layers"] == [0] and config["correction"]["shape"] == [16, 16, 3]

    prompts = ["a red ring left of a blue square", "a ring above a ring", "a ring"]
    asked = [word for prompt in prompts for word in ("--prompt", prompt)]
    sample.main(["--model", str(own), "--steer", str(made), "--method", "amortised", *asked, "--steps", "1", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('prompt 1: "red ring" left "blue square": 0.') and "at 1 step, moved 0 times" in lines[0]
    assert lines[1] == 'prompt 2: not steered: "ring" above "ring": two equal nouns have the same words to look for'
    assert lines[2].startswith("prompt 3: not steered: says nothing of left")
    for page in ("grid.png", "grid_steered.png", "grid_maps.png"):
        assert Image.open(tmp_path / page).width > 100

    model, params = api.load(own)
    plain = api.sample(model, params, prompts, steps=1)
    found = api.sample(model, params, prompts, steps=1, steer=steering.load(made, model, until=0.999))
    assert (found[0] != plain[0]).any() and (np.abs(found[1:].astype(int) - plain[1:]) <= 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layers, size",
    [("sana_flow", "0", None), ("flux_schnell", "0,1", "16x16"), ("sd1", "0,2", None)],  # linear DiT, MMDiT, UNet
)
def test_folders_of_others(name, layers, size, tmp_path, capsys):
    pytest.importorskip("tokenizers")
    folder, made = str(FIXTURES / f"pipeline_{name}"), tmp_path / "made"
    sized = ["--size", size] if size else []
    steer_train.main(["--model", folder, "--out", str(made), *FEW, *sized, "--layers", layers, "--source", "noised"])
    assert "mismatching" in capsys.readouterr().out
    model, params = api.load(folder)
    found = steering.load(made, model, until=0.999, iterations=2, steps=1, step=0.3)
    how = {"steps": 2, "size": [16, 16] if size else None}
    prompts = ["a red ring left of a blue square", "a ring"]
    x, said = api.sample_and_say(model, params, prompts, steer=found, **how)
    plain = api.sample_array(model, params, prompts, **how)
    assert said["steering"]["iterations"][:, 0].tolist() == [2, 0] and said["steering"]["looks"][:, 0].tolist() == [3, 0]
    assert np.isfinite(x).all() and np.abs(x[0] - plain[0]).max() > 1e-4 and np.abs(x[1] - plain[1]).max() < 1e-3
    still = api.sample_array(model, params, prompts, steer=found._replace(strength=0.0), **how)
    np.testing.assert_array_equal(still, plain)
    other = "sana_flow" if name == "sd1" else "sd1"
    with pytest.raises(UserError, match="was made for another network"):
        steering.load(made, api.load(FIXTURES / f"pipeline_{other}")[0])


@pytest.mark.slow
def test_the_table_goes_on_where_it_stopped(own, tmp_path, capsys, monkeypatch):
    steer_train.main(["--model", str(own), "--out", str(tmp_path / "made"), *FEW, "--steps", "1"])
    arguments = ["--model", str(own), "--classifier", f"a={tmp_path / 'made'}", "--rows", str(tmp_path / "rows.jsonl"), "--steps", "1"]
    arguments += ["--prompts", "8", "--methods", "fast:iterations=1,amortised", "--timed", "1", "--batches", "1"]
    capsys.readouterr()
    steer.main([*arguments, "--out", str(tmp_path / "record.json")])
    table = capsys.readouterr().out.splitlines()
    rows = json.loads((tmp_path / "record.json").read_text())["result"]["rows"]
    assert [row["method"] for row in rows] == ["none", "fast:iterations=1"]  # nothing corrects noises here
    assert rows[0]["evaluations_ratio"] == 1.0 and 1.2 < rows[1]["evaluations_ratio"] < 3.0
    assert rows[1]["batch_1"]["seconds_ratio"] > 0 and "fast:iterations=1" in table[2]
    monkeypatch.setattr(_steer, "draw", None)  # nothing is drawn again
    steer.main(arguments)
    assert capsys.readouterr().out.splitlines()[:3] == table[:3]


# Mistakes, and parts


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--data", "dogs.txt"], "--data 'dogs.txt': shapes, or a .jsonl file"),
        (["--data", "dogs.jsonl"], "--source policy: .* --boxes FILE.py, or --source noised"),
        (["--classifier", "x"], "--classifier 'x': is for --amortise"),
        (["--kind", "heavy"], "argument --kind: invalid choice"),
    ],
)
def test_a_mistake_is_one_line(argv, said):
    with pytest.raises(UserError, match=said):
        steer_train.parse(["--model", "m", "--out", "o", *argv])


def test_layers_that_are_not_there(own):
    model, _ = api.load(own)
    with pytest.raises(UserError, match=r"--layers \[0, 2\]: allowed are different ones of 0 to 1"):
        learned.lens_of(model, "light", (0, 2))
    assert learned.lens_of(model, "light").layers == (0,) and learned.lens_of(model, "faithful").layers == (0, 1)


def test_pictures_with_what_they_show(tmp_path):
    rows = [{"image": f"{i}.png", "subject": "dog", "relation": "left", "object": "red car"} for i in range(30)]
    for row in rows:
        Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / row["image"])
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    data = learned.PicturesData(file, (8, 16))
    train, dev = (data.rows(split, 100, ("true", "wrong")) for split in ("train", "dev"))
    assert len(train) + len(dev) == 60 and dev and data.things == ("car", "dog")
    assert (data.labels(dev)[:, 0] == 1).all() and [row.word == 0 for row in dev[:2]] == [True, False]
    assert data.pictures([0]).shape == (1, 8, 16, 3) and data.pictures([0])[0, 0, 0].tolist() == [1, -1, -1]
    file.write_text(json.dumps(rows[0] | {"relation": "behind"}))
    with pytest.raises(UserError, match=r"needs image, subject, relation \(left, right, above, below\)"):
        learned.PicturesData(file, (8, 16))


def test_chains_of_relations():
    from anystep import shapes
    from anystep.relations import read

    world = shapes.World(size=64)
    for number in range(6):
        row = _steer.chain(world, 0, number, 2)
        found = read(row["prompt"]).relations
        c, b, a = (entry["class"] for entry in row["include"])
        words = {"left of": "left", "right of": "right"}
        said = [words.get(entry["position"][0], entry["position"][0]) for entry in row["include"][:0:-1]]
        assert [r[:3] for r in found] == [(a, said[0], b), (b, said[1], c)] and len({a, b, c}) == 3
    with pytest.raises(UserError, match="--relations 3: needs 4 shapes, the world has 3"):
        _steer.chain(world._replace(shapes=world.shapes[:3]), 0, 0, 3)


def test_methods_are_told_with_settings():
    assert steer.read_method("fast:iterations=8:order=alternate:shell=False") == (
        "fast:iterations=8:order=alternate:shell=False",
        ("fast", {"iterations": 8, "order": "alternate", "shell": False}),
    )
    for text, said in (("slow", "allowed none, fast"), ("fast:iterations", "'iterations' is no FIELD=VALUE")):
        with pytest.raises(UserError, match=said):
            steer.read_method(text)
