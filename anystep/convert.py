"""`anystep weights import|export|inspect|verify`: other people's checkpoints become ours and ours theirs, without torch.

import  SOURCE FOLDER   a diffusers or transformers folder (config.json + safetensors, an index too), or a pipeline of such folders
                        (model_index.json), becomes ours
export  SOURCE FOLDER   and back: what was imported, as the peer's own folder
inspect FOLDER          its class, tensors and how they fit our network
verify  FOLDER          runs our network on the inputs of io.npz and compares recorded outputs: ok, or the worst by name and exit code 1;
                        the same for recordings without weights beside them, of diffusers' schedulers (our samplers) and of MiniLM

Bits stay as they are unless --dtype asks otherwise. What is missing, unused or mis-shaped is named and refused; --allow lets the first two
pass.
"""

from pathlib import Path

from anystep import flags
from anystep.errors import UserError, run_main

CLOSE, CLOSE_DERIVATIVE = 2e-5, 1e-4  # of the largest value
DTYPES = ("float32", "float16", "bfloat16")


def parse(argv):
    """The checked flags."""
    parser = flags.Parser(prog="anystep weights", description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("import", "export", "inspect", "verify"))
    parser.add_argument("source", help="folder to read")
    parser.add_argument("folder", nargs="?", default="", help="folder to write, of import and export")
    parser.add_argument("--dtype", choices=DTYPES, help="of the imported weights (default: each tensor's own)")
    parser.add_argument("--allow", default="", help="missing, unused, or both separated by a comma")
    args = parser.parse_args(argv)
    writes = args.verb in ("import", "export")
    if writes != bool(args.folder):
        raise UserError(f"{args.verb}: " + ("needs a folder to write to" if writes else "writes nothing, give one folder"))
    args.allow = tuple(word.strip() for word in args.allow.split(",") if word.strip())
    for word in args.allow:
        if word not in ("missing", "unused"):
            raise UserError(f"--allow {word!r}: allowed missing, unused")
    if args.verb != "import" and (args.dtype or args.allow):
        raise UserError(f"--{'dtype' if args.dtype else 'allow'}: is for import only")
    return args


def main(argv):
    args = parse(argv)
    if args.verb == "inspect":
        print(inspect(args.source))
    elif args.verb == "verify":
        return verify(args.source)
    else:
        from anystep.weights import port

        out = flags.folder(args.folder, "FOLDER")
        if Path(args.source).resolve() == Path(out).resolve():
            raise UserError(f"FOLDER: {args.folder!r} is the folder that is read")
        for place, count in port.bring(args.source, out, args.dtype, args.allow) if args.verb == "import" else port.give(args.source, out):
            print(f"{place}: {count} tensors")
        if left := [name for name in port.NOT_OURS if args.verb == "import" and (Path(args.source) / name).is_dir()]:
            print(f"{out}: without {', '.join(left)}, which no network here is")


def inspect(folder):
    """A few lines about a folder of a peer's or of ours, about each part of a pipeline."""
    from anystep.weights import CONFIG, PIPELINE

    if (Path(folder) / PIPELINE).is_file():
        parts = sorted(path.parent for path in Path(folder).glob(f"*/{CONFIG}") if not path.parent.name.startswith("tokenizer"))
        return "\n\n".join(f"{part.name}\n{inspect(part)}" for part in parts if any(part.glob("*.safetensors")))
    from anystep.weights import describe, port
    from anystep.weights.folder import DTYPES
    from anystep.weights.peers import find
    from anystep.weights.tensors import Tensors

    config, tensors = port.read_config(folder), Tensors(folder)
    sizes = {name: port.size(shape) for name, shape in tensors.shapes.items()}
    held = sum(count * port.np.dtype(DTYPES[tensors.dtypes[name]]).itemsize for name, count in sizes.items())
    lines = [
        f"{len(sizes)} tensors, {sum(sizes.values()):,} parameters, {held / 1e6:,.1f} MB, {', '.join(sorted(set(tensors.dtypes.values())))}"
    ]
    peers = port.peer_config(config)
    if "_class_name" not in peers and "architectures" not in peers:
        return "\n".join(["a model folder of anystep", *lines])
    peer = find(peers, Path(folder) / "config.json")
    options = peer.options(peers)
    if "peer" not in config:
        tensors.call(peer.known_as)
    lines.append(str(options))
    if "peer" not in config:
        lines.append(describe(port.compare(peer.names(options), port.shapes_of(peer, options), tensors)) or "fits")
    return "\n".join([peers.get("_class_name") or peers["architectures"][0], *lines])


def verify(folder):
    """Prints `ok` and the worst error, or what is not met; 0 or 1."""
    from anystep.weights import CONFIG, port, recordings

    if (Path(folder) / CONFIG).is_file():
        met, lines = port.measure(folder, CLOSE, CLOSE_DERIVATIVE)
    else:
        met, lines = recordings.measure(folder, CLOSE)
    print("\n".join(lines))
    return 0 if met else 1


if __name__ == "__main__":
    run_main(main)
