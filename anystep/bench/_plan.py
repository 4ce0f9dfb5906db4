"""What a study is to do: the fields of a plan, its checks, and the runs it stands for. Everything is refused here, before the first run."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import NamedTuple

from anystep import compare
from anystep import config as configs
from anystep.config.since import SINCE
from anystep.errors import UserError
from anystep.files import digest
from anystep.flags import ASKS, SAMPLERS
from anystep.weights import WEIGHTS

FIELDS = {
    "config": str,  # a packaged name or a file
    "world": list,  # overrides of every method: "train.steps=1600"
    # {runs} and {seed} in an override are the folder of the runs and the seed: a student begins with its seed's teacher, trained before it
    # name -> {"overrides": [...], "seeds": n, "draws": [(sampler, ask, guidance scale or None = the config's), ...]}, and perhaps
    # "model": one that was trained by this config already, a folder or a name, which is drawn from and not trained
    "methods": dict,
    "steps": tuple,  # of the sampler
    "prompts": int,
    "split": str,
    "variety": tuple,  # (prompts, pictures of each) whose distance is measured, of a method's first draw
    # of training, beside the end, for the first of a method's draws: the newest checkpoint not beyond (see checkpoint.every)
    "at_steps": tuple,
    "at_seconds": tuple,
    # (place, claim, place) or (place, claim, place, share of the second); a place has PLACE; the second may be method "best" of all others
    "claims": list,
}
PLANS = Path(__file__).parent / "plans"
PLACE = ("method", "sampler", "ask", "scale", "steps")
DECIDE_NOTHING = ("train.log_every", "train.sample_every", "checkpoint.keep")  # of what is drawn


class Run(NamedTuple):
    method: str
    seed: int
    folder: Path
    arguments: list  # of `anystep train`, without the folder
    config: object
    draws: list  # (sampler, ask, scale)
    model: str  # trained elsewhere, "" if here

    def done(self):
        """Whether it is trained. UserError if it was, under another config."""
        from anystep.models import folder_of

        folder = folder_of(self.model) if self.model else self.folder
        if self.model and not (folder / WEIGHTS).exists():
            raise UserError(f"plan: the model {self.model!r} of {self.method!r}: must be a model folder (config.json + {WEIGHTS})")
        file = folder / "config.json"
        if file.exists() and told(json.loads(file.read_text())) != told(self.config.to_dict()):
            other = "another folder for --runs" if not self.model else "another model"
            raise UserError(f"{folder}: was trained under another config than the plan's now; take {other}")
        return bool(self.model) or (self.folder / "model" / WEIGHTS).exists()

    def keys(self, plan, end=True):
        """(sampler, ask, scale, steps) of everything that is drawn from a checkpoint, the last one or another."""
        return [(*how, steps) for how in (self.draws if end else self.draws[:1]) for steps in plan["steps"]]


def begins_with(run, other):
    """Whether a run's config names the folder of another one, or something in it."""
    said = json.dumps(run.config.to_dict())
    return other is not run and any(f'"{other.folder}{end}' in said for end in '"/')


def identity(run, runs):
    """Digest of all that decides what a run draws: of its config, where folders of other runs count as their identities, and of the
    weights that it has from elsewhere."""
    from anystep.models import folder_of

    said = json.dumps(told(run.config.to_dict()), sort_keys=True)
    for other in runs:
        if begins_with(run, other):
            for end in '"/':
                said = said.replace(f'"{other.folder}{end}', f'"{identity(other, runs)}{end}')
    if run.model:
        said += str(digest(folder_of(run.model) / WEIGHTS))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def told(saved):
    """A config, flat, without what decides nothing, what a run wrote down at its start, and fields at the value of configs that were saved
    before these were there, so that a field of a later version does not make another run of it."""
    since, said = json.loads(json.dumps(SINCE)), json.loads(json.dumps(configs.completed(saved) | {"objective.teacher.digest": ""}))
    return {name: value for name, value in said.items() if name not in DECIDE_NOTHING and (name not in since or value != since[name])}


