"""Text encoders in transformers' layout: T5EncoderModel, CLIPTextModel, CLIPTextModelWithProjection, Gemma2Model, Gemma2ForCausalLM,
BertModel.

Recorded: in_ids [B, L], in_mask [B, L] or none, out_last_hidden_state, out_pooled as the peer pools, out_no_mask, out_long (of in_long,
without a mask), and mid.* of layers. FIELDS give {field of config.json: (our option, transformers' default)}.
"""

import functools
import re

import jax
import jax.numpy as jnp

from anystep.nets.text import bert, clip, gemma, t5
from anystep.nets.text.layers import ACTIVATIONS
from anystep.weights.names import layers, linear, one
from anystep.weights.peers.contract import Peer, refuse

ACTS = tuple(ACTIVATIONS)
LAYER = re.compile(r"\b(?:block|layers?)\.(\d+)$")


def read(fields, config):
    """{our option: value}, and the same by the peer's fields."""
    found = {field: config.get(field, default) for field, (_, default) in fields.items()}
    return {fields[field][0]: value for field, value in found.items()}, config | found


def written(fields, o, architecture, model_type):
    """The config.json that transformers reads."""
    return {"architectures": [architecture], "model_type": model_type} | {field: getattr(o, ours) for field, (ours, _) in fields.items()}


def divisors(n):
    return tuple(i for i in range(1, n + 1) if n % i == 0)


def norm(ours, peers, count=None, bias=True):
    """{ours/scale, ours/bias} of a norm; `count` layers where the peer's name has a "{}"."""
    leaves = {"scale": "weight", "bias": "bias"} if bias else {"scale": "weight"}
    return {f"{ours}/{leaf}": one(f"{peers}.{end}") if count is None else layers(f"{peers}.{end}", count) for leaf, end in leaves.items()}


def dense(ours, peers, parts, count, bias=True):
    """The dense layers of every block; `parts`: {our name: the peer's}."""
    found = {}
    for our_end, end in parts.items():
        found |= linear(f"{ours}/{our_end}", f"{peers}.{end}", bias, count=count)
    return found


def answers(encode, more=lambda *_: {}):
    """Peer.answers of an encoder; `more`(o, params, recorded, ids, mask, found) gives {name: function} of what others have not."""

    encode = jax.jit(encode, static_argnums=0, static_argnames="keep")

    def of_recorded(o, params, recorded):
        ids, mask = jnp.asarray(recorded["in_ids"]), recorded.get("in_mask")
        mask = None if mask is None else jnp.asarray(mask) > 0
        found, states = encode(o, params, ids, mask, keep=True)
        asked = {
            "out_last_hidden_state": lambda: found["features"],
            "out_pooled": lambda: found["pooled"],
            "out_no_mask": lambda: encode(o, params, ids)[0]["features"],
            "out_long": lambda: encode(o, params, jnp.asarray(recorded["in_long"]))[0]["features"],
        } | more(o, params, recorded, ids, mask, found)
        inside = {name: states[int(at[1])] for name in recorded if name.startswith("mid.") and (at := LAYER.search(name))}
        return inside | {name: answer() for name, answer in asked.items() if name in recorded}

    return of_recorded


# T5

T5 = {
    "vocab_size": ("vocabulary", 32128),
    "d_model": ("width", 512),
    "num_layers": ("depth", 6),
    "num_heads": ("heads", 8),
    "d_kv": ("head_width", 64),
    "d_ff": ("hidden", 2048),
    "relative_attention_num_buckets": ("buckets", 32),
    "relative_attention_max_distance": ("distance", 128),
    "layer_norm_epsilon": ("epsilon", 1e-6),
}
T5_FEED_FORWARDS = {"gated-gelu": ("gelu_new", True), "relu": ("relu", False)}  # v1.1's and v1's


def t5_options(config):
    found, c = read(T5, {"feed_forward_proj": "relu"} | config)
    refuse(c, {"feed_forward_proj": tuple(T5_FEED_FORWARDS), "is_decoder": (False,)}, "T5EncoderModel")
    act, gated = T5_FEED_FORWARDS[c["feed_forward_proj"]]
    refuse(c, {"dense_act_fn": (act,), "is_gated_act": (gated,)}, "T5EncoderModel")
    return t5.Options(**found, act=act, gated=gated)


def t5_config(o):
    return written(T5, o, "T5EncoderModel", "t5") | {"feed_forward_proj": "gated-gelu" if o.gated else "relu"}


