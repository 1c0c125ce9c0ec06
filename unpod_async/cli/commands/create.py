"""`unpod-async create`: show the calls, ask for confirmation, and send each request once."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from unpod_async._common import printable, shorten
from unpod_async.cli.create_journal import BATCH_SIZE, JournaledCalls
from unpod_async.cli.documents import Documents, read_documents
from unpod_async.cli.errors import ERROR, SUCCESS, USAGE, CliError, hint_of, message_of
from unpod_async.cli.options import GlobalOptions, JsonLines, Space, parse_time
from unpod_async.cli.output import counted, echo, echo_err, echo_error, echo_line, wants_json, write_err
from unpod_async.cli.runner import Interrupted, InterruptibleRunner
from unpod_async.cli.session import make_client, open_client
from unpod_async.errors import InvalidArgument, OutcomeUnknown, UnpodError

if TYPE_CHECKING:
    from unpod_async import CreatedRun, CreateRequest, UnpodClient
    from unpod_async.create import Schedule

__all__ = ["create"]

_SHOWN: Final = 5
"""Maximum number of calls, or of agents, that are shown."""
_CLOCK_OFFSET: Final = timedelta(minutes=5)
"""How far the clock of this machine may be ahead of the service's."""


@dataclass(frozen=True, slots=True)
class _Calls:
    """The calls to place."""

    space: str
    agent: str
    context: str
    documents: Documents
    schedule: Schedule

    async def send(self, client: UnpodClient) -> CreatedRun:
        return await client.tasks.create(
            self.space,
            pilot=self.agent,
            documents=self.documents.rows,
            context=self.context,
            schedule=self.schedule,
        )

    async def encode(self, client: UnpodClient, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Check the request with these documents and return its body."""
        return await client.tasks.create(
            self.space,
            pilot=self.agent,
            documents=rows,
            context=self.context,
            schedule=self.schedule,
            dry_run=True,
        )

    def batches(self) -> list[Sequence[Mapping[str, Any]]]:
        """Return the documents of each request that is sent with a journal."""
        rows = self.documents.rows
        return [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]

    def requests(self) -> list[CreateRequest]:
        """Return the requests that are sent with a journal."""
        from unpod_async.create import CreateRequest

        return [
            CreateRequest(pilot=self.agent, documents=rows, context=self.context, schedule=self.schedule)
            for rows in self.batches()
        ]


def _parse_schedule(text: str | datetime) -> str | datetime:
    if text in ("now", "auto"):
        return text
    try:
        if isinstance(text, str) and len(text) <= len("2030-01-31"):
            raise typer.BadParameter("a date without a time")
        return parse_time(text)
    except typer.BadParameter as error:
        if "time zone" in error.message:
            raise
        raise typer.BadParameter(
            f"{shorten(text, 40)!r} is not now, auto or a time such as 2030-01-31T10:00+05:30"
        ) from None


def create(
    context: typer.Context,
    space: Space,
    agent: Annotated[
        str,
        typer.Option(
            rich_help_panel="Calls",
            metavar="HANDLE",
            show_default=False,
            help="Agent that makes the calls; see `agents`.",
        ),
    ],
    call_context: Annotated[
        str,
        typer.Option(
            "--context",
            rich_help_panel="Calls",
            metavar="TEXT",
            show_default=False,
            help="What the calls are about.",
        ),
    ],
    documents: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Calls",
            metavar="FILE",
            show_default=False,
            help="One document per call, with name and contact_number: a .json, .jsonl, .csv or .tsv file.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Calls",
            metavar="TEXT",
            show_default=False,
            help="For a single call: the person's name.",
        ),
    ] = None,
    number: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Calls",
            metavar="TEXT",
            show_default=False,
            help="For a single call: the phone number.",
        ),
    ] = None,
    schedule: Annotated[
        Any,
        typer.Option(
            rich_help_panel="Calls",
            metavar="WHEN",
            parser=_parse_schedule,
            help="now, auto, or a time such as 2030-01-31T10:00+05:30.",
        ),
    ] = "now",
    journal: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Sending",
            metavar="FILE",
            show_default=False,
            help="Record each request in FILE before it is sent. After a kill or a lost response, run the "
            "same command again: no call is placed twice. FILE is created if it does not exist.",
        ),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", rich_help_panel="Sending", show_default=False, help="Do not ask for confirmation."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel="Sending",
            show_default=False,
            help="Check the request, show it as JSON, and send nothing.",
        ),
    ] = False,
    json_lines: JsonLines = None,
) -> int:
    """Show the calls, ask for confirmation, and place them.

    The request is sent once. If its response is lost, the command searches for the calls but never sends them
    again. Exit status 0 then means that all calls were found, 1 that the outcome is unknown. Do not repeat a
    killed command blindly: without --journal, its calls are placed again.

    With --journal, every 100 documents are one request and become one run. A repeated command sends only what
    the journal does not list, and searches for the calls whose outcome is unknown. Exit status 0 means that
    all calls are queued.
    """
    from unpod_async.create import ScheduleCustom

    options: GlobalOptions = context.obj
    when = ScheduleCustom.at(schedule) if isinstance(schedule, datetime) else schedule
    calls = _Calls(space, agent, call_context, _load_documents(documents, name, number), when)
    # This needs no token, because nothing is sent. Everything is checked before the user is asked.
    bodies = _check(options, calls, in_batches=journal is not None)
    if dry_run:
        for body in bodies:
            echo_line(body)
        return SUCCESS
    left = len(calls.documents.rows)
    _show(calls)
    journaled = None if journal is None else JournaledCalls(journal, space, calls.requests())
    if journaled is not None:
        progress = journaled.read_progress()
        left = progress.left
        echo_err(journaled.describe(progress), label="journal:  ")
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CliError("nothing was sent", hint="confirm with --yes if there is no terminal", status=USAGE)
    with open_client(options) as (runner, client):
        runner.run(_check_agent(client, agent))
        if left and not yes and not _confirm(left):
            raise CliError("nothing was sent", hint="answer y to place the calls, or use --yes")
        if journaled is not None:
            return journaled.send(runner, client, as_json=wants_json(json_lines))
        return _send_calls(runner, client, calls, as_json=wants_json(json_lines))


def _load_documents(file: str | None, name: str | None, number: str | None) -> Documents:
    if file is not None:
        if name is not None or number is not None:
            raise CliError("--documents cannot be combined with --name and --number", status=USAGE)
        return read_documents(file)
    if name is None or number is None:
        raise CliError(
            "create needs --documents FILE, or --name and --number for a single call", status=USAGE
        )
    return Documents([{"name": name, "contact_number": number}])


def _check(options: GlobalOptions, calls: _Calls, *, in_batches: bool) -> list[bytes]:
    """Return the body of each request, checked."""

    async def check() -> list[bytes]:
        async with make_client(options, "nothing-is-sent") as client:
            whole = await calls.encode(client, calls.documents.rows)
            return [await calls.encode(client, rows) for rows in calls.batches()] if in_batches else [whole]

    documents = calls.documents
    if not documents.rows:
        raise documents.refusal([], "")
    with InterruptibleRunner() as runner:
        try:
            bodies = runner.run(check())
        except InvalidArgument as error:
            if not error.problems:
                raise
            # Without a hint of its own, the file is corrected, or the options are.
            refused = documents.refusal(error.problems, hint_of(error) if error.hint else "")
        else:
            if not documents.unreadable:
                return bodies
            refused = documents.refusal([], "")
    raise refused


def _show(calls: _Calls) -> None:
    from unpod_async.create import ScheduleCustom

    count, when = len(calls.documents.rows), calls.schedule
    echo_err(f"{counted(count, 'call')} in space {calls.space}:")
    shown = [
        (_cut(document.get("contact_number"), 24), _cut(document.get("name"), 40))
        for document in calls.documents.rows[:_SHOWN]
    ]
    width = max(len(number) for number, _ in shown)
    for number, name in shown:
        echo_err(name, indent="  ", label=f"{number:<{width}}  ")
    if count > _SHOWN:
        echo_err(f"and {count - _SHOWN:,} more", indent="  ")
    repeated = count - len({_digits_of(document) for document in calls.documents.rows})
    if repeated:
        echo_err(
            f"WARNING: {counted(repeated, 'document')} with a number that is also in an earlier document"
        )
    echo_err(calls.agent, label="agent:    ")
    custom = f"{when.calling_date} {when.calling_time}" if isinstance(when, ScheduleCustom) else when
    echo_err(str(custom), label="schedule: ")
    echo_err(_cut(calls.context, 200), label="context:  ")


def _digits_of(document: Mapping[str, Any]) -> str:
    """Return the digits of the number of a document: +1 555-0100 and 15550100 call the same person."""
    return re.sub(r"[^0-9]", "", document["contact_number"])


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
        listed = ", ".join(handles[:_SHOWN])
        more = ", …" if len(handles) > _SHOWN else ""
        raise CliError(
            f"nothing was sent: organization {organization} has no agent {printable(agent)}",
            hint=f"use one of its agents: {printable(listed)}{more}"
            if listed
            else "it has no agents: create one",
            status=USAGE,
        )


def _confirm(count: int) -> bool:
    sys.stderr.write(f"Place {'this call' if count == 1 else f'these {count:,} calls'}? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        write_err("\n")  # Ctrl-D leaves the cursor behind the question
    return answer.strip().lower() in {"y", "yes"}


def _send_calls(runner: InterruptibleRunner, client: UnpodClient, calls: _Calls, *, as_json: bool) -> int:
    count = len(calls.documents.rows)
    started_at = datetime.now(UTC)
    try:
        created = runner.run(calls.send(client))
    except OutcomeUnknown as error:
        echo_error(message_of(error), hint_of(error))
        return runner.run(_search_calls(client, error, count, as_json=as_json))
    except Interrupted as interrupted:
        if interrupted.notes:  # the request may have been sent
            interrupted.hint = _search_hint(calls.space, started_at)
        raise
    queued = count if created.task_ids is None else len(created.task_ids)
    _write_result(created.run_id, queued, msgspec.json.encode(created) if as_json else None)
    return SUCCESS


def _write_result(run_id: str | None, queued: int, line: bytes | None = None) -> None:
    """Write to stdout how many calls were queued, or `line`.

    If stdout cannot be written, this goes to stderr. Otherwise the failure would look as if no call had been
    placed, and the calls would be sent again.
    """
    text = f"run {printable(run_id or '(without an id)')}: {counted(queued, 'call')} queued"
    try:
        if line is None:
            echo(text)
        else:
            echo_line(line)
    except (CliError, BrokenPipeError, KeyboardInterrupt):
        if queued:
            echo_err(f"{text}; do not send {'it' if queued == 1 else 'them'} again")
        raise


def _search_hint(space: str, sent_at: datetime) -> str:
    """Return the command that lists the calls of a create that was sent at this time."""
    since = f"{(sent_at - _CLOCK_OFFSET).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"`unpod-async tasks {printable(space)} --from {since} --json` lists the tasks since then"


async def _search_calls(client: UnpodClient, error: OutcomeUnknown, count: int, *, as_json: bool) -> int:
    """Report whether the calls of a create without a response were queued. They are never sent again."""
    echo_err("Looking for the calls …")
    try:
        found = await client.tasks.reconcile(error)
    except UnpodError as failure:
        echo_error(f"cannot look for the calls: {message_of(failure)}", hint_of(failure))
        echo_err("Nothing was sent again. Look for the calls before you send them again.")
        return ERROR
    from unpod_async._create import some_ids

    line = msgspec.json.encode(found) if as_json else None
    run = f"run {printable(found.run_id or '(without an id)')}"
    if found.state == "created":
        echo_err(f"Found: all {counted(count, 'call')} were queued in {run}.")
        _write_result(found.run_id, count, line)
        return SUCCESS
    if found.task_ids:
        echo_err(f"Found: {len(found.task_ids):,} of {counted(count, 'call')} were queued in {run}.")
    else:
        echo_err(
            f"Not found. The calls may still have been queued, with ref_id {some_ids(error.document_ids)}."
        )
    if found.state == "unclear":
        echo_err("A run or task that may belong to these calls could not be checked.")
    echo_err(
        "The service may still be storing calls. Nothing was sent again; look again in a few minutes before "
        "you send the missing calls."
    )
    echo_err(f"hint: {_search_hint(error.space_token, error.started_at)}")
    if line is not None:
        _write_result(found.run_id, len(found.task_ids), line)
    return ERROR
