"""A prompt to words, words to noun phrases, and what may stand between a subject and its relation.

A noun is whatever is in no list of `words`. Where only a dictionary could tell a verb from a noun ("a man holding scissors", "a blue
recycling bin") there is no noun phrase, unless the word is listed.
"""

import re
from typing import NamedTuple

from anystep.relations import words as w

_QUOTED = r'"[^"\n]*"|“[^”\n]*”|(?<!\w)\'[^\'\n]+\'(?!\w)'
_TOKEN = re.compile(rf"{_QUOTED}|\w+(?:['’-]\w+|[.,]\d+)*|[^\w\s]|\n")


class Token(NamedTuple):
    text: str
    low: str  # lower case, plain apostrophe; a quotation is '"'
    start: int
    end: int


class Noun(NamedTuple):
    tokens: tuple[Token, ...]
    bare: bool  # neither determiner nor number nor plural nor name
    picture: bool  # "the image", "the middle of the picture"

    @property
    def text(self):
        return " ".join(token.text for token in self.tokens)

    @property
    def span(self):
        return self.tokens[0].start, self.tokens[-1].end


def tokens_of(prompt):
    """The words, marks and quotations (one token each) of a prompt."""
    for match in _TOKEN.finditer(prompt):
        text = match[0]
        low = '"' if len(text) > 1 and text[0] in "\"“'" else text.lower().replace("’", "'")
        yield Token(text, low, *match.span())


def said(tokens):
    """The tokens as a note quotes them."""
    return '"' + " ".join(token.text for token in tokens) + '"'


def noun_phrase(tokens, plurals=False):
    """(noun phrase or None, what follows it) of a noun phrase that begins the tokens. `plurals`: its verb may be "stand"."""
    head = _core(tokens, plurals)
    if head is None:
        return None, tokens
    first, last, determined = head
    if last < len(tokens) and tokens[last].low == "of" and (complement := _core(tokens[last + 1 :], plurals)):
        last += 1 + complement[1]
    words = tokens[first:last]
    named = words[0].text[0].isupper() and words[0].start > 0
    picture = tokens[last - 1].low in w.FRAMES and last > 1 and tokens[last - 2].low in ("the", "this")
    return Noun(tuple(words), not (determined or named or plural(words[-1])), picture), tokens[last:]


def _core(tokens, plurals):
    """(first, last + 1, has a determiner or number) of [determiners] words, or None."""
    first = 0
    while first < len(tokens) and tokens[first].low in w.DETERMINERS:
        first += 1
    start = first
    while start < len(tokens) and (tokens[start].low in w.HOLLOW or tokens[start].low.isdecimal()):
        start += 1
    if start < len(tokens) and not start and _verb_form(tokens[0].low):
        return None  # "and flying": a determiner would make it "a flying kite"
    last = start
    while last < len(tokens) and not _ends(tokens, start, last, plurals):
        last += 1
    if start < last < len(tokens) and _verb_form(tokens[last].low) and _follows(tokens, last):
        return None  # "a man holding scissors" or "a blue recycling bin"?
    if last < len(tokens) and tokens[last].low in w.ARTICLES | w.OWNERS:  # "a man rides | a horse": what stands before "a" is a verb
        last -= 1
    if last - start > 1 and start and tokens[start - 1].low in w.SINGULAR and plural(tokens[last - 1]):
        last -= tokens[last - 1].low not in w.PAIRS  # "a cat jumps"
    while last > start and (tokens[last - 1].low in w.SIDES or _adverb(tokens[last - 1].low)):
        last -= 1
    while last > start + 1 and _verb_form(tokens[last - 1].low):
        last -= 1
    return (first, last, start > 0) if last > start else None


def _ends(tokens, start, i, plurals):
    """Whether token i is no longer in the noun phrase that began at `start`."""
    low, follows = tokens[i].low, _follows(tokens, i)
    if low in w.STOP or not _is_word(tokens[i]):
        return True
    if i == start:
        return low.isdecimal()
    if low in w.PRESENT | w.PAST | w.PARTICIPLES or _verb_form(low):
        return not (follows and low in w.ING_MODIFIERS)
    if low in w.PLURAL_PRESENT and not follows:
        return plurals or plural(tokens[i - 1])
    if low.endswith("ed") and re.search("[aeiouy]", low[:-2]) and not low.endswith("eed") and low not in w.ED_NOUNS:
        return not follows
    return plural(tokens[i - 1]) and tokens[i - 1].low not in w.S_MODIFIERS  # "cats | watch dogs"


def _follows(tokens, i):
    """Whether a word that may be a noun follows token i."""
    after = tokens[i + 1] if i + 1 < len(tokens) else None
    return bool(after) and _is_word(after) and after.low not in w.STOP | w.SIDES and not _adverb(after.low)


def _verb_form(low):
    """Whether it looks like "holding"; not "ring", not "painting"."""
    return low.endswith("ing") and bool(re.search("[aeiouy]", low[:-3])) and low not in w.ING_NOUNS


def _adverb(low):
    return len(low) > 4 and low.endswith("ly") and low not in w.LY_NOUNS


def _is_word(token):
    return token.low == '"' or token.low[0].isalnum()


def plural(token):
    """Whether it looks like a plural; a name such as Times does not."""
    low = token.low
    return not token.text[0].isupper() and len(low) > 3 and low.endswith("s") and low[-2:] not in ("ss", "us", "is", "as", "os", "'s")


def verb_tail(tokens):
    """One of "relative", "finite" and "" for what may stand between a subject and its phrase; None for what may not."""
    kind = ""
    for i, token in enumerate(tokens):
        low, after = token.low, tokens[i + 1].low if i + 1 < len(tokens) else ""
        if i == 0 and low in w.RELATIVES:
            kind = "relative"
        elif low in w.AUXILIARIES | w.PRESENT | w.PAST | w.PLURAL_PRESENT:
            infinite = low in ("be", "being", "been") or (i and tokens[i - 1].low == "to")
            kind = kind or ("" if infinite else "finite")
        elif not (low in w.PARTICIPLES | w.ADVERBS or _adverb(low) or (low == "to" and after == "be")):
            return None
    return kind
