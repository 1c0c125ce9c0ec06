"""Search for the calls of a create whose outcome is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from unpod_async._common import is_before, parse_time
from unpod_async._create.server_clock import ServerClock
from unpod_async._paging import ClientContext, Page, RejectedRow, SequentialWalk, run_tasks, space_runs
from unpod_async.errors import IncompleteListing, InvalidArgument
from unpod_async.models import Run, Task

__all__ = ["CreateState", "Reconciliation", "reconcile", "search_start"]

CLOCK_SKEW: Final = timedelta(minutes=2)
"""How long before the create the search starts, because `created` comes from the server's clock."""

_TOLERANCE: Final = timedelta(seconds=1)

CreateState: TypeAlias = Literal["created", "partial", "not_found", "unclear"]
"""What is known about the calls of a create.

"created": every document has a task. "partial": some documents have a task. "not_found": no document has one.
"unclear": some documents have no task, and their tasks may be among rows that could not be read.
"""


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a search for the calls of a create.

    Attributes:
        state: "created" if every document has a task, "partial" if only those in `task_ids` have one,
            "not_found" if none has, "unclear" if only those in `task_ids` were found and a run or task that
            may belong to the create could not be read. "not_found" does not mean "not created": the server
            may still be storing the calls, so search again later.
        run_id: the run that contains them, or None.
        task_ids: task id by document id.
        missing: the ids of the documents without a task.
    """

    state: CreateState
    run_id: str | None = None
    task_ids: Mapping[str, str] = {}
    missing: tuple[str, ...] = ()


async def reconcile(
    context: ClientContext,
    space_token: str,
    document_ids: Sequence[str],
    started_at: datetime,
    clock: ServerClock | None = None,
) -> Reconciliation:
    """Search the runs created since `started_at`, newest first, for the tasks of these documents.

    Args:
        document_ids: the ids to search for. They are compared with the `ref_id` of each task.
        started_at: when the create was sent, by this machine's clock. Runs from two minutes earlier are
            searched too.
        clock: the server's clock when the create was sent. By default, or if it is not known, it is read
            from the first response of this search.

    Raises:
        InvalidArgument: `document_ids` is empty.
        UnpodError: a listing could not be read.
    """
    if not document_ids:
        raise InvalidArgument("there is no document id to search for")
    search = _Search(context, space_token, document_ids)
    clock = ServerClock() if clock is None else clock
    now = datetime.now(UTC)
    if clock.offset is None and started_at > now + _TOLERANCE:
        # This machine's clock was set back after the create, so the start of the search is unknown.
        search.is_clear, started_at = False, now
    walk = SequentialWalk(
        context.executor,
        space_runs(space_token),
        page_size=context.settings.page_size,
        on_bad_row="skip",
        deadline=search.deadline,
    )
    try:
        while search.missing and (page := await walk.next_page()) is not None:
            if clock.offset is None:
                clock.note(page.headers.get("date"))
            candidates = _candidates(page, search_start(started_at, clock))
            for run_id in candidates.run_ids:
                await search.look_into(run_id)
            search.is_clear = search.is_clear and candidates.all_readable
            if candidates.is_last_page:
                break
    except IncompleteListing:
        search.is_clear = False
    return search.result()


def search_start(started_at: datetime, clock: ServerClock) -> datetime:
    """Return the time, by the server's clock, before which no run can belong to a create.

    Args:
        started_at: when the create was sent, by this machine's clock.
        clock: the server's clock. If it is not known, this machine's clock is used.
    """
    return started_at + (clock.offset or timedelta()) - CLOCK_SKEW


class _Candidates(NamedTuple):
    """The runs of one page that may belong to a create.

    Attributes:
        run_ids: their ids.
        all_readable: every row of the page that may be such a run has an id.
        is_last_page: the page has readable rows, and all of them are older than the create.
    """

    run_ids: list[str]
    all_readable: bool
    is_last_page: bool


class _RunFields(msgspec.Struct):
    """The fields that are used of a run that does not fit its model."""

    run_id: Any = None
    created: Any = None


def _candidates(page: Page[Run], oldest: datetime) -> _Candidates:
    """Return the runs of a page that were created at `oldest` or later, or at an unknown time."""
    rows = [(run.run_id, run.created_at) for run in page.items]
    rows += [(fields.run_id, parse_time(fields.created)) for fields in map(_fields_of, page.rejected)]
    newer = [run_id for run_id, created in rows if created is None or not is_before(created, oldest)]
    run_ids = [run_id for run_id in newer if isinstance(run_id, str) and run_id]
    first_older = next(
        (
            index
            for index, run in enumerate(page.items)
            if run.created_at and is_before(run.created_at, oldest)
        ),
        None,
    )
    return _Candidates(
        run_ids,
        len(run_ids) == len(newer)
        and not any(_may_be_newer(page, position, first_older) for position in page.unreadable),
        bool(rows) and not newer,
    )


def _fields_of(row: RejectedRow) -> _RunFields:
    try:
        return msgspec.json.decode(row.raw, type=_RunFields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _RunFields()


def _may_be_newer(page: Page[Run], position: int, first_older: int | None) -> bool:
    """Return False if an unreadable row follows a run older than the create. The newest runs come first."""
    if first_older is None:
        return True
    start = (page.number - 1) * page.page_size
    size = page.page_size if page.count is None else min(page.page_size, page.count - start)
    # The maximum number of rejected, unreadable or repeated rows before this one.
    others = size - len(page.items) - 1
    return position - 1 - start - others <= first_older


class _Search:
    """The documents of a create, and the tasks that were found for them.

    Attributes:
        missing: the documents without a task.
        is_clear: every row that may be such a task could be read.
        deadline: the time limit of all requests of the search.
    """

    def __init__(self, context: ClientContext, space_token: str, document_ids: Sequence[str]) -> None:
        self.missing = dict.fromkeys(document_ids)
        self.is_clear = True
        self.deadline = context.executor.deadline()
        self._context = context
        self._space = space_token
        self._found: dict[str, str] = {}
        self._run_id: str | None = None

    async def look_into(self, run_id: str) -> None:
        """Search the tasks of a run."""
        try:
            listing = run_tasks(self._space, run_id)
        except InvalidArgument:  # the id cannot be part of a path
            self.is_clear = False
            return
        walk = SequentialWalk(
            self._context.executor,
            listing,
            page_size=self._context.settings.page_size,
            on_bad_row="skip",
            deadline=self.deadline,
        )
        try:
            while (page := await walk.next_page()) is not None:
                self._add(run_id, page)
        except IncompleteListing:
            self.is_clear = False

    def _add(self, run_id: str, page: Page[Task]) -> None:
        if page.rejected or page.unreadable:
            self.is_clear = False
        for task in page.items:
            document_id = _document_id(task)
            if document_id not in self.missing:
                continue
            if task.task_id is None:
                self.is_clear = False
                continue
            del self.missing[document_id]
            self._found[document_id] = task.task_id
            self._run_id = self._run_id or run_id

    def result(self) -> Reconciliation:
        """Return the current result."""
        state: CreateState = "partial" if self._found else "not_found"
        if not self.missing:
            state = "created"
        elif not self.is_clear:
            state = "unclear"
        return Reconciliation(
            state=state, run_id=self._run_id, task_ids=self._found, missing=tuple(self.missing)
        )


def _document_id(task: Task) -> str:
    """Return the id of the document that a task was created from; the server copies it to `ref_id`."""
    document: dict[str, Any] = task.input or {}
    return str(task.ref_id or document.get("id") or document.get("document_id") or "")