def t5_names(o):
    first, second = (f"encoder.block.{{}}.layer.{i}" for i in range(2))
    parts = {"gate": "wi_0", "in": "wi_1", "out": "wo"} if o.gated else {"in": "wi", "out": "wo"}
    return {
        "embed/words/embedding": one("shared.weight"),
        "embed/distances": one("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        **dense("blocks/attention", f"{first}.SelfAttention", {"q": "q", "k": "k", "v": "v", "out": "o"}, o.depth, bias=False),
        **dense("blocks/mlp", f"{second}.DenseReluDense", parts, o.depth, bias=False),
        **norm("blocks/norm1", f"{first}.layer_norm", o.depth, bias=False),
        **norm("blocks/norm2", f"{second}.layer_norm", o.depth, bias=False),
        **norm("head/norm", "encoder.final_layer_norm", bias=False),
    }


def t5_known_as(name):
    """The encoder of a whole T5 is its own; "embed_tokens" is "shared" once more."""
    return None if name == "encoder.embed_tokens.weight" or name.startswith(("decoder.", "lm_head.")) else name


def t5_more(o, params, recorded, ids, mask, found):
    """`out_buckets` of the distances `in_ahead`."""
    return {"out_buckets": lambda: t5.buckets(recorded["in_ahead"], o.buckets, o.distance)}


# CLIP

CLIP = {
    "vocab_size": ("vocabulary", 49408),
    "max_position_embeddings": ("positions", 77),
    "hidden_size": ("width", 512),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("heads", 8),
    "intermediate_size": ("hidden", 2048),
    "hidden_act": ("act", "quick_gelu"),
    "layer_norm_eps": ("epsilon", 1e-5),
    "eos_token_id": ("end", 49407),
}


def clip_options(config, projected=False):
    found, c = read(CLIP, config)
    where = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    refuse(c, {"hidden_act": ACTS, "num_attention_heads": divisors(c["hidden_size"]), "use_attention_mask": (None, False)}, where)
    if not isinstance(c["eos_token_id"], int):
        refuse(c, {"eos_token_id": ("one integer",)}, where)
    return clip.Options(**found, projection=c.get("projection_dim", 512) if projected else 0)


def clip_config(o):
    if o.projection:
        return written(CLIP, o, "CLIPTextModelWithProjection", "clip_text_model") | {"projection_dim": o.projection}
    return written(CLIP, o, "CLIPTextModel", "clip_text_model")


def clip_names(o):
    model, block = "text_model", "text_model.encoder.layers.{}"
    parts = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
    return {
        "embed/words/embedding": one(f"{model}.embeddings.token_embedding.weight"),
        "embed/positions": one(f"{model}.embeddings.position_embedding.weight"),
        **dense("blocks/attention", f"{block}.self_attn", parts, o.depth),
        **dense("blocks/mlp", f"{block}.mlp", {"in": "fc1", "out": "fc2"}, o.depth),
        **norm("blocks/norm1", f"{block}.layer_norm1", o.depth),
        **norm("blocks/norm2", f"{block}.layer_norm2", o.depth),
        **norm("head/norm", f"{model}.final_layer_norm"),
        **(linear("head/projection", "text_projection", False) if o.projection else {}),
    }


def clip_known_as(name):
    """transformers 5 may leave "text_model." out; older files hold a list of positions."""
    if name.endswith("embeddings.position_ids"):
        return None
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def clip_more(o, params, recorded, ids, mask, found):
    """`out_penultimate`, `out_penultimate_normed`."""

    def of(layer):
        return clip.encode(o._replace(layer=layer), params, ids, mask)[0]["features"]

    return {f"out_{layer}": functools.partial(of, layer) for layer in clip.LAYERS[1:]}


# Gemma

GEMMA = {
    "vocab_size": ("vocabulary", 256000),
    "hidden_size": ("width", 2304),
    "num_hidden_layers": ("depth", 26),
    "num_attention_heads": ("heads", 8),
    "num_key_value_heads": ("kv_heads", 4),
    "head_dim": ("head_width", 256),
    "intermediate_size": ("hidden", 9216),
    "hidden_activation": ("act", "gelu_pytorch_tanh"),
    "attention_bias": ("bias", False),
    "query_pre_attn_scalar": ("scale", 256),
    "attn_logit_softcapping": ("cap", 50.0),
    "max_position_embeddings": ("positions", 8192),
    "rms_norm_eps": ("epsilon", 1e-6),
}
NEAR, FAR = "sliding_attention", "full_attention"


def gemma_options(config):
    found, c = read(GEMMA, config)
    turn = {"rope_theta": c.get("rope_theta", 10000.0), "rope_type": "default"} | (c.get("rope_parameters") or {})
    kinds, depth = c.get("layer_types"), c["num_hidden_layers"]
    kinds = [FAR if i % 2 else NEAR for i in range(depth)] if kinds is None else kinds
    width = c["hidden_size"]
    fixed = {"use_bidirectional_attention": (None, False), "rope_scaling": (None,), "tie_word_embeddings": (True,)}
    refuse(c | turn, fixed | {"rope_type": ("default",), "hidden_activation": ACTS}, "Gemma2Model")
    refuse(c, {"num_key_value_heads": divisors(c["num_attention_heads"]), "head_dim": range(2, 8 * width, 2)}, "Gemma2Model")
    if len(kinds) != depth or not set(kinds) <= {NEAR, FAR}:
        refuse({"layer_types": kinds}, {"layer_types": (f"{depth} of {NEAR} and {FAR}",)}, "Gemma2Model")
    near = tuple(kind == NEAR for kind in kinds)
    return gemma.Options(**found, window=c.get("sliding_window", 4096) or 0, near=near, base=turn["rope_theta"])


def gemma_config(o, architecture):
    return written(GEMMA, o, architecture, "gemma2") | {
        "layer_types": [NEAR if near else FAR for near in o.near],
        "rope_parameters": {"rope_theta": o.base, "rope_type": "default"},
        "rope_theta": o.base,  # where releases before 5 look for it
        "sliding_window": o.window or None,
    }


def gemma_names(o, prefix=""):
    block = f"{prefix}layers.{{}}"
    parts = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}
    norms = {"norm1": "input", "post_norm1": "post_attention", "norm2": "pre_feedforward", "post_norm2": "post_feedforward"}
    found = {"embed/words/embedding": one(f"{prefix}embed_tokens.weight"), "head/norm/scale": one(f"{prefix}norm.weight")}
    found |= dense("blocks/attention", f"{block}.self_attn", parts, o.depth, o.bias)
    found |= dense("blocks/mlp", f"{block}.mlp", {"gate": "gate_proj", "in": "up_proj", "out": "down_proj"}, o.depth, bias=False)
    for ours, peers in norms.items():
        found |= norm(f"blocks/{ours}", f"{block}.{peers}_layernorm", o.depth, bias=False)
    return found


