"""`sprint` at 64 pixels, all silhouettes and colours, the network of the config `shapes64`, for one GPU. Nothing of it was run."""

from anystep.bench.plans import sprint

WORLD = [
    "checkpoint.every=2000",
    "data.batch=256",
    "data.size=64",
    "data.shapes=('ring', 'square', 'triangle', 'cross', 'circle', 'diamond', 'heart', 'star', 'crescent')",
    "data.colors=('red', 'yellow', 'green', 'blue', 'purple', 'black', 'orange', 'pink', 'brown')",
    "model.width=384",
    "model.depth=8",
    "model.heads=6",
    "model.cross_heads=6",
    "model.dtype=bfloat16",
    "model.text.length=16",
    "model.text.width=128",
    "objective.time.shift=6.0",
    "objective.consistency.warmup=1000",
    "optim.warmup=200",
]
BLOCKS = "objective.adversarial.blocks=(3, 7)"


def get_plan():
    plan = sprint.get_plan(8000, WORLD)
    for name, spec in plan["methods"].items():
        later = ["objective.time.shift=6.0"]
        if not name.startswith("teacher"):  # the same laws before a shift of 6: -0.307 - log 6, released 0.893 - log 6
            later = [f"objective.time.mean={-0.899 if sprint.LAW[0] in spec['overrides'] else -2.099}", BLOCKS]
        spec["overrides"] = spec["overrides"] + later
    return plan
