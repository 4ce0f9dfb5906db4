"""The randomness of a sample, by name and position: numpy generators, because data is made on the host."""

import functools
import zlib

import numpy as np


def generator(name: str, seed: int, position: int) -> np.random.Generator:
    """The generator of the draw `name` for sample `position`: independent of every other name, seed (below 2^32) and position."""
    return np.random.Generator(np.random.Philox(key=np.array([zlib.crc32(name.encode()) << 32 | seed, position], np.uint64)))


@functools.lru_cache(maxsize=16)  # a batch touches two epochs of each album
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return generator("shuffle", seed, epoch).permutation(count)


def shuffled(seed: int, position: int, count: int) -> int:
    """Which of `count` pictures sample `position` is: every epoch of `count` samples holds each once, in an order of its own."""
    epoch, place = divmod(position, count)
    return int(_permutation(seed, epoch, count)[place])
