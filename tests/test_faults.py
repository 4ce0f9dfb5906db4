"""The short form of `anystep bench faults`: every promise, tried a few times."""

import json

import pytest

from anystep.bench import faults
from anystep.errors import UserError

pytestmark = pytest.mark.usefixtures("light_compilation")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what Pillow and orbax say of damage that was done on purpose
def test_what_is_promised_is_kept(tmp_path, capsys):
    assert faults.main(["--short", "--out", str(tmp_path / "faults.json"), "--folder", str(tmp_path / "runs")]) == 0, (
        capsys.readouterr().out
    )
    rows = json.loads((tmp_path / "faults.json").read_text())["result"]
    assert set(rows) == {name for name, (_, _, _, number) in faults.FAULTS.items() if number}
    assert all(row["kept"] == row["tried"] >= 1 for row in rows.values())


def test_a_broken_promise_is_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(faults, "FAULTS", {"x": ("a fault", lambda folder, seed, number: {"tried": number, "kept": 2, "seen": "so"}, 3, 2)})
    assert faults.main([]) == 1 and "2 of 3" in (said := capsys.readouterr().out) and "BROKEN" in said
    assert faults.main(["--short"]) == 0 and "as promised" in capsys.readouterr().out
    with pytest.raises(UserError, match="allowed x"):
        faults.main(["--only", "y"])
