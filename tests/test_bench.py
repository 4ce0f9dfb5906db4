"""Benchmarks ask for configs that exist."""

import pytest

from anystep import config as configs
from anystep.bench import steps


@pytest.mark.parametrize("name", ["shapes", "pictures", "sprint_shapes"])
@pytest.mark.parametrize("case", steps.CASES)
def test_every_case_of_steps_is_a_config_that_passes(name, case):
    config = configs.load(["--config", name, *steps.asked(case)])[0]
    shares, *_ = steps.CASES[case]
    assert [config.objective[objective].share for objective in steps.NAMES] == shares
    flat = configs.flatten(config.to_dict())
    asked = dict(override.removeprefix("--config.").split("=") for override in steps.CASES[case][1]) | {"model.text.depth": "0"}
    asked.pop("objective.teacher.scales", "")
    assert {field: str(flat[field]) for field in asked} == asked