def gemma_known_as(name, prefix=""):
    """One class keeps the other below "model."; "lm_head" is the table of words once more."""
    return None if name == "lm_head.weight" else prefix + name.removeprefix("model.")


# BERT


def bert_options(config):
    found, c = read(bert.FIELDS, config)
    fixed = {"position_embedding_type": ("absolute",), "is_decoder": (False,), "add_cross_attention": (False,)}
    refuse(c, fixed | {"hidden_act": ACTS, "num_attention_heads": divisors(c["hidden_size"])}, "BertModel")
    return bert.Options(**found)


def bert_config(o):
    return written(bert.FIELDS, o, "BertModel", "bert")


def bert_names(o):
    words, block, after = "embeddings", "encoder.layer.{}", "encoder.layer.{}.attention.output"
    return {
        "embed/words/embedding": one(f"{words}.word_embeddings.weight"),
        "embed/positions": one(f"{words}.position_embeddings.weight"),
        "embed/kinds": one(f"{words}.token_type_embeddings.weight"),
        **norm("embed/norm", f"{words}.LayerNorm"),
        **dense("blocks/attention", f"{block}.attention.self", {"q": "query", "k": "key", "v": "value"}, o.depth),
        **linear("blocks/attention/out", f"{after}.dense", count=o.depth),
        **norm("blocks/norm1", f"{after}.LayerNorm", o.depth),
        **linear("blocks/mlp/in", f"{block}.intermediate.dense", count=o.depth),
        **linear("blocks/mlp/out", f"{block}.output.dense", count=o.depth),
        **norm("blocks/norm2", f"{block}.output.LayerNorm", o.depth),
        **linear("head/pooler", "pooler.dense"),
    }


def bert_known_as(name):
    return None if name.endswith("embeddings.position_ids") or name.startswith("cls.") else name.removeprefix("bert.")


def bert_more(o, params, recorded, ids, mask, found):
    """`out_pooled` is the peer's own summary, `out_sentence` the mean of the words."""
    return {"out_pooled": lambda: bert.summary(o, params, found["features"]), "out_sentence": lambda: found["pooled"]}


def peer(options, config, names, net, known_as, more=lambda *_: {}):
    return Peer(options, config, names, net.init, answers(net.encode, more), file="model.safetensors", build=net.build, known_as=known_as)


def clip_peer(projected):
    return peer(functools.partial(clip_options, projected=projected), clip_config, clip_names, clip, clip_known_as, clip_more)


def gemma_peer(architecture, prefix):
    config, names = functools.partial(gemma_config, architecture=architecture), functools.partial(gemma_names, prefix=prefix)
    return peer(gemma_options, config, names, gemma, functools.partial(gemma_known_as, prefix=prefix))


PEERS = {
    "T5EncoderModel": peer(t5_options, t5_config, t5_names, t5, t5_known_as, t5_more),
    "CLIPTextModel": clip_peer(False),
    "CLIPTextModelWithProjection": clip_peer(True),
    "Gemma2Model": gemma_peer("Gemma2Model", ""),
    "Gemma2ForCausalLM": gemma_peer("Gemma2ForCausalLM", "model."),
    "BertModel": peer(bert_options, bert_config, bert_names, bert, bert_known_as, bert_more),
}
