"""From a peer's folder to ours and back: FOLDER = config.json {"peer": the peer's own config} + weights.safetensors under our names."""

import json
import math
import shutil
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np

from anystep.errors import UserError
from anystep.tree import nest, paths
from anystep.weights.folder import CONFIG, PIPELINE, WEIGHTS, Match, describe, match, refuse_pickles
from anystep.weights.names import one, to_ours, to_peers, to_shard
from anystep.weights.peers import find
from anystep.weights.tensors import Tensors, write

PLAIN = (".json", ".txt", ".model")  # tokenizers and schedulers: copied as they are
NOT_OURS = ("safety_checker", "feature_extractor", "image_encoder")  # of pipelines, which draw without them


def read_config(folder, name=CONFIG):
    """A JSON object in a folder. UserError where there is none."""
    path = Path(folder) / name
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: has no {name}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: must be a JSON object")
    return found


def peer_config(config):
    """The peer's own fields: of a folder of ours, of a peer's, or of a parity folder, which nests them."""
    config = config.get("peer", config)
    return config["config"] | {"_class_name": config["class"]} if "class" in config else config


def shapes_of(peer, options):
    """{our leaf: ShapeDtypeStruct}"""
    return paths(jax.eval_shape(peer.init(options), jax.random.key(0)))


def compare(names, expected, tensors) -> Match:
    """What a peer's file lacks, has too much of, or has in another shape. Leaves that `names` does not name are new with us."""
    needed = {tensor for source in names.values() for tensor in source.names}
    misshaped = []
    for ours, source in names.items():
        for tensor in source.names:
            if tensor in tensors.shapes:
                want = tuple(expected[ours].shape[1:] if source.stacked else expected[ours].shape)
                found = _shape(source.layout.ours, tensors.empty(tensor))
                if found != want:
                    misshaped.append((tensor, want, found))
    return Match(tuple(sorted(needed - set(tensors.shapes))), tuple(sorted(set(tensors.shapes) - needed)), tuple(misshaped))


def _shape(layout, empty):
    try:
        return tuple(layout(empty).shape)
    except (ValueError, IndexError):  # another number of axes
        return tuple(empty.shape)


def load(folder, allow=(), shard=None):
    """(Peer, options, params as nested numpy dicts) of a folder of a peer's or one that was imported. UserError for what does not fit,
    unless allowed: "unused" tensors are left out, "missing" ones keep a fresh network's values.

    shard: tree of ShapeDtypeStructs -> tree of shardings, `mesh.shard_rule` of a mesh. Params are then jax.Arrays, and no leaf was ever
    whole on the host: of a model that is larger than its memory each shard is read straight to its device.
    """
    config = read_config(folder)
    if "peer" in config:
        peer, options, expected, tensors = opened_ours(folder, config["peer"])
        names = {ours: one(ours) for ours in expected}
    else:
        peer, options, expected, names, tensors = opened(folder, allow)
    new = fresh(peer, options, set(expected) - set(names))
    if shard is None:
        return peer, options, nest({ours: to_ours(source, tensors.read) for ours, source in names.items()} | new)
    kept = {ours: leaf.update(dtype=moved(names[ours], tensors) if ours in names else leaf.dtype) for ours, leaf in expected.items()}
    places = paths(shard(nest(kept)))

    def place(ours):
        def read(index):
            return to_shard(names[ours], tensors.read, index) if ours in names else new[ours][index]

        return jax.make_array_from_callback(kept[ours].shape, places[ours], read)

    return peer, options, nest({ours: place(ours) for ours in kept})


def opened_ours(folder, config):
    """(peer, options, expected leaves, Tensors) of what was imported, checked."""
    peer, tensors = find(config, Path(folder) / CONFIG), Tensors(folder)
    options = peer.options(config)
    expected = shapes_of(peer, options)
    if any(report := match(nest(expected), nest({name: tensors.empty(name) for name in tensors.shapes}))):
        raise UserError(f"{folder}: does not fit {config.get('_class_name', 'its config')}: {describe(report)}")
    return peer, options, expected, tensors


