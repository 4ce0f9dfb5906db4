"""Autoencoders against diffusers by number and by name, full-size names, tiles, derivatives. Fixtures: fixtures/make_autoencoder.py."""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anystep import tree
from anystep.errors import UserError
from anystep.nets import dcae, kl
from anystep.nets.attention import attend
from anystep.nets.autoencoder import shares, tiled
from anystep.types import Codec
from anystep.weights import names, read_safetensors
from anystep.weights.peers.autoencoder import PEERS

pytestmark = pytest.mark.slow  # what is quick of other people's networks is in test_port
FIXTURES = Path(__file__).parent / "fixtures"
DCAE = ("dcae_conv", "dcae_pixel", "dcae_stem", "dcae_stem_conv")
KL = ("kl_sd", "kl_flux", "kl_bare")
CASES = pytest.mark.parametrize("case", DCAE + KL)
SOME = pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow) if c in ("dcae_conv", "dcae_pixel") else c for c in DCAE + KL]
)
FULL = json.loads((FIXTURES / "autoencoder_full.json").read_text())


def load(case):
    """(peer, its config, options, its tensors, our params) of a fixture."""
    folder = FIXTURES / f"autoencoder_{case}"
    about = json.loads((folder / "config.json").read_text())
    peer = PEERS[about["class"]]
    options = peer.options(about["config"])
    tensors = read_safetensors(folder / "weights.safetensors")
    params = {ours: names.to_ours(source, tensors.__getitem__) for ours, source in peer.names(options).items()}
    return peer, about["config"], options, tensors, tree.nest(params)


def codec_of(case):
    peer, _, options, _, params = load(case)
    return (dcae if case in DCAE else kl).build(options), params


def picture(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@SOME
def test_numbers(case):
    peer, _, options, _, params = load(case)
    with np.load(FIXTURES / f"autoencoder_{case}" / "io.npz") as file:
        recorded = dict(file)
    answers = peer.answers(options, params, recorded)
    assert set(answers) == {name for name in recorded if not name.startswith("in_")}
    for name, found in answers.items():
        error = np.abs(found - recorded[name]).max() / np.abs(recorded[name]).max()
        print(f"{case} {name} {error:.1e}")
        assert found.shape == recorded[name].shape and error <= 2e-5, (name, error)


def test_only_what_is_recorded_is_answered():
    peer, _, options, _, params = load("kl_bare")
    recorded = {"in_other": picture(1, 3, 4, 6), "out_other_latent": None}
    assert set(peer.answers(options, params, recorded)) == {"out_other_latent"}


@CASES
def test_names_both_ways(case):
    peer, _, options, tensors, params = load(case)
    sources = peer.names(options)
    expected = tree.paths(jax.eval_shape(peer.init(options), jax.random.key(0)))
    found = tree.paths(params)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in found.items()} == {n: (x.shape, x.dtype) for n, x in expected.items()}
    pairs = [pair for ours, source in sources.items() for pair in names.to_peers(source, found[ours])]
    back = dict(pairs)
    assert len(pairs) == len(back) and set(back) == set(tensors)
    for name, array in tensors.items():
        assert array.dtype == back[name].dtype and array.shape == back[name].shape and array.tobytes() == back[name].tobytes(), name


@pytest.mark.parametrize("case", FULL)
def test_full_size_names_and_shapes(case):
    """The digest of DC-AE is that of the released checkpoint's names, all three from diffusers on its meta device."""
    peer = PEERS[FULL[case]["config"]["_class_name"]]
    options = peer.options(FULL[case]["config"])
    shapes = tree.paths(jax.eval_shape(peer.init(options), jax.random.key(0)))
    assert set(shapes) == set(peer.names(options))
    peers = {}
    for ours, source in peer.names(options).items():
        empty = np.broadcast_to(np.float32(0), shapes[ours].shape)
        peers[source.names[0]] = source.layout.peers(empty).shape
    lines = "\n".join(sorted(f"{name} {shape}" for name, shape in peers.items()))
    assert len(peers) == FULL[case]["tensors"] and tree.count(shapes) == FULL[case]["parameters"]
    assert hashlib.sha256(lines.encode()).hexdigest() == FULL[case]["digest"]


