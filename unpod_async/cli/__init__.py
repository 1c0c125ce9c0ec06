"""The command line `unpod-async`. It needs the extra `cli`.

`app` defines the program, and `commands` has a module for each command. `options` has the options that
several commands share, `session` the token and the client, `runner` the event loop and the signals, and
`errors` the messages and exit statuses. `output` and `tables` write results, `fields` returns what they show
of a call and the colours of statuses and outcomes, and `lookup` finds the run or task with an id.
`documents` and `create_journal` belong to `create`, `export_progress` to `export`, and `watch_lines` and
`watch_table` to `watch`.
"""

import gc
import os
import signal
import sys
from contextlib import suppress
from importlib.util import find_spec

__all__ = ["main"]


def main() -> int:
    """Run the command line with the arguments of the process and return the exit status."""
    try:
        return _run()
    except KeyboardInterrupt:
        # As `report_interruption`, which may not have been imported yet.
        with suppress(OSError):
            os.write(2, (b"\n" if os.isatty(2) else b"") + b"unpod-async: interrupted\n")
        return 128 + signal.SIGINT


def _run() -> int:
    # While modules are imported, the garbage collector finds nothing and takes a quarter of the time. The
    # runner of the commands enables it again.
    gc.disable()
    # A stream is None if its file descriptor was closed. The next file that is opened takes that descriptor.
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - until the process ends
    from unpod_async._common import buffered

    # Not only `output`: rich and the parser write to these streams too.
    if sys.stdout is None:
        from unpod_async.cli.output import ClosedStdout

        os.open(os.devnull, os.O_WRONLY)
        sys.stdout = ClosedStdout()
    else:
        sys.stdout = buffered(sys.stdout)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    else:
        sys.stderr = buffered(sys.stderr)
    missing = [name for name in ("typer", "rich") if not _is_installed(name)]
    if missing:
        from unpod_async._version import install_command

        sys.stderr.write(
            f"unpod-async: the command line needs {' and '.join(missing)}\nhint: {install_command('cli')}\n"
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
