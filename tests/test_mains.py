"""`sample` and `evaluate` with a stand-in for the network: what they refuse and write; `anystep.sample` is one thing in all orders."""

import inspect
import json
import subprocess
import sys
import types

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import anystep
import anystep.evaluate
import anystep.sample
from anystep import api as real
from anystep import subjects
from anystep.errors import UserError, run_main
from anystep.prompts import read_rows
from anystep.shapes.caption import prompts
from anystep.shapes.draw import draw
from anystep.shapes.scene import KINDS, World, make_scene

WORLD = World()
MAINS = {"sample": anystep.sample.main, "evaluate": anystep.evaluate.main}
SEED = 3


def config(kind="shapes"):
    data = WORLD._asdict() | {"kind": kind, "batch": 4, "path": "", "dev_share": 0.1, "modes": 8}
    guide = {"scale": 2.0, "energy_preserving": True, "interval": (0.0, 1.0), "sampler": "euler", "ask": "next", "eta": 1.0}
    objective = {"consistency": {"share": 0, "guidance": 1.0}, "adversarial": {"share": 0}, "teacher": {"scales": (1.0,)}, "time": {}}
    objective["prompt_dropout"] = 0.1
    model = {"net": "sana", "patch": 4, "second_time": True, "guidance": False}
    return ConfigDict({"data": data, "eval": {"steps": (1, 4), "prompts": 12} | guide, "objective": objective, "model": model})


def stand_in(monkeypatch, kind="shapes", batch=64):
    """An `anystep.api` that draws the asked scene at two steps or more and a grey picture at one; returns the calls it saw."""
    scenes = {asked["prompt"]: make_scene(WORLD, SEED, i, "dev", KINDS[i % 6]) for i, asked in enumerate(prompts(WORLD, SEED, 24, "dev"))}
    calls = []

    def sample(model, params, asked, steps=4, seed=0, guide=None, sampler=None, ask=None, eta=None, size=None, **more):
        calls.append((len(asked), steps, seed, guide, sampler, ask, *([more] if more else [])))
        grey = np.full((16, 16, 3), 10 * steps, np.uint8)
        return np.stack([draw(scenes[prompt], WORLD) if prompt in scenes and steps > 1 else grey for prompt in asked])

    def load(name, dtype=None, text=None):
        if name == "nowhere":
            raise UserError("--model 'nowhere': no such\nmodel")
        shape = (1, 1, 2) if kind == "mixture2d" else (16, 16, 3)
        net, asked = types.SimpleNamespace(shape=shape), config(kind)
        return types.SimpleNamespace(net=net, text=None, codec=None, config=asked, drawing=real.drawing_of(asked)._replace(batch=batch)), {}

    def sample_array(*asked, **options):
        return sample(*asked, **options).astype(np.float32) / 127.5 - 1.0

    fake = types.SimpleNamespace(load=load, sample=sample, sample_array=sample_array)
    for name in ("guidance", "notes", "shape_of", "picture_of"):
        setattr(fake, name, getattr(real, name))
    monkeypatch.setitem(sys.modules, "anystep.api", fake)
    monkeypatch.setattr(anystep, "api", fake, raising=False)
    return calls


def refused(main, argv, capsys):
    """The one line that `main` prints when it refuses."""
    with pytest.raises(SystemExit) as leave:
        run_main(main, argv)
    out, err = capsys.readouterr()
    assert leave.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    return err


