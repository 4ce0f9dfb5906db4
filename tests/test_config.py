"""Configs: every field refuses what it must, by name and in one line, and before jax is imported."""

import importlib.util
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from nested import put, refusal, tree

from anystep import config, flags
from anystep.config.fields import DATA, FIELDS
from anystep.errors import UserError

ROOT = Path(__file__).parents[1]


def bad_value(field, rng):
    """Something that the field must not take: a wrong type, a number outside, a word not on the list."""
    wrong = {
        int: ["three", 1.5, True, None, (1,)],
        float: ["fast", math.nan, math.inf, False, None],
        bool: ["yes", 0, 1.0, None],
        str: [3, None, ("a",)],
    }
    if field.kind is tuple:
        good = {int: 1, float: 0.5, str: (field.item.choices or ("a",))[0]}[field.item.kind]
        return rng.choice([3, "word", None, (), [good, bad_value(field.item, rng)]])
    choices = list(wrong[field.kind])
    if field.kind in (int, float):
        away = 1 if field.kind is int else 0.25
        choices += [field.low - away, field.high + away] * 2
    if field.choices:
        choices += [field.choices[0].upper(), field.choices[0] + "s", ""]
    return rng.choice(choices)


CASES = [(kind, path) for kind in DATA for path in FIELDS | DATA[kind]]


def test_two_hundred_bad_values_are_refused_by_name():
    rng = random.Random(7)
    for kind, path in CASES + rng.sample(CASES, max(0, 250 - len(CASES))):
        value = bad_value((FIELDS | DATA[kind])[path], rng)
        nested = tree(kind)
        put(nested, path, value)
        text = refusal(config.from_dict, nested)
        assert text.startswith(f"config.{path} = ") and repr(value)[:20].strip("[]()") in text and "must be" in text, (path, value, text)


@pytest.mark.parametrize(
    ("path", "value"), [("eval.steps", ()), ("eval.interval", (0.1,)), ("eval.interval", (0.1, 0.2, 0.3)), ("data.shapes", ("ring",))]
)
def test_tuples_have_their_length(path, value):
    nested = tree("shapes")
    put(nested, path, value)
    assert refusal(config.from_dict, nested).startswith(f"config.{path} = {value!r}")


@pytest.mark.parametrize("file", sorted(ROOT.glob("configs/*.py")), ids=lambda file: file.stem)
def test_every_config_passes(file):
    spec = importlib.util.spec_from_file_location("a_config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.get_config()
    config.check(made)
    loaded, rest = config.load(["--config", file.stem])
    assert loaded.to_dict() == made.to_dict() and rest == []
    assert config.from_dict(json.loads(json.dumps(made.to_dict()))) == loaded


def test_every_field_missing_is_refused():
    for kind, path in CASES:
        nested = tree(kind)
        *sections, name = path.split(".")
        place = nested
        for section in sections:
            place = place[section]
        del place[name]
        assert refusal(config.from_dict, nested).startswith(f"config.{path}: missing"), path


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("model.widht", "model.width"),
        ("optim.learning_rate", None),
        ("optim.weigth_decay", "optim.weight_decay"),
        ("lr", "optim.lr"),
        ("objective.self_evalution.share", "objective.self_evaluation.share"),
        ("eval.step", "eval.steps"),
        ("checkpoint.evry", "checkpoint.every"),
    ],
)
def test_typos_are_hinted(typo, meant):
    text = refusal(config.load, ["--config", "smoke", f"--config.{typo}=1"])
    assert text.startswith(f"config.{typo}: no such field") and (meant is None or f"did you mean config.{meant}?" in text)
    nested = tree()
    nested["optim"]["lrr"] = 1.0
    assert "config.optim.lrr: no such field; did you mean config.optim.lr?" == refusal(config.from_dict, nested)


