"""What more training buys: flow matching, consistency and the hybrid of `any_step`, each once, twice and four times as long.

The same world, networks and draws; every length is a whole schedule, in which annealing and the start of jumps keep their share.
Runs of the single length are those of `any_step` (seed 0): with the same --runs they are not trained again. Consistency at four times is
the packaged model.
"""

from anystep.bench.plans import any_step

TIMES = (1, 2, 4)
STEPS, ANNEAL, START = 1600, 400, 800  # of the single length


def longer(times):
    return [
        f"train.steps={STEPS * times}",
        f"objective.self_evaluation.anneal={ANNEAL * times}",
        f"objective.consistency.start={START * times}",
    ]


def called(method, times):
    return method if times == 1 else f"{method}, {times}x"


def get_plan():
    plan = any_step.get_plan()
    draws = {
        "flow matching": any_step.PLAIN[:1],
        "consistency": [any_step.JUMPS, any_step.PLAIN[0]],
        "hybrid": [any_step.JUMPS, any_step.ON_THE_WAY[0]],
    }
    methods = {}
    for times in TIMES:
        for method, how in draws.items():
            overrides = plan["methods"][method]["overrides"] + (longer(times) if times > 1 else [])
            methods[called(method, times)] = dict(overrides=overrides, draws=how, seeds=1)
    methods["consistency, 4x"]["model"] = "nine_shapes"
    claims = []
    for steps in plan["steps"]:
        for short, long in zip(TIMES, TIMES[1:], strict=False):
            pairs = [any_step.place(called(method, times), how[0], steps) for method, how in draws.items() for times in (long, short)]
            claims += [(pairs[i], "better", pairs[i + 1]) for i in range(0, len(pairs), 2)]
        for times in TIMES:
            mine = any_step.place(called("hybrid", times), any_step.JUMPS, steps)
            claims += [
                (mine, "no worse", any_step.place(called(rival, times), how[0], steps)) for rival, how in draws.items() if rival != "hybrid"
            ]
    return plan | dict(methods=methods, claims=claims, at_steps=(), at_seconds=())
