"""`unpod-async create`: show the calls, ask for confirmation, and send the request once."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, cast

import msgspec
import typer

from unpod_async._common import printable, shorten
from unpod_async.cli.errors import ERROR, SUCCESS, USAGE, CliError, hint_of, message_of, os_error_text
from unpod_async.cli.options import GlobalOptions, JsonLines, Space, parse_time
from unpod_async.cli.output import counted, echo, echo_err, echo_error, echo_line, wants_json
from unpod_async.cli.runner import InterruptibleRunner
from unpod_async.cli.session import make_client, open_client
from unpod_async.errors import InvalidArgument, OutcomeUnknown, UnpodError

if TYPE_CHECKING:
    from unpod_async import CreatedRun, UnpodClient
    from unpod_async.create import Schedule

__all__ = ["create"]

_SHOWN: Final = 5
"""Calls, and agents, that are listed."""


@dataclass(frozen=True, slots=True)
class _Calls:
    """The calls to place."""

    space: str
    agent: str
    context: str
    documents: _Documents
    schedule: Schedule

    async def send(self, client: UnpodClient) -> CreatedRun:
        return await client.tasks.create(
            self.space,
            pilot=self.agent,
            documents=self.documents.rows,
            context=self.context,
            schedule=self.schedule,
        )

    async def encode(self, client: UnpodClient) -> bytes:
        """Check the request and return its body."""
        return await client.tasks.create(
            self.space,
            pilot=self.agent,
            documents=self.documents.rows,
            context=self.context,
            schedule=self.schedule,
            dry_run=True,
        )


def _parse_schedule(text: str | datetime) -> str | datetime:
    if text in ("now", "auto"):
        return text
    try:
        if isinstance(text, str) and len(text) <= len("2030-01-31"):
            raise typer.BadParameter("a date alone has no time")
        return parse_time(text)
    except typer.BadParameter as error:
        if "time zone" in error.message:
            raise
        raise typer.BadParameter(
            f"{shorten(text, 40)!r} is neither now, auto, nor a time such as 2030-01-31T10:00+05:30"
        ) from None


def create(
    context: typer.Context,
    space: Space,
    agent: Annotated[
        str,
        typer.Option(metavar="HANDLE", show_default=False, help="Agent that makes the calls; see `agents`."),
    ],
    call_context: Annotated[
        str,
        typer.Option("--context", metavar="TEXT", show_default=False, help="What the calls are about."),
    ],
    documents: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="One document per call, with name and contact_number: a .json, .jsonl or .csv file.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="TEXT", show_default=False, help="For a single call: the person's name."),
    ] = None,
    number: Annotated[
        str | None,
        typer.Option(metavar="TEXT", show_default=False, help="For a single call: the phone number."),
    ] = None,
    schedule: Annotated[
        Any,
        typer.Option(
            metavar="WHEN",
            parser=_parse_schedule,
            help="now, auto, or a time such as 2030-01-31T10:00+05:30.",
        ),
    ] = "now",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", show_default=False, help="Do not ask for confirmation.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", show_default=False, help="Check the request, show it as JSON, and send nothing."
        ),
    ] = False,
    json_lines: JsonLines = None,
) -> int:
    """Show the calls, ask for confirmation, and place them.

    The request is sent once. If its response is lost, the calls are looked up but never sent again: status 0
    means that all calls were found, 1 that the outcome is not known.
    """
    from unpod_async.create import ScheduleCustom

    options: GlobalOptions = context.obj
    when = ScheduleCustom.at(schedule) if isinstance(schedule, datetime) else schedule
    calls = _Calls(space, agent, call_context, _documents(documents, name, number), when)
    # This needs no token, because nothing is sent. Everything is checked before the user is asked.
    body = _check(options, calls)
    if dry_run:
        echo_line(body)
        return SUCCESS
    _show(calls)
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CliError("nothing was sent", hint="confirm with --yes if there is no terminal", status=USAGE)
    with open_client(options) as (runner, client):
        runner.run(_check_agent(client, agent))
        if not yes and not _confirmed(len(calls.documents.rows)):
            raise CliError("nothing was sent")
        return _place(runner, client, calls, as_json=wants_json(json_lines))


def _documents(file: str | None, name: str | None, number: str | None) -> _Documents:
    if file is not None:
        if name is not None or number is not None:
            raise CliError("--documents cannot be combined with --name and --number", status=USAGE)
        return _read_documents(file)
    if name is None or number is None:
        raise CliError(
            "create needs --documents FILE, or --name and --number for a single call", status=USAGE
        )
    return _Documents([{"name": name, "contact_number": number}])


def _check(options: GlobalOptions, calls: _Calls) -> bytes:
    """Return the body of the request, checked."""

    async def check() -> bytes:
        async with make_client(options, "nothing-is-sent") as client:
            return await calls.encode(client)

    with InterruptibleRunner() as runner:
        try:
            return runner.run(check())
        except InvalidArgument as error:
            if not error.problems:
                raise
            refused = calls.documents.refusal(error)
    raise refused


def _show(calls: _Calls) -> None:
    from unpod_async.create import ScheduleCustom

    count, when = len(calls.documents.rows), calls.schedule
    echo_err(f"{counted(count, 'call')} in space {calls.space}:")
    for document in calls.documents.rows[:_SHOWN]:
        number, name = _cut(document.get("contact_number"), 24), _cut(document.get("name"), 40)
        echo_err(f"{number}  {name}", indent="  ")
    if count > _SHOWN:
        echo_err(f"and {count - _SHOWN:,} more", indent="  ")
    echo_err(f"agent:    {calls.agent}")
    custom = f"{when.calling_date} {when.calling_time}" if isinstance(when, ScheduleCustom) else when
    echo_err(f"schedule: {custom}")
    echo_err(f"context:  {_cut(calls.context, 200)}")


def _cut(value: object, length: int) -> str:
    text = printable(str(value)[: 4 * length])
    return text if len(text) <= length else f"{text[: length - 1]}…"


async def _check_agent(client: UnpodClient, agent: str) -> None:
    """Check that the agent exists: the service queues calls for an unknown agent, but does not make them."""
    organization = client.settings.org_handle
    if organization is None:
        echo_err("WARNING: the service does not check whether the agent exists")
        echo_err("hint: set UNPOD_ORG_HANDLE or use --org-handle HANDLE to have it checked here")
        return
    handles = [one.handle for one in await client.agents.list().collect() if one.handle]
    if agent not in handles:
        listed = ", ".join(handles[:_SHOWN]) or "none"
        more = ", …" if len(handles) > _SHOWN else ""
        raise CliError(
            f"nothing was sent: organization {organization} has no agent {printable(agent)}",
            hint=f"its agents: {printable(listed)}{more}",
            status=USAGE,
        )


def _confirmed(count: int) -> bool:
    sys.stderr.write(f"Place {'this call' if count == 1 else f'these {count:,} calls'}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _place(runner: InterruptibleRunner, client: UnpodClient, calls: _Calls, *, as_json: bool) -> int:
    count = len(calls.documents.rows)
    try:
        created = runner.run(calls.send(client))
    except OutcomeUnknown as error:
        echo_error(message_of(error), hint_of(error))
        return runner.run(_look_up(client, error, count, as_json=as_json))
    if as_json:
        echo_line(msgspec.json.encode(created))
    else:
        _write_queued(created.run_id, count if created.task_ids is None else len(created.task_ids))
    return SUCCESS


def _write_queued(run_id: str | None, count: int) -> None:
    echo(f"run {printable(run_id or '(without an id)')}: {counted(count, 'call')} queued")


async def _look_up(client: UnpodClient, error: OutcomeUnknown, count: int, *, as_json: bool) -> int:
    """Report whether the calls of a create without a response were queued. They are never sent again."""
    echo_err("Looking for the calls …")
    try:
        found = await client.tasks.reconcile(error)
    except UnpodError as failure:
        echo_error(f"cannot look for the calls: {message_of(failure)}", hint_of(failure))
        echo_err("Nothing was sent again. Look for the calls before you send them again.")
        return ERROR
    if as_json:
        echo_line(msgspec.json.encode(found))
    run = f"run {printable(found.run_id or '(without an id)')}"
    if found.state == "created":
        echo_err(f"Found: all {counted(count, 'call')} were queued in {run}.")
        if not as_json:
            _write_queued(found.run_id, count)
        return SUCCESS
    if found.task_ids:
        echo_err(f"Found: {len(found.task_ids):,} of {counted(count, 'call')} were queued in {run}.")
    else:
        echo_err("Not found. The calls may still have been queued.")
    if found.state == "unclear":
        echo_err("A run or task that may belong to these calls cannot be read.")
    echo_err(
        "The service may still be storing calls. Nothing was sent again; look again in a few minutes before "
        "you send the missing calls."
    )
    return ERROR


# -- documents in files -------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """A document of a file and its position, such as "line 3" or "item 3"."""

    position: str
    document: dict[str, Any]


class _Documents:
    """The documents and their source.

    Args:
        rows: the documents.
        file: the name of the file as shown in messages, or None for --name and --number.
        positions: the position of each document in the file.

    Attributes:
        rows: the documents.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], file: str | None = None, positions: Sequence[str] = ()
    ) -> None:
        self.rows = rows
        self._file = file
        self._positions = positions

    def refusal(self, error: InvalidArgument) -> CliError:
        """Return the error for refused documents. It names the options, or the lines of the file."""
        hint = hint_of(error)
        if self._file is None:
            (problem,) = error.problems
            return CliError(_OPTION.sub(_option_of, problem), hint=hint, status=USAGE)
        problems = [self._located(problem) for problem in error.problems]
        if len(problems) == 1:
            return CliError(f"--documents: {self._file}, {problems[0]}", hint=hint, status=USAGE)
        return CliError(
            f"--documents: {len(problems):,} of {counted(len(self.rows), 'document')} in {self._file} cannot "
            "be sent:",
            details=problems,
            hint=hint,
            status=USAGE,
        )

    def _located(self, problem: str) -> str:
        """Replace "documents[1]." by the position of the document in the file."""
        found = _INDEXED.match(problem)
        start = "" if found is None else f"{self._position(found)}: "
        rest = problem if found is None else problem[found.end() :].lstrip(". ")
        return start + _INDEXED.sub(self._position, rest)

    def _position(self, found: re.Match[str]) -> str:
        return self._positions[int(found[1])]


