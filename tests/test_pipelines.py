"""Whole pipelines of diffusers: prompts, latents and pictures number by number (fixtures/make_pipelines.py), and what real folders hold."""

import functools
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from anystep import api, convert, sample
from anystep.errors import UserError
from anystep.tree import paths
from anystep.weights import port
from anystep.weights.tensors import Tensors

pytest.importorskip("tokenizers")
FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ("sana_flow", "sana_sprint", "flux_dev", "flux_schnell", "sd1", "sd2")
CLOSE = 2e-5  # of the largest value
SAID = {name: json.loads((FIXTURES / f"pipeline_{name}" / "cases.json").read_text()) for name in NAMES}
QUICK = (("sana_sprint", "one"),)  # what takes the time is to compile each network anew
CASES = [(name, case) for name in NAMES for case in SAID[name]["cases"]]
CASES = [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in CASES]


@functools.cache
def loaded(name):
    return api.load(FIXTURES / f"pipeline_{name}")


@functools.cache
def recorded(name):
    return dict(np.load(FIXTURES / f"pipeline_{name}" / "drawn.npz"))


def copied(name, folder):
    return shutil.copytree(FIXTURES / f"pipeline_{name}", folder / name, ignore=shutil.ignore_patterns("drawn.npz", "cases.json"))


