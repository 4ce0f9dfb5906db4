"""The stream of batches: a grain iterator over the numbers of global batches, whose state is the number of the next one."""

from collections.abc import Callable

import grain
import numpy as np

from anystep.data.sources import open_source
from anystep.errors import UserError

POSITIONS = 2**31 - 1  # of a stream: `index` is int32


def make_stream(
    data_config,
    tokenize: Callable[[list[str]], np.ndarray],
    seed: int,
    batch: int,
    process_index: int = 0,
    process_count: int = 1,
    split: str = "train",
    threads: int = 2,
    quarantine=None,
) -> grain.DatasetIterator:
    """Iterator of {"x0": float32 [b, H, W, C] in [-1, 1] or latents, "index": int32 [b], "cond": {"tokens": of `tokenize`, [b, ...]}}, b =
    batch / process_count.

    `index` is the position in the stream: it never repeats, over epochs neither. Process p gets rows p b to (p + 1) b of every global
    batch, whatever the number of processes. `threads` make batches ahead; what was made but not taken is not part of get_state().
    `quarantine`: file for what cannot be read. UserError for what cannot be served.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed = {seed!r}: must be in [0, 2^32)")
    if batch < 1 or batch % process_count:
        raise UserError(f"data.batch = {batch!r}: must be a positive multiple of the {process_count} processes")
    source = open_source(data_config, split, quarantine, process_count)
    rows = batch // process_count

    def make(number: int) -> dict:
        first = number * batch + process_index * rows
        x0, captions = source(seed, range(first, first + rows))
        return {"x0": x0, "index": np.arange(first, first + rows, dtype=np.int32), "cond": {"tokens": tokenize(captions)}}

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.range(POSITIONS // batch).map(make).to_iter_dataset(options))
