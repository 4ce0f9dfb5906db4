"""Rules about what is trained: objectives, what they ask, and of whom. Each takes a ConfigDict whose fields are all in range and raises
UserError; `rules` says in which order they are asked.
"""

from anystep.errors import UserError


def refuse(path, value, must):
    raise UserError(f"config.{path} = {value!r} ({type(value).__name__}): must be {must}")


def shares(c):
    return {name: c.objective[name].share for name in ("flow_matching", "self_evaluation", "consistency", "adversarial")}


def has_teacher(c):
    return bool(c.objective.adversarial.share or (c.objective.consistency.share and c.objective.consistency.velocity == "teacher"))


def own_steps(c):
    """(how many steps train the network, how a refusal calls them): beside adversarial every other one."""
    if c.objective.adversarial.share:
        return c.train.steps // 2, f"{c.train.steps // 2}, half of config.train.steps, the other half is the heads'"
    return c.train.steps, f"config.train.steps = {c.train.steps}"


def some_objective(c):
    if not any(shares(c).values()):
        refuse("objective.flow_matching.share", 0, ">= 1 for at least one of " + ", ".join(shares(c)))


def prompts_are_there(c):
    text, e = c.model.text, c.objective.self_evaluation
    if text.encoder == "stored" and c.data.kind != "store":
        refuse("model.text.encoder", "stored", "hashed or minilm without config.data.kind = 'store'")
    if text.encoder == "stored" and e.share and e.auxiliary_k < 1:
        refuse("objective.self_evaluation.auxiliary_k", e.auxiliary_k, "1 for config.model.text.encoder = 'stored', which has no fakes")
    if text.folder and text.encoder != "minilm":
        refuse("model.text.folder", text.folder, f"'' for config.model.text.encoder = {text.encoder!r}")


def warmup_fits(c):
    steps, called = own_steps(c)
    if c.optim.warmup > steps:
        refuse("optim.warmup", c.optim.warmup, f"<= {called}")


def one_meaning_of_s(c):
    """Self-E asks that the re-noised answer is right at level s, MeanFlow for the end of the path at s: they agree at s = t only."""
    jumps = [name for name in ("consistency", "adversarial") if c.objective[name].share]
    if not (c.objective.self_evaluation.share and jumps):
        return
    if "consistency" in jumps and (share := c.objective.consistency.at_zero) < 1:
        refuse("objective.consistency.at_zero", share, "1 next to self_evaluation: on 0 < s < t they ask one input for two answers")
    if c.objective.self_evaluation.s_min == 0:
        refuse("objective.self_evaluation.s_min", 0.0, f"> 0 next to {jumps[0]}, which owns s = 0: its limit there is another answer")


def one_time_has_one_answer(c):
    """Without s the velocity and the jump to 0 are answers to one question."""
    if c.model.second_time:
        return
    o = c.objective
    jumps = [name for name in ("consistency", "adversarial") if o[name].share]
    if o.self_evaluation.share:
        refuse("objective.self_evaluation.share", o.self_evaluation.share, "0 for config.model.second_time = False: it asks for s < t")
    if o.flow_matching.share and jumps:
        must = f"0 next to {jumps[0]} for config.model.second_time = False: one input, two answers"
        refuse("objective.flow_matching.share", o.flow_matching.share, must)
    if o.consistency.share and o.consistency.at_zero < 1:
        refuse("objective.consistency.at_zero", o.consistency.at_zero, "1 for config.model.second_time = False: it asks for s > 0")
    if o.adversarial.share and o.consistency.share and o.consistency.start:
        must = "0 next to adversarial for config.model.second_time = False: before it one input has two answers"
        refuse("objective.consistency.start", o.consistency.start, must)
    if jumps:
        drawn_by_jumps(c, "for config.model.second_time = False, whose answers are jumps to 0")


def drawn_by_jumps(c, why):
    if c.eval.ask != "zero":
        refuse("eval.ask", c.eval.ask, f"'zero' {why}")
    if c.eval.sampler not in ("restart", "ddim", "ddim_ratio"):
        refuse("eval.sampler", c.eval.sampler, f"'restart' or 'ddim' {why}")


def only_jumps(c):
    """Whether jumps to s = 0 are all that is trained: they say nothing of s = t."""
    o = c.objective
    jumps = o.adversarial.share or (o.consistency.share and o.consistency.at_zero == 1)
    return bool(jumps and not (o.flow_matching.share or o.self_evaluation.share or (o.consistency.share and o.consistency.at_zero < 1)))


