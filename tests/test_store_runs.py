"""Training from a store, and with a text encoder that is not trained: what is learned, saved, gone on with and drawn."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image
from stored import CODEC, FIXTURES, NAMES, bert_folder, captioned, config, encoded

import anystep
from anystep import api, begin, ckpt, logs, steer_train, steering, stores, train, weights
from anystep import config as configs
from anystep.data import make_stream
from anystep.errors import UserError
from anystep.models import frozen_text
from anystep.nets.build import build_models, trained_roles
from anystep.objectives import mix
from anystep.optim import make_optimizer
from anystep.state import init_state
from anystep.subjects import to_uint8
from anystep.train_step import abstract_batch, make_train_step
from anystep.types import Roles
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


def test_dropped_rows_see_the_null_prompt_and_the_others_their_own(store):
    asked = config(store)
    models = build_models(asked)
    role = models["text"]
    prompts = NAMES[:8]
    batch = {"x0": jnp.zeros((8, 8, 8, 4)), "index": jnp.arange(8), "cond": {"tokens": role.tokenize(prompts)}}
    roles = Roles({"net": {}, "text": {}}, {"net": {}, "text": {}}, {"text": {}}, {})
    seen = jax.jit(lambda batch: mix.prepare(models, roles, batch, jax.random.key(0), 0, 0.5))(batch)
    dropped = np.asarray(seen["dropped"])
    assert 0 < dropped.sum() < 8
    for row, prompt in enumerate(prompts):
        want = role.tokenize(["" if dropped[row] else prompt])
        for name in ("features", "mask", "pooled"):
            np.testing.assert_array_equal(seen["cond"][name][row], want[name][0])
            np.testing.assert_array_equal(seen["null"][name][row], role.tokenize([""])[name][0])
            np.testing.assert_array_equal(seen["ema_cond"][name], seen["cond"][name])


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A run of six steps."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--config.train.sample_every=6", f"--config.data.autoencoder={CODEC}"]
    asked = config(store, *flags)
    assert not train.train(asked, str(workdir), "", 0.0)
    return workdir


@pytest.mark.slow
def test_a_run_on_a_store_learns_saves_resumes_and_draws(run, store, text, tmp_path, capsys):
    losses = [row["loss"] for row in logs.read_rows(run / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 6 and np.isfinite(losses).all() and (run / "samples" / "6.png").stat().st_size > 500
    (model, params), (_, loaded) = anystep.load(run), anystep.load(run / "model")
    jax.tree.map(np.testing.assert_array_equal, params, loaded)
    assert params["text"] == {} and params["codec"]
    drawn = anystep.sample(model, params, [NAMES[3], ""], steps=2)
    assert drawn.shape == (2, 16, 16, 3) and drawn.dtype == np.uint8

    with pytest.raises(UserError, match=r"prompt 'a blue ring': is not among the 13 of the store .*; anystep.load\(\.\.\., text=FOLDER\)"):
        anystep.sample(model, params, ["a blue ring"])
    free, own = anystep.load(run, text=text)
    both = anystep.sample(free, own, [NAMES[3], "a blue ring"], steps=2)
    np.testing.assert_allclose(both[0].astype(int), drawn[0], atol=1)  # the prompt's padding is longer
    assert (both[0] != both[1]).any()
    with pytest.raises(UserError, match="text = .*: the store .* was made with another text"):
        anystep.load(run, text=FIXTURES / "text_bert")


@pytest.mark.long
def test_a_classifier_of_a_run_on_a_store_wants_its_words(run, text, tmp_path, capsys):
    for number in range(80):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    shown = [{"image": f"{number}.png", "subject": "ring", "relation": "left", "object": "square"} for number in range(80)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, shown)))
    few = ["--model", str(run), "--out", str(tmp_path / "made"), "--source", "noised", "--data", str(tmp_path / "data.jsonl")]
    few += ["--rows", "8", "--train", "2", "--batch", "4", "--layers", "0"]
    with pytest.raises(UserError, match="--model .*: its prompts are features without words, --text FOLDER brings the encoder"):
        steer_train.main(few)
    steer_train.main([*few, "--text", str(text)])
    made = json.loads((tmp_path / "made" / "config.json").read_text())
    assert made["things"] == ["ring", "square"] and made["report"]["examples"] == 8 and "mismatching" in capsys.readouterr().out
    model, params = anystep.load(run, text=text)
    found = api.sample_and_say(model, params, ["a ring left of a square"], 1, steer=steering.load(tmp_path / "made", model, until=0.999))[1]
    assert found["steering"]["looks"].shape == (1, 1) and found["steering"]["looks"][0, 0] >= 1


@pytest.mark.slow
def test_a_run_on_a_store_goes_on_bit_for_bit_and_not_on_another_store(run, store, source, text, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "6")
    (workdir / "model" / "weights.safetensors").unlink()
    moved = shutil.copytree(store, tmp_path / "moved")
    asked = config(moved, "--config.train.sample_every=6")
    assert not train.train(asked, str(workdir), "", 0.0)
    assert (workdir / "model" / "weights.safetensors").read_bytes() == (run / "model" / "weights.safetensors").read_bytes()
    assert not ckpt.main(["export", str(workdir), "--out", str(tmp_path / "out")])
    jax.tree.map(np.testing.assert_array_equal, anystep.load(tmp_path / "out")[1], anystep.load(workdir)[1])
    other = encoded(source, tmp_path / "other", "--text", text, "--autoencoder", CODEC)
    with pytest.raises(UserError, match="was begun with another config .config.data.key: "):
        train.train(config(other, "--config.train.sample_every=6"), str(workdir), "", 0.0)


def test_latents_without_an_autoencoder_show_their_first_channels():
    x = np.zeros((1, 2, 2, 4), np.float32)
    x[..., 0], x[..., 3] = 2.0, -9.0
    assert to_uint8(x).shape == (1, 2, 2, 3) and to_uint8(x)[0, 0, 0].tolist() == [255, 128, 128]


# Text encoders that are not trained


def frozen(folder, *more):
    flags = ("--config.model.text.encoder=minilm", f"--config.model.text.folder={folder}", "--config.model.text.length=12")
    flags += ("--config.objective.consistency.share=0", "--config.model.depth=1", "--config.optim.name=adamw")
    return tiny.config("shapes", folder, *flags, *more)


def test_a_pretrained_encoder_is_neither_trained_nor_saved(text):
    asked = frozen(text)
    models = build_models(asked)
    optimizers = {role: make_optimizer(asked.optim, 6) for role in trained_roles(asked)}
    state = jax.eval_shape(lambda: init_state(models, optimizers, 0))
    assert set(state.params) == {"net"} == set(state.ema["main"]) == set(state.opt)
    tokens = next(make_stream(asked.data, models["text"].tokenize, 0, 8))["cond"]["tokens"]
    batch = abstract_batch(asked, models)
    assert batch["cond"]["tokens"].shape == tokens.shape == (8, 12, 2)
    step = make_train_step(asked, models, optimizers)
    after, metrics = jax.eval_shape(step, state, {"text": frozen_text(asked)}, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert "grad_norm/net" in metrics and "grad_norm/text" not in metrics


@pytest.mark.slow
def test_an_encoder_is_read_as_its_peer_says_and_pinned_by_its_digest(text, tmp_path):
    asked = begin.pinned(frozen(text))
    assert asked.model.text.digest == stores.digest_of(text, stores.TEXT) and begin.pinned(asked) == asked
    role, params = encoders.text_of(text, length=12)
    tokens, mine = role.tokenize(["a red ring", ""]), build_models(asked)["text"]
    np.testing.assert_array_equal(mine.tokenize(["a red ring", ""]), tokens)
    np.testing.assert_array_equal(
        jax.jit(mine.encode)(frozen_text(asked), tokens)["features"], jax.jit(role.encode)(params, tokens)["features"]
    )
    other = bert_folder(tmp_path / "other", 1)
    wrong = configs.from_dict(configs.flatten(asked.to_dict()) | {"model.text.folder": str(other)})
    with pytest.raises(UserError, match="holds another encoder than the one that the model was trained with"):
        frozen_text(wrong)
    moved = begin.pinned(frozen(shutil.copytree(text, tmp_path / "moved")))
    (tmp_path / "config.json").write_text(json.dumps(asked.to_dict()))
    begin.check(moved, tmp_path, [1], ())
    with pytest.raises(UserError, match="was begun with another config .config.model.text.digest: "):
        begin.check(begin.pinned(frozen(other)), tmp_path, [1], ())


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--config.model.text.encoder=stored",), "config.model.text.encoder = 'stored' .*: must be hashed or minilm without"),
        (("--config.model.text.folder=x",), "config.model.text.folder = 'x' .*: must be '' for"),
        (("--config.model.text.encoder=minilm", f"--config.model.text.folder={FIXTURES / 'text_t5'}"), "must hold a BertModel"),
    ],
)
def test_text_encoders_that_do_not_do(flags, said, tmp_path):
    with pytest.raises(UserError, match=said):
        build_models(tiny.config("shapes", tmp_path, *flags))


@pytest.mark.slow
def test_a_run_with_a_pretrained_encoder_is_saved_without_it_and_draws(text, tmp_path):
    asked = frozen(text, "--config.train.steps=2", "--config.checkpoint.every=1", "--config.eval.sampler=euler", "--config.eval.ask=now")
    assert not train.train(asked, str(tmp_path / "run"), "", 0.0)
    saved, params = weights.load_folder(tmp_path / "run" / "model")
    assert set(params) == {"net"} and saved["model"]["text"]["digest"]
    (model, params), (_, again) = anystep.load(tmp_path / "run"), anystep.load(tmp_path / "run" / "model")
    assert set(params) == {"net", "text"}
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert anystep.sample(model, params, ["a red ring", "a red ring"], steps=2).shape == (2, 16, 16, 3)