BAD = [
    ("both", ["--steps", "0"], "--steps"),
    ("both", ["--steps", "1,x"], "'x' is not a whole number"),
    ("both", ["--steps", ""], "--steps"),
    ("both", ["--steps", "1,1001"], "1..1000"),
    ("both", ["--steps", "4,4"], "twice"),
    ("both", ["--steps", ",".join(map(str, range(1, 40)))], "at most 16"),
    ("both", ["--seed", "-1"], "--seed"),
    ("both", ["--seed", "99999999999"], "2147483647"),
    ("both", ["--seed", "1.5"], "--seed"),
    ("both", ["--seed", "9" * 5000], "--seed"),
    ("both", ["--scale", "nan"], "--scale"),
    ("both", ["--scale", "-1"], "0..100"),
    ("both", ["--scale", "inf"], "--scale"),
    ("both", ["--sampler", "rk4"], "--sampler"),
    ("both", ["--ask", "soon"], "--ask"),
    ("both", ["--times", "1,0.5"], "'1,0.5' does not decrease from 1 to 0; or a name: sprint, sprint_released, sprint_ablations"),
    ("both", ["--times", "0.9,0"], "does not decrease"),
    ("both", ["--times", "1"], "does not decrease"),
    ("both", ["--times", "1,0.5,0.6,0"], "does not decrease"),
    ("both", ["--times", "1,x,0"], "'x' is not a number"),
    ("both", ["--times", "1,nan,0"], "'nan' is outside 0..1"),
    ("both", ["--times", "1,0.5,0", "--steps", "4"], "--steps: --times 1,0.5,0 is for 2"),
    ("both", ["--times", "sprint", "--steps", "2,3"], "--steps: --times sprint is for 1, 2, 4"),
    ("both", ["--nonsense", "1"], "--nonsense"),
    ("both", ["--see", "1"], "--see"),
    ("evaluate", ["--prompts", "0"], "1..100000"),
    ("evaluate", ["--split", "train"], "--split"),
    ("evaluate", ["--out", "/dev/null/x"], "--out"),
    ("evaluate", ["--out", "/dev/null"], "--out"),
    ("sample", ["--prompts", "/nonexistent"], "no such file"),
    ("sample", ["--prompts", "/dev/zero"], "no such file"),
    ("sample", ["--prompts", "a\0b"], "--prompts"),
    ("sample", ["--prompt", "x" * 8001], "8,001 characters"),
    ("sample", ["--prompt", "a\0b"], "NUL"),
    ("sample", ["--prompt", "caf\udce9"], "UTF-8"),
    ("sample", ["--out", "grid.jpg"], ".png"),
    ("sample", ["--count", "2"], "--export"),
    ("sample", ["--export", "dpg"], "--export"),
    ("sample", ["--export", "t2i_compbench", "--steps", "4"], "--export needs a folder"),
    ("sample", ["--export", "t2i_compbench", "--steps", "4", "--out", "a.png"], "--export needs a folder"),
    ("sample", ["--export", "t2i_compbench", "--out", "a"], "--steps 4"),
    ("sample", ["--export", "t2i_compbench", "--out", "a", "--steps", "1,2"], "--steps 4"),
    ("sample", ["--export", "t2i_compbench", "--out", "a", "--steps", "4", "--count", "1001"], "1..1000"),
    ("sample", ["--export", "t2i_compbench", "--out", "a", "--steps", "4", "--seed", "2147483647"], "at most 2147483638"),
    ("sample", ["--export", "geneval", "--out", "a", "--steps", "4"], 'prompt 1 (\'a red circle\') has no "tag" and "include"'),
    ("sample", ["--out", "/dev/null/x/grid.png"], "--out"),
    ("sample", ["--strength", "0.5"], "--strength 0.5: is for --image"),
    ("sample", ["--image", "a.png", "--strength", "0"], "--strength 0: must be above 0"),
    ("sample", ["--image", "a.png", "--strength", "1.5"], "0..1"),
    ("sample", ["--image", "a.png", "--steer", "b"], "--image 'a.png': is not for --steer"),
    ("sample", ["--image", "a.png", "--export", "geneval"], "--image 'a.png': is not for --export"),
]


@pytest.mark.parametrize("which, argv, say", BAD)
def test_bad_flags_are_refused_with_one_line_before_jax_is_asked(which, argv, say, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "anystep.api", None)  # importing it would be no UserError
    monkeypatch.delattr(anystep, "api", raising=False)
    for name in MAINS if which == "both" else [which]:
        start = ["--model", "shapes"] + (["--prompt", "a red circle"] if name == "sample" else [])
        assert say in refused(MAINS[name], start + argv, capsys)


def test_missing_flags_are_named(capsys):
    assert "--model" in refused(MAINS["evaluate"], [], capsys)
    assert "--prompt" in refused(MAINS["sample"], ["--model", "shapes"], capsys)


