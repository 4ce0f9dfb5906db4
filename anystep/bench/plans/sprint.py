"""SANA-Sprint in the shapes world: a teacher, its students of 1 to 4 steps, and what each part of the recipe is worth.

The teacher of every seed is trained first and is the beginning of that seed's students. The full student has 1,600 steps of its own beside
as many of its heads, three seeds; the ablations, from the teacher of seed 0, half of that, against a full one of the same length. "LADD
only" has no consistency, and so no guidance behind any scale; "sCM only" no heads, and so every step to itself at half the steps. "no
schedule transfer" measures consistency on the linear path that the teacher learned, not on TrigFlow's circle. "prior twice" divides the
squares by the tangent of the angle once more. "L2 tangent" makes the tangent itself shorter, by the root of the number of values, so that
beside heads little is left of it. "as released" is the full student with the released law of times, learned weight and weight of the heads,
at a third of the rate. "over a grid" takes no derivative: two guided steps of the teacher on a grid of eight and the averages' jump from
there, absolute values, three rows of ten at t = 1, at three times the rate. Goals: at two steps nine tenths of what the teacher draws right
at 32, at one step three quarters, which the teacher itself misses by far.

    anystep bench study --plan sprint64 --runs FOLDER     # the same at 64 pixels, for one GPU
"""

from anystep.bench.plans.any_step import place

OWN, PLAIN = ("restart", "zero", None), ("euler", "now", 2.0)
TEACH = ["objective.flow_matching.share=1", "objective.consistency.share=0", "objective.adversarial.share=0", "model.guidance=False"]
TEACH += ["objective.time.mean=0.0", "objective.time.std=1.0", "objective.time.shift=3.0", "objective.prompt_dropout=0.1", "optim.lr=0.003"]
TEACH += ["eval.sampler=euler", "eval.ask=now"]
NO_NORM = "teacher without q/k norm"
STEPS = 1600  # of a teacher, of the heads and the student of an ablation together; a full student has twice as many
ALONE = "objective.adversarial.share=0"
LAW = ["objective.time.mean=-0.206"]
RELEASED = [*LAW, "objective.consistency.weighting=learned", "objective.adversarial.weight=0.5", "optim.lr=0.0003"]
GRID = ["objective.consistency.nodes=8", "objective.consistency.hops=2", "objective.consistency.form=linear", "optim.lr=0.003"]
GRID += ["objective.consistency.tangent_norm=none", "objective.consistency.weighting=l1", "objective.consistency.warmup=0"]
GRID += ["objective.consistency.at_noise=0.3", *LAW, "objective.adversarial.weight=0.5"]
WITHOUT = {  # what is taken from the recipe
    "sprint, half": [],
    "sCM only": [ALONE],
    "LADD only": ["objective.consistency.share=0", "model.guidance=False", "objective.teacher.scales=(1.0,)", "eval.scale=1.0"],
    "no guidance embedding": ["model.guidance=False", "objective.teacher.scales=(2.0,)"],
    "no max-time": ["objective.adversarial.at_noise=0.0"],
    "no misaligned pairs": ["objective.adversarial.misaligned=False"],
    "L2 tangent": ["objective.consistency.tangent_norm=l2"],
    "prior twice": ["objective.consistency.prior=True"],
    "one level": ["objective.adversarial.one_level=True"],
    "no schedule transfer": ["objective.consistency.form=linear"],
    "no q/k norm": ["model.qk_norm=False"],
    "learned weight": ["objective.consistency.weighting=learned", "objective.adversarial.weight=0.5"],
    "released times": LAW,
    "over a grid": GRID,
    "over a grid, no heads": [*GRID, ALONE],
}


def taught_by(teacher):
    folder = "{runs}/" + teacher + "-{seed}"
    return [f"objective.teacher.folder={folder}", f"init_from={folder}"]


def get_plan(steps=STEPS, world=("checkpoint.every=400",)):
    sprint, ours = taught_by("teacher"), f"train.steps={steps}"
    methods = {
        "teacher": dict(overrides=[*TEACH, ours], seeds=3, draws=[PLAIN, ("dpm", "now", 2.0)]),
        "sprint": dict(overrides=[*sprint, f"train.steps={2 * steps}"], seeds=3, draws=[OWN]),
        "as released": dict(overrides=[*sprint, f"train.steps={2 * steps}", *RELEASED], seeds=3, draws=[OWN]),
        NO_NORM: dict(overrides=[*TEACH, ours, "model.qk_norm=False"], seeds=1, draws=[PLAIN]),
    }
    for name, overrides in WITHOUT.items():
        taught = taught_by("teacher-without-q-k-norm") if name == "no q/k norm" else sprint
        length = steps // 2 if ALONE in overrides else steps
        methods[name] = dict(overrides=[*taught, f"train.steps={length}", *overrides], seeds=1, draws=[OWN])
    aim = place("teacher", PLAIN, 32)
    claims = [(place("sprint", OWN, 2), "better", aim, 0.9), (place("sprint", OWN, 1), "better", aim, 0.75)]
    claims += [(place("sprint", OWN, n), "better", place("teacher", PLAIN, n)) for n in (1, 2, 4)]
    claims += [(place("sprint, half", OWN, n), "better", place(name, OWN, n)) for name in WITHOUT if name != "sprint, half" for n in (1, 2)]
    claims += [(place("sCM only", OWN, n), "better", place("LADD only", OWN, n)) for n in (1, 2)]
    return dict(
        config="sprint_shapes",
        world=list(world),
        methods=methods,
        steps=(1, 2, 4, 32),
        prompts=512,
        split="test",
        variety=(16, 8),
        at_steps=(),
        at_seconds=(),
        claims=claims,
    )
