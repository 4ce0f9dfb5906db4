"""A store: pictures and prompts that were passed through an autoencoder and a text encoder once, on disk. Its format, writer and reader.

FOLDER = index.json, and for each shard three files:

NNNNN.pictures.array_record   a record a picture: JSON {"name", "captions"} and the bytes of one array, pixels [H, W, 3] uint8, or a latent
                              [h, w, C], two of them (mean and deviation) where the encoder's distribution was kept
NNNNN.prompts.array_record    a record for each caption that no earlier shard has: JSON {"text", "length"} and the bytes of its features
                              [length, D], without padding, and of its pooled vector [P]; none where there was no text encoder
NNNNN.table.npz               "names": crc32 of the names, "prompts": 64-bit digests of the texts, in the order of the records

The index is written last and at once, so a folder with one is whole. It says what the store was made with (digests of the encoders, of the
source, the options), what an array looks like, the null prompt's features, and bytes, SHA-256 and records of every file; "key" is the
SHA-256 of the rest. Beside a store that is being made lies progress.json, what its finished shards are. A record is 4 bytes, big endian:
the length of the JSON; the JSON; the arrays. Not here: networks (`encode`), the stream (`data`).
"""

import base64
import hashlib
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (numpy learns bfloat16 from it)
import numpy as np

from anystep.errors import UserError
from anystep.files import below, digest, write_whole

VERSION = 1
INDEX, PROGRESS = "index.json", "progress.json"
KINDS = ("pictures.array_record", "prompts.array_record", "table.npz")
SOURCES = (".safetensors", ".json", ".txt", ".model")  # what of a folder decides what an encoder answers
TEXT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
AUTOENCODER = ("vae",)


class Prompt(NamedTuple):
    """What a text encoder says of one prompt."""

    features: np.ndarray  # [length, D]
    pooled: np.ndarray  # [P], P may be 0


# ---------------------------------------------------------------- what a store was made with


def key_of(said) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def digest_of(folder, parts) -> str:
    """SHA-256 of the files of an encoder: those of the folders `parts` of a pipeline, or, where it has none of them, its own. Every byte of
    weights, configs and tokenizers is read. UserError for a folder without any."""
    folder = Path(folder)
    inside = [part for part in parts if (folder / part).is_dir()] or [""]
    files = {
        f"{part}/{name}": file
        for part in inside
        if (folder / part).is_dir()
        for name, file in below(folder / part)
        if file.suffix in SOURCES
    }
    if not any(name.endswith(".safetensors") for name in files):
        raise UserError(f"{folder}: no folder with .safetensors in it or in {', '.join(parts)}")
    return key_of({name: digest(file) for name, file in files.items()})


def check_made_with(folder, index, what: str, encoder: str, field: str) -> None:
    """UserError unless `what` ("text" | "autoencoder") of the store in `folder` is what the folder `encoder` holds, or, of an autoencoder,
    the pipeline that it lies in; `field` names it."""
    parts, place = TEXT if what == "text" else AUTOENCODER, Path(encoder)
    places = [place, place.parent] if what == "autoencoder" and place.name in parts else [place]
    if index["made_with"][what] not in (digest_of(place, parts) for place in places):
        made = "no" if index["made_with"][what] is None else "another"
        raise UserError(f"{field} = {str(encoder)!r}: the store {folder} was made with {made} {what}; encode it anew or name the right one")


# ---------------------------------------------------------------- records


def packed(head: dict, *arrays) -> bytes:
    said = json.dumps(head).encode()
    return struct.pack(">I", len(said)) + said + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def unpacked(record: bytes) -> tuple[dict, memoryview]:
    length = struct.unpack_from(">I", record)[0]
    return json.loads(record[4 : 4 + length]), memoryview(record)[4 + length :]


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


# ---------------------------------------------------------------- writing


class Shard:
    """One shard while it is made: drafts beside the files, which `close` puts in their places."""

    def __init__(self, folder, number: int):
        self.folder, self.number, self.names, self.prompts, self.writers = Path(folder), number, [], [], {}

    def add_picture(self, name: str, captions, *arrays) -> None:
        self.names.append(zlib.crc32(name.encode("utf-8", "surrogatepass")))
        self._write(KINDS[0], packed({"name": name, "captions": list(captions)}, *arrays))

    def add_prompt(self, text: str, found: Prompt | None) -> None:
        self.prompts.append(hash_of(text))
        self._write(KINDS[1], packed({"text": text, "length": len(found.features) if found else 0}, *(found or ())))

    def close(self) -> dict:
        """{file name: [bytes, SHA-256, records]}"""
        counts = {KINDS[0]: len(self.names), KINDS[1]: len(self.prompts), KINDS[2]: 0}
        table = io.BytesIO()
        np.savez(table, names=np.array(self.names, np.uint32), prompts=np.array(self.prompts, np.uint64))
        write_whole(self._file(KINDS[2]), table.getvalue())
        for kind, writer in self.writers.items():
            writer.close()
            self._draft(kind).replace(self._file(kind))
        made = [kind for kind in KINDS if kind in self.writers or kind == KINDS[2]]
        return {self._file(kind).name: [*digest(self._file(kind)), counts[kind]] for kind in made}

    def _file(self, kind):
        return self.folder / f"{self.number:05}.{kind}"

    def _draft(self, kind):
        return self.folder / f".{self.number:05}.{kind}.part"

    def _write(self, kind, record):
        if kind not in self.writers:
            from array_record.python.array_record_module import ArrayRecordWriter

            self.writers[kind] = ArrayRecordWriter(str(self._draft(kind)), "group_size:1,uncompressed")  # of noise nothing is gained
        self.writers[kind].write(record)


