"""The command line: parse, call, print, and end with an exit code that means something.

0 done, 1 failed, 2 bad usage or configuration, 3 bad data, 130 interrupted with the state saved.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `raypose`. Errors are one line on standard error; `--debug` adds the traceback."""
    from raypose.cli.root import app
    from raypose.errors import RayposeError

    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="raypose")
    except RayposeError as error:
        if debug:
            raise
        print("\n".join(f"raypose: {line}" for line in str(error).splitlines()), file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        print("raypose: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)
