"""A study on points: trained, drawn, resumed, summed up; what is recorded is not made again."""

import json
from pathlib import Path

import pytest

from anystep import logs
from anystep.bench import _draw, _plan, _recall, _record, _sum, study
from anystep.errors import UserError

PLAN = """
def get_plan():
    alone = ["objective.self_evaluation.share=0", "objective.consistency.share=0"]
    small = ["train.steps=8", "train.log_every=4", "checkpoint.every=4", "optim.warmup=1", "data.batch=66", "model.width=16"]
    return dict(
        config="smoke",
        world=small,
        methods={
            "flow matching": dict(overrides=alone, seeds=1, draws=[("euler", "now", 1.0)]),
            "Self-E": dict(overrides=["objective.consistency.share=0"], seeds=1, draws=[("euler", "next", 1.0), ("restart", "next", 1.0)]),
        },
        steps=(1, 2),
        prompts=24,
        split="dev",
        variety=(4, 3),
        at_steps=(4, 6),
        at_seconds=(1000,),
        claims=[
            (dict(method="Self-E", sampler="euler", ask="next", scale=1.0, steps=1), "better", dict(method="best", steps=1)),
            (dict(method="Self-E", sampler="restart", ask="next", scale=1.0, steps=1), "equal", dict(method="best", steps=1), 0.8),
        ],
    )
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.py"
    path.write_text(PLAN)
    return path


@pytest.mark.long
def test_a_study_from_end_to_end(plan, tmp_path, monkeypatch):
    flags = ["--plan", str(plan), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json")]
    study.main([*flags, "--only", "flow matching"])
    first = json.loads((tmp_path / "out.json").read_text())["result"]
    assert [claim["verdict"] for claim in first["claims"]] == ["not recorded", "not recorded"]
    study.main(flags)
    result = json.loads((tmp_path / "out.json").read_text())["result"]
    assert {(row["method"], row["at"], row["seeds"]) for row in result["rows"]} == {
        (method, at, 1) for method in ("flow matching", "Self-E") for at in ("step 4", "step 6", "end")
    }
    for claim in result["claims"]:
        assert claim["against"][0] == "flow matching" and claim["verdict"] in ("holds", "does not", "unresolved")
    by_key = {(row["at"], row["sampler"], row["steps"]): row for row in result["rows"] if row["method"] == "Self-E"}
    assert set(by_key) == {("end", "restart", 1), ("end", "restart", 2)} | {
        (at, "euler", steps) for at in ("step 4", "step 6", "end") for steps in (1, 2)
    }  # the first draw at every point, the others at the end
    assert by_key["step 6", "euler", 1]["overall"] == by_key["step 4", "euler", 1]["overall"]  # both are step 4
    assert by_key["end", "euler", 2]["variety"] > 0 and by_key["end", "restart", 2]["variety"] is None
    assert 0.05 < result["data"]["variety"] < 0.15  # two points of deviation .05 are .05 sqrt(2) apart in each number
    assert abs(by_key["end", "euler", 2]["norm"] - 1.0) < 0.5 and result["data"]["norm"] == pytest.approx(1.0, abs=0.1)
    assert all(entry["memory_bytes"] > 1e4 for entry in result["costs"].values())
    assert (tmp_path / "out.png").stat().st_size > 1000

    rows = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json*")}
    trained = []
    monkeypatch.setattr(study, "process", lambda *command: trained.append(command) if "train" in command else None)
    study.main(flags)
    for run in _plan.list_runs(_plan.read(str(plan)), tmp_path / "runs"):
        _draw.main(["rows", str(plan), str(tmp_path / "runs"), run.folder.name])
    assert not trained and len(rows) > 3 and rows == {path: path.read_bytes() for path in rows}

    elsewhere = ["--plan", str(plan), "--runs", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(study, "process", lambda *command: trained.append(command) if "rows" not in command else None)
    study.main(elsewhere)
    again = json.loads((tmp_path / "out.json").read_text())["result"]
    assert (
        [command[1] for command in trained] == ["costs", "costs"]
        and again["rows"] == result["rows"]
        and again["claims"] == result["claims"]
    )

    plan.write_text(PLAN.replace('split="dev"', 'split="train"'))  # other prompts: nothing that is recorded answers them
    study.main(flags)
    assert json.loads((tmp_path / "out.json").read_text())["result"]["rows"] == []
    plan.write_text(PLAN.replace("train.steps=8", "train.steps=12"))
    with pytest.raises(UserError, match="another config"):
        study.main(flags)


def test_seconds_add_up_over_phases():
    cost = {"phases": [[0, 0.5], [10, 1.0], [30, 2.0]]}
    assert [_draw.seconds_until(cost, step) for step in (0, 4, 10, 30, 31)] == [0, 2, 5, 25, 27]


def test_points_are_the_newest_checkpoints_that_are_not_beyond(plan, tmp_path, monkeypatch):
    asked = _plan.read(str(plan)) | {"at_steps": (4, 7, 9), "at_seconds": (0.5, 5, 11, 30)}
    run = _plan.list_runs(asked, tmp_path)[0]
    monkeypatch.setattr(_draw, "committed_steps", lambda folder: [1, 4, 6, 8])
    cost = {"phases": [[0, 1.0], [4, 2.0]]}  # 1 s, 4 s, 8 s, 12 s
    assert _draw.points(run, asked, cost) == {"step 4": 4, "step 7": 6, "5 s": 4, "11 s": 6, "end": 8}
    monkeypatch.setattr(_draw, "committed_steps", lambda folder: [1, 4, 6])
    with pytest.raises(UserError, match="no checkpoint of its last step, 8"):
        _draw.points(run, asked, cost)


def test_the_rival_is_the_best_of_the_others_when_all_are_there(plan, tmp_path):
    tags = ["a", "a", "b", "b", "b", "b", "b", "b"]
    asked = _plan.read(str(plan))
    runs = _plan.list_runs(asked, tmp_path)
    right = {name: {"correct": said} for name, said in (("more", "00111100"), ("even", "11000010"), ("mine", "1" * 8))}
    self_e = [("Self-E", "end", sampler, "next", 1.0, 1) for sampler in ("euler", "restart")]
    found = {
        ("flow matching", "end", "euler", "now", 1.0, 1): {0: right["mine"]},
        self_e[0]: {0: right["more"]},  # more prompts
        self_e[1]: {0: right["even"]},  # a better mean of the tags
    }
    place = dict(method="flow matching", sampler="euler", ask="now", scale=1.0, steps=1)
    said = _sum.judged(found, set(found), runs, asked, tags, place, "no worse", dict(method="best", steps=1))
    assert said["against"] == list(self_e[1]) and said["mean"] == pytest.approx(1 - (1 + 1 / 6) / 2) and said["verdict"] == "holds"
    half = _sum.judged(found, set(found), runs, asked, tags, place, "no worse", dict(method="best", steps=1), 0.5)
    assert half["mean"] == pytest.approx(1 - (1 + 1 / 6) / 4) and half["share"] == 0.5
    for missing in found:
        complete = set(found) - {missing}
        said = _sum.judged(found, complete, runs, asked, tags, place, "no worse", dict(method="best", steps=1))
        assert said["verdict"] == "not recorded"


STUDENTS = """
            "student": dict(overrides=[*alone, "init_from={runs}/flow-matching-{seed}"], seeds=1, draws=[("euler", "now", 1.0)]),
            "its student": dict(overrides=[*alone, "init_from={runs}/student-{seed}/model"], seeds=1, draws=[("euler", "now", 1.0)]),
        },
        steps=(1, 2)"""


def test_what_a_record_keeps_is_not_trained_again(plan, tmp_path):
    text = PLAN.replace("},\n        steps=(1, 2)", STUDENTS.strip("\n"))
    points, everything = {"step 4": 4, "step 6": 4, "end": 8}, {"flow matching", "Self-E", "student", "its student"}

    def runs_of(folder, *change):
        plan.write_text(text.replace(*change) if change else text)
        asked = _plan.read(str(plan))
        return asked, _plan.list_runs(asked, tmp_path / folder)

    asked, runs = runs_of("first")
    for run in runs:
        writer, (_, digest) = logs.JsonlWriter(run.folder / "rows.jsonl"), _draw.asked_of(run, asked)
        for step in (4, 8):
            for key in run.keys(asked, step == 8):
                writer.write(dict(zip(_draw.NAMED, (digest, step, *key), strict=True)) | {"correct": "1" * 24})
        (run.folder / _draw.POINTS).write_text(json.dumps(points))
    record, costs = tmp_path / "record.json", {run.method: {"phases": [[0, 1.0]], "name": run.method} for run in runs}
    _record.write(record, "bench study", {"drawn": _recall.kept(runs, asked, costs)})

    def to_train(folder, *change):
        asked, runs = runs_of(folder, *change)
        _recall.bring(record, runs, asked)
        return {run.method for run in runs if _recall.to_train(run, runs, asked)}, _draw.read_costs(tmp_path / folder)

    none, brought = to_train("same")
    assert none == set() and brought == {_draw.digest(run): costs[run.method] for run in runs}
    _, again = runs_of("same")
    assert [_draw.read_rows(run) for run in again] == [_draw.read_rows(run) for run in runs]
    assert _draw.points(again[0], asked, None) == points
    lr = ("overrides=alone", 'overrides=[*alone, "optim.lr=7e-3"]')
    with pytest.raises(UserError, match="another config"):  # rows that were brought are of that config, too
        to_train("same", *lr)
    changed, brought = to_train("teacher", *lr)
    assert changed == everything - {"Self-E"} and brought == {}  # a student of another teacher is another student, and so is its student
    assert to_train("student", "{runs}/flow-matching-{seed}", "{runs}/self-e-{seed}")[0] == {"student", "its student", "Self-E"}
    assert to_train("points", "at_steps=(4, 6)", "at_steps=(4, 7)")[0] == everything
    again[1].folder.joinpath("rows.jsonl").write_text("")
    assert to_train("same")[0] == set() and _draw.read_rows(again[1])  # what is missing is brought
    assert to_train("same", "at_seconds=(1000,)", "at_seconds=(7,)")[0] == everything  # there is no picture of that time
    _recall.forget(again[1])
    assert to_train("same", '"train.log_every=4"', '"train.log_every=2"')[0] == set()  # which decides nothing
    for wrong in ("{", "{}", "[]", '{"result": {"rows": []}}'):
        record.write_text(wrong)
        with pytest.raises(UserError, match="no record that a study can go on from"):
            to_train("same")
    record.unlink()
    record.mkdir()
    with pytest.raises(UserError, match="no record that a study can go on from"):
        to_train("same")


def test_a_model_of_another_config_is_refused(plan, tmp_path):
    plan.write_text(PLAN.replace("overrides=alone,", 'overrides=alone, model="nine_shapes",'))
    with pytest.raises(UserError, match="take another model"):
        study.main(["--plan", str(plan), "--runs", str(tmp_path)])
    runs = _plan.list_runs(_plan.read("budget"), tmp_path)
    packaged = next(run for run in runs if run.model)
    assert packaged.done() and _draw.points(packaged, _plan.read("budget"), None) == {"end": packaged.config.train.steps}
    with pytest.raises(UserError, match="must be a model folder"):
        packaged._replace(model=str(Path(__file__).parent / "fixtures/pipeline_sana_flow")).done()


@pytest.mark.parametrize(
    "change, part",
    [
        (('config="smoke",', ""), "'config' is missing"),
        (('split="dev"', 'split="dev", extra=1'), "'extra' is unknown"),
        (("prompts=24", 'prompts="24"'), "'prompts' must be a int"),
        (('"better"', '"best"'), "claim one of better, no worse, equal"),
        (("def get_plan", "def plan"), "cannot be read: AttributeError"),
        (("return dict(", "return dict(1 / 0, "), "cannot be read: ZeroDivisionError"),
        (('"restart", ask="next"', '"restart", ask="now"'), "of something that the plan draws"),
        (("steps=1), 0.8)", "steps=1), 0.8, 1)"), r"\(place, claim, place\[, share\]\)"),
        (("variety=(4, 3)", "variety=(25, 3)"), "variety"),
        (("variety=(4, 3)", "variety=(4, 1)"), "variety"),
        (("variety=(4, 3)", "variety=(4, 2.5)"), "variety .* whole numbers"),
        (("at_steps=(4, 6)", 'at_steps=("4",)'), "at_steps .* whole numbers"),
        (('dict(method="best", steps=1), 0.8)', '"best", 0.8)'), "claim about 'best': must be a dictionary"),
        (('method="best", steps=1), 0.8)', 'method="best", steps=3), 0.8)'), "of something that the plan draws"),
        (('("euler", "now", 1.0)', '("eule", "now", 1.0)'), "must be .euler, heun"),
        (('("euler", "now", 1.0)', '("euler", "now")'), "a scale or None"),
        (('("euler", "now", 1.0)', '("euler", "now", 1 / 3)'), "at most six digits"),
        (("overrides=alone", 'overrides=["seed=3"]'), "which all methods share"),
        (
            ('seeds=1, draws=[("euler", "now"', 'seeds=2, model=\'nine_shapes\', draws=[("euler", "now"'),
            "must be a folder or a name, and seeds 1",
        ),
    ],
)
def test_plans_are_refused(plan, change, part):
    plan.write_text(PLAN.replace(*change))
    with pytest.raises(UserError, match=part):
        _plan.read(str(plan))


def test_a_commit_is_this_repository_s_or_none(monkeypatch, tmp_path):
    monkeypatch.setattr(_record, "__file__", str(tmp_path / "anystep/bench/_record.py"))  # installed without one, or inside another's
    assert _record.commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))  # without git
    assert _record.commit() is None


def test_flags_are_refused(plan, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        study.main(["--plan", "none", "--runs", str(tmp_path)])
    with pytest.raises(UserError, match="must be a folder of this machine"):
        study.main(["--plan", str(plan), "--runs", "gs://bucket/runs"])
    with pytest.raises(UserError, match="allowed flow matching, Self-E"):
        study.main(["--plan", str(plan), "--runs", str(tmp_path), "--only", "self-e"])
    bad = plan.read_text().replace('"train.steps=8"', '"train.steps=0"')
    plan.write_text(bad)
    with pytest.raises(UserError, match="train.steps"):
        study.main(["--plan", str(plan), "--runs", str(tmp_path)])
    assert not list(tmp_path.glob("*-0"))


@pytest.mark.parametrize("name", sorted(file.stem for file in _plan.PLANS.glob("[!_]*.py")))
def test_packaged_plans_are_sound(name, tmp_path):
    runs = _plan.list_runs(_plan.read(name), tmp_path)
    asked = {json.dumps(run.config.to_dict(), sort_keys=True) for run in runs if run.seed == 0}
    assert len(asked) == len({run.method for run in runs}) > 1


def test_what_costs_the_same_is_measured_once(tmp_path):
    digests = {run.method: _draw.digest(run) for run in _plan.list_runs(_plan.read("sprint_budget"), tmp_path)}
    assert digests["sprint"] == digests["sprint 2x"] == digests["sprint 4x"] != digests["over a grid 1x"] == digests["over a grid 4x"]
