"""Drawing: guidance acts where the network's answers do not hold it already, and nowhere twice."""

import numpy as np
import pytest
import tiny
import toys

from anystep import api
from anystep.errors import UserError
from anystep.models import Pipeline
from anystep.types import Drawing
from anystep.watch import before_jumps

PROMPTS = ["a red ring", "two blue squares"]
INSIDE = [f"--config.objective.consistency.{field}" for field in ("share=1", "velocity=ema", "guidance=2.0", "at_zero=1.0")]
BOTH = ("--config.objective.flow_matching.share=1", "--config.eval.interval=0.0,1.0")
PLAIN = [
    f"--config.objective.consistency.{field}"
    for field in ("share=1", "velocity=data", "guidance=1.0", "at_zero=1.0", "hops=1", "weighting=huber")
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    out = {}
    for name, jumps in (("inside", INSIDE), ("plain", PLAIN), ("none", [*PLAIN, "--config.objective.consistency.share=0"])):
        model = api.pipeline(tiny.config("shapes", tmp_path_factory.mktemp("x"), *jumps, *BOTH))
        out[name] = model, {role: toys.random_params(getattr(model, role)) for role in ("net", "text")}
    return out


def drawn(found, scale, steps=2, **how):
    return np.asarray(api.sample_array(*found, PROMPTS, steps=steps, guide=scale, **how))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, sampler, ask",
    [
        ("inside", "euler", "now"),
        ("inside", "heun", "zero"),  # asks s = t whatever is said
        ("inside", "dpm", "zero"),  # so does this
        ("plain", "restart", "zero"),
        ("none", "restart", "zero"),  # asked s = t: there are no jumps
    ],
)
def test_where_the_scale_acts(models, name, sampler, ask):
    one, three = (drawn(models[name], scale, sampler=sampler, ask=ask) for scale in (1.0, 3.0))
    assert np.abs(one - three).max() > 1e-3


@pytest.mark.slow
def test_the_noise_of_a_row_is_that_of_its_number(models):
    ahead, late, early = (
        api.sample_array(*models["none"], asked, steps=1, guide=1.0, first=first)
        for asked, first in ((PROMPTS, 0), (PROMPTS[::-1], 1), (PROMPTS[::-1], 0))
    )
    scale = np.abs(ahead).max()
    assert np.abs(late[0] - ahead[1]).max() < 1e-5 * scale and np.abs(early[0] - ahead[1]).max() > 1e-3 * scale


@pytest.mark.slow
def test_a_scale_that_cannot_act_is_refused(models):
    """Every answer is a jump that was trained under guidance."""
    with pytest.raises(UserError, match=r"guidance scale 3.0: cannot act.* under guidance 2; with sampler 'euler' and ask 'now'"):
        drawn(models["inside"], 3.0, sampler="restart", ask="zero")
    assert api.guidance(models["inside"][0].drawing, None, "restart", "zero") == (2.0, "all")
    assert np.isfinite(drawn(models["inside"], None, sampler="restart", ask="zero")).all()


def test_who_never_learned_without_a_prompt_is_not_guided():
    drawing = Drawing(lambda steps, tokens: [1.0, 0.0], 1, (1,), "euler", "now", unprompted=False)
    assert api.guidance(drawing, None, "euler", "now") == (1.0, "")
    with pytest.raises(UserError, match="guidance scale 2: allowed 1"):
        api.guidance(drawing, 2.0, "euler", "now")


def test_jumps_are_no_velocities():
    drawing = Drawing(lambda steps, tokens: [1.0, 0.0], 1, (1,), "restart", "zero", told=0.1, jumps_only=True)
    assert api.guidance(drawing, 3.0, "euler", "zero") == (3.0, "all")
    for sampler in ("heun", "dpm"):
        with pytest.raises(UserError, match=f"sampler '{sampler}': allowed restart, ddim, ddim_ratio or euler"):
            api.guidance(drawing, 3.0, sampler, "zero")
    for ask in ("next", "now", "half"):
        with pytest.raises(UserError, match=f"ask '{ask}': allowed 'zero'"):
            api.walking(Pipeline(None, None, drawing, None), "euler", ask)


