"""`steer-train` and `sample --steer` from end to end: own models, linear DiT, MMDiT and UNet folders; the table of `bench steer`."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toys
from PIL import Image
from steered import reader_of

import anystep
from anystep import api, sample, steer_train, steering, weights
from anystep.bench import _steer, steer
from anystep.errors import UserError
from anystep.nets import relation
from anystep.relations import read
from anystep.shapes import World
from anystep.steering import maps, prompts, sources

FIXTURES = Path(__file__).parent / "fixtures"
ROW_OF = relation.row_of
FEW = ["--rows", "64", "--train", "8", "--batch", "8"]
ANYWHERE = """
import numpy as np

def boxes(picture, names):  # what random weights draw shows nothing
    rng = np.random.default_rng(int(1e6 * abs(float(picture.sum()))) % 2**31)
    return {name: (x, y, x + 1, y + 1) for name, (x, y) in zip(names, rng.uniform(0, 9, (2, 2)))}
"""


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


def scalars(sampler):
    """A user's own Sampler -> Sampler, which says one number for all rows."""

    def step(state, t_pair, first=None):
        return sampler.step(state, t_pair, first)[0], {"mean": jnp.mean(state.x)}

    return sampler._replace(step=step)


@pytest.mark.slow
def test_own_model(own, tmp_path, capsys):
    made, out = tmp_path / "made", tmp_path / "grid.png"
    with pytest.raises(UserError, match="64 of 64 pictures show the relation 'none'"):
        steer_train.main(["--model", str(own), "--out", str(made), *FEW, "--steps", "1"])
    with pytest.raises(UserError, match=r"--size 16x32: image of shape .* --boxes FILE.py judges others"):
        steer_train.main(["--model", str(own), "--out", str(made), *FEW, "--size", "16x32"])
    steer_train.main(["--model", str(own), "--out", str(made), *FEW, *judged_by(tmp_path), "--steps", "1", "--amortise", "2"])
    said = capsys.readouterr().out
    assert all(text in said for text in ("mismatching", "ece", "at 1 steps: accuracy", "loss of the classifier on dev", "of the noise"))
    config = json.loads((made / "config.json").read_text())
    assert config["report"]["examples"] == 64 and config["things"] == ["ring", "square", "triangle", "cross"]
    assert config["report"]["times"] == [1.0] and config["report"]["amortised"]["correction"] > 0
    assert config["lens"]["layers"] == [0] and config["correction"]["shape"] == [16, 16, 3]

    prompts = ["a red ring left of a blue square", "a ring above a ring", "a ring"]
    asked = [word for prompt in prompts for word in ("--prompt", prompt)]
    sample.main(["--model", str(own), "--steer", str(made), "--method", "amortised", *asked, "--steps", "1", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'prompt 2: not steered: "ring" above "ring": two equal nouns have the same words to look for'
    assert lines[1].startswith("prompt 3: not steered: says nothing of left")
    assert lines[2].startswith('prompt 1: "red ring" left "blue square": 0.') and "at 1 step, " in lines[2] and "moves: 0, to " in lines[2]
    for page in ("grid.png", "grid_steered.png", "grid_maps.png"):
        assert Image.open(tmp_path / page).width > 100

    export = ["--export", "t2i_compbench", "--count", "1", "--out", str(tmp_path / "folder"), "--steps", "1"]
    sample.main(["--model", str(own), "--steer", str(made), *asked[:4], *export])
    assert capsys.readouterr().out.startswith('prompt 2: not steered: "ring" above "ring"')

    model, params = api.load(own)
    plain = api.sample(model, params, prompts, steps=1)
    other = steering.load(made, model, net=jax.tree.map(lambda a: a + 1, params["net"]), steps=2)
    assert not steering.load(made, model, net=params["net"]).notes and "made with other weights" in other.notes[0]
    strange = "steer: steps at flow times 0.75 to 1, the classifier learned from 1 to 1 alone"
    assert api.notes(model, prompts[:1], other, 4) == [*other.notes, strange.replace("0.75", f"{model.drawing.times(4, 16)[1]:.3g}")]
    anystep.sample(model, params, prompts[1:], steps=1, steer=other)
    assert "prompt 1: not steered" in capsys.readouterr().err
    assert api.sample_and_say(model, params, prompts, 1, steer=scalars)[1] == {}
    found = api.sample(model, params, prompts, steps=1, steer=steering.load(made, model, until=0.999))
    assert (found[0] != plain[0]).any() and (np.abs(found[1:].astype(int) - plain[1:]) <= 1).all()


@pytest.mark.slow
def test_corrections_for_a_classifier_that_is_there(own, tmp_path, capsys):
    model, _ = api.load(own)
    made, params = reader_of(model)
    steering.save(tmp_path / "made", model, made, params, ("ring", "square"), {"accuracy": 0.5}, checksum=7)
    more = ["--classifier", str(tmp_path / "made"), "--amortise", "1", "--steps", "1", "--rows", "64"]
    steer_train.main(["--model", str(own), "--out", str(tmp_path / "both"), *more])
    assert "loss of the classifier on dev" in capsys.readouterr().out
    config = json.loads((tmp_path / "both" / "config.json").read_text())
    assert (
        config["report"]["accuracy"] == 0.5 and config["report"]["amortised"]["correction"] >= 0 and config["things"] == ["ring", "square"]
    )
    assert config["weights"] == 7  # what its probabilities were calibrated on, not what its corrections learned from
    found = steering.load(tmp_path / "both", model, "amortised")
    jax.tree.map(np.testing.assert_array_equal, {name: found.params[name] for name in params}, params)


@pytest.mark.long
def test_the_published_layout_knows_the_steps_of_a_pipeline(tmp_path):
    """From training to use: SANA's flow pipeline walks over 0.9997 and 0.7496, is told whole thousandths, and each step has its row."""
    pytest.importorskip("tokenizers")
    folder, made = str(FIXTURES / "pipeline_sana_flow"), tmp_path / "made"
    source = ["--source", "both", "--at", "0.9", "--steps", "2", "--first", "2", *judged_by(tmp_path)]
    few = ["--rows", "16", "--train", "4", "--batch", "8", "--kind", "faithful_small", "--layers", "0", "--side", "4"]
    steer_train.main(["--model", folder, "--out", str(made), *few, *source])
    config = json.loads((made / "config.json").read_text())
    assert config["options"]["clock"] == pytest.approx([0.999, 0.9, 0.749]) and config["report"]["source"] == "both"
    assert config["report"]["examples"] == 16 * 2 + 16 and set(config["report"]["by_steps"]) == {"2"}
    model, params = api.load(folder)
    found, seen = steering.load(made, model, "faithful", iterations=1, steps=2, until=0.999999), []
    assert isinstance(found.program.reader.options, relation.Faithful)
    assert found.walk == (model.drawing.sampler, model.drawing.ask) and not found.strange(model.drawing.times(2, 0), *found.walk)

    def noted(t, clock, trained):
        rows = ROW_OF(t, clock, trained)
        jax.debug.callback(lambda rows: seen.append(int(rows[0])), rows)
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relation, "row_of", noted)
        said = api.sample_and_say(model, params, ["a red ring left of a blue square"], 2, steer=found)[1]["steering"]
    jax.effects_barrier()
    assert said["iterations"].tolist() == [[1], [1]] and (said["after"] > 0).all()
    assert list(dict.fromkeys(seen)) == [0, 2]  # the one between is of noised pictures


@pytest.mark.long
@pytest.mark.parametrize(  # linear DiT, MMDiT, UNet
    "name, layers, size", [("sana_flow", "0", None), ("flux_schnell", "0,1", "16x16"), ("sd1", "0,2", None)]
)
def test_folders_of_others(name, layers, size, tmp_path, capsys):
    pytest.importorskip("tokenizers")
    folder, made = str(FIXTURES / f"pipeline_{name}"), tmp_path / "made"
    sized = ["--size", size] if size else []
    with pytest.raises(UserError, match="--source policy: nothing here can judge what this model draws"):
        steer_train.main(["--model", folder, "--out", str(made), *FEW, *sized])
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


def judged_by(folder):
    (folder / "boxes.py").write_text(ANYWHERE)
    return ["--boxes", str(folder / "boxes.py")]


@pytest.mark.long
def test_the_table_goes_on_where_it_stopped(own, tmp_path, capsys, monkeypatch):
    walk = ["--sampler", "euler", "--ask", "now"]
    steer_train.main(
        ["--model", str(own), "--out", str(tmp_path / "made"), *FEW, *walk, "--steps", "1", "--source", "noised", *judged_by(tmp_path)]
    )
    arguments = ["--model", str(own), "--classifier", f"a={tmp_path / 'made'}", "--rows", str(tmp_path / "rows.jsonl"), "--steps", "1"]
    arguments += ["--prompts", "8", "--methods", "fast:iterations=1:until=[0.999],amortised", "--timed", "1", "--batches", "1"]
    arguments += ["--tune", "4", "--variety", "2", *walk]
    capsys.readouterr()
    steer.main([*arguments, "--out", str(tmp_path / "record.json")])
    table = capsys.readouterr().out.splitlines()
    assert table.pop(0) == "amortised: left out for classifier 'a', which has no network that corrects noises (steer-train --amortise)"
    rows = json.loads((tmp_path / "record.json").read_text())["result"]["rows"]
    assert [row["method"] for row in rows] == ["none", "fast:iterations=1:until=[0.999]"]
    assert rows[0]["evaluations_ratio"] == 1.0 and rows[1]["moves"] == 1.0 and rows[1]["looks"] == 2.0
    assert rows[1]["evaluations"] - rows[0]["evaluations"] == pytest.approx(2 * 0.5)  # a look more and a move, through one block of two
    assert rows[1]["flops_ratio"] == rows[1]["batch_1"]["flops_ratio"] > 1 and rows[1]["batch_1"]["waits"] == 1.0  # see test_steer_bench
    assert 0 <= rows[1]["ece_before"] <= 1 and rows[1]["keeps"] is None and rows[1]["closes"]["verdict"]
    assert table[4].startswith("at 1 steps fast:iterations=1:until=[0.999] (a) closes half of the gap to two objects: ")
    assert table[0].endswith("steer: steps at flow times 1 to 1, the classifier learned from 0.5 to 0.9 alone")
    assert rows[0]["variety"]["ratio"] == 1.0 and 0 < rows[1]["variety"]["ratio"] < 2.0
    assert rows[1]["batch_1"]["seconds_ratio"] > 0 and "fast:iterations=1" in table[3]
    drawn = [json.loads(line)["key"] for line in (tmp_path / "rows.jsonl").read_text().splitlines() if "drawn" in line]
    assert len(drawn) == len(_steer.TUNED["fast"]) + 2 and rows[1]["step"] in _steer.TUNED["fast"]
    monkeypatch.setattr(_steer, "draw", None)  # nothing is drawn again
    steer.main(arguments)
    assert capsys.readouterr().out.splitlines()[1:6] == table[:5]


# Mistakes, and parts


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--data", "dogs.txt"], "--data 'dogs.txt': shapes, or a .jsonl file"),
        (["--data", "dogs.jsonl"], "--source policy: .* --boxes FILE.py, or --source noised"),
        (["--classifier", "x"], "--classifier 'x': is for --amortise"),
        (["--wrong", "no"], "--wrong no: is for --source noised or both"),
        (["--at", "0.5"], r"--at \(0.5,\): is for --source noised or both"),
        (["--unscaled"], "--unscaled True: is for --kind faithful"),
        (["--penalty", "2"], "--penalty 2.0: is for --amortise"),
        (["--classifier", "x", "--amortise", "1", "--kind", "faithful"], "--kind faithful: is for a new classifier, not for --classifier"),
        (["--classifier", "x", "--amortise", "1", "--layers", "0"], r"--layers \(0,\): is for a new classifier"),
        (["--kind", "heavy"], "argument --kind: invalid choice"),
        (["--boxes", __file__ + ".txt"], r"argument --boxes: .* is no Python file that is there"),
        (["--boxes", "README.md"], r"argument --boxes: 'README.md' is no Python file that is there \(FILE.py\)"),
    ],
)
def test_a_mistake_is_one_line(argv, said):
    with pytest.raises(UserError, match=said):
        steer_train.parse(["--model", "m", "--out", "o", *argv])


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--rows", "."], "--rows '.': is a folder, allowed is a file"),
        (["--rows", "r", "--methods", "none:iterations=3"], "--methods 'none:iterations=3': 'iterations=3' is no FIELD=VALUE of a method"),
        (["--rows", "r", "--methods", "fast:iterations=8.0"], "iterations: 8.0, allowed a whole number, 0 to 1000"),
        (["--rows", "r", "--out", ".."], "--out '..': is a folder, allowed is a file"),
        (["--rows", "r", "--classifier", "runs/a"], "--classifier 'runs/a': 'a' is the name of 'x' already; NAME=FOLDER gives another"),
    ],
)
def test_a_mistake_in_the_table_is_one_line(argv, said):
    with pytest.raises(UserError, match=said):
        steer.main(["--model", "m", "--classifier", "a=x", *argv])


