"""Checkpoints of others: the numbers they were recorded with, there and back bit by bit, full-size layouts, refusals by name. The recorded
folders and the script that makes them are in tests/fixtures."""

import json
import shutil
import zlib
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from anystep import convert
from anystep.errors import UserError
from anystep.weights import load_folder, port
from anystep.weights.names import to_peers
from anystep.weights.peers import find
from anystep.weights.tensors import Tensors, write

FIXTURES = Path(__file__).parent / "fixtures"
RECORDED = sorted(path.name for path in FIXTURES.iterdir() if (path / "io.npz").exists() and (path / "config.json").exists())
QUICK = ("sana_control",)
SPRINT = FIXTURES / "sana_sprint"
FULL = {"_class_name": "SanaTransformer2DModel", "in_channels": 32, "out_channels": 32, "attention_head_dim": 32, "caption_channels": 2304}
FULL |= {"mlp_ratio": 2.5, "sample_size": 32, "attention_bias": False, "norm_elementwise_affine": False}
LARGE = {
    "num_attention_heads": 70,
    "num_layers": 20,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
}
SMALL = {
    "num_attention_heads": 36,
    "num_layers": 28,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}
TOLD = {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True}
LAYOUTS = {  # config -> tensors, parameters, crc32 of the sorted lines "name shape", all by diffusers 0.42.1 (make_sana.py)
    "Sprint 0.6B": (FULL | SMALL | TOLD, 664, 593501216, "0541dc46"),
    "Sprint 1.6B": (FULL | LARGE | TOLD, 480, 1610237472, "4f41bfc0"),
    "SANA 1.6B": (FULL | LARGE, 396, 1604462752, "4bc32950"),
}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECORDED if name.startswith("sana")]
)
def test_the_numbers_are_the_peers(name):
    met, lines = port.measure(FIXTURES / name, convert.CLOSE, convert.CLOSE_DERIVATIVE, low=False)
    assert met, lines


@pytest.mark.slow
def test_a_wrong_number_is_seen_and_named(tmp_path, capsys):
    folder = shutil.copytree(FIXTURES / "sana_control", tmp_path / "model")
    assert convert.main(["verify", str(folder)]) == 0 and capsys.readouterr().out.startswith("ok: 2 arrays")
    weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    weights["controlnet_blocks.1.weight"][0, 0] += 1e-2
    safetensors.numpy.save_file(weights, folder / "weights.safetensors")
    assert convert.main(["verify", str(folder)]) == 1
    assert (said := capsys.readouterr().out).startswith("out_block_1: ") and "out_block_0" not in said


@pytest.mark.parametrize(
    "name", [name if name.startswith(("sana_s", "text_clip", "kl")) else pytest.param(name, marks=pytest.mark.slow) for name in RECORDED]
)
def test_there_and_back_is_the_same_bits(name, tmp_path):
    assert not convert.main(["import", str(FIXTURES / name), str(tmp_path / "ours")])
    assert not convert.main(["export", str(tmp_path / "ours"), str(tmp_path / "theirs")])
    before, after = Tensors(FIXTURES / name), Tensors(tmp_path / "theirs")
    known_as = find(port.peer_config(port.read_config(FIXTURES / name)), name).known_as
    before.call(known_as), after.call(known_as)
    assert before.shapes == after.shapes and before.dtypes == after.dtypes
    for tensor in before.shapes:
        assert before.read(tensor).tobytes() == after.read(tensor).tobytes(), tensor
    said, found = (port.peer_config(port.read_config(folder)) for folder in (FIXTURES / name, tmp_path / "theirs"))
    peer = find(said, name)
    assert peer.options(said) == peer.options(found)


