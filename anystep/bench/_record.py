"""Writes a measurement so that it can be believed later. Not a benchmark: the other files here call it."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess

from anystep.files import write_whole


def write(path, command, result):
    """`result` as JSON with the command, the commit, the device and the versions it was measured with."""
    said = {"command": command.strip(), "date": datetime.date.today().isoformat(), "commit": commit()} | place() | {"result": result}
    write_whole(path, (json.dumps(said, indent=1) + "\n").encode())
    print(path)


def commit():
    """That of this file's repository; None where it is installed without one, or git is missing."""
    here = pathlib.Path(__file__).resolve().parents[2]
    try:
        said = subprocess.run(["git", "rev-parse", "--show-toplevel", "HEAD"], cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    top, _, commit = said.stdout.strip().partition("\n")
    return commit if said.returncode == 0 and pathlib.Path(top).resolve() == here else None


def place():
    """{"device", "versions"} of this process."""
    import jax

    device = {"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "cores": os.cpu_count(), "machine": platform.machine()}
    libraries = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    return {"device": device, "versions": {"python": platform.python_version()} | libraries}


def made():
    """The same in a few words, for one row among others."""
    here = place()
    return f"{(commit() or 'no commit')[:12]}, {here['device']['count']} {here['device']['kind']}, jax {here['versions']['jax']}"
