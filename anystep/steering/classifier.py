"""A relation classifier with what it reads: static parts here, weights and temperature beside them.

What is asked of it is whether a word is true of the picture, as a benchmark does; on a diagonal two words are. A softmax over the classes
that learns from halves says p_w = P(w alone) + P(w and another) / 2, from which P(w) cannot be had: "left and above for sure" and "left
or above" look alike. So each logit l_w is that of an event of its own,

    p_w = sigmoid(l_w / T)      learned by the sum over w of the cross-entropy of "w is true": a proper score, least at the true P(w)

The layouts are the published ones; so is the loss of the method `faithful`, -log softmax(l)_w, which asks of the same logits that l_w be
large and larger than the others.
"""

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


def fresh(kind, lens: Lens, maps, times, scaled=True) -> Reader:
    """A Reader without weights, of kind "light" | "faithful" | "faithful_small": of so many maps, learned at these flow times. scaled: see
    `relation`; light always is."""
    if kind == "light":
        return Reader(lens, relation.Light(maps, side=lens.side))
    clock = tuple(sorted({float(t) for t in times}, reverse=True))
    layout = relation.FLUX if kind == "faithful" else relation.STABLE
    return Reader(lens, relation.Faithful(maps, clock, tuple(range(len(clock))), side=lens.side, scaled=scaled, **layout))


def losses(logits, word):
    """-log p of the asked event: logits [..., classes], word [...] int -> [...]."""
    return jax.nn.softplus(-picked(logits, word))


def published_losses(logits, word):
    """Cross-entropy of the asked class among all: logits [..., classes], word [...] int -> [...]."""
    return -picked(jax.nn.log_softmax(logits), word)


def picked(values, word):
    return jnp.take_along_axis(values, word[..., None], axis=-1)[..., 0]


def cross_entropy(logits, labels):
    """Of every event, summed: logits and labels in {0, 1} [..., classes] -> [...]."""
    return jnp.sum(jax.nn.softplus(logits) - labels * logits, axis=-1)
