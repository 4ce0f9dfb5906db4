"""The short form of `anystep bench faults`: every promise, tried a few times."""

import json

import pytest

from anystep.bench import faults
from anystep.errors import UserError

FIRST = "window,files,pictures,values"
OTHERS = ",".join(name for name, (_, _, _, number) in faults.FAULTS.items() if number and name not in FIRST.split(","))


@pytest.mark.slow
@pytest.mark.parametrize("only", [FIRST, pytest.param(OTHERS, marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore")  # what Pillow and orbax say of damage that was done on purpose
def test_what_is_promised_is_kept(only, tmp_path, capsys):
    asked = ["--short", "--only", only, "--out", str(tmp_path / "faults.json"), "--folder", str(tmp_path / "runs")]
    assert faults.main(asked) == 0, capsys.readouterr().out
    rows = json.loads((tmp_path / "faults.json").read_text())["result"]
    assert set(rows) == set(only.split(","))
    assert all(row["kept"] == row["tried"] >= 1 for row in rows.values())


def test_a_broken_promise_is_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(faults, "FAULTS", {"x": ("a fault", lambda folder, seed, number: {"tried": number, "kept": 2, "seen": "so"}, 3, 2)})
    assert faults.main([]) == 1 and "2 of 3" in (said := capsys.readouterr().out) and "BROKEN" in said
    assert faults.main(["--short"]) == 0 and "as promised" in capsys.readouterr().out
    with pytest.raises(UserError, match="allowed x"):
        faults.main(["--only", "y"])
