"""What more training buys a student: the full recipe of `sprint`, and consistency alone over a grid, up to four times as long.

The teacher of seed 0 stays what it is, so that the best answer stays the same. Every length is a whole schedule; the warm-up of the tangent
keeps its steps. Over a grid every row of every step is the student's: at the same length it sees four times the rows of consistency of a
student with heads, and no others. With --runs of `sprint` its teacher and its student are not trained again.
"""

from anystep.bench.plans import sprint
from anystep.bench.plans.any_step import place

TIMES = (2, 4)


def get_plan():
    plan = sprint.get_plan()
    teacher, student = (dict(plan["methods"][name], seeds=1) for name in ("teacher", "sprint"))
    grid = plan["methods"]["over a grid, no heads"]
    full = 2 * sprint.STEPS

    def longer(spec, times):
        return dict(spec, overrides=[*spec["overrides"], f"train.steps={full * times}"])

    curves = {  # of one, two and four times
        "sprint": ["sprint", *(f"sprint {times}x" for times in TIMES)],
        "over a grid": ["over a grid 1x", *(f"over a grid {times}x" for times in TIMES)],
    }
    methods = {"teacher": teacher, "sprint": student}
    methods |= {f"sprint {times}x": longer(student, times) for times in TIMES}
    methods |= {f"over a grid {times}x": longer(grid, times) for times in (1, *TIMES)}
    claims = []
    for curve in curves.values():
        places = {name: [place(name, sprint.OWN, steps) for steps in (1, 2, 4)] for name in curve}
        claims += [(places[long][i], "better", places[short][i]) for short, long in zip(curve, curve[1:], strict=False) for i in range(3)]
        aim = place("teacher", sprint.PLAIN, 32)
        claims += [(places[name][i], "better", aim, share) for name in curve for i, share in ((0, 0.75), (1, 0.9))]
    claims += [
        (place(grid, sprint.OWN, n), "better", place(heads, sprint.OWN, n))
        for heads, grid in zip(curves["sprint"], curves["over a grid"], strict=True)
        for n in (1, 2, 4)
    ]
    return plan | dict(methods=methods, claims=claims)