_INDEXED: Final = re.compile(r"documents\[([0-9]+)\]")
_OPTION: Final = re.compile(r"^documents\[0\]\.(name|contact_number)\b")
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


def _option_of(found: re.Match[str]) -> str:
    return "--name" if found[1] == "name" else "--number"


def _documents_error(message: str) -> CliError:
    return CliError(f"--documents: {message}", status=USAGE)


def _read_documents(name: str) -> _Documents:
    """Return one mapping per call: the objects of a .json list or of .jsonl lines, or the rows of a .csv.

    The first line of a CSV file has the names of the columns. All its values are strings, and empty ones are
    left out.

    Raises:
        CliError: the file cannot be read, contains other data, or has a repeated column or key. The message
            shows no value of the file.
    """
    path, shown_path = Path(name), shorten(name, 80)
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise _documents_error(f"{shown_path} is not a .json, .jsonl or .csv file")
    try:
        found = list(read(path.read_bytes().decode("utf-8-sig")))
    except UnicodeDecodeError:
        raise _documents_error(f"{shown_path} is not UTF-8") from None
    except (OSError, ValueError) as error:
        raise _documents_error(f"cannot read {shown_path}: {os_error_text(error)}") from None
    if not found:
        raise _documents_error(f"{shown_path} contains no documents")
    return _Documents(
        [row.document for row in found], shorten(path.name, 80), [row.position for row in found]
    )


