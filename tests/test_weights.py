"""Model folders: exact round trips, honest reports of what differs, and nothing dangerous opened."""

import json
import pickle
import struct

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from anystep import weights
from anystep.errors import UserError
from anystep.tree import paths


def params():
    rng = np.random.default_rng(0)
    return {
        "net": {"blocks": {"attn": rng.standard_normal((2, 3, 4)).astype(np.float32), "scale": np.array(0.25, np.float32)}},
        "text": {"table": jnp.asarray(rng.standard_normal((5, 4)), jnp.bfloat16), "count": np.arange(3, dtype=np.int32)},
    }


def test_a_folder_gives_back_every_bit(tmp_path):
    tree = params()
    tree["net"]["turned"] = np.arange(6, dtype=np.float32).reshape(2, 3).T  # a view whose memory lies the other way
    tree["net"]["special"] = np.array([np.nan, np.inf, -0.0, 1e-45], np.float32)
    weights.save_folder(tmp_path / "new" / "model", {"model": {"width": 3, "name": "ä"}}, tree)
    config, found = weights.load_folder(str(tmp_path / "new" / "model"))
    assert config == {"model": {"width": 3, "name": "ä"}}
    assert set(paths(found)) == set(paths(tree))
    for name, leaf in paths(tree).items():
        back, leaf = paths(found)[name], np.asarray(leaf)
        assert back.dtype == leaf.dtype and back.shape == leaf.shape and back.tobytes() == leaf.tobytes(), name
    assert paths(found)["text/table"].dtype == ml_dtypes.bfloat16
    assert sorted(file.name for file in (tmp_path / "new" / "model").iterdir()) == ["config.json", "weights.safetensors"]


def test_the_file_is_plain_safetensors(tmp_path):
    weights.save_folder(tmp_path, {}, {"net": {"w": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32).T}})
    data = (tmp_path / "weights.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    assert header["net/w"]["dtype"] == "F32" and header["net/w"]["shape"] == [2, 2]
    begin, end = header["net/w"]["data_offsets"]
    assert struct.unpack("<4f", data[8 + length + begin : 8 + length + end]) == (1.0, 3.0, 2.0, 4.0)


@pytest.mark.parametrize("tree", [{"net": [np.zeros(1)]}, {"net": {"a/b": np.zeros(1)}}, {"net": {1: np.zeros(1)}}])
def test_only_nested_dicts_with_plain_names_are_saved(tmp_path, tree):
    with pytest.raises(ValueError, match="nested dicts"):
        weights.save_folder(tmp_path, {}, tree)


def file_of(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = {
    "empty": b"",
    "length lies": struct.pack("<Q", 10**12) + b"{}",
    "no json": file_of(b"{]"),
    "overlap": file_of({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
    "hole": file_of({"a": entry([4], 16, 32)}, bytes(32)),
    "beyond the end": file_of({"a": entry([4], 0, 16)}, bytes(8)),
    "huge": file_of({"a": entry([10**9, 10**9], 0, 16)}, bytes(16)),
    "shape lies": file_of({"a": entry([5], 0, 16)}, bytes(16)),
    "negative": file_of({"a": entry([-4], 0, 16)}, bytes(16)),
    "unknown dtype": file_of({"a": entry([4], 0, 16, "F99")}, bytes(16)),
    "unsupported dtype": file_of({"a": entry([4], 0, 4, "F8_E4M3")}, bytes(4)),
    "twice": file_of(b'{"a":%s,"a":%s}' % tuple(json.dumps(entry([1], at, at + 4)).encode() for at in (0, 4)), bytes(8)),
    "leaf and branch": file_of({"a": entry([1], 0, 4), "a/b": entry([1], 4, 8)}, bytes(8)),
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_lying_file_is_one_line(tmp_path, case):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(BROKEN[case])
    with pytest.raises(UserError, match="weights.safetensors") as caught:
        weights.load_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "flax_model.msgpack", "weights.PKL"])
def test_pickles_are_refused_by_name_and_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"not even a pickle")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=f"{name}.*convert to .safetensors"):
            weights.load_folder(path)


def test_what_is_no_model_folder_says_why(tmp_path):
    with pytest.raises(UserError, match=r"not a model folder, it has no config\.json"):
        weights.load_folder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "weights.safetensors").write_bytes(file_of({}))
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        weights.load_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="must be a JSON object"):
        weights.load_folder(tmp_path)


def test_match_names_every_difference():
    expected = {"net": {"a": np.zeros((2, 3)), "b": np.zeros(4), "new": np.zeros(1)}}
    loaded = {"net": {"a": np.zeros((3, 2)), "b": np.zeros(4)}, "old": {"c": np.zeros(1)}}
    report = weights.match(expected, loaded)
    assert report.missing == ("net/new",)
    assert report.unused == ("old/c",)
    assert report.misshaped == (("net/a", (2, 3), (3, 2)),)
    assert weights.match(expected, expected) == weights.Match((), (), ())


def test_take_allows_only_the_new_parameters_that_were_named():
    initial = {"net": {"a": np.full(2, 5, np.float32), "blocks": {"q_norm": np.zeros(3, np.float32)}}}
    loaded = {"net": {"a": np.array([1.5, 2.5], ml_dtypes.bfloat16)}}
    with pytest.raises(UserError, match="1 missing: net/blocks/q_norm$"):
        weights.take(initial, loaded)
    taken = weights.take(initial, loaded, new=("net/*/q_norm",))
    assert taken["net"]["a"].dtype == np.float32 and taken["net"]["a"].tolist() == [1.5, 2.5]
    assert taken["net"]["blocks"]["q_norm"].tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="1 unused: net/zz"):
        weights.take(initial, {"net": {"a": loaded["net"]["a"], "zz": np.zeros(1)}}, new=("*",))
    with pytest.raises(UserError, match=r"1 mis-shaped: net/a \(expected \(2,\), found \(3,\)\)"):
        weights.take(initial, {"net": {"a": np.zeros(3)}}, new=("*",))
