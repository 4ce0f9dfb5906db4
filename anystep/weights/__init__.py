"""Weights on disk: our own folders, and other people's. Import order inside: folder, tensors, names, peers/, schedulers,
port, recordings."""

from anystep.weights.folder import CONFIG, WEIGHTS, Match, describe, load_folder, match, read_safetensors, refuse_pickles, save_folder, take

__all__ = [
    "CONFIG",
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
