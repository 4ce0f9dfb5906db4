"""Records: ArrayRecord files of the house, and data sets of TFDS (read by `tfds.data_source`, which needs no TensorFlow).

A record is 4 bytes, big endian: the length of a JSON object {"captions": ["...", ...]}; that object; the bytes of a picture file.
"""

import io
import json
import struct
from collections.abc import Callable, Iterable

import grain
import numpy as np
from etils import epath
from PIL import Image

from anystep.data.pictures import CAPTIONS, captions_of, decode, square, to_rgba
from anystep.errors import UserError

Row = Callable[[int], tuple[np.ndarray, tuple[str, ...]]]
LONGEST = 2**20  # bytes of the JSON object
LARGEST = 2**28  # bytes of a record


def write_records(path, rows: Iterable[tuple[bytes, list[str]]]) -> None:
    """Writes (bytes of a picture file, captions) to one ArrayRecord file, each record to be read by itself."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for picture, captions in rows:
        head = json.dumps({"captions": list(captions)}).encode()
        writer.write(struct.pack(">I", len(head)) + head + picture)
    writer.close()


def open_records(files, size: int) -> tuple[int, Row]:
    """(number of records, index -> (pixels [size, size, 4] uint8, captions)). UserError for what is no ArrayRecord, and from a row for a
    record that is not of the house."""
    try:
        source = grain.sources.ArrayRecordDataSource([str(file) for file in files])
        count = len(source)
    except Exception as error:  # a damaged file makes the reader raise many types
        raise UserError(f"{files[0]}: not readable as ArrayRecord ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from None

    def row(index):
        where = f"{epath.Path(files[0]).parent if len(files) > 1 else files[0]}:{index}"
        try:
            data = source[index]
            length = struct.unpack_from(">I", data)[0]
            if not length <= min(LONGEST, len(data) - 4) or len(data) > LARGEST:
                raise ValueError(f"its header says {length:,} bytes of {len(data):,}")
            head = json.loads(data[4 : 4 + length])
            if not isinstance(head, dict):
                raise ValueError("its header is no JSON object")
        except Exception as error:  # the reader's, struct's and json's
            raise UserError(f"{where}: not a record of pictures ({' '.join(str(error).split())[:200]})") from None
        captions = captions_of(head, where)
        return decode(io.BytesIO(data[4 + length :]), where, size), captions

    return count, row


def open_tfds(name: str, size: int) -> tuple[int, Row]:
    """As `open_records`, of the TFDS data set "NAME" or "NAME/SPLIT" (default: train), which must have been prepared as array_record.
    Pictures are the feature "image", captions the first of CAPTIONS, else the name of the class."""
    import tensorflow_datasets as tfds

    base, _, split = name.partition("/")
    try:
        source = tfds.data_source(base, split=split or "train")
        features = source.dataset_info.features
    except Exception as error:  # whatever the code of a data set does
        raise UserError(f"data.path: tfds:{name} cannot be opened ({' '.join(str(error).split())[-200:]})") from None
    labels = next((key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)), None)
    if "image" not in features or not (labels or any(key in features for key in CAPTIONS)):
        raise UserError(f"data.path: tfds:{name} has the features {', '.join(features)}; needed are image and captions or a label")

    def row(index):
        where = f"tfds:{name}:{index}"
        try:
            found = source[index]
            pixels = np.asarray(found["image"])
            picture = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
            out = square(to_rgba(picture), size)
            if any(key in found for key in CAPTIONS):
                return out, captions_of(texts_of(found), where)
            return out, (features[labels].int2str(int(found[labels])).replace("_", " "),)
        except UserError:
            raise
        except Exception as error:  # the reader's, and what pictures of an unknown kind make Pillow raise
            raise UserError(f"{where}: not a readable record ({' '.join(str(error).split())[:200]})") from None

    return len(source), row


def tfds_folder(name: str):
    """Where the data set "NAME" or "NAME/SPLIT" lies, all its splits."""
    import tensorflow_datasets as tfds

    return tfds.builder(name.partition("/")[0]).data_path


def texts_of(found: dict) -> dict:
    """The captions of a TFDS record as texts: bytes are decoded, a sequence of {"text": ...} is its texts."""
    key = next(key for key in CAPTIONS if key in found)
    value = found[key]["text"] if isinstance(found[key], dict) and "text" in found[key] else found[key]
    values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
    return {key: [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in values]}
