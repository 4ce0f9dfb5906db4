"""`anystep ckpt ls|verify|export WORKDIR`: the checkpoints of a run, from outside of it.

ls        a line for each finished checkpoint
verify    reads every byte; exits with 1 if a file or a leaf is not what was written
export    a model FOLDER (config.json + weights.safetensors) of the averaged weights
"""

import json
import time

from etils import epath

from anystep import flags
from anystep.errors import UserError, run_main
from anystep.files import below

DTYPES = ("float32", "float16", "bfloat16")


def parse(argv):
    """The checked flags."""
    parser = flags.Parser(prog="anystep ckpt", description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("ls", "verify", "export"))
    parser.add_argument("workdir", help="of a run; a local path or gs://")
    parser.add_argument("--step", type=flags.whole(0, 2**31 - 1), help="of the checkpoint (default: verify all, export the newest)")
    parser.add_argument("--out", default="", help="folder to export to")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the exported weights")
    args = parser.parse_args(argv)
    if (args.verb == "export") != bool(args.out):
        raise UserError("--out: export needs a folder to write to" if not args.out else f"--out: {args.verb} writes nothing")
    return args


def main(argv):
    args = parse(argv)
    flags.require_remote(args.workdir)

    from anystep import checkpoint

    steps = checkpoint.committed_steps(args.workdir)
    if not steps or args.step not in (None, *steps):
        raise UserError(f"{args.workdir}: no finished checkpoint{'' if args.step is None else f' of step {args.step}'}")
    chosen = steps if args.step is None else [args.step]
    if args.verb == "ls":
        print("\n".join(line(args.workdir, step) for step in chosen))
    elif args.verb == "verify":
        return verify(args.workdir, chosen)
    else:
        export(args.workdir, args.step, args.out, args.dtype)


def line(workdir, step):
    from anystep import checkpoint

    folder = epath.Path(workdir) / checkpoint.FOLDER / str(step)
    files = [file for _, file in below(folder)]
    size = sum(file.stat().length for file in files)
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folder.stat().mtime))
    return f"step {step:>9}  {size / 1e6:10.1f} MB  {len(files):5} files  {written}"


def verify(workdir, steps):
    """Prints a line for each checkpoint; 1 if one is not what was written."""
    from anystep import checkpoint

    found = {step: checkpoint.verify(workdir, step) for step in steps}
    for step, wrong in found.items():
        sound = (
            "sound"
            if checkpoint.is_listed(workdir, step)
            else "sound leaves; its files were never listed: the run ended right after the save"
        )
        print(f"step {step:>9}  " + ("; ".join(wrong[:8]) + ("; ..." if len(wrong) > 8 else "") if wrong else sound))
    return int(any(found.values()))


def export(workdir, step, out, dtype):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from anystep import api, weights
    from anystep.nets.build import drawn_roles

    out = flags.folder(out, "--out")
    model, params = api.load(workdir, step)
    params = {role: params[role] for role in drawn_roles(model.config)}
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.dtype(dtype)), params)
    weights.save_folder(out, json.loads(json.dumps(model.config.to_dict())), arrays)
    size = (out / weights.WEIGHTS).stat().length
    print(f"{out}: {size / 1e6:.1f} MB, {dtype}")


if __name__ == "__main__":
    run_main(main)
