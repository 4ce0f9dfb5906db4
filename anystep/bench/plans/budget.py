"""What more training buys: flow matching, consistency and the hybrid of `any_step`, each twice and four times as long.

The same world, networks, draws and seed 0; every length is a whole schedule, in which annealing and the start of jumps keep their share.
Once as long is `any_step` itself, with its own record. Consistency at four times is the packaged model.
"""

from anystep.bench.plans import any_step

TIMES = (2, 4)
STEPS, ANNEAL, START = 1600, 400, 800  # of the single length


def longer(times):
    return [
        f"train.steps={STEPS * times}",
        f"objective.self_evaluation.anneal={ANNEAL * times}",
        f"objective.consistency.start={START * times}",
    ]


def called(method, times):
    return f"{method} {times}x"


def get_plan():
    plan = any_step.get_plan()
    draws = {
        "flow matching": any_step.PLAIN[:1],
        "consistency": [any_step.JUMPS, any_step.PLAIN[0]],
        "hybrid": [any_step.JUMPS, any_step.ON_THE_WAY[0]],
    }
    methods = {
        called(method, times): dict(overrides=plan["methods"][method]["overrides"] + longer(times), draws=how, seeds=1)
        for times in TIMES
        for method, how in draws.items()
    }
    methods["consistency 4x"]["model"] = "nine_shapes"

    def place(method, times, steps):
        return any_step.place(called(method, times), draws[method][0], steps)

    short, long = TIMES
    claims = [(place(method, long, steps), "better", place(method, short, steps)) for method in draws for steps in plan["steps"]]
    claims += [
        (place("hybrid", times, steps), "no worse", place(rival, times, steps))
        for times in TIMES
        for rival in ("flow matching", "consistency")
        for steps in plan["steps"]
    ]
    claims += [(place("hybrid", long, 1), "better", place("hybrid", long, 32), 0.8)]
    claims += [(place("consistency", long, 1), "better", place("consistency", long, 32), 0.8)]
    return plan | dict(methods=methods, claims=claims, at_steps=(), at_seconds=())
