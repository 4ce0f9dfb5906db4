"""Rules between fields: each is refused by the field that it names, and the same config with one change passes."""

import pytest
from nested import refusal, with_values

from anystep import config
from anystep.config import rules

ALONE = dict(objective__self_evaluation__share=0, objective__consistency__share=0)
JUMPS = dict(
    objective__self_evaluation__share=0,
    objective__consistency__share=1,
    objective__consistency__velocity="ema",
    objective__consistency__guidance=2.0,
)
ALONG_DATA = dict(objective__self_evaluation__share=0, objective__consistency__share=1, objective__consistency__velocity="data")


def hops(hops, nodes):
    return dict(objective__consistency__nodes=nodes, objective__consistency__hops=hops)


FAKE = dict(objective__self_evaluation__auxiliary_k=0.9, objective__self_evaluation__auxiliary_start=50)
RULES = [  # what makes a sound config unsound -> the field that is named; then what makes it sound again
    (ALONE | dict(objective__flow_matching__share=0), "objective.flow_matching.share", dict(objective__flow_matching__share=1)),
    (dict(data__batch=64, objective__flow_matching__share=4), "data.batch", dict(data__batch=65)),
    (dict(data__batch=66, mesh__data=2, mesh__fsdp=2), "data.batch", dict(data__batch=72)),
    (dict(data__batch=6, mesh__data=2, objective__flow_matching__share=5), "data.batch", dict(data__batch=12)),  # 6 and 2, not 12
    (dict(train__steps=2**25, data__batch=66), "train.steps", dict(data__batch=63)),
    (dict(train__steps=2**31 - 1, data__batch=3), "train.steps", dict(train__steps=715827882)),
    (dict(model__net="sana"), "model.net", dict(model__net="mlp")),
    (dict(mesh__data=0), "mesh.data", dict(mesh__data=1)),
    (dict(model__text__width=33), "model.text.width", dict(model__text__heads=3)),
    (dict(optim__warmup=201, train__steps=200), "optim.warmup", dict(optim__warmup=200)),
    (dict(objective__prompt_dropout=0.0, eval__scale=1.0), "objective.prompt_dropout", dict(objective__self_evaluation__share=0)),
    (
        dict(objective__prompt_dropout=0.0, objective__self_evaluation__share=0, eval__scale=2.0),
        "eval.scale",
        dict(objective__prompt_dropout=0.1),
    ),
    (dict(eval__steps=(1, 4, 2)), "eval.steps", dict(eval__steps=(1, 2, 4))),
    (dict(eval__steps=(1, 1)), "eval.steps", dict(eval__steps=(1,))),
    (dict(eval__interval=(0.5, 0.5)), "eval.interval", dict(eval__interval=(0.5, 0.6))),
    (dict(path__name="trig"), "path.name", dict(objective__self_evaluation__share=0)),
    *(
        (
            ALONE | dict(path__name="trig", objective__consistency__share=2, objective__consistency__at_zero=share),
            "path.name",
            dict(objective__consistency__share=0),
        )
        for share in (1.0, 0.0)
    ),
    (
        dict(objective__consistency__share=1, objective__consistency__at_zero=0.5),
        "objective.consistency.at_zero",
        dict(objective__consistency__at_zero=1.0),
    ),
    (
        dict(objective__consistency__share=1, objective__self_evaluation__s_min=0.0),
        "objective.self_evaluation.s_min",
        dict(objective__consistency__share=0),
    ),
    (JUMPS | dict(objective__consistency__velocity="data"), "objective.consistency.guidance", dict(objective__consistency__guidance=1.0)),
    (JUMPS | dict(objective__consistency__at_zero=0.0), "objective.consistency.guidance", dict(objective__consistency__guidance=1.0)),
    (JUMPS | dict(objective__consistency__at_zero=0.5), "objective.consistency.s_min", dict(objective__consistency__s_min=0.25)),
    (
        ALONG_DATA | dict(objective__consistency__at_zero=0.0, objective__consistency__s_min=0.25),
        "objective.consistency.s_min",
        dict(objective__consistency__at_zero=0.5),
    ),
    (JUMPS | dict(objective__flow_matching__share=0), "objective.consistency.velocity", dict(objective__flow_matching__share=1)),
    (JUMPS | dict(objective__consistency__interval=(0.5, 0.5)), "objective.consistency.interval", dict(objective__consistency__share=0)),
    (JUMPS | dict(objective__flow_matching__weight=0.0), "objective.consistency.velocity", dict(objective__flow_matching__weight=1.0)),
    (JUMPS | dict(train__steps=50, objective__consistency__start=50), "objective.consistency.start", dict(train__steps=51)),
    (
        JUMPS | dict(objective__consistency__nodes=4, objective__consistency__hops=5),
        "objective.consistency.hops",
        dict(objective__consistency__nodes=5),
    ),
    (
        JUMPS | dict(objective__consistency__nodes=0, objective__consistency__hops=2),
        "objective.consistency.hops",
        dict(objective__consistency__nodes=2),
    ),
    (ALONG_DATA | hops(2, nodes=4), "objective.consistency.hops", hops(1, nodes=4)),
    (dict(objective__time__base_tokens=256, objective__time__shift=3.0), "objective.time.shift", dict(objective__time__shift=1.0)),
    (FAKE | dict(train__steps=50), "objective.self_evaluation.auxiliary_start", dict(train__steps=51)),
    (
        FAKE | dict(objective__self_evaluation__start=51),
        "objective.self_evaluation.auxiliary_start",
        dict(objective__self_evaluation__start=50),
    ),
    (
        FAKE | dict(train__steps=60, objective__self_evaluation__auxiliary_warmup=10),
        "objective.self_evaluation.auxiliary_start",
        dict(objective__self_evaluation__auxiliary_warmup=9),
    ),
    (
        FAKE | dict(objective__self_evaluation__auxiliary_weight=0.0),
        "objective.self_evaluation.auxiliary_weight",
        dict(objective__self_evaluation__auxiliary_weight=0.5),
    ),
    (dict(objective__time__base_tokens=4000), "objective.time.base_tokens", dict(objective__time__base_tokens=256)),
    (FAKE | dict(train__steps=50), "objective.self_evaluation.auxiliary_start", dict(objective__self_evaluation__auxiliary_k=1.0)),
    (JUMPS | dict(eval__ask="half"), "eval.ask", dict(eval__ask="zero")),
    (
        JUMPS | dict(objective__prompt_dropout=0.0),
        "objective.prompt_dropout",
        dict(objective__consistency__guidance=1.0, eval__scale=1.0),
    ),
]


