"""Stores: encoded once, the same bytes however often it was killed; read like the pictures that they were made of; refused when stale; and
text encoders that are not trained."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny
from folders import crc, pictures, take, texts

import anystep
from anystep import api, begin, encode, logs, stores, train, weights
from anystep import config as configs
from anystep.data import describe, make_stream
from anystep.data.albums import open_album
from anystep.data.quarantine import Quarantine
from anystep.errors import UserError
from anystep.nets.build import build_models
from anystep.nets.text import bert
from anystep.objectives import mix
from anystep.tree import paths
from anystep.types import Roles
from anystep.weights import encoders, port
from anystep.weights.peers.text import PEERS

FIXTURES = Path(__file__).parent / "fixtures"
CODEC = FIXTURES / "autoencoder_kl_sd"
SMALL = bert.Options(vocabulary=100, positions=32, width=12, depth=1, heads=2, hidden=16)
NAMES = [f"noise number {i}" for i in range(12)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with a tiny BERT of random weights and a tokenizer."""
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("text")
    return bert_folder(folder, 0)


def bert_folder(folder, seed):
    peer = PEERS["BertModel"]
    params = jax.tree.map(lambda a: np.asarray(a) * 3, jax.jit(peer.init(SMALL))(jax.random.key(seed)))
    weights.save_folder(folder, {"peer": peer.config(SMALL)}, params)
    for file in (FIXTURES / "text_tokenizers" / "bert").iterdir():
        shutil.copy(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve pictures, two captions each, of which all share one."""
    folder = tmp_path_factory.mktemp("source")
    tiny.pictures(folder)
    rows = [{"file_name": f"{i}.png", "text": [NAMES[i], "a red ring, please"]} for i in range(12)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def encoded(source, out, *more):
    flags = ["--path", str(source), "--size", "16", "--batch", "3", "--shard", "5", "--out", str(out), *map(str, more)]
    assert not encode.main(flags)
    return out


@pytest.fixture(scope="module")
def store(source, text, tmp_path_factory):
    return encoded(source, tmp_path_factory.mktemp("made") / "store", "--text", text, "--autoencoder", CODEC, "--dtype", "float32")


def section(path, **changes):
    plain = {"kind": "store", "path": str(path), "weights": (1.0,), "dev_share": 0.0, "pipeline": "", "autoencoder": ""}
    return SimpleNamespace(**plain | {"verify": True, "key": ""} | changes)


def config(store, *more):
    small = [f"--config.model.{field}" for field in ("width=16", "depth=2", "heads=2", "cross_heads=2", "scan=False", "dtype=float32")]
    small += [f"--config.train.{field}" for field in ("steps=6", "log_every=1", "sample_every=0")]
    small += ["--config.data.batch=8", "--config.optim.warmup=1", "--config.objective.consistency.start=2", "--config.checkpoint.every=3"]
    small += ["--config.eval.steps=1,2", "--config.eval.prompts=4", f"--config.data.path={store}", "--config.data.dev_share=0.3"]
    return configs.load(["--config", "store", *small, *more])[0]


# What is written


def test_what_is_written_is_what_the_encoders_say(source, text, store):
    found = stores.Store(store)
    album = open_album(str(source), 16, False, Quarantine(0.0))
    (codec, params), (role, of_text) = encoders.codec_of(CODEC), encoders.text_of(text)
    rows, kept = [album.row(number) for number in range(12)], [found.picture(number) for number in range(12)]
    assert [tuple(captions) for _, captions in kept] == [captions for _, captions in rows]
    x = np.stack([pixels[..., :3] for pixels, _ in rows]).astype(np.float32) / 127.5 - 1.0
    latents = np.concatenate([array for array, _ in kept])
    np.testing.assert_allclose(latents, jax.jit(codec.encode)(params, x), atol=1e-5)

    prompts = [*NAMES, "a red ring, please", ""]
    tokens = role.tokenize(prompts)
    answer = jax.device_get(jax.jit(role.encode)(of_text, tokens))
    for row, prompt in enumerate(prompts):
        said, length = found.prompt(prompt), int(tokens[row, :, 1].sum())
        assert said.features.shape == (length, 12)
        np.testing.assert_allclose(said.features, answer["features"][row, :length], atol=1e-4)
        np.testing.assert_allclose(said.pooled, answer["pooled"][row], atol=1e-4)
    index = found.index
    assert index["prompts"] == 13 and index["albums"] == [12] and index["text"]["length"] == int(tokens[..., 1].sum(1).max())
    assert abs(index["picture"]["mean"] - latents.mean()) < 1e-5 and abs(index["picture"]["deviation"] - latents.std()) < 1e-5


class Killed(BaseException):
    """As SIGKILL: nothing of the program's own runs any more."""


@pytest.mark.parametrize("at", ("picture", "close", "progress", "index"))
def test_a_killed_encode_goes_on_and_ends_with_the_same_bytes(at, source, text, store, tmp_path, monkeypatch):
    """Killed between two records, between the files of a shard, and before progress or index are written."""
    place = {"picture": "add_picture", "close": "close"}
    calls = []

    def killed(function, after, name=None):
        def call(*args):
            if name is None or Path(args[0]).name == name:
                calls.append(args)
            if len(calls) > after:
                raise Killed
            return function(*args)

        return call

    flags = ("--text", text, "--autoencoder", CODEC, "--dtype", "float32")
    with monkeypatch.context() as patch:
        if at in place:
            patch.setattr(stores.Shard, place[at], killed(getattr(stores.Shard, place[at]), {"picture": 6, "close": 1}[at]))
        else:
            patch.setattr(encode, "write_whole", killed(encode.write_whole, 1 if at == "progress" else 0, f"{at}.json"))
        with pytest.raises(Killed):
            encoded(source, tmp_path / "store", *flags)
    with pytest.raises(UserError, match="config.data.path = .*: is not finished; the `anystep encode` that began it goes on"):
        describe(section(tmp_path / "store"))
    encoded(source, tmp_path / "store", *flags)
    assert {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir() if not file.name.startswith(".")} == {
        file.name: file.read_bytes() for file in store.iterdir()
    }


def test_damaged_pictures_are_left_out_and_noted(source, tmp_path, capsys):
    folder = shutil.copytree(source, tmp_path / "source")
    (folder / "7.png").write_bytes(b"no picture")
    store = encoded(folder, tmp_path / "store", "--autoencoder", CODEC, "--most_bad", "0.1")
    assert stores.read_index(store)["albums"] == [11] and "1 unreadable" in capsys.readouterr().out
    assert ["7.png" in row["name"] for row in logs.read_rows(store / "quarantine.jsonl")] == [True]
    captions = {caption for i in range(11) for caption in stores.Store(store).picture(i)[1]}
    assert captions == {*NAMES, "a red ring, please"} - {NAMES[7]}
    with pytest.raises(UserError, match="1 of 12 pictures cannot be used, more than config.data.most_bad = 0.01 allows"):
        encoded(folder, tmp_path / "other", "--autoencoder", CODEC)


def test_a_finished_store_is_left_alone_and_another_is_refused(source, text, store, capsys):
    before = {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in store.iterdir()}
    flags = ("--text", text, "--autoencoder", CODEC, "--dtype")
    encoded(source, store, *flags, "float32")
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a store that was made with another options"):
        encoded(source, store, *flags, "bfloat16")
    assert before == {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in store.iterdir()}


@pytest.mark.parametrize("dtype, wrong", [("float16", True), ("bfloat16", False), ("float32", False)])
def test_what_a_dtype_cannot_hold_is_refused(dtype, wrong):
    if wrong:
        with pytest.raises(UserError, match="--dtype float16: features reach 7e.04, beyond it; take bfloat16 or float32"):
            encode.stored(np.array([1.0, 7e4]), dtype, "features")
    else:
        assert encode.stored(np.array([1.0, 7e4]), dtype, "features").dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    "flags, said",
    [
        ((), "nothing to encode with"),
        (("--std", "--text", "x"), "--std"),
        (("--autoencoder", "x", "--length", "4"), "--length 4"),
        (("--autoencoder", "x", "--out", "gs://x"), "must be a local folder"),
        (("--autoencoder", str(CODEC), "--size", "15"), "--size 15: must be a multiple of 2"),
        (("--autoencoder", str(FIXTURES / "autoencoder_dcae_conv"), "--std"), "with one latent, not with a distribution"),
        (("--autoencoder", str(FIXTURES / "text_bert")), "class 'BertModel' has no place there"),
        (("--autoencoder", "/nowhere"), "no folder with .safetensors"),
        (("--text", "/nowhere"), "no folder with .safetensors"),
    ],
)
def test_flags_that_do_not_do(flags, said, source, tmp_path):
    with pytest.raises(UserError, match=said):
        encoded(source, tmp_path / "store", *flags)


