"""The logarithm of a loss by time and guidance, learned beside it: exp(-lv) E + lv is least at lv = log E (2410.11081, App. D).

SANA-Sprint hangs one linear layer on the student's own embedding of flow time and guidance; diffusers' script gives that embedding the
angle instead. Here it is a role of its own on a fixed table of the same kind: no gradient of a weight enters the student, and the layer
means the same whatever the network is. It starts at zero. Its inputs have the amplitude 1, because Adam moves lv by at most the rate times
the sum of their absolute values, about 160 of each table: at SANA-Sprint's 2e-6 some six in 10,000 steps, where a table of unit length
would take lv nowhere. A loss under the tangent norm "l2" at 1024 pixels, of e^-10, is out of its reach even so: "rms" begins near e^0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from anystep.nets.blocks import sinusoid

WIDTH, HIGHEST, SPAN = 256, 16.0, 256.0


class Logvar(NamedTuple):
    init: Callable  # key -> params
    of: Callable  # (params, t [B] flow time, guidance [B] as the network is told it, or None) -> [B]


def build(guided: bool) -> Logvar:
    names = ("time", "guidance") if guided else ("time",)

    def init(key):
        return {"bias": jnp.zeros(())} | {name: jnp.zeros(WIDTH) for name in names}

    def of(params, t, guidance):
        said = dict(zip(names, (t, guidance), strict=False))
        return params["bias"] + sum(sinusoid(said[name], WIDTH, HIGHEST, SPAN) @ params[name] for name in names)

    return Logvar(init, of)
