"""Step time of each objective over flow matching, beside the ratio of their FLOPs; images/s, FLOP/s against a plain matrix product.

    anystep bench steps [--config shapes] [--rounds 5] [--steps 4] [--out FILE.json]

All programs are compiled first, then timed in turn, round after round, so that a slow minute of the machine hits all of them; medians
over rounds. The floor is what the forward passes alone would cost at the same speed: (3 + 2 / 2) / 3 = 1.33 for self-evaluation on half
of the rows (two evaluator passes), 4.1 / 3.0 for a fused tangent pass, 4.8 / 3.7 with each block rematerialised,
(3 + 3 + 3) / (2 * 3) = 1.5 for a step on half of the rows (a guided velocity and one jump of the averaged weights). A teacher with
guidance adds 2.0 forward passes: 6.1 / 3.0, 6.8 / 3.7. Beside heads on its blocks a step is the mean of two kinds: `sprint` has no floor.
A floor counts the network alone, so the prompts' encoder, which is frozen beside a teacher, has no layers in any case.
"""

import statistics
import time

from anystep import config as configs
from anystep import flags
from anystep.bench import _record as record
from anystep.errors import run_main

JUMPS = "--config.objective.consistency."
DERIVATIVE = [
    JUMPS + field
    for field in ("nodes=0", "hops=1", "velocity=data", "guidance=1.0", "start=0", "s_min=0.0", "weighting=adaptive", "form=linear")
]
STEP = [JUMPS + field for field in ("nodes=8", "hops=1", "velocity=ema", "guidance=2.0", "start=0", "at_zero=1.0", "s_min=0.0")]
TAUGHT = [*DERIVATIVE, JUMPS + "at_zero=1.0", JUMPS + "at_noise=0.0", JUMPS + "velocity=teacher", JUMPS + "form=trig"]
TAUGHT += [JUMPS + "tangent_norm=rms", JUMPS + "weighting=learned", "--config.objective.teacher.scales=1.5,2.0,2.5"]
CASES = {  # name -> (shares of NAMES, overrides, the case it is compared with, floor)
    "flow_matching": ([1, 0, 0], [], "flow_matching", 1.0),
    "self_evaluation": ([1, 1, 0], [], "flow_matching", 4 / 3),
    "consistency": ([0, 0, 1], [*DERIVATIVE, JUMPS + "at_zero=1.0"], "flow_matching", 4.1 / 3.0),
    "meanflow": ([0, 0, 1], [*DERIVATIVE, JUMPS + "at_zero=0.0"], "flow_matching", 4.1 / 3.0),
    "consistency_step": ([1, 0, 1], STEP, "flow_matching", 4.5 / 3.0),
    "flow_matching_remat": ([1, 0, 0], ["--config.model.remat=True"], "flow_matching_remat", 1.0),
    "consistency_remat": ([0, 0, 1], [*DERIVATIVE, "--config.model.remat=True"], "flow_matching_remat", 4.8 / 3.7),
    "distillation": ([0, 0, 1], TAUGHT, "flow_matching", 6.1 / 3.0),
    "distillation_remat": ([0, 0, 1], [*TAUGHT, "--config.model.remat=True"], "flow_matching_remat", 6.8 / 3.7),
    "sprint": ([0, 0, 1], [*TAUGHT, "--config.objective.adversarial.share=1"], "flow_matching", None),
}
NAMES = ("flow_matching", "self_evaluation", "consistency")
NETWORK_ALONE = "--config.model.text.depth=0"


def main(argv):
    parser = flags.Parser(prog="anystep bench steps", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="shapes", help="a config name or file")
    parser.add_argument("--rounds", type=flags.whole(1, 1000), default=5)
    parser.add_argument("--steps", type=flags.whole(1, 1000), default=4, help="steps of one round; even ones hold both kinds of sprint's")
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)
    cases = {"configured": (configs.load(["--config", args.config, NETWORK_ALONE])[0], "flow_matching", None)}
    for name, (_, _, base, floor) in CASES.items():
        cases[name] = (configs.load(["--config", args.config, *asked(name)])[0], base, floor)
    running = {name: Case(config, config.train.steps) for name, (config, _, _) in cases.items()}  # when all objectives have begun
    seconds = {name: [] for name in cases}
    products = []
    for _ in range(args.rounds):
        products.append(matrix_product_rate())
        for name, case in running.items():
            seconds[name].append(case.run(args.steps))
    rows = {}
    for name, (config, base, floor) in cases.items():
        median = statistics.median(seconds[name])
        rows[name] = {
            "ms_per_step": 1e3 * median,
            "over_flow_matching": statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True)),
            "flops_ratio": running[name].flops / running[base].flops,
            "floor": floor,
            "memory_bytes": running[name].memory,
            "memory_ratio": running[name].memory / running[base].memory,
            "images_per_second": config.data.batch / median,
            "flops_per_second": running[name].flops / median,
            "share_of_matrix_product": running[name].flops / median / statistics.median(products),
            "compile_seconds": running[name].compile_seconds,
        }
    result = {"config": args.config, "matrix_product_flops_per_second": statistics.median(products), "cases": rows}
    print(table(result))
    if args.out:
        record.write(args.out, "anystep bench steps " + " ".join(argv), result)