ONE_TIME = ALONE | dict(model__second_time=False)
TAUGHT = ONE_TIME | dict(
    objective__flow_matching__share=0,
    objective__consistency__share=1,
    objective__consistency__velocity="teacher",
    model__guidance=True,
    eval__sampler="restart",
    eval__ask="zero",
)
HEADS = TAUGHT | dict(objective__adversarial__share=1)
LATE = dict(model__second_time=True, objective__consistency__start=99, train__steps=100)
HALF_JUMPS = dict(model__second_time=True, objective__consistency__at_zero=0.5, objective__teacher__scales=(2.0,))
RULES += [
    (ONE_TIME | dict(objective__self_evaluation__share=1), "objective.self_evaluation.share", dict(model__second_time=True)),
    (
        TAUGHT | dict(objective__flow_matching__share=1),
        "objective.flow_matching.share",
        dict(model__second_time=True, model__guidance=False),
    ),
    (TAUGHT | dict(objective__flow_matching__share=1, model__second_time=True), "model.guidance", dict(model__guidance=False)),
    (HEADS | dict(objective__consistency__start=9), "objective.consistency.start", dict(model__second_time=True)),
    (HEADS | LATE, "objective.consistency.start", dict(train__steps=200)),
    (
        HEADS | dict(objective__consistency__velocity="data", model__guidance=False, objective__teacher__scales=(2.0,)),
        "objective.teacher.scales",
        dict(objective__teacher__scales=(1.0,)),
    ),
    (
        HEADS | dict(objective__consistency__form="trig", objective__consistency__at_noise=0.5),
        "objective.consistency.at_noise",
        dict(objective__consistency__form="linear"),
    ),
    (HEADS | dict(optim__warmup=99, train__steps=100), "optim.warmup", dict(train__steps=198)),
    (TAUGHT | dict(objective__consistency__at_zero=0.5), "objective.consistency.at_zero", dict(objective__consistency__at_zero=1.0)),
    (TAUGHT | dict(eval__ask="now"), "eval.ask", dict(eval__ask="zero")),
    (TAUGHT | dict(eval__sampler="euler"), "eval.sampler", dict(eval__sampler="ddim")),
    (TAUGHT | dict(objective__consistency__guidance=2.0), "objective.consistency.guidance", dict(objective__consistency__guidance=1.0)),
    (TAUGHT | dict(objective__consistency__velocity="data"), "model.guidance", dict(model__guidance=False)),
    (ALONE | dict(objective__teacher__folder="x"), "objective.teacher.folder", dict(objective__adversarial__share=1)),
    (TAUGHT | dict(path__name="trig"), "path.name", dict(path__name="linear")),
    (HEADS | dict(objective__adversarial__blocks=(2, 1)), "objective.adversarial.blocks", dict(objective__adversarial__blocks=(1, 2))),
    (HEADS | dict(objective__consistency__warmup=51, train__steps=100), "objective.consistency.warmup", dict(train__steps=102)),
    (HEADS | dict(objective__consistency__share=0), "model.guidance", dict(model__guidance=False, eval__scale=1.0)),
    (
        HEADS | dict(data__batch=1, objective__consistency__share=0, model__guidance=False, eval__scale=1.0),
        "objective.adversarial.misaligned",
        dict(objective__adversarial__misaligned=False),
    ),
    (TAUGHT | dict(model__second_time=True, eval__ask="now"), "eval.ask", dict(eval__ask="zero")),
    (
        TAUGHT | dict(model__second_time=True, eval__sampler="heun"),
        "eval.sampler",
        dict(objective__flow_matching__share=1, model__guidance=False),
    ),
    (TAUGHT | HALF_JUMPS, "model.guidance", dict(model__guidance=False, objective__consistency__s_min=0.25)),
    (TAUGHT | HALF_JUMPS | dict(model__guidance=False), "objective.consistency.s_min", dict(objective__consistency__s_min=0.25)),
    (
        TAUGHT | HALF_JUMPS | dict(model__guidance=False, objective__consistency__at_zero=0.0),
        "objective.teacher.scales",
        dict(objective__teacher__scales=(1.0,)),
    ),
    (HEADS | dict(objective__adversarial__weight=0.0), "objective.adversarial.weight", dict(objective__adversarial__weight=0.5)),
    (HEADS | dict(train__steps=1, optim__warmup=0), "train.steps", dict(train__steps=2)),
    (
        JUMPS | dict(objective__consistency__form="trig", objective__consistency__weighting="l1"),
        "objective.consistency.weighting",
        dict(objective__consistency__weighting="learned"),
    ),
    (
        JUMPS | dict(objective__consistency__prior=True, objective__consistency__weighting="l1"),
        "objective.consistency.prior",
        dict(objective__consistency__prior=False),
    ),
    (
        JUMPS | dict(objective__consistency__form="trig", objective__consistency__at_zero=0.5, objective__consistency__s_min=0.25),
        "objective.consistency.form",
        dict(objective__consistency__form="linear"),
    ),
]