@CASES
def test_config_there_and_back(case):
    peer, config, options, _, _ = load(case)
    back = peer.config(options)
    assert peer.options(json.loads(json.dumps(back))) == options
    assert set(back) == {"_class_name", "_diffusers_version", *config}
    for field, value in config.items():
        assert back[field] == value or isinstance(value, str) and set(back[field]) == {value}, field


def test_a_config_of_defaults_alone():
    deep = PEERS["AutoencoderDC"].options({})
    assert len(deep.encoder) == 6 and deep.down == "pixel_unshuffle" and deep.scale == 1.0
    assert PEERS["AutoencoderKL"].options({"norm_num_groups": 16}).widths == (64,)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("AutoencoderDC", {"widths": 3}, "widths = 3 is not a field"),
        ("AutoencoderDC", {"downsample_block_type": "pool"}, "downsample_block_type = 'pool'.*pixel_unshuffle"),
        ("AutoencoderDC", {"encoder_block_types": "ViT"}, "encoder_block_types = 'ViT'.*EfficientViTBlock"),
        ("AutoencoderDC", {"decoder_norm_types": "layer_norm"}, "decoder_norm_types = 'layer_norm'.*batch_norm"),
        ("AutoencoderDC", {"decoder_act_fns": "elu"}, "decoder_act_fns = 'elu'.*mish"),
        ("AutoencoderDC", {"encoder_layers_per_block": (2, 0, 2, 2, 2, 2)}, "encoder_layers_per_block = .*0 for the first"),
        ("AutoencoderDC", {"decoder_layers_per_block": (2, 2)}, "decoder_layers_per_block = .*6 entries"),
        ("AutoencoderDC", {"encoder_block_out_channels": (128, 256, 512, 512, 1024, 1000)}, "four times each"),
        ("AutoencoderDC", {"encoder_block_types": "EfficientViTBlock", "attention_head_dim": 256}, "256 or more"),
        ("AutoencoderDC", {"decoder_qkv_multiscales": ((4,),) * 6}, "decoder_qkv_multiscales = .*odd"),
        ("AutoencoderDC", {"latent_channels": 48}, "latent_channels = 48"),
        ("AutoencoderKL", {"down_block_types": ("AttnDownEncoderBlock2D",)}, "down_block_types = .*DownEncoderBlock2D"),
        ("AutoencoderKL", {"latents_mean": [0.0] * 4}, "latents_mean = .*None"),
        ("AutoencoderKL", {"norm_num_groups": 24}, r"block_out_channels = \(64,\).*24"),
    ],
)
def test_refused_configs(name, change, message):
    with pytest.raises(UserError, match=message) as caught:
        PEERS[name].options(change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["dcae_stem_conv", "kl_flux"])
def test_latents_are_what_the_diffusion_model_wants(case):
    codec, params = codec_of(case)
    peer, config, options, _, _ = load(case)
    with np.load(FIXTURES / f"autoencoder_{case}" / "io.npz") as file:
        x, latent, image = (file[name].transpose(0, 2, 3, 1) for name in ("in_image", "out_latent", "out_image"))
    z = jax.jit(codec.encode)(params, x)
    np.testing.assert_allclose(z, (latent - (config.get("shift_factor") or 0.0)) * config["scaling_factor"], atol=1e-5)
    np.testing.assert_allclose(jax.jit(codec.decode)(params, z), image, atol=1e-5)
    assert z.shape[1] * codec.factor == x.shape[1] and z.shape[-1] == codec.channels


def test_moments_are_in_the_units_of_the_latent():
    codec, params = codec_of("kl_flux")
    with np.load(FIXTURES / "autoencoder_kl_flux" / "io.npz") as file:
        x, std = (file[name].transpose(0, 2, 3, 1) for name in ("in_image", "out_std"))
    mean, spread = jax.jit(codec.moments)(params, x)
    np.testing.assert_allclose(mean, jax.jit(codec.encode)(params, x), atol=1e-6)
    np.testing.assert_allclose(spread, std * 0.3611, rtol=1e-4)


