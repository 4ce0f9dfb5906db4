"""SANA, SANA-Sprint and their ControlNet in diffusers' layout: SanaTransformer2DModel, SanaControlNetModel (2410.10629, 2503.09641)."""

import jax
import jax.numpy as jnp
import numpy as np

from anystep.flow_map import total_derivative
from anystep.nets import controlnet, sana
from anystep.nets.blocks import LayerNorm, modulate, sinusoid
from anystep.weights.names import DEPTHWISE, POINT, layers, linear, one, patch
from anystep.weights.peers.contract import Peer, refuse
from anystep.weights.peers.fields import complete, demand

FIXED = {"dropout": (0.0,), "norm_eps": (1e-6,), "guidance_embeds_scale": (0.1,), "qk_norm": (None, "rms_norm_across_heads")}
DEFAULTS = {  # diffusers' own
    "in_channels": 32, "out_channels": 32, "num_attention_heads": 70, "attention_head_dim": 32, "num_layers": 20,
    "num_cross_attention_heads": 20, "cross_attention_head_dim": 112, "cross_attention_dim": 2240, "caption_channels": 2304,
    "mlp_ratio": 2.5, "dropout": 0.0, "attention_bias": False, "sample_size": 32, "patch_size": 1, "norm_elementwise_affine": False,
    "norm_eps": 1e-6, "interpolation_scale": None, "guidance_embeds": False, "guidance_embeds_scale": 0.1, "qk_norm": None,
    "timestep_scale": 1.0,
}  # fmt: skip
SIZES = [name for name, value in DEFAULTS.items() if type(value) is int and name != "out_channels"]
BLOCK = "transformer_blocks.{}"


