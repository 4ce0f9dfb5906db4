"""FLUX (Black Forest Labs) as diffusers writes it: dev, whose guidance scale is an input, and schnell, which has none.

The peer sees packed tokens with their ids; 2x2 patches are the pipeline's business there and `mmdit.pack` here. Fill, Depth and Canny
read more channels than they answer and are refused.
"""

import jax
import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError
from anystep.nets import mmdit
from anystep.weights.names import SAME, layers, linear
from anystep.weights.peers.contract import Peer, refuse

CLASS = "FluxTransformer2DModel"
DEFAULTS = {
    "patch_size": 1, "in_channels": 64, "out_channels": None, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
SIZES = [name for name, value in DEFAULTS.items() if type(value) is int]


def options(config):
    """mmdit.Options of a config.json; sample height and width, which it does not say, are those of a picture of 1024 pixels."""
    given = {name: value for name, value in config.get("config", config).items() if not name.startswith("_")}
    for name in sorted(set(given) - set(DEFAULTS) - {"class"}):
        demand(name, given[name], False, f"fields {', '.join(DEFAULTS)}")
    c = DEFAULTS | given
    refuse(c, {"patch_size": (1,), "out_channels": (None, c["in_channels"]), "guidance_embeds": (True, False)}, "config.json")
    for name in SIZES:
        demand(name, c[name], type(c[name]) is int and c[name] > 0, "whole numbers from 1")
    demand("in_channels", c["in_channels"], c["in_channels"] % 4 == 0, "multiples of 4, for patches of 2 x 2")
    rope, width = c["axes_dims_rope"], c["attention_head_dim"]
    sound = (
        isinstance(rope, list | tuple)
        and len(rope) == 3
        and all(type(n) is int and n >= 0 and n % 2 == 0 for n in rope)
        and sum(rope) == width
    )
    demand("axes_dims_rope", rope, sound, f"three even numbers of sum {width}, the attention_head_dim")
    return mmdit.Options(
        shape=(128, 128, c["in_channels"] // 4),
        heads=c["num_attention_heads"],
        head_width=width,
        double=c["num_layers"],
        single=c["num_single_layers"],
        rope=tuple(rope),
        text_width=c["joint_attention_dim"],
        pooled_width=c["pooled_projection_dim"],
        guidance=bool(c["guidance_embeds"]),
    )


def demand(field, value, holds, allowed):
    if not holds:
        raise UserError(f"config.json: {field} = {value!r} is not supported, allowed {allowed}")


def config(o):
    """The peer's config.json. UserError for what it cannot say: a second time, masked prompts."""
    for field in ("second_time", "masked"):
        if getattr(o, field):
            raise UserError(f"{field} = True has no place in a {CLASS}, allowed False")
    return {
        "_class_name": CLASS,
        "patch_size": 1,
        "in_channels": 4 * o.shape[-1],
        "out_channels": None,
        "num_layers": o.double,
        "num_single_layers": o.single,
        "attention_head_dim": o.head_width,
        "num_attention_heads": o.heads,
        "joint_attention_dim": o.text_width,
        "pooled_projection_dim": o.pooled_width,
        "guidance_embeds": o.guidance,
        "axes_dims_rope": list(o.rope),
    }


def names(o):
    """The second time is not among them: FLUX has none, and an imported network starts with its own initial value."""
    found = {}
    clocks = {"time/": "timestep_embedder", "pooled_": "text_embedder"} | ({"guidance/": "guidance_embedder"} if o.guidance else {})
    for ours, peers in clocks.items():
        found |= linear(f"embed/{ours}in", f"time_text_embed.{peers}.linear_1")
        found |= linear(f"embed/{ours}out", f"time_text_embed.{peers}.linear_2")
    found |= linear("embed/patches", "x_embedder") | linear("embed/text_in", "context_embedder")
    found |= linear("head/norm/modulation/dense", "norm_out.linear") | linear("head/out", "proj_out")
    for stream, suffix, parts, qkv in (("tokens", "", "to_", ""), ("text", "_context", "add_", "_proj")):
        ours, peers, added = f"double/{stream}", "transformer_blocks.{}", "added_" if suffix else ""
        found |= linear(f"{ours}/modulation/dense", f"{peers}.norm1{suffix}.linear", count=o.double)
        for leaf in "qkv":
            found |= linear(f"{ours}/attention/{leaf}", f"{peers}.attn.{parts}{leaf}{qkv}", count=o.double)
        for leaf in "qk":
            found[f"{ours}/attention/{leaf}_norm/scale"] = layers(f"{peers}.attn.norm_{added}{leaf}.weight", o.double, SAME)
        found |= linear(f"{ours}/out", f"{peers}.attn.{'to_add_out' if suffix else 'to_out.0'}", count=o.double)
        found |= linear(f"{ours}/mlp/in", f"{peers}.ff{suffix}.net.0.proj", count=o.double)
        found |= linear(f"{ours}/mlp/out", f"{peers}.ff{suffix}.net.2", count=o.double)
    peers = "single_transformer_blocks.{}"
    for ours, its in {"modulation/dense": "norm.linear", "mlp_in": "proj_mlp", "out": "proj_out"}.items():
        found |= linear(f"single/{ours}", f"{peers}.{its}", count=o.single)
    for leaf in "qkv":
        found |= linear(f"single/attention/{leaf}", f"{peers}.attn.to_{leaf}", count=o.single)
    for leaf in "qk":
        found[f"single/attention/{leaf}_norm/scale"] = layers(f"{peers}.attn.norm_{leaf}.weight", o.single, SAME)
    return found


def init(o):
    return mmdit.build(o).init


def answers(o, params, recorded):
    """Packed tokens and ids in, packed velocity out; a block answers text (.0) and tokens (.1), `pos_embed` cosine and sine by pairs."""
    model = mmdit.build(o)
    ids = np.concatenate([a[0] if a.ndim == 3 else a for a in (recorded["in_txt_ids"], recorded["in_img_ids"])])
    cond = {"features": recorded["in_encoder_hidden_states"], "pooled": recorded["in_pooled_projections"]}
    if o.guidance:
        cond["guidance"] = recorded["in_guidance"]

    @jax.jit
    def every(params, packed, t, cond):
        h = mmdit.enter(o, params, packed, ids, t, t, cond)
        found = {"mid.x_embedder": h["tokens"], "mid.context_embedder": h["text"], "mid.time_text_embed": h["e"]}
        found |= {f"mid.pos_embed.{i}": jnp.repeat(a, 2, axis=-1) for i, a in enumerate(h["rope"])}
        for i in range(model.depth):
            name = f"transformer_blocks.{i}" if i < o.double else f"single_transformer_blocks.{i - o.double}"
            h, _ = model.blocks(params, h, i, i + 1)
            found |= {f"mid.{name}.0": h["text"], f"mid.{name}.1": h["tokens"]}
        head = {"params": params["head"]}
        found["out_sample"], parts = mmdit.Head(o).apply(
            head, h["tokens"], h["e"], capture_intermediates=lambda module, _: module.name == "norm", mutable=["intermediates"]
        )
        found["mid.norm_out"] = parts["intermediates"]["norm"]["__call__"][0]
        return {name: found[name] for name in found if name in recorded}

    return every(params, recorded["in_hidden_states"], recorded["in_timestep"], cond)


PEERS = {CLASS: Peer(options, config, names, init, answers, build=mmdit.build)}
