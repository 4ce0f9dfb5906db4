"""`anystep evaluate`: how often a model draws what was asked, at every step count; report.json and report.png.

The scores are made in `evals`, the pictures in `logs`; prompts and what is right come from `subjects`.
"""

import json

from etils import epath

from anystep import flags, logs
from anystep.errors import UserError, run_main


def parse(argv):
    """The checked flags."""
    parser = flags.Parser(prog="anystep evaluate", description="Score a model at every step count.")
    parser.add_argument("--model", required=True, help="folder of a saved model, or work directory of a run")
    flags.add_drawing(parser)
    parser.add_argument("--prompts", type=flags.whole(1, 100_000), help="number of prompts (default: config.eval.prompts)")
    parser.add_argument("--seed", type=flags.whole(0, flags.MOST_SEED), default=0, help="of the prompts and of the noise")
    parser.add_argument("--split", choices=("test", "dev"), help="compare on test, tune on dev (default: test; dev where there is no test)")
    parser.add_argument("--out", help="folder for report.json and report.png (default: the model's folder, or the current one)")
    args = parser.parse_args(argv)
    args.over = flags.check_times(args)
    return args


def main(argv):
    """Parse, load, draw and judge at each step count, print the table, write the report. Raises UserError for what the user can mend."""
    args = parse(argv)
    out = flags.folder(args.out or (args.model if epath.Path(args.model).is_dir() else "."), "--out")

    from anystep import api, evals  # after the flags: a typing error should not wait for jax
    from anystep.cache import use_compile_cache
    from anystep.subjects import subject

    # ---------------------------------------------------------------- what is asked
    use_compile_cache()
    model, params = api.load(args.model)
    if model.config is None:
        raise UserError(f"--model {args.model!r}: was not trained here, so there is nothing that its pictures could be judged by")
    settings = model.drawing
    how = {"sampler": args.sampler or settings.sampler, "ask": args.ask or settings.ask}
    scale, inside = api.guidance(settings, args.scale, **how)
    split = args.split or ("test" if model.config.data.kind == "shapes" else "dev")
    metadata, judge, _, show = subject(model.config.data, args.prompts or model.config.eval.prompts, split, args.seed)
    if judge is None:
        raise UserError(f"--model {args.model!r}: learned data.kind = {model.config.data.kind!r}, for which there is no judge")

    # ---------------------------------------------------------------- what it draws
    drawn = {}

    def draw(prompts, count):
        drawn[count] = api.sample_array(
            model, params, prompts, steps=count, seed=args.seed, guide=args.scale, eta=args.eta, **how, **args.over
        )
        return drawn[count]

    guide = {"energy_preserving": settings.energy_preserving, "interval": settings.interval} | how | {"scale": scale, "trained_in": inside}
    guide |= {"eta": settings.eta if args.eta is None else args.eta} if how["sampler"].startswith("ddim") else {}
    guide |= args.over
    counts = args.steps or settings.steps
    report = evals.any_step_report(draw, metadata, counts, judge, split=split, seed=args.seed, guide=guide)

    # ---------------------------------------------------------------- what a person sees
    place = epath.Path(args.model).resolve()
    name = f"{place.parent.name}/{place.name}" if place.name == "model" else place.name  # every run calls its folder so
    over = f", times {flags.spoken(args.times)}" if args.over else ""
    said = f"guidance {scale:g}, {how['sampler']} asking {how['ask']}{over}, seed {args.seed}; bars: one standard error"
    page = logs.report_picture(report, show(drawn), f"anystep: {name}", f"{len(metadata)} {split} prompts, {said}")
    (out / "report.json").write_text(json.dumps({"model": name} | report, indent=1) + "\n")
    logs.save(page, out / "report.png")
    print(f"{evals.table(report)}\n\n{out / 'report.json'}\n{out / 'report.png'}")


if __name__ == "__main__":
    run_main(main)