@pytest.mark.parametrize("case", ["dcae_conv", pytest.param("kl_sd", marks=pytest.mark.long)])
def test_gradient_of_a_derivative(case):
    """Forward mode inside reverse mode, against a difference of the forward one."""
    codec, params = codec_of(case)
    x, dx = picture(1, 8, 8, 3), picture(1, 8, 8, 3, seed=1)

    def along(x):
        y, slope = jax.jvp(lambda x: codec.decode(params, codec.encode(params, x)), (x,), (dx,))
        return jnp.sum(slope * jnp.cos(y))

    value, grad = jax.jit(jax.value_and_grad(along))(x)
    ahead, behind = (jax.jit(along)(x + step * dx) for step in (1e-3, -1e-3))
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(jnp.sum(grad * dx), (ahead - behind) / 2e-3, rtol=3e-2, atol=3e-3 * abs(value))


def test_a_row_without_weight_has_derivatives():
    """All of q below zero: nothing to divide, and 1e-15 cubed is nothing in float32."""
    k, v = (jnp.asarray(picture(1, 5, 2, 4, seed=i)) for i in (1, 2))
    q = jnp.asarray(picture(1, 5, 2, 4)).at[:, 2].set(-1.0)

    def slope(k):
        return jnp.sum(jax.jvp(lambda k: attend(q, k, v, "linear")[0], (k,), (jnp.cos(k),))[1] ** 2)

    assert not attend(q, k, v, "linear")[0][:, 2].any()
    assert jnp.isfinite(jax.jit(jax.grad(slope))(k)).all()


@pytest.mark.parametrize("case", ["dcae_stem", "kl_sd"])
def test_half_precision_stays_near(case):
    _, _, options, _, params = load(case)
    net = dcae if case in DCAE else kl
    exact, rough = (net.build(options._replace(dtype=dtype)) for dtype in ("float32", "bfloat16"))
    z, near = (jax.jit(codec.encode)(params, picture(1, 8, 16, 3)) for codec in (exact, rough))
    x, close = (jax.jit(codec.decode)(params, z) for codec in (exact, rough))
    assert near.dtype == close.dtype == jnp.float32
    for found, expected in ((near, z), (close, x)):
        assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


# Tiles.


def local_codec(factor=4, reach=0):
    """Means over squares, and nearest neighbours smoothed over `reach` latent positions on each side."""

    def encode(_, x):
        b, h, w, c = x.shape
        return x.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))

    def decode(_, z):
        z = z - 2
        near = sum(jnp.roll(jnp.pad(z, ((0, 0), (reach, reach), (reach, reach), (0, 0))), (i, j), (1, 2))
                   for i in range(-reach, reach + 1) for j in range(-reach, reach + 1))  # fmt: skip
        near = near[:, reach : reach + z.shape[1], reach : reach + z.shape[2]] / (2 * reach + 1) ** 2
        return jnp.repeat(jnp.repeat(near, factor, 1), factor, 2) + 2

    return Codec(lambda key: {}, encode, decode, factor, 3, moments=lambda p, x: (encode(p, x), encode(p, x) ** 2))


@pytest.mark.parametrize("length, tile, overlap", [(9, 4, 1), (8, 4, 2), (5, 4, 3), (7, 3, 0), (4, 4, 2), (3, 5, 1), (11, 5, 4)])
@pytest.mark.parametrize("out", [1, 4])
def test_shares_sum_to_one(length, tile, overlap, out):
    starts, each = shares(length, tile, overlap, out)
    total = np.zeros(length * out)
    for start, share in zip(starts, each, strict=True):
        total[start * out : start * out + len(share)] += share
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (each > 0).all() and starts[0] == 0 and starts[-1] + min(tile, length) == length
    assert (np.diff(starts) <= tile - overlap).all() and (np.diff(starts) > 0).all()


def test_neighbours_are_mixed_linearly():
    _, each = shares(10, 6, 2, 4)
    ramp = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(each[1][:8], ramp, atol=1e-6)
    np.testing.assert_allclose(each[0][-8:], 1 - ramp, atol=1e-6)


