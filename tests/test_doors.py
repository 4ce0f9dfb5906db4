"""Floors and doors: who may import whom. Read from the source with ast, so that imports inside functions count too."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Imports go down: a room may import rooms of lower floors and itself, never a neighbour. Every file of the package lives in a room.
FLOORS = (
    "errors types tree arrays files flops positions",  # positions: rules on boxes, which shapes draws and judges by
    "path times flow_map guide weighting shapes stores relations control",  # relations: words, for steering and `parse`; control: edges
    "nets",
    "objectives sampling",
    "mesh optim spikes logs cache",
    "state checkpoint guard weights",
    "steering",  # its classifiers lie in folders of weights
    "data evals compare config flags recovery prompts galleries walks draw",  # prompts, galleries: what mains read and write
    "subjects teachers",
    "train_step models",
    "api",
    "watch begin",
    "train sample steer_train evaluate parse ckpt convert encode bench launch __main__",
    "__init__",
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
MAINS = next(set(rooms.split()) for rooms in FLOORS if "train " in rooms)
LIGHT = [room for room in FLOOR if FLOOR[room] <= 3 or room == "steering"]  # usable without what HEAVY names
HEAVY = ("torch", "tensorflow", "transformers", "grain", "ml_collections", "clu")

# name, imported or used as an attribute -> the rooms that may. The longest name that fits decides.
DOORS = {
    "flax.linen": {"nets"},
    "flax.nnx": set(),
    "flax.struct": {"state"},
    "orbax": {"checkpoint"},
    "grain": {"data"},
    "tensorflow_datasets": {"data"},
    "jax.sharding": {"mesh"},
    "jax.jvp": {"flow_map", "path"},  # path differentiates alpha and sigma, no network
    "absl": MAINS,
    "pickle": set(),
    "dill": set(),
    "cloudpickle": set(),
    "joblib": set(),
}


def modules(root):
    """{dotted name below the package: file}; a folder is named as its __init__."""
    package = root / "anystep"
    names = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = file
    return names


def room_of(name):
    return name.partition(".")[0]


def imports(tree, name, is_folder):
    """(line, dotted name) of everything that a module imports, relative names made absolute; `from a import b` is a.b."""
    here = ["anystep", *name.split(".")] if name != "__init__" else ["anystep"]
    folder = here if is_folder or name == "__init__" else here[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            start = ".".join(base + ([node.module] if node.module else []))
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def uses(tree):
    """(line, dotted name) of attributes reached from an imported name: `import jax as j; j.sharding.Mesh` is jax.sharding.Mesh."""
    bound = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound |= {alias.asname or room_of(alias.name): alias.name if alias.asname else room_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        chain, inner = [], node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if chain and isinstance(inner, ast.Name) and inner.id in bound:
            yield node.lineno, ".".join([bound[inner.id], *reversed(chain)])


def order(source):
    """The order that a folder's docstring gives: 'Import order inside: a, b, c.'"""
    listed = re.search(r"[Oo]rder(?: inside)?: ([^.]*)\.", ast.get_docstring(ast.parse(source)) or "")
    return [word.strip(" /\n`") for word in listed[1].split(",")] if listed else []


def fits(name, prefix):
    return name == prefix or name.startswith(prefix + ".")


def floor_violations(name, known, orders, line_and_target):
    line, target = line_and_target
    if not fits(target, "anystep"):
        return
    asked = target = target.removeprefix("anystep").removeprefix(".")
    while target and target not in known:
        target = target.rpartition(".")[0]
    room, other = room_of(name), room_of(asked) if room_of(asked) in FLOOR else "__init__"
    if room == other:
        mine, its = name.split("."), target.split(".")
        depth = next((i for i, pair in enumerate(zip(mine, its, strict=False)) if pair[0] != pair[1]), min(len(mine), len(its)))
        listed = orders[".".join(mine[:depth])] if len(mine) > depth else []
        if listed:  # else a folder's __init__ looks into its own folder, which it may
            ranks = {word: rank for rank, word in enumerate(listed)}
            if len(its) <= depth or not ranks.get(its[depth], 99) < ranks.get(mine[depth], -1):
                yield f"{line}: imports anystep.{target}, not before {mine[depth]!r} in the order of its folder ({', '.join(listed)})"
    elif other in FLOOR and FLOOR[other] >= FLOOR[room]:
        yield f"{line}: imports anystep.{asked}, floor {FLOOR[other]}, from floor {FLOOR[room]}"


def door_violations(name, tree, is_folder):
    for line, target in sorted({*imports(tree, name, is_folder), *uses(tree)}):
        door = max((door for door in DOORS if fits(target, door)), key=len, default=None)
        if door and room_of(name) not in DOORS[door]:
            yield f"{line}: {door}: only in {', '.join(sorted(DOORS[door])) or 'no room at all'}"


def pickle_violations(tree):
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and not (isinstance(node.value, ast.Constant) and node.value.value is False)
        ):
            yield f"{node.value.lineno}: allow_pickle must be False"


