"""Rules between fields. Each takes a ConfigDict whose fields are all in range and raises UserError.

RULES is the order in which they are asked.
"""

import math

from anystep.config.objective_rules import (
    jumps_have_a_teacher,
    null_prompt_is_trained,
    one_meaning_of_s,
    one_time_has_one_answer,
    path_has_objective,
    prompts_are_there,
    refuse,
    self_evaluation_is_trained,
    shares,
    some_objective,
    something_to_ask,
    the_fake_term_is_trained,
    the_form_fits,
    the_teacher_is_used,
    velocities_are_trained,
    warmup_fits,
)
from anystep.stores import read_index


def sides(c):
    """(height, width) of a sample, None of a store that no path leads to yet."""
    if c.data.kind != "store":
        return c.data.size, c.data.size
    return tuple(read_index(c.data.path)["picture"]["shape"][:2]) if c.data.path else tuple(c.data.holds[:2]) or None


def one_shift(c):
    base, found = c.objective.time.base_tokens, sides(c)
    if not base or not found:
        return
    if c.objective.time.shift != 1:
        refuse("objective.time.shift", c.objective.time.shift, "1 next to config.objective.time.base_tokens, which sets it")
    tokens = 1 if c.model.net == "mlp" else (found[0] // c.model.patch) * (found[1] // c.model.patch)
    shift = math.exp(max(min(0.5 + 0.65 * (tokens - base) / (4096 - base), 99.0), -99.0))  # times.flux_shift, which needs jax
    if not 0.01 <= shift <= 100:
        refuse("objective.time.base_tokens", base, f"one that gives {tokens} tokens a shift of 0.01 to 100, not {shift:.3g}")


def batch_splits(c):
    """Every device keeps whole groups of rows, so that an objective's rows never move between devices."""
    rows, devices = sum(shares(c).values()), max(c.mesh.data, 1) * c.mesh.fsdp
    if c.data.batch % (rows * devices):
        why = f"{rows} (sum of the objectives' shares) * {devices} (devices asked in config.mesh)"
        refuse("data.batch", c.data.batch, f"divisible by {rows * devices} = {why}")


def stream_fits(c):
    most = (2**31 - 1) // c.data.batch
    if c.train.steps > most:
        refuse("train.steps", c.train.steps, f"<= {most} for config.data.batch = {c.data.batch}: rows of the stream are counted in int32")


def mesh_is_real(c):
    if c.mesh.data == 0:
        refuse("mesh.data", 0, "-1 (all devices) or >= 1")


def net_fits_data(c):
    if (c.model.net == "mlp") != (c.data.kind == "mixture2d"):
        net, kinds = ("'mlp'", "") if c.data.kind == "mixture2d" else ("'sana' or 'mmdit'", ", 'mlp' draws points only")
        refuse("model.net", c.model.net, f"{net} for config.data.kind = {c.data.kind!r}{kinds}")


def patches_fit(c):
    if c.model.net == "mlp" or not any(side % c.model.patch for side in sides(c) or ()):
        return
    if c.data.kind == "store":
        refuse("model.patch", c.model.patch, f"a divisor of the store's {' x '.join(map(str, sides(c)))} positions")
    refuse("data.size", c.data.size, f"divisible by config.model.patch = {c.model.patch}")


def heads_fit(c):
    asked = [("model.text.width", c.model.text.width, c.model.text.heads)]
    if c.model.net != "mlp":
        asked += [("model.width", c.model.width, heads) for heads in (c.model.heads, c.model.cross_heads)]
    for path, width, heads in asked:
        if width % heads:
            refuse(path, width, f"divisible by its heads, {heads}")


def positions_fit(c):
    if c.model.net != "mlp" and c.model.positions == "sincos" and c.model.width % 4:
        refuse("model.width", c.model.width, "divisible by 4 for config.model.positions = 'sincos'")


def additions_fit(c):
    m = c.model
    for name in ("control", "rank"):
        if m[name] and m.net == "mlp":
            refuse(f"model.{name}", m[name], "0 for config.model.net = 'mlp'")
    if m.control and m.rank:
        refuse("model.rank", m.rank, "0 beside config.model.control: one addition at a time")
    if m.rank and not m.frozen:
        refuse("model.frozen", False, "True for config.model.rank: additions to kernels that move themselves are none")
    if m.frozen and not (m.control or m.rank):
        refuse("model.frozen", True, "False without config.model.control or config.model.rank: nothing would be trained")
    if c.objective.control_dropout and not m.control:
        refuse("objective.control_dropout", c.objective.control_dropout, "0 without config.model.control")
    if not m.control:
        return
    if m.net != "sana":
        refuse("model.control", m.control, "0 for config.model.net = 'mmdit'")
    if c.data.kind == "store":
        refuse("model.control", m.control, "0 for config.data.kind = 'store': edges are taken from pictures")
    if m.control >= m.depth:
        refuse("model.control", m.control, f"< config.model.depth = {m.depth}: residual k is added after block k + 1")
    if c.objective.self_evaluation.share and c.objective.self_evaluation.auxiliary_k < 1:
        refuse("model.control", m.control, "0 for config.objective.self_evaluation.auxiliary_k < 1, whose fakes have no edges")


def store_is_the_one_meant(c):
    if c.data.kind != "store" or not c.data.holds:
        return
    if len(c.data.holds) != 6 or not all(c.data.holds[:5]):
        refuse("data.holds", c.data.holds, "() or six numbers: rows, columns, channels, tokens, width, pooled width or 0")
    if c.data.path:
        index = read_index(c.data.path)
        text = index["text"] or {"length": c.data.holds[3], "width": c.data.holds[4], "pooled": c.data.holds[5]}
        found = (*index["picture"]["shape"], text["length"], text["width"], text["pooled"])
        most = tuple(c.data.holds)
        if (*found[:3], *found[4:]) != (*most[:3], *most[4:]) or found[3] > most[3]:  # its longest prompt may be shorter than what is cut
            refuse("data.holds", c.data.holds, f"(), or what the store holds: {found}, tokens at most")


MMDIT = {"attention": "softmax", "ffn": "mlp", "mlp_ratio": 4.0, "positions": "none", "qk_norm": True, "stem": 0, "predicts": "v"}
MMDIT |= {"time_frequency": 1.0, "time_span": 10000.0}  # FLUX's


def mmdit_fits(c):
    if c.model.net != "mmdit":
        return
    if c.model.patch != 2:
        refuse("model.patch", c.model.patch, "2 for config.model.net = 'mmdit'")
    if c.model.double > c.model.depth:
        refuse("model.double", c.model.double, f"<= config.model.depth = {c.model.depth}")
    if c.model.width % c.model.heads == 0 and (c.model.width // c.model.heads) % 4:
        refuse("model.width", c.model.width, f"divisible by 4 * config.model.heads = {4 * c.model.heads} for 'mmdit', whose heads turn")
    for name, its in MMDIT.items():
        if c.model[name] != its:
            refuse(f"model.{name}", c.model[name], f"{its!r} for config.model.net = 'mmdit', which knows nothing else")
    if c.model.text.encoder != "stored":
        refuse("model.text.encoder", c.model.text.encoder, "stored for 'mmdit', which wants a pooled vector of each prompt")
    if c.path.name != "linear":
        refuse("path.name", c.path.name, "'linear' for config.model.net = 'mmdit'")


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
    if c.data.chain >= len(c.data.shapes):
        refuse("data.chain", c.data.chain, f"< {len(c.data.shapes)}, the number of config.data.shapes: no two things of a chain are alike")
    if c.data.chain > 1 and c.model.text.encoder == "hashed" and c.model.text.length < (least := 7 + 7 * c.data.chain):
        refuse("model.text.length", c.model.text.length, f">= {least} for config.data.chain = {c.data.chain}, whose captions are so long")


def albums_have_weights(c):
    if c.data.kind == "pictures" and len(c.data.weights) != max(len(c.data.path), 1):
        refuse("data.weights", c.data.weights, f"{max(len(c.data.path), 1)} numbers, one for each of config.data.path")
    if c.data.kind == "store" and c.data.path and len(c.data.weights) != (count := len(read_index(c.data.path)["albums"])):
        refuse("data.weights", c.data.weights, f"{count} numbers, one for each source of the store")


RULES = (
    world_is_drawable,
    albums_have_weights,
    store_is_the_one_meant,
    one_shift,
    some_objective,
    mesh_is_real,
    batch_splits,
    stream_fits,
    net_fits_data,
    patches_fit,
    heads_fit,
    positions_fit,
    prompts_are_there,
    warmup_fits,
    one_meaning_of_s,
    one_time_has_one_answer,
    the_teacher_is_used,
    additions_fit,
    the_form_fits,
    mmdit_fits,
    null_prompt_is_trained,
    jumps_have_a_teacher,
    self_evaluation_is_trained,
    the_fake_term_is_trained,
    path_has_objective,
    something_to_ask,
    velocities_are_trained,
    report_is_ordered,
)