def asked(name):
    """The overrides of a case."""
    shares, extra, *_ = CASES[name]
    plain = ("objective.adversarial.share=0", "objective.prompt_dropout=0.1", "model.guidance=False", "model.second_time=True")
    extra = [NETWORK_ALONE, *(f"--config.{field}" for field in plain), *extra]
    return [f"--config.objective.{objective}.share={share}" for objective, share in zip(NAMES, shares, strict=True)] + extra


class Case:
    """A compiled training step on one repeated batch, as if `at` steps had been made; its FLOPs, and its bytes as the compiler plans
    them."""

    def __init__(self, config, at):
        import jax
        import numpy as np

        from anystep import tree
        from anystep.nets.build import training_models
        from anystep.state import init_state
        from anystep.train_step import abstract_batch, count_flops, make_gradients, make_optimizers, make_train_step

        models, optimizers = training_models(config), make_optimizers(config)
        shapes = abstract_batch(config, models)
        gradients = make_gradients(config, models, tuple(optimizers))
        self.flops = count_flops(config, models, optimizers, shapes, gradients)
        rng = np.random.default_rng(0)
        rows = config.data.batch
        tokens = np.repeat(models["text"].tokenize(["a red ring left of a blue square"]), rows, 0)
        self.batch = {
            "x0": rng.uniform(-1, 1, shapes["x0"].shape).astype(np.float32),
            "index": np.arange(rows, dtype=np.int32),
            "cond": {"tokens": tokens},
        }
        self.state, self.at = init_state(models, optimizers, config.seed), at
        others = [role for role in models if role not in optimizers]
        self.frozen = {role: models[role].init(tree.fold(jax.random.key(config.seed), role)) for role in others}
        began = time.perf_counter()
        self.step = make_train_step(config, models, optimizers, gradients=gradients).lower(self.state, self.frozen, self.batch).compile()
        self.run(1)
        self.compile_seconds = time.perf_counter() - began
        found = self.step.memory_analysis()
        self.memory = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes

    def run(self, steps):
        """Seconds per step."""
        import jax
        import jax.numpy as jnp

        self.state = self.state._replace(step=jnp.int32(self.at))
        began = time.perf_counter()
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.frozen, self.batch)
        jax.block_until_ready((self.state, metrics))
        return (time.perf_counter() - began) / steps


def matrix_product_rate(n=1024, repeats=4):
    """FLOP/s of a plain float32 product of two n x n matrices, in the same minute as the steps."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    product(a, a).block_until_ready()
    began = time.perf_counter()
    for _ in range(repeats):
        out = product(a, a)
    out.block_until_ready()
    return repeats * 2 * n**3 / (time.perf_counter() - began)


def table(result):
    lines = [f"config {result['config']}; plain matrix product {result['matrix_product_flops_per_second'] / 1e9:.1f} GFLOP/s", ""]
    heads = (
        ("ms/step", 9),
        ("ratio", 8),
        ("FLOPs", 8),
        ("floor", 8),
        ("memory", 8),
        ("images/s", 10),
        ("GFLOP/s", 9),
        ("of product", 12),
        ("compile s", 11),
    )
    lines.append(f"{'objective':22}" + "".join(head.rjust(width) for head, width in heads))
    for name, r in result["cases"].items():
        floor = "" if r["floor"] is None else f"{r['floor']:.2f}"
        lines.append(
            f"{name:22}{r['ms_per_step']:9.1f}{r['over_flow_matching']:8.2f}{r['flops_ratio']:8.2f}{floor:>8}{r['memory_ratio']:8.2f}"
            f"{r['images_per_second']:10.0f}{r['flops_per_second'] / 1e9:9.1f}{r['share_of_matrix_product']:12.0%}"
            f"{r['compile_seconds']:11.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
