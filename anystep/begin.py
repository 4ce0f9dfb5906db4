"""Before the first step of a run: what is refused, and the state it begins with."""

import fnmatch
import json
import sys

import jax

from anystep import logs, teachers, tree, weights
from anystep import mesh as meshes
from anystep.config import completed, flatten, from_dict
from anystep.config.objective_rules import shares
from anystep.data import describe
from anystep.errors import UserError
from anystep.models import frozen_text, load
from anystep.nets import controlnet, low_rank
from anystep.nets.build import build_text, has_teacher, options_of, shape_of, text_folder, trained_roles
from anystep.state import EMA, averaged, init_state
from anystep.stores import TEXT, check_made_with, digest_of, read_index
from anystep.weights import port

NEW = ("net/embed/second_time/*", "net/embed/guidance/*", "net/blocks/*/q_norm/*", "net/blocks/*/k_norm/*")  # what a teacher may lack
FREE = ("mesh", "checkpoint", "eval", "train.log_every", "train.sample_every", "data.most_bad")  # may change between two starts of one run
FREE += ("data.pipeline", "data.autoencoder", "data.verify", "model.text.folder", "objective.teacher.folder")  # digests decide


def check(config, workdir, begun, also):
    """Refuses what is not there, and a config that would have led a run that has begun elsewhere: before a device is touched."""
    describe(config.data)
    for name in also:
        logs.package_of(name)
    if config.init_from and not begun:
        teachers.find(config.init_from, "config.init_from", ended=False)
    if config.model.frozen and not config.init_from:
        raise UserError("config.init_from = '': must be a model for config.model.frozen, whose network is not trained")
    if has_teacher(config):
        teachers.check(config)
        index = read_index(config.data.path) if config.data.kind == "store" and not begun else {"made_with": {}}
        for what in teachers.encoders(config):
            if index["made_with"].get(what):
                check_made_with(config.data.path, index, what, config.objective.teacher.folder, teachers.FIELD)
        if not begun and not config.init_from and config.model.guidance:
            print("WARNING: config.init_from = '': a student is to begin as its teacher, this one begins with noise", file=sys.stderr)
    path, now = workdir / "config.json", in_json(flatten(config.to_dict()))
    if begun and path.exists():
        try:
            before = in_json(completed(json.loads(path.read_text())))
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); put back what was there, or take a new folder") from None
        free = (*FREE, "data.path") if config.data.kind == "store" else FREE  # its key decides
        changed = [line for name, line in differences(before, now) if not name.startswith(free)]
        if changed:
            raise UserError(
                f"--workdir {workdir}: was begun with another config ({'; '.join(changed[:3])}); take a new folder or the old values"
            )


def pinned(config):
    """The config with the digest of a pretrained text encoder and the key of a store written down: another one is refused from then on."""
    changes = {}
    if config.model.text.encoder == "minilm" and not config.model.text.digest:
        changes["model.text.digest"] = digest_of(text_folder(config), TEXT)
    if config.data.kind == "store" and not config.data.key:
        changes["data.key"] = read_index(config.data.path)["key"]
    if config.objective.teacher.folder and not config.objective.teacher.digest:
        changes["objective.teacher.digest"] = teachers.digest_at(config.objective.teacher.folder)
    return from_dict(flatten(config.to_dict()) | changes)


def frozen_params(config, mesh):
    """{role: weights that no step moves}, split over the mesh like a state."""
    found = {} if "text" in trained_roles(config) else {"text": frozen_text(config)}
    if has_teacher(config):
        found["teacher"] = teachers.load(config)["net"]
    return jax.device_put(found, meshes.shard_rule(found, mesh)[0])


def steps_beyond(workdir, start):
    """Steps that an earlier start had logged beyond the one that this start goes on from: they are made again."""
    rows = logs.read_rows(workdir / "metrics.jsonl") if (workdir / "metrics.jsonl").exists() else []
    first = max((number for number, row in enumerate(rows) if "start" in row), default=0)
    return max([0, *((row.get("step") or 0) - start for row in rows[first:])])


