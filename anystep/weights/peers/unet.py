"""diffusers' UNet2DConditionModel as Stable Diffusion 1.4, 1.5, 2.0 and 2.1 use it: text by cross-attention, one block per transformer.

What else that class can be (SDXL's second text, class labels, inpainting's extra channels, ControlNet's residuals) is refused.
"""

import jax
import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError
from anystep.flow_map import total_derivative
from anystep.nets import unet
from anystep.weights.names import CONV, DENSE, POINT, SAME, one
from anystep.weights.peers.contract import Peer, refuse

WHERE = "config.json"
DOWN = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
FIXED = {  # field: its one value; diffusers' own default for all of them
    "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False, "downsample_padding": 1, "mid_block_scale_factor": 1, "dropout": 0.0, "act_fn": "silu",
    "transformer_layers_per_block": 1, "reverse_transformer_layers_per_block": None, "encoder_hid_dim": None, "encoder_hid_dim_type": None,
    "num_attention_heads": None, "dual_cross_attention": False, "class_embed_type": None, "addition_embed_type": None,
    "addition_time_embed_dim": None, "num_class_embeds": None, "resnet_time_scale_shift": "default", "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional", "time_embedding_dim": None, "time_embedding_act_fn": None,
    "timestep_post_act": None, "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None, "attention_type": "default", "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None, "cross_attention_norm": None,
}  # fmt: skip
DEFAULTS = {  # diffusers' own, for fields that an old file leaves out
    "sample_size": None, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "down_block_types": (DOWN[True],) * 3 + (DOWN[False],), "up_block_types": (UP[False],) + (UP[True],) * 3, "norm_num_groups": 32,
    "norm_eps": 1e-5, "cross_attention_dim": 1280, "attention_head_dim": 8, "use_linear_projection": False,
}  # fmt: skip
SPOKEN = (
    "upcast_attention",
    "addition_embed_type_num_heads",
)  # no number hangs on them: attention is float32 anyhow, and no such embedding


def options(config):
    """Options of a config.json, diffusers' own or one that keeps its fields under "config". UserError for what we do not have."""
    given = {k: v for k, v in config.get("config", config).items() if not k.startswith("_")}
    unknown = sorted(set(given) - set(FIXED) - set(DEFAULTS) - set(SPOKEN))
    if unknown:
        raise UserError(f"{WHERE}: {unknown[0]} = {given[unknown[0]]!r} is not known, allowed are the fields of UNet2DConditionModel")
    refuse(given, {field: (value,) for field, value in FIXED.items()}, WHERE)
    c = DEFAULTS | given
    widths, levels = tuple(c["block_out_channels"]), len(c["block_out_channels"])
    for field in ("layers_per_block", "cross_attention_dim", "norm_num_groups", "in_channels"):
        if not isinstance(c[field], int) or c[field] < 1:
            raise UserError(f"{WHERE}: {field} = {c[field]!r} is not supported, allowed one positive number for all levels")
    refuse(c, {"in_channels": (c["out_channels"],)}, WHERE)  # a velocity has the shape of its sample
    heads = c["attention_head_dim"]  # says how many heads there are, whatever its name
    heads = (heads,) * levels if isinstance(heads, int) else tuple(heads)
    size = c["sample_size"] or 64  # only what samplers draw
    size = (size, size) if isinstance(size, int) else tuple(size)
    return unet.Options(
        shape=(*size, c["in_channels"]),
        widths=widths,
        heads=per_level("attention_head_dim", heads, levels),
        down=attends(c, "down_block_types", DOWN, levels),
        up=attends(c, "up_block_types", UP, levels)[::-1],
        layers=c["layers_per_block"],
        text_width=c["cross_attention_dim"],
        groups=c["norm_num_groups"],
        epsilon=float(c["norm_eps"]),
        linear_projection=c["use_linear_projection"],
    )


def per_level(field, values, levels):
    if len(values) != levels:
        raise UserError(f"{WHERE}: {field} has {len(values)} entries, allowed {levels}, one per entry of block_out_channels")
    return values


def attends(config, field, words, levels):
    for word in config[field]:
        refuse({field: word}, {field: tuple(words.values())}, WHERE)
    return per_level(field, tuple(word == words[True] for word in config[field]), levels)


