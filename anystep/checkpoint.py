"""Training checkpoints: WORKDIR/checkpoints/<step>/. The only file that imports orbax.

One checkpoint is the train state (a tree of arrays, written as nested dicts under the names of its fields and keys) and, in orbax's custom
metadata, one JSON object: {"info": what the caller wants to find again, "iterator": the data iterator's own state, "leaves": {name: [shape,
dtype, digest]}, "crc32": of the other three}.

- The iterator's state goes into the JSON and not through grain's own saving, which writes one file per process and refuses another process
  count; the streams of this house count global batches, so that one state serves every process.
- Orbax restores a flipped bit in array data without a word. So every leaf has a digest, sum_i bits_i (2 i + 1) mod 2^32 over its words in C
  order: odd factors make every single flipped bit visible, positions make most swaps visible, and a wrapping sum is exact in any order,
  hence on any sharding.
- What is committed is read from the disk: orbax renames (or, on object stores, marks) a finished directory; a killed save leaves a
  temporary one.
- Beside it, <step>.files.json lists every file of a finished checkpoint with its SHA-256, for `verify`: digests of leaves say nothing of
  bytes that no leaf needs.
"""

import functools
import json
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from anystep.errors import UserError
from anystep.files import is_remote, list_folder, write_whole
from anystep.tree import nest, paths

MARK = "commit_success.txt"  # written last, on every backend
LISTING = "{step}.files.json"
FOLDER = "checkpoints"


def save(workdir, step: int, state, iterator=None, info: dict | None = None, keep: int = 0, spare: int | None = None) -> Callable[[], bool]:
    """Starts to write `state` as checkpoint `step` and returns as soon as the arrays are copied; an older checkpoint of that step is
    replaced.

    A thread waits for the commit, lists the files, then deletes all but the newest `keep` (0 = none deleted) of those up to `step`, never
    `spare`. Returns `wait() -> bool`, which waits for that thread. Call it before the next `save` and before leaving. A disk that is full
    or read-only costs a line on stderr and False, not the run.
    """
    leaves = paths(state)
    note = {"info": info or {}, "iterator": None if iterator is None else iterator.get_state(), "leaves": _describe(leaves)}
    note = json.loads(json.dumps(note))  # tuples become lists, and what is no JSON raises here and not in a thread
    target, refused = _step_path(workdir, step), None
    try:
        if jax.process_index() == 0:
            target.parent.mkdir(parents=True, exist_ok=True)
            _listing(workdir, step).unlink(missing_ok=True)
    except OSError as error:
        refused = error
    if not _everyone(refused is None):  # or one would wait for the others in orbax
        return functools.partial(_not_written, step, refused or OSError("another process could not"))
    try:
        with _context():
            response = ocp.save_async(target, nest(leaves), overwrite=True, custom_metadata=note | {"crc32": _crc32(note)})
    except OSError as error:
        return functools.partial(_not_written, step, error)

    def finish() -> bool:
        try:
            response.result()
        except Exception as error:  # tensorstore and orbax raise many types for one full disk
            return _not_written(step, error)
        if jax.process_index() == 0:
            try:
                _list(workdir, step)
            except OSError as error:
                _warn(f"the files of checkpoint {step} could not be listed, `ckpt verify` checks its leaves alone", error)
            _prune(workdir, step, keep, spare)
        return True

    behind = threading.Thread(target=lambda: done.append(finish()), name=f"checkpoint {step}")
    done: list[bool] = []
    behind.start()

    def wait() -> bool:
        behind.join()
        return done[0]

    return wait


def committed_steps(workdir) -> list[int]:
    """Steps of the finished checkpoints on disk, increasing. Never from orbax's memory: another process may have written or deleted."""
    folder = epath.Path(workdir) / FOLDER
    if not folder.exists():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit() and (entry / MARK).exists())