def options(config):
    """diffusers' config.json -> sana.Options and what else is needed to write it again."""
    where = config.get("_class_name", "SANA")
    c = complete(config, DEFAULTS, where)
    for field in SIZES:
        demand(type(c[field]) is int and c[field] > 0, where, field, c[field], "whole numbers from 1")
    width = c["num_attention_heads"] * c["attention_head_dim"]
    cross = c["num_cross_attention_heads"] * c["cross_attention_head_dim"]
    fixed = {"cross_attention_dim": (width,), "out_channels": (c["in_channels"], None)}
    refuse(c, FIXED | fixed, where)
    refuse(
        {"num_cross_attention_heads * cross_attention_head_dim": cross},
        {"num_cross_attention_heads * cross_attention_head_dim": (width,)},
        where,
    )
    places = {"positions": "none"}
    if c["interpolation_scale"] is not None:
        places = {"positions": "sincos_columns", "span": c["sample_size"] // c["patch_size"] / c["interpolation_scale"]}
    return sana.Options(
        shape=(c["sample_size"], c["sample_size"], c["in_channels"]),
        width=width,
        depth=c["num_layers"],
        heads=c["num_attention_heads"],
        cross_heads=c["num_cross_attention_heads"],
        patch=c["patch_size"],
        attention="linear",
        ffn="conv",
        mlp_ratio=c["mlp_ratio"],
        qk_norm=c["qk_norm"] is not None,
        stem=0,
        predicts="v",
        time_frequency=1.0,
        time_span=1e4,
        second_time=False,
        time_scale=c["timestep_scale"] * (1.0 if c["guidance_embeds"] else 1000.0),  # Sprint's clock runs to 1, SANA's counts steps
        guidance=c["guidance_embeds"],
        qkv_bias=c["attention_bias"],
        affine=c["norm_elementwise_affine"],
        text_width=c["caption_channels"],
        **places,
    )


def config(o):
    """Back: a config.json that diffusers reads."""
    return {
        "_class_name": "SanaTransformer2DModel",
        "attention_bias": o.qkv_bias,
        "attention_head_dim": o.width // o.heads,
        "caption_channels": o.text_width,
        "cross_attention_dim": o.width,
        "cross_attention_head_dim": o.width // o.cross_heads,
        "dropout": 0.0,
        "guidance_embeds": o.guidance,
        "guidance_embeds_scale": 0.1,
        "in_channels": o.shape[-1],
        "interpolation_scale": None if o.positions == "none" else o.shape[0] // o.patch / o.span,
        "mlp_ratio": o.mlp_ratio,
        "norm_elementwise_affine": o.affine,
        "norm_eps": 1e-6,
        "num_attention_heads": o.heads,
        "num_cross_attention_heads": o.cross_heads,
        "num_layers": o.depth,
        "out_channels": o.shape[-1],
        "patch_size": o.patch,
        "qk_norm": "rms_norm_across_heads" if o.qk_norm else None,
        "sample_size": o.shape[0],
        "timestep_scale": o.time_scale / (1.0 if o.guidance else 1000.0),
    }


def block_config(o):
    """Of a ControlNet: it has no scale to be told and its own class."""
    without = ("guidance_embeds", "guidance_embeds_scale", "qk_norm", "timestep_scale")
    return {name: value for name, value in config(o).items() if name not in without} | {"_class_name": "SanaControlNetModel"}


def common_names(o):
    """What trunk and ControlNet share: embeddings and blocks."""
    time = "time_embed" if o.guidance else "time_embed.emb"
    names = linear("embed/patches", "patch_embed.proj", layout=patch(o.patch)) | linear("embed/modulation", "time_embed.linear")
    names["embed/text_norm/scale"] = one("caption_norm.weight")
    names["blocks/table"] = layers(f"{BLOCK}.scale_shift_table", o.depth)
    for ours, number in (("in", 1), ("out", 2)):
        names |= linear(f"embed/time/{ours}", f"{time}.timestep_embedder.linear_{number}")
        names |= linear(f"embed/text_{ours}", f"caption_projection.linear_{number}")
        if o.guidance:
            names |= linear(f"embed/guidance/{ours}", f"time_embed.guidance_embedder.linear_{number}")
    for ours, peers, bias in (("attention", "attn1", o.qkv_bias), ("cross", "attn2", True)):
        for letter in "qkv":
            names |= linear(f"blocks/{ours}/{letter}", f"{BLOCK}.{peers}.to_{letter}", bias, count=o.depth)
        for letter in "qk" if o.qk_norm else "":
            names[f"blocks/{ours}/{letter}_norm/scale"] = layers(f"{BLOCK}.{peers}.norm_{letter}.weight", o.depth)
        names |= linear(f"blocks/{ours}/out", f"{BLOCK}.{peers}.to_out.0", count=o.depth)
    names |= linear("blocks/conv/in", f"{BLOCK}.ff.conv_inverted", layout=POINT, count=o.depth)
    names |= linear("blocks/conv/depth", f"{BLOCK}.ff.conv_depth", layout=DEPTHWISE, count=o.depth)
    names |= linear("blocks/conv/out", f"{BLOCK}.ff.conv_point", False, POINT, o.depth)
    if o.affine:
        names["blocks/norm/norm/scale"] = layers(f"{BLOCK}.norm2.weight", o.depth)
        names["blocks/norm/norm/bias"] = layers(f"{BLOCK}.norm2.bias", o.depth)
    return names


def names(o):
    return common_names(o) | {"head/table": one("scale_shift_table")} | linear("head/out", "proj_out")


def control_names(o):
    return common_names(o) | linear("in", "input_block") | linear("out", "controlnet_blocks.{}", count=o.depth)


def nhwc(x):
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def nchw(x):
    return x.transpose(0, 3, 1, 2)


def cond_of(recorded, text="in_encoder_hidden_states", mask=None):
    features = jnp.asarray(recorded[text])
    mask = jnp.ones(features.shape[:2], bool) if mask is None else jnp.asarray(mask) > 0
    return {"features": features, "mask": mask}


def answers(o, params, recorded):
    """Also `out_rect` (another height and width, no mask), `out_t1000`, and `out_jvp`, the derivative along (in_dx, in_dt)."""
    o = o._replace(time_scale=1.0)  # recorded times are the network's own
    model = sana.build(o, o.text_width)
    x, t = nhwc(recorded["in_hidden_states"]), jnp.asarray(recorded["in_timestep"], jnp.float32)
    guided = {"guidance": jnp.asarray(recorded["in_guidance"])} if o.guidance else {}
    cond = cond_of(recorded, mask=recorded.get("in_encoder_attention_mask")) | guided
    control = [jnp.asarray(recorded[name]) for name in sorted(recorded) if name.startswith("in_control_")]

    def call(x, t, cond):
        return nchw(model.velocity(params, x, t, t, cond)[0])

    def rectangle():
        small = nhwc(recorded["in_rect"])
        rows = len(small)
        some = {name: value[:rows] for name, value in guided.items()}
        return call(small, t[:rows], cond_of(recorded, "in_rect_text") | some)

    def derivative():
        dx, dt = nhwc(recorded["in_dx"]), jnp.asarray(recorded["in_dt"])
        rate = dt[:, None, None, None]  # along (dx, dt) = dt times along (dx / dt, 1)
        return nchw(rate * total_derivative(lambda x, t, s: model.velocity(params, x, t, s, cond), x, t, t, dx / rate)[1])

    asked = {
        "out_sample": lambda: call(x, t, cond | ({"control": jnp.stack(control)} if control and "out_controlled" not in recorded else {})),
        "out_without": lambda: call(x, t, cond),
        "out_no_mask": lambda: call(x, t, cond_of(recorded) | guided),
        "out_t1000": lambda: call(x, t * 1000, cond),
        "out_controlled": lambda: call(x, t, cond | {"control": jnp.stack(control)}),
        "out_rect": rectangle,
        "out_jvp": derivative,
    }
    found = {name: answer() for name, answer in asked.items() if name in recorded}
    return found | (inside(o, model, params, x, t, cond) if any(name.startswith("mid.") for name in recorded) else {})


def inside(o, model, params, x, t, cond):
    """What diffusers' modules answer on the way."""
    h = model.embed(params, x, t, t, cond)
    here = o._replace(shape=x.shape[1:])
    kept = {"capture_intermediates": True, "mutable": ["intermediates"]}
    _, seen = sana.Embed(here).apply({"params": params["embed"]}, x, t, t, cond["features"], cond.get("guidance"), **kept)
    found = {
        "patch_embed": h["tokens"],
        "time_embed.time_proj": sinusoid(t, 256),
        "time_embed.0": h["modulation"].reshape(len(x), -1),
        "time_embed.1": h["e"],
        "caption_projection": seen["intermediates"]["text_out"]["__call__"][0],
        "caption_norm": h["text"],
    }
    for i in range(o.depth):
        layer = jax.tree.map(lambda p, i=i: p[i], params["blocks"])
        given = (h["tokens"], h["modulation"], h["text"], h["mask"])
        _, seen = sana.Block(here).apply({"params": layer}, *given, **kept)
        parts = {name: seen["intermediates"][name]["__call__"][0] for name in ("attention", "cross", "conv")}
        h, _ = model.blocks(params, h, i, i + 1)
        block = BLOCK.format(i)
        found |= {f"{block}.attn1": parts["attention"][0], f"{block}.attn2": parts["cross"][0], block: h["tokens"]}
        found[f"{block}.ff"] = nchw(parts["conv"].reshape(len(x), *here.grid, -1))
    shift, scale = (params["head"]["table"][i][None] + h["e"] for i in range(2))
    found["norm_out"] = modulate(LayerNorm().apply({}, h["tokens"]), shift, scale)
    return {f"mid.{name}": value for name, value in found.items()}


def control_answers(o, params, recorded):
    net = controlnet.build(o._replace(time_scale=1.0), o.text_width)
    x, control = nhwc(recorded["in_hidden_states"]), nhwc(recorded["in_controlnet_cond"])
    t, cond = jnp.asarray(recorded["in_timestep"], jnp.float32), cond_of(recorded, mask=recorded.get("in_encoder_attention_mask"))
    found = net.residuals(params, x, t, t, cond, control, float(np.asarray(recorded.get("in_conditioning_scale", 1.0))))
    return {f"out_block_{k}": residual for k, residual in enumerate(found)}


def at_once(answers):
    """One compilation for all that is recorded."""
    return lambda o, params, recorded: jax.jit(lambda params: answers(o, params, recorded))(params)


PEERS = {
    "SanaTransformer2DModel": Peer(
        options,
        config,
        names,
        lambda o: sana.build(o, o.text_width).init,
        at_once(answers),
        build=lambda o: sana.build(o, o.text_width, ends="none"),
    ),
    "SanaControlNetModel": Peer(
        options, block_config, control_names, lambda o: controlnet.build(o, o.text_width).init, at_once(control_answers)
    ),
}
