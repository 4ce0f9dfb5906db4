"""The prompts of a store as a Text role without weights: what a text encoder said of them was written down (`stores`).

Tokens are {"features" [N, L, D], "mask" [N, L] bool} and "pooled" [N, P] where the encoder has one, in the dtype of the store, padded with
zeros to the longest prompt; L is the same for all.
"""

import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError
from anystep.nets.text.tokenizer import check
from anystep.stores import Store
from anystep.types import Text

UNKNOWN = "config.data.path: no store yet; its shapes are those of config.data.holds, and that is all that can be told"


def build(store: Store) -> Text:
    """UserError for a store of texts."""
    said = store.index["text"]
    if said is None:
        raise UserError(
            f"config.model.text.encoder = 'stored': the store {store.folder} holds texts; take hashed or minilm, or encode with --text"
        )

    def tokenize(prompts):
        for prompt in prompts:
            check(prompt)
        found = [store.prompt(prompt) for prompt in prompts]
        features = np.zeros((len(found), said["length"], said["width"]), np.dtype(said["dtype"]))
        for row, one in enumerate(found):
            features[row, : len(one.features)] = one.features
        lengths = np.array([len(one.features) for one in found])
        tokens = {"features": features, "mask": np.arange(said["length"])[None] < lengths[:, None]}
        return tokens | ({"pooled": np.stack([one.pooled for one in found])} if said["pooled"] else {})

    return Text(lambda key: {}, tokenize, encode, prepend)


def absent(length, width, pooled) -> Text:
    """The Text of a store that is not there yet: prompts of so many features and pooled numbers, for their shapes alone."""

    def tokenize(prompts):
        if any(prompts):
            raise UserError(UNKNOWN)
        tokens = {"features": np.zeros((len(prompts), length, width), np.float16), "mask": np.ones((len(prompts), length), bool)}
        return tokens | ({"pooled": np.zeros((len(prompts), pooled), np.float16)} if pooled else {})

    return Text(lambda key: {}, tokenize, encode, prepend)


def encode(params, tokens):
    return {name: a if name == "mask" else a.astype(jnp.float32) for name, a in tokens.items()}


def prepend(words, tokens):
    raise NotImplementedError(f"{words!r} cannot be put before a prompt that is features already")
