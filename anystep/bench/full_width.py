"""Networks of others, at full width and two layers deep, take one step here: parameters, seconds, and whether the answer is finite.

    anystep bench full_width [--only sana_1600m,flux] [--out FILE.json]

Parameters of the whole network come from shapes alone; what runs is two layers (of FLUX two of each kind; UNet and autoencoders whole:
they have levels) with fresh random weights.
"""

import math
import time

from anystep import flags
from anystep.bench import _record as record
from anystep.bench.port import MODELS, SHARED
from anystep.errors import UserError, run_main

DC_AE = {"_class_name": "AutoencoderDC", "scaling_factor": 0.41407, "downsample_block_type": "Conv", "upsample_block_type": "interpolate"}
DC_AE |= {f"{side}_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3 for side in ("encoder", "decoder")}
FLUX_VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16}
FLUX_VAE |= {f"{side}_block_types": [f"{kind}Block2D"] * 4 for side, kind in (("down", "DownEncoder"), ("up", "UpDecoder"))}
FLUX_VAE |= {"scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False}
CONFIGS = {name: SHARED | sizes | {"cross_attention_dim": sizes["num_attention_heads"] * 32} for name, sizes in MODELS.items()} | {
    "flux": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
    "sd15": {"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768},
    "dc_ae": DC_AE,
    "flux_vae": FLUX_VAE,
    "gemma_2_2b": {"architectures": ["Gemma2Model"]},
    "t5_xxl": {"architectures": ["T5EncoderModel"], "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    | {"vocab_size": 32128, "feed_forward_proj": "gated-gelu"},
    "clip_l": {"architectures": ["CLIPTextModel"], "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
CUT = {"depth": 2, "double": 2, "single": 2}
SIDE, WORDS = 16, 16  # latent positions a side, tokens of a prompt


def main(argv):
    parser = flags.Parser(prog="anystep bench full_width", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CONFIGS), help="names, separated by commas")
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)
    names = [name for name in args.only.split(",") if name]
    for name in names:
        if name not in CONFIGS:
            raise UserError(f"--only {name!r}: allowed {', '.join(CONFIGS)}")
    rows = {}
    for name in names:
        rows[name] = step(CONFIGS[name])
        print(f"{name:12} {rows[name]}", flush=True)
    if args.out:
        record.write(args.out, "anystep bench full_width " + " ".join(argv), rows)
    return 0 if all(row["finite"] for row in rows.values()) else 1


def step(config):
    """One answer of the network of a peer's config, cut to two layers."""
    import jax
    import jax.numpy as jnp

    from anystep.weights import port
    from anystep.weights.peers import find

    peer = find(config, "bench")
    whole = peer.options(config)
    cut = {name: depth for name, depth in CUT.items() if name in whole._fields and isinstance(getattr(whole, name), int)}
    cut = {} if config.get("_class_name", "").startswith("Autoencoder") else cut
    options = whole._replace(**cut, **({"near": whole.near[:2]} if "near" in whole._fields else {}))
    params = jax.jit(peer.init(options))(jax.random.key(0))
    run = answer(peer, options)
    compiled = jax.jit(run).lower(params).compile()
    began = time.monotonic()
    out = jax.block_until_ready(compiled(params))
    return {
        "parameters": sum(math.prod(leaf.shape) for leaf in port.shapes_of(peer, whole).values()),
        "parameters_run": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "layers": cut or "all",
        "answer": list(out.shape),
        "finite": bool(jnp.isfinite(out).all()),
        "seconds": round(time.monotonic() - began, 2),
    }


def answer(peer, options):
    """params -> what the network says of some input."""
    import jax
    import jax.numpy as jnp

    from anystep.nets.text.pretrained import Tokenizer

    if not hasattr(options, "shape"):
        if hasattr(options, "vocabulary"):
            tokenizer = Tokenizer(lambda texts: [[5, 6, 7]] * len(texts), (), (1,), 0)
            text = peer.build(tokenizer, options, length=WORDS)
            return lambda params: text.encode(params, jnp.asarray(text.tokenize(["a red ring"])))["features"]
        codec = peer.build(options)
        picture = jax.random.uniform(jax.random.key(1), (1, 2 * codec.factor, 2 * codec.factor, 3), minval=-1.0)
        return lambda params: codec.decode(params, codec.encode(params, picture))
    model, t = peer.build(options), jnp.full(1, 0.7)
    x = jax.random.normal(jax.random.key(1), (1, SIDE, SIDE, model.shape[-1]))
    cond = {
        "features": jax.random.normal(jax.random.key(2), (1, WORDS, options.text_width)),
        "mask": jnp.ones((1, WORDS), bool),
        "guidance": t,
    }
    if hasattr(options, "pooled_width"):
        cond["pooled"] = jnp.ones((1, options.pooled_width))
    return lambda params: model.velocity(params, x, t, t, cond)[0]


if __name__ == "__main__":
    run_main(main)
