"""The command line, `unpod-async`; needs the extra `cli`.

_app _command_export _command_create _command_watch   the commands and their options
_common _arguments   options that all of them, or several, have
_listings _export _create _watch _wait _sandbox _doctor   what they do
_documents   documents of a create out of files
_probe _findings   what the doctor asks the server; how it tells what it found
_progress _summary   an export while it runs, and what it came to
_watch_lines _watch_seen _watch_view   an event as a line; what was seen so far, and how it is drawn
_keeping _reader   the state of a watch in a file; whether anybody still reads
_screen      lines of a terminal that are overwritten
_connect     token and client
_running _status   a coroutine run to its end, Ctrl-C and all; errors as texts and exit statuses
_output _tables _log   results on stdout, talk on stderr; rows for people; the library's log
_values      times, durations and numbers as people write them
"""

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> int:
    """Run the command line on the arguments of the process; the exit status."""
    missing = [name for name in ("typer", "rich") if not _is_there(name)]
    if missing:
        sys.stderr.write(
            f"unpod-async: the command line needs {' and '.join(missing)}, not installed here: "
            "pip install 'unpod-async[cli]'\n"
        )
        return 1
    # Only now: it imports what may be missing.
    from unpod_async.cli._app import run

    return run(sys.argv[1:])


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it is in sys.modules and stands for nothing
        return False
