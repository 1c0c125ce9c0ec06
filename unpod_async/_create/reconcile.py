"""Search for the calls of a create whose outcome is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from unpod_async._common import is_before, parse_time
from unpod_async._create.server_clock import SearchWindow, SentAt, ServerClock, read_clocks, search_window
from unpod_async._paging import ClientContext, Page, RejectedRow, SequentialWalk, run_tasks, space_runs
from unpod_async.errors import IncompleteListing, InvalidArgument
from unpod_async.models import Run, Task

__all__ = ["CreateState", "Reconciliation", "reconcile"]

CreateState: TypeAlias = Literal["created", "partial", "not_found", "unclear"]
"""The result of a search for the calls of a create.

"created": every document has a task. "partial": some documents have a task. "not_found": no document has one.
"unclear": some documents have no task that was found, but their tasks may exist. They may be among rows that
could not be read, or in runs that were not searched, because it is not known when the create was sent by the
server's clock.
"""


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a search for the calls of a create.

    Attributes:
        state: "created": every document has a task. "partial": only the documents in `task_ids` have one.
            "not_found": none has one. "unclear": only the tasks in `task_ids` were found, but the others may
            exist. Either a run or task that may belong to the create could not be read, or the server's clock
            is not known well enough to tell the runs of the create from older ones.
            The documents in `missing` may still get a task, because the server may still be storing the
            calls. Search again later.
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
    sent: SentAt,
    clock: ServerClock | None = None,
) -> Reconciliation:
    """Search the runs created since a create was sent, newest first, for the tasks of these documents.

    Args:
        document_ids: the ids to search for. They are compared with the `ref_id` of each task.
        sent: when the create was sent. Runs from two minutes earlier are searched too.
        clock: the server's clock; records the `Date` headers of the responses.

    Raises:
        InvalidArgument: `document_ids` is empty.
        UnpodError: a listing could not be read.
    """
    if not document_ids:
        raise InvalidArgument("there is no document id to search for")
    search = _Search(context, space_token, document_ids)
    clock = ServerClock() if clock is None else clock
    window: SearchWindow | None = None
    # Whether the first page reaches runs that are older than the create, and so has all that are not. Runs
    # may move to an earlier page between two requests, and the counts need not show it, because the server
    # counts before or after it reads the page. So later pages prove nothing before the end of the listing.
    reaches_older = False
    walk = SequentialWalk(
        context.executor,
        space_runs(space_token),
        page_size=context.settings.page_size,
        on_bad_row="skip",
        deadline=search.deadline,
    )
    try:
        while search.missing and (page := await walk.next_page()) is not None:
            rows = _runs_of(page)
            if window is None:
                now = read_clocks()
                clock.update(page.headers.get("date"), now)
                listed = [run.created for run in rows if run.created is not None]
                window = search_window(sent, now, clock.at(now), listed)
            candidates = _candidates(page, rows, window)
            for run_id in candidates.certain:
                await search.search_run(run_id)
            for run_id in candidates.doubtful:
                await search.search_run(run_id, may_be_older=True)
            search.is_conclusive = search.is_conclusive and candidates.is_complete
            reaches_older = reaches_older or (page.number == 1 and candidates.ends_older)
            if candidates.is_last_page and reaches_older:
                break
    except IncompleteListing:
        search.is_conclusive = False
    return search.result()


class _ListedRun(NamedTuple):
    """A run of a page. Its id can be anything."""

    run_id: Any
    created: datetime | None


class _Candidates(NamedTuple):
    """The runs of one page that may belong to a create.

    Attributes:
        certain: ids of runs that are not older than the create. Tasks of such a run that have the ids of the
            create are the tasks of the create.
        doubtful: ids of runs that may be older than the create.
        is_complete: no other run of the page may belong to the create.
        is_last_page: the page has readable rows, and all of them are older than the create.
        ends_older: the last readable row of the page is older than the create.
    """

    certain: list[str]
    doubtful: list[str]
    is_complete: bool
    is_last_page: bool
    ends_older: bool


class _RunFields(msgspec.Struct):
    """The fields that the search needs of a run that does not fit its model."""

    run_id: Any = None
    created: Any = None


def _runs_of(page: Page[Run]) -> list[_ListedRun]:
    """Return all runs of a page, including those that do not fit their model."""
    runs = [_ListedRun(run.run_id, run.created_at) for run in page.items]
    return runs + [
        _ListedRun(fields.run_id, parse_time(fields.created)) for fields in map(_fields_of, page.rejected)
    ]


def _candidates(page: Page[Run], rows: Sequence[_ListedRun], window: SearchWindow) -> _Candidates:
    """Return the runs of a page that were created within the window, or at an unknown time."""
    oldest = window.start if window.earliest is None else window.earliest
    newer = [run for run in rows if not _is_older(run.created, oldest)]
    readable = [run for run in newer if isinstance(run.run_id, str) and run.run_id]
    first_older = next(
        (index for index, run in enumerate(page.items) if _is_older(run.created_at, oldest)), None
    )
    return _Candidates(
        certain=[run.run_id for run in readable if not _is_older(run.created, window.start)],
        doubtful=[run.run_id for run in readable if _is_older(run.created, window.start)],
        is_complete=len(readable) == len(newer)
        and (len(newer) == len(rows) or window.earliest is not None)
        and not any(_may_be_newer(page, position, first_older) for position in page.unreadable),
        is_last_page=bool(rows) and not newer,
        ends_older=bool(page.items) and _is_older(page.items[-1].created_at, oldest),
    )


def _is_older(created: datetime | None, bound: datetime) -> bool:
    """Return whether a run was created before a time. A run without a time may be newer."""
    return created is not None and is_before(created, bound)


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
        is_conclusive: every row that may be such a task could be read.
        deadline: the time limit of all requests of the search.
    """

    def __init__(self, context: ClientContext, space_token: str, document_ids: Sequence[str]) -> None:
        self.missing = dict.fromkeys(document_ids)
        self.is_conclusive = True
        self.deadline = context.executor.deadline()
        self._context = context
        self._space = space_token
        self._found: dict[str, str] = {}
        self._run_id: str | None = None

    async def search_run(self, run_id: str, *, may_be_older: bool = False) -> None:
        """Search the tasks of a run.

        Args:
            may_be_older: the run may be older than the create. A task of it with one of the ids makes the
                result unclear, because an earlier create may have had the same ids.
        """
        try:
            listing = run_tasks(self._space, run_id)
        except InvalidArgument:  # the id cannot be part of a path
            self.is_conclusive = False
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
                self._add(run_id, page, may_be_older=may_be_older)
        except IncompleteListing:
            self.is_conclusive = False

    def _add(self, run_id: str, page: Page[Task], *, may_be_older: bool) -> None:
        if page.rejected or page.unreadable:
            self.is_conclusive = False
        for task in page.items:
            document_id = _document_id(task)
            if document_id not in self.missing:
                continue
            if task.task_id is None or may_be_older:
                self.is_conclusive = False
                continue
            del self.missing[document_id]
            self._found[document_id] = task.task_id
            self._run_id = self._run_id or run_id

    def result(self) -> Reconciliation:
        """Return the current result."""
        state: CreateState = "partial" if self._found else "not_found"
        if not self.missing:
            state = "created"
        elif not self.is_conclusive:
            state = "unclear"
        return Reconciliation(
            state=state, run_id=self._run_id, task_ids=self._found, missing=tuple(self.missing)
        )


def _document_id(task: Task) -> str:
    """Return the id of the document that a task was created from; the server copies it to `ref_id`."""
    document: dict[str, Any] = task.input or {}
    return str(task.ref_id or document.get("id") or document.get("document_id") or "")
