"""What prompts say of places: every phrase, every link, and what must not be taken for a relation."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

import anystep.parse
from anystep.errors import UserError
from anystep.relations import WORDS, read, relations
from anystep.relations.words import NUMBERS, PREPOSITIONS
from anystep.shapes import COLORS, RELATIONS, SILHOUETTES, World, caption, check, make_scene, metadata

FIXTURE = Path(__file__).parent / "fixtures" / "relations" / "prompts.jsonl"
ROWS = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
SHAPES_WORDS = dict(zip(RELATIONS, ("left", "right", "above", "below"), strict=True))


def told(prompt):
    return [list(relation[:3]) for relation in relations(prompt)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["prompt"])
def test_every_phrase(row):
    """Of GenEval, T2I-CompBench, VISOR, VSR and multi-relation prompts."""
    assert told(row["prompt"]) == row["relations"] and read(row["prompt"]).notes == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["prompt"])
def test_spans_are_where_the_noun_phrases_stand(row):
    for prompt in (row["prompt"], "  " + row["prompt"].upper().replace(" ", "  ") + " "):
        found = relations(prompt)
        assert len(found) == len(row["relations"])
        for relation, (subject, _, thing) in zip(found, row["relations"], strict=True):
            for said, text, (first, last) in (
                (subject, relation.subject, relation.subject_span),
                (thing, relation.object, relation.object_span),
            ):
                assert text.lower() == said.lower() and " ".join(prompt[first:last].split()) == text


def test_a_thing_named_twice_has_two_spans():
    first, second = relations("a cat left of a dog, a dog above a bird")
    assert first.object_span == (16, 19) and second.subject_span == (23, 26)
    same = relations("a stop sign above a stop sign")[0]
    assert (same.subject_span, same.object_span) == ((2, 11), (20, 29))


def test_the_captions_of_the_shapes_world():
    world = check(World(shapes=tuple(SILHOUETTES), colors=tuple(COLORS), color_words=0.5, missing_relation=0.2))
    rng, seen = np.random.default_rng(0), set()
    for i in range(400):
        scene = make_scene(world, 3, i)
        asked, text = metadata(scene), caption(scene, rng, world)
        if scene.kind != "position":
            assert told(asked["prompt"]) == told(text) == []
            continue
        reference, subject = asked["include"]
        word = SHAPES_WORDS[scene.relation]
        names = [f"{entry['color']} {entry['class']}" for entry in (subject, reference)]
        assert told(asked["prompt"]) == [[names[0], word, names[1]]]
        if " and " in text:
            assert told(text) == []
            continue
        ((a, link, b),) = told(text)
        turned = {"left": "right", "right": "left", "above": "below", "below": "above"}[word]
        nouns = tuple(name.split()[-1] for name in names)
        assert (link, a.split()[-1], b.split()[-1]) in ((word, *nouns), (turned, *nouns[::-1]))
        seen.add(link)
    assert seen == set(WORDS) - {"near"}


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a cat left of a dog above a bird", "cat left dog, dog above bird"),
        ("a cat left of a dog sitting above a bird", "cat left dog, dog above bird"),
        ("a cat left of a dog, which is above a bird", "cat left dog, dog above bird"),
        ("a cat left of a dog is above a bird", "cat left dog, cat above bird"),
        ("a cat left of a dog, above a bird", "cat left dog, cat above bird"),
        ("a cat left of a dog, and is above a bird and near a fish", "cat left dog, cat above bird, cat near fish"),
        ("a cat, left of a dog", "cat left dog"),
        ("a cat (left of a dog)", "cat left dog"),
        ("a cat left of a dog and a bird above a fish", "cat left dog, bird above fish"),
        ("a cat left of a dog and two birds above a fish", "cat left dog, two birds above fish"),
        ("a cat left of a dog and birds above a fish", "cat left dog, birds above fish"),
        ("a cat left of a dog and sitting above a fish", "cat left dog, cat above fish"),
        ("a cat left of a dog while there is a bird above a fish", "cat left dog, bird above fish"),
        ("A cat is left of a dog. The dog is above a bird.", "cat left dog, dog above bird"),
        ("a cat is directly below and to the right of a dog", "cat below dog, cat right dog"),
        ("a cat and a dog are left of a tree", "cat left tree, dog left tree"),
        ("cats and dogs sit next to a tree", "cats near tree, dogs near tree"),
        ("a photo of a cat left of a dog and a photo of a bird above a fish", "cat left dog, bird above fish"),
        ("In a park, a dog sits to the left of a cat", "dog left cat"),
        ("the left shoe near a dog", "left shoe near dog"),
        ("a left shoe left of a right shoe", "left shoe left right shoe"),
        ("leftover pizza next to a plate", "leftover pizza near plate"),
        ("a right-handed man left of a left-handed woman", "right-handed man left left-handed woman"),
        ("a dog right now near a cat", "dog near cat"),
        ("a prop plane flying low over the Great Wall", "prop plane above Great Wall"),
        ("a red dining table left of a blue recycling bin", "red dining table left blue recycling bin"),
        ("a glass of orange juice next to a bowl of cherries", "glass of orange juice near bowl of cherries"),
        ("the man's dog left of 2 sports cars", "man's dog left 2 sports cars"),
        ("a cat left of a dog, oil painting, 4k", "cat left dog"),
    ],
)
def test_whose_relation_it_is(prompt, expected):
    assert ", ".join(" ".join(triplet) for triplet in told(prompt)) == expected and read(prompt).notes == []


@pytest.mark.parametrize(
    "prompt, expected, note",
    [
        ("a cat left of a dog above a bird and near a fish", "cat left dog, dog above bird", '"near": whose relation'),
        ("a cat left of a dog and a bird", "cat left dog", '"a bird": not understood'),
        ("a cat and a dog left of a tree", "dog left tree", '"a cat": its relation is not told'),
        ("a cat next to a dog on a mat", "cat near dog", '"on a mat": not understood'),
        ("a cat next to a dog on a mat above a bird", "cat near dog", '"above": "on a mat" between "dog" and it'),
        ("a man holding a cup left of a dog above a bird and near a fish", "dog above bird", '"near": whose relation'),
        ("a cat left of a dog but not above a bird", "cat left dog", '"above": "a dog but not" denies it'),
        ("a cat left of a black and white dog above a bird", "white dog above bird", '"left of": "a black and white dog" may be'),
        ("a cat left of a dog instead of above it", "cat left dog", '"above": "instead of"'),
    ],
)
def test_what_is_told_in_part(prompt, expected, note):
    assert ", ".join(" ".join(triplet) for triplet in told(prompt)) == expected
    assert any(line.startswith(note) for line in read(prompt).notes), read(prompt).notes


@pytest.mark.parametrize(
    "prompt, note",
    [
        ("a photo of a bench", "says nothing of left"),
        ("", "says nothing of left"),
        ("the left shoe", "says nothing of left"),
        ("a dog right now", "says nothing of left"),
        ("leftover soup overhead", "says nothing of left"),
        ("the above picture shows a dog", "says nothing of left"),
        ('a sign that says "dog left of cat"', "says nothing of left"),
        ("a painting by Monet", "says nothing of left"),
        ("a statue painted by an artist", "says nothing of left"),
        ("a dog on the left and a cat on the right", '"left"'),
        ("a dog with a cat to its left", '"left"'),
        ("a dog behind a cat", '"behind"'),
        ("a dog in front of a cat", '"front"'),
        ("a dog far from a cat", '"far"'),
        ("a dog between a cat and a bird", '"between"'),
        ("view of a clock tower from above", '"above"'),
        ("the above picture near a dog", '"near"'),
        ("a right of way near a bridge", '"near"'),
        ("a party left of center", '"left of"'),
        ("what is left of a castle", '"left of"'),
        ("there is a slice left of the cake", '"left of"'),
        ("nothing is left of the cake", '"left of"'),
        ("a dog on the left of the picture", '"on the left of"'),
        ("a dog near the middle of the image", '"near"'),
        ("a dog to the upper left of a cat", '"left of"'),
        ("two pianos next to each other", '"next to"'),
        ("the cat's left of a dog", '"left of"'),
        ("a dog above the left of a cat", '"above"'),
        ("a dog is left of it", '"left of"'),
        ("It is above the house", '"above"'),
        ("a dog not left of a cat", '"left of"'),
        ("a dog isn't left of a cat", '"left of"'),
        ("no dog is left of a cat", '"left of"'),
        ("a dog left of a cat or a bird", '"left of"'),
        ("a dog left of a cat/bird", '"left of"'),
        ("a cat left of a black and white dog", '"left of": "a black and white dog" may be one thing or two'),
        ("a dog above a red and blue ball", '"above": "a red and blue ball" may be one thing or two'),
        ("a cat left of the black & white shoes", '"left of": "the black & white shoes" may be one thing or two'),
        ("a dog left of or above a cat", '"left of"'),
        ("a lamp near midnight", '"near"'),
        ("a building under construction", '"under"'),
        ("a man over 50 at home", '"over"'),
        ("a man riding a horse next to a lake", '"next to"'),
        ("a man holding scissors left of a dog", '"left of"'),
        ("a man in a red hat left of a woman", '"left of"'),
        ("a man holding a cat and a dog left of a tree", '"left of"'),
        ("a dog looking left of a cat", '"left of"'),
        ("a cat jumps over a baby gate", '"over"'),
        ("cats watch dogs near trees", '"near"'),
        ("a penguin wearing goggles and flying over a city", '"over"'),
        ("a painting of a cat hangs above a couch", '"above"'),
        ("turn left near a house", '"near"'),
        ("above the sofa hangs a painting", '"above"'),
        ("left of", '"left of"'),
        ("a dog left of", '"left of"'),
    ],
)
def test_what_is_no_relation_or_not_sure(prompt, note):
    assert told(prompt) == [] and read(prompt).notes[0].startswith(note), read(prompt)


def test_any_words_in_any_order_are_read():
    words = [
        "a",
        "the",
        "cat",
        "dogs",
        "left",
        "right",
        "of",
        "to",
        "on",
        "above",
        "near",
        "and",
        ",",
        ".",
        "is",
        "that",
        "not",
        '"',
        "(",
        "'s",
    ]
    words += sorted(PREPOSITIONS | NUMBERS)[::9] + ["ring", "sitting", "é", "\u2028", "\x1b", "'", "of"]
    rng = random.Random(0)
    for length in itertools.chain(range(12), [8] * 1500, [60] * 30):
        prompt = " ".join(rng.choices(words, k=length))
        for relation in relations(prompt):
            assert relation.word in WORDS and relation.subject and relation.object
            assert " ".join(prompt[slice(*relation.subject_span)].split()) == relation.subject


def test_parse_prints_a_line_a_prompt(tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("a red ring left of a traffic light\r\n\na café\x1b[2J near \x1b\nan owl above a café\n")
    assert not anystep.parse.main([str(file)])
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0] == {"prompt": "a red ring left of a traffic light", "relations": [["red ring", "left", "traffic light"]]}
    assert [line["relations"] for line in lines[1:]] == [[], [["owl", "above", "café"]]]
    assert err.startswith('prompt 2: "near": ') and err.count("\n") == 1 and "\x1b" not in err
    assert not anystep.parse.main([str(FIXTURE)])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


@pytest.mark.parametrize("argv, say", [([], "FILE"), (["nowhere.txt"], "FILE 'nowhere.txt': no such file"), (["a", "--x", "1"], "--x")])
def test_parse_refuses(argv, say):
    with pytest.raises(UserError, match=say):
        anystep.parse.main(argv)
