"""The built-in prompt encoder: padding is invisible, words keep apart, bad prompts are refused in one line."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from anystep.errors import UserError
from anystep.nets import text
from anystep.nets.text.tokenizer import tokenize
from anystep.shapes.caption import NUMBERS
from anystep.shapes.scene import RELATIONS
from anystep.shapes.silhouette import COLORS, SILHOUETTES

PROMPTS = ["", "a red ring", "two blue squares, please"]


@pytest.mark.slow
def test_padding_changes_no_feature_of_a_real_token():
    long, short = toys.tiny_text(), text.build(**{**toys.TEXT, "length": 5})
    params = toys.random_params(long)
    full = long.encode(params, jnp.asarray(long.tokenize(PROMPTS[:2])))
    cut = short.encode({**params, "positions": params["positions"][:5]}, jnp.asarray(short.tokenize(PROMPTS[:2])))
    for row, words in ((0, 1), (1, 4)):
        assert full["mask"][row].sum() == words
        np.testing.assert_allclose(full["features"][row, :words], cut["features"][row, :words], atol=1e-5)


@pytest.mark.slow
def test_null_prompt_and_word_order():
    encoder = toys.tiny_text()
    params = toys.random_params(encoder)
    null = encoder.encode(params, jnp.asarray(encoder.tokenize([""])))
    assert null["mask"].tolist() == [[True] + [False] * 5] and np.isfinite(null["features"]).all()
    assert null["features"].shape == (1, 6, 16) and null["features"].dtype == jnp.float32
    there, back = encoder.encode(params, jnp.asarray(encoder.tokenize(["red above blue", "blue above red"])))["features"]
    assert np.abs(there[0] - back[0]).max() > 1e-3


def vocabulary():
    names = [*COLORS, *SILHOUETTES, *NUMBERS.values()]
    plural = [f"{name}{'es' if name.endswith('s') else 's'}" for name in SILHOUETTES]
    return sorted({*names, *plural, *" ".join(RELATIONS).split(), *"a an and the to there is are photo picture of 2 3".split()})


def test_tokens_of_the_shapes_world_do_not_collide():
    words = vocabulary()
    pairs = tokenize(words, 2048, 3)[:, 1]
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(words) > 30
    assert pairs.min() >= 2 and pairs.max() < 2048  # 0 is padding, 1 the start


@pytest.mark.slow
def test_tokens_do_not_depend_on_the_process():
    code = "from anystep.nets.text.tokenizer import tokenize; print(tokenize(['a Red ring, ü'], 2048, 8).tolist())"

    def printed_by(seed):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)

    printed = {printed_by(seed).stdout for seed in "12"}
    assert printed == {f"{tokenize(['a red  RING , ü'], 2048, 8).tolist()}\n"}


def test_long_prompts_are_cut():
    assert (tokenize(["one two three four five"], 64, 4) == tokenize(["one two three"], 64, 4)).all()


@pytest.mark.parametrize("prompt, word", [(None, "NoneType"), (3, "int"), ("x" * 1001, "1001"), ("a\0b", "NUL")])
def test_bad_prompts(prompt, word):
    with pytest.raises(UserError, match=word) as error:
        tokenize(["fine", prompt], 64, 4)
    assert "\n" not in str(error.value) and "prompt" in str(error.value)


@pytest.mark.parametrize("prompt", ["", "a ring", "one two three four five six seven"])
def test_words_are_said_before_a_prompt(prompt):
    encoder = text.build(vocabulary=64, length=6, width=16, depth=1, heads=2)
    said = jax.jit(lambda tokens: encoder.prepend("fake image", tokens))(encoder.tokenize([prompt]))
    np.testing.assert_array_equal(said, encoder.tokenize([f"fake image {prompt}"]))
