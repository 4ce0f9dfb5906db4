"""Batches of pictures and prompts, as a stream that can be entered anywhere. The only folder that imports grain.

Import order inside: draws, pictures, packs, records, quarantine, albums, sources, stream.

Row r of global batch n is sample p = n * batch + r of the stream, and a sample is a pure function of (data config, seed, p). Hence nothing
depends on threads, processes or restarts, and the whole state of a stream is the number of the next batch. Not here: devices, tokenizers,
augmentation on the accelerator.
"""

from anystep.data.records import write_records
from anystep.data.sources import captions, describe, ring
from anystep.data.stream import make_stream

__all__ = ["captions", "describe", "make_stream", "ring", "write_records"]
