"""Configs: every field refuses what it must, by name and in one line, and before jax is imported."""

import importlib.util
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from anystep import config, flags
from anystep.config.fields import DATA, FIELDS
from anystep.errors import UserError

ROOT = Path(__file__).parents[1]
PICTURES = {"kind": "pictures", "batch": 4, "size": 16, "path": "", "style_captions": False, "dev_share": 0.1, "background": "white"}


def tree(kind="mixture2d"):
    """A sound nested dict with the fields of one kind of data."""
    base = config.read("shapes" if kind == "shapes" else "smoke")
    if kind == "pictures":
        base["data"] = dict(PICTURES)
        base["model"]["net"] = "sana"
    return base


def put(nested, path, value):
    *sections, name = path.split(".")
    for section in sections:
        nested = nested[section]
    nested[name] = value


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


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


def with_values(kind="mixture2d", **values):
    nested = tree(kind)
    nested["objective"]["consistency"]["share"] = 0
    for path, value in values.items():
        put(nested, path.replace("__", "."), value)
    return nested


ALONE = dict(objective__self_evaluation__share=0, objective__consistency__share=0)
JUMPS = dict(
    objective__self_evaluation__share=0,
    objective__consistency__share=1,
    objective__consistency__velocity="ema",
    objective__consistency__guidance=2.0,
)
RULES = [  # what makes a sound config unsound -> the field that is named; then what makes it sound again
    (ALONE | dict(objective__flow_matching__share=0), "objective.flow_matching.share", dict(objective__flow_matching__share=1)),
    (dict(data__batch=64, objective__flow_matching__share=4), "data.batch", dict(data__batch=65)),
    (dict(data__batch=66, mesh__data=2, mesh__fsdp=2), "data.batch", dict(data__batch=72)),
    (dict(data__batch=6, mesh__data=2, objective__flow_matching__share=5), "data.batch", dict(data__batch=12)),  # 6 and 2, not 12
    (dict(train__steps=2**25, data__batch=66), "train.steps", dict(data__batch=63)),
    (dict(train__steps=2**31 - 1, data__batch=3), "train.steps", dict(train__steps=715827882)),
    (dict(model__net="sana"), "model.net", dict(model__net="mlp")),
    (dict(mesh__data=0), "mesh.data", dict(mesh__data=1)),
    (dict(model__text__width=33), "model.text.width", dict(model__text__heads=3)),
    (dict(optim__warmup=201, train__steps=200), "optim.warmup", dict(optim__warmup=200)),
    (dict(objective__prompt_dropout=0.0), "objective.prompt_dropout", dict(objective__self_evaluation__share=0)),
    (dict(eval__steps=(1, 4, 2)), "eval.steps", dict(eval__steps=(1, 2, 4))),
    (dict(eval__steps=(1, 1)), "eval.steps", dict(eval__steps=(1,))),
    (dict(eval__interval=(0.5, 0.5)), "eval.interval", dict(eval__interval=(0.5, 0.6))),
    (dict(path__name="trig"), "path.name", dict(objective__self_evaluation__share=0)),
    *(
        (
            ALONE | dict(path__name="trig", objective__consistency__share=2, objective__consistency__s_law=law),
            "path.name",
            dict(objective__consistency__share=0),
        )
        for law in ("zero", "uniform")
    ),
    (
        dict(objective__consistency__share=1, objective__consistency__s_law="uniform"),
        "objective.consistency.s_law",
        dict(objective__consistency__s_law="zero"),
    ),
    (
        dict(objective__consistency__share=1, objective__self_evaluation__s_min=0.0),
        "objective.self_evaluation.s_min",
        dict(objective__consistency__share=0),
    ),
    (JUMPS | dict(objective__consistency__velocity="data"), "objective.consistency.guidance", dict(objective__consistency__guidance=1.0)),
    (JUMPS | dict(objective__consistency__s_law="uniform"), "objective.consistency.guidance", dict(objective__consistency__guidance=1.0)),
    (JUMPS | dict(objective__flow_matching__share=0), "objective.consistency.velocity", dict(objective__flow_matching__share=1)),
    (JUMPS | dict(objective__consistency__interval=(0.5, 0.5)), "objective.consistency.interval", dict(objective__consistency__share=0)),
    (JUMPS | dict(objective__flow_matching__weight=0.0), "objective.consistency.velocity", dict(objective__flow_matching__weight=1.0)),
    (JUMPS | dict(train__steps=50, objective__consistency__start=50), "objective.consistency.start", dict(train__steps=51)),
    (JUMPS | dict(eval__ask="half"), "eval.ask", dict(eval__ask="zero")),
    (JUMPS | dict(objective__prompt_dropout=0.0), "objective.prompt_dropout", dict(objective__consistency__guidance=1.0)),
]


@pytest.mark.parametrize(("bad", "path", "mend"), RULES)
def test_rules_between_fields(bad, path, mend):
    first = {"data__batch": 60} | bad
    assert refusal(config.from_dict, with_values(**first)).startswith(f"config.{path} = ")
    config.from_dict(with_values(**(first | mend)))


PICTURE_RULES = [
    (dict(model__net="mlp"), "model.net", dict(model__net="sana")),
    (dict(data__size=18, model__patch=4), "data.size", dict(data__size=20)),
    (dict(model__width=64, model__heads=5, model__cross_heads=2), "model.width", dict(model__width=60)),
    (dict(model__width=64, model__cross_heads=5), "model.width", dict(model__cross_heads=4)),
    (dict(model__width=62, model__heads=2, model__cross_heads=2, model__positions="sincos"), "model.width", dict(model__positions="none")),
]


@pytest.mark.parametrize("kind", ["shapes", "pictures"])
@pytest.mark.parametrize(("bad", "path", "mend"), PICTURE_RULES)
def test_rules_of_the_picture_network(kind, bad, path, mend):
    first = {"data__batch": 60} | bad
    assert refusal(config.from_dict, with_values(kind, **first)).startswith(f"config.{path} = ")
    config.from_dict(with_values(kind, **(first | mend)))


def test_points_are_not_held_to_the_fields_of_the_picture_network():
    config.from_dict(with_values(data__batch=60, data__size=3, model__patch=2, model__width=63, model__heads=4, model__positions="sincos"))


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
    ("bad", "path"),
    [
        (dict(data__size=8), "data.size"),
        (dict(data__colors=("red", "red")), "data.colors"),
        (dict(data__wrong_relation=0.7, data__missing_relation=0.4), "data.wrong_relation"),
    ],
)
def test_rules_of_the_shapes_world(bad, path):
    assert refusal(config.from_dict, with_values("shapes", **bad)).startswith(f"config.{path} = ")


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
