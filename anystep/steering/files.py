"""A classifier on disk: a FOLDER with config.json (what it reads, what it was made for, how it did on dev) and weights.safetensors."""

import hashlib
import json
import math
import numbers

import jax
import numpy as np
from etils import epath

from anystep import tree, weights
from anystep.errors import UserError
from anystep.nets import correction, relation
from anystep.steering.classifier import Reader
from anystep.steering.maps import Lens, channels_of
from anystep.steering.method import method_of
from anystep.steering.program import Program, Steering

VERSION = 2  # 1: a softmax over classes
KINDS = {"faithful": relation.Faithful, "light": relation.Light}


def digest(net) -> str:
    """Of a network's layout: names and shapes of its parameters, of a sample's channels, its path. Weights do not count: a student of the
    same layout may be steered by its teacher's classifier."""
    leaves = {name: leaf.shape for name, leaf in tree.paths(jax.eval_shape(net.init, jax.random.key(0))).items()}
    return hashlib.sha256(json.dumps([leaves, net.shape[-1], net.path.name, net.ends != "none"]).encode()).hexdigest()[:16]


def save(folder, model, reader: Reader, params, things=(), report=None, checksum=None) -> None:
    """Writes a classifier that was made for `model`; checksum: `tree.crc32` of the weights of its network."""
    kind = next(name for name, options in KINDS.items() if isinstance(reader.options, options))
    config = {
        "steering": VERSION,
        "network": digest(model.net),
        "weights": checksum,
        "layers_there": model.net.maps,
        "lens": reader.lens._asdict(),
        "kind": kind,
        "options": reader.options._asdict(),
        "correction": reader.corrects._asdict() if reader.corrects else None,
        "things": list(things),
        "report": report or {},
    }
    weights.save_folder(folder, config, jax.tree.map(np.asarray, params))


def load(folder, model, method="fast", strength=1.0, net=None, **settings) -> Steering:
    """What `anystep.sample(model, ..., steer=)` takes, from a folder that `anystep steer-train` wrote, or the classifier that comes with a
    packaged model, by its name.

    method: "fast" | "faithful" | "amortised" | "best" | "flips"; strength: of every move, 0.0 for none; settings: fields of `Method` that
    differ, such as iterations=8, until=0.8, steps=2. net: params["net"] of the model; a note says so where the classifier was made with
    other weights. UserError for no such folder, a classifier of another network or layer set, a strength or setting out of range.
    """
    if not (isinstance(strength, numbers.Real) and math.isfinite(strength)):
        raise UserError(f"strength: {strength!r}, allowed a finite number")
    where = folder_of(folder)
    config, params = weights.load_folder(where)
    if config.get("steering") != VERSION:
        raise UserError(f"{where}: is no classifier of relations (steering {VERSION} in its config.json), anystep steer-train makes one")
    reader, things, made_for, times, walk = parts_of(where, config)
    if made_for != digest(model.net):
        raise UserError(f"{where}: was made for another network, {made_for} by its digest; this one is {digest(model.net)}")
    layers = reader.lens.layers
    if not layers or max(layers) >= model.net.maps:
        raise UserError(f"{where}: reads layers {list(layers)}, this network has 0 to {model.net.maps - 1}")
    expected = jax.eval_shape(reader.init, jax.random.key(0))
    if reader.corrects:
        expected["correction"] = jax.eval_shape(correction.build(reader.corrects).init, jax.random.key(0))
    there = channels_of(model, reader.lens)
    if there != reader.options.maps:
        raise UserError(f"{where}: reads {reader.options.maps} maps, layers {list(layers)} of this network have {there}")
    try:
        params = jax.device_put(weights.take(expected, params))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    program = Program(reader, method_of(method, settings, reader.corrects is not None))
    return Steering(program, params, strength, things, times=times, walk=walk, notes=notes_on(where, config, net))


def read_config(name) -> dict:
    """What `save` wrote beside the weights of a classifier, by `folder_of`."""
    return json.loads((folder_of(name) / weights.CONFIG).read_bytes())


def folder_of(name):
    """The folder, or that of a packaged model's classifier, by the model's name, where there is no such folder."""
    packaged = {folder.name: folder / "steer" for folder in weights.PACKAGED.iterdir() if (folder / "steer" / weights.CONFIG).exists()}
    here = epath.Path(name)
    if str(name) in packaged and not (here / weights.CONFIG).exists():
        return packaged[str(name)]
    if not (here / weights.CONFIG).exists():
        raise UserError(
            f"{here}: no classifier's folder (it has no {weights.CONFIG}), nor a packaged model's ({', '.join(packaged) or 'none has one'})"
        )
    return here


def notes_on(where, config, net):
    if net is None or config.get("weights") in (None, tree.crc32(net)):
        return ()
    return (f"steer: {where} was made with other weights of this network; how far its probabilities hold, anystep bench steer can say",)


def parts_of(where, config):
    """(Reader, things, digest of the network, flow times, sampler and ask) of a config, or UserError for one that somebody has changed."""
    try:
        options = KINDS[config["kind"]](**tuples(config["options"]))
        corrects = correction.Options(**tuples(config["correction"])) if config["correction"] else None
        times = tuple(float(t) for t in config["report"].get("times", ()))
        walk = tuple(str(part) for part in config["report"].get("walk", ()))
        return Reader(Lens(**tuples(config["lens"])), options, corrects), tuple(config["things"]), str(config["network"]), times, walk
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where / weights.CONFIG}: {type(error).__name__} ({error})") from None


def tuples(fields):
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
