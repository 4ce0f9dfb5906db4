"""From a config to Models: the one place where config words choose a network."""

from anystep.nets import mlp, sana, text
from anystep.path import PATHS


def build_models(config, constrain=lambda x: x):
    """{"net": Model, "text": Text} of a config (attribute access; see anystep.config for its fields)."""
    m, t = config.model, config.model.text
    shape = (1, 1, 2) if config.data.kind == "mixture2d" else (config.data.size, config.data.size, 3)
    common = {
        "path": PATHS[config.path.name],
        "ends": ends(config.objective),
        "gap": gap(config.objective),
        "shift": m.shift,
        "scale": m.scale,
    }
    if m.net == "mlp":
        net = mlp.build(mlp.Options(shape, m.width, m.depth, m.time_frequency, m.time_span), t.width, **common)
    else:
        fields = {name: m[name] for name in sana.Options._fields if name in m}
        net = sana.build(sana.Options(shape=shape, **fields), t.width, **common, constrain=constrain)
    return {"net": net, "text": text.build(t.vocabulary, t.length, t.width, t.depth, t.heads)}


def image_tokens(config):
    """How many tokens a picture of this config is cut into; a point is one."""
    return 1 if config.model.net == "mlp" else (config.data.size // config.model.patch) ** 2


def ends(objective):
    """What s < t will have been trained to mean: "hybrid" has jumps to s = 0 alone, with or without self-evaluation above the gap."""
    judged, mapped = objective.self_evaluation.share > 0, objective.consistency.share > 0
    if mapped and objective.consistency.at_zero == 1:
        return "hybrid"
    return "map" if mapped else "renoise" if judged else "none"


def gap(objective):
    """Below which share of t nobody may ask, s = 0 of jumps apart. Consistency at s = 0 alone knows s = t and s = 0."""
    if objective.self_evaluation.share:
        return objective.self_evaluation.s_min
    return {"hybrid": 1.0, "map": objective.consistency.s_min, "none": 0.0}[ends(objective)]