def test_parts_with_an_index_and_bfloat16(tmp_path):
    weights = {
        name: array.astype(ml_dtypes.bfloat16) for name, array in safetensors.numpy.load_file(SPRINT / "weights.safetensors").items()
    }
    places = {name: f"model-{number % 3}.safetensors" for number, name in enumerate(weights)}
    for file in set(places.values()):
        safetensors.numpy.save_file({name: weights[name] for name in weights if places[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    shutil.copy(SPRINT / "config.json", tmp_path)
    assert not convert.main(["import", str(tmp_path), str(tmp_path / "kept")])
    assert not convert.main(["import", str(tmp_path), str(tmp_path / "wide"), "--dtype", "float32"])
    (_, kept), (_, wide) = (load_folder(tmp_path / name) for name in ("kept", "wide"))
    assert kept["head"]["out"]["kernel"].dtype == ml_dtypes.bfloat16
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(wide), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_array_equal(a.astype(np.float32), b)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"names files that are not there: model-1\.safetensors"):
        convert.main(["import", str(tmp_path), str(tmp_path / "none")])


@pytest.mark.parametrize("name", LAYOUTS)
def test_full_size_layouts(name):
    config, tensors, parameters, digest = LAYOUTS[name]
    peer = find(config, name)
    options = peer.options(config)
    expected, names = port.shapes_of(peer, options), peer.names(options)
    assert set(names) == set(expected)
    shapes = {}
    for ours, source in names.items():
        shapes |= {tensor: a.shape for tensor, a in to_peers(source, np.broadcast_to(np.int8(0), expected[ours].shape), move=False)}
    lines = sorted(f"{tensor} {shape}" for tensor, shape in shapes.items())
    assert len(lines) == tensors and sum(map(port.size, shapes.values())) == parameters
    assert f"{zlib.crc32(chr(10).join(lines).encode()):08x}" == digest


def changed(tmp_path, change):
    weights = safetensors.numpy.load_file(SPRINT / "weights.safetensors")
    change(weights)
    folder = shutil.copytree(SPRINT, tmp_path / "changed", dirs_exist_ok=True)
    safetensors.numpy.save_file(weights, folder / "weights.safetensors")
    return folder


def test_what_does_not_fit_is_refused_unless_allowed(tmp_path):
    gone, more = "time_embed.guidance_embedder.linear_1.bias", "logvar.weight"
    folder = changed(tmp_path, lambda weights: (weights.pop(gone), weights.update({more: np.zeros(3, np.float32)})))
    with pytest.raises(UserError, match=f"1 missing: {gone}; 1 unused: {more}"):
        convert.main(["import", str(folder), str(tmp_path / "out")])
    with pytest.raises(UserError, match=f"1 unused: {more}"):
        convert.main(["import", str(folder), str(tmp_path / "out"), "--allow", "missing"])
    assert not convert.main(["import", str(folder), str(tmp_path / "out"), "--allow", "missing,unused"])
    assert not load_folder(tmp_path / "out")[1]["embed"]["guidance"]["in"]["bias"].any()

    folder = changed(tmp_path, lambda weights: weights.update({"proj_out.bias": np.zeros(5, np.float32)}))
    with pytest.raises(UserError, match=r"1 mis-shaped: proj_out\.bias \(expected \(4,\), found \(5,\)\)"):
        convert.main(["import", str(folder), str(tmp_path / "out")])


def test_an_export_does_not_lose_what_was_learned(tmp_path):
    convert.main(["import", str(SPRINT), str(tmp_path / "ours")])
    tensors = Tensors(tmp_path / "ours")
    arrays = {name: tensors.read(name) for name in tensors.shapes} | {"embed/second_time/out/bias": np.zeros(16, np.float32)}
    for value, fits in ((0.0, True), (0.5, False)):
        arrays["embed/second_time/out/bias"][:] = value
        shapes, dtypes = ({name: getattr(array, what) for name, array in arrays.items()} for what in ("shape", "dtype"))
        write(tmp_path / "ours" / "weights.safetensors", shapes, dtypes, arrays.items())
        if fits:
            assert not convert.main(["export", str(tmp_path / "ours"), str(tmp_path / "theirs")])
        else:
            with pytest.raises(UserError, match="1 unused: embed/second_time/out/bias"):
                convert.main(["export", str(tmp_path / "ours"), str(tmp_path / "theirs")])


def test_a_pipeline_is_its_parts(tmp_path):
    shutil.copytree(SPRINT, tmp_path / "pipe" / "transformer")
    (tmp_path / "pipe" / "scheduler").mkdir()
    (tmp_path / "pipe" / "scheduler" / "scheduler_config.json").write_text("{}")
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    assert not convert.main(["import", str(tmp_path / "pipe"), str(tmp_path / "ours")])
    assert not convert.main(["export", str(tmp_path / "ours"), str(tmp_path / "theirs")])
    found = {str(path.relative_to(tmp_path / "theirs")) for path in (tmp_path / "theirs").rglob("*") if path.is_file()}
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert found == {"model_index.json", "scheduler/scheduler_config.json", "transformer/config.json", weights}


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("qk_norm", "layer_norm", "qk_norm = 'layer_norm' is not supported, allowed None, 'rms_norm_across_heads'"),
        ("out_channels", 8, "out_channels = 8"),
        ("_class_name", "PixArtTransformer2DModel", "class 'PixArtTransformer2DModel' is not known; allowed"),
    ],
)
def test_a_config_that_we_do_not_have_is_one_line(field, value, said, tmp_path):
    folder = shutil.copytree(SPRINT, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        convert.main(["import", str(folder), str(tmp_path / "out")])


@pytest.mark.parametrize(
    "argv, said",
    [
        (["import", "a"], "needs a folder to write to"),
        (["verify", "a", "b"], "writes nothing"),
        (["import", "a", "b", "--allow", "all"], "allowed missing, unused"),
        (["export", "a", "b", "--dtype", "float16"], "is for import only"),
        (["inspect", "nowhere"], "has no config.json"),
        (["verify", "nowhere"], "has no config.json, nor a recording"),
    ],
)
def test_bad_requests(argv, said):
    with pytest.raises(UserError, match=said):
        convert.main(argv)


def test_inspect(tmp_path, capsys):
    convert.main(["inspect", str(SPRINT)])
    assert "SanaTransformer2DModel" in (said := capsys.readouterr().out) and said.rstrip().endswith("fits")
    convert.main(["import", str(SPRINT), str(tmp_path)])
    convert.main(["inspect", str(tmp_path)])
    assert "SanaTransformer2DModel" in capsys.readouterr().out
