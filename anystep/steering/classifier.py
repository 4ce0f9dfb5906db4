"""A relation classifier with what it reads: static parts here, weights and temperature beside them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from anystep.nets import correction, relation
from anystep.steering.maps import Lens


class Reader(NamedTuple):
    """Hashable: what to capture and the network that reads it; `corrects`: a network beside it that corrects noises."""

    lens: Lens
    options: relation.Faithful | relation.Light
    corrects: correction.Options | None = None

    def init(self, key) -> dict[str, Any]:
        """{"relation": weights, "temperature": 1}"""
        return {"relation": relation.build(self.options).init(key), "temperature": jnp.float32(1.0)}

    def logits(self, params, maps, t, key=None):
        """maps [B, 2 R, C, S, S] and flow times [B] -> [B, R, classes]; a key [ ] turns dropout on."""
        b, objects, *rest = maps.shape
        pairs = maps.reshape(b * objects // 2, 2, *rest)
        found = relation.build(self.options).apply(params["relation"], pairs, jnp.repeat(t, objects // 2), key)
        return found.reshape(b, objects // 2, -1)


def losses(logits, word):
    """Cross-entropy of the asked class: logits [..., classes], word [...] int -> [...]."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), word[..., None], axis=-1)[..., 0]
