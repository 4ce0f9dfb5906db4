"""Autoencoders of diffusers 0.42: AutoencoderDC (SANA's DC-AE) and AutoencoderKL (Stable Diffusion, FLUX).

`in_image` and any other `in_<case>` are pictures [B, C, H, W] in [-1, 1]. Answers: `out_latent` (or `out_<case>_latent`) before scale and
shift, the mean of a distribution; `out_moments` mean and log variance, `out_std`; `out_image` decoded from that latent; `mid.<module>` on
the way of in_image.
"""

import jax
import numpy as np

from anystep.nets import dcae, kl
from anystep.tree import paths
from anystep.weights.peers import autoencoder_dc, autoencoder_kl
from anystep.weights.peers.contract import Peer


def dc_answers(o, params, recorded):
    return answer(dcae.Encoder(o), dcae.Decoder(o), autoencoder_dc.parts(o), o.channels, params, recorded)


def kl_answers(o, params, recorded):
    return answer(kl.Encoder(o), kl.Decoder(o), autoencoder_kl.parts(o), o.channels, params, recorded)


def answer(encoder, decoder, parts, channels, params, recorded):
    """What is recorded, answered by the two networks; `channels` of what the encoder gives are the latent."""
    found = {}
    for name in (name for name in recorded if name.startswith("in_")):
        case = "" if name == "in_image" else name.removeprefix("in_") + "_"
        picture = np.asarray(recorded[name]).transpose(0, 2, 3, 1)
        raw, inside = watch(encoder, params, picture, "encoder")
        image, outside = watch(decoder, params, raw[..., :channels], "decoder")
        outs = {"latent": raw[..., :channels], "image": image}
        if raw.shape[-1] > channels:
            outs |= {"moments": raw, "std": kl.spread(raw)}
        found |= {f"out_{case}{name}": value for name, value in outs.items()}
        if not case:
            inside |= outside
            found |= {f"mid.{peers}": inside[ours] for ours, peers, _ in parts if ours in inside}
    return {name: np.asarray(value).transpose(0, 3, 1, 2) for name, value in found.items() if name in recorded}


def watch(net, params, x, side):
    """(answer, {path of a module: its answer}) of the network called `side`."""

    def run(params, x):
        return net.apply({"params": params[side]}, x, capture_intermediates=True, mutable=["intermediates"])

    out, kept = jax.jit(run)(params, x)
    return out, {f"{side}/{way}".removesuffix("/__call__/0"): value for way, value in paths(kept["intermediates"]).items()}


PEERS = {
    "AutoencoderDC": Peer(
        autoencoder_dc.options,
        autoencoder_dc.config,
        autoencoder_dc.names,
        lambda o: dcae.build(o).init,
        dc_answers,
        build=dcae.build,
    ),
    "AutoencoderKL": Peer(
        autoencoder_kl.options,
        autoencoder_kl.config,
        autoencoder_kl.names,
        lambda o: kl.build(o).init,
        kl_answers,
        build=kl.build,
        known_as=autoencoder_kl.known_as,
    ),
}
