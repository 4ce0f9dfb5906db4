"""What steering understands of prompts, where their words lie among features, and classifiers on disk."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from steered import model_in, reader_of

from anystep import api, steering
from anystep.errors import UserError
from anystep.flags import STEERING
from anystep.relations import read
from anystep.steering import prompts
from anystep.steering.method import METHODS
from anystep.steering.program import Program


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_in(tmp_path_factory.mktemp("x"))


@pytest.mark.parametrize(
    "prompt, known, note",
    [
        ("a red ring left of a blue square", 1, None),
        ("a ring next to a square", 0, '"ring" near "square": classifiers know left, right, above, below'),
        ("a ring above a ring", 0, "two equal nouns"),
        ("a ring left of a zebra", 0, '"zebra" is not among what the classifier learned from: ring, square'),
        ("a very big shiny red ring left of a very big shiny red square", 0, 'does not read as far as "very big shiny red square"'),
        ("two rings", 0, "says nothing of left"),
    ],
)
def test_what_is_understood(model, prompt, known, note):
    text = model[0].text
    found = prompts.understand(text, prompt, ("ring", "square"))
    assert len(found.relations) == known and (note is None) == (not found.notes)
    assert note is None or note in found.notes[0]
    what = prompts.arrays([found], 14, 1)
    assert what.known.sum() == known and what.tokens.sum() == pytest.approx(2 * known)
    if known:
        words = ["", *prompt.split()]
        assert [[words[i] for i in rows] for rows in found.rows[0]] == [["red", "ring"], ["blue", "square"]]
        assert what.tokens[0].max(-1).tolist() == [0.5, 0.5]


def test_features_have_no_words(model):
    text = model[0].text._replace(place=None)
    with pytest.raises(UserError, match="prompts of this model are features"):
        prompts.understand(text, "a ring left of a square")


@pytest.mark.parametrize("name", ["sd1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sana_sprint", "flux_schnell", "sd2"))])
def test_where_words_lie_among_the_features(name):
    """Ids at the places of a noun phrase are those that it adds elsewhere; with another noun there, all others are the same."""
    pytest.importorskip("tokenizers")
    text = api.load(Path(__file__).parent / "fixtures" / f"pipeline_{name}")[0].text
    prompt, other = ("  A photo of a blue square, above an unbelievable red ring".replace("square", word) for word in ("square", "king"))
    a, b = (text.tokenize([p])[0][..., 0] for p in (prompt, other))
    first = {"flux_schnell": 77}.get(name, 0)  # the pooled encoder's tokens stand before
    hidden = {"sana_sprint": len(a) - 300}.get(name, 0)  # of the instruction's tokens only the first has features

    def ids(tokens, span, prompt=prompt):
        return [int(tokens[first + (hidden + row if row else 0)]) for row in text.place(prompt, span)]

    one = prompt.index("blue"), prompt.index(", above")
    two = prompt.index("unbelievable"), len(prompt)
    found, last = ids(a, one), ids(a, two)
    for phrase, its in (("blue square", found), ("unbelievable red ring", last)):
        among, without = (text.tokenize([p])[0][first:, 0].tolist() for p in (f"king {phrase} king", "king king"))
        assert len(its) == sum(i != among[-1] for i in among) - sum(i != without[-1] for i in without)
        assert any(among[at : at + len(its)] == its for at in range(len(among)))
    assert ids(b, (two[0] - 2, len(other)), other) == last and ids(b, (one[0], one[1] - 2), other) != found
    rows = [row for span in (one, two) for row in text.place(prompt, span)]
    assert rows == sorted(set(rows)) and read(prompt).relations[0].subject_span == one
    assert text.place(prompt, (0, 0)) == [] == text.place("a ring " * 200, (1393, 1397))


@pytest.mark.slow
def test_there_and_back(model, tmp_path):
    made, params = reader_of(model[0], (0, 1), corrects=True)
    steering.save(tmp_path, model[0], made, params, ("ring",), {"accuracy": 0.5})
    found = steering.load(tmp_path, model[0], "amortised", 0.5, steps=2)
    assert found.program == Program(made, METHODS["amortised"]._replace(steps=2)) and found.things == ("ring",) and found.strength == 0.5
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert hash(found.program) and set(METHODS) == set(STEERING)


REFUSED = {
    "network": (lambda c: c | {"network": "0"}, {}, "was made for another network, 0 by its digest"),
    "kind": (lambda c: c | {"steering": 1}, {}, "is no classifier of relations"),
    "left out": (lambda c: {name: value for name, value in c.items() if name != "things"}, {}, r"config.json: KeyError \('things'\)"),
    "layers": (lambda c: c | {"lens": c["lens"] | {"layers": [0, 9]}}, {}, r"reads layers \[0, 9\], this network has 0 to 1"),
    "maps": (lambda c: c | {"options": c["options"] | {"maps": 7}}, {}, r"reads 7 maps, layers \[0, 1\] of this network have 4"),
    "weights": (lambda c: c | {"options": c["options"] | {"width": 9}}, {}, "the weights do not fit the model: .* mis-shaped"),
    "method": (lambda c: c, {"method": "slow"}, "method: 'slow', allowed fast, faithful"),
    "setting": (lambda c: c, {"eta": 1}, "eta: no such setting"),
    "range": (lambda c: c, {"until": 1.5}, r"until: \(1.5,\), allowed one number or more above 0 and below 1"),
    "nothing": (lambda c: c, {"until": ()}, r"until: \(\), allowed one number or more"),
    "word": (lambda c: c, {"until": "x"}, r"until: \('x',\), allowed one number or more"),
    "big": (lambda c: c, {"step": "big"}, "step: 'big', allowed a number above 0"),
    "strength": (lambda c: c, {"strength": float("nan")}, "strength: nan, allowed a finite number"),
    "strength in words": (lambda c: c, {"strength": "big"}, "strength: 'big', allowed a finite number"),
    "corrects": (lambda c: c, {"method": "amortised"}, "has no network that corrects noises"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_one_line(model, what, tmp_path):
    change, how, said = REFUSED[what]
    made, params = reader_of(model[0], (0, 1))
    steering.save(tmp_path, model[0], made, params)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=said) as error:
        steering.load(tmp_path, model[0], **how)
    assert "\n" not in str(error.value)
