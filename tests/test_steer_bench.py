"""The table of `bench steer`: what it counts beside a program that is written out, its differences and claims beside sums by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from steered import model_in, reader_of

from anystep import api, flops
from anystep.bench import _steer, _steer_costs, _steer_table, steer
from anystep.nets import correction
from anystep.steering import classifier, maps
from anystep.steering.method import METHODS
from anystep.steering.program import Program, Steering
from anystep.types import Capture

PROMPT = "a red ring left of a blue square"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_in(tmp_path_factory.mktemp("x"))


def written_out(model, params, reader, weights, steps, moves, guided, corrected):
    """FLOPs of products of one sample's walk, look by look: embed, a block of two, the reader, back; from the last look on to the end."""
    net, p = model.net, params["net"]
    cond = model.text.encode(params["text"], model.text.tokenize([PROMPT]))
    length = cond["features"].shape[1]
    tokens = jnp.zeros((1, 2, length)).at[0, 0, 2:4].set(0.5).at[0, 1, 7:9].set(0.5)
    t = jnp.ones(1)

    def losses(x):
        h, aux = net.blocks(p, net.embed(p, x, t, t, cond), 0, 1, Capture(reader.lens.layers, tokens))
        logits = reader.logits(weights, maps.gather(aux["maps"], x.shape[1:], reader.lens), t)
        return classifier.losses(logits, jnp.zeros((1, 1), jnp.int32)).sum(), h

    def walk(x):
        every = []
        if corrected:
            objects = jnp.einsum("ol,ld->od", tokens[0], cond["features"][0])
            x = x + correction.build(reader.corrects).apply(weights["correction"], x, objects[None], jnp.zeros(1, jnp.int32))
        for _ in range(moves):
            (_, h), gradient = jax.value_and_grad(losses, has_aux=True)(x)
            x, every = x - gradient, [*every, h]
        found, h = losses(x)
        u = net.head(p, net.blocks(p, h, 1, 2)[0])
        for step in range(steps):
            u = net.velocity(p, x, t, t, cond)[0] if step else u
            x = x - (3.0 * u - 2.0 * net.velocity(p, x, t, t, cond)[0] if guided else u)
        return x, found, every

    return flops.count(walk, jnp.zeros((1, *net.shape))).matmul


@pytest.mark.parametrize("method, steps, moves, guided", [("fast", 2, 2, False), ("fast", 1, 1, True), ("amortised", 2, 0, False)])
def test_what_is_counted_is_what_a_program_has_that_is_written_out(model, method, steps, moves, guided):
    found, params = model
    found = api.walking(found, "euler", "now", 3.0 if guided else 1.0)
    reader, weights = reader_of(found, corrects=True)
    case = _steer.Case(method, "", steps, Steering(Program(reader, METHODS[method]), weights))
    plain, part = _steer_costs.parts_of([_steer.Case("none", "", steps), case], found, params, [PROMPT])
    counted = _steer_costs.counted(part, moves + 1, moves, 1)
    assert counted["flops"] == written_out(found, params, reader, weights, steps, moves, guided, method == "amortised")
    calls = steps * (2 if guided else 1)
    assert _steer_costs.counted(plain, 0, 0, 0) == {"evaluations": calls, "backward": 0, "flops": calls * part.forward}
    assert counted["evaluations"] == calls + moves * (0.5 + 0.5) and counted["backward"] == moves * 0.5  # through one block of two


def test_a_batch_pays_for_those_who_move():
    looks, moves = [[5, 1], [1, 5]], [[4, 0], [0, 4]]  # at each of two steps another one moves
    assert _steer_costs.in_batches(looks, moves, 2, 1) == (20 / 2, 16 / 2, 12 / 2)  # 5 rounds of two at each, one without a way back
    assert _steer_costs.in_batches(looks, moves, 2, 4) == (14 / 2, 8 / 2, 12 / 2)  # both look, then the one who moves 5 times
    assert _steer_costs.in_batches(looks, moves, 1, 4) == (6, 4, 6)
    assert _steer_costs.in_batches(looks, moves, 3, 4) is None
    rounds = [[3, 2, 2, 1, 9]], [[2, 1, 1, 0, 9]]  # all; 3 in two groups, 3 in two, 1 in one; 3, then 1 of them move; the fifth is left out
    assert _steer_costs.in_batches(*rounds, 4, 2) == ((4 + 4 + 4 + 2) / 4, (4 + 2) / 4, 8 / 4)
    assert _steer_costs.in_batches([[4, 1]], [[0, 0]], 2, 2) == ((2 + 3) / 2, 0, 5 / 2)  # tries noises, moves none


class Kept:
    """Rows by hand."""

    def __init__(self, drawn):
        self.rows = drawn

    def drawn(self, case):
        return self.rows[case.method] if case.steer is None else self.rows[case.method.split(":")[0], case.steer.program.method.step]

    def spread(self, case):
        return {"variety": [0.2, 0.4] if case.steer is None else [0.2, 0.1]} if case.method != "faithful" else None

    def cost(self, case, batch):
        return None


def row_of(position, objects="1111", looks=(), moves=(), steered=()):
    own = {"position": position, "looks": list(looks), "moves": list(moves), "steered": list(steered)}
    return dict.fromkeys(_steer_table.FIELDS, objects) | own | dict.fromkeys(("distance", "before", "after"), [])