def test_what_is_no_steering(own):
    with pytest.raises(UserError, match=r"steer: 'runs/classifier', allowed what anystep.steering.load\(FOLDER, model\) gives, a function"):
        api.sample(*api.load(own), ["a ring"], steps=1, steer="runs/classifier")


def test_costs_are_of_one_machine(monkeypatch):
    """Pictures are the same anywhere, seconds are not."""
    kept, case = steer.Rows.__new__(steer.Rows), _steer.Case("none", "", 1)
    kept.asked, kept.found = "asked", {}
    kept.found = {kept.key("drawn", case): {"position": "01"}, kept.key("cost", case, 1): {"seconds": 1.0}}
    assert kept.drawn(case) and kept.cost(case, 1)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="another")])
    assert kept.drawn(case) and kept.cost(case, 1) is None


def test_layers_that_are_not_there(own):
    model, _ = api.load(own)
    with pytest.raises(UserError, match=r"--layers \[0, 2\]: allowed are different ones of 0 to 1"):
        maps.lens_of(model.net, "light", (0, 2))
    assert maps.lens_of(model.net, "light").layers == (0,) and maps.lens_of(model.net, "faithful").layers == (0, 1)
    with pytest.raises(UserError, match=r"heads: \[0, 7\], a layer that is read has 0 to 1"):
        maps.channels_of(model, maps.lens_of(model.net, "light", heads=(0, 7)))


