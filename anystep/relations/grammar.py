"""A prompt to its relations.

    prompt   = sentence { "." sentence }          sentence = [prefix] clause { ("," | "and" | "while") clause }
    prefix   = [article] [adjectives] ("photo" | "image" | ...) ("of" | "showing" | ...)  |  "there is"  |  "draw" ...
    clause   = subject tail PHRASE object { link PHRASE object }
    subject  = object = noun phrase = [determiners] words ["of" [determiners] words]
    tail     = [("that" | "which" | "who")] [verbs that only place a thing] [adverbs]

Whose relation the second one is, the link decides:

    A left of B above C           B, the nearest noun; so with "that is above" and "sitting above"
    A left of B and above C       A: "and" or a comma joins two relations of one thing; with "which is above" after the comma it is B
    A left of B is above C        A, the subject of the verb
    A left of B, C above D        C: a noun after "and" or a comma begins a clause
    A above and left of B         A twice, B twice
    A left of B above C and near D    A or B: not told, not guessed

What both readings of a sentence share is told: "A left of B and C" is (A, left, B). A relation with anything unknown about it (a clause
between subject and phrase, a negation, "or", a pronoun, "and" inside of an object as in "a black and white dog", a place in the picture
such as "on the left of the image") is left out, and a note says so. A thing named twice has two noun phrases, each with its own span.
"""

from typing import NamedTuple

from anystep.relations import words as w
from anystep.relations.nouns import Token, noun_phrase, plural, said, tokens_of, verb_tail

_END = frozenset(".;:!?\n")


class Relation(NamedTuple):
    """`subject` stands `word` ("left", "right", "above", "below", "near") of `object`: noun phrases without determiners, as written, one
    space between words. The spans are [first, last) characters of the prompt."""

    subject: str
    word: str
    object: str
    subject_span: tuple[int, int]
    object_span: tuple[int, int]


class Reading(NamedTuple):
    """The relations of a prompt in its order, and a line for each thing that was not understood or where nothing was found."""

    relations: list[Relation]
    notes: list[str]


class _Refused(Exception):
    """Why a relation is left out."""


def relations(prompt: str) -> list[Relation]:
    """The relations of a prompt; see `read` for what was left out."""
    return read(prompt).relations


def read(prompt: str) -> Reading:
    """The relations of a prompt, and notes on what it says of places that is none, or not understood."""
    found, notes, sentence = [], [], []
    for token in [*tokens_of(prompt), Token(".", ".", len(prompt), len(prompt))]:
        if token.low in _END:
            _sentence(sentence, found, notes)
            sentence = []
        else:
            sentence.append(token)
    return Reading(found, notes or ([] if found else ["says nothing of left, right, above, below or near"]))


# ---------------------------------------------------------------- phrases
def _phrases(tokens):
    """(first, last + 1, word) of each phrase of a relation, the longest at each place."""
    out, i = [], 0
    while i < len(tokens):
        for n in range(min(w.LONGEST, len(tokens) - i), 0, -1):
            text = " ".join(token.low for token in tokens[i : i + n])
            word = next((word for word, phrase in w.PHRASES.items() if phrase.fullmatch(text)), None)
            if word and _is_preposition(tokens, i, i + n, text):
                out.append((i, i + n, word))
                i += n
                break
        else:
            i += 1
    return out


def _is_preposition(tokens, i, j, text):
    before = tokens[i - 1].low if i else ""
    after = tokens[j].low if j < len(tokens) else ""
    if text == "by":  # "is by the door"; not "painted by", not "by night"
        return before in w.POSTURES and after in w.DETERMINERS | w.NUMBERS
    return before not in w.DETERMINERS  # "the above picture", "a near miss", "the right of a child"


def _is_place(tokens, i):
    """Whether token i is "left" in "on the left", "to its left"."""
    before = [token.low for token in tokens[max(i - 2, 0) : i]]
    return tokens[i].low in w.PLACES and any(low in ("on", "at", "to", "in") for low in before)


# ---------------------------------------------------------------- sentences
class _Clause:
    """Of whom relations were told since the last noun that began a clause; empty where that is not known."""

    def __init__(self, *subjects):
        self.head = subjects[0] if subjects else None
        self.subjects = list(subjects)


