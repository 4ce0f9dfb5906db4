"""The command line as a process: what a mistake looks like, and that help needs no jax."""

import subprocess
import sys
from pathlib import Path

import pytest

from anystep import bench
from anystep.__main__ import COMMANDS
from anystep.errors import UserError, run_main

ROOT = Path(__file__).parents[1]


def anystep(*arguments, module="anystep", flags=()):
    return subprocess.run([sys.executable, *flags, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_help_lists_the_commands_without_jax():
    done = anystep("--help", flags=("-X", "importtime"))
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and anystep().stdout == done.stdout
    assert all(any(line.split()[:1] == [name] and len(line.split()) > 3 for line in lines) for name in COMMANDS)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "anystep.errors" in imported and not {"jax", "numpy", "ml_collections"} & imported


@pytest.mark.parametrize(
    ("arguments", "module", "line"),
    [
        (("trian", "--config", "shapes"), "anystep", "error: no command 'trian'; did you mean 'train'?"),
        (("fly",), "anystep", "error: no command 'fly'; known: train, sample, evaluate, ckpt"),
        (("bench", "no_such_benchmark"), "anystep", "error: no benchmark 'no_such_benchmark'; "),
        (("no_such_benchmark",), "anystep.bench", "error: no benchmark 'no_such_benchmark'; "),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, module, line):
    done = anystep(*arguments, module=module)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("answer", "code"), [(None, 0), (0, 0), (42, 42)])
def test_exit_codes(answer, code):
    with pytest.raises(SystemExit) as left:
        run_main(lambda argv: answer if argv == ["a"] else 99, ["a"])
    assert left.value.code == code


def test_only_a_user_error_loses_its_traceback(capsys):
    def refuse(argv):
        raise UserError("field = 3:\n must be 4")

    with pytest.raises(SystemExit) as left:
        run_main(refuse, [])
    assert left.value.code == 2 and capsys.readouterr().err == "error: field = 3: must be 4\n"
    with pytest.raises(ValueError, match="a bug"):
        run_main(lambda argv: int("a bug"), [])


def test_benchmarks_are_listed_and_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "speed.py").write_text('"""How fast.\n\nMore."""\nraise RuntimeError("imported")\n')
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    assert bench.names() == ["speed"]
    assert bench.main([]) == 0
    assert ["speed", "How", "fast."] in [line.split() for line in capsys.readouterr().out.splitlines()]
    with pytest.raises(UserError, match="did you mean 'speed'"):
        bench.main(["sped"])
    monkeypatch.setitem(sys.modules, "anystep.bench.speed", type(sys)("speed"))
    sys.modules["anystep.bench.speed"].main = lambda argv: argv
    assert bench.main(["speed", "--quick"]) == ["--quick"]
