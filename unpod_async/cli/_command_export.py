"""The options of `export`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from unpod_async.cli._arguments import Space
from unpod_async.cli._common import Common

__all__ = ["export"]


class Format(StrEnum):
    """Formats of an export."""

    JSONL = "jsonl"
    JSONL_GZ = "jsonl.gz"
    CSV = "csv"
    PARQUET = "parquet"


class Redaction(StrEnum):
    """What may become of contact data."""

    DROP = "drop"
    HASH = "hash"


def export(
    common: Common,
    space: Space,
    target: Annotated[str, typer.Argument(show_default=False, help="Directory of the data set.")],
    format_: Annotated[
        Format, typer.Option("--format", metavar="FORMAT", help="jsonl, jsonl.gz, csv or parquet.")
    ] = Format.JSONL,
    more_spaces: Annotated[
        list[str] | None,
        typer.Option("--space", metavar="SPACE", show_default=False, help="A further space; repeatable."),
    ] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="RUN_ID", show_default=False, help="Only this run; may be repeated."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            show_default=False,
            help="Only runs created from then on: 2030-01-31 (midnight UTC), 2030-01-31T10:00+05:30.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", show_default=False, help="Only runs created until then.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", show_default=False, help="Read every run again, settled or not.")
    ] = False,
    settle_after: Annotated[
        str,
        typer.Option(
            metavar="DAYS", help="Runs that ended longer ago are not read again; 12h and 90m are understood."
        ),
    ] = "7",
    recordings: Annotated[
        bool, typer.Option("--recordings", show_default=False, help="Download the recordings too.")
    ] = False,
    recording_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--recording-host",
            metavar="HOST",
            show_default=False,
            help="Where recordings may be although it is no public https address; may be repeated.",
        ),
    ] = None,
    redact: Annotated[
        Redaction | None,
        typer.Option(
            metavar="HOW", show_default=False, help="drop names, numbers and e-mails, or hash them."
        ),
    ] = None,
    redact_key_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Key of the hashes (- for stdin); else UNPOD_REDACT_KEY, else one of the target's own.",
        ),
    ] = None,
    keep_user_token: Annotated[
        bool,
        typer.Option(
            "--keep-user-token",
            show_default=False,
            help="Keep the access tokens of the users in the rows, which are secrets.",
        ),
    ] = False,
    csv_safe: Annotated[
        bool,
        typer.Option("--csv-safe", show_default=False, help="Disarm what spreadsheets take for formulas."),
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="Runs read at a time.")] = 4,
    page_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default=False, help="Rows asked for per page.")
    ] = None,
    part_size: Annotated[float, typer.Option(metavar="MIB", help="Size of one file.")] = 64,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", show_default=False, help="Give up after so long.")
    ] = None,
    json_lines: Annotated[
        bool | None,
        typer.Option(
            "--json/--table",
            show_default=False,
            help="The summary as JSON, or for people. JSON unless stdout is a terminal.",
        ),
    ] = None,
) -> int:
    """Export runs and tasks into the files of a directory.

    Stopped or killed at any moment, run the same again: it goes on where it was. Run it again later, and only
    what is new or may have changed is fetched.
    """
    from unpod_async.cli import _export

    wishes = _export.Wishes(
        format=format_.value,
        runs=runs or (),
        since=since,
        until=until,
        full=full,
        settle_after=settle_after,
        concurrency=concurrency,
        page_size=page_size,
        keep_user_token=keep_user_token,
        csv_safe=csv_safe,
        redact=None if redact is None else redact.value,
        redact_key_file=redact_key_file,
        recordings=recordings,
        recording_hosts=recording_hosts or (),
        part_size=part_size,
    )
    return _export.export(
        common, [space, *(more_spaces or ())], target, wishes, deadline=deadline, json_lines=json_lines
    )