def _sentence(tokens, found, notes):
    finds = _phrases(tokens)
    if not finds:
        where = next((i for i, token in enumerate(tokens) if token.low in w.ELSEWHERE or _is_place(tokens, i)), None)
        notes += [f"{said(tokens[where : where + 1])} in {said(tokens)}: not understood"] if where is not None else []
        return
    edges = [0, *(edge for i, j, _ in finds for edge in (i, j)), len(tokens)]
    gaps = [tokens[i:j] for i, j in zip(edges[::2], edges[1::2], strict=True)]
    opening, prefix_of = _prefix(gaps[0])
    gaps[0] = gaps[0][opening:]
    objects = _objects(gaps)
    clause = _Clause()
    for k, (i, j, word) in enumerate(finds):
        try:
            subjects, clause = _subjects(gaps[k], k == 0, clause, prefix_of and k == 0, notes)
        except _Refused as reason:
            notes.append(f"{said(tokens[i:j])}: {reason}")
            clause = _Clause()
            continue
        for subject in subjects:
            if reason := _refusal(subject, objects[k], tokens[i:j]):
                notes.append(f"{said(tokens[i:j])}: {reason}")
            else:
                found.append(Relation(subject.text, word, objects[k].text, subject.span, objects[k].span))
    rest = _after(gaps[-1])
    notes += [f"{said(rest)}: not understood"] if rest else []


def _prefix(tokens):
    """(number of tokens of "a photo of" and its like, whether it ends in "of")."""
    lows = [token.low for token in tokens]
    i, of = 0, False
    if lows[:1] == ["please"]:
        i = 1
    if i + 1 < len(lows) and lows[i] in w.COMMANDS and lows[i + 1] in w.DETERMINERS | w.NUMBERS | {"me"}:
        i += 1 + (lows[i + 1] == "me")
    for start in (("there", "is"), ("there", "are"), ("there's",), ("this", "is"), ("we", "see"), ("you", "can", "see"), ("here", "is")):
        if tuple(lows[i : i + len(start)]) == start:
            i += len(start)
    for at in range(i, min(i + 6, len(lows) - 1)):
        if lows[at] in w.MEDIA and not any(low in w.STOP - w.DETERMINERS for low in lows[i:at]):
            for link in (("of",), ("showing",), ("depicting",), ("shows",), ("that", "shows"), ("with",), ("in", "which"), ("where",)):
                if tuple(lows[at + 1 : at + 1 + len(link)]) == link:
                    return at + 1 + len(link), link == ("of",)
    return i, of


def _pieces(gap):
    """(pieces between connectors, the connectors: "and", "or" or ",")."""
    pieces, links = [[]], []
    for k, token in enumerate(gap):
        if token.low not in w.CONNECTORS:
            pieces[-1].append(token)
            continue
        link = {"&": "and", "and": "and", "or": "or", "/": "or"}.get(token.low, ",")
        if k and not pieces[-1]:  # ", and"
            links[-1] = max(links[-1], link, key=(",", "and", "or").index)
        else:
            links.append(link)
            pieces.append([])
    return pieces, links


def _objects(gaps):
    """The noun phrase after each phrase, or why there is none. "above and left of B" share theirs."""
    out = []
    for k in range(len(gaps) - 1, 0, -1):
        pieces, links = _pieces(gaps[k])
        noun, rest = noun_phrase(pieces[0])
        if "or" in links[:1]:
            out.insert(0, '"or" leaves the choice')
        elif noun and not rest and "and" in links[:1] and _goes_on(noun, pieces):
            out.insert(0, f"{said(gaps[k])} may be one thing or two")
        elif noun:
            out.insert(0, noun)
        elif not pieces[0] and links == ["and"] and not pieces[1] and out:
            out.insert(0, out[0])
        else:
            out.insert(0, f"no thing in {said(gaps[k])}" if gaps[k] else "nothing after it")
    return out


