"""Networks that others trained, or an earlier run: as a frozen teacher, and as what a network of ours begins with.

    FOLDER   config.json + weights.safetensors, ours or brought here from a peer      WORKDIR   its model/, so a run that has ended
    a pipeline of diffusers, or what was made of it       its transformer/; text encoder and autoencoder stay where they are

A teacher is known by the digest of its files, never copied into a checkpoint. What decides its answers must agree with the config, name by
name: the encoder of prompts, the units of the data. Ours must have learned velocities: one that has only learned to jump has none to teach.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath

from anystep import weights
from anystep.config import completed, typed
from anystep.errors import UserError
from anystep.files import digest
from anystep.nets import sana
from anystep.nets.build import build_net, build_text, gradients_in_branches, has_teacher, shape_of
from anystep.stores import AUTOENCODER, INDEX, TEXT, digest_of, key_of, read_index
from anystep.weights import pipelines, port
from anystep.weights.peers import find as find_peer

FIELD = "config.objective.teacher.folder"
AGREED = ("net", "width", "depth", "heads", "cross_heads", "patch", "double", "attention", "ffn", "positions", "predicts")
AGREED += ("time_frequency", "time_span", "shift", "scale")
PEERS_OWN = ("qk_norm", "time_scale", "guidance", "second_time", "shape", "scan", "remat", "dtype", "products", "text_width")


class Place(NamedTuple):
    """Where a network lies; `saved`: the config of one of ours, None of a peer's."""

    folder: epath.Path
    saved: dict | None


def find(folder, field=FIELD, ended=True) -> Place:
    """UserError for a folder that holds no network; `ended`: nor for the work directory of a run that goes on."""
    folder = epath.Path(folder)
    if (folder / weights.PIPELINE).exists():
        return Place(folder / "transformer", None)
    if not (folder / weights.CONFIG).exists():
        raise UserError(f"{field} = {str(folder)!r}: is none of a model folder, a work directory or a pipeline")
    try:
        saved = json.loads((folder / weights.CONFIG).read_text())
    except ValueError as error:
        raise UserError(f"{folder / weights.CONFIG}: not JSON ({error})") from None
    if "peer" in saved or "_class_name" in saved:
        return Place(folder, None)
    if ended and not (folder / weights.WEIGHTS).exists():
        if not (folder / "model" / weights.WEIGHTS).exists():
            raise UserError(f"{field} = {str(folder)!r}: has no model/ yet, which a run leaves at its end (or `anystep ckpt export`)")
        return find(folder / "model", field)  # whose config is not the run's where something was added to a network
    return Place(folder, saved)


def digest_at(folder) -> str:
    """SHA-256 of what decides a network's answers."""
    place = find(folder)
    if place.saved is None:
        return digest_of(place.folder, ())
    return key_of({name: digest(place.folder / name) for name in (weights.CONFIG, weights.WEIGHTS)})


def check(config) -> None:
    """UserError for a teacher that is not there or does not fit; reads no weights."""
    if not config.objective.teacher.folder:
        raise UserError(f"{FIELD} = '': must be a model folder, a work directory or a pipeline for the objectives that ask a teacher")
    model_of(config)


def encoders(config) -> list[str]:
    """What the teacher's folder has of its own that a store can be held against: some of "text" and "autoencoder"."""
    parts = {"text": TEXT, "autoencoder": AUTOENCODER}
    return [what for what in parts if any((epath.Path(config.objective.teacher.folder) / part).is_dir() for part in parts[what])]


