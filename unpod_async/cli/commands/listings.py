"""`runs`, `tasks`, `agents`, `spaces` and `organizations`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeVar

import msgspec
import typer

from unpod_async.cli.errors import INCOMPLETE, SUCCESS, USAGE, CliError
from unpod_async.cli.options import GlobalOptions, JsonLines, Limit, Space, Statuses
from unpod_async.cli.output import counted, echo_err, echo_line, wants_json
from unpod_async.cli.session import open_client
from unpod_async.cli.tables import ID_WIDTH, Column, echo_table
from unpod_async.errors import UnpodError

if TYPE_CHECKING:
    from unpod_async import Pager, Run, Task, UnpodClient

__all__ = ["agents", "organizations", "runs", "spaces", "tasks"]

T = TypeVar("T")
_DEFAULT_LIMIT: Final = 50
"""Maximum number of rows of a table without --limit."""
_PAGE_SIZE: Final = 100


class _Output(NamedTuple):
    """What a listing command shows.

    Attributes:
        noun: what the rows are, in the singular.
        statuses: show only rows with one of these statuses; all rows if empty.
        limit: maximum number of rows; 0 means all, None the default.
        as_json: lines of JSON instead of a table.
    """

    noun: str
    columns: Sequence[Column]
    statuses: frozenset[str]
    limit: int | None
    as_json: bool

    @property
    def max_rows(self) -> int:
        """The maximum number of rows; 0 means all."""
        return (0 if self.as_json else _DEFAULT_LIMIT) if self.limit is None else self.limit

    @property
    def page_size(self) -> int:
        """One row more than is shown, so that the table can say whether there are more."""
        return min(self.max_rows + 1, _PAGE_SIZE) if self.max_rows and not self.statuses else _PAGE_SIZE


def runs(
    context: typer.Context,
    space: Space,
    status: Statuses = None,
    limit: Limit = None,
    json_lines: JsonLines = None,
) -> int:
    """List the runs of a space, newest first."""
    columns = (
        Column("RUN", "run_id", ID_WIDTH, firm=True),
        Column("STATUS", "status", 9),
        Column("CREATED", _created, 16, rank=2),
        Column("TASKS", "batch_count", 5, rank=1, right=True),
    )
    output = _Output("run", columns, frozenset(status or ()), limit, wants_json(json_lines))
    return _list(
        context.obj,
        lambda client: client.runs.list(space, status=status or None, page_size=output.page_size),
        output,
    )


def tasks(
    context: typer.Context,
    space: Annotated[
        str | None, typer.Argument(metavar="SPACE", show_default=False, help="Token of the space.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="RUN", show_default=False, help="Only the tasks of this run of the space."),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(metavar="HANDLE", show_default=False, help="The tasks of an agent instead of a space."),
    ] = None,
    status: Statuses = None,
    limit: Limit = None,
    json_lines: JsonLines = None,
) -> int:
    """List the tasks (calls) of a space, of a run or of an agent, newest first."""
    if (space is None) == (agent is None):
        raise CliError("tasks needs either a SPACE or --agent HANDLE", status=USAGE)
    if run is not None and space is None:
        raise CliError("--run needs the SPACE of the run", status=USAGE)
    columns = (
        Column("TASK", "task_id", ID_WIDTH, firm=True),
        Column("STATUS", "status", 9),
        Column("CREATED", _created, 16, rank=3),
        Column("NAME", _name, 8, rank=2),
        Column("OUTCOME", _outcome, 8, rank=1),
    )
    output = _Output("task", columns, frozenset(status or ()), limit, wants_json(json_lines))

    def listing(client: UnpodClient) -> Pager[Task]:
        if agent is not None:
            return client.agents.tasks(agent, status=status or None, page_size=output.page_size)
        if run is not None:
            return client.runs.tasks(space or "", run, status=status or None, page_size=output.page_size)
        return client.tasks.list(space or "", status=status or None, page_size=output.page_size)

    return _list(context.obj, listing, output)


def agents(context: typer.Context, limit: Limit = None, json_lines: JsonLines = None) -> int:
    """List the agents of the organization."""
    columns = (
        Column("HANDLE", "handle", ID_WIDTH, firm=True),
        Column("NAME", "name", 14),
        Column("TYPE", "type", 5, rank=2),
        Column("STATE", "state", 5, rank=1),
    )
    output = _Output("agent", columns, frozenset(), limit, wants_json(json_lines))
    return _list(context.obj, lambda client: client.agents.list(), output)


def spaces(context: typer.Context, limit: Limit = None, json_lines: JsonLines = None) -> int:
    """List the spaces of the organization. Some servers accept only a JWT for this."""
    columns = (
        Column("SPACE", "token", ID_WIDTH, firm=True),
        Column("NAME", "name", 14),
        Column("CONTENT", "content_type", 7, rank=1),
        Column("PRIVACY", "privacy_type", 7, rank=2),
    )
    output = _Output("space", columns, frozenset(), limit, wants_json(json_lines))
    return _list(context.obj, lambda client: client.spaces.list(), output)


def organizations(context: typer.Context, limit: Limit = None, json_lines: JsonLines = None) -> int:
    """List the organizations of the account. Some servers accept only a JWT for this."""
    columns = (
        Column("HANDLE", "domain_handle", ID_WIDTH, firm=True),
        Column("NAME", "name", 14),
        Column("ROLE", "role", 5, rank=1),
    )
    output = _Output("organization", columns, frozenset(), limit, wants_json(json_lines))
    return _list(context.obj, lambda client: client.organizations.list(), output)


def _list(options: GlobalOptions, listing: Callable[[UnpodClient], Pager[T]], output: _Output) -> int:
    with open_client(options) as (runner, client):
        pager = listing(client)
        return runner.run(_write_json(pager, output) if output.as_json else _write_table(pager, output))


class _StatusField(msgspec.Struct):
    status: str | None = None


async def _write_json(pager: Pager[Any], output: _Output) -> int:
    """Write each row as the server sent it, except the access token of the user."""
    from unpod_async._export import InvalidRow, row_line

    written, invalid, reason = 0, 0, ""
    async for row in pager.raw():
        try:
            line = row_line(row, keep_user_token=False)
            # Raw rows are not decoded, so that the pager does not filter them.
            if output.statuses and _status_of(line) not in output.statuses:
                continue
        except InvalidRow as error:
            invalid, reason = invalid + 1, error.reason
            continue
        echo_line(line)
        written += 1
        if written == output.max_rows:
            break
    if not invalid:
        return SUCCESS
    echo_err(f"unpod-async: {counted(invalid, 'unreadable row')} left out; the last: {reason}")
    return INCOMPLETE


def _status_of(line: bytes) -> str | None:
    try:
        return msgspec.json.decode(line, type=_StatusField).status
    except msgspec.ValidationError:
        return None


async def _write_table(pager: Pager[Any], output: _Output) -> int:
    limit = output.max_rows
    rows: list[Any] = []
    count: int | None = None
    failure: UnpodError | None = None
    try:
        async for page in pager.pages():
            rows += page.items
            # The count of the service includes rows that are filtered out here.
            count = None if output.statuses else page.count or count
            if limit and len(rows) > limit:
                break
    except UnpodError as error:
        failure = error
    if rows:
        echo_table(rows[: limit or None], output.columns)
    if failure is not None:
        raise failure
    if not rows:
        echo_err(f"There are no {output.noun}s.")
    elif limit and len(rows) > limit:
        _explain_limit(output, count if count is not None and count > len(rows) else None)
    return SUCCESS


def _explain_limit(output: _Output, count: int | None) -> None:
    total = "" if count is None else f" of {count:,}"
    echo_err(
        f"The first {output.max_rows:,}{total} {output.noun}s. --limit N shows more, --limit 0 shows all."
    )


def _created(row: Run | Task) -> str | None:
    return row.created if row.created_at is None else f"{row.created_at:%Y-%m-%d %H:%M}"


def _name(task: Task) -> object:
    return (task.input or {}).get("name")


def _outcome(task: Task) -> object:
    try:
        return task.call and task.call.outcome
    except UnpodError:
        return "(unreadable)"