def config(o):
    """A config.json that diffusers loads as the same network."""
    return {"_class_name": "UNet2DConditionModel"} | FIXED | {
        "sample_size": o.shape[0] if o.shape[0] == o.shape[1] else list(o.shape[:2]),
        "in_channels": o.shape[2],
        "out_channels": o.shape[2],
        "block_out_channels": list(o.widths),
        "layers_per_block": o.layers,
        "down_block_types": [DOWN[a] for a in o.down],
        "up_block_types": [UP[a] for a in o.up[::-1]],
        "norm_num_groups": o.groups,
        "norm_eps": o.epsilon,
        "cross_attention_dim": o.text_width,
        "attention_head_dim": list(o.heads),
        "use_linear_projection": o.linear_projection,
        "upcast_attention": True,  # as here; half precision needs it in SD 2.x
    }  # fmt: skip


WEIGHTS, NO_BIAS, NORM = {"kernel": "weight", "bias": "bias"}, {"kernel": "weight"}, {"scale": "weight", "bias": "bias"}
CONTAINER = (SAME, {})


def modules(o):
    """(peer's module, ours, layout of its kernel, {our leaf: peer's}) of all modules that answer; holders of others have no leaf."""
    yield "conv_in", "embed/conv", CONV, WEIGHTS
    yield "time_embedding", "embed/time_out", *CONTAINER
    for i, name in enumerate(("time_in", "time_out"), 1):
        yield f"time_embedding.linear_{i}", f"embed/{name}", DENSE, WEIGHTS
    levels, width, skips = len(o.widths), o.widths[0], [o.widths[0]]
    for k in range(levels):
        peer, ours = f"down_blocks.{k}", f"down_{k}"
        yield f"{peer}.0", ours, *CONTAINER  # it answers (hidden, skips)
        for i in range(o.layers):
            yield from layer(o, peer, ours, i, width, k, o.down[k])
            width = o.widths[k]
            skips.append(width)
        if k + 1 < levels:
            yield f"{peer}.downsamplers.0", f"{ours}/half", *CONTAINER
            yield f"{peer}.downsamplers.0.conv", f"{ours}/half", CONV, WEIGHTS
            skips.append(width)
    yield "mid_block", "mid", *CONTAINER
    yield from layer(o, "mid_block", "mid", 0, width, levels - 1, True)
    yield from layer(o, "mid_block", "mid", 1, width, levels - 1, False)
    for j, k in enumerate(reversed(range(levels))):
        peer, ours = f"up_blocks.{j}", f"up_{j}"
        yield peer, ours, *CONTAINER
        for i in range(o.layers + 1):
            yield from layer(o, peer, ours, i, width + skips.pop(), k, o.up[k])
            width = o.widths[k]
        if k:
            yield f"{peer}.upsamplers.0", f"{ours}/double", *CONTAINER
            yield f"{peer}.upsamplers.0.conv", f"{ours}/double", CONV, WEIGHTS
    yield "conv_norm_out", "head/norm", SAME, NORM
    yield "conv_out", "head/conv", CONV, WEIGHTS


def layer(o, peer, ours, i, width, level, attends):
    """The residual number i of a block, `width` channels going in, and the transformer behind it if it `attends`."""
    theirs, our = f"{peer}.resnets.{i}", f"{ours}/residual_{i}"
    yield theirs, our, *CONTAINER
    for j, side in enumerate(("in", "out"), 1):
        yield f"{theirs}.norm{j}", f"{our}/norm_{side}", SAME, NORM
        yield f"{theirs}.conv{j}", f"{our}/conv_{side}", CONV, WEIGHTS
    yield f"{theirs}.time_emb_proj", f"{our}/time", DENSE, WEIGHTS
    if width != o.widths[level]:
        yield f"{theirs}.conv_shortcut", f"{our}/skip", POINT, WEIGHTS
    if not attends:
        return
    theirs, our = f"{peer}.attentions.{i}", f"{ours}/transformer_{i}"
    yield theirs, our, *CONTAINER
    yield f"{theirs}.norm", f"{our}/norm", SAME, NORM
    for side in ("in", "out"):
        yield f"{theirs}.proj_{side}", f"{our}/project_{side}", DENSE if o.linear_projection else POINT, WEIGHTS
    theirs, our = f"{theirs}.transformer_blocks.0", f"{our}/block"
    yield theirs, our, *CONTAINER
    for j, name in enumerate(("attention", "cross", "mlp"), 1):
        yield f"{theirs}.norm{j}", f"{our}/norm_{name}", SAME, NORM
    for j, name in enumerate(("attention", "cross"), 1):
        yield f"{theirs}.attn{j}", f"{our}/{name}", *CONTAINER
        for letter in "qkv":
            yield f"{theirs}.attn{j}.to_{letter}", f"{our}/{name}/{letter}", DENSE, NO_BIAS
        yield f"{theirs}.attn{j}.to_out.0", f"{our}/{name}/out", DENSE, WEIGHTS
    yield f"{theirs}.ff", f"{our}/mlp", *CONTAINER
    yield f"{theirs}.ff.net.0.proj", f"{our}/mlp/in", DENSE, WEIGHTS
    yield f"{theirs}.ff.net.2", f"{our}/mlp/out", DENSE, WEIGHTS