def test_prompt_files(tmp_path, capsys):
    plain, metadata = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    plain.write_bytes("\ufeffa red circle\r\n\n  \nein grüner\u2028Kreis\n".encode())
    metadata.write_text('{"tag": "colors", "prompt": "a red bench"}\n{"prompt": "two cows"}\n')
    assert read_rows(str(plain)) == [{"prompt": "a red circle"}, {"prompt": "ein grüner\u2028Kreis"}]
    assert read_rows(str(metadata)) == [{"tag": "colors", "prompt": "a red bench"}, {"prompt": "two cows"}]
    for name, data, say in (
        ("a.txt", b"", "0 prompts"),
        ("a.txt", b"x\n" * 1001, "1,001 prompts"),
        ("a.txt", b"good\nbad \xff\n", "UTF-8 at byte 9"),
        ("a.txt", b"good\n\n" + b"x" * 8001, "line 3"),
        ("a.txt", b"x\0", "NUL"),
        ("a.txt", b"x" * (4 * 2**20 + 1), "bytes"),
        ("a.jsonl", b'{"prompt": "a"}\nb', "line 2: is not JSON"),
        ("a.jsonl", b'{"prompt": 3}', "prompt"),
        ("a.jsonl", b"[" * 100_000, "JSON"),
        ("a.jsonl", b'{"prompt": "\\ud800"}', "UTF-8"),
        ("a.jsonl", b'{"prompt": "\\u0000"}', "NUL"),
    ):
        (tmp_path / name).write_bytes(data)
        assert say in refused(MAINS["sample"], ["--model", "shapes", "--prompts", str(tmp_path / name)], capsys)
    assert "no such file" in refused(MAINS["sample"], ["--model", "shapes", "--prompts", str(tmp_path)], capsys)


def test_sample_writes_a_grid(tmp_path, monkeypatch, capsys):
    calls = stand_in(monkeypatch)
    out = tmp_path / "new" / "grid.png"
    asked = ["--model", "x", "--prompt", "a", "--prompt", "b", "--out", str(out)]
    MAINS["sample"](asked + ["--steps", "1,2,8", "--seed", "5", "--scale", "3"])
    assert calls == [(2, steps, 5, 3.0, "euler", "next") for steps in (1, 2, 8)]
    page = np.asarray(Image.open(out))
    lefts = [np.nonzero((page == 10 * steps).all(-1).any(0))[0].min() for steps in (1, 2, 8)]
    assert sorted(lefts) == lefts and str(out) in capsys.readouterr().out
    calls.clear()
    MAINS["sample"](["--model", "x", "--prompt", "a", "--out", str(out), "--sampler", "restart", "--ask", "zero"])
    assert [call[1:] for call in calls] == [(steps, 0, None, "restart", "zero") for steps in (1, 4)]  # the config's steps and scale
    assert "guidance 2, restart asking zero" in capsys.readouterr().out


def test_sample_begins_with_a_picture(tmp_path, monkeypatch, capsys):
    calls = stand_in(monkeypatch)
    out, file = str(tmp_path / "grid.png"), tmp_path / "half.png"
    asked = ["--model", "x", "--prompt", "a", "--out", out, "--steps", "2"]
    pixels = np.zeros((3, 5, 4), np.uint8)
    pixels[..., 0], pixels[1:, :, 3] = 255, 255
    Image.fromarray(pixels).save(file)
    MAINS["sample"]([*asked, "--image", str(file)])
    MAINS["sample"]([*asked, "--image", str(file), "--strength", "0.25"])
    assert f"from {file} at 0.25" in capsys.readouterr().out
    assert [call[-1]["strength"] for call in calls] == [0.6, 0.25]
    want = np.full((3, 5, 3), 255)
    want[1:, :, 1:] = 0  # the first row is clear, over white
    assert (calls[0][-1]["image"] == want).all() and calls[0][-1]["image"].dtype == np.uint8
    (tmp_path / "text.png").write_text("no picture")
    for name in (tmp_path / "none.png", tmp_path, tmp_path / "text.png", "a\0b"):
        assert "not a readable picture" in refused(MAINS["sample"], [*asked, "--image", str(name)], capsys)


