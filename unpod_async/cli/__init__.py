"""The command line `unpod-async`. It needs the extra `cli`.

`app` defines the program, and `commands` has a module per command. `options` has the options that several of
them share, `session` the token and the client, `runner` the event loop and the signals, `errors` the messages
and exit statuses. `output` and `tables` write results; `export_progress`, `watch_lines`, `watch_table` and
`state_file` belong to `export` and `watch`.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO, cast

from unpod_async.cli.output import ClosedStdout

__all__ = ["main"]


def main() -> int:
    """Run the command line with the arguments of the process and return the exit status."""
    # A stream is None if its file descriptor was closed. The next file that is opened takes that descriptor.
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - until the process ends
    if sys.stdout is None:
        os.open(os.devnull, os.O_WRONLY)
        sys.stdout = cast("TextIO", ClosedStdout())
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    missing = [name for name in ("typer", "rich") if not _is_installed(name)]
    if missing:
        sys.stderr.write(
            f"unpod-async: the command line needs {' and '.join(missing)}\n"
            "hint: pip install 'unpod-async[cli]'\n"
        )
        return 1
    # Imported late, because it imports packages that may be missing.
    from unpod_async.cli.app import run

    return run(sys.argv[1:])


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it is None in sys.modules
        return False
