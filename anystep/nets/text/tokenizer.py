"""The built-in tokenizer: words to pairs of hashes. No vocabulary file, every word of every language has a place.

A word is looked up in two places of one table (its two hashes) and the two rows are added, a Bloom embedding (1706.03993): two words are
confused only if both hashes collide, so 2,048 rows keep tens of thousands of words apart.
"""

import functools
import hashlib
import re

import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError

START = 1  # 0 is padding, 1 opens every prompt, so that the null prompt "" has one token to attend to
FIRST = 2
LIMIT = 1000  # characters of one prompt
WORD = re.compile(r"\w+|[^\w\s]")


def tokenize(prompts, vocabulary, length):
    """list of str -> int32 [N, length, 2]; row 0 of the last axis is 0 where the prompt has ended. Words past `length` - 1 are dropped.

    Raises UserError for a prompt that is not text, is longer than 1,000 characters, or holds a NUL.
    """
    out = np.zeros((len(prompts), length, 2), np.int32)
    out[:, 0, :] = START
    for row, prompt in enumerate(prompts):
        check(prompt)
        words = WORD.findall(prompt.lower())[: length - 1]
        for column, word in enumerate(words, start=1):
            out[row, column] = hashes(word, vocabulary)
    return out


def prepend(words, tokens, vocabulary):
    """`tokenize` of "<words> <prompt>" from the tokens [N, length, 2] of the prompt, which may be traced."""
    length = tokens.shape[1]
    said = tokenize([words], vocabulary, length)
    count = int(np.count_nonzero(said[0, :, 0])) - 1
    said = jnp.broadcast_to(said[:, 1 : 1 + count], (tokens.shape[0], count, 2))
    return jnp.concatenate([tokens[:, :1], said, tokens[:, 1 : length - count]], axis=1)


@functools.lru_cache(maxsize=65536)
def hashes(word, vocabulary):
    """Two independent rows of the table, the same in every process and on every machine."""
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return tuple(FIRST + int.from_bytes(half, "big") % (vocabulary - FIRST) for half in (digest[:8], digest[8:]))


def check(prompt, limit=LIMIT):
    """Refuses what no encoder should see, in one line."""
    if not isinstance(prompt, str):
        raise UserError(f"prompt: expected text, got {type(prompt).__name__}")
    if len(prompt) > limit:
        raise UserError(f"prompt: {len(prompt)} characters, allowed 0 to {limit}: {prompt[:40]!r}...")
    if "\0" in prompt:
        raise UserError(f"prompt: contains a NUL character: {prompt[:40]!r}")