@pytest.mark.parametrize(
    ("argument", "path", "value"),
    [
        ("--config.eval.steps=1,2,4", "eval.steps", (1, 2, 4)),
        ("--config.eval.steps=(1, 2, 4)", "eval.steps", (1, 2, 4)),
        ("--config.eval.steps=[1,]", "eval.steps", (1,)),
        ("--config.eval.interval=0,0.5", "eval.interval", (0.0, 0.5)),
        ("--config.optim.lr=1", "optim.lr", 1.0),
        ("--config.optim.lr=1e-5", "optim.lr", 1e-5),
        ("--config.mesh.data=-1", "mesh.data", -1),
        ("--config.model.scan=true", "model.scan", True),
        ("--config.model.scan=False", "model.scan", False),
        ("--config.init_from=a=b,(c)", "init_from", "a=b,(c)"),
        ("--config.init_from=", "init_from", ""),
        ("--config.model.dtype=bfloat16", "model.dtype", "bfloat16"),
        ("--config.data.modes=3", "data.modes", 3),
    ],
)
def test_overrides_keep_types(argument, path, value):
    together, rest = config.load(["--config=smoke", "--workdir", "here", argument, "--dry_run"])
    apart, _ = config.load(["--config", "smoke", *argument.split("=", 1)])
    assert rest == ["--workdir", "here", "--dry_run"] and together == apart
    found = together
    for name in path.split("."):
        found = found[name]
    assert found == value and type(found) is type(value)
    if isinstance(value, tuple):
        assert [type(item) for item in found] == [type(item) for item in value]


def test_names_of_the_shapes_world_on_the_command_line():
    loaded, _ = config.load(["--config=shapes", "--config.data.shapes=ring,'cross'", "--config.data.colors=('red','pink')"])
    assert loaded.data.shapes == ("ring", "cross") and loaded.data.colors == ("red", "pink")


@pytest.mark.parametrize(("path", "most"), [("eval.steps", flags.MOST_STEPS), ("eval.scale", flags.MOST_SCALE)])
def test_a_config_and_a_flag_have_the_same_limit(path, most):
    nested = tree()
    put(nested, path, (most,) if path == "eval.steps" else most)
    config.from_dict(nested)
    put(nested, path, (most + 1,) if path == "eval.steps" else most + 1)
    assert refusal(config.from_dict, nested).startswith(f"config.{path} = ")


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--config", "smoke", "-h"]])
def test_help_is_not_a_missing_config(argv, capsys):
    with pytest.raises(SystemExit) as left:
        config.load(argv)
    said = capsys.readouterr().out
    assert left.value.code == 0 and said.startswith("usage: ")
    assert all(word in said for word in ("smoke", "shapes", "pictures", "--helpconfig"))


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "--config: missing"),
        (["--config", "shappes"], "did you mean 'shapes'?"),
        (["--config", "no/such/file.py"], "neither a .py or .json file nor a packaged name"),
        (["--config"], "needs a value"),
        (["--config", "smoke", "--config.model.scan"], "--config.model.scan: needs a value"),
        (["--config", "smoke", "--config.model=3"], "config.model: is a section"),
        (["--config", "smoke", "--config.data.path=x"], "only"),
        (["--config", "smoke", "--config.data.kind=picture"], "config.data.kind = 'picture'"),
        (["--config", "smoke", "--config.eval.steps=1;2"], "config.eval.steps = "),
        (["--config", "smoke", "--config.seed=__import__('os')"], "config.seed = "),
    ],
)
def test_command_lines_are_refused(argv, part):
    assert part in refusal(config.load, argv)


def test_broken_files_are_refused(tmp_path):
    for name, text in {
        "a.py": "def get_config(:",
        "b.py": "x = 1",
        "c.py": "raise RuntimeError('no\\nway')",
        "d.json": "[1]",
        "e.json": "{",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=name):
            config.load(["--config", str(tmp_path / name)])


def test_a_file_and_a_saved_json_load(tmp_path):
    expected, _ = config.load(["--config", "smoke"])
    (tmp_path / "config.json").write_text(json.dumps(expected.to_dict()))
    (tmp_path / "mine.py").write_text((ROOT / "configs" / "smoke.py").read_text())
    for name in ("config.json", "mine.py"):
        loaded, _ = config.load(["--config", str(tmp_path / name), "--config.seed=5"])
        assert loaded.seed == 5 and loaded.eval.steps == expected.eval.steps
    with pytest.raises(AttributeError):
        loaded.sead = 1
    with pytest.raises(TypeError):
        loaded.seed = "five"


def test_description_names_every_field():
    text = config.describe()
    assert all(f"config.{path}: " in text for _, path in CASES)


def test_refusal_comes_before_jax():
    program = (
        "import sys\nfrom anystep import config\nfrom anystep.errors import run_main\n"
        "try: run_main(lambda argv: config.load(argv), ['--config', 'shapes', '--config.model.width=0'])\n"
        "finally: print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout.strip() == "False"
    assert done.stderr.startswith("error: config.model.width = 0") and done.stderr.count("\n") == 1
