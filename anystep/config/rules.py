"""Rules between fields. Each takes a ConfigDict whose fields are all in range and raises UserError.

RULES is the order in which they are asked.
"""

from anystep.errors import UserError


def refuse(path, value, must):
    raise UserError(f"config.{path} = {value!r} ({type(value).__name__}): must be {must}")


def shares(c):
    return {name: c.objective[name].share for name in ("flow_matching", "self_evaluation", "consistency")}


def some_objective(c):
    if not any(shares(c).values()):
        refuse("objective.flow_matching.share", 0, ">= 1 for at least one of " + ", ".join(shares(c)))


def batch_splits(c):
    rows, devices = sum(shares(c).values()), max(c.mesh.data, 1) * c.mesh.fsdp
    if c.data.batch % rows:
        refuse("data.batch", c.data.batch, f"divisible by {rows}, the sum of the objectives' shares")
    if c.data.batch % devices:
        refuse("data.batch", c.data.batch, f"divisible by {devices}, the devices asked in config.mesh")


def mesh_is_real(c):
    if c.mesh.data == 0:
        refuse("mesh.data", 0, "-1 (all devices) or >= 1")


def patches_fit(c):
    if c.data.size % c.model.patch:
        refuse("data.size", c.data.size, f"divisible by config.model.patch = {c.model.patch}")


def heads_fit(c):
    for path, width, heads in (
        ("model.width", c.model.width, c.model.heads),
        ("model.width", c.model.width, c.model.cross_heads),
        ("model.text.width", c.model.text.width, c.model.text.heads),
    ):
        if width % heads:
            refuse(path, width, f"divisible by its heads, {heads}")


def positions_fit(c):
    if c.model.positions == "sincos" and c.model.width % 4:
        refuse("model.width", c.model.width, "divisible by 4 for config.model.positions = 'sincos'")


def warmup_fits(c):
    if c.optim.warmup > c.train.steps:
        refuse("optim.warmup", c.optim.warmup, f"<= config.train.steps = {c.train.steps}")


def one_meaning_of_s(c):
    """Self-E asks that the re-noised answer is right at level s, MeanFlow for the end of the path at s: they agree at s = t only."""
    if not (c.objective.self_evaluation.share and c.objective.consistency.share):
        return
    if c.objective.consistency.s_law == "uniform":
        refuse("objective.consistency.s_law", "uniform", "'zero' next to self_evaluation: on 0 < s < t they ask one input for two answers")
    if c.objective.self_evaluation.s_min == 0:
        refuse("objective.self_evaluation.s_min", 0.0, "> 0 next to consistency, which owns s = 0: its limit there is another answer")


def null_prompt_is_trained(c):
    if c.objective.self_evaluation.share and not c.objective.prompt_dropout:
        refuse("objective.prompt_dropout", 0.0, "> 0 for self_evaluation, which asks for the null prompt too")


def path_has_objective(c):
    map_anywhere = c.objective.consistency.share and c.objective.consistency.s_law == "uniform"
    if c.path.name == "trig" and (c.objective.self_evaluation.share or map_anywhere):
        refuse("path.name", "trig", "'linear' for self_evaluation and for config.objective.consistency.s_law = 'uniform'")


def report_is_ordered(c):
    if list(c.eval.steps) != sorted(set(c.eval.steps)):
        refuse("eval.steps", c.eval.steps, "increasing")
    low, high = c.eval.interval
    if low >= high:
        refuse("eval.interval", c.eval.interval, "t_low < t_high")


def world_is_drawable(c):
    if c.data.kind != "shapes":
        return
    if c.data.size < 16:
        refuse("data.size", c.data.size, ">= 16 for config.data.kind = 'shapes'")
    for name in ("shapes", "colors"):
        if len(set(c.data[name])) < len(c.data[name]):
            refuse(f"data.{name}", c.data[name], "names without repetition")
    if c.data.wrong_relation + c.data.missing_relation > 1.0:
        refuse("data.wrong_relation", c.data.wrong_relation, f"<= 1 - config.data.missing_relation = {1 - c.data.missing_relation}")


RULES = (
    world_is_drawable,
    some_objective,
    mesh_is_real,
    batch_splits,
    patches_fit,
    heads_fit,
    positions_fit,
    warmup_fits,
    one_meaning_of_s,
    null_prompt_is_trained,
    path_has_objective,
    report_is_ordered,
)