def restore(workdir, abstract, iterator=None, step: int | None = None, partial: bool = False) -> tuple[int, Any, dict]:
    """(step, state, info) of checkpoint `step`, or of the newest for None; `iterator`, if given, is moved to where it stood.

    `abstract` is the tree to fill: jax.ShapeDtypeStruct with sharding (any mesh, any number of devices) or numpy arrays for host memory.
    With `partial` the checkpoint may hold more than is asked. A checkpoint that cannot be read costs one line on stderr and the one before
    it is taken. UserError: no readable checkpoint; or names, shapes or dtypes that differ from those saved.
    """
    steps = [saved for saved in committed_steps(workdir) if step is None or saved <= step]
    if not steps or (step is not None and steps[-1] != step):
        raise UserError(f"{epath.Path(workdir) / FOLDER}: no finished checkpoint{'' if step is None else f' of step {step}'}")
    for candidate in reversed(steps):
        refused = None
        try:
            state, note = _read(_step_path(workdir, candidate), abstract, partial)
        except (UserError, jax.errors.JaxRuntimeError):  # the latter: no memory, which no other checkpoint would mend
            raise
        except Exception as error:  # whatever a damaged file makes orbax, tensorstore or json raise
            refused = error
        if not _everyone(refused is None):
            _warn(f"checkpoint {candidate} cannot be read, trying the one before", refused or OSError("another process could not"))
            continue
        if iterator is not None and note["iterator"] is not None:
            iterator.set_state(note["iterator"])
        return candidate, state, note["info"]
    raise UserError(f"{epath.Path(workdir) / FOLDER}: none of the checkpoints {steps} can be read")


def read_info(workdir, step: int) -> dict:
    """What the caller of `save` wanted to find again. ValueError if it is not what was saved."""
    return _read_note(_step_path(workdir, step))["info"]


def sweep(workdir) -> None:
    """Deletes what killed saves left behind; for the first process, before it saves."""
    folder = epath.Path(workdir) / FOLDER
    for entry in [entry for entry in folder.iterdir() if ".orbax-checkpoint-tmp" in entry.name] if folder.exists() else ():
        try:
            entry.rmtree()
        except OSError as error:
            _warn(f"{entry.name} could not be deleted", error)


def drop_after(workdir, step: int) -> None:
    """Deletes the checkpoints of later steps; one process does."""
    if jax.process_index() == 0:
        for later in [saved for saved in committed_steps(workdir) if saved > step]:
            _remove(workdir, later)


def is_listed(workdir, step: int) -> bool:
    """Whether the files of checkpoint `step` were listed; not if the run ended right after the save."""
    return _listing(workdir, step).exists()


def verify(workdir, step: int) -> list[str]:
    """What is wrong with checkpoint `step`, nothing for a sound one. Reads every byte: files against their list, if there is one, leaves
    against their digests."""
    path, wrong = _step_path(workdir, step), []
    try:
        if is_listed(workdir, step):
            said, found = json.loads(_listing(workdir, step).read_text()), list_folder(path)
            wrong += [f"{name} is missing" for name in sorted(set(said) - set(found))]
            wrong += [f"{name} was not written by the save" for name in sorted(set(found) - set(said))]
            wrong += [f"{name} is not what was written" for name in sorted(set(said) & set(found)) if said[name] != found[name]]
        _read(path, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved_tree(workdir, step)), False)
    except Exception as error:  # whatever a damaged file makes orbax, tensorstore or json raise
        wrong.append(f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
    return wrong


def _list(workdir, step: int) -> None:
    write_whole(_listing(workdir, step), json.dumps(list_folder(_step_path(workdir, step)), indent=0).encode())


def _prune(workdir, step: int, keep: int, spare: int | None) -> None:
    try:
        for old in [kept for kept in committed_steps(workdir) if kept <= step][:-keep] if keep else ():
            if old != spare:
                _remove(workdir, old)
    except OSError as error:
        _warn("old checkpoints could not be deleted", error)


def _everyone(well: bool) -> bool:
    """Whether all went well on every process."""
    return well if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(well)).all())


def _context():
    """Several processes meet by the coordination service: orbax's default barrier runs a program on the devices, from a thread, beside the
    training's own."""
    count = jax.process_count()
    several = ocp.options.MultiprocessingOptions(active_processes=set(range(count)), barrier_sync_key_prefix="anystep")
    return ocp.Context(multiprocessing_options=several) if count > 1 else ocp.Context()