def names(o):
    return {
        f"{ours}/{leaf}": one(f"{peer}.{theirs}", layout if leaf == "kernel" else SAME)
        for peer, ours, layout, leaves in modules(o)
        for leaf, theirs in leaves.items()
    }


def init(o):
    return unet.build(o).init


def walk(o, params, x, step, text, mask):
    """(prediction, {our module: what it answers}) of samples NHWC at steps [B] of the network's own clock."""
    found = {}

    def call(name, net, *inputs):
        answer, state = net.apply({"params": params[name]}, *inputs, capture_intermediates=True, mutable=["intermediates"])
        found.update(outputs(state["intermediates"], name))
        return answer

    y, e = call("embed", unet.Embed(o), x, step)
    skips = (y,)
    for name, net in unet.blocks_of(o).items():
        y, skips, _ = call(name, net, y, skips, e, text, mask)
    return call("head", unet.Head(o), y), found


def outputs(intermediates, name):
    """(name/of/module, its first answer) of what linen's capture_intermediates gives."""
    for inner, value in intermediates.items():
        if inner == "__call__":
            yield name, value[0][0] if isinstance(value[0], tuple) else value[0]
        else:
            yield from outputs(value, f"{name}/{inner}")


def answers(o, params, recorded):
    """out_sample and mid.* for in_sample, in_timestep and in_encoder_hidden_states, under in_encoder_attention_mask if there is one;
    out_no_mask without it; out_rect for in_rect, in_rect_text and the first timestep; out_jvp along in_dx, in_dt."""
    read = {name: jnp.asarray(value, jnp.float32) for name, value in recorded.items() if name.startswith("in_")}

    def ask(x, step, text, mask):
        """A mask of ones is none: the recorded sizes share one compiled network."""
        step = jnp.broadcast_to(step, len(x))
        return jax.jit(walk, static_argnums=0)(o, params, x.transpose(0, 2, 3, 1), step, text, mask > 0)

    x, step, text = read["in_sample"], read["in_timestep"], read["in_encoder_hidden_states"]
    ones = jnp.ones(text.shape[:2])
    mask = read.get("in_encoder_attention_mask", ones)
    answer, seen = ask(x, step, text, mask)
    found = {"out_sample": answer}
    if "out_no_mask" in recorded:
        found["out_no_mask"], _ = ask(x, step, text, ones)
    if "out_rect" in recorded:
        rect_text = read["in_rect_text"]
        found["out_rect"], _ = ask(read["in_rect"], step.reshape(-1)[:1], rect_text, jnp.ones(rect_text.shape[:2]))
    if "out_jvp" in recorded:
        found["out_jvp"] = derivative(lambda x, t: ask(x, t, text, mask)[0], x, step, read["in_dx"], read["in_dt"])
    found = {name: value.transpose(0, 3, 1, 2) for name, value in found.items()}
    found["mid.time_proj"] = unet.clock(jnp.broadcast_to(step, len(x)), o.widths[0])
    found["mid.conv_act"] = jax.nn.silu(seen["head/norm"]).transpose(0, 3, 1, 2)
    for peer, ours, layout, _ in modules(o):
        found[f"mid.{peer}"] = in_peers_order(seen[ours], layout)
    return {name: np.asarray(value) for name, value in found.items() if name in recorded}


def derivative(function, x, t, dx, dt):
    """Along (dx, dt). The one door to forward mode goes along (v, 1): here the clock runs dt times as fast."""
    return total_derivative(lambda x, tau, _: (function(x, t + dt * tau), {}), x, jnp.zeros_like(t), None, dx)[1]


def in_peers_order(y, layout):
    """NHWC -> NCHW; a dense layer over pixels has them flat at the peer's."""
    if y.ndim < 4:
        return y
    return y.reshape(len(y), -1, y.shape[-1]) if layout is DENSE else y.transpose(0, 3, 1, 2)


PEERS = {"UNet2DConditionModel": Peer(options, config, names, init, answers, build=unet.build)}