def check_rows(config, devices):
    """Refuses a batch that the devices which are there cannot share; rules know those that were asked for."""
    group = sum(shares(config).values())
    if config.data.batch % (group * devices):
        must = f"divisible by {group * devices} = {group} (sum of the objectives' shares) * {devices} (devices)"
        raise UserError(f"config.data.batch = {config.data.batch}: must be {must}")


def in_json(flat):
    return json.loads(json.dumps(flat))


def differences(before, now):
    """[("optim.lr", "config.optim.lr: 0.001 before, 0.002 now"), ...] of two flat configs."""
    paths = [path for path in sorted({*before, *now}) if before.get(path) != now.get(path)]
    return [(path, f"config.{path}: {before.get(path)!r} before, {now.get(path)!r} now") for path in paths]


def first_state(config, models, optimizers, shardings):
    """(state, what of it is new): fresh weights, made in place under their shardings, or those of `init_from` where it has them: NEW may be
    missing there, and the roles that only training knows are."""
    window = config.train.guard.window
    state = jax.jit(lambda: init_state(models, optimizers, config.seed, window), out_shardings=shardings)()
    if not config.init_from:
        return state, ""
    _, text_width, pooled = build_text(config)
    options = options_of(config.model, shape_of(config.data), text_width, pooled) if config.model.net != "mlp" else None
    place = teachers.beginning(config, options)
    loaded = {"net": port.load(place.folder)[2]} if place.saved is None else load(config.init_from)[1]
    found = {role: loaded[role] for role in state.params if role in loaded}
    network = begun_from(config, state.params["net"], found["net"])
    others = {role: state.params[role] for role in found if role != "net"}
    params = state.params | weights.take(others, {role: found[role] for role in others}) | {"net": network}
    clock = clock_of(place, options)
    new = [*lacking(network, found["net"]), *(role for role in params if role not in found), *clock]
    check_beginning(config, loaded, new, clock)
    return jax.device_put(state._replace(params=params, ema={EMA: averaged(params)}), shardings), ", ".join(new)


def check_beginning(config, loaded, new, clock):
    """Refuses what no training would mend: features that the network does not know, parts that say nothing and are held."""
    field = f"config.init_from = {config.init_from!r}"
    if has_teacher(config) and "text" in loaded and tree.crc32(loaded["text"]) != tree.crc32(frozen_text(config)):
        said = "learned to read the features of another text encoder than the teacher's"
        raise UserError(f"{field}: {said}, config.objective.teacher.folder")
    if not config.model.frozen:
        return
    trained = low_rank.WHOLE if config.model.rank else ()
    dead = [name for name in new if name in NEW and not any(part.startswith(name.removeprefix("net/")[:-1]) for part in trained)]
    if dead or clock:
        said = f"has no {', '.join(dead)}" if dead else f"has {clock[0]}"
        raise UserError(f"{field}: {said}, which config.model.frozen would leave as it begins; train the whole network first")


def lacking(network, loaded):
    """What of a network, whole or a trunk with parts beside it, `loaded` has not: patterns of NEW, names of parts."""
    trunks = [{"net": net.get("trunk", net)} for net in (network, loaded)]
    missing = weights.match(*trunks).missing
    beside = [part for part in network if part != "trunk" and part not in loaded] if "trunk" in network else []
    return [pattern for pattern in NEW if fnmatch.filter(missing, pattern)] + beside


def begun_from(config, fresh, loaded):
    """Weights of the config's network, `fresh` where `loaded` has none: a whole network of this kind, or the trunk of one with additions,
    beside which a ControlNet begins as its copy."""
    if "trunk" not in fresh or "trunk" in loaded:
        return weights.take({"net": fresh}, {"net": loaded}, NEW)["net"]
    trunk = weights.take({"net": fresh["trunk"]}, {"net": loaded}, NEW)["net"]
    return fresh | {"trunk": trunk} | ({"control": controlnet.copied(trunk, config.model.control)} if config.model.control else {})


def clock_of(place, options):
    """What is to be said of a beginning whose network counts another time than the config's."""
    its = teachers.peer_of(place.folder)[1] if place.saved is None else None
    if its is None or getattr(its, "time_scale", 1.0) == getattr(options, "time_scale", 1.0):
        return []
    return [f"a clock that counts to {options.time_scale:g} and not to {its.time_scale:g}"]
