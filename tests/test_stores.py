"""Stores: encoded once, the same bytes however often it was killed; read like the pictures that they were made of; refused when stale."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from folders import crc, pictures, take, texts
from stored import CODEC, FIXTURES, NAMES, bert_folder, captioned, config, encoded, section

from anystep import begin, encode, logs, stores
from anystep.data import describe, make_stream
from anystep.data.albums import open_album
from anystep.data.quarantine import Quarantine
from anystep.errors import UserError
from anystep.nets.text import stored
from anystep.weights import encoders


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with a tiny BERT of random weights and a tokenizer."""
    pytest.importorskip("tokenizers")
    return bert_folder(tmp_path_factory.mktemp("text"), 0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return captioned(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def store(source, text, tmp_path_factory):
    return encoded(source, tmp_path_factory.mktemp("made") / "store", "--text", text, "--autoencoder", CODEC, "--dtype", "float32")


# What is written


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "at", [pytest.param(at, marks=pytest.mark.slow) if at != "close" else at for at in ("picture", "close", "progress", "index")]
)
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ("flux_dev", "sana_flow"))
def test_a_pipeline_gives_both_encoders(pipeline, source, tmp_path):
    """FLUX has two text encoders and a pooled vector and reads its padding, SANA hands on a part of what Gemma says."""
    folder = FIXTURES / f"pipeline_{pipeline}"
    store = stores.Store(encoded(source, tmp_path / "store", "--pipeline", folder, "--dtype", "float32"))
    role, params = encoders.text_of(folder)
    prompts = [NAMES[4], "a red ring, please", ""]
    want, found = (jax.device_get(jax.jit(r.encode)(p, r.tokenize(prompts))) for r, p in ((role, params), (stored.build(store), {})))
    length = found["mask"].shape[1]
    assert set(found) == set(want) and not want["mask"][:, length:].any()
    np.testing.assert_array_equal(found["mask"], want["mask"][:, :length])
    np.testing.assert_allclose(found["features"], np.where(want["mask"][..., None], want["features"], 0)[:, :length], atol=1e-4)
    np.testing.assert_allclose(found.get("pooled", 0), want.get("pooled", 0), atol=1e-4)
    describe(section(store.folder, pipeline=str(folder), autoencoder=str(folder)))
    describe(section(store.folder, autoencoder=str(folder / "vae")))
    with pytest.raises(UserError, match="config.data.pipeline = .*: the store .* was made with another text"):
        describe(section(store.folder, pipeline=str(FIXTURES / "pipeline_sana_sprint")))


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


@pytest.mark.slow
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


@pytest.mark.slow
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


STALE = {
    "unfinished": (lambda store: (store / "index.json").rename(store / "progress.json"), "is not finished"),
    "none": (lambda store: (store / "index.json").unlink(), "is no store"),
    "no JSON": (lambda store: (store / "index.json").write_text("{"), "not an index of a store"),
    "no object": (lambda store: (store / "index.json").write_text("3"), "not an index of a store"),
    "version": (lambda store: edit(store, version=7), "version 7, known is 1"),
    "index": (lambda store: edit(store, albums=[11]), "not what was written"),
    "missing": (lambda store: (store / "00001.pictures.array_record").unlink(), "00001.pictures.array_record: is missing"),
    "short": (lambda store: cut(store / "00001.prompts.array_record"), "bytes of"),
    "flipped": (lambda store: flip(store / "00001.pictures.array_record"), "another digest"),
    "table": (lambda store: flip(store / "00000.table.npz"), "another digest"),
    "swapped": (
        lambda store: shutil.copy(store / "00000.pictures.array_record", store / "00002.pictures.array_record"),
        "00002.pictures.array_record: not what the index says",
    ),
}


def edit(store, **changes):
    file = store / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("what", STALE)
def test_a_stale_store_is_one_line_before_a_device_is_touched(what, store, tmp_path, monkeypatch):
    folder, (spoil, said) = shutil.copytree(store, tmp_path / "store"), STALE[what]
    asked = config(folder)
    spoil(folder)
    monkeypatch.setattr(jax, "devices", None)
    with pytest.raises(UserError, match=said) as error:
        begin.check(begin.pinned(asked), tmp_path / "run", [], ())
    assert "\n" not in str(error.value)


def test_a_store_of_other_encoders_is_refused(text, store, tmp_path):
    """A pipeline by its parts; an encoder with one more byte is another."""
    pipe = tmp_path / "pipe"
    shutil.copytree(CODEC, pipe / "vae")
    with pytest.raises(UserError, match="config.data.autoencoder = .*: the store .* was made with another autoencoder"):
        begin.check(config(store, f"--config.data.autoencoder={FIXTURES / 'autoencoder_kl_bare'}"), tmp_path, [], ())
    begin.check(config(store, f"--config.data.autoencoder={CODEC}"), tmp_path, [], ())
    other = shutil.copytree(text, tmp_path / "text")
    assert stores.digest_of(other, stores.TEXT) == stores.digest_of(text, stores.TEXT) == stores.read_index(store)["made_with"]["text"]
    (other / "tokenizer_config.json").write_text((other / "tokenizer_config.json").read_text() + " ")
    with pytest.raises(UserError, match="config.data.pipeline = .*: the store .* was made with another text"):
        begin.check(config(store, f"--config.data.pipeline={other}"), tmp_path, [], ())