def opened(folder, allow=()):
    """(peer, options, expected leaves, names that the file has, Tensors), checked."""
    config, tensors = peer_config(read_config(folder)), Tensors(folder)
    peer = find(config, Path(folder) / CONFIG)
    tensors.call(peer.known_as)
    options = peer.options(config)
    expected, names = shapes_of(peer, options), peer.names(options)
    report = compare(names, expected, tensors)
    left = report._replace(**{word: () for word in allow})
    if any(left):
        raise UserError(f"{folder}: does not fit {config.get('_class_name', 'its config')}: {describe(left)}")
    lacking = set(report.missing)
    return peer, options, expected, {ours: source for ours, source in names.items() if not lacking & set(source.names)}, tensors


def fresh(peer, options, wanted):
    """{leaf: initial value} of leaves that a file lacks."""
    if not wanted:
        return {}
    init = peer.init(options)
    return jax.tree.map(
        np.asarray, jax.jit(lambda: {name: leaf for name, leaf in paths(init(jax.random.key(0))).items() if name in wanted})()
    )


def bring(source, folder, dtype=None, allow=()):
    """Yields (folder written, tensors) for each component: a peer's folder `source`, or every one of a pipeline, becomes ours at `folder`.
    One tensor of ours is in memory at a time. `dtype` None keeps each tensor's own. Of a pipeline, what is NOT_OURS is left out, and
    what is not there is null in its model_index.json, as diffusers writes it."""
    source, folder = Path(source), Path(folder)
    if not (source / PIPELINE).is_file():
        yield folder, bring_one(source, folder, dtype, allow)
        return
    index, brought = read_config(source, PIPELINE), set()
    for part in sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if part.name in NOT_OURS:
            continue
        brought.add(part.name)
        network = (part / CONFIG).is_file() and not part.name.startswith("tokenizer")
        if network or any(part.glob("*.safetensors")):
            yield folder / part.name, bring_one(part, folder / part.name, dtype, allow)
        else:
            copy_plain(part, folder / part.name)
    kept = {name: [None, None] if isinstance(said, list) and name not in brought else said for name, said in index.items()}
    (folder / PIPELINE).write_text(json.dumps(kept, indent=2) + "\n")


def bring_one(source, folder, dtype, allow):
    peer, options, expected, names, tensors = opened(source, allow)
    new = fresh(peer, options, set(expected) - set(names))
    kept = {ours: np.dtype(dtype) if dtype else new[ours].dtype if ours in new else moved(names[ours], tensors) for ours in expected}

    def arrays():
        for ours in expected:
            array = to_ours(names[ours], tensors.read) if ours in names else new[ours]
            yield ours, narrowed(ours, array, kept[ours])

    write(folder / WEIGHTS, {ours: leaf.shape for ours, leaf in expected.items()}, kept, arrays())
    (folder / CONFIG).write_text(json.dumps({"peer": peer.config(options)}, indent=1))
    return len(expected)


def narrowed(ours, array, dtype):
    """array in another dtype. UserError where that has no room for its numbers."""
    with np.errstate(over="ignore"):
        found = array.astype(dtype, copy=False)
    if found.dtype != array.dtype and np.issubdtype(dtype, np.floating) and not np.isfinite(found).all() and np.isfinite(array).all():
        raise UserError(
            f"--dtype {np.dtype(dtype).name}: {ours} has numbers up to {float(np.abs(array).max()):.3g}; allowed bfloat16, float32"
        )
    return found


def copy_plain(source, folder):
    refuse_pickles(source)
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix in PLAIN:
            shutil.copy(file, folder / file.name)


def moved(source, tensors):
    """The dtype of our leaf."""
    return source.layout.ours(tensors.empty(source.names[0])).dtype


def size(shape):
    return math.prod(shape)


def give(source, folder):
    """Yields (folder written, tensors) for each component: what `bring` has written as the peer's own folders."""
    source, folder = Path(source), Path(folder)
    if not (source / PIPELINE).is_file():
        yield folder, give_one(source, folder)
        return
    for part in sorted(path for path in source.iterdir() if path.is_dir()):
        if (part / WEIGHTS).is_file():
            yield folder / part.name, give_one(part, folder / part.name)
        else:
            copy_plain(part, folder / part.name)
    shutil.copy(source / PIPELINE, folder / PIPELINE)


