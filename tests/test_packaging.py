"""What pip installs: the command, the packaged configs, every module; from a wheel and as an editable install."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import anystep, json
from anystep import config
loaded, _ = config.load(["--config", "shapes"])
print(json.dumps([anystep.__file__, str(config.packaged()["shapes"]), loaded.data.kind]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-e",)], ids=["wheel", "editable"])
def test_install(tmp_path, flags):
    source, home = tmp_path / "source", tmp_path / "venv"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests"))
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # read-only use of what this environment has

    def run(*command):
        done = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation", *flags, source)
    place = source if flags else site
    file, shapes, kind = json.loads(run(python, "-c", PROGRAM))
    assert Path(file).is_relative_to(place) and Path(shapes).is_relative_to(place) and kind == "shapes"
    version = run(home / "bin" / "anystep", "--version")
    assert version == run(python, "-m", "anystep", "--version") and version.split()[1].count(".") == 2
    if not flags:
        wanted = {path.relative_to(ROOT) for path in (ROOT / "anystep").rglob("*.py")}
        assert wanted <= {path.relative_to(site) for path in (site / "anystep").rglob("*.py")}
        assert not any((site / name).exists() for name in ("configs", "tests", "launch"))
