"""What a run survives: kills, full disks, flipped bits, NaNs, damaged pictures, senseless configs; one table.

    anystep bench faults [--short] [--only kills,flips] [--seed 0] [--folder DIR] [--out FILE.json]

A row says how often a fault was tried, how often it ended as promised, and what was seen. Exit code 1 if a promise was broken. `--short`
tries less of everything, for tests, and nothing of what other tests try (kills: tests/test_train.py) or what takes long.
"""

import logging
import tempfile
import time
import warnings
from pathlib import Path

from anystep import flags
from anystep.bench import _fault_input as given
from anystep.bench import _fault_runs as runs
from anystep.bench import _fault_state as state
from anystep.bench import _record as record
from anystep.cache import use_compile_cache
from anystep.errors import UserError, run_main

FAULTS = {  # name -> (what is done, function of (folder, seed, number) -> {"tried", "kept", "seen"}, number, of the short form)
    "kills": ("SIGKILL at random times: SHA-256 of all state as undisturbed", runs.kills, 20, 0),
    "rewinds": ("SIGKILL and SIGTERM around a rewind: SHA-256 of all state as undisturbed", runs.rewinds, 8, 0),
    "window": ("SIGKILL within a save: nothing half-read", runs.window, 50, 3),
    "flips": ("a bit flipped in a checkpoint: detected, or harmless", state.flips, 200, 12),
    "files": ("files truncated, zeroed, deleted, swapped: detected, or harmless", state.files, 40, 6),
    "terminate": ("SIGTERM to one of two processes: both save the same step, 42; then to one alone", runs.terminate, 2, 1),
    "orphan": ("SIGKILL to one of two processes: the other ends; both started again end as undisturbed", runs.orphan, 2, 0),
    "stuck": ("a step that never ends, of one process, then of one of two: stacks, 42", runs.stuck, 2, 1),
    "disk": ("a full disk, then a read-only one: the run goes on, the last sound checkpoint stays", runs.disk, 2, 0),
    "numbers": ("not finite in batch, loss, gradient, tangent: one step lost, nothing moved", state.numbers, 4, 4),
    "pictures": ("damaged pictures: read or refused, no crash", given.pictures, 10_000, 500),
    "values": ("senseless config values: refused by name before a device is touched", given.values, 1000, 100),
    "soak": ("many steps: memory, compilations, share of saving, seconds that add up", runs.soak, 1000, 0),
}


def main(argv):
    parser = flags.Parser(prog="anystep bench faults", description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="less of everything")
    parser.add_argument("--only", default="", help=f"some of {', '.join(FAULTS)}, separated by commas")
    parser.add_argument("--seed", type=flags.whole(0, 2**31 - 1), default=0, help="of what is random")
    parser.add_argument("--folder", default="", help="where the runs are made (default: a temporary one)")
    parser.add_argument("--out", default="", help="JSON record to write")
    args = parser.parse_args(argv)
    asked = [name.strip() for name in args.only.split(",") if name.strip()] or list(FAULTS)
    for name in asked:
        if name not in FAULTS:
            raise UserError(f"--only {name!r}: allowed {', '.join(FAULTS)}")
    for name in asked:
        if args.only and args.short and not FAULTS[name][3]:
            raise UserError(f"--only {name!r}: has no short form")
    rows = {}
    warnings.simplefilter("ignore")  # of Pillow, about what was damaged on purpose
    logging.disable(logging.ERROR)  # and of orbax; the command ends with this process
    use_compile_cache()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder(args.folder or temporary, "--folder")
        for name in asked:
            what, function, *numbers = FAULTS[name]
            if number := numbers[args.short]:
                (place := Path(folder) / name).mkdir(parents=True, exist_ok=True)
                began = time.monotonic()
                rows[name] = {"what": what} | function(place, args.seed, number) | {"seconds": round(time.monotonic() - began, 1)}
                print(line(name, rows[name]), flush=True)
    if args.out:
        record.write(args.out, "anystep bench faults " + " ".join(argv), rows)
    return int(any(row["kept"] < row["tried"] for row in rows.values()))


def line(name, row):
    sign = "NOT TRIED" if not row["tried"] else "as promised" if row["kept"] == row["tried"] else "BROKEN"
    return f"{name:10}{row['kept']:>6} of {row['tried']:<6} {sign:12} {row['seconds']:6.0f} s  {row['what']}\n{'':10}{row['seen']}"


if __name__ == "__main__":
    run_main(main)
