"""The listings: runs, tasks, agents, spaces and organizations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from unpod_async._export import InvalidRow, row_line
from unpod_async.cli._common import Common
from unpod_async.cli._connect import client
from unpod_async.cli._output import put_line, say, wants_json
from unpod_async.cli._status import COMPLETE, INCOMPLETE, USAGE, Stop
from unpod_async.cli._tables import Column, table
from unpod_async.errors import UnpodError

if TYPE_CHECKING:
    from unpod_async import Pager, Run, Task, UnpodClient

__all__ = ["agents", "organizations", "runs", "spaces", "tasks"]

T = TypeVar("T")
_SHOWN: Final = 50
"""Rows of a table unless --limit says otherwise."""

_PAGE: Final = 100
_ID: Final = 34
"""Cells for an id, which is there to be copied; the platform's own have 32 and a letter before."""


class _Status(msgspec.Struct):
    status: str | None = None


def runs(
    common: Common, space: str, *, status: Sequence[str], limit: int | None, json_lines: bool | None
) -> int:
    """The runs of a space."""
    columns = (
        Column("RUN", "run_id", _ID, firm=True),
        Column("STATUS", "status", 9),
        Column("CREATED", _created, 16, rank=2),
        Column("TASKS", "batch_count", 5, rank=1, right=True),
    )
    size = _page_size(limit, status, json_lines)
    return _show(
        common,
        lambda unpod: unpod.runs.list(space, status=status or None, page_size=size),
        columns,
        ("runs", status, limit, json_lines),
    )


def tasks(
    common: Common,
    space: str | None,
    *,
    run: str | None,
    agent: str | None,
    status: Sequence[str],
    limit: int | None,
    json_lines: bool | None,
) -> int:
    """The tasks of a space, of one of its runs, or of an agent."""
    if (space is None) == (agent is None):
        raise Stop("tasks: name a space, or --agent HANDLE, and not both", USAGE)
    if run is not None and space is None:
        raise Stop("tasks: --run goes with the space it is in", USAGE)
    columns = (
        Column("TASK", "task_id", _ID, firm=True),
        Column("STATUS", "status", 9),
        Column("CREATED", _created, 16, rank=3),
        Column("NAME", _name, 8, rank=2),
        Column("OUTCOME", _outcome, 8, rank=1),
    )
    size = _page_size(limit, status, json_lines)

    def listing(unpod: UnpodClient) -> Pager[Task]:
        if agent is not None:
            return unpod.agents.tasks(agent, status=status or None, page_size=size)
        if run is not None:
            return unpod.runs.tasks(space or "", run, status=status or None, page_size=size)
        return unpod.tasks.list(space or "", status=status or None, page_size=size)

    return _show(common, listing, columns, ("tasks", status, limit, json_lines))


def agents(common: Common, *, limit: int | None, json_lines: bool | None) -> int:
    """The agents of the organization."""
    columns = (
        Column("HANDLE", "handle", _ID, firm=True),
        Column("NAME", "name", 14),
        Column("TYPE", "type", 5, rank=2),
        Column("STATE", "state", 5, rank=1),
    )
    return _show(common, lambda unpod: unpod.agents.list(), columns, ("agents", (), limit, json_lines))


def spaces(common: Common, *, limit: int | None, json_lines: bool | None) -> int:
    """The spaces of the organization."""
    columns = (
        Column("SPACE", "token", _ID, firm=True),
        Column("NAME", "name", 14),
        Column("CONTENT", "content_type", 7, rank=1),
        Column("PRIVACY", "privacy_type", 7, rank=2),
    )
    return _show(common, lambda unpod: unpod.spaces.list(), columns, ("spaces", (), limit, json_lines))


def organizations(common: Common, *, limit: int | None, json_lines: bool | None) -> int:
    """The organizations of the account."""
    columns = (
        Column("HANDLE", "domain_handle", _ID, firm=True),
        Column("NAME", "name", 14),
        Column("ROLE", "role", 5, rank=1),
    )
    asked = ("organizations", (), limit, json_lines)
    return _show(common, lambda unpod: unpod.organizations.list(), columns, asked)


_Asked = tuple[str, Sequence[str], int | None, bool | None]


def _show(
    common: Common, listing: Callable[[UnpodClient], Pager[T]], columns: Sequence[Column], asked: _Asked
) -> int:
    what, statuses, limit, json_lines = asked
    with client(common) as (loop, unpod):
        pager = listing(unpod)
        if wants_json(json_lines):
            return loop.run(_put_lines(pager, frozenset(statuses), limit or None))
        return loop.run(_put_table(pager, columns, what, bool(statuses), limit))


async def _put_lines(pager: Pager[Any], statuses: frozenset[str], limit: int | None) -> int:
    """Each row as the server sent it, save the user's access token, on a line."""
    left, bad, reason = limit, 0, ""
    async for row in pager.raw():
        try:
            line = row_line(row, keep_user_token=False)
            # `raw` gives every row, for it does not look into them.
            if statuses and _status(line) not in statuses:
                continue
        except InvalidRow as fault:
            bad, reason = bad + 1, fault.reason
            continue
        put_line(line)
        if left is not None and (left := left - 1) == 0:
            break
    if not bad:
        return COMPLETE
    say(f"unpod-async: {bad} rows that cannot be read are left out; of the last: {reason}")
    return INCOMPLETE


def _status(line: bytes) -> str | None:
    try:
        return msgspec.json.decode(line, type=_Status).status
    except msgspec.ValidationError:
        return None


async def _put_table(
    pager: Pager[Any], columns: Sequence[Column], what: str, is_filtered: bool, asked: int | None
) -> int:
    limit = _SHOWN if asked is None else asked
    rows: list[Any] = []
    count: int | None = None
    ended: UnpodError | None = None
    try:
        async for page in pager.pages():
            rows += page.items
            # The service counts what is filtered out here, too.
            count = None if is_filtered else page.count or count
            if limit and len(rows) > limit:
                break
    except UnpodError as error:
        ended = error
    if rows or ended is None:
        table(rows[: limit or None], columns)
    if ended is not None:
        raise ended
    if limit and len(rows) > limit:
        of = f" of {count:,}" if count is not None and count > len(rows) else ""
        say(f"The first {limit}{of} {what}; --limit N shows more, --limit 0 all of them.")
    elif not rows:
        say(f"There are no {what} here.")
    return COMPLETE


def _page_size(limit: int | None, statuses: Sequence[str], json_lines: bool | None) -> int:
    """Rows per page: one more than are shown, where no row of them is filtered out."""
    if limit is None:
        limit = 0 if wants_json(json_lines) else _SHOWN
    return min(limit + 1, _PAGE) if limit and not statuses else _PAGE


def _created(row: Run | Task) -> str | None:
    return row.created if row.created_at is None else f"{row.created_at:%Y-%m-%d %H:%M}"


def _name(task: Task) -> object:
    return (task.input or {}).get("name")


def _outcome(task: Task) -> object:
    try:
        return task.call and task.call.outcome
    except UnpodError:
        return "(cannot be read)"
