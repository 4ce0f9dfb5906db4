"""What a study is to do: the fields of a plan, its checks, and the runs it stands for. Everything is refused here, before the first run."""

import importlib.util
import json
import re
from pathlib import Path
from typing import NamedTuple

from anystep import compare
from anystep import config as configs
from anystep.errors import UserError
from anystep.flags import ASKS, SAMPLERS

FIELDS = {
    "config": str,  # a packaged name or a file
    "world": list,  # overrides of every method: "train.steps=1600"
    "methods": dict,  # name -> {"overrides": [...], "seeds": n, "draws": [(sampler, ask), ...]} and its own "scales" if it has some
    "steps": tuple,  # of the sampler
    "scales": tuple,  # of guidance, None = the config's
    "prompts": int,
    "split": str,
    "at_steps": tuple,  # of training, beside the end: the newest checkpoint not beyond, so let config.checkpoint.every divide them
    "at_seconds": tuple,
    "claims": list,  # (place, claim, place); a place has PLACE, or on the right method "best" (of all others) and steps
}
PLACE = ("method", "sampler", "ask", "scale", "steps")


class Run(NamedTuple):
    method: str
    seed: int
    folder: Path
    arguments: list  # of `anystep train`, without the folder
    config: object
    draws: list  # (sampler, ask)
    scales: list

    def done(self):
        """Whether it is trained. UserError if it was, under another config."""
        file = self.folder / "config.json"
        if file.exists() and json.loads(file.read_text()) != json.loads(json.dumps(self.config.to_dict())):
            raise UserError(f"{self.folder}: was trained under another config than the plan's now; take another folder for --runs")
        return (self.folder / "model" / "weights.safetensors").exists()

    def keys(self, plan):
        """(sampler, ask, scale, steps) of everything that is drawn from each checkpoint."""
        return [(*how, scale, steps) for how in self.draws for scale in self.scales for steps in plan["steps"]]


def read(name):
    """The plan of a file. UserError for a file or a field that does not do."""
    try:
        spec = importlib.util.spec_from_file_location("anystep_plan", name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        plan = dict(module.get_plan())
    except Exception as error:  # whatever the user's file does wrong
        raise UserError(f"--plan {name}: cannot be read: {type(error).__name__}: {error}") from error
    for field in sorted(set(plan) ^ set(FIELDS)):
        raise UserError(f"--plan {name}: {field!r} is {'unknown' if field in plan else 'missing'}; allowed {', '.join(FIELDS)}")
    for field, kind in FIELDS.items():
        if not isinstance(plan[field], kind):
            raise UserError(f"--plan {name}: {field!r} must be a {kind.__name__}, is {plan[field]!r}")
    for method, spec in plan["methods"].items():
        if not {"overrides", "seeds", "draws"} <= set(spec) <= {"overrides", "seeds", "draws", "scales"}:
            raise UserError(f"--plan {name}: {method!r} needs overrides, seeds and draws, and may have scales")
        _check_draws(name, method, spec.get("scales", plan["scales"]), spec["draws"])
        if any(override.startswith(("data.", "seed=")) for override in spec["overrides"]):
            raise UserError(f"--plan {name}: {method!r} overrides the data or the seed, which all methods share; see 'world' and 'seeds'")
    for claim in plan["claims"]:
        _check_claim(name, plan, claim)
    return plan


def _check_draws(name, method, scales, draws):
    for sampler, ask in draws:
        if sampler not in SAMPLERS or ask not in ASKS:
            raise UserError(f"--plan {name}: {method!r} draws {(sampler, ask)!r}: allowed {', '.join(SAMPLERS)}; {', '.join(ASKS)}")
    for scale in scales:
        if scale is not None and float(f"{scale:.6g}") != scale:
            raise UserError(f"--plan {name}: scale {scale!r}: at most six digits, which is what a row keeps")


def _check_claim(name, plan, claim):
    if len(claim) != 3 or claim[1] not in compare.CLAIMS:
        raise UserError(f"--plan {name}: claim {claim!r}: must be (place, claim, place), claim one of {', '.join(compare.CLAIMS)}")
    for place, may_be_best in ((claim[0], False), (claim[2], True)):
        if may_be_best and place.get("method") == "best" and place.get("steps") in plan["steps"]:
            continue
        spec = plan["methods"].get(place.get("method"), {"draws": (), "scales": ()})
        known = (place.get("sampler"), place.get("ask")) in [tuple(draw) for draw in spec["draws"]]
        known &= place.get("scale") in spec.get("scales", plan["scales"]) and place.get("steps") in plan["steps"]
        if not known or set(place) != set(PLACE):
            raise UserError(f"--plan {name}: claim about {place!r}: must be {', '.join(PLACE)} of something that the plan draws")


def list_runs(plan, folder):
    """Every method's first seed, then the second seeds, ...: a study that is stopped early has something of everything. UserError for a
    config that does not do, or for a guidance scale that could not act."""
    from anystep.api import guidance
    from anystep.subjects import subject

    runs = []
    for seed in range(max(spec["seeds"] for spec in plan["methods"].values())):
        for method, spec in plan["methods"].items():
            if seed < spec["seeds"]:
                asked = [*plan["world"], *spec["overrides"], f"seed={seed}", "train.sample_every=0", "checkpoint.keep=100000"]
                arguments = ["--config", plan["config"], *(f"--config.{override}" for override in asked)]
                place = folder / f"{re.sub(r'[^a-z0-9]+', '-', method.lower()).strip('-')}-{seed}"
                scales = list(spec.get("scales", plan["scales"]))
                runs.append(Run(method, seed, place, arguments, configs.load(arguments)[0], [tuple(d) for d in spec["draws"]], scales))
    for run in runs:
        for sampler, ask in run.draws:
            for scale in run.scales:
                guidance(run.config, scale, sampler, ask)
    if len({run.folder for run in runs}) < len(runs):
        raise UserError(f"plan: two methods of {', '.join(plan['methods'])} would share a folder")
    if subject(runs[0].config.data, 1, plan["split"]).judge is None:
        raise UserError(f"plan: data.kind = {runs[0].config.data.kind!r} has no judge")
    return runs
