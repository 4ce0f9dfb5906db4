"""`anystep bench NAME`: one file a benchmark, each with a `main(argv)`; the first line of its docstring is what the list shows.

Records of past runs are in records/.
"""

import ast
import difflib
import importlib
from pathlib import Path

from anystep.errors import UserError

FOLDER = Path(__file__).parent


def names():
    return sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))


def meaning(name):
    """First line of a benchmark's docstring, read without importing it."""
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
    return text.partition("\n")[0]


def main(argv):
    if not argv or argv[0] in ("--help", "-h"):
        print("usage: anystep bench NAME [arguments]\n")
        print("\n".join(f"  {name:16} {meaning(name)}" for name in names()))
        return 0
    if argv[0] not in names():
        near = difflib.get_close_matches(argv[0], names(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names()) or 'none'}"
        raise UserError(f"no benchmark {argv[0]!r}; {hint}")
    return importlib.import_module(f"anystep.bench.{argv[0]}").main(argv[1:])
