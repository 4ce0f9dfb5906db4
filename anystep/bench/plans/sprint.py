"""SANA-Sprint in the shapes world: a teacher, its students of 1 to 4 steps, and what each part of the recipe is worth.

The teacher of every seed is trained first and is the beginning of that seed's students. The full student has 1,600 steps of its own beside
as many of its heads, three seeds; the ablations, from the teacher of seed 0, half of that, against a full one of the same length. "LADD
only" has no consistency, "sCM only" no heads and so every step to itself at half the steps. Goals: at two steps nine tenths of what the
teacher draws right at 32, at one step three quarters, which the teacher itself misses by far. Not here: training without schedule transfer,
for which there is no network to begin with, since ours is on the linear path throughout.
"""

from anystep.bench.plans.any_step import place

OWN, PLAIN = ("restart", "zero", None), ("euler", "now", 2.0)
TEACH = ["objective.flow_matching.share=1", "objective.consistency.share=0", "objective.adversarial.share=0", "model.guidance=False"]
TEACH += ["objective.time.mean=0.0", "objective.time.std=1.0", "objective.time.shift=3.0", "objective.prompt_dropout=0.1", "optim.lr=0.003"]
TEACH += ["eval.sampler=euler", "eval.ask=now", "train.steps=1600"]
NO_NORM = "teacher without q/k norm"
HALF, FULL = 1600, 3200
WITHOUT = {  # what is taken from the recipe
    "sprint, half": [],
    "sCM only": ["objective.adversarial.share=0", f"train.steps={HALF // 2}"],
    "LADD only": ["objective.consistency.share=0"],
    "no guidance embedding": ["model.guidance=False", "objective.teacher.scales=(2.0,)"],
    "no max-time": ["objective.adversarial.at_noise=0.0"],
    "no misaligned pairs": ["objective.adversarial.misaligned=False"],
    "L2 tangent": ["objective.consistency.tangent_norm=l2"],
    "prior twice": ["objective.consistency.prior=True"],
    "one level": ["objective.adversarial.one_level=True"],
    "no q/k norm": ["model.qk_norm=False"],
}


def taught_by(teacher):
    folder = "{runs}/" + teacher + "-{seed}"
    return [f"objective.teacher.folder={folder}", f"init_from={folder}"]


def get_plan():
    sprint, half = taught_by("teacher"), f"train.steps={HALF}"
    methods = {
        "teacher": dict(overrides=TEACH, seeds=3, draws=[PLAIN, ("dpm", "now", 2.0)]),
        "sprint": dict(overrides=[*sprint, f"train.steps={FULL}"], seeds=3, draws=[OWN]),
        NO_NORM: dict(overrides=[*TEACH, "model.qk_norm=False"], seeds=1, draws=[PLAIN]),
    }
    for name, overrides in WITHOUT.items():
        taught = taught_by("teacher-without-q-k-norm") if name == "no q/k norm" else sprint
        methods[name] = dict(overrides=[*taught, half, *overrides], seeds=1, draws=[OWN])
    aim = place("teacher", PLAIN, 32)
    claims = [(place("sprint", OWN, 2), "better", aim, 0.9), (place("sprint", OWN, 1), "better", aim, 0.75)]
    claims += [(place("sprint", OWN, n), "better", place("teacher", PLAIN, n)) for n in (1, 2, 4)]
    claims += [(place("sprint, half", OWN, n), "better", place(name, OWN, n)) for name in WITHOUT if name != "sprint, half" for n in (1, 2)]
    return dict(
        config="sprint_shapes",
        world=["checkpoint.every=400"],
        methods=methods,
        steps=(1, 2, 4, 32),
        prompts=512,
        split="test",
        variety=(16, 8),
        at_steps=(),
        at_seconds=(),
        claims=claims,
    )