def test_pictures_with_what_they_show(tmp_path):
    rows = [{"image": f"{i}.png", "subject": "dog", "relation": "left", "object": "red car"} for i in range(30)]
    for row in rows:
        Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / row["image"])
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    data = sources.PicturesData(file, (8, 16))
    train, dev = (data.rows(split, 100, ("true", "wrong")) for split in ("train", "dev"))
    assert len(train) + len(dev) == 60 and dev and data.things == ("car", "dog")
    assert (data.labels(dev)[:, 0] == 1).all() and [row.word == 0 for row in dev[:2]] == [True, False]
    assert data.pictures(dev[:1]).shape == (1, 8, 16, 3) and data.pictures(dev[:1])[0, 0, 0].tolist() == [1, -1, -1]
    needs = r"needs image, subject, relation \(left, right, above, below\)"
    for change, said in (({"relation": "behind"}, needs), ({"subject": " "}, needs), ({"image": "x.png"}, "no file 'x.png' beside it")):
        file.write_text(json.dumps(rows[0] | change))
        with pytest.raises(UserError, match=said):
            sources.PicturesData(file, (8, 16))


def test_boxes_of_others(tmp_path):
    file, row = tmp_path / "boxes.py", sources.prompts.scene_rows(World(), 0, 1, "train")
    for text, said in (("1 / 0", "ZeroDivisionError"), ("def boxes(picture, names):\n    return {names[0]: 'x'}", "ValueError")):
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            sources.labels_of_pictures([None], row, sources.boxes_of(str(file)))


