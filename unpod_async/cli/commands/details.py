"""`run`, `task` and `recordings`: one run, one task, and the recordings of either."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from unpod_async._common import printable, run_has_ended, shorten
from unpod_async._tables import (
    RunSummary,
    call_of,
    cost_of,
    duration_of,
    name_of,
    number_of,
    outcome_of,
)
from unpod_async.cli.errors import INCOMPLETE, SUCCESS, CliError, hint_of, message_of
from unpod_async.cli.fields import outcome_style, status_style
from unpod_async.cli.lookup import PAGE_SIZE, Found, find_run, find_task, plain_id
from unpod_async.cli.options import FILTERS, OUTPUT, JsonLines, Space, Utc, Wide
from unpod_async.cli.output import (
    clock,
    counted,
    echo,
    echo_err,
    echo_line,
    local_time,
    wants_json,
    zone_name,
)
from unpod_async.cli.session import open_client
from unpod_async.cli.tables import Cell, Column, Table, echo_pairs
from unpod_async.errors import AuthenticationError, ExportError, RecordingError, UnpodError
from unpod_async.models import Run, Task

if TYPE_CHECKING:
    from pathlib import Path

    from unpod_async import UnpodClient

__all__ = ["recordings", "run", "task"]

_DOWNLOADS: Final = 4
"""Number of recordings that are downloaded at the same time."""

_MAX_HOST: Final = 260
"""Characters of a host and its port: no host name is longer than 253."""

_Pairs = list[tuple[str, str | Cell]]


# -- a run --------------------------------------------------------------------------------------------------


def run(
    context: typer.Context,
    space: Space,
    run: Annotated[
        str, typer.Argument(metavar="RUN", show_default=False, help="Id of the run, or its first characters.")
    ],
    utc: Utc = False,
    json_lines: JsonLines = None,
) -> int:
    """Show one run: its status, and the statuses, outcomes, duration and cost of its calls.

    The service has no endpoint for a single run. The command searches the runs of the space, newest first,
    and reads the tasks of the run.
    """
    zone = UTC if utc else None
    as_json = wants_json(json_lines)

    async def show(client: UnpodClient) -> int:
        found = await find_run(client, space, run)
        summary = RunSummary()
        failure: UnpodError | None = None
        try:
            async for one in client.runs.tasks(space, found.id, page_size=PAGE_SIZE):
                summary.add(one)
        except UnpodError as error:
            failure = error
        row = _decode(found, Run, "run")
        ended = run_has_ended(row.status, summary.statuses, all_tasks_read=failure is None)
        if as_json:
            fields = {"run": msgspec.Raw(found.line), "ended": ended, **summary.fields()}
            echo_line(msgspec.json.encode(fields))
        else:
            echo_pairs(_run_pairs(row, summary, ended=ended, zone=zone))
        if failure is not None:
            raise failure
        return SUCCESS

    with open_client(context.obj) as (runner, client):
        return runner.run(show(client))


def _summary_pairs(summary: RunSummary) -> _Pairs:
    statuses, duration, cost = summary.statuses, summary.duration, summary.cost
    return [
        ("Tasks", f"{statuses.total():,}{_counts(statuses, ': ')}"),
        ("Outcomes", _counts(summary.outcomes) or "-"),
        ("Duration", "-" if duration is None else f"{clock(duration)} in all calls"),
        ("Cost", "-" if cost is None else f"${cost:,.2f}"),
    ]


def _counts(counts: Counter[str], start: str = "") -> str:
    listed = ", ".join(f"{count:,} {shorten(name or '-', 60)}" for name, count in counts.most_common())
    return f"{start}{listed}" if listed else ""


def _run_pairs(row: Run, summary: RunSummary, *, ended: bool, zone: tzinfo | None) -> _Pairs:
    return [
        ("Run", row.run_id or "-"),
        ("Status", Cell(row.status or "-", status_style(row.status))),
        ("Ended", "yes, with all its calls" if ended else "no, calls are open or unreadable"),
        *_summary_pairs(summary),
        ("Created", _time(row.created_at, row.created, zone)),
        ("Modified", _time(row.modified_at, row.modified, zone)),
    ]


# -- a task -------------------------------------------------------------------------------------------------


def task(
    context: typer.Context,
    space: Space,
    task: Annotated[
        str,
        typer.Argument(metavar="TASK", show_default=False, help="Id of the task, or its first characters."),
    ],
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            show_default=False,
            rich_help_panel=FILTERS,
            help="Search only in this run, which takes fewer requests.",
        ),
    ] = None,
    transcript: Annotated[
        bool,
        typer.Option(
            "--transcript", show_default=False, rich_help_panel=OUTPUT, help="Also show the transcript."
        ),
    ] = False,
    utc: Utc = False,
    json_lines: JsonLines = None,
) -> int:
    """Show one task: its status, and the person, outcome, duration, cost and summary of its call.

    The service has no endpoint for a single task. The command searches the tasks of the space, newest first,
    or those of --run RUN.
    """
    as_json = wants_json(json_lines)

    async def show(client: UnpodClient) -> int:
        inside = None if run is None else (await find_run(client, space, run)).id
        found = await find_task(client, space, task, run=inside)
        if as_json:
            echo_line(found.line)
            return SUCCESS
        row = _decode(found, Task, "task")
        echo_pairs(_task_pairs(row, UTC if utc else None))
        if transcript:
            call = call_of(row)
            echo("")
            for line in ((call and call.transcript) or "(no transcript)").splitlines():
                echo(printable(line))
        return SUCCESS

    with open_client(context.obj) as (runner, client):
        return runner.run(show(client))


def _task_pairs(row: Task, zone: tzinfo | None) -> _Pairs:
    outcome, duration, cost, call = outcome_of(row), duration_of(row), cost_of(row), call_of(row)
    pairs: _Pairs = [
        ("Task", row.task_id or "-"),
        ("Run", row.run_id or "-"),
        ("Status", Cell(row.status or "-", status_style(row.status))),
        ("Outcome", Cell(outcome or "-", outcome_style(outcome))),
        ("Name", _text(name_of(row))),
        ("Number", _text(number_of(row))),
        ("Agent", row.assignee or "-"),
        ("Duration", "-" if duration is None else clock(duration)),
        ("Cost", "-" if cost is None else f"${cost:,.3f}"),
        ("Created", _time(row.created_at, row.created, zone)),
        ("Modified", _time(row.modified_at, row.modified, zone)),
    ]
    if row.scheduled_timestamp is not None:
        pairs.append(("Scheduled", _time(row.scheduled_timestamp_at, str(row.scheduled_timestamp), zone)))
    if call is None:
        return pairs
    more: _Pairs = [
        ("Direction", call.direction or ""),
        ("Started", _time(call.started_at, "", zone)),
        ("Finished", _time(call.ended_at, "", zone)),
        ("End reason", call.end_reason or ""),
        ("Sentiment", call.sentiment or ""),
        ("Labels", ", ".join(call.labels)),
        ("Recording", _host(call.recording_url)),
        ("Error", Cell(call.error, status_style("failed")) if call.error else ""),
        ("Summary", call.summary or ""),
    ]
    return pairs + [pair for pair in more if pair[1]]


# -- recordings ---------------------------------------------------------------------------------------------


def recordings(
    context: typer.Context,
    space: Space,
    of: Annotated[
        str,
        typer.Argument(
            metavar="TASK|RUN", show_default=False, help="Id of a task or a run, or its first characters."
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="DIRECTORY",
            show_default=False,
            help="Download the recordings into this directory. Existing files are not downloaded again.",
        ),
    ] = None,
    recording_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--recording-host",
            metavar="HOST",
            show_default=False,
            help="Allow recordings from this host (HOST or HOST:PORT) although it is not public or does not "
            "use https. Repeatable.",
        ),
    ] = None,
    wide: Wide = False,
    json_lines: JsonLines = None,
) -> int:
    """List or download the recordings of the calls of a task or a run.

    JSON has the URLs of the recordings. A URL may let anyone listen until it expires: treat it as a secret.
    """
    as_json = wants_json(json_lines)

    async def show(client: UnpodClient) -> int:
        from unpod_async._recordings import safe_name  # here, because it imports aiohttp

        tasks = await _tasks_of(client, space, of)
        found = [one for one in tasks if (call := call_of(one)) is not None and call.recording_url]
        files: dict[str, Path | UnpodError] = {}
        if to is not None:
            files = await _download(client, found, to, recording_hosts or ())
        _write_recordings(found, files, as_json=as_json, wide=wide)
        failures = [(name, error) for name, error in files.items() if isinstance(error, UnpodError)]
        by_reason: dict[str, list[str]] = {}
        for name, error in failures:
            reason = message_of(error)
            if isinstance(error, ExportError):
                # One full disk is one message, although each error names its recording.
                reason = reason.replace(f" {safe_name(name)}", "")
            by_reason.setdefault(reason, []).append(shorten(name, 40))
        for reason, names in by_reason.items():
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            recording = f"the recording of task {names[0]}{more}"
            # The error of a download names its recording, that of a directory does not.
            echo_err(f"unpod-async: {reason if recording in reason else f'{recording}: {reason}'}")
        for hint in dict.fromkeys(_download_hint(error) for _, error in failures):
            if hint:
                echo_err(f"hint: {hint}")
        without = len(tasks) - len(found)
        if not found or (without and not as_json):
            have = "has" if len(tasks) == 1 else "have"
            echo_err(f"{without:,} of {counted(len(tasks), 'task')} {have} no recording.")
        return INCOMPLETE if failures else SUCCESS

    with open_client(context.obj) as (runner, client):
        return runner.run(show(client))


async def _tasks_of(client: UnpodClient, space: str, text: str) -> list[Task]:
    """Return the tasks of a run, or a single task. `text` is the id of either, or its first characters."""
    wanted = plain_id(text)
    if not wanted.startswith("T"):
        if tasks := await client.runs.tasks(space, wanted, page_size=PAGE_SIZE).collect():
            return tasks
        try:
            run = await find_run(client, space, wanted)
        except CliError as no_run:
            try:
                return [_decode(await find_task(client, space, wanted), Task, "task")]
            except CliError:
                raise CliError(
                    f"{no_run.message}, and no task with that id", hint=no_run.hint, status=no_run.status
                ) from None
        return await client.runs.tasks(space, run.id, page_size=PAGE_SIZE).collect()
    try:
        return [_decode(await find_task(client, space, wanted), Task, "task")]
    except CliError as no_task:
        tasks = await client.runs.tasks(space, wanted, page_size=PAGE_SIZE).collect()
        if not tasks:
            raise no_task from None
        return tasks


def _download_hint(error: UnpodError) -> str:
    """Return what the user can do about a recording that was not downloaded, or ""."""
    is_permanent = isinstance(error, RecordingError) and error.permanent
    return hint_of(error) or ("" if is_permanent else "run the command again to download what is missing")


async def _download(
    client: UnpodClient, tasks: Sequence[Task], directory: str, hosts: Sequence[str]
) -> dict[str, Path | UnpodError]:
    """Download the recordings. Returns the file of each, or why there is none, by task id."""
    slots = asyncio.Semaphore(_DOWNLOADS)

    async def one(task: Task) -> tuple[str, Path | UnpodError]:
        async with slots:
            try:
                path = await client.recordings.download(task, directory, recording_hosts=hosts)
            except AuthenticationError:
                raise
            except UnpodError as error:
                return task.task_id or "", error
            return task.task_id or "", path

    return dict(await asyncio.gather(*map(one, tasks)))


def _write_recordings(
    tasks: Sequence[Task], files: dict[str, Path | UnpodError], *, as_json: bool, wide: bool
) -> None:
    def file_of(task: Task) -> str | None:
        file = files.get(task.task_id or "")
        return None if file is None or isinstance(file, UnpodError) else str(file)

    def host(task: Task) -> str:
        call = call_of(task)
        return "" if call is None else _host(call.recording_url)

    def duration(task: Task) -> str | None:
        seconds = duration_of(task)
        return None if seconds is None else clock(seconds)

    if as_json:
        for task in tasks:
            call = call_of(task)
            fields = {
                "task": task.task_id,
                "run": task.run_id,
                "duration": duration_of(task),
                "url": call and call.recording_url,
                "file": file_of(task),
            }
            echo_line(msgspec.json.encode(fields))
        return
    if not tasks:
        return
    columns = [
        Column("TASK", "task_id", 10, firm=True, kind="id"),
        Column("RUN", "run_id", 10, rank=2, kind="id"),
        Column("DURATION", duration, 8, right=True),
        Column("NUMBER", number_of, 10, rank=1, firm=True),
        Column("FILE", file_of, 20, fold=True) if files else Column("HOST", host, 20, fold=True),
    ]
    table = Table(columns, wide=wide)
    for task in tasks:
        table.add(task)
    table.echo()


# -- values -------------------------------------------------------------------------------------------------


def _decode(found: Found, model: Any, noun: str) -> Any:
    try:
        return msgspec.json.decode(found.line, type=model)
    except msgspec.ValidationError as error:
        raise CliError(
            f"{noun} {shorten(found.id, 80)} cannot be read: {shorten(str(error), 200)}",
            hint=f"`unpod-async {noun}s SPACE --json` shows it as the service sends it",
        ) from None


def _text(value: object) -> str:
    return shorten(str(value), 200) if value not in (None, "") else "-"


def _time(at: datetime | None, sent: str | None, zone: tzinfo | None) -> str:
    if at is None:
        return "-" if sent is None else sent
    local = local_time(at, zone)
    return f"{local:%Y-%m-%d %H:%M:%S} {zone_name(local)}"


def _host(url: str | None) -> str:
    """Return the host of a URL. The rest may be a signature, which is a secret."""
    if not url:
        return ""
    authority = url.partition("://")[2].partition("/")[0].partition("?")[0]
    return shorten(authority.rpartition("@")[2], _MAX_HOST) or "(no host)"
