"""What two benchmarks say of boxes: their golden cases, every branch by hand."""

import pytest

from anystep.positions import Detection, all_hold, geneval, iou, offset, relations, t2i_compbench, t2i_position

A, FAR = (0, 0, 10, 10), (20, 0, 30, 10)


@pytest.mark.parametrize(
    "a, b, held",
    [
        (A, FAR, {"left of"}),
        (FAR, A, {"right of"}),
        (A, (20, 20, 30, 30), {"left of", "above"}),
        ((20, 20, 30, 30), A, {"right of", "below"}),
        ((0, 0, 20, 20), (3, 0, 23, 20), set()),  # the shrinking takes 4 of an offset of 3
        ((-25, -13, -15, -3), (-5, -5, 5, 5), {"left of"}),
        (A, (0, 20, 10, 30), {"above"}),
        ((0, 20, 10, 30), A, {"below"}),
        (A, A, set()),
        (A, (20, 13, 30, 23), {"left of"}),  # offset (20, 13), shrunk (18, 11), over 23.9: 0.75 and 0.46
    ],
)
def test_genevals_rule(a, b, held):
    assert relations(a, b) == held


def test_genevals_offset():
    assert offset(A, (20, 20, 30, 30)) == pytest.approx((-18 / 800**0.5, -18 / 800**0.5))  # 0.636 each
    assert offset((-25, -13, -15, -3), (-5, -5, 5, 5))[1] == pytest.approx(-6 / 464**0.5)  # 0.279
    assert relations((0, 0, 20, 20), (4.001, 0, 24.001, 20)) == set()  # 1e-3 is left, over 4: below a half


def thing(name, box, confidence=0.9):
    return Detection(box, name, confidence)