def give_one(source, folder):
    """Leaves that the peer does not know are refused if they say anything, left out while they are zero."""
    config = read_config(source)
    if "peer" not in config:
        raise UserError(f"{source}: was not imported from a peer, so there is nothing that its export would be read by")
    peer, tensors = find(config["peer"], source / CONFIG), Tensors(source)
    options = peer.options(config["peer"])
    names = peer.names(options)
    gone = sorted(set(names) - set(tensors.shapes))
    said = [ours for ours in sorted(set(tensors.shapes) - set(names)) if np.any(tensors.read(ours))]
    if gone or said:
        raise UserError(f"{source}: cannot be exported: {describe(Match(tuple(gone), tuple(said), ()))}")
    shapes, dtypes = {}, {}
    for ours, origin in names.items():
        for tensor, empty in to_peers(origin, tensors.empty(ours), move=False):
            shapes[tensor], dtypes[tensor] = empty.shape, empty.dtype
    arrays = (pair for ours, origin in names.items() for pair in to_peers(origin, tensors.read(ours)))
    write(folder / peer.file, shapes, dtypes, arrays)
    (folder / CONFIG).write_text(json.dumps(peer.config(options), indent=1))
    return len(shapes)


def measure(folder, close, close_derivative, low=True):
    """(whether every recorded array is met, lines to print) of a folder with config.json, weights.safetensors and io.npz; `low`: also what
    bfloat16 would make of it."""
    recorded = recording(Path(folder))
    wanted = [name for name in recorded if name.startswith(("out", "mid."))]
    if not wanted:
        raise UserError(f"{Path(folder) / 'io.npz'}: has no out_* and no mid.*, so there is nothing to verify")
    peer, options, params = load(folder)
    limits = {name: close_derivative if "jvp" in name else close for name in wanted}
    try:
        answers = peer.answers(options, params, given(recorded))
    except KeyError as error:
        raise UserError(f"{Path(folder) / 'io.npz'}: has no {error.args[0]}, which its outputs come from") from None
    met, lines = verdict(errors(answers, recorded, wanted), limits)
    if low and "dtype" in options._fields:
        rough = errors(peer.answers(options._replace(dtype="bfloat16"), params, given(recorded)), recorded, wanted)
        lines.append(f"bfloat16: {max(rough.values()):.3g} at {max(rough, key=rough.get)}")
    return met, lines


def verdict(found, limits):
    """(whether no error is above its limit, lines that say so or name the others, the worst first); both {name: share of the largest
    value}."""
    broken = sorted((name for name in found if not found[name] <= limits[name]), key=lambda name: -found[name])
    if broken:
        return False, [f"{name}: {found[name]:.3g} of the largest value, allowed {limits[name]:g}" for name in broken]
    worst = max(found, key=lambda name: found[name] / limits[name])
    return True, [f"ok: {len(found)} arrays, worst {found[worst]:.3g} at {worst}"]


def recording(folder):
    """What io.npz holds; one without inputs takes those of the folder that it is named after: "x_trunk" those of "x", whose answers control
    it."""
    recorded = read_arrays(folder / "io.npz")
    if not any(name.startswith("in_") for name in recorded):
        beside = read_arrays(folder.parent / folder.resolve().name.rpartition("_")[0] / "io.npz")
        recorded |= {name.replace("out_block_", "in_control_"): beside[name] for name in beside if name.startswith(("in_", "out_block_"))}
    return recorded


def read_arrays(file):
    """{name: array} of an .npz. UserError for one that cannot be read."""
    try:
        return dict(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def given(recorded):
    """Only the names of what is asked: nobody can peek."""
    return {name: value if name.startswith("in_") else None for name, value in recorded.items()}


def errors(answers, recorded, wanted):
    """{name: largest difference over largest value}; infinite for what is not answered or has another shape."""
    out = {}
    for name in wanted:
        answer = np.asarray(answers[name], np.float64) if name in answers else np.array(np.nan)
        right = recorded[name].astype(np.float64)
        good = answer.shape == right.shape and np.isfinite(answer).all()
        out[name] = float(np.max(np.abs(answer - right)) / max(np.max(np.abs(right)), 1e-30)) if good else math.inf
    return out