@pytest.mark.parametrize(("bad", "path", "mend"), RULES)
def test_rules_between_fields(bad, path, mend):
    first = {"data__batch": 60} | bad
    assert refusal(config.from_dict, with_values(**first)).startswith(f"config.{path} = ")
    config.from_dict(with_values(**(first | mend)))


PICTURE_RULES = [
    (dict(model__net="mlp"), "model.net", dict(model__net="sana")),
    (dict(data__size=18, model__patch=4), "data.size", dict(data__size=20)),
    (dict(model__width=64, model__heads=5, model__cross_heads=2), "model.width", dict(model__width=60)),
    (dict(model__width=64, model__cross_heads=5), "model.width", dict(model__cross_heads=4)),
    (dict(model__width=62, model__heads=2, model__cross_heads=2, model__positions="sincos"), "model.width", dict(model__positions="none")),
]


@pytest.mark.parametrize("kind", ["shapes", "pictures"])
@pytest.mark.parametrize(("bad", "path", "mend"), PICTURE_RULES)
def test_rules_of_the_picture_network(kind, bad, path, mend):
    first = {"data__batch": 60} | bad
    assert refusal(config.from_dict, with_values(kind, **first)).startswith(f"config.{path} = ")
    config.from_dict(with_values(kind, **(first | mend)))


def test_points_are_not_held_to_the_fields_of_the_picture_network():
    config.from_dict(with_values(data__batch=60, data__size=3, model__patch=2, model__width=63, model__heads=4, model__positions="sincos"))


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (dict(data__size=8), "data.size"),
        (dict(data__colors=("red", "red")), "data.colors"),
        (dict(data__wrong_relation=0.7, data__missing_relation=0.4), "data.wrong_relation"),
        (dict(data__chain=2, data__shapes=("ring", "cross")), "data.chain"),
        (dict(data__chain=2, model__text__length=20), "model.text.length"),
    ],
)
def test_rules_of_the_shapes_world(bad, path):
    assert refusal(config.from_dict, with_values("shapes", **bad)).startswith(f"config.{path} = ")


FLUX = dict(model__net="mmdit", model__patch=2, model__depth=4, model__double=1, model__width=64, model__heads=4, model__cross_heads=4)
FLUX |= {f"model__{name}": its for name, its in rules.MMDIT.items()}
FLUX |= dict(model__text__encoder="stored", data__holds=(8, 8, 4, 6, 16, 5))


@pytest.mark.parametrize(
    ("bad", "path", "mend"),
    [
        (dict(data__holds=(8, 8, 4)), "data.holds", dict(data__holds=(8, 8, 4, 6, 16, 0))),
        (dict(model__patch=4), "model.patch", dict(model__patch=2)),
        (dict(model__qk_norm=False), "model.qk_norm", dict(model__qk_norm=True)),
        (dict(model__time_frequency=4.0), "model.time_frequency", dict(model__time_frequency=1.0)),
        (dict(model__double=5), "model.double", dict(model__double=4)),
        (dict(model__width=24), "model.width", dict(model__width=32)),
        (dict(model__text__encoder="hashed"), "model.text.encoder", dict(model__text__encoder="stored")),
    ],
)
def test_rules_of_a_store_and_of_the_network_of_flux(bad, path, mend):
    first = {"data__batch": 60, **FLUX} | bad
    assert refusal(config.from_dict, with_values("store", **first)).startswith(f"config.{path} = ")
    config.from_dict(with_values("store", **(first | mend)))
