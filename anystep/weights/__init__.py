"""Weights on disk, ours and other people's. Import order inside: folder, tensors, names, peers/, schedulers, port, recordings,
pipelines, encoders."""

from anystep.weights.folder import (
    CONFIG,
    PACKAGED,
    PIPELINE,
    WEIGHTS,
    Match,
    describe,
    load_folder,
    match,
    read_safetensors,
    refuse_pickles,
    save_folder,
    take,
)

__all__ = [
    "CONFIG",
    "PACKAGED",
    "PIPELINE",
    "WEIGHTS",
    "Match",
    "describe",
    "load_folder",
    "match",
    "read_safetensors",
    "refuse_pickles",
    "save_folder",
    "take",
]