ASKED = {"tag": "position", "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}]}
DOG_LEFT = [thing("dog", A), thing("cat", FAR)]


def test_geneval_of_a_position_prompt():
    assert geneval(DOG_LEFT, ASKED)
    assert not geneval([thing("cat", A), thing("dog", FAR)], ASKED)
    assert not geneval(DOG_LEFT[:1], ASKED) and not geneval(DOG_LEFT[1:], ASKED) and not geneval([], ASKED)


def test_geneval_takes_the_surest_and_their_threshold_is_open():
    assert geneval([thing("dog", (40, 0, 50, 10), 0.5), *DOG_LEFT], ASKED)
    assert not geneval([thing("dog", (40, 0, 50, 10), 0.95), *DOG_LEFT], ASKED)
    assert not geneval([thing("dog", A, 0.3), thing("cat", FAR)], ASKED) and geneval([thing("dog", A, 0.31), thing("cat", FAR)], ASKED)


def test_geneval_counts():
    two = {"tag": "counting", "include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}]}
    dogs = [thing("dog", A, 0.95), thing("dog", FAR, 0.95)]
    assert geneval(dogs, two) and not geneval(dogs[:1], two) and not geneval([*dogs, thing("dog", A, 0.95)], two)
    assert geneval([*dogs, thing("dog", A, 0.9)], two)  # 0.9 is not above 0.9
    many = {"tag": "counting", "include": [{"class": "dog", "count": 16}], "exclude": [{"class": "dog", "count": 17}]}
    assert geneval(dogs * 9, many)  # 18 dogs, of which 16 are looked at
    pair = {"tag": "position", "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 2, "position": ["left of", 0]}]}
    assert geneval([thing("dog", A), thing("dog", (0, 2, 10, 12)), thing("cat", FAR)], pair)
    assert not geneval([thing("dog", A), thing("dog", (40, 0, 50, 10)), thing("cat", FAR)], pair)  # each dog must be left of it


def test_a_wrong_thing_is_nobodys_reference():
    chain = ASKED["include"] + [{"class": "cow", "count": 1, "position": ["left of", 1]}]
    cow = thing("cow", (-20, 0, -10, 10))
    assert geneval([*DOG_LEFT, cow], ASKED | {"include": chain})
    assert not geneval([thing("dog", (40, 0, 50, 10)), thing("cat", FAR), cow], ASKED | {"include": chain})
    with pytest.raises(ValueError, match="color = 'red'"):
        geneval(DOG_LEFT, {"include": [{"class": "dog", "count": 1, "color": "red"}]})


@pytest.mark.parametrize(
    "word, a, b, score",
    [
        ("left", A, FAR, 1.0),
        ("right", A, FAR, 0.0),
        ("right", FAR, A, 1.0),
        ("above", A, (0, 20, 10, 30), 1.0),
        ("below", (0, 20, 10, 30), A, 1.0),
        ("below", A, (0, 20, 10, 30), 0.0),
        ("left", A, (20, 20, 30, 30), 0.0),  # neither axis is longer
        ("above", A, (20, 20, 30, 30), 0.0),
        ("left", A, (20, 19, 30, 29), 1.0),
        ("left", A, (5, 0, 15, 10), 0.3),  # IoU 50 / 150
        ("left", A, (9, 0, 19, 10), 1.0),  # IoU 10 / 190
        ("above", A, (0, 5, 10, 15), 0.3),
        ("near", A, (0, 400, 10, 410), 1.0),  # one axis below 150 is enough
        ("near", A, (600, 100, 610, 110), 1.0),
        ("near", A, (149, 300, 159, 310), 1.0),
        ("near", A, (150, 300, 160, 310), 0.5),  # 150 / 300
        ("near", A, (600, 200, 610, 210), 0.25),
    ],
)
def test_t2i_compbenchs_rule(word, a, b, score):
    assert t2i_position(word, a, b) == pytest.approx(score)
    double = [tuple(2 * x for x in box) for box in (a, b)]
    assert t2i_position(word, *double, side=958.0) == pytest.approx(score)


def test_a_word_that_no_rule_knows():
    with pytest.raises(ValueError, match="'on top of': must be among near, left, right, above, below"):
        t2i_position("on top of", A, FAR)
    with pytest.raises(ValueError, match="'near'"):
        all_hold({}, [("a", "near", "b")])


def test_t2i_compbenchs_score():
    assert t2i_compbench(DOG_LEFT, "dog", "left", "cat") == pytest.approx(0.25 * 1.8 + 0.5)
    assert t2i_compbench(DOG_LEFT, "dog", "right", "cat") == 0.0  # 0.45 is below 0.5
    assert t2i_compbench(DOG_LEFT[:1], "dog", "left", "cat") == 0.0 == t2i_compbench([], "dog", "left", "cat")
    sure = [thing("dog", A, 1.0), thing("cat", FAR, 1.0)]
    assert t2i_compbench(sure, "dog", "right", "cat") == 0.5  # the script sets to 0 what is below 0.5, not 0.5 itself
    assert t2i_compbench([thing("person", A, 0.6), thing("cat", FAR, 0.5)], "girl", "left", "cat") == pytest.approx(0.775)
    assert t2i_compbench([thing("dog", A, 0.49), thing("cat", FAR)], "dog", "left", "cat") == 0.0
    first = [thing("dog", (40, 0, 50, 10), 0.6), *DOG_LEFT]
    assert t2i_compbench(first, "dog", "left", "cat") == 0.0  # the first of the detector's order, not the surest


def test_overlap():
    assert iou(A, A) == 1.0 and iou(A, FAR) == 0.0 and iou(A, (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((3, 3, 3, 3), (3, 3, 3, 3)) == 0.0


def test_a_clause_is_judged_by_its_own_pair():
    boxes = {"a": A, "b": FAR, "c": (60, 60, 70, 70), "d": (40, 60, 50, 70)}
    assert all_hold(boxes, [("a", "left", "b"), ("d", "left", "c"), ("a", "above", "d")])
    assert not all_hold(boxes, [("a", "left", "b"), ("c", "left", "d")])  # passes where relations pile up over the clauses
    assert not all_hold(boxes, [("a", "left", "b"), ("c", "right", "nothing")]) and all_hold({}, [])
