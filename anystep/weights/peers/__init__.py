"""Checkpoints of others: which network of ours one is, how its tensors are called there, and what it must answer.

A file a family. Each says PEERS: one `Peer` a class of the peer's. Numbers of peers are met to float32's last digits (`anystep weights
verify`); how their code is written is their business. Import order inside: contract, fields, sana, flux, unet, autoencoder_dc,
autoencoder_kl, autoencoder, text.
"""

import importlib

from anystep.errors import UserError
from anystep.weights.peers.contract import Peer

FAMILIES = ("sana", "flux", "unet", "autoencoder", "text")


def find(config: dict, where) -> Peer:
    """The Peer of a config.json (diffusers' "_class_name", transformers' "architectures"). UserError for a class that is not known."""
    name = config.get("_class_name") or config.get("class") or (config.get("architectures") or ["none"])[0]
    known = {}
    for family in FAMILIES:
        known |= importlib.import_module(f"anystep.weights.peers.{family}").PEERS
    if name not in known:
        raise UserError(f"{where}: class {name!r} is not known; allowed {', '.join(sorted(known))}")
    return known[name]
