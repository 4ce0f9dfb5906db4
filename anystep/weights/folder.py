"""A model on disk is a FOLDER: config.json and weights.safetensors. Here: writing one, reading one, comparing one with what a network
expects.

Names are the keys of the way to a leaf joined by "/": params {"net": {"head": {"bias": b}}} is the tensor "net/head/bias". Nothing here
executes what it reads: formats that can carry code or Python objects (pickles) are refused by name. Not here: training checkpoints
(`checkpoint`), with optimizer and step.
"""

import fnmatch
import json
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from anystep.errors import UserError
from anystep.files import write_whole
from anystep.tree import nest, paths

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
PACKAGED = epath.Path(__file__).parents[1] / "pretrained"  # a folder a model, in it perhaps steer/, a classifier of relations for it
PIPELINE = "model_index.json"  # a folder of such folders, as diffusers writes it
REFUSED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".npy", ".h5")
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip


def save_folder(path, config: dict, params: dict) -> None:
    """Writes `config` (JSON) and `params` (nested dicts of arrays, roles outermost) into the folder `path`, made if missing; dtypes are
    kept."""
    folder = epath.Path(path)
    leaves = paths(params)
    for way, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not all(isinstance(key, jax.tree_util.DictKey) and isinstance(key.key, str) and "/" not in key.key for key in way):
            raise ValueError(f'parameters must be nested dicts with names without "/", not {jax.tree_util.keystr(way)}')
    # ascontiguousarray makes a scalar a vector, and safetensors writes the memory of a transposed view as it lies
    arrays = {name: np.ascontiguousarray(leaf).reshape(leaf.shape) for name, leaf in leaves.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, safetensors.numpy.save(arrays))
    write_whole(folder / CONFIG, json.dumps(config, indent=2).encode())


def load_folder(path) -> tuple[dict, dict]:
    """(config, params as nested dicts of numpy arrays) of a folder that `save_folder` wrote. UserError for what is not such a folder."""
    folder = epath.Path(path)
    refuse_pickles(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            raise UserError(f"{folder}: not a model folder, it has no {name}")
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except ValueError as error:
        raise UserError(f"{folder / CONFIG}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG}: must be a JSON object")
    flat = read_safetensors(folder / WEIGHTS)
    try:
        return config, nest(flat)
    except ValueError as error:
        raise UserError(f"{folder / WEIGHTS}: {error}") from None


def read_safetensors(path) -> dict[str, np.ndarray]:
    """Flat name -> numpy array of one .safetensors file; the arrays own their memory. UserError for a header that lies or a dtype not in
    DTYPES."""
    path = epath.Path(path)
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a sound safetensors file ({error})") from None
    unknown = sorted({entry["dtype"] for _, entry in entries} - set(DTYPES))
    if unknown:
        raise UserError(f"{path}: dtype {', '.join(unknown)} is not supported, known are {', '.join(DTYPES)}")
    return {name: np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy() for name, entry in entries}


def refuse_pickles(path) -> None:
    """UserError when `path` is a file in a format that can carry Python objects, or a folder with such files and no .safetensors."""
    path = epath.Path(path)
    files = [path]
    if path.is_dir():
        files = list(path.iterdir())
        if any(file.suffix == ".safetensors" for file in files):
            return
    for file in files:
        if file.suffix.lower() in REFUSED:
            raise UserError(
                f"{file}: {file.suffix} files can run code when read and are never opened; convert to .safetensors where the file was made"
                " (safetensors.torch.save_file or safetensors.numpy.save_file)"
            )


class Match(NamedTuple):
    """How loaded weights differ from expected ones: names, sorted. `misshaped` gives (name, expected shape, found shape)."""

    missing: tuple[str, ...]
    unused: tuple[str, ...]
    misshaped: tuple[tuple[str, tuple, tuple], ...]


def match(params, loaded) -> Match:
    """Compares two nested dicts by name and shape (dtypes may differ). Leaves of either need only a `.shape`."""
    expected, found = paths(params), paths(loaded)
    return Match(
        missing=tuple(sorted(set(expected) - set(found))),
        unused=tuple(sorted(set(found) - set(expected))),
        misshaped=tuple(
            (name, tuple(expected[name].shape), tuple(found[name].shape))
            for name in sorted(set(expected) & set(found))
            if tuple(expected[name].shape) != tuple(found[name].shape)
        ),
    )


def take(params: dict, loaded: dict, new: tuple[str, ...] = ()) -> dict:
    """`params` with every leaf replaced by the loaded one, in the dtype of `params`.

    A leaf that `loaded` lacks keeps its initial value if a pattern of `new` (fnmatch, "net/*/q_norm/*") names it; any other difference is
    one UserError.
    """
    report = match(params, loaded)
    missing = [name for name in report.missing if not any(fnmatch.fnmatchcase(name, pattern) for pattern in new)]
    if missing or report.unused or report.misshaped:
        raise UserError(f"the weights do not fit the model: {describe(report._replace(missing=tuple(missing)))}")
    found = paths(loaded)
    leaves = [np.asarray(found[name]).astype(leaf.dtype) if name in found else leaf for name, leaf in paths(params).items()]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def describe(report: Match) -> str:
    """One line: what is missing, unused and mis-shaped, at most eight names of each."""
    misshaped = tuple(f"{name} (expected {expected}, found {found})" for name, expected, found in report.misshaped)
    parts = (("missing", report.missing), ("unused", report.unused), ("mis-shaped", misshaped))
    return "; ".join(f"{len(names)} {word}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" for word, names in parts if names)
