"""Nested dicts of a config for the tests of configs and of the rules between their fields."""

import pytest

from anystep import config
from anystep.errors import UserError

PICTURES = {"kind": "pictures", "batch": 4, "size": 16, "path": (), "weights": (1.0,), "most_bad": 0.0} | {
    "style_captions": False,
    "dev_share": 0.1,
    "background": "white",
}
STORE = {"kind": "store", "batch": 4, "path": "", "weights": (1.0,), "dev_share": 0.1} | {
    "pipeline": "",
    "autoencoder": "",
    "verify": True,
    "holds": (),
    "key": "",
}


def tree(kind="mixture2d"):
    """A sound nested dict with the fields of one kind of data."""
    base = config.read("shapes" if kind == "shapes" else "smoke")
    if kind in ("pictures", "store"):
        base["data"] = dict(PICTURES if kind == "pictures" else STORE)
        base["model"]["net"] = "sana"
    return base


def put(nested, path, value):
    *sections, name = path.split(".")
    for section in sections:
        nested = nested[section]
    nested[name] = value


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


def with_values(kind="mixture2d", **values):
    nested = tree(kind)
    nested["objective"]["consistency"]["share"] = 0
    for path, value in values.items():
        put(nested, path.replace("__", "."), value)
    return nested