def model_of(config, constrain=lambda x: x):
    """The teacher's Model without weights, None for a config that names none."""
    if not config.objective.teacher.folder:
        return None
    place = find(config.objective.teacher.folder)
    _, text_width, pooled = build_text(config)
    how = {name: config.model[name] for name in ("scan", "remat", "dtype")}
    if place.saved is None:
        if config.model.text.encoder != "stored":
            raise UserError(f"config.model.text.encoder = {config.model.text.encoder!r}: must be stored beside {place.folder}, a peer's")
        peer, options = peer_of(place.folder)
        if options.text_width != text_width:
            raise UserError(f"{FIELD}: {place.folder} reads features of width {options.text_width}, the store's have {text_width}")
        if isinstance(options, sana.Options) and options.guidance:
            said = "is told its guidance, so it is a student of SANA-Sprint: its answers are jumps to data, not velocities"
            raise UserError(f"{FIELD}: {place.folder} {said}")
        return peer.build(options._replace(**how))._replace(ends="none")
    saved, mine = typed(completed(place.saved)), config.model.text.to_dict()
    saved.model.update(how)
    same_data(config, saved)
    o = saved.objective
    if not (o.flow_matching.share and o.flow_matching.weight):
        raise UserError(f"{FIELD} = {config.objective.teacher.folder!r}: was not trained on flow matching, it has no velocity to teach")
    if not o.prompt_dropout and set(config.objective.teacher.scales) != {1.0}:
        scales = f"config.objective.teacher.scales = {tuple(config.objective.teacher.scales)}"
        raise UserError(f"{scales}: must be 1, because the teacher has never learned without a prompt (its prompt_dropout is 0)")
    if config.objective.control_dropout and not o.control_dropout:
        dropout = f"config.objective.control_dropout = {config.objective.control_dropout}"
        raise UserError(f"{dropout}: must be 0, because the teacher has never seen an empty picture (its control_dropout is 0)")
    for name, its in saved.model.text.to_dict().items():
        unpinned = name == "folder" or (name == "digest" and not mine[name])
        if not unpinned and its != mine[name] and (config.model.text.encoder != "stored" or name == "encoder"):
            raise UserError(f"config.model.text.{name} = {mine[name]!r}: the teacher's is {its!r}")
    return build_net(saved, shape_of(config.data), text_width, pooled, constrain, saved.model.guidance, gradients_in_branches(config))


def same_data(config, saved) -> None:
    """UserError for a teacher that learned pictures of another size, or from a store, if that is still there, of other encoders."""
    mine, its = config.data, saved.data
    if mine.kind != its.kind:
        return
    if "size" in its and its.size != mine.size:
        raise UserError(f"config.data.size = {mine.size}: the teacher's pictures, {FIELD}, are of {its.size}")
    if mine.kind == "store" and mine.path and its.path and (epath.Path(its.path) / INDEX).exists():
        made, known = (read_index(data.path)["made_with"] for data in (mine, its))
        for what in ("text", "autoencoder"):
            if made[what] != known[what]:
                raise UserError(f"config.data.path = {mine.path!r}: was made with another {what} than the teacher's store, {its.path}")


def load(config) -> dict[str, Any]:
    """{"net": weights} and {"text": weights} where the teacher has trained its own, as numpy arrays. UserError for other files than those
    that the run began with."""
    teacher = config.objective.teacher
    if teacher.digest and digest_at(teacher.folder) != teacher.digest:
        raise UserError(f"{FIELD} = {teacher.folder!r}: holds another network than the one that the run or model began with")
    place = find(teacher.folder)
    if place.saved is None:
        return {"net": port.load(place.folder)[2]}
    params = weights.load_folder(place.folder)[1]
    expected = jax.eval_shape(model_of(config).init, jax.random.key(0))
    return params | {"net": weights.take(expected, params["net"])}


def peer_of(folder):
    """(Peer, options) of a peer's transformer, ours or theirs."""
    config = port.peer_config(port.read_config(folder))
    allowed = [name for name, kind in pipelines.KINDS.items() if kind.folder == "transformer"]
    if config.get("_class_name") not in allowed:
        raise UserError(f"{folder}: class {config.get('_class_name')!r} is no teacher, allowed {', '.join(allowed)}")
    peer = find_peer(config, Path(folder) / weights.CONFIG)
    return peer, peer.options(config)


def beginning(config, net_options) -> Place:
    """Where `config.init_from` is, whose network must be the config's but for what may be new (see `begin`). `net_options`: those of the
    config's network, for peers. UserError by name."""
    field = "config.init_from"
    place = find(config.init_from, field, ended=False)
    if place.saved is None:
        if net_options is None:
            raise UserError(f"{field} = {config.init_from!r}: draws pictures, config.model.net = {config.model.net!r} draws points")
        mine, its = net_options._asdict(), peer_of(place.folder)[1]._asdict()
        compare(field, config.init_from, mine, its, PEERS_OWN)
        if has_teacher(config) and mine.get("time_scale") != its.get("time_scale"):
            clock = f"has a clock that counts to {its['time_scale']:g}, a student's counts to {mine['time_scale']:g}"
            raise UserError(f"{field} = {config.init_from!r}: {clock}; flow matching comes first (see configs/sana_sprint_600m.py)")
        return place
    own = place.saved.get("model", {})
    compare(field, config.init_from, {name: config.model[name] for name in AGREED if name in own}, own)
    return place


def compare(field, folder, mine, its, free=()):
    for name, value in mine.items():
        if name not in free and name in its and its[name] != value:
            raise UserError(f"{field} = {folder!r}: has {name} = {its[name]!r}, the config {value!r}")