def table_of(folder, files: dict) -> tuple[np.ndarray, np.ndarray]:
    """(crc32 of the pictures' names, digests of the prompts' texts) of all shards, in the order of the records."""
    names, prompts = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint64)]
    for name in sorted(name for name in files if name.endswith(KINDS[2])):
        try:
            with np.load(Path(folder) / name, allow_pickle=False) as table:
                names.append(table["names"])
                prompts.append(table["prompts"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{Path(folder) / name}: not what was written ({error}); encode the store anew") from None
    return np.concatenate(names), np.concatenate(prompts)


def as_text(found: Prompt) -> dict:
    """The null prompt as it stands in the index."""
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in found)
    return {"length": len(found.features), "data": base64.b64encode(data).decode()}


# ---------------------------------------------------------------- reading


def read_index(folder) -> dict:
    """The index of the store in `folder`. UserError where there is none, for one that is not finished, is not what was written or of
    another version."""
    said, folder = str(folder), Path(folder)
    if not said or not (folder / INDEX).is_file():
        unfinished = said and (folder / PROGRESS).is_file()
        why = "is not finished; the `anystep encode` that began it goes on" if unfinished else f"is no store, which would have {INDEX}"
        raise UserError(f"config.data.path = {said!r}: {why}")
    try:
        index = json.loads((folder / INDEX).read_bytes())
        version = index.get("version")
        key = key_of({name: value for name, value in index.items() if name != "key"})
    except (ValueError, AttributeError) as error:
        raise UserError(f"{folder / INDEX}: not an index of a store ({error})") from None
    if version != VERSION:
        raise UserError(f"{folder / INDEX}: version {version!r}, known is {VERSION}; encode the store anew")
    if index.get("key") != key:
        raise UserError(f"{folder / INDEX}: not what was written; encode the store anew")
    return index


def verify(folder, whole: bool = True) -> None:
    """UserError for a file of a store that is not what the index says: size and number of records, and with `whole` every byte."""
    files = read_index(folder)["files"]
    _check_sizes(folder, files)
    for name, (_, sha, count) in files.items():
        file = Path(folder) / name
        if whole and digest(file)[1] != sha:
            raise UserError(f"{file}: not what the index says (another digest); encode the store anew")
        if name.endswith(".array_record") and (records := len(_opened([file]))) != count:
            raise UserError(f"{file}: {records:,} records, the index says {count:,}; encode the store anew")


def _check_sizes(folder, files):
    for name, (size, _, _) in files.items():
        file = Path(folder) / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            why = "is missing, the index names it" if found is None else f"not what the index says ({found:,} bytes of {size:,})"
            raise UserError(f"{file}: {why}; encode the store anew")


def _opened(files):
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        return ArrayRecordDataSource([str(file) for file in files])
    except Exception as error:  # a damaged file makes the reader raise many types
        raise UserError(f"{files[0]}: not readable as ArrayRecord ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from None


class Store:
    """A finished store. `names`: crc32 of each picture's name. Reading is safe from several threads."""

    def __init__(self, folder):
        self.folder, self.index = Path(folder), read_index(folder)
        files = self.index["files"]
        _check_sizes(self.folder, files)
        self.names, self.hashes = table_of(self.folder, files)
        self.order = np.argsort(self.hashes, kind="stable")
        self.sources = [_opened([self.folder / name for name in sorted(files) if name.endswith(kind)]) for kind in KINDS[:2]]

    def picture(self, number: int) -> tuple[np.ndarray, list[str]]:
        """(array [1 or 2, H, W, C] in the dtype of the store, captions)"""
        said, head, data = self.index["picture"], *self._record(0, number)
        return _array(data, said["dtype"], (-1, *said["shape"])), head["captions"]

    def prompt(self, text: str) -> Prompt:
        """UserError for a text that the store does not hold."""
        if text == "":
            return self.null()
        wanted = np.uint64(hash_of(text))
        place = int(np.searchsorted(self.hashes, wanted, sorter=self.order))
        if place < len(self.order) and self.hashes[self.order[place]] == wanted:
            head, data = self._record(1, int(self.order[place]))
            if head["text"] == text:
                return self._prompt(head["length"], data)
        raise UserError(
            f"prompt {text[:60]!r}: is not among the {len(self.hashes):,} of the store {self.folder}, and there is no text encoder here; "
            "anystep.load(..., text=FOLDER) and `anystep sample --text FOLDER` take the one that the store was made with"
        )

    def null(self) -> Prompt:
        said = self.index["text"]["null"]
        return self._prompt(said["length"], base64.b64decode(said["data"]))

    def _prompt(self, length, data):
        said = self.index["text"]
        both = _array(data, said["dtype"], (-1,))
        cut = length * said["width"]
        return Prompt(both[:cut].reshape(length, said["width"]), both[cut:])

    def _record(self, which, number):
        try:
            return unpacked(self.sources[which][number])
        except Exception as error:  # the reader's, struct's and json's
            where = f"{self.folder}: record {number} of the {KINDS[which].partition('.')[0]}"
            raise UserError(f"{where} cannot be read ({' '.join(str(error).split())[:200]})") from None


def _array(data, dtype, shape):
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape)
