"""The options of `create`."""

from __future__ import annotations

from typing import Annotated

import typer

from unpod_async.cli._arguments import JsonLines, Space
from unpod_async.cli._common import Common

__all__ = ["create"]


def create(
    common: Common,
    space: Space,
    agent: Annotated[
        str, typer.Option(metavar="HANDLE", show_default=False, help="The agent that calls; see `agents`.")
    ],
    context: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="What calls are about.")],
    documents: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="One document per call, with name and contact_number: .json, .jsonl or .csv.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", show_default=False, help="Who is called, for one call.")
    ] = None,
    number: Annotated[
        str | None, typer.Option(metavar="TEXT", show_default=False, help="The number, for one call.")
    ] = None,
    schedule: Annotated[
        str, typer.Option(metavar="WHEN", help="now, auto, or a time such as 2030-01-31T10:00+05:30.")
    ] = "now",
    yes: Annotated[bool, typer.Option("--yes", "-y", show_default=False, help="Do not ask.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", show_default=False, help="Check it, show the JSON, and send nothing."),
    ] = False,
    json_lines: JsonLines = None,
) -> int:
    """Place phone calls, after showing what will be dialled and asking.

    It is sent once. When its answer is lost, it is looked for, and never sent again: status 0 says that all
    calls were found, 1 that it is not known.
    """
    from unpod_async.cli import _create

    return _create.create(
        common,
        space,
        agent=agent,
        context=context,
        documents=documents,
        name=name,
        number=number,
        schedule=schedule,
        yes=yes,
        dry_run=dry_run,
        json_lines=json_lines,
    )