def steered_case(name, step, classifier="a"):
    return _steer.Case(name, classifier, 2, SimpleNamespace(program=SimpleNamespace(method=METHODS[name]._replace(step=step, groups=1))))


def test_differences_claims_and_costs_by_hand():
    """none 0100, objects 1110, faithful 1101, fast 1011: differences 1 -1 1 1; to the claims' bars 0.1 -1 1 0.1... and 0.5 -1 0.5 1."""
    fast = row_of("1011", looks=[[5, 1, 5, 1], [1, 5, 1, 5]], moves=[[4, 0, 4, 0], [0, 4, 0, 4]], steered=[2] * 4)
    kept = Kept({"none": row_of("0100", "1110"), ("fast", 0.1): fast, ("faithful", 5.0): row_of("1101", "0110", steered=[1] * 4)})
    none, mine, theirs, other = (
        _steer.Case("none", "", 2), steered_case("fast", 0.1), steered_case("faithful", 5.0), steered_case("fast", 0.1, "b")
    )  # fmt: skip
    part = _steer_costs.Parts(2, 10.0, look=6.0, spared=5.0, back=7.0, share=0.5)
    cases = [none, mine, theirs, other]
    plain, row, faithful, alone = (_steer_table.summary(case, part, cases, kept, (1, 2, 8)) for case in cases)
    near = {"rel": 1e-12}
    assert (row["position"]["difference"], row["position"]["error"]) == (pytest.approx(0.5, **near), pytest.approx(0.5, **near))
    assert row["closes"] == {"difference": pytest.approx(0.25), "error": pytest.approx((0.75 / 4) ** 0.5), "verdict": "unresolved"}
    kept_gain = [1 - 0.9, 0 - 0.1 - 0.9, 1, 1 - 0.9]  # mean 0.05, squares about it 0.0025 1.1025 0.9025 0.0025
    assert row["keeps"] == {
        "difference": pytest.approx(np.mean(kept_gain)),
        "error": pytest.approx((2.01 / 3 / 4) ** 0.5),
        "verdict": "unresolved",
    }
    assert plain["keeps"] is plain["closes"] is faithful["keeps"] is None and faithful["closes"]
    assert alone["keeps"] == row["keeps"]  # the best `faithful` of all classifiers is what counts
    assert (row["looks"], row["moves"], row["evaluations_ratio"], row["flops_ratio"]) == (6, 4, 6 / 2, (20 + 36 + 28 - 10) / 20)
    assert {name: pytest.approx(value) for name, value in row["variety"].items()} == {
        "mean": 0.15, "difference": -0.15, "error": 0.15, "ratio": 0.5
    }  # fmt: skip
    assert plain["variety"]["ratio"] == 1 and faithful["variety"] is None
    at_1, at_2 = row["batch_1"], row["batch_2"]
    assert (at_1["waits"], at_1["evaluations_ratio"], at_1["flops_ratio"]) == (1, 3, 3.7)
    assert (at_2["waits"], at_2["evaluations_ratio"], at_2["flops_ratio"]) == (20 / 12, 5, (20 + 60 + 56 - 10) / 20)
    assert row["batch_8"]["waits"] is None and plain["batch_8"]["flops_ratio"] == 1 and row["batch_2"]["seconds"] is None
    said = _steer_table.said_claims([plain, row, faithful, alone])
    assert said[0] == "at 2 steps fast (a) keeps 90 % of the gain of faithful: +0.050 ± 0.409, unresolved" and len(said) == 5
    assert "FLOPs x 8" in _steer_table.table([plain, row, faithful, alone]).splitlines()[0]
    sure = Kept(kept.rows | {"none": row_of("0" * 4), ("fast", 0.1): row_of("1" * 4), ("faithful", 5.0): row_of("0001")})
    assert [_steer_table.summary(mine, part, cases, sure, ())[name]["verdict"] for name in ("keeps", "closes")] == ["holds", "holds"]


def test_the_largest_loss():
    row = {"objects": {"difference": -0.1, "error": 0.05}, "colors": {"difference": -0.03, "error": 0.01}}
    assert _steer_table.worst(row | {"count": {"difference": 0.2, "error": 0.1}}) == pytest.approx(-3.0)
    still = {"difference": 0.0, "error": 0.0}
    assert _steer_table.worst({"objects": still, "colors": still, "count": still}) == 0.0
    assert _steer_table.worst({"objects": still | {"difference": -1.0}, "colors": still, "count": still}) == -np.inf


def test_the_best_step_is_the_one_that_is_right_most_often(monkeypatch):
    """Two are right three times, one of them with a look less."""
    monkeypatch.setattr(_steer, "draw", None)
    rows = zip(
        (0.05, 0.1, 0.2, 0.4), ("0110", "1110", "0111", "0001"), ([2, 2, 2, 2], [3, 3, 1, 1], [3, 2, 1, 1], [1, 1, 1, 1]), strict=True
    )
    case = _steer.Case("fast", "a", 2, Steering(Program(None, METHODS["fast"]), {}))
    found = steer.tuned(case, Kept({("fast", step): row_of(right, looks=[looks]) for step, right, looks in rows}), *[None] * 5)
    assert found.steer.program.method.step == 0.2
    told = case._replace(settings=("step",))
    assert steer.tuned(told, None, *[None] * 5) is told  # nothing is tried
