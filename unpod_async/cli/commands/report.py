"""`unpod-async report`: a page about an export."""

from __future__ import annotations

import os
from datetime import UTC
from pathlib import Path
from typing import Annotated, Final

import typer

from unpod_async._common import check_replaceable, os_error_advice, os_error_reason, path_text, replace_file
from unpod_async.cli.errors import INCOMPLETE, SUCCESS, USAGE, CliError
from unpod_async.cli.output import counted, echo, echo_err, echo_line

__all__ = ["report"]

_FILE: Final = "report.html"
_STDOUT: Final = "-"
_FILES_OF_EXPORT: Final = {"runs", "tasks", "recordings", ".unpod-export", "_manifest.json"}


def report(
    directory: Annotated[
        str, typer.Argument(metavar="DIRECTORY", show_default=False, help="Directory of an export.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help=f"Write the page to FILE, or to stdout for -. Default: {_FILE} in DIRECTORY.",
        ),
    ] = None,
    utc: Annotated[
        bool,
        typer.Option(
            "--utc", show_default=False, help="Times in UTC. Default: the time zone of this machine."
        ),
    ] = False,
) -> int:
    """Make a web page about an export: calls per day, outcomes, durations, costs, agents and failed runs.

    The page is one file that loads nothing else. It has no names, phone numbers or texts of calls. Its path
    is printed. Run the command again after the next export. The exit status is 3 if the export is incomplete.
    """
    _refuse_store(directory)
    target = Path(directory, _FILE) if output is None else Path(output)
    if output != _STDOUT:
        _check_output(Path(directory), target)
    from unpod_async._integrations.report import build_report

    made = build_report(Path(directory), UTC if utc else None)
    page = made.html.encode()
    if output == _STDOUT:
        echo_line(page.removesuffix(b"\n"))
    else:
        try:
            replace_file(target, page)
        except (OSError, ValueError) as error:
            raise _write_error(target, error) from None
        echo(path_text(target))
        echo_err(f"The page shows {counted(made.calls, 'call')} in {counted(made.runs, 'run')}.")
    if made.complete:
        return SUCCESS
    echo_err("incomplete: the page lists what is missing from the export")
    echo_err("hint: run the export again, and then this command")
    return INCOMPLETE


def _refuse_store(directory: str) -> None:
    """Raise CliError for a data set in an object store, and say where a copy is."""
    from unpod_async._export import StoreAddress, state_directory

    address = StoreAddress.parse(directory)
    if address is not None:
        copy = state_directory(address, None) / "data"
        raise CliError(
            "a report is made from a directory, not from an object store",
            hint=f"this machine has a copy of the files in {path_text(copy)}"
            if copy.is_dir()
            else "copy the files of the data set into a directory, and give that",
            status=USAGE,
        )


def _check_output(directory: Path, target: Path) -> None:
    """Check that a file can be written, before the export is read, which may take minutes."""
    if not (directory / "_manifest.json").exists():
        return  # reading it fails with a better message
    own = Path(os.path.realpath(directory))
    found = Path(os.path.realpath(target))
    if found.is_relative_to(own) and found != own and found.relative_to(own).parts[0] in _FILES_OF_EXPORT:
        raise CliError(
            f"{path_text(target)} is reserved for files of the export",
            hint="choose another file with --output FILE",
            status=USAGE,
        )
    try:
        check_replaceable(target)
    except (OSError, ValueError) as error:
        raise _write_error(target, error) from None


def _write_error(target: Path, error: Exception) -> CliError:
    return CliError(
        f"cannot write {path_text(target)}: {os_error_reason(error)}",
        hint=f"{os_error_advice(error, 'check its directory')} or change --output FILE",
    )