def test_tiles_of_a_pointwise_codec_are_the_whole():
    codec = local_codec()
    cut, x = tiled(codec, 4, 1), jnp.asarray(picture(2, 28, 44, 3))
    z = jax.jit(cut.encode)({}, x)
    np.testing.assert_allclose(z, codec.encode({}, x), atol=1e-6)
    np.testing.assert_allclose(jax.jit(cut.decode)({}, z), codec.decode({}, z), atol=1e-6)
    for found, expected in zip(cut.moments({}, x), codec.moments({}, x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_seam_shows_where_the_overlap_covers_what_a_tile_does_not_see():
    """A picture smooth over a tile: what is lost at a tile's edge comes with a small share."""
    codec, z = local_codec(reach=1), smooth(20, 20)[..., :3]
    whole = codec.decode({}, z)
    error = [float(jnp.abs(tiled(codec, 8, overlap).decode({}, z) - whole).max()) for overlap in (0, 2, 4)]
    print("largest error for an overlap of 0, 2, 4:", error)
    assert error[1] < 0.65 * error[0] and error[2] < 0.35 * error[0]


def test_one_tile_is_the_codec_itself():
    codec, params = codec_of("kl_bare")
    cut, x = tiled(codec, 4, 2), picture(1, 8, 6, 3)
    z = jax.jit(codec.encode)(params, x)
    assert (jax.jit(cut.encode)(params, x) == z).all()
    assert (jax.jit(cut.decode)(params, z) == jax.jit(codec.decode)(params, z)).all()


def smooth(height, width, channels=4):
    rows, columns = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    waves = [np.sin(2 * np.pi * (a * rows + b * columns) + i) for i, (a, b) in enumerate([(1, 0), (0, 1), (1, 1), (0.5, -1)])]
    return jnp.asarray(0.7 * np.stack(waves[:channels], -1)[None], jnp.float32)


@pytest.mark.parametrize("case, bound", [("dcae_conv", 0.4), ("kl_flux", 0.75)])
def test_overlap_takes_the_seam_away(case, bound):
    """On a smooth picture, against the untiled output and relative to its deviation: the rms of the error, and its seam, the largest step
    from one row or column to the next (mean along it). Random weights, norms and attention over the whole picture: the error of a tile
    stays, its edge goes."""
    codec, params = codec_of(case)
    x = smooth(24 * codec.factor, 32 * codec.factor, 3)
    z = jax.jit(codec.encode)(params, x)
    for name, given in (("encode", x), ("decode", z)):
        whole = jax.jit(getattr(codec, name))(params, given)
        errors = [(jax.jit(getattr(tiled(codec, 16, o), name))(params, given) - whole) / jnp.std(whole) for o in (0, 8)]
        rms = [float(jnp.sqrt(jnp.mean(error**2))) for error in errors]
        seam = [max(float(jnp.abs(jnp.diff(error, axis=i)).mean((0, 3 - i, 3)).max()) for i in (1, 2)) for error in errors]
        print(f"{case} {name}, overlap 0 and 8 of 16: rms {rms[0]:.3f} {rms[1]:.3f}, seam {seam[0]:.3f} {seam[1]:.3f}")
        assert rms[1] < rms[0] and seam[1] < bound * seam[0]


def test_memory_is_that_of_a_tile():
    """What XLA wants for temporaries grows with the picture only as one copy of it."""
    codec, params = codec_of("kl_sd")
    f = codec.factor

    def temporary(decode, side):
        z = jax.ShapeDtypeStruct((1, side, side, codec.channels), jnp.float32)
        return jax.jit(decode).lower(params, z).compile().memory_analysis().temp_size_in_bytes

    cut = tiled(codec, 8, 2).decode
    small, large = temporary(cut, 16), temporary(cut, 32)
    picture_bytes = 4 * 3 * (32 * f) ** 2
    print("tiled", small, large, "untiled", temporary(codec.decode, 32), "picture", picture_bytes)
    assert large - small <= 2 * picture_bytes and large < temporary(codec.decode, 32) / 4


def test_bad_tiles_are_refused():
    with pytest.raises(ValueError, match="overlap = 4"):
        tiled(local_codec(), 4, 4)
    with pytest.raises(ValueError, match="18 x 40.*multiples of 4"):
        tiled(local_codec(), 4, 1).encode({}, jnp.zeros((1, 18, 40, 3)))
