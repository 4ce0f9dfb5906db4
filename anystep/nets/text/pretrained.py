"""Tokenizers that come with pretrained encoders, and the Text role around one.

A folder's tokenizer.json, or CLIP's vocab.json and merges.txt, is read by `tokenizers`; a sentencepiece model by `sentencepiece`. Both are
imported where they are needed (pip install anystep[text]). Tokens are int32 [N, length, 2]: ids, and 1 where there is text, since the id
of padding may be a word's (SD 2) or that of the end (CLIP-L).
"""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anystep.errors import UserError
from anystep.nets.text.tokenizer import check
from anystep.types import Text

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # what CLIP calls a word
LONGEST = 8000  # characters of a prompt: more than 512 tokens of any language
PROBES = ("", "a red ring", "two blue squares, please")


class Tokenizer(NamedTuple):
    """Texts to ids, and what is put around them."""

    ids: Callable[[list[str]], list[list[int]]]  # without opening and closing tokens, not cut
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    padding: int


def read(folder) -> Tokenizer:
    """The tokenizer of a folder as transformers writes it. UserError where there is none, or its library is not installed."""
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        return read_json(folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return read_clip(folder)
    for name in ("spiece.model", "tokenizer.model"):
        if (folder / name).is_file():
            return read_pieces(folder / name)
    files = "tokenizer.json, vocab.json with merges.txt, spiece.model or tokenizer.model"
    raise UserError(f"{folder}: has no tokenizer, expected {files}")


def read_json(folder):
    file = folder / "tokenizer.json"
    found = opened(file, library("tokenizers", folder).Tokenizer.from_file)
    padding = (found.padding or {}).get("pad_id")
    found.no_truncation()
    found.no_padding()
    around = found.encode("a").special_tokens_mask
    first = around.index(0)
    ids = found.encode("a").ids
    last = first + around.count(0)
    return Tokenizer(plain(found), tuple(ids[:first]), tuple(ids[last:]), padding_of(folder, found.token_to_id, padding))


def read_clip(folder):
    """CLIP's byte pairs, lower-cased, ends of words marked (2103.00020, Sec. 2.4)."""
    t = library("tokenizers", folder)
    vocabulary = read_settings(folder / "vocab.json")
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text("utf-8").splitlines() if line and not line.startswith("#v")]
    model = t.models.BPE(vocabulary, merges, unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>")
    found = t.Tokenizer(model)
    found.normalizer = t.normalizers.Sequence([t.normalizers.NFC(), t.normalizers.Replace(t.Regex(r"\s+"), " "), t.normalizers.Lowercase()])
    words = t.pre_tokenizers.Split(t.Regex(CLIP_WORDS), "removed", invert=True)
    found.pre_tokenizer = t.pre_tokenizers.Sequence([words, t.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    end = vocabulary[END]
    padding = padding_of(folder, vocabulary.get, end)
    found.add_special_tokens([START, END, found.id_to_token(padding)])  # SD 2.x pads with "!", which is then never a word
    return Tokenizer(plain(found), (vocabulary[START],), (end,), padding)


def read_pieces(file):
    """T5's spiece.model closes a text with its end, Gemma's tokenizer.model opens it with its start, unless the folder says otherwise."""
    pieces = library("sentencepiece", file.parent)
    found = opened(file, lambda name: pieces.SentencePieceProcessor(model_file=name))
    settings = read_settings(file.with_name("tokenizer_config.json"))
    opening = (found.bos_id(),) if settings.get("add_bos_token", file.name == "tokenizer.model") else ()
    closing = (found.eos_id(),) if settings.get("add_eos_token", file.name == "spiece.model") else ()
    padding = found.pad_id() if found.pad_id() >= 0 else None
    return Tokenizer(lambda texts: found.encode(texts), opening, closing, padding_of(file.parent, found.piece_to_id, padding))


def plain(tokenizer):
    return lambda texts: [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


def padding_of(folder, id_of, otherwise):
    """The id of the token that the folder pads with, else `otherwise`. The map of older files (SD 2.x) overrules the other, as in
    transformers."""
    files = ["special_tokens_map.json", "tokenizer_config.json"]
    if "added_tokens_decoder" in read_settings(folder / files[1]):
        files.reverse()
    for name in files:
        token = read_settings(folder / name).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None and id_of(token) is not None:
            return id_of(token)
    if otherwise is None:
        raise UserError(f"{folder}: its tokenizer has no padding token, expected pad_token in tokenizer_config.json")
    return otherwise


def read_settings(file):
    """A JSON object, {} where there is no file."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: must be a JSON object")
    return found


def opened(file, read_file):
    """What `read_file` makes of a file; its library's own exceptions have no common type."""
    try:
        return read_file(str(file))
    except Exception as error:
        raise UserError(f"{file}: not a tokenizer ({error})") from None


def library(name, folder):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise UserError(f"{folder}: this tokenizer needs {name}, which is not installed: pip install anystep[text]") from None


def pad(tokenizer, texts, length):
    """list of str -> int32 [N, length, 2]; a text that is too long is cut, its closing tokens stay."""
    out = np.zeros((len(texts), length, 2), np.int32)
    out[..., 0] = tokenizer.padding
    room = length - len(tokenizer.opening) - len(tokenizer.closing)
    for row, ids in enumerate(tokenizer.ids(texts)):
        whole = [*tokenizer.opening, *ids[:room], *tokenizer.closing]
        out[row, : len(whole), 0] = whole
        out[row, : len(whole), 1] = 1
    return out


def role(init, of_tokens, tokenizer, length, worded=lambda prompt: prompt) -> Text:
    """A Text of `of_tokens`(params, ids [B, L], mask [B, L] bool) -> {"features", "mask", ...}; `worded` is what is said for a prompt."""

    def tokenize(prompts):
        for prompt in prompts:
            check(prompt, LONGEST)
        return pad(tokenizer, [worded(prompt) for prompt in prompts], length)

    def encode(params, tokens):
        return of_tokens(params, tokens[..., 0], tokens[..., 1] > 0)

    def prepend(words, tokens):
        with jax.ensure_compile_time_eval():
            for probe in PROBES:
                if not np.array_equal(put_before(tokenizer, words, jnp.asarray(tokenize([probe]))), tokenize([f"{words} {probe}"])):
                    raise NotImplementedError(
                        f"{words!r} cannot be put before a prompt that is already tokens: this tokenizer reads the first word of a text"
                        " differently, or the prompt stands behind an instruction"
                    )
        return put_before(tokenizer, words, tokens)

    return Text(init, tokenize, jax.named_call(encode, name="text"), prepend)


def put_before(tokenizer, words, tokens):
    """tokens [N, L, 2] with those of `words` behind the opening ones; a prompt that no longer fits is closed anew."""
    length, first, last = tokens.shape[1], len(tokenizer.opening), len(tokenizer.closing)
    said = tokenizer.ids([words])[0][: length - first - last]
    kept = length - len(said)

    def attended(ids):
        pairs = np.array([(i, 1) for i in ids], np.int32).reshape(1, -1, 2)
        return jnp.broadcast_to(pairs, (tokens.shape[0], *pairs.shape[1:]))

    moved = jnp.concatenate([tokens[:, :first], attended(said), tokens[:, first:kept]], axis=1)
    if not said or not last:
        return moved
    full = tokens[:, kept, 1] > 0
    closed = jnp.where(full[:, None, None], attended(tokenizer.closing), moved[:, length - last :])
    return jnp.concatenate([moved[:, : length - last], closed], axis=1)