def test_times_are_handed_on(tmp_path, monkeypatch, capsys):
    calls = stand_in(monkeypatch)
    out = ["--out", str(tmp_path / "grid.png")]
    MAINS["sample"](["--model", "x", "--prompt", "a", "--times", "1,0.6,0", *out])
    MAINS["sample"](["--model", "x", "--prompt", "a", "--times", "sprint", *out])
    MAINS["sample"](["--model", "x", "--prompt", "a", "--times", "sprint_released", *out])
    assert [(call[1], call[-1]["times"]) for call in calls] == [
        (2, [1.0, 0.6, 0.0]),
        *((steps, "sprint") for steps in (1, 2, 4)),  # all that are published
        *((steps, "sprint_released") for steps in (1, 4)),  # the config's
    ]
    assert "times 1,0.6,0\n" in capsys.readouterr().out
    MAINS["evaluate"](["--model", "x", "--split", "dev", "--seed", str(SEED), "--times", "1,0.6,0", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["steps"]) == {"2"} and report["guide"]["times"] == [1.0, 0.6, 0.0] and calls[-1][-1] == {"times": [1.0, 0.6, 0.0]}


def exported(monkeypatch):
    """A model that draws the sum of seed and number of the row, and the calls it saw."""
    stand_in(monkeypatch, batch=2)
    calls = []

    def sample(model, params, asked, steps, seed, first, guide, sampler, ask, eta, size, steer):
        calls.append((len(asked), steps, seed, first))
        return np.stack([np.full((16, 16, 3), 10 * seed + first + i, np.uint8) for i in range(len(asked))])

    anystep.api.sample = sample
    return calls


def test_export_for_geneval(tmp_path, monkeypatch, capsys):
    calls = exported(monkeypatch)
    metadata = tmp_path / "rows.jsonl"
    rows = prompts(WORLD, SEED, 3, "dev")
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    argv = ["--model", "x", "--prompts", str(metadata), "--export", "geneval", "--steps", "4", "--seed", "5", "--out", str(out)]
    MAINS["sample"](argv)
    assert calls == [(n, 4, 5 + number, first) for number in range(4) for n, first in ((2, 0), (1, 2))]
    assert sorted(path.name for path in out.iterdir()) == ["00000", "00001", "00002", "export.json"]
    for i, row in enumerate(rows):
        assert json.loads((out / f"{i:05d}" / "metadata.jsonl").read_text()) == row
        pictures = sorted((out / f"{i:05d}" / "samples").iterdir())
        assert [path.name for path in pictures] == ["0000.png", "0001.png", "0002.png", "0003.png"]
        assert [np.asarray(Image.open(path))[0, 0, 0] for path in pictures] == [10 * (5 + number) + i for number in range(4)]
    assert "3 prompts, 4 pictures each at 4 steps, guidance 2" in capsys.readouterr().out
    # what an interrupted run left is gone on with; nothing else is mixed in
    calls.clear()
    (out / "00002" / "samples" / "0001.png").unlink()
    (out / "00002" / "samples" / ".0001.png.part").write_bytes(b"half")
    MAINS["sample"](argv)
    assert calls == [(1, 4, 6, 2)] and "11 of them drawn before" in capsys.readouterr().out
    assert len(list((out / "00002" / "samples").iterdir())) == 4
    for change, say in ((["--scale", "3"], "guide = 2.0, not 3.0"), (["--count", "2"], "count = 4, not 2")):
        assert say in refused(MAINS["sample"], argv + change, capsys)
    assert "is not empty" in refused(MAINS["sample"], [*argv[:-1], str(tmp_path)], capsys)
    (out / "export.json").write_text("[3]")
    assert "is no record" in refused(MAINS["sample"], argv, capsys)


def test_export_for_t2i_compbench(tmp_path, monkeypatch, capsys):
    exported(monkeypatch)
    asked = ["a cat/dog on side of a_key", "a cat", "a cat", "é" * 400]
    argv = ["--model", "x", "--export", "t2i_compbench", "--count", "2", "--steps", "1", "--out", str(tmp_path / "t2i")]
    MAINS["sample"](argv + [part for prompt in asked for part in ("--prompt", prompt)])
    names = sorted((path.name for path in (tmp_path / "t2i" / "samples").iterdir()), key=lambda name: name[-10:])
    stems = ["a cat dog on side of a key", "a cat", "a cat", "é" * 119]  # 2 bytes each, of 238
    assert names == [f"{stems[i // 2]}_{i:06d}.png" for i in range(8)]
    assert "2 prompts differ" in capsys.readouterr().err


def test_evaluate_writes_table_report_and_picture(tmp_path, monkeypatch, capsys):
    calls = stand_in(monkeypatch)
    model = tmp_path / "model"
    model.mkdir()
    MAINS["evaluate"](["--model", str(model), "--split", "dev", "--seed", str(SEED), "--scale", "1.5"])
    out = capsys.readouterr().out
    report = json.loads((model / "report.json").read_text())
    assert report["steps"]["1"]["overall"] == 0.0 and report["steps"]["4"]["overall"] == 1.0
    assert report["prompts"] == 12 and report["split"] == "dev" and report["seed"] == SEED and report["guide"]["scale"] == 1.5
    assert {call[3] for call in calls} == {1.5} and str(model / "report.json") in out and str(model / "report.png") in out and "1.00" in out
    assert min(Image.open(model / "report.png").size) > 400
    other = tmp_path / "other"
    MAINS["evaluate"](["--model", "x", "--split", "dev", "--prompts", "18", "--steps", "2", "--out", str(other), "--seed", str(SEED)])
    report = json.loads((other / "report.json").read_text())
    assert set(report["steps"]) == {"2"} and report["prompts"] == 18


def test_what_the_model_makes_impossible_is_refused(tmp_path, monkeypatch, capsys):
    stand_in(monkeypatch, kind="mixture2d")
    out = ["--out", str(tmp_path)]
    assert "'test'" in refused(MAINS["evaluate"], ["--model", "x", "--split", "test", *out], capsys)
    assert "'nowhere': no such model" in refused(MAINS["evaluate"], ["--model", "nowhere", *out], capsys)
    assert "[1, 1, 2]" in refused(MAINS["sample"], ["--model", "x", "--prompt", "mode 3", "--out", str(tmp_path / "a.png")], capsys)
    stand_in(monkeypatch)
    without = subjects.subject(config().data, 6)._replace(judge=None)
    monkeypatch.setattr(subjects, "subject", lambda *_: without)
    assert "no judge" in refused(MAINS["evaluate"], ["--model", "x", *out], capsys)
    monkeypatch.setattr(anystep.sample, "PAGE", 16 * 16 * 3)
    out = ["--out", str(tmp_path / "a.png")]
    assert "pixels" in refused(MAINS["sample"], ["--model", "x", "--prompt", "a", "--steps", "1,2,4,8", *out], capsys)


LIGHT = """
import sys
for name in ("jax", "flax", "torch", "tensorflow", "grain", "ml_collections", "clu", "orbax", "transformers"):
    sys.modules[name] = None
import anystep
assert {"load", "sample"} <= set(dir(anystep))
"""
ORDERS = [
    "import anystep; draw = anystep.sample",
    "import anystep.sample; draw = anystep.sample",
    "from anystep import sample as draw",
    "from anystep.sample import main; import anystep; draw = anystep.sample",
    "import anystep; first = anystep.sample; import anystep.sample; anystep.sample.main; draw = anystep.sample; assert draw is first",
    "import importlib; importlib.import_module('anystep.sample'); import anystep; draw = anystep.sample",
    "from anystep import sample; sample.main; draw = sample",
]
CALL = """
import inspect, types
fake = types.ModuleType("anystep.api")
def sample(model, params, prompts, steps=4, seed=0, guide=None, steer=None, **how):
    return model, params, prompts, [steps, seed, guide, steer, how]
fake.sample = sample
fake.load = lambda name: ("model", name)
sys.modules["anystep.api"] = fake
import anystep
assert callable(draw)
model, params, prompts, options = draw(*anystep.load("shapes"), ["a"], steps=2, ask="zero")
assert (model, params, prompts) == ("model", "shapes", ["a"])
assert options == [2, 0, None, None, {"ask": "zero"}], options
assert list(inspect.signature(draw).parameters)[:3] == ["model", "params", "prompts"]
try:
    anystep.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise SystemExit("anystep.nothing exists")
"""


def test_the_package_is_light_and_sample_can_be_called_in_every_order_of_imports():
    # one process for all: each order starts from a package that was never imported
    fresh = "\nfor name in [n for n in sys.modules if n == 'anystep' or n.startswith('anystep.')]: del sys.modules[name]\n"
    code = LIGHT + "".join(fresh + order + CALL for order in ORDERS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_callable_module_takes_what_the_function_takes():
    from anystep import api

    own, real = (inspect.signature(function).parameters.values() for function in (anystep.sample, api.sample))
    assert [(p.name, p.default) for p in own] == [(p.name, p.default) for p in real]


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "anystep.sample", "--model", "x", "--steps", "0", "--prompt", "a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