def test_chains_of_relations(own, tmp_path):
    model, _ = api.load(own)
    with pytest.raises(UserError, match="--relations 2: the model learned scenes of at most 1"):
        _steer.asked(model, 2, 2, "dev", 0)
    longer = ["--config.data.chain=3", "--config.model.text.length=28"]
    model = api.pipeline(tiny.config("shapes", tmp_path, *longer))
    assert sources.world_of(model.config).chain == 1  # a classifier learns from single relations
    found = {
        (split, n): [row["prompt"] for row in _steer.asked(model, 5, n, split, 0).metadata] for split in ("dev", "test") for n in (1, 2, 3)
    }
    for (_, n), texts in found.items():
        assert all(len(read(text).relations) == n for text in texts)
    assert not set(found["dev", 2]) & set(found["test", 2])
    tuning, test = _steer.asked(model, 5, 2, "dev", 0, tuning=True), _steer.asked(model, 5, 2, "test", 0)
    assert len({tuning.first, test.first, _steer.asked(model, 2, 2, "dev", 0).first}) == 3
    assert not {row["prompt"] for row in tuning.metadata} & set(found["dev", 2])
    text = "a red ring left of a blue square above a green cross below a red triangle"
    understood = prompts.understand(model.text, text, ("ring", "square", "cross", "triangle"))
    assert len(understood.relations) == 3 and prompts.arrays([understood], 28, 3).known.all()


def test_methods_are_told_with_settings():
    assert steer.read_method("fast:iterations=8:order=alternate:shell=False") == (
        "fast:iterations=8:order=alternate:shell=False",
        ("fast", {"iterations": 8, "order": "alternate", "shell": False}),
    )
    for text, said in (("slow", "allowed none, fast"), ("fast:iterations", "'iterations' is no FIELD=VALUE")):
        with pytest.raises(UserError, match=said):
            steer.read_method(text)
