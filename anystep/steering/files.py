"""A classifier on disk: a FOLDER with config.json (what it reads, what it was made for, how it did on dev) and weights.safetensors."""

import hashlib
import json

import jax
import numpy as np
from etils import epath

from anystep import weights
from anystep.errors import UserError
from anystep.nets import correction, relation
from anystep.steering.classifier import Reader
from anystep.steering.maps import Lens, channels_of
from anystep.steering.program import METHODS, Method, Program, Steering
from anystep.tree import paths

VERSION = 1
KINDS = {"faithful": relation.Faithful, "light": relation.Light}


def digest(net) -> str:
    """Of a network's layout: names and shapes of its parameters, of a sample's channels, its path. Weights do not count: a student of the
    same layout may be steered by its teacher's classifier."""
    leaves = {name: leaf.shape for name, leaf in paths(jax.eval_shape(net.init, jax.random.key(0))).items()}
    return hashlib.sha256(json.dumps([leaves, net.shape[-1], net.path.name, net.ends != "none"]).encode()).hexdigest()[:16]


def save(folder, model, reader: Reader, params, things=(), report=None) -> None:
    """Writes a classifier that was made for `model`."""
    kind = next(name for name, options in KINDS.items() if isinstance(reader.options, options))
    config = {
        "steering": VERSION,
        "network": digest(model.net),
        "layers_there": model.net.maps,
        "lens": reader.lens._asdict(),
        "kind": kind,
        "options": reader.options._asdict(),
        "correction": reader.corrects._asdict() if reader.corrects else None,
        "things": list(things),
        "report": report or {},
    }
    weights.save_folder(folder, config, jax.tree.map(np.asarray, params))


def load(folder, model, method="fast", strength=1.0, **settings) -> Steering:
    """What `anystep.sample(model, ..., steer=)` takes, from a folder that `anystep steer-train` wrote.

    method: "fast" | "faithful" | "amortised" | "best" | "flips"; settings: fields of `Method` that differ, such as iterations=8, until=0.8,
    steps=2. UserError for no such folder, a classifier of another network or layer set, a setting out of range.
    """
    config, params = weights.load_folder(folder)
    where = epath.Path(folder)
    if config.get("steering") != VERSION:
        raise UserError(f"{where}: is no classifier of relations (steering {VERSION} in its config.json), anystep steer-train makes one")
    reader = reader_of(where, config)
    if config["network"] != digest(model.net):
        raise UserError(f"{where}: was made for another network, {config['network']} by its digest; this one is {digest(model.net)}")
    layers = reader.lens.layers
    if not layers or max(layers) >= model.net.maps:
        raise UserError(f"{where}: reads layers {list(layers)}, this network has 0 to {model.net.maps - 1}")
    expected = jax.eval_shape(reader.init, jax.random.key(0))
    if reader.corrects:
        expected["correction"] = jax.eval_shape(correction.build(reader.corrects).init, jax.random.key(0))
    there = maps_of(model, reader.lens)
    if there != reader.options.maps:
        raise UserError(f"{where}: reads {reader.options.maps} maps, layers {list(layers)} of this network have {there}")
    try:
        params = jax.device_put(weights.take(expected, params))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Steering(Program(reader, method_of(method, settings, reader)), params, strength, tuple(config["things"]))


def reader_of(where, config) -> Reader:
    try:
        options = KINDS[config["kind"]](**tuples(config["options"]))
        corrects = correction.Options(**tuples(config["correction"])) if config["correction"] else None
        return Reader(Lens(**tuples(config["lens"])), options, corrects)
    except (KeyError, TypeError) as error:
        raise UserError(f"{where / weights.CONFIG}: {error}") from None


def tuples(fields):
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def maps_of(model, lens) -> int:
    """How many maps `lens` has in this model, from shapes alone."""
    key, tokens = jax.random.key(0), model.text.tokenize([""])
    cond = jax.eval_shape(lambda: model.text.encode(model.text.init(key), tokens))
    if model.drawing.told:
        cond = cond | {"guidance": jax.ShapeDtypeStruct((1,), np.float32)}
    return channels_of(model.net, lens, cond, jax.eval_shape(model.net.init, key))


def method_of(name, settings, reader: Reader) -> Method:
    """A Method by name with some settings changed; `until` may be one number."""
    if name not in METHODS:
        raise UserError(f"method: {name!r}, allowed {', '.join(METHODS)}")
    unknown = [field for field in settings if field not in Method._fields]
    if unknown:
        raise UserError(f"{unknown[0]}: no such setting of a method, there are {', '.join(Method._fields)}")
    if "until" in settings:
        settings = settings | {"until": tuple(np.atleast_1d(settings["until"]).tolist())}
    m = METHODS[name]._replace(**settings)
    for field, good, allowed in (
        ("iterations", isinstance(m.iterations, int) and 0 <= m.iterations <= 1000, "0 to 1000"),
        ("steps", isinstance(m.steps, int) and 1 <= m.steps <= 1000, "1 to 1000"),
        ("candidates", isinstance(m.candidates, int) and 1 <= m.candidates <= 1000, "1 to 1000"),
        ("step", m.step > 0, "above 0"),
        ("until", all(0 < p < 1 for p in m.until), "above 0 and below 1"),
        ("momentum", 0 <= m.momentum < 1, "0 to below 1"),
        ("order", m.order in ("hardest", "alternate"), "hardest, alternate"),
    ):
        if not good:
            raise UserError(f"{field}: {getattr(m, field)!r}, allowed {allowed}")
    if m.amortised and reader.corrects is None:
        raise UserError(f"method {name!r}: the classifier has no network that corrects noises, anystep steer-train --amortise makes one")
    return m
