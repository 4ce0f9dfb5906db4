"""diffusers' AutoencoderDC: its config and its tensors' names, for `dcae`."""

from anystep.nets import dcae
from anystep.nets.autoencoder import ACTIVATIONS
from anystep.weights.names import CONV, COUNT, DEPTHWISE, POINT, linear, one
from anystep.weights.peers.contract import refuse
from anystep.weights.peers.fields import complete, demand

STAGES = (128, 256, 512, 512, 1024, 1024)
SCALES = ((), (), (), (5,), (5,), (5,))
FIELDS = {
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": STAGES,
    "decoder_block_out_channels": STAGES,
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": SCALES,
    "decoder_qkv_multiscales": SCALES,
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "encoder_out_shortcut": True,
    "decoder_in_shortcut": True,
    "decoder_conv_act_fn": "relu",
    "scaling_factor": 1.0,
}
BLOCKS = {"ResBlock": "residual", "EfficientViTBlock": "attention"}


def options(config):
    where = "config.json of AutoencoderDC"
    c = complete(config, FIELDS, where)
    c["decoder_conv_act_fn"] = c["decoder_conv_act_fn"].lower()
    allowed = {"downsample_block_type": ("pixel_unshuffle", "Conv", "conv"), "upsample_block_type": ("pixel_shuffle", "interpolate")}
    refuse(c, allowed | {"decoder_conv_act_fn": ACTIVATIONS}, where)
    encoder, decoder = stages(c, "encoder", where), stages(c, "decoder", where)
    field, widths = "decoder_block_out_channels", c["decoder_block_out_channels"]
    demand(len(decoder) == len(encoder), where, field, widths, f"{len(encoder)} stages, as the encoder")
    for side, shortcut in (("encoder", "encoder_out_shortcut"), ("decoder", "decoder_in_shortcut")):
        field = f"{side}_block_out_channels"
        fits = not c[shortcut] or c[field][-1] % c["latent_channels"] == 0
        demand(fits, where, field, c[field], f"the last a multiple of latent_channels = {c['latent_channels']}")
    field, widths = "encoder_block_out_channels", c["encoder_block_out_channels"]
    fits = c["downsample_block_type"] != "pixel_unshuffle" or all(width % 4 == 0 for width in widths[1:])
    demand(fits, where, field, widths, "multiples of 4 behind pixel_unshuffle")
    return dcae.Options(
        encoder,
        decoder,
        colours=c["in_channels"],
        channels=c["latent_channels"],
        head_dim=c["attention_head_dim"],
        down=c["downsample_block_type"].lower(),
        up=c["upsample_block_type"],
        out_shortcut=c["encoder_out_shortcut"],
        in_shortcut=c["decoder_in_shortcut"],
        out_activation=c["decoder_conv_act_fn"],
        scale=c["scaling_factor"],
    )


def stages(c, side, where):
    """The Stages of "encoder" or "decoder"; the encoder has no choice of norm and activation."""
    widths, depths = c[f"{side}_block_out_channels"], c[f"{side}_layers_per_block"]
    columns = {f"{side}_{name}": c[f"{side}_{name}"] for name in ("block_types", "qkv_multiscales")}
    columns |= {name: c[name] if side == "decoder" else FIELDS[name] for name in ("decoder_norm_types", "decoder_act_fns")}
    columns = {field: (value,) * len(widths) if isinstance(value, str) else value for field, value in columns.items()}
    for field, values in {f"{side}_layers_per_block": depths, **columns}.items():
        demand(len(values) == len(widths), where, field, values, f"{len(widths)} entries, as {side}_block_out_channels")
    kinds, scales, norms, activations = columns.values()
    activations = tuple(name.lower() for name in activations)
    allowed = {f"{side}_block_types": BLOCKS, "decoder_norm_types": dcae.NORMS, "decoder_act_fns": ACTIVATIONS}
    for row in zip(kinds, norms, activations, strict=True):
        refuse(dict(zip(allowed, row, strict=True)), allowed, where)
    field = f"{side}_layers_per_block"
    demand(all(depths[1:-1]) and (depths[0] or len(depths) > 1), where, field, depths, "0 for the first or last of several stages alone")
    field, heads = f"{side}_block_out_channels", c["attention_head_dim"]
    steps = [(a, b) for a, b, depth in zip(widths, widths[1:], depths, strict=False) if depth]
    demand(all(4 * a % b == 0 for a, b in steps), where, field, widths, "four times each is a multiple of the next")
    demand(all(w >= heads for w, kind in zip(widths, kinds, strict=True) if kind != "ResBlock"), where, field, widths, f"{heads} or more")
    sizes = tuple(size for group in scales for size in group)
    demand(all(size % 2 for size in sizes), where, f"{side}_qkv_multiscales", scales, "odd sizes")
    kinds = tuple(BLOCKS[kind] for kind in kinds)
    return tuple(dcae.Stage(*row) for row in zip(kinds, widths, depths, scales, norms, activations, strict=True))


