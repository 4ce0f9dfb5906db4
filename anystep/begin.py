"""Before the first step of a run: what is refused, and the state it begins with."""

import json

import jax

from anystep import logs, weights
from anystep import mesh as meshes
from anystep.api import folder_of, frozen_text, load
from anystep.config import flatten, from_dict
from anystep.config.rules import shares
from anystep.data import describe
from anystep.errors import UserError
from anystep.nets.build import text_folder
from anystep.state import EMA, init_state
from anystep.stores import TEXT, digest_of, read_index

NEW = ("net/embed/second_time/*", "net/blocks/*/q_norm/*", "net/blocks/*/k_norm/*")  # what a teacher may lack
FREE = ("mesh", "checkpoint", "eval", "train.log_every", "train.sample_every", "data.most_bad")  # may change between two starts of one run
FREE += ("data.pipeline", "data.autoencoder", "data.verify", "model.text.folder")  # folders whose digests decide


def check(config, workdir, begun, also):
    """Refuses what is not there, and a config that would have led a run that has begun elsewhere: before a device is touched."""
    describe(config.data)
    for name in also:
        logs.package_of(name)
    if config.init_from and not begun:
        folder_of(config.init_from)
    path, now = workdir / "config.json", json.loads(json.dumps(config.to_dict()))
    if begun and path.exists():
        try:
            before = json.loads(path.read_text())
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
    return from_dict(flatten(config.to_dict()) | changes)


def frozen_params(config, mesh):
    """{role: weights that no step moves}, split over the mesh like a state."""
    found = {"text": frozen_text(config)} if config.model.text.encoder != "hashed" else {}
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


def differences(before, now, prefix=""):
    """[("optim.lr", "config.optim.lr: 0.001 before, 0.002 now"), ...]."""
    out = []
    for name in sorted(set(before) | set(now)):
        a, b, path = before.get(name), now.get(name), f"{prefix}{name}"
        if isinstance(a, dict) and isinstance(b, dict):
            out += differences(a, b, path + ".")
        elif a != b:
            out.append((path, f"config.{path}: {a!r} before, {b!r} now"))
    return out


def first_state(config, models, optimizers, shardings):
    """Fresh weights, made in place under their shardings, or those of `init_from` where it has them: NEW may be missing there."""
    window = config.train.guard.window
    state = jax.jit(lambda: init_state(models, optimizers, config.seed, window), out_shardings=shardings)()
    if not config.init_from:
        return state
    _, loaded = load(config.init_from)
    params = weights.take(state.params, {role: loaded[role] for role in state.params if role in loaded}, NEW)
    state = state._replace(params=params, ema={EMA: jax.tree.map(lambda a: a.copy(), params)})
    return jax.device_put(state, shardings)