def read(name):
    """The plan of a file, or of one of the package's by its name. UserError for a file or a field that does not do."""
    try:
        packaged = PLANS / f"{name}.py"
        spec = importlib.util.spec_from_file_location("anystep_plan", packaged if packaged.exists() else name)
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
    for field in ("variety", "at_steps", "at_seconds"):
        if not all(type(number) is int and number >= 0 for number in plan[field]):
            raise UserError(f"--plan {name}: {field} {plan[field]!r}: must be whole numbers")
    if len(plan["variety"]) != 2 or not (plan["variety"] == (0, 0) or 0 < plan["variety"][0] <= plan["prompts"] and plan["variety"][1] > 1):
        raise UserError(f"--plan {name}: variety {plan['variety']!r}: must be (prompts, pictures of each, two or more), or (0, 0)")
    if not plan["steps"] or not all(isinstance(steps, int) and 1 <= steps <= 1000 for steps in plan["steps"]):
        raise UserError(f"--plan {name}: steps {plan['steps']!r}: must be whole numbers, 1 to 1000")
    for method, spec in plan["methods"].items():
        if method == "best":
            raise UserError(f"--plan {name}: a method must not be called 'best', which a claim means all others by")
        if set(spec) - {"model"} != {"overrides", "seeds", "draws"} or not spec["draws"]:
            raise UserError(f"--plan {name}: {method!r} needs overrides, seeds and draws, and may have a model")
        if not isinstance(spec["seeds"], int) or spec["seeds"] < 1:
            raise UserError(f"--plan {name}: {method!r} has seeds = {spec['seeds']!r}: must be a whole number, 1 or more")
        if "model" in spec and not (isinstance(spec["model"], str) and spec["seeds"] == 1):
            raise UserError(f"--plan {name}: {method!r} has a model, {spec['model']!r}: must be a folder or a name, and seeds 1")
        _check_draws(name, method, spec["draws"])
        if any(override.startswith(("data.", "seed=")) for override in spec["overrides"]):
            raise UserError(f"--plan {name}: {method!r} overrides the data or the seed, which all methods share; see 'world' and 'seeds'")
    for claim in plan["claims"]:
        _check_claim(name, plan, claim)
    return plan


def _check_draws(name, method, draws):
    for draw in draws:
        if len(draw) != 3 or draw[0] not in SAMPLERS or draw[1] not in ASKS:
            known = f"({', '.join(SAMPLERS)}; {', '.join(ASKS)}; a scale or None)"
            raise UserError(f"--plan {name}: {method!r} draws {draw!r}: must be {known}")
        scale = draw[2]
        if scale is not None and (not isinstance(scale, int | float) or float(f"{scale:.6g}") != scale):
            raise UserError(f"--plan {name}: scale {scale!r}: at most six digits, which is what a row keeps")


def _check_claim(name, plan, claim):
    if len(claim) not in (3, 4) or claim[1] not in compare.CLAIMS:
        raise UserError(f"--plan {name}: claim {claim!r}: must be (place, claim, place[, share]), claim one of {', '.join(compare.CLAIMS)}")
    for place, may_be_best in ((claim[0], False), (claim[2], len(plan["methods"]) > 1)):
        if not isinstance(place, dict):
            raise UserError(f"--plan {name}: claim about {place!r}: must be a dictionary of {', '.join(PLACE)}")
        if may_be_best and place.get("method") == "best" and set(place) == {"method", "steps"} and place["steps"] in plan["steps"]:
            continue
        spec = plan["methods"].get(place.get("method"), {"draws": ()})
        how = tuple(place.get(part) for part in ("sampler", "ask", "scale"))
        known = how in [tuple(draw) for draw in spec["draws"]] and place.get("steps") in plan["steps"]
        if not known or set(place) != set(PLACE):
            raise UserError(f"--plan {name}: claim about {place!r}: must be {', '.join(PLACE)} of something that the plan draws")


def list_runs(plan, folder):
    """Every method's first seed, then the second seeds, ...: a study that is stopped early has something of everything. UserError for a
    config that does not do, or for a walk or a guidance scale that its models cannot be asked for."""
    from anystep.api import drawing_of, guidance
    from anystep.subjects import subject

    runs = []
    for seed in range(max(spec["seeds"] for spec in plan["methods"].values())):
        for method, spec in plan["methods"].items():
            if seed < spec["seeds"]:
                own = [override.replace("{runs}", str(folder)).replace("{seed}", str(seed)) for override in spec["overrides"]]
                asked = [*plan["world"], *own, f"seed={seed}", "train.sample_every=0", "checkpoint.keep=100000"]
                arguments = ["--config", plan["config"], *(f"--config.{override}" for override in asked)]
                place = folder / f"{re.sub(r'[^a-z0-9]+', '-', method.lower()).strip('-')}-{seed}"
                config, draws = configs.load(arguments)[0], [tuple(draw) for draw in spec["draws"]]
                runs.append(Run(method, seed, place, arguments, config, draws, spec.get("model", "")))
    for run in runs:
        for sampler, ask, scale in run.draws:
            guidance(drawing_of(run.config), scale, sampler, ask)
    if len({run.folder for run in runs}) < len(runs):
        raise UserError(f"plan: two methods of {', '.join(plan['methods'])} would share a folder")
    asked = subject(runs[0].config.data, plan["prompts"], plan["split"])
    if asked.judge is None:
        raise UserError(f"plan: data.kind = {runs[0].config.data.kind!r} has no judge")
    tags = [row["tag"] for row in asked.metadata]
    if (fewest := min(map(tags.count, tags), default=0)) < 2:
        raise UserError(f"plan: prompts = {plan['prompts']}: leaves {fewest} of a tag, each needs two for its standard error")
    return runs
