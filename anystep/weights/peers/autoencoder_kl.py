"""diffusers' AutoencoderKL: its config and its tensors' names, for `kl`."""

from anystep.nets import kl
from anystep.nets.autoencoder import ACTIVATIONS
from anystep.weights.names import CONV, POINT, Layout, linear, one
from anystep.weights.peers.contract import refuse
from anystep.weights.peers.fields import complete, demand

FIELDS = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}


def options(config):
    where = "config.json of AutoencoderKL"
    c = complete(config, FIELDS, where)
    c["act_fn"] = c["act_fn"].lower()
    refuse(c, {"act_fn": ACTIVATIONS, "latents_mean": (None,), "latents_std": (None,)}, where)
    widths, groups = c["block_out_channels"], c["norm_num_groups"]
    for field, only in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        demand(c[field] == (only,) * len(widths), where, field, c[field], f"{only} for each of block_out_channels")
    demand(all(width % groups == 0 for width in widths), where, "block_out_channels", widths, f"multiples of norm_num_groups = {groups}")
    return kl.Options(
        widths=widths,
        depth=c["layers_per_block"],
        colours=c["in_channels"],
        out_colours=c["out_channels"],
        channels=c["latent_channels"],
        groups=groups,
        activation=c["act_fn"],
        attention=c["mid_block_add_attention"],
        quant=c["use_quant_conv"],
        post_quant=c["use_post_quant_conv"],
        scale=c["scaling_factor"],
        shift=c["shift_factor"] or 0.0,
        sample_size=c["sample_size"],
        force_upcast=c["force_upcast"],
    )


def config(o):
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.42.1",
        "in_channels": o.colours,
        "out_channels": o.out_colours,
        "down_block_types": ["DownEncoderBlock2D"] * len(o.widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(o.widths),
        "block_out_channels": list(o.widths),
        "layers_per_block": o.depth,
        "act_fn": o.activation,
        "latent_channels": o.channels,
        "norm_num_groups": o.groups,
        "sample_size": o.sample_size,
        "scaling_factor": o.scale,
        "shift_factor": o.shift or None,
        "latents_mean": None,
        "latents_std": None,
        "force_upcast": o.force_upcast,
        "use_quant_conv": o.quant,
        "use_post_quant_conv": o.post_quant,
        "mid_block_add_attention": o.attention,
    }


def parts(o):
    """(ours, peer's module, key of TENSORS); None names a module whose tensors others list."""

    def levels(side, name, widths, depth, step, peers_step):
        before = widths[0]
        for i, width in enumerate(widths):
            ours, peers = f"{side}/level_{i}", f"{side}.{name}.{i}"
            yield ours, peers, None
            for j in range(depth):
                yield f"{ours}/block_{j}", f"{peers}.resnets.{j}", "widened" if before != width else "residual"
                before = width
            if i + 1 < len(widths):
                yield f"{ours}/{step}", f"{peers}.{peers_step}.0", None
                yield f"{ours}/{step}", f"{peers}.{peers_step}.0.conv", "conv"

    def side(name):
        yield f"{name}/conv_in", f"{name}.conv_in", "conv"
        yield f"{name}/middle", f"{name}.mid_block", None
        for i in range(2):
            yield f"{name}/middle/block_{i}", f"{name}.mid_block.resnets.{i}", "residual"
        if o.attention:
            yield f"{name}/middle/attention", f"{name}.mid_block.attentions.0", "attention"
        yield f"{name}/norm_out", f"{name}.conv_norm_out", "norm"
        yield f"{name}/conv_out", f"{name}.conv_out", "conv"
        yield f"{name}/conv_out", name, None

    yield from side("encoder")
    yield from levels("encoder", "down_blocks", o.widths, o.depth, "down", "downsamplers")
    yield from side("decoder")
    yield from levels("decoder", "up_blocks", o.widths[::-1], o.depth + 1, "up", "upsamplers")
    if o.quant:
        yield "encoder/quant", "quant_conv", "point"
    if o.post_quant:
        yield "decoder/post_quant", "post_quant_conv", "point"


def names(o):
    found = {}
    for ours, peers, kind in parts(o):
        found |= TENSORS[kind](ours, peers)
    return found


def norm(ours, peers):
    return {f"{ours}/scale": one(f"{peers}.weight"), f"{ours}/bias": one(f"{peers}.bias")}


def residual(ours, peers):
    found = {}
    for i in (1, 2):
        found |= norm(f"{ours}/norm{i}", f"{peers}.norm{i}") | linear(f"{ours}/conv{i}", f"{peers}.conv{i}", layout=CONV)
    return found


def widened(ours, peers):
    return residual(ours, peers) | linear(f"{ours}/shortcut", f"{peers}.conv_shortcut", layout=POINT)


FLAT = Layout(lambda a: a.reshape(a.shape[:2]).T, lambda a: a.T)  # a dense layer, in some files a 1x1 convolution
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, before diffusers 0.17


def attention(ours, peers):
    found = norm(f"{ours}/norm", f"{peers}.group_norm")
    for mine, its in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("out", "to_out.0")):
        found |= linear(f"{ours}/{mine}", f"{peers}.{its}", layout=FLAT)
    return found


def known_as(name):
    way, _, end = name.partition(".attentions.0.")
    module, _, leaf = end.partition(".")
    return f"{way}.attentions.0.{OLD[module]}.{leaf}" if module in OLD else name


TENSORS = {
    None: lambda ours, peers: {},
    "conv": lambda ours, peers: linear(ours, peers, layout=CONV),
    "point": lambda ours, peers: linear(ours, peers, layout=POINT),
    "norm": norm,
    "residual": residual,
    "widened": widened,
    "attention": attention,
}
