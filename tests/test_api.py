"""Drawing: guidance acts where the network's answers do not hold it already, and nowhere twice."""

import numpy as np
import pytest
import tiny
import toys

from anystep import api

PROMPTS = ["a red ring", "two blue squares"]
INSIDE = [f"--config.objective.consistency.{field}" for field in ("share=1", "velocity=ema", "guidance=2.0", "s_law=zero")]
PLAIN = [f"--config.objective.consistency.{field}" for field in ("share=1", "velocity=data", "guidance=1.0", "s_law=zero")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    out = {}
    for name, jumps in (("inside", INSIDE), ("plain", PLAIN), ("none", [*PLAIN, "--config.objective.consistency.share=0"])):
        model = api.pipeline(tiny.config("shapes", tmp_path_factory.mktemp("x"), *jumps, "--config.objective.flow_matching.share=1"))
        out[name] = model, {role: toys.random_params(getattr(model, role)) for role in ("net", "text")}
    return out


def drawn(found, scale, **how):
    return np.asarray(api.sample_array(*found, PROMPTS, steps=2, guide=scale, **how))


@pytest.mark.parametrize(
    "name, sampler, ask, acts",
    [
        ("inside", "restart", "zero", False),  # every answer is a jump that was trained under guidance
        ("inside", "euler", "now", True),
        ("inside", "heun", "zero", True),  # asks s = t whatever is said
        ("plain", "restart", "zero", True),
        ("none", "restart", "zero", True),  # asked s = t: there are no jumps
    ],
)
def test_where_the_scale_acts(models, name, sampler, ask, acts):
    one, three = (drawn(models[name], scale, sampler=sampler, ask=ask) for scale in (1.0, 3.0))
    assert (np.abs(one - three).max() > 1e-3) == acts