# What is read


def test_pixels_and_texts_are_the_stream_of_the_pictures(source, text, tmp_path):
    """The same pictures, captions and order as data.kind = "pictures"; for any number of processes, from any position."""
    store = encoded(source, tmp_path / "store", "--text", text)
    kind = pictures(source, size=16, dev_share=0.3)
    for split in ("train", "dev"):
        theirs = take(make_stream(kind, texts, 3, 4, split=split), 6)
        ours = take(make_stream(section(store, dev_share=0.3), texts, 3, 4, split=split), 6)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert describe(section(store, dev_share=0.3), split) == describe(kind, split)
    theirs = take(make_stream(kind, texts, 3, 4), 6)
    late = make_stream(section(store, dev_share=0.3), texts, 3, 4, 1, 2)
    late.set_state({"next_index": 4})
    np.testing.assert_array_equal(next(late)["x0"], theirs[4]["x0"][2:])


def test_several_sources_are_mixed_by_weight(source, tmp_path):
    store = encoded(f"{source},{source}", tmp_path / "store", "--autoencoder", CODEC)
    assert stores.read_index(store)["albums"] == [12, 12] and stores.read_index(store)["prompts"] == 13
    with pytest.raises(UserError, match="config.data.weights = .*: must be 2 numbers, one for each source of the store"):
        config(store, "--config.model.text.encoder=hashed")
    a = take(make_stream(section(store, weights=(1.0, 3.0)), texts, 0, 6), 3)
    both = pictures(source, size=16, weights=(1.0, 3.0))
    both.path *= 2
    b = take(make_stream(both, texts, 0, 6), 3)
    assert [x["cond"]["tokens"].tolist() for x in a] == [x["cond"]["tokens"].tolist() for x in b]


def test_latents_are_drawn_where_their_deviation_was_kept(source, tmp_path):
    store = encoded(source, tmp_path / "store", "--autoencoder", CODEC, "--std", "--dtype", "float32")
    batches = take(make_stream(section(store), crc, 0, 12), 60)
    x0, names = (np.concatenate(column) for column in zip(*((b["x0"], b["cond"]["tokens"]) for b in batches), strict=True))
    found = stores.Store(store)
    for number in range(12):
        mean, deviation = found.picture(number)[0]
        drawn = x0[names == crc(found.picture(number)[1])[0]]
        error = drawn - mean
        assert len(drawn) > 15 and np.abs(error.mean(0) / deviation).max() < 5 / len(drawn) ** 0.5
        assert abs((error / deviation).std() - 1) < 0.05
    again = take(make_stream(section(store), crc, 0, 12), 1)[0]
    np.testing.assert_array_equal(again["x0"], batches[0]["x0"])