def _goes_on(noun, pieces):
    """Whether a noun phrase of one thing may go on behind "and": "a black | white dog", not "a dog | a cat" nor "a dog | is"."""
    if pieces[0][0].low not in w.DETERMINERS or plural(noun.tokens[-1]) or not pieces[1]:
        return False
    after = pieces[1][0]
    counted = after.low in w.DETERMINERS | w.NUMBERS or after.low.isdecimal() or plural(after)
    return not counted and verb_tail(pieces[1][:1]) is None and noun_phrase(pieces[1])[0] is not None


def _subjects(gap, first, clause, prefix_of, notes):
    """(whose relation a phrase is, the clause from there on); `gap` lies between the phrase before and this one."""
    pieces, links = _pieces(gap)
    if any(token.low in w.NEGATIONS for token in gap):
        raise _Refused(f"{said(gap)} denies it")
    if "or" in links:
        raise _Refused('"or" leaves the choice')
    if first and not pieces[-1] and links[-1:] == [","]:  # "a cat, left of a dog"
        pieces.pop(), links.pop()
    own = pieces[-1]
    own = own[_prefix(own)[0] :] if links else own
    noun, rest = noun_phrase(own, plurals=first and "and" in links)
    tail = verb_tail(rest)
    if not noun:
        return _shared(pieces, gap, first, clause, notes)
    if tail is None:
        raise _Refused(f"{said(rest)} between {said(noun.tokens)} and it is not understood")
    if not first and not links:  # "left of B above"
        subject = clause.head if tail == "finite" else noun
        if subject is None:
            raise _Refused(f"whose relation it is in {said(gap)} is not clear")
        clause.subjects.append(subject)
        return [subject], clause
    if prefix_of and tail == "finite":
        raise _Refused(f"{said(gap)} may speak of the picture or of what it shows")
    earlier = [piece for piece in pieces[:-1] if piece and not (piece[0].low in w.PREPOSITIONS and links[0] == ",")]  # "in a park, ..."
    for piece in earlier:
        if noun_phrase(piece)[1]:
            raise _Refused(f"{said(piece)} before {said(noun.tokens)} is not understood")
    nouns, listed = [noun], earlier if first else earlier[1:]
    if first and tail == "finite" and any(token.low in w.PLURAL_PRESENT | {"are", "were"} for token in rest):
        nouns, listed = [noun_phrase(piece)[0] for piece in listed] + [noun], []
    notes += [f"{said(piece)}: its relation is not told" for piece in listed if piece[0].low in w.DETERMINERS | w.NUMBERS]
    return nouns, _Clause(*nouns)


def _shared(pieces, gap, first, clause, notes):
    """As `_subjects`, for a phrase that stands after "and" or a comma without a noun of its own."""
    tail = verb_tail(pieces[-1])
    nearest, rest = (None, []) if first else noun_phrase(pieces[0])
    if tail == "relative" and len(pieces) == 2 and nearest and not rest:
        clause.subjects.append(nearest)
        return [nearest], clause
    if tail in ("", "finite") and clause.head and len(set(clause.subjects)) == 1:
        notes += [f"{said(rest)}: not understood"] if rest else []
        return clause.subjects[:1], clause
    raise _Refused(f"whose relation it is in {said(gap)} is not clear" if gap else "nothing before it")


def _refusal(subject, thing, phrase):
    """Why two noun phrases are in no relation, or None."""
    if isinstance(thing, str):
        return thing
    if subject.tokens[-1].low.endswith("'s"):
        return f"{said(subject.tokens)} may be a verb's short form"
    if thing.bare and not subject.bare:
        return f"{said(thing.tokens)} after it is no thing"  # "near midnight", "under construction"
    if thing.picture:
        return f"{said(thing.tokens)} is a place in the picture"
    if phrase[0].low == "left" and subject.tokens[0].low in w.REMAINS:
        return f"{said(subject.tokens)} may be what remains"
    return None


def _after(gap):
    """What follows the last object and names something: a list that goes on, a place."""
    pieces, links = _pieces(gap)
    noun, rest = noun_phrase(pieces[0])
    if noun is None or rest:
        return rest if noun else []
    for k, piece in enumerate(pieces[1:], 1):
        if piece and (links[k - 1] != "," or piece[0].low in w.DETERMINERS | w.NUMBERS):
            return [token for later in pieces[k:] for token in later]
    return []
