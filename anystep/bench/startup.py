"""How long until something happens: `import anystep`, and a run's first step with a cold and with a warm compile cache.

    anystep bench startup [--config shapes] [--out FILE.json]

Each figure is a process of its own. The cold start has an empty cache folder, the warm one finds what the cold one left.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from anystep import flags
from anystep.bench import _record as record
from anystep.errors import run_main

BLOCKED = ("torch", "tensorflow", "transformers", "grain", "ml_collections", "clu")
TIMED = f"""
import sys, time
sys.modules.update(dict.fromkeys({BLOCKED!r}))
began = time.perf_counter()
import %s
print(time.perf_counter() - began)
"""
HEAVY = "anystep, anystep.sampling, anystep.nets.build, anystep.objectives.mix"


def main(argv):
    parser = flags.Parser(prog="anystep bench startup", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="shapes", help="a config name or file")
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)
    result = {name: float(python("-c", TIMED % what)) for name, what in (("import_anystep", "anystep"), ("import_objectives", HEAVY))}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "warm"):
            began = time.perf_counter()
            short = ["--config.train.steps=2", "--config.train.log_every=1", "--config.optim.warmup=1", "--config.eval.steps=4"]
            short += ["--config.objective.consistency.start=0"]
            command = ["-m", "anystep", "train", "--config", args.config, "--workdir", f"{folder}/{name}", *short]
            python(*command, cache=f"{folder}/cache")
            rows = [json.loads(line) for line in open(f"{folder}/{name}/metrics.jsonl")]
            result[f"first_step_{name}"] = next(row["seconds"] for row in rows if row.get("step") == 1)
            result[f"two_steps_and_a_look_{name}"] = time.perf_counter() - began
    print("\n".join(f"{name:32}{seconds:8.2f} s" for name, seconds in result.items()))
    if args.out:
        record.write(args.out, "anystep bench startup " + " ".join(argv), result)


def python(*arguments, cache=""):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, *arguments], env=os.environ | {"ANYSTEP_CACHE": cache}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    run_main(main)
