"""Safetensors one tensor at a time: reading a folder of them without holding it, writing a file without holding it.

A folder has one file, or several and an index (`*.safetensors.index.json`: {"weight_map": {tensor: file}}), as diffusers and transformers
write them.
"""

import json
import struct
from pathlib import Path

import ml_dtypes  # noqa: F401  (numpy learns bfloat16 from it)
import numpy as np
import safetensors

from anystep.errors import UserError
from anystep.weights.folder import DTYPES, refuse_pickles

NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
INDEX = ".index.json"
USUAL = ("weights.safetensors", "diffusion_pytorch_model.safetensors", "model.safetensors")  # preferred where a folder has variants, too


class Tensors:
    """`shapes`: {name: shape}, `dtypes`: {name: "F32" ...}; `read(name)` -> numpy array. UserError for a folder without safetensors, for
    an index that names what is not there, for a damaged file."""

    def __init__(self, folder):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        refuse_pickles(self.folder)
        self.place, self.shapes, self.dtypes = {}, {}, {}
        for file in self._files():
            with self._opened(file) as tensors:
                for name in tensors.keys():
                    part = tensors.get_slice(name)
                    self.place[name], self.shapes[name], self.dtypes[name] = (file, name), tuple(part.get_shape()), part.get_dtype()
        unknown = sorted(set(self.dtypes.values()) - set(DTYPES))
        if unknown:
            raise UserError(f"{folder}: dtype {', '.join(unknown)} is not supported, known are {', '.join(DTYPES)}")

    def _files(self):
        """Variants, such as model.fp16.safetensors or model.safetensors.index.fp16.json, are second to files of the usual names."""
        stale = None
        for file in [self.folder / (name + end) for name in USUAL for end in (INDEX, "")]:
            if file.is_file() and file.suffix != ".json":
                return [file]
            if file.is_file():
                try:
                    return self._named_by(file)
                except UserError as error:  # an index alone, downloaded beside a whole variant
                    stale = stale or error
        if found := [file for file in sorted(self.folder.glob("*.safetensors.index*.json")) if not file.name.endswith(INDEX)]:
            return self._named_by(found[0])
        if stale and not any(self.folder.glob("*.fp16.safetensors")):
            raise stale
        found = sorted(self.folder.glob("*.safetensors"))
        halves = [file for file in found if file.name.endswith(".fp16.safetensors")]
        if 1 not in (len(found), len(halves)):
            raise UserError(f"{self.folder}: {len(found)} .safetensors files and no index; expected one of {', '.join(USUAL)}")
        return found if len(found) == 1 else halves

    def _named_by(self, index):
        try:
            named = json.loads(index.read_text())["weight_map"]
            files = [self.folder / name for name in sorted(set(named.values()))]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f'{index}: not an index of safetensors files ({{"weight_map": {{tensor: file}}}})') from None
        gone = [file.name for file in files if not file.is_file()]
        if gone:
            raise UserError(f"{self.folder}: {index.name} names files that are not there: {', '.join(gone[:4])}")
        return files

    def _opened(self, file):
        try:
            return safetensors.safe_open(file, framework="numpy")
        except safetensors.SafetensorError as error:
            raise UserError(f"{file}: not a sound safetensors file ({error})") from None

    def read(self, name):
        file, called = self.place[name]
        with self._opened(file) as tensors:  # opened anew: what is mapped and not closed stays in memory
            return tensors.get_tensor(called)

    def empty(self, name):
        """Zeros of its shape and dtype that take no memory."""
        return np.broadcast_to(np.zeros((), DTYPES[self.dtypes[name]]), self.shapes[name])

    def call(self, known_as):
        """From now on by other names: known_as(name) for each, None leaves it out."""
        names = {name: known_as(name) for name in self.place}
        for what in ("place", "shapes", "dtypes"):
            held = getattr(self, what)
            setattr(self, what, {new: held[name] for name, new in names.items() if new is not None})


def write(path, shapes, dtypes, arrays):
    """Writes a .safetensors file whole or not at all. `shapes` and `dtypes` {name: ...} say what will come, `arrays` yields (name, array)
    in that order: only one of them is in memory."""
    path, header, end = Path(path), {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtypes[name]).itemsize
        header[name] = {"dtype": NAMES[np.dtype(dtypes[name])], "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    said = json.dumps(header, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)
    draft = path.parent / f".{path.name}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(draft, "wb") as file:
        file.write(struct.pack("<Q", len(said)) + said)
        for (name, array), expected in zip(arrays, shapes, strict=True):
            if name != expected or array.shape != tuple(shapes[name]) or array.dtype != np.dtype(dtypes[name]):
                raise ValueError(f"{name}: {array.shape} {array.dtype} came where {expected}: {shapes[expected]} was announced")
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer of its own
    draft.replace(path)
