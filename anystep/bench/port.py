"""What it takes to import and export a full-size checkpoint: seconds, peak memory, and whether every bit came back.

    anystep bench port [--model sana_1600m] [--dtype bfloat16] [--folder DIR] [--out FILE.json]

The checkpoint is made here, in the peer's layout and full of random bits of finite numbers. Import and export are processes of their own;
peak memory is what the system says of each, files that are mapped included.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anystep import flags
from anystep.bench import _record as record
from anystep.errors import run_main

SHARED = {
    "_class_name": "SanaTransformer2DModel",
    "in_channels": 32,
    "out_channels": 32,
    "attention_head_dim": 32,
    "caption_channels": 2304,
}
SHARED |= {"mlp_ratio": 2.5, "sample_size": 32, "attention_bias": False, "norm_elementwise_affine": False}
SHARED |= {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True}
MODELS = {
    "sana_600m": {"num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72},
    "sana_1600m": {"num_attention_heads": 70, "num_layers": 20, "num_cross_attention_heads": 20, "cross_attention_head_dim": 112},
}
DTYPES = ("float32", "bfloat16")


def main(argv):
    parser = flags.Parser(prog="anystep bench port", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="sana_1600m", help="whose layout")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the checkpoint")
    parser.add_argument("--folder", default="", help="where to work; three times the checkpoint's size is needed")
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder or None) as place:
        folders = [Path(place) / name for name in ("theirs", "ours", "back")]
        size = make(folders[0], MODELS[args.model], args.dtype)
        result = {"model": args.model, "dtype": args.dtype, "file_bytes": size}
        for verb, source, target in (("import", *folders[:2]), ("export", *folders[1:])):
            seconds, peak = measured("weights", verb, str(source), str(target))
            result[verb] = {"seconds": round(seconds, 1), "peak_bytes": peak, "peak_over_file": round(peak / size, 3)}
        result["every_bit_came_back"] = same(folders[0], folders[2])
    print("\n".join(f"{name:20} {value}" for name, value in result.items()))
    if args.out:
        record.write(args.out, "anystep bench port " + " ".join(argv), result)
    return 0 if result["every_bit_came_back"] else 1


def make(folder, sizes, dtype):
    """Writes a checkpoint of random numbers; its bytes."""
    import json

    import ml_dtypes
    import numpy as np

    from anystep.weights import port
    from anystep.weights.names import to_peers
    from anystep.weights.peers import find
    from anystep.weights.tensors import write

    config = SHARED | sizes | {"cross_attention_dim": sizes["num_attention_heads"] * SHARED["attention_head_dim"]}
    peer = find(config, "bench")
    options = peer.options(config)
    expected, kind = port.shapes_of(peer, options), np.dtype(getattr(ml_dtypes, dtype, dtype))
    shapes = {}
    for ours, source in peer.names(options).items():
        shapes |= {name: view.shape for name, view in to_peers(source, np.broadcast_to(np.int8(0), expected[ours].shape), move=False)}
    dice = np.random.default_rng(0)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    arrays = ((name, dice.standard_normal(shape, np.float32).astype(kind)) for name, shape in shapes.items())
    write(folder / peer.file, shapes, dict.fromkeys(shapes, kind), arrays)
    return (folder / peer.file).stat().st_size


def measured(*command):
    """(seconds, peak bytes) of `anystep` with these arguments."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "anystep", *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)}: exit code {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - began, usage.ru_maxrss * 1024


def same(one, other):
    from anystep.weights.tensors import Tensors

    a, b = Tensors(one), Tensors(other)
    return a.shapes == b.shapes and all(a.read(name).tobytes() == b.read(name).tobytes() for name in a.shapes)


if __name__ == "__main__":
    run_main(main)
