"""`any_step` at 64 pixels: the same methods and claims with the network, world and schedule of `shapes64`, for one GPU. Nothing of it was
run."""

from anystep.bench.plans import any_step

LATE = "objective.self_evaluation.auxiliary_start="


def get_plan():
    plan = any_step.get_plan()
    for spec in plan["methods"].values():
        spec["overrides"] = [override.replace(LATE + "1000", LATE + "6000") for override in spec["overrides"]]
    world = ["objective.self_evaluation.share=0", "objective.consistency.share=1", "eval.interval=(0.0, 1.0)", "checkpoint.every=1250"]
    return plan | dict(config="shapes64", world=world, at_steps=(7500,))
