"""The commands and their options. What they do is imported when one is run, so that --help is quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from unpod_async.cli._arguments import JsonLines, Limit, Space, Statuses
from unpod_async.cli._command_create import create
from unpod_async.cli._command_export import export
from unpod_async.cli._command_watch import wait, watch
from unpod_async.cli._common import Common, command, main_options
from unpod_async.cli._output import put
from unpod_async.cli._running import finished, guarded
from unpod_async.cli._status import STATUSES

__all__ = ["run"]

_SETTINGS: Final = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
_SHARED: Final = (
    "The options of `unpod-async --help` (--token-file, --org-handle, --base-url, --auth-scheme, "
    "--allow-http, --timeout, -v) may stand here too."
)

app = typer.Typer(
    name="unpod-async",
    add_completion=False,
    # Plain help wraps where its panels would squeeze, in 60 columns.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings=_SETTINGS,
    epilog=f"\b\n{STATUSES}",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        raise typer.Exit(guarded(lambda: put(f"unpod-async {version('unpod-async')}"), verbose=0))


@app.callback()
@main_options
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, show_default=False, help="Show the version."
        ),
    ] = False,
) -> None:
    """Runs and tasks of the Unpod platform: list, export and follow them, place calls.

    The API key comes from UNPOD_PLATFORM_TOKEN, from --token-file, or is asked for on a terminal.
    """


@app.command(epilog=_SHARED, short_help="Runs of a space")
@command
def runs(
    common: Common,
    space: Space,
    status: Statuses = None,
    limit: Limit = None,
    json_lines: JsonLines = None,
) -> int:
    """List the runs of a space, newest first."""
    from unpod_async.cli import _listings

    return _listings.runs(common, space, status=status or (), limit=limit, json_lines=json_lines)


@app.command(epilog=_SHARED, short_help="Tasks (calls) of a space, run or agent")
@command
def tasks(
    common: Common,
    space: Annotated[str | None, typer.Argument(show_default=False, help="Token of the space.")] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="RUN_ID", show_default=False, help="Only those of this run of the space."),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(metavar="HANDLE", show_default=False, help="Those of an agent, in place of a space."),
    ] = None,
    status: Statuses = None,
    limit: Limit = None,
    json_lines: JsonLines = None,
) -> int:
    """List the tasks (calls) of a space, of a run or of an agent, newest first."""
    from unpod_async.cli import _listings

    return _listings.tasks(
        common, space, run=run, agent=agent, status=status or (), limit=limit, json_lines=json_lines
    )


@app.command(epilog=_SHARED, short_help="Agents of the organization")
@command
def agents(common: Common, limit: Limit = None, json_lines: JsonLines = None) -> int:
    """List the agents of the organization."""
    from unpod_async.cli import _listings

    return _listings.agents(common, limit=limit, json_lines=json_lines)


@app.command(epilog=_SHARED, short_help="Spaces of the organization")
@command
def spaces(common: Common, limit: Limit = None, json_lines: JsonLines = None) -> int:
    """List the spaces of the organization (some servers take only a JWT here)."""
    from unpod_async.cli import _listings

    return _listings.spaces(common, limit=limit, json_lines=json_lines)


@app.command(epilog=_SHARED, short_help="Organizations of the account")
@command
def organizations(common: Common, limit: Limit = None, json_lines: JsonLines = None) -> int:
    """List the organizations of the account (some servers take only a JWT here)."""
    from unpod_async.cli import _listings

    return _listings.organizations(common, limit=limit, json_lines=json_lines)


app.command(epilog=_SHARED, short_help="All runs and tasks into files")(command(export))
app.command(epilog=_SHARED, short_help="Places phone calls")(command(create))
app.command(epilog=_SHARED, short_help="Follows runs and calls as they go on")(command(watch))
app.command(epilog=_SHARED, short_help="Waits until runs have ended")(command(wait))


@app.command(short_help="A made-up platform to try against")
@command
def sandbox(
    common: Common,
    runs: Annotated[int, typer.Option(min=0, metavar="N", help="Runs in it.")] = 200,
    tasks_per_run: Annotated[str, typer.Option(metavar="N", help="Tasks per run: 5, or 1..20.")] = "1..20",
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed is another data set.")] = 0,
    latency: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="It waits so long before each answer.")
    ] = 0.0,
    host: Annotated[str, typer.Option(metavar="HOST", help="The address it listens on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Its port; 0 is any free one.")
    ] = 8765,
) -> int:
    """Serve a made-up platform to try things against, until Ctrl-C.

    It prints the variables to paste into another terminal.
    """
    from unpod_async.cli import _sandbox

    return _sandbox.sandbox(
        runs=runs, tasks_per_run=tasks_per_run, seed=seed, latency=latency, host=host, port=port
    )


@app.command(epilog=_SHARED, short_help="Checks the set-up, and what to do")
@command
def doctor(
    common: Common,
    space: Annotated[
        str | None,
        typer.Argument(show_default=False, help="Token of a space you want to read."),
    ] = None,
    json_lines: JsonLines = None,
) -> int:
    """Check token, settings, service, clock and access, and say what to do.

    Status 0 when all is well, 4 when the token is refused, else 1.
    """
    from unpod_async.cli import _doctor

    return _doctor.doctor(common, space, json_lines=json_lines)


def run(argv: Sequence[str]) -> int:
    """Run one command line; the exit status."""
    try:
        typer.main.get_command(app).main(
            args=list(argv), prog_name="unpod-async", obj=tuple(argv), standalone_mode=True
        )
    except SystemExit as end:
        return finished(end.code if isinstance(end.code, int) else int(end.code is not None))
    return finished(0)
