"""The options of `watch` and `wait`."""

from __future__ import annotations

from typing import Annotated

import typer

from unpod_async.cli._arguments import JsonLines, Space
from unpod_async.cli._common import Common

__all__ = ["wait", "watch"]


def watch(
    common: Common,
    spaces: Annotated[
        list[str], typer.Argument(metavar="SPACE", show_default=False, help="Tokens of the spaces.")
    ],
    interval: Annotated[
        str, typer.Option(metavar="SECONDS", help="From one poll to the next; 1m and 1h are understood.")
    ] = "10",
    resync: Annotated[
        str,
        typer.Option(metavar="SECONDS", help="Changes of settled runs, and deletions, are seen so often."),
    ] = "1h",
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="RUN_ID", show_default=False, help="Only this run; may be repeated."),
    ] = None,
    no_tasks: Annotated[
        bool, typer.Option("--no-tasks", show_default=False, help="Runs alone, which takes fewer requests.")
    ] = False,
    changes_only: Annotated[
        bool,
        typer.Option(
            "--changes-only", show_default=False, help="Leave out of the lines what is there at the start."
        ),
    ] = False,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Go on from there if it exists; kept up to date, for the next watch.",
        ),
    ] = None,
    json_lines: JsonLines = None,
) -> int:
    """Show what happens in spaces, until Ctrl-C.

    On a terminal a table that follows; else a line of JSON for each event, with ids and statuses and nothing
    about people. An outage is told once, and waited out.
    """
    from unpod_async.cli import _watch

    wishes = _watch.Wishes(
        interval=interval,
        resync=resync,
        runs=runs or (),
        tasks=not no_tasks,
        changes_only=changes_only,
        state=state,
    )
    return _watch.watch(common, spaces, wishes, json_lines=json_lines)


def wait(
    common: Common,
    space: Space,
    runs: Annotated[list[str], typer.Argument(metavar="RUN", show_default=False, help="Ids of the runs.")],
    deadline: Annotated[
        str, typer.Option(metavar="SECONDS", help="Wait so long at most; 10m and 2h are understood.")
    ] = "600",
    interval: Annotated[str, typer.Option(metavar="SECONDS", help="From one poll to the next.")] = "10",
    json_lines: JsonLines = None,
) -> int:
    """Wait until runs have ended, each with all its tasks.

    Status 5 when they have not in time: a task in hold, for one, never ends. Which tasks it is, is said.
    """
    from unpod_async.cli import _wait

    return _wait.wait(common, space, runs, deadline=deadline, interval=interval, json_lines=json_lines)