def _listing(workdir, step: int):
    return epath.Path(workdir) / FOLDER / LISTING.format(step=step)


def _remove(workdir, step: int) -> None:
    _listing(workdir, step).unlink(missing_ok=True)
    _step_path(workdir, step).rmtree()


def saved_tree(workdir, step: int) -> dict:
    """What checkpoint `step` holds, as nested dicts of jax.ShapeDtypeStruct: a branch of it can be handed to `restore(...,
    partial=True)`."""
    leaves = _read_note(_step_path(workdir, step))["leaves"]
    return nest({name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)) for name, (shape, dtype, _) in leaves.items()})


def _read(path, abstract, partial: bool):
    note, wanted = _read_note(path), paths(abstract)
    _refuse_changes(path, wanted, note["leaves"], partial)
    context = _context()
    context.pytree.loading.partial_load = partial
    with context:
        loaded = paths(ocp.load(path, nest({name: _at_home(leaf) for name, leaf in wanted.items()})))
    broken = [name for name, found in _describe(loaded).items() if found != note["leaves"][name]]
    if broken:
        raise ValueError(f"the bytes of {', '.join(broken[:8])} are not those that were saved")
    return jax.tree.unflatten(jax.tree.structure(abstract), [loaded[name] for name in wanted]), note


def _read_note(path) -> dict:
    note = dict(ocp.metadata(path).custom_metadata or {})
    if note.pop("crc32", None) != _crc32(note):
        raise ValueError("the JSON object beside the arrays is missing or not what was saved")
    return note


def _crc32(note: dict) -> int:
    return zlib.crc32(json.dumps(note, sort_keys=True).encode())


def _refuse_changes(path, wanted: dict, saved: dict, partial: bool) -> None:
    kinds = {name: (list(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in wanted.items()}
    found = {name: (shape, dtype) for name, (shape, dtype, _) in saved.items()}
    changed = sorted(name for name in set(kinds) & set(found) if kinds[name] != found[name])
    parts = {
        "missing": sorted(set(kinds) - set(found)),
        "unused": [] if partial else sorted(set(found) - set(kinds)),
        "mis-shaped": [f"{name} (wanted {kinds[name]}, saved {found[name]})" for name in changed],
    }
    lines = [f"{len(names)} {word}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" for word, names in parts.items() if names]
    if lines:
        raise UserError(f"{path}: saved by another model or optimizer: {'; '.join(lines)}")


def _at_home(leaf):
    """Without a sharding orbax would look for the devices of the machine that saved."""
    if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is None:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jnp.zeros(()).sharding)
    return leaf


def _describe(leaves: dict) -> dict[str, list]:
    """Name -> [shape, dtype, digest]."""
    return {name: [list(leaf.shape), str(np.dtype(leaf.dtype)), _digest(leaf)] for name, leaf in leaves.items()}


def _digest(leaf) -> int:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return int(_digest_across_processes(leaf))
    bits = np.ascontiguousarray(leaf).reshape(-1)  # on the host, where it costs no compilation per shape
    words = bits.view({1: np.uint8, 2: np.uint16}.get(bits.itemsize, np.uint32)).astype(np.uint32)
    return int(np.sum(words * (2 * np.arange(words.size, dtype=np.uint32) + 1), dtype=np.uint32))


@jax.jit
def _digest_across_processes(leaf):
    bits = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    words = jax.lax.bitcast_convert_type(bits, {1: jnp.uint8, 2: jnp.uint16}.get(bits.dtype.itemsize, jnp.uint32)).astype(jnp.uint32)
    position, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(words.ndim)):  # not reshape(-1): that would gather a sharded array
        position = position + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(words * (2 * position + 1), dtype=jnp.uint32)


def _step_path(workdir, step: int):
    path = epath.Path(workdir) / FOLDER / str(step)
    return path if is_remote(workdir) else path.resolve()  # orbax takes absolute paths only


def _not_written(step: int, error: Exception) -> bool:
    _warn(f"checkpoint {step} was not written, the run goes on", error)
    return False


def _warn(what: str, error: Exception) -> None:
    print(f"WARNING: {what} ({type(error).__name__}: {' '.join(str(error).split())[:300]})", file=sys.stderr, flush=True)