def velocities_are_trained(c):
    if c.model.second_time and only_jumps(c):
        drawn_by_jumps(c, "without flow_matching: nothing trains the velocity at s = t")


def the_teacher_is_used(c):
    t, a, jumps = c.objective.teacher, c.objective.adversarial, c.objective.consistency
    if not has_teacher(c):
        if t.folder:
            refuse("objective.teacher.folder", t.folder, "'' without consistency along a teacher and without adversarial: nothing asks it")
        if c.model.guidance:
            refuse("model.guidance", True, "False without a teacher: no guidance scale is drawn")
        return
    if c.path.name == "trig":
        refuse("path.name", "trig", "'linear' beside a teacher; config.objective.consistency.form = 'trig' is sCM's own measure")
    if c.model.guidance and jumps.share and jumps.velocity != "teacher":
        refuse("model.guidance", True, "False for jumps along anything but a teacher: no scale is behind them")
    if c.model.guidance and not jumps.share:
        refuse("model.guidance", True, "False without consistency: nothing else is learned under a scale")
    if c.model.guidance and (c.objective.flow_matching.share or c.objective.self_evaluation.share or jumps.at_zero < 1):
        refuse("model.guidance", True, "False next to what is learned at s > 0, which no scale is behind")
    guided = set(t.scales) != {1.0}
    if guided and not (jumps.share and jumps.velocity == "teacher"):
        refuse("objective.teacher.scales", t.scales, "(1.0,) without consistency along the teacher: the heads ask for no velocity")
    if guided and jumps.share and jumps.velocity == "teacher" and jumps.at_zero == 0:
        refuse("objective.teacher.scales", t.scales, "(1.0,) for at_zero = 0: only jumps to s = 0 are guided")
    if guided and jumps.share and jumps.velocity == "teacher" and jumps.at_zero < 1 and jumps.s_min == 0:
        refuse("objective.consistency.s_min", 0.0, "> 0 for guided jumps to s = 0 next to plain ones above: their limit is another answer")
    if a.share and a.misaligned and c.data.batch < 2:
        refuse("objective.adversarial.misaligned", True, "False for config.data.batch = 1: there is no other picture")
    if a.share and list(a.blocks) != sorted(set(a.blocks)):
        refuse("objective.adversarial.blocks", a.blocks, "increasing")
    if a.share and not a.weight:
        refuse("objective.adversarial.weight", 0.0, "> 0 next to a share")
    if a.share and c.train.steps < 2:
        refuse("train.steps", c.train.steps, ">= 2 for adversarial: the heads take the first step, the network the second")


def the_form_fits(c):
    jumps = c.objective.consistency
    if not jumps.share:
        return
    if jumps.form == "trig" and jumps.at_zero < 1:
        refuse("objective.consistency.form", "trig", "'linear' for at_zero < 1: TrigFlow's consistency knows s = 0 alone")
    if jumps.form == "trig" and jumps.at_noise:
        refuse("objective.consistency.at_noise", jumps.at_noise, "0 for form = 'trig', whose step is nothing at t = 1")
    if jumps.form == "trig" and jumps.weighting == "l1":
        refuse("objective.consistency.weighting", "l1", "another for form = 'trig': it measures where the linear path's jump ends")
    if jumps.prior and jumps.weighting == "l1":
        refuse("objective.consistency.prior", True, "False for weighting = 'l1', which has no squares to weigh")


def null_prompt_is_trained(c):
    if c.objective.prompt_dropout:
        return
    if c.objective.self_evaluation.share:
        refuse("objective.prompt_dropout", 0.0, "> 0 for self_evaluation, which asks for the null prompt too")
    if c.objective.consistency.share and c.objective.consistency.guidance != 1:
        refuse("objective.prompt_dropout", 0.0, "> 0 for config.objective.consistency.guidance, which asks for the null prompt too")
    if c.eval.scale != 1 and not c.model.guidance and not holds_its_guidance(c):
        why = "guidance would extrapolate from what is never learned"
        refuse("eval.scale", c.eval.scale, f"1 for config.objective.prompt_dropout = 0: {why}")


def holds_its_guidance(c):
    """Whether what is drawn by default are jumps along a teacher's guided velocity."""
    jumps = c.objective.consistency
    learned = jumps.share and jumps.velocity == "teacher" and set(c.objective.teacher.scales) != {1.0}
    return learned and (c.eval.ask == "zero" or not c.model.second_time)