def violations(root):
    """Every broken rule below root, as 'file:line: what'."""
    known, found = modules(root), []
    sources = {name: file.read_text() for name, file in known.items()}
    orders = {name: order(sources[name]) for name, file in known.items() if file.name == "__init__.py"}
    for name, file in known.items():
        where, tree = file.relative_to(root), ast.parse(sources[name])
        if room_of(name) not in FLOOR:
            found.append(f"{where}:1: which room? put {room_of(name)!r} on a floor")
            continue
        folder = ".".join(name.split(".")[:-1])
        if folder and folder not in known:
            found.append(f"{where}:1: {folder} has no __init__.py, so it would not be installed")
            continue
        if folder and not orders[folder] and folder != "bench":
            found.append(f"{known[folder].relative_to(root)}:1: the docstring must say 'Import order inside: first, second.'")
        elif folder and file.stem != "__main__" and name.split(".")[-1] not in orders[folder] and folder != "bench":
            found.append(f"{where}:1: not in the import order of {folder}/__init__.py")
        is_folder = file.name == "__init__.py"
        if file.stem != "__main__":
            for target in imports(tree, name, is_folder):
                found += [f"{where}:{text}" for text in floor_violations(name, known, orders, target)]
        found += [f"{where}:{text}" for text in [*door_violations(name, tree, is_folder), *pickle_violations(tree)]]
    for file in sorted((root / "configs").glob("*.py")):
        names = [pair for pair in imports(ast.parse(file.read_text()), "configs", False) if not fits(pair[1], "ml_collections")]
        found += [f"{file.relative_to(root)}:{line}: {target}: a config imports ml_collections only" for line, target in names]
    return sorted(set(found))


def test_house():
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(found)


PLANTS = {  # file: (source, part of the message)
    "anystep/attic.py": ("", "which room"),
    "anystep/types.py": ("from anystep.errors import UserError", "floor 0, from floor 0"),
    "anystep/path.py": ("def f():\n    from . import sampling", "floor 3, from floor 1"),
    "anystep/guide.py": ("import anystep.objectives.mix", "floor 3, from floor 1"),
    "anystep/guard.py": ("from anystep import checkpoint", "floor 5, from floor 5"),
    "anystep/mesh.py": ("from anystep import load", "floor 13, from floor 4"),
    "anystep/nets/attention.py": ("from .sana import build", "not before 'attention'"),
    "anystep/nets/blocks.py": ("from anystep.nets import anything", "not before 'blocks'"),
    "anystep/nets/text/words.py": ("from ..sana import build", "not before 'text'"),
    "anystep/nets/stray.py": ("", "not in the import order"),
    "anystep/steering/loose.py": ("", "no __init__.py"),
    "anystep/sampling.py": ("from flax import linen as nn", "only in nets"),
    "anystep/optim.py": ("import flax\nflax.linen.Dense", "only in nets"),
    "anystep/state.py": ("import orbax.checkpoint as ocp", "only in checkpoint"),
    "anystep/train_step.py": ("def f():\n    import grain.python as pygrain", "only in data"),
    "anystep/api.py": ("import tensorflow_datasets as tfds", "only in data"),
    "anystep/checkpoint.py": ("import jax as j\nj.sharding.PartitionSpec()", "only in mesh"),
    "anystep/evals.py": ("from jax.sharding import Mesh", "only in mesh"),
    "anystep/logs.py": ("from absl import flags", "only in __main__, bench"),
    "anystep/objectives/mix.py": ("import jax\ndef f(): return jax.jvp", "only in flow_map"),
    "anystep/weighting.py": ("from jax import jvp as forward", "only in flow_map"),
    "anystep/tree.py": ("import pickle", "no room at all"),
    "anystep/times.py": ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
    "configs/tiny.py": ("import ml_collections\nimport numpy", "numpy: a config"),
}


def plant(root, **sources):
    folders = {
        "anystep/__init__.py": "",
        "anystep/path.py": "",
        "anystep/nets/__init__.py": '"""Nets. Import order inside: attention, blocks, text/, sana."""\nfrom anystep.nets.sana import build',
        "anystep/nets/text/__init__.py": '"""Text. Import order inside: words."""',
        "anystep/nets/sana.py": "from flax import linen\nfrom anystep.nets.text import encode\nfrom anystep.path import x",
        "anystep/objectives/__init__.py": '"""Losses. Import order inside: mix."""',
    }
    for name, source in (folders | sources).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)


def test_a_sound_house_passes(tmp_path):
    plant(
        tmp_path,
        **{
            "anystep/path.py": "from anystep.types import Path\nimport numpy as np\nnp.load('x', allow_pickle=False)",
            "anystep/types.py": "",
            "anystep/flow_map.py": "import jax\njax.jvp",
            "anystep/nets/blocks.py": "from .attention import attend\nimport jax\njax.custom_jvp",
            "anystep/nets/attention.py": "",
            "anystep/mesh.py": "from jax.sharding import Mesh",
            "configs/tiny.py": "from ml_collections import ConfigDict",
        },
    )
    assert violations(tmp_path) == []


@pytest.mark.parametrize("file", PLANTS)
def test_planted_violation_is_found(tmp_path, file):
    source, message = PLANTS[file]
    plant(tmp_path, **{file: source})
    found = violations(tmp_path)
    assert len(found) == 1 and message in found[0] and found[0].startswith(file), found


IMPORTER = """
import importlib, sys, time
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Wall())
start = time.perf_counter()
import anystep
print(time.perf_counter() - start)
for name in {names}:
    importlib.import_module(name)
print(time.perf_counter() - start)
"""


@pytest.mark.slow
def test_lower_floors_need_no_heavy_packages():
    names = [f"anystep.{name}" for name in modules(ROOT) if room_of(name) in LIGHT]
    assert "anystep.types" in names
    program = IMPORTER.format(heavy=HEAVY, names=names)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone, together = map(float, done.stdout.split())
    print(f"import anystep: {alone:.2f} s, with all lower floors: {together:.2f} s")
    assert alone < 3