def _read_json(text: str) -> Iterator[_Row]:
    if not isinstance(_decode(text, "the file"), list):
        raise _documents_error("the file must be a list of objects, one per call")
    for number, item in enumerate(msgspec.json.decode(text, type=list[msgspec.Raw]), 1):
        yield _row(bytes(item).decode(), f"item {number}")


def _read_jsonl(text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _row(line, f"line {number}")


def _read_csv(text: str) -> Iterator[_Row]:
    import csv
    import io

    # Not str.splitlines(), which also ends a line at characters that a name may contain.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    try:
        while True:
            position = f"line {reader.line_num + 1}"
            row = next(reader, None)
            if row is None:
                return
            if not row:
                continue
            if columns is None:
                columns = _check_columns(row)
                continue
            if len(row) != len(columns):
                raise _documents_error(
                    f"{position} does not have one value for each column of the first line"
                )
            if columns.count("") > 1 and any(
                value for column, value in zip(columns, row, strict=True) if not column
            ):
                raise _documents_error(f"{position} has a value in a column without a name")
            yield _Row(
                position,
                {column: value for column, value in zip(columns, row, strict=True) if value},
            )
    except csv.Error as error:
        raise _documents_error(f"line {reader.line_num} is not valid CSV: {error}") from None


def _check_columns(columns: list[str]) -> list[str]:
    """Return the names of the columns. A repeated name is an error: only one of the columns could be sent."""
    repeated = next((column for column in columns if column and columns.count(column) > 1), None)
    if repeated is not None:
        raise _documents_error(f"the first line has {_named('column', repeated)} twice")
    return columns


def _named(kind: str, name: str) -> str:
    """Name a column or a key. Only what looks like a field name is shown: others may be personal data."""
    return f"the {kind} {name}" if _FIELD.fullmatch(name) else f"a {kind}"


def _row(text: str, position: str) -> _Row:
    """Return a document from JSON."""
    import json

    value = _decode(text, position)
    if not isinstance(value, dict):
        raise _documents_error(f"{position} must be an object with name and contact_number")

    def check_keys(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _documents_error(f"{position} has {_named('key', key)} twice")
            seen.add(key)

    # msgspec silently keeps the last value of a repeated key.
    try:
        json.loads(text, object_pairs_hook=check_keys, parse_int=str)
    except RecursionError:
        raise _documents_error(f"{position} is nested too deeply") from None
    return _Row(position, cast("dict[str, Any]", value))


def _decode(text: str, position: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error) if isinstance(error, msgspec.DecodeError) else "it is nested too deeply"
        raise _documents_error(f"{position} is not valid JSON: {reason}") from None
