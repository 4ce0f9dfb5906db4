"""What a config may say and how a command line becomes one. Import order inside: fields, since, objective_rules, rules.

A config file defines `get_config()` with every field of the table in `fields` and no other: there are no defaults elsewhere.
A refusal is a UserError of one line with the field, its value and what is allowed, and comes before jax is imported.
What a field does is not here but where it is read.
"""

import difflib
import importlib.util
import json
from pathlib import Path

from ml_collections import ConfigDict

from anystep.config.fields import DATA, FIELDS, allowed, fit, parse
from anystep.config.objective_rules import refuse
from anystep.config.rules import RULES
from anystep.config.since import SINCE
from anystep.errors import UserError


def flatten(tree, prefix=""):
    """Nested dict -> {dotted path: value}."""
    flat = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def fields_of(kind):
    """The table for one kind of data; for a kind that does not exist, what all have in common."""
    return FIELDS | DATA.get(str(kind), {})


def value_of(path, field, flat):
    """The field's value in its own type. Raises UserError if it is missing or does not fit."""
    if path not in flat:
        raise UserError(f"config.{path}: missing; must be {allowed(field)} ({field.meaning})")
    try:
        return fit(field, flat[path])
    except ValueError:
        refuse(path, flat[path], allowed(field))


def unknown(path, known):
    """The refusal of a path that is no field: a section, a typo, or a field of another kind of data."""
    inside = [name for name in known if name.startswith(path + ".")]
    if inside:
        return UserError(f"config.{path}: is a section, set one of its fields, such as config.{inside[0]}")
    kinds = [repr(kind) for kind, extra in DATA.items() if path in extra]
    if kinds:
        return UserError(f"config.{path}: is a field of config.data.kind = {' or '.join(kinds)} only")
    tail = path.rpartition(".")[2]
    near = difflib.get_close_matches(path, known, 1, 0.75) or [name for name in known if name.rpartition(".")[2] == tail]
    near = near or difflib.get_close_matches(path, known, 1)
    return UserError(f"config.{path}: no such field" + (f"; did you mean config.{near[0]}?" if near else ""))


def from_dict(tree):
    """Nested or dotted dict (a get_config(), a saved config.json) -> locked ConfigDict, checked. Raises UserError."""
    config = typed(flatten(tree))
    for rule in RULES:
        rule(config)
    return config.lock()


def typed(flat):
    """{dotted path: value} -> ConfigDict, each field as the table has it; the rules between fields are not asked."""
    known = fields_of(value_of("data.kind", FIELDS["data.kind"], flat))
    for path in flat:
        if path not in known:
            raise unknown(path, known)
    nested = {}
    for path, field in known.items():
        *sections, name = path.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value_of(path, field, flat)
    return ConfigDict(nested)


def from_saved(tree):
    """The same of what a run or a model saved, by an earlier version too."""
    return from_dict(completed(tree))


def completed(tree):
    """A saved config, flat, with what later versions say and it does not."""
    flat = flatten(tree)
    known = fields_of(flat.get("data.kind"))
    return {path: value for path, value in SINCE.items() if path in known} | flat


def check(config):
    """Raises UserError if a ConfigDict breaks the table or a rule."""
    from_dict(config.to_dict())


def describe():
    """The table as text, one line a field."""
    lines = []
    for title, fields in [("any config:", FIELDS)] + [(f"with config.data.kind = {kind!r}:", fields) for kind, fields in DATA.items()]:
        lines += [title] + [f"  config.{path}: {field.meaning}. {allowed(field)}" for path, field in fields.items()]
    return "\n".join(lines)


def packaged():
    """{name: file} of the configs that come with anystep: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")}


def read(name):
    """A packaged name, a .py with get_config() or a saved .json -> nested dict. Raises UserError."""
    file = packaged().get(name, Path(name))
    if not file.is_file() or file.suffix not in (".py", ".json"):
        near = difflib.get_close_matches(name, packaged(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"names: {', '.join(packaged())}"
        raise UserError(f"--config {name}: neither a .py or .json file nor a packaged name; {hint}")
    try:
        if file.suffix == ".json":
            return dict(json.loads(file.read_text()))
        spec = importlib.util.spec_from_file_location(f"anystep_config_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config().to_dict()
    except Exception as error:  # whatever the user's file does wrong
        raise UserError(f"--config {name}: {file} cannot be read: {type(error).__name__}: {error}") from error


def load(argv):
    """Arguments -> (config, the rest of them): --config NAME|FILE, --config.x.y=z. `--help` and `--helpconfig` print and leave.

    A wrong name or value raises UserError.
    """
    if "--helpconfig" in argv:
        print(describe())
        raise SystemExit(0)
    if "--help" in argv or "-h" in argv:
        print(f"usage: anystep train --config NAME|FILE --workdir DIR [--dry_run] [--config.x.y=z ...]\n\n  NAME: {', '.join(packaged())}")
        print("  --helpconfig lists every field")
        raise SystemExit(0)
    name, overrides, rest, queue = None, {}, [], list(argv)
    while queue:
        flag, equals, value = queue.pop(0).partition("=")
        if flag != "--config" and not flag.startswith("--config."):
            rest.append(flag + equals + value)
            continue
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise UserError(f"{flag}: needs a value, {flag}=...")
            value = queue.pop(0)
        if flag == "--config":
            name = value
        else:
            overrides[flag.removeprefix("--config.")] = value
    if name is None:
        raise UserError(f"--config: missing; a config file or one of {', '.join(packaged())}")
    flat = flatten(read(name))
    known = fields_of(overrides.get("data.kind", flat.get("data.kind")))
    for path, text in overrides.items():
        if path not in known:
            raise unknown(path, known)
        flat[path] = parse(known[path], text)
    return from_dict(flat), rest
