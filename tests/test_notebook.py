"""The notebook: valid, without outputs, short; executed as a whole with few training steps."""

import json
from pathlib import Path

import pytest

from anystep import checkpoint

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "launch" / "anystep.ipynb"


def test_notebook_is_valid_and_cleared():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 5 <= len(cells) <= 12
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.long
@pytest.mark.usefixtures("full_compilation")
def test_notebook_runs(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("ANYSTEP_NOTEBOOK_STEPS", "60")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 4  # losses, strip, guidance, report
    report = json.loads((tmp_path / "notebook-run" / "report.json").read_text())
    assert list(report["steps"]) == ["1", "2", "4", "8", "32"] and report["prompts"] == 48
    rows = [json.loads(line) for line in (tmp_path / "notebook-run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 60
    assert checkpoint.committed_steps(tmp_path / "notebook-run")[-1] == 60  # a relative work directory can be continued