def test_before_its_jumps_a_model_is_drawn_along_velocities():
    for sampler, walked in (("restart", "euler"), ("dpm", "dpm")):
        drawing = Drawing(lambda steps, tokens: [1.0, 0.0], 1, (1,), sampler, "zero", scale=3.0, learned=2.0, jumps_only=True)
        early = before_jumps(Pipeline(None, None, drawing, None)).drawing
        assert (early.sampler, early.ask) == (walked, "now") and api.guidance(early, None, walked, "now") == (3.0, "")
        early = before_jumps(Pipeline(None, None, drawing._replace(unprompted=False), None)).drawing
        assert api.guidance(early, None, walked, "now") == (1.0, "")


@pytest.mark.slow
def test_another_walk_of_its_own(models):
    model, params = models["inside"]
    other = api.walking(model, "euler", "now", 3.0)
    same = drawn(models["inside"], 3.0, sampler="euler", ask="now")
    np.testing.assert_array_equal(drawn((other, params), None), same)
    assert api.walking(model) == model
    with pytest.raises(UserError, match="guidance scale 3.0: cannot act"):
        api.walking(model, "restart", "zero", 3.0)


@pytest.mark.slow
def test_a_jump_that_holds_guidance_is_not_guided_again(models):
    """One step asked "next" is a jump to s = 0: the scale changes it only where the jumps were trained without."""
    for name, acts in (("inside", False), ("plain", True)):
        one, three = (drawn(models[name], scale, steps=1, sampler="euler", ask="next") for scale in (1.0, 3.0))
        assert (np.abs(one - three).max() > 1e-3) == acts, name


def test_a_flow_map_by_way_of_the_data_is_asked_for_nothing_but_jumps(tmp_path):
    """Restart and ddim ask a map for s = 0 whatever they were told, and there its jumps hold the guidance."""
    jumps = ("share=1", "at_zero=0.5", "s_min=0.25", "velocity=ema", "guidance=2.0", "nodes=4")
    alone = ("self_evaluation.share=0", *(f"consistency.{field}" for field in jumps))
    twin = tiny.config("smoke", tmp_path, *(f"--config.objective.{field}" for field in alone), "--config.data.batch=9")
    for sampler in ("restart", "ddim", "ddim_ratio"):
        for ask in ("next", "now", "half", "zero"):
            assert api.guidance(api.drawing_of(twin), None, sampler, ask) == (2.0, "all")
            with pytest.raises(UserError, match="guidance scale 3.0: cannot act"):
                api.guidance(api.drawing_of(twin), 3.0, sampler, ask)
    assert api.guidance(api.drawing_of(twin), 3.0, "euler", "next") == (3.0, "jumps")


def test_a_student_of_one_time_has_its_guidance_in_every_answer(tmp_path):
    """Told the scale, or trained under the mean of some: nothing is extrapolated, and of the latter no other scale can be had."""
    flags = ["consistency.share=1", "consistency.velocity=teacher", "self_evaluation.share=0", "flow_matching.share=0"]
    flags = [f"--config.objective.{flag}" for flag in (*flags, "teacher.scales=1.5,2.5")]
    flags += ["--config.model.second_time=False", "--config.eval.sampler=restart", "--config.eval.ask=zero", "--config.eval.scale=2.25"]
    plain, told = (api.drawing_of(tiny.config("smoke", tmp_path, *flags, f"--config.model.guidance={said}")) for said in (False, True))
    assert api.guidance(plain, None, "restart", "zero") == api.guidance(plain, None, "euler", "zero") == (2.0, "all")
    with pytest.raises(UserError, match="trained under guidance 2$"):
        api.guidance(plain, 3.0, "restart", "zero")
    assert told.told == 0.1 and plain.told == 0.0
    assert api.guidance(told, None, "restart", "zero") == (2.25, "all") and api.guidance(told, 1.5, "restart", "zero") == (1.5, "all")
