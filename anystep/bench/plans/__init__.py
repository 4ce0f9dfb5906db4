"""Plans of studies, `anystep bench study --plan NAME`: one file each, with a `get_plan()` (its fields: `anystep.bench._plan`).

Import order inside: any_step, any_step64, budget, sprint, sprint64, sprint_budget.
"""
