"""The one exception of a user's mistake: mains print it as one line and exit with 2."""

import sys


class UserError(ValueError):
    """A bad config value, prompt, picture, checkpoint or flag. The message is one line: field, value, allowed range."""


def run_main(main, argv=None):
    """Leaves the process with the exit code of `main(argv)`: list of str, the program's name excluded -> int | None.

    argv defaults to the command line. A UserError becomes one line `error: ...` and code 2; anything else is a bug and keeps its
    traceback (code 1).
    """
    try:
        code = main(sys.argv[1:] if argv is None else list(argv))
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        code = 2
    raise SystemExit(code or 0)