def rewritten(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def error(found, want):
    found = np.asarray(found, np.float64)
    assert found.shape == want.shape
    return np.abs(found - want).max() / np.abs(want).max()


def seen(features, mask):
    """Features where the mask hides nothing."""
    return np.asarray(features) * np.asarray(mask)[..., None]


def fed(noises):
    """A steer that hands the sampler the noises that it would draw."""
    return lambda sampler: sampler._replace(init=lambda key, noise, t: sampler.init(jnp.asarray(noises), noise, t))


def drawn(model, params, name, case):
    """(latents, pictures) of a recorded case: from its noise, at its size, steps and scale."""
    how, want = SAID[name]["cases"][case], recorded(name)
    fresh = want.get(f"in_fresh_{case}")
    latents = []

    def decode(params, z):
        latents.append(np.asarray(z))
        return model.decode(params, z)

    height, width = how["size"]
    pictures = api.sample_array(
        model._replace(decode=decode),
        params,
        SAID[name]["prompts"],
        how["steps"],
        guide=how["guide"],
        size=(height, width),
        noise=want[f"in_noise_{height}x{width}"].transpose(0, 2, 3, 1),
        steer=None if fresh is None else fed(fresh.transpose(0, 1, 3, 4, 2)),
    )
    return np.concatenate(latents), pictures


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_prompts(name):
    model, params = loaded(name)
    want = recorded(name)
    encode = jax.jit(model.text.encode)
    found = encode(params["text"], model.text.tokenize(SAID[name]["prompts"]))
    mask = want.get("out_mask", np.ones(found["mask"].shape))
    np.testing.assert_array_equal(found["mask"], mask > 0)
    errors = {"features": error(seen(found["features"], mask), want["out_features"])}
    if "out_pooled" in want:
        errors["pooled"] = error(found["pooled"], want["out_pooled"])
    if "out_null" in want:
        null = encode(params["text"], np.repeat(model.text.tokenize([""]), 2, axis=0))
        errors["null"] = error(seen(null["features"], null["mask"])[:1], want["out_null"])
    print(name, errors)
    assert max(errors.values()) <= CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("name, case", CASES)
def test_drawn(name, case, tmp_path):
    scheduler, folder = SAID[name]["cases"][case]["scheduler"], FIXTURES / f"pipeline_{name}"
    if scheduler:
        folder = copied(name, tmp_path)
        rewritten(folder / "scheduler" / "scheduler_config.json", **scheduler)
    model, params = api.load(folder) if scheduler else loaded(name)
    latents, pictures = drawn(model, params, name, case)
    want = recorded(name)
    errors = {"latent": error(latents.transpose(0, 3, 1, 2), want[f"out_latent_{case}"])}
    if f"out_image_{case}" in want:
        errors["image"] = error(np.clip(pictures / 2 + 0.5, 0, 1), want[f"out_image_{case}"])
    print(name, case, errors)
    assert max(errors.values()) <= CLOSE


# There and back


def leaves(params):
    return {name: (leaf.dtype, np.asarray(leaf).tobytes()) for name, leaf in paths(params).items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ("sana_sprint", "flux_dev", "sd1"))
def test_an_import_is_the_same_bits_and_so_is_its_export(name, tmp_path, capsys):
    folder = FIXTURES / f"pipeline_{name}"
    assert not convert.main(["import", str(folder), str(tmp_path / "ours")])
    assert not convert.main(["export", str(tmp_path / "ours"), str(tmp_path / "theirs")])
    assert "without" not in capsys.readouterr().out
    (model, params), (again, same) = loaded(name), api.load(tmp_path / "ours")
    assert leaves(params) == leaves(same) and again.net.shape == model.net.shape
    fields = ("patch", "steps", "sampler", "scale", "told", "eta", "batch", "whole", "jumps_only")
    assert all(getattr(again.drawing, field) == getattr(model.drawing, field) for field in fields)
    np.testing.assert_array_equal(again.drawing.times(3, 24), model.drawing.times(3, 24))
    np.testing.assert_array_equal(again.text.tokenize(SAID[name]["prompts"]), model.text.tokenize(SAID[name]["prompts"]))
    assert json.loads((tmp_path / "theirs" / "model_index.json").read_text()) == json.loads((folder / "model_index.json").read_text())
    for part in (part for part in folder.iterdir() if any(part.glob("*.safetensors"))):
        before, after = Tensors(part), Tensors(tmp_path / "theirs" / part.name)
        known_as = port.find(port.read_config(part), part).known_as
        before.call(known_as), after.call(known_as)
        assert set(before.shapes) == set(after.shapes)
        assert all(before.read(tensor).tobytes() == after.read(tensor).tobytes() for tensor in before.shapes)


# What real folders hold


def test_what_is_no_network_of_ours_is_left_out_and_said(tmp_path, capsys):
    folder = copied("sd1", tmp_path)
    shutil.rmtree(folder / "unet")
    for part in ("safety_checker", "feature_extractor", ".cache"):
        (folder / part).mkdir()
    (folder / "safety_checker" / "config.json").write_text('{"architectures": ["StableDiffusionSafetyChecker"]}')
    safetensors.numpy.save_file({"concept_embeds": np.zeros((2, 3), np.float32)}, folder / "safety_checker" / "model.safetensors")
    (folder / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    rewritten(folder / "model_index.json", safety_checker=checker, feature_extractor=["transformers", "CLIPImageProcessor"])
    said = json.loads((folder / "model_index.json").read_text())
    assert not convert.main(["import", str(folder), str(tmp_path / "ours")])
    assert capsys.readouterr().out.splitlines()[-1].endswith("ours: without safety_checker, feature_extractor, which no network here is")
    folders = {path.name for path in (tmp_path / "ours").iterdir() if path.is_dir()}
    assert folders == {"scheduler", "text_encoder", "tokenizer", "vae"}
    nulls = dict.fromkeys(("safety_checker", "feature_extractor", "unet"), [None, None])
    assert json.loads((tmp_path / "ours" / "model_index.json").read_text()) == said | nulls


def test_weights_that_are_pickles_are_refused_not_left_out(tmp_path):
    folder = copied("sana_flow", tmp_path)
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: \.bin files can run code"):
        convert.main(["import", str(folder), str(tmp_path / "ours")])


def halved(folder):
    """diffusers' fp16 variant of a folder's weights, beside them."""
    for file in folder.rglob("*.safetensors"):
        arrays = {name: array.astype(np.float16) for name, array in safetensors.numpy.load_file(file).items()}
        safetensors.numpy.save_file(arrays, file.with_name(f"{file.stem}.fp16.safetensors"))


def test_full_weights_before_half_ones(tmp_path):
    folder = shutil.copytree(FIXTURES / "pipeline_sd1" / "vae", tmp_path / "vae")
    halved(folder)
    assert set(Tensors(folder).dtypes.values()) == {"F32"}
    full, half = (folder / f"diffusion_pytorch_model{end}.safetensors" for end in ("", ".fp16"))
    full.rename(folder / "diffusion_pytorch_model.non_ema.safetensors")
    assert set(Tensors(folder).dtypes.values()) == {"F16"}
    index = {"weight_map": dict.fromkeys(safetensors.numpy.load_file(half), half.name)}
    (folder / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    half.with_name("other.fp16.safetensors").write_bytes(half.read_bytes())
    assert set(Tensors(folder).dtypes.values()) == {"F16"}
    (folder / "diffusion_pytorch_model.non_ema.safetensors").rename(full)
    assert set(Tensors(folder).dtypes.values()) == {"F32"}


@pytest.mark.slow
def test_half_weights_and_bfloat16_draw_much_the_same(tmp_path):
    folder = copied("sana_sprint", tmp_path)
    full = list(folder.rglob("*.safetensors"))
    halved(folder)
    for file in full:
        file.unlink()
    model, params = api.load(folder, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float16)}
    latents, pictures = drawn(model, params, "sana_sprint", "one")
    assert pictures.dtype == np.float32
    off = error(latents.transpose(0, 3, 1, 2), recorded("sana_sprint")["out_latent_one"])
    print(f"bfloat16 {off:.2g}")
    assert CLOSE < off < 0.1


def test_attention_of_an_old_autoencoder(tmp_path):
    folder = shutil.copytree(FIXTURES / "pipeline_sd1" / "vae", tmp_path / "vae")
    file = folder / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = {}
    for name, array in safetensors.numpy.load_file(file).items():
        for new, older in old.items():
            if f"attentions.0.{new}." in name:
                name = name.replace(new, older)
                array = array.reshape(*array.shape, 1, 1) if "encoder.mid" in name and array.ndim == 2 else array  # both kinds
        arrays[name] = array
    assert sum("proj_attn" in name for name in arrays) == 4
    safetensors.numpy.save_file(arrays, file)
    assert leaves(port.load(folder)[2]) == leaves(port.load(FIXTURES / "pipeline_sd1" / "vae")[2])


def without(part):
    return lambda folder: shutil.rmtree(folder / part)


def saying(file, **fields):
    return lambda folder: rewritten(folder / file, **fields)


def put(part, fixture):
    def change(folder):
        shutil.rmtree(folder / part)
        shutil.copytree(FIXTURES / fixture, folder / part)

    return change


SCHEDULER = "scheduler/scheduler_config.json"
TRANSFORMERS = r"allowed SanaTransformer2DModel, FluxTransformer2DModel"
REFUSED = {
    "no network": (without("transformer"), "sana_flow: has neither transformer/ nor unet/"),
    "no autoencoder": (without("vae"), "sana_flow/vae: no such folder; .* AutoencoderDC, AutoencoderKL"),
    "no scheduler": (without("scheduler"), "sana_flow/scheduler: has no scheduler_config.json"),
    "no tokenizer": (without("tokenizer"), r"sana_flow/tokenizer: has no tokenizer, expected tokenizer\.json"),
    "network": (saying("transformer/config.json", _class_name="PixArt"), f"sana_flow/transformer: class 'PixArt' .*{TRANSFORMERS}"),
    "autoencoder": (saying("vae/config.json", _class_name="VQModel"), "sana_flow/vae: class 'VQModel' .* allowed AutoencoderDC, Auto"),
    "latents": (put("vae", "autoencoder_kl_flux"), "sana_flow/vae: latents have 16 channels, those of transformer/ have 4"),
    "encoder": (saying("text_encoder/config.json", architectures=["Llama"]), "/text_encoder: class 'Llama' .* allowed Gemma2Model, Gemma2"),
    "scheduler": (saying(SCHEDULER, _class_name="LMSScheduler"), "/scheduler: .* class 'LMSScheduler' is not known; allowed FlowMatch"),
    "clock": (
        saying(SCHEDULER, _class_name="DDIMScheduler", prediction_type="epsilon", timestep_spacing="leading", clip_sample=False),
        "/scheduler: .*'epsilon'; .* allowed flow",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_one_line(what, tmp_path):
    change, said = REFUSED[what]
    change(folder := copied("sana_flow", tmp_path))
    with pytest.raises(UserError, match=said) as error:
        api.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule = 'squaredcos_cap_v2' is not supported, allowed 'linear', 'scaled_linear'"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas = \[0\.1, 0\.2\]"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "'flow'; for unet/ allowed epsilon, v_prediction"),
    ],
)
def test_a_clock_that_is_not_here_is_refused(fields, said, tmp_path):
    folder = copied("sd2", tmp_path)
    rewritten(folder / SCHEDULER, **fields)
    with pytest.raises(UserError, match=f"sd2/scheduler: .*{said}"):
        api.load(folder)


def test_a_dtype_that_is_not_here():
    with pytest.raises(UserError, match="dtype: 'float16', allowed float32, bfloat16"):
        api.load(FIXTURES / "pipeline_sana_flow", dtype="float16")


def test_a_tokenizer_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pipeline_sana_flow/tokenizer: .* needs tokenizers.*pip install anystep\[text\]"):
        api.load(FIXTURES / "pipeline_sana_flow")


def test_without_its_encoders_all_but_prompts_is_there(tmp_path):
    folder = copied("sana_flow", tmp_path)
    shutil.rmtree(folder / "text_encoder")
    model, params = api.load(folder)
    assert params["net"] and params["codec"] and model.net.shape == (8, 8, 4)
    with pytest.raises(UserError, match="sana_flow: has no text_encoder/, so it cannot read prompts"):
        api.sample(model, params, ["a red ring"])


# What users call


@pytest.mark.slow
def test_the_command_writes_a_grid(tmp_path, capsys, monkeypatch):
    from PIL import Image

    monkeypatch.setattr("anystep.cache.use_compile_cache", lambda: None)
    out, argv = tmp_path / "grid.png", ["--model", str(FIXTURES / "pipeline_sana_sprint"), "--prompt", "a red ring"]
    sample.main([*argv, "--steps", "1", "--size", "32x64", "--out", str(out)])
    assert "1 prompts at 1 steps, guidance 4.5, restart" in capsys.readouterr().out and Image.open(out).width >= 64
    with pytest.raises(UserError, match="size: 30x64, allowed are two multiples of 4"):
        sample.main([*argv, "--size", "30x64", "--out", str(out)])
    with pytest.raises(UserError, match="sampler 'dpm': allowed restart, ddim, ddim_ratio or euler, because this model answers with jumps"):
        sample.main([*argv, "--sampler", "dpm", "--out", str(out)])