def jumps_have_a_teacher(c):
    jumps = c.objective.consistency
    if not jumps.share:
        return
    if not jumps.weight:
        refuse("objective.consistency.weight", 0.0, "> 0 next to a share: samplers would trust jumps that nothing trains")
    if jumps.at_zero == 1 and jumps.s_min:
        refuse("objective.consistency.s_min", jumps.s_min, "0 for at_zero = 1: no row asks for s > 0")
    if jumps.velocity != "ema" and jumps.guidance != 1:
        other = "a teacher is asked under config.objective.teacher.scales" if jumps.velocity == "teacher" else "velocity = 'ema' is guided"
        refuse("objective.consistency.guidance", jumps.guidance, f"1 along the {jumps.velocity}; {other}")
    if jumps.at_zero == 0 and jumps.guidance != 1:
        refuse("objective.consistency.guidance", jumps.guidance, "1 for at_zero = 0: only jumps to s = 0 are guided")
    if jumps.at_zero == 0 and jumps.s_min:
        refuse("objective.consistency.s_min", jumps.s_min, "0 for at_zero = 0: nothing else trains s = 0, where every sampler ends")
    if 0 < jumps.at_zero < 1 and jumps.guidance != 1 and jumps.s_min == 0:
        refuse("objective.consistency.s_min", 0.0, "> 0 for guided jumps to s = 0 next to plain ones above: their limit is another answer")
    if jumps.velocity == "data" and jumps.weighting == "l1":
        refuse("objective.consistency.weighting", "l1", "none, adaptive or huber along the data, whose median is not their mean")
    if jumps.hops > max(jumps.nodes, 1):
        refuse("objective.consistency.hops", jumps.hops, f"<= config.objective.consistency.nodes = {jumps.nodes}, or 1 by the derivative")
    if jumps.hops > 1 and jumps.velocity == "data":
        refuse("objective.consistency.hops", jumps.hops, "1 along the data, a straight line that only its first point belongs to")
    steps, called = own_steps(c)
    if jumps.start >= steps:
        refuse("objective.consistency.start", jumps.start, f"< {called}: no jump would be trained")
    if jumps.start + jumps.warmup > steps:
        refuse("objective.consistency.warmup", jumps.warmup, f"together with start = {jumps.start} <= {called}")
    if jumps.velocity == "ema" and not (c.objective.flow_matching.share and c.objective.flow_matching.weight):
        refuse("objective.consistency.velocity", "ema", "'data' without config.objective.flow_matching.share: nothing else trains s = t")
    if jumps.interval[0] >= jumps.interval[1]:
        refuse("objective.consistency.interval", jumps.interval, "t_low < t_high")


def self_evaluation_is_trained(c):
    e = c.objective.self_evaluation
    if not e.share:
        return
    if not e.weight:
        refuse("objective.self_evaluation.weight", 0.0, "> 0 next to a share: samplers would trust answers that nothing trains")
    steps, called = own_steps(c)
    if e.start + e.anneal >= steps:
        must = f"less than {called} together with anneal = {e.anneal}"
        refuse("objective.self_evaluation.start", e.start, must)


def the_fake_term_is_trained(c):
    e = c.objective.self_evaluation
    if not (e.share and e.auxiliary_k < 1):
        return
    most = own_steps(c)[0] - e.auxiliary_warmup
    if not e.start <= e.auxiliary_start < most:
        must = f">= config.objective.self_evaluation.start = {e.start} and < {most}, the steps less auxiliary_warmup"
        refuse("objective.self_evaluation.auxiliary_start", e.auxiliary_start, must)
    if e.auxiliary_weight == 0:
        refuse("objective.self_evaluation.auxiliary_weight", 0.0, "> 0 for auxiliary_k < 1: a fake that nothing trains would steer")


def path_has_objective(c):
    if c.path.name == "trig" and (c.objective.self_evaluation.share or c.objective.consistency.share):
        refuse("path.name", "trig", "'linear' for self_evaluation and consistency, which are derived on it")


def something_to_ask(c):
    """Consistency at s = 0 alone knows two questions, s = t and s = 0: half is neither."""
    jumps = c.objective.consistency.share and c.objective.consistency.at_zero == 1
    if c.eval.ask == "half" and jumps and not c.objective.self_evaluation.share:
        refuse("eval.ask", "half", "next, now or zero for consistency at s = 0 alone, which has no answer there")
