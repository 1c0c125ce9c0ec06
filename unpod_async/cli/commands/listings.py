"""`runs`, `tasks`, `call-logs`, `agents`, `executions`, `spaces` and `organizations`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import msgspec
import typer

from unpod_async._common import shorten
from unpod_async._tables import call_of, cost_of, duration_of, name_of, number_of, outcome_of
from unpod_async.cli.errors import INCOMPLETE, SUCCESS, USAGE, CliError
from unpod_async.cli.fields import outcome_style, status_style
from unpod_async.cli.lookup import PAGE_SIZE, find_run, plain_id
from unpod_async.cli.options import (
    FILTERS,
    GlobalOptions,
    JsonLines,
    Limit,
    Space,
    Statuses,
    Utc,
    Wide,
    parse_pattern,
    parse_time,
)
from unpod_async.cli.output import clock, counted, echo_err, echo_line, wants_json
from unpod_async.cli.session import open_client
from unpod_async.cli.tables import Column, Table
from unpod_async.errors import UnpodError
from unpod_async.models import Agent, AgentExecution, CallLog, Organization, Run, Task
from unpod_async.models import Space as SpaceRow

if TYPE_CHECKING:
    from unpod_async import Pager, UnpodClient

__all__ = ["agents", "call_logs", "executions", "organizations", "runs", "spaces", "tasks"]

_DEFAULT_LIMIT: Final = 50
"""Maximum number of rows of a table without --limit."""
_KNOWN: Final = 12
"""Maximum number of statuses, or of outcomes, that are listed if no row matches."""
_IN_ORGANIZATION: Final = "in the organization"
_MAX_SEARCHED: Final = 200
"""Number of characters of a name or phone number that are searched for a pattern."""


def _created(row: Run | Task | AgentExecution) -> datetime | str | None:
    return row.created_at or row.created


def _duration(task: Task) -> str | None:
    duration = duration_of(task)
    return None if duration is None else clock(duration)


def _cost(task: Task) -> str | None:
    cost = cost_of(task)
    return None if cost is None else f"${cost:,.3f}"


def _call_time(call: CallLog) -> datetime | str | None:
    return call.created_at or call.creation_time


def _call_duration(call: CallLog) -> str | None:
    return None if call.duration is None else clock(call.duration)


def _call_status_style(call: CallLog) -> str:
    return outcome_style(call.call_status)


def _status_style(row: Run | Task | AgentExecution) -> str:
    return status_style(row.status)


def _outcome_style(task: Task) -> str:
    return outcome_style(outcome_of(task))


_STATUS: Final = Column("STATUS", "status", 9, style=_status_style)
_CREATED: Final = Column("CREATED", _created, 16, rank=4, firm=True, kind="time")
_RUN_COLUMNS: Final = (
    Column("RUN", "run_id", 10, firm=True, kind="id"),
    _STATUS,
    _CREATED._replace(rank=2),
    Column("TASKS", "batch_count", 5, rank=1, right=True),
)
_TASK_COLUMNS: Final = (
    Column("TASK", "task_id", 10, firm=True, kind="id"),
    _STATUS,
    Column("OUTCOME", outcome_of, 12, style=_outcome_style),
    Column("DURATION", _duration, 8, rank=1, right=True),
    Column("COST", _cost, 6, rank=3, right=True),
    Column("NUMBER", number_of, 10, rank=2, firm=True),
    _CREATED,
    Column("NAME", name_of, 8, rank=5),
)


_CALL_COLUMNS: Final = (
    _CREATED._replace(value=_call_time, rank=0),
    Column("TYPE", "call_type", 8, rank=2),
    Column("STATUS", "call_status", 9, style=_call_status_style),
    Column("DURATION", _call_duration, 8, right=True),
    Column("FROM", "source_number", 13, rank=3, firm=True),
    Column("TO", "destination_number", 13, rank=1, firm=True),
    Column("END", "end_reason", 10, rank=4),
)
_EXECUTION_COLUMNS: Final = (
    Column("RUN", "run_id", 10, firm=True, kind="id"),
    _STATUS,
    _CREATED._replace(rank=2),
    Column("DONE", "completed_tasks", 5, right=True),
    Column("TASKS", "total_tasks", 5, rank=1, right=True),
)


def runs(
    context: typer.Context,
    space: Space,
    status: Statuses = None,
    limit: Limit = None,
    wide: Wide = False,
    utc: Utc = False,
    json_lines: JsonLines = None,
) -> int:
    """List the runs of a space, newest first."""
    request = _Request(
        "run",
        "in the space",
        _RUN_COLUMNS,
        Run,
        limit,
        wants_json(json_lines),
        wide,
        UTC if utc else None,
        _Filter(statuses=frozenset(status or ())),
    )
    return _list(context.obj, lambda client: client.runs.list(space, page_size=request.page_size), request)


def tasks(
    context: typer.Context,
    space: Annotated[
        str | None, typer.Argument(metavar="SPACE", show_default=False, help="Token of the space.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            show_default=False,
            rich_help_panel=FILTERS,
            help="Only the tasks of this run of the space: its id, or the first characters of the id.",
        ),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            metavar="HANDLE",
            show_default=False,
            rich_help_panel=FILTERS,
            help="List the tasks of an agent instead of those of a space.",
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            parser=parse_pattern,
            show_default=False,
            rich_help_panel=FILTERS,
            help="Only tasks whose name or phone number matches this regular expression. Case is ignored.",
        ),
    ] = None,
    outcome: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUTCOME",
            show_default=False,
            rich_help_panel=FILTERS,
            help="Only calls with this outcome, such as Interested. Case matters. Repeatable.",
        ),
    ] = None,
    call_type: Annotated[
        Literal["inbound", "outbound"] | None,
        typer.Option(
            "--call-type", show_default=False, rich_help_panel=FILTERS, help="Only calls of this type."
        ),
    ] = None,
    created_from: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            metavar="TIME",
            parser=parse_time,
            show_default=False,
            rich_help_panel=FILTERS,
            help="Only tasks created at or after this time, such as 2030-01-31 (midnight UTC) or "
            "2030-01-31T10:00+05:30.",
        ),
    ] = None,
    created_to: Annotated[
        datetime | None,
        typer.Option(
            "--to",
            metavar="TIME",
            parser=parse_time,
            show_default=False,
            rich_help_panel=FILTERS,
            help="Only tasks created at or before this time.",
        ),
    ] = None,
    status: Statuses = None,
    limit: Limit = None,
    wide: Wide = False,
    utc: Utc = False,
    json_lines: JsonLines = None,
) -> int:
    """List the tasks (calls) of a space, of a run or of an agent, newest first.

    For a space, the service applies --search, --outcome, --call-type, --from and --to. It has no filter for
    --status, and none for the tasks of a run or an agent: these are read completely and filtered here.
    """
    if (space is None) == (agent is None):
        raise CliError("tasks needs either a SPACE or --agent HANDLE", status=USAGE)
    if run is not None and space is None:
        raise CliError("--run needs the SPACE of the run", status=USAGE)
    wanted = _Filter(
        frozenset(status or ()),
        frozenset(outcome or ()),
        search,
        call_type,
        created_from,
        created_to,
    )
    is_server_filtered = run is None and agent is None
    request = _Request(
        "task",
        f"of agent {agent}" if agent is not None else "in the run" if run is not None else "in the space",
        _TASK_COLUMNS,
        Task,
        limit,
        wants_json(json_lines),
        wide,
        UTC if utc else None,
        wanted,
        is_server_filtered,
    )
    size = request.page_size

    def listing(client: UnpodClient, *, filtered: bool = True) -> Pager[Task]:
        if agent is not None:
            return client.agents.tasks(agent, page_size=size)
        if not filtered:
            return client.tasks.list(space or "", page_size=PAGE_SIZE)
        return client.tasks.list(
            space or "",
            search=search,
            outcome=outcome or None,
            call_type=call_type,
            created_from=created_from,
            created_to=created_to,
            page_size=size,
        )

    if run is None:
        return _list(context.obj, listing, request, lambda client: listing(client, filtered=False))
    return _list_run(context.obj, space or "", run, request)


def _list_run(options: GlobalOptions, space: str, run: str, request: _Request) -> int:
    """Write the tasks of a run, whose id may be shortened."""

    async def write(client: UnpodClient) -> int:
        read = _Read()
        wanted = plain_id(run)
        status = await _write(client.runs.tasks(space, wanted, page_size=request.page_size), request, read)
        if not read.rows and not read.shown:
            # The service lists no tasks, rather than an error, for a run that does not exist.
            found = await find_run(client, space, wanted)
            if found.id != wanted:
                pager = client.runs.tasks(space, found.id, page_size=request.page_size)
                status = await _write(pager, request, read)
        if not read.shown:
            await _explain_empty(None, request, read)
        return status

    with open_client(options) as (runner, client):
        return runner.run(write(client))


def call_logs(
    context: typer.Context,
    call_type: Annotated[
        Literal["inbound", "outbound"] | None,
        typer.Option(
            "--call-type", show_default=False, rich_help_panel=FILTERS, help="Only calls of this type."
        ),
    ] = None,
    call_status: Annotated[
        Literal["completed", "missed", "failed"] | None,
        typer.Option(
            "--status", show_default=False, rich_help_panel=FILTERS, help="Only calls with this status."
        ),
    ] = None,
    created_from: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            metavar="TIME",
            parser=parse_time,
            show_default=False,
            rich_help_panel=FILTERS,
            help="Only calls at or after this time, such as 2030-01-31 (midnight UTC) or "
            "2030-01-31T10:00+05:30.",
        ),
    ] = None,
    created_to: Annotated[
        datetime | None,
        typer.Option(
            "--to",
            metavar="TIME",
            parser=parse_time,
            show_default=False,
            rich_help_panel=FILTERS,
            help="Only calls at or before this time.",
        ),
    ] = None,
    product_id: Annotated[
        str | None,
        typer.Option(
            "--product-id",
            metavar="ID",
            show_default=False,
            help="Id of the product, which some servers require. Default: UNPOD_PRODUCT_ID.",
        ),
    ] = None,
    limit: Limit = None,
    wide: Wide = False,
    utc: Utc = False,
    json_lines: JsonLines = None,
) -> int:
    """List the calls of the organization, newest first.

    The service filters by whole days in UTC, and this command by the exact --from and --to. Calls without a
    time are listed too.
    """
    is_filtered = any(one is not None for one in (call_type, call_status, created_from, created_to))
    request = _Request(
        "call",
        "with these filters" if is_filtered else _IN_ORGANIZATION,
        _CALL_COLUMNS,
        CallLog,
        limit,
        wants_json(json_lines),
        wide,
        UTC if utc else None,
    )
    return _list(
        context.obj,
        lambda client: client.call_logs.list(
            created_from=created_from,
            created_to=created_to,
            call_type=call_type,
            call_status=call_status,
            product_id=product_id,
            page_size=request.page_size,
        ),
        request,
    )


def executions(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="HANDLE", show_default=False, help="Handle of the agent.")],
    limit: Limit = None,
    wide: Wide = False,
    utc: Utc = False,
    json_lines: JsonLines = None,
) -> int:
    """List the executions of an agent: its runs, and how many of their tasks are completed.

    Some servers do not offer this.
    """
    request = _Request(
        "execution",
        f"of agent {agent}",
        _EXECUTION_COLUMNS,
        AgentExecution,
        limit,
        wants_json(json_lines),
        wide,
        UTC if utc else None,
    )
    return _list(
        context.obj, lambda client: client.agents.executions(agent, page_size=request.page_size), request
    )


def agents(
    context: typer.Context, limit: Limit = None, wide: Wide = False, json_lines: JsonLines = None
) -> int:
    """List the agents of the organization."""
    columns = (
        Column("HANDLE", "handle", 34, firm=True, fold=True),
        Column("NAME", "name", 14),
        Column("TYPE", "type", 5, rank=2),
        Column("STATE", "state", 5, rank=1),
    )
    request = _Request("agent", _IN_ORGANIZATION, columns, Agent, limit, wants_json(json_lines), wide)
    return _list(context.obj, lambda client: client.agents.list(), request)


def spaces(
    context: typer.Context, limit: Limit = None, wide: Wide = False, json_lines: JsonLines = None
) -> int:
    """List the spaces of the organization. Some servers accept only a JWT for this."""
    columns = (
        Column("SPACE", "token", 34, firm=True, fold=True),
        Column("NAME", "name", 14),
        Column("CONTENT", "content_type", 7, rank=1),
        Column("PRIVACY", "privacy_type", 7, rank=2),
    )
    request = _Request("space", _IN_ORGANIZATION, columns, SpaceRow, limit, wants_json(json_lines), wide)
    return _list(context.obj, lambda client: client.spaces.list(), request)


def organizations(
    context: typer.Context, limit: Limit = None, wide: Wide = False, json_lines: JsonLines = None
) -> int:
    """List the organizations of the account. Some servers accept only a JWT for this."""
    columns = (
        Column("HANDLE", "domain_handle", 34, firm=True, fold=True),
        Column("NAME", "name", 14),
        Column("ROLE", "role", 5, rank=1),
    )
    request = _Request(
        "organization", "of the account", columns, Organization, limit, wants_json(json_lines), wide
    )
    return _list(context.obj, lambda client: client.organizations.list(), request)


# -- what the user asked for --------------------------------------------------------------------------------


class _Filter(NamedTuple):
    """The values of the filter options. An empty filter keeps every row."""

    statuses: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()
    search: str | None = None
    call_type: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None

    @property
    def is_active(self) -> bool:
        return self != _Filter()

    def keeps(self, row: Run | Task) -> bool:
        """Return whether the filter keeps a row. Only tasks have an outcome, a call type and a person."""
        if self.statuses and row.status not in self.statuses:
            return False
        if self.created_from is not None and not (row.created_at and row.created_at >= self.created_from):
            return False
        if self.created_to is not None and not (row.created_at and row.created_at <= self.created_to):
            return False
        if not isinstance(row, Task):
            return True
        if self.outcomes and outcome_of(row) not in self.outcomes:
            return False
        if self.call_type is not None and getattr(call_of(row), "direction", None) != self.call_type:
            return False
        return self.search is None or _matches(row, self.search)

    def __str__(self) -> str:
        """Return the filter as it is written on the command line."""
        parts = [f"--status {one}" for one in sorted(self.statuses)]
        parts += [f"--outcome {one}" for one in sorted(self.outcomes)]
        parts += [f"--search {self.search}"] if self.search is not None else []
        parts += [f"--call-type {self.call_type}"] if self.call_type is not None else []
        parts += [f"--from {self.created_from.isoformat()}"] if self.created_from is not None else []
        parts += [f"--to {self.created_to.isoformat()}"] if self.created_to is not None else []
        return shorten(" ".join(parts), 200)


def _matches(task: Task, pattern: str) -> bool:
    """Return whether a name or phone number of a task matches a regular expression."""
    document, call = task.input or {}, call_of(task)
    texts = [document.get(name) for name in ("name", "phone", "contact_number")]
    texts += [getattr(call, name, None) for name in ("customer", "customer_number")]
    found = re.compile(pattern, re.IGNORECASE)
    return any(isinstance(text, str) and found.search(text[:_MAX_SEARCHED]) for text in texts)


class _Request(NamedTuple):
    """The rows that a listing command shows, and their format.

    Attributes:
        noun: what the rows are, in the singular.
        place: the listing they come from, such as "in the space".
        columns: the columns of the table.
        model: the model of a row.
        limit: maximum number of rows; 0 means all, None the default.
        as_json: lines of JSON instead of a table.
        wide: whole ids and all columns.
        zone: the zone of times; None is that of this machine.
        filter: the rows to show.
        is_server_filtered: whether the service applies search, outcome, call type and times as well.
    """

    noun: str
    place: str
    columns: Sequence[Column]
    model: Any
    limit: int | None
    as_json: bool
    wide: bool = False
    zone: tzinfo | None = None
    filter: _Filter = _Filter()
    is_server_filtered: bool = False

    @property
    def max_rows(self) -> int:
        """The maximum number of rows; 0 means all."""
        return (0 if self.as_json else _DEFAULT_LIMIT) if self.limit is None else self.limit

    @property
    def client_filter(self) -> _Filter:
        """The filter to apply to the rows that the service sends.

        The service filters times by whole seconds, so this filter compares the times again.
        """
        if self.is_server_filtered:
            return self.filter._replace(outcomes=frozenset(), search=None, call_type=None)
        return self.filter

    @property
    def page_size(self) -> int:
        """One row more than is shown, so that the table can say whether there are more."""
        if not self.max_rows or self.client_filter.is_active:
            return PAGE_SIZE
        return min(self.max_rows + 1, PAGE_SIZE)


# -- output -------------------------------------------------------------------------------------------------


class _Read:
    """The numbers of rows that were read and written.

    Attributes:
        rows: number of rows that were read.
        shown: number of rows that were written.
        statuses, outcomes: how many of the rows that were read have each.
    """

    def __init__(self) -> None:
        self.rows = self.shown = 0
        self.statuses: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def add(self, row: Any) -> None:
        self.rows += 1
        if isinstance(status := getattr(row, "status", None), str):
            self.statuses[status] += 1
        if isinstance(row, Task) and isinstance(outcome := outcome_of(row), str):
            self.outcomes[outcome] += 1


def _list(
    options: GlobalOptions,
    listing: Callable[[UnpodClient], Pager[Any]],
    request: _Request,
    unfiltered: Callable[[UnpodClient], Pager[Any]] | None = None,
) -> int:
    """Write a listing, or a message that says why it is empty.

    Args:
        unfiltered: the same listing without the filters of the service, which shows what there is.
    """

    async def write(client: UnpodClient) -> int:
        read = _Read()
        status = await _write(listing(client), request, read)
        if not read.shown:
            await _explain_empty(None if unfiltered is None else unfiltered(client), request, read)
        return status

    with open_client(options) as (runner, client):
        return runner.run(write(client))


async def _write(pager: Pager[Any], request: _Request, read: _Read) -> int:
    """Write the rows of a listing and return the exit status."""
    if request.as_json:
        return await _write_json(pager, request, read)
    return await _write_table(pager, request, read)


async def _write_json(pager: Pager[Any], request: _Request, read: _Read) -> int:
    """Write each row as the server sent it, except the access token of the user."""
    from unpod_async._export import InvalidRow, row_line

    invalid, reason = 0, ""
    wanted = request.client_filter
    async for row in pager.raw():
        try:
            line = row_line(row, keep_user_token=False)
            if wanted.is_active:
                decoded = msgspec.json.decode(line, type=request.model)
                read.add(decoded)
                if not wanted.keeps(decoded):
                    continue
        except InvalidRow as error:
            invalid, reason = invalid + 1, error.reason
            continue
        except msgspec.ValidationError as error:
            invalid, reason = invalid + 1, shorten(str(error), 200)
            continue
        echo_line(line)
        read.shown += 1
        if read.shown == request.max_rows:
            break
    if not invalid:
        return SUCCESS
    echo_err(f"unpod-async: {counted(invalid, 'unreadable row')} left out; the last: {reason}")
    return INCOMPLETE


async def _write_table(pager: Pager[Any], request: _Request, read: _Read) -> int:
    limit, wanted = request.max_rows, request.client_filter
    table = Table(request.columns, wide=request.wide, zone=request.zone)
    count: int | None = None
    failure: UnpodError | None = None
    is_cut = False
    try:
        async for page in pager.pages():
            count = page.count or count
            for row in page.items:
                read.add(row)
                if not wanted.is_active or wanted.keeps(row):
                    is_cut = bool(limit) and len(table) == limit
                    if is_cut:
                        break
                    table.add(row)
            if is_cut:
                break
    except UnpodError as error:
        failure = error
    read.shown = len(table)
    if read.shown:
        table.echo()
    if failure is not None:
        raise failure
    if is_cut:
        _explain_limit(request, None if wanted.is_active or count is None else count)
    return SUCCESS


def _explain_limit(request: _Request, count: int | None) -> None:
    total = "" if count is None or count <= request.max_rows else f" of {count:,}"
    echo_err(
        f"The first {request.max_rows:,}{total} {request.noun}s. --limit N shows more, --limit 0 shows all."
    )


async def _explain_empty(everything: Pager[Any] | None, request: _Request, read: _Read) -> None:
    """Say why nothing is shown: the filter, the number of rows, and their statuses.

    Args:
        everything: the same listing without the filters of the service, of which one page is read.
    """
    total: int | None = read.rows
    newest = ""
    if everything is not None and request.filter.is_active and not read.rows:
        async for page in everything.pages():
            for row in page.items:
                read.add(row)
            total = page.count or len(page.items)
            newest = f" among the newest {read.rows:,}" if total > read.rows else ""
            break
    if not request.filter.is_active or not total:
        echo_err(f"There are no {request.noun}s {request.place}.")
        return
    parts = [f"no {request.noun}s match {request.filter}", f"{total:,} {request.place}"]
    if request.filter.statuses:
        parts.append(f"known statuses{newest}: {_listed(read.statuses)}")
    if request.filter.outcomes:
        parts.append(f"known outcomes{newest}: {_listed(read.outcomes)}")
    echo_err("; ".join(parts))


def _listed(counts: Counter[str]) -> str:
    names = [shorten(name, 40) for name, _ in counts.most_common(_KNOWN)]
    return ", ".join(names + ["…"] * (len(counts) > _KNOWN)) or "none"
