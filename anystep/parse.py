"""`anystep parse FILE`: what each prompt says of where things stand, a JSON line for each; what was not understood goes to stderr."""

import json
import sys

from anystep import flags
from anystep.errors import run_main
from anystep.prompts import read_rows
from anystep.relations import read

MOST = 100_000  # prompts


def main(argv):
    """Reads FILE as `sample --prompts` does. Raises UserError for what the user can mend."""
    parser = flags.Parser(prog="anystep parse", description='{"prompt": ..., "relations": [[subject, word, object], ...]} of each prompt.')
    parser.add_argument("file", metavar="FILE", help="one prompt a line, or JSON lines with a prompt each (.jsonl)")
    args = parser.parse_args(argv)
    for number, row in enumerate(read_rows(args.file, "FILE", MOST), 1):
        found, notes = read(row["prompt"])
        print(json.dumps({"prompt": row["prompt"], "relations": [relation[:3] for relation in found]}))
        for note in notes:
            print(f"prompt {number}: {''.join(c if c.isprintable() else '?' for c in note)}", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
