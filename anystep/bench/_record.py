"""Writes a measurement so that it can be believed later. Not a benchmark: the other files here call it."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess


def write(path, command, result):
    """`result` as JSON with the command, the commit, the device and the versions it was measured with."""
    import jax

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=pathlib.Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    text = json.dumps(
        {
            "command": command.strip(),
            "date": datetime.date.today().isoformat(),
            "commit": commit or None,
            "device": {
                "kind": jax.devices()[0].device_kind,
                "count": jax.device_count(),
                "cores": os.cpu_count(),
                "machine": platform.machine(),
            },
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
            "result": result,
        },
        indent=1,
    )
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    print(path)
