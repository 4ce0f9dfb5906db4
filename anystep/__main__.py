"""`anystep <command>`, the same as `python -m anystep <command>`: hands the rest of the line to the main of that name.

Nothing else is imported, so that --help and a mistyped command answer at once.
"""

import difflib
import importlib
import importlib.metadata

from anystep.errors import UserError, run_main

COMMANDS = {
    "train": "train a model: --config NAME|FILE --workdir DIR [--config.x.y=z ...]",
    "sample": "draw pictures for prompts with a trained model",
    "evaluate": "measure a trained model at every number of steps: report.json and report.png",
    "parse": "what prompts say of left, right, above, below, near: anystep parse FILE",
    "steer-train": "make a classifier that steers objects to where prompts say: --model MODEL --out FOLDER",
    "ckpt": "list, verify or export the checkpoints of a run: anystep ckpt ls|verify|export WORKDIR",
    "weights": "bring checkpoints of others here and back: anystep weights import|export|inspect|verify",
    "encode": "pass captioned pictures through an autoencoder and a text encoder once, for training from a store",
    "bench": "run a benchmark: anystep bench NAME; without a name, list them",
}
MODULES = {"weights": "convert", "steer-train": "steer_train"}  # where a room has the command's name


def dispatch(argv):
    """Runs `argv[0]` as a command with the rest as its arguments; returns its exit code."""
    command = argv[0] if argv else "--help"
    if command in ("--help", "-h", "help"):
        print("usage: anystep <command> [arguments]\n")
        print("\n".join(f"  {name:10} {meaning}" for name, meaning in COMMANDS.items()))
        print("\n  --version  print the version\n  --help     print this")
    elif command == "--version":
        print(f"anystep {importlib.metadata.version('anystep')}")
    elif command in COMMANDS:
        return importlib.import_module(f"anystep.{MODULES.get(command, command)}").main(argv[1:])
    else:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}"
        raise UserError(f"no command {command!r}; {hint}")


def main(argv=None):
    run_main(dispatch, argv)


if __name__ == "__main__":
    main()