def config(o):
    words = {ours: peers for peers, ours in BLOCKS.items()}
    sides = {}
    for side, rows in (("encoder", o.encoder), ("decoder", o.decoder)):
        sides[f"{side}_block_types"] = [words[stage.block] for stage in rows]
        sides[f"{side}_block_out_channels"] = [stage.width for stage in rows]
        sides[f"{side}_layers_per_block"] = [stage.depth for stage in rows]
        sides[f"{side}_qkv_multiscales"] = [list(stage.scales) for stage in rows]
    return {
        "_class_name": "AutoencoderDC",
        "_diffusers_version": "0.42.1",
        "in_channels": o.colours,
        "latent_channels": o.channels,
        "attention_head_dim": o.head_dim,
        **sides,
        "upsample_block_type": o.up,
        "downsample_block_type": "Conv" if o.down == "conv" else o.down,
        "decoder_norm_types": [stage.norm for stage in o.decoder],
        "decoder_act_fns": [stage.activation for stage in o.decoder],
        "encoder_out_shortcut": o.out_shortcut,
        "decoder_in_shortcut": o.in_shortcut,
        "decoder_conv_act_fn": o.out_activation,
        "scaling_factor": o.scale,
    }


def parts(o):
    """(ours, peer's module, what it is: a key of TENSORS or a Stage; None names a module whose tensors others list)."""

    def blocks(ours, peers, stage, first):
        for i in range(stage.depth):
            block = f"{peers}.{first + i}"
            if stage.block == "residual":
                yield f"{ours}/block_{i}", block, stage
            else:
                yield f"{ours}/attention_{i}", f"{block}.attn", stage
                yield f"{ours}/gated_{i}", f"{block}.conv_out", "gated"
                yield f"{ours}/gated_{i}", block, None

    yield "encoder", "encoder", None
    yield "encoder/conv_in", "encoder.conv_in", "conv" if o.encoder[0].depth else "resample"
    for i, stage in enumerate(o.encoder):
        ours, peers = f"encoder/stage_{i}", f"encoder.down_blocks.{i}"
        yield ours, peers, None
        yield from blocks(ours, peers, stage, 0)
        if stage.depth and i + 1 < len(o.encoder):
            yield f"{ours}/down", f"{peers}.{stage.depth}", "resample"
    yield "encoder/conv_out", "encoder.conv_out", "conv"
    yield "decoder", "decoder", None
    yield "decoder/conv_in", "decoder.conv_in", "conv"
    for i, stage in enumerate(o.decoder):
        ours, peers = f"decoder/stage_{i}", f"decoder.up_blocks.{i}"
        yield ours, peers, None
        rises = bool(stage.depth) and i + 1 < len(o.decoder)
        if rises:
            yield f"{ours}/up", f"{peers}.0", "resample"
        yield from blocks(ours, peers, stage, int(rises))
    yield "decoder/norm_out", "decoder.norm_out", "norm"
    yield "decoder/conv_out", "decoder.conv_out", "conv" if o.decoder[0].depth else "resample"


def names(o):
    found = {}
    for ours, peers, kind in parts(o):
        found |= of_stage(ours, peers, kind) if isinstance(kind, dcae.Stage) else TENSORS[kind](ours, peers)
    return found


def of_stage(ours, peers, stage):
    if stage.block == "residual":
        found = linear(f"{ours}/conv1", f"{peers}.conv1", layout=CONV) | linear(f"{ours}/conv2", f"{peers}.conv2", False, CONV)
        return found | norm(f"{ours}/norm", f"{peers}.norm", stage.norm)
    found = norm(f"{ours}/norm", f"{peers}.norm_out", stage.norm)
    for name in ("q", "k", "v", "out"):
        found |= linear(f"{ours}/{name}", f"{peers}.to_{name}", bias=False)
    for i in range(len(stage.scales)):
        found[f"{ours}/scale_{i}/depth"] = one(f"{peers}.to_qkv_multiscale.{i}.proj_in.weight", CONV)
        found[f"{ours}/scale_{i}/mix"] = one(f"{peers}.to_qkv_multiscale.{i}.proj_out.weight", CONV)
    return found


def gated(ours, peers):
    return (
        linear(f"{ours}/in", f"{peers}.conv_inverted", layout=POINT)
        | linear(f"{ours}/depth", f"{peers}.conv_depth", layout=DEPTHWISE)
        | linear(f"{ours}/out", f"{peers}.conv_point", False, POINT)
        | norm(f"{ours}/norm", f"{peers}.norm", "rms_norm")
    )


def norm(ours, peers, kind):
    found = {f"{ours}/scale": one(f"{peers}.weight"), f"{ours}/bias": one(f"{peers}.bias")}
    if kind == "batch_norm":
        found |= {f"{ours}/mean": one(f"{peers}.running_mean"), f"{ours}/var": one(f"{peers}.running_var")}
        found[f"{ours}/count"] = one(f"{peers}.num_batches_tracked", COUNT)
    return found


TENSORS = {
    None: lambda ours, peers: {},
    "conv": lambda ours, peers: linear(ours, peers, layout=CONV),
    "resample": lambda ours, peers: linear(f"{ours}/conv", f"{peers}.conv", layout=CONV),
    "norm": lambda ours, peers: norm(ours, peers, "rms_norm"),
    "gated": gated,
}
