"""The tools that read: spaces, runs, calls and transcripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from unpod_async._common import parse_time, run_has_ended, shorten
from unpod_async._integrations.mcp.contact_data import ContactData
from unpod_async._integrations.mcp.problems import ToolProblem
from unpod_async._integrations.mcp.schemas import (
    FindCalls,
    FoundCall,
    FoundCalls,
    FoundRun,
    FoundRuns,
    FoundSpace,
    FoundSpaces,
    ListRuns,
    ListSpaces,
    OpenCall,
    RunTotals,
    SpokenMessage,
    SummarizeRun,
    Transcript,
    TranscriptPage,
    WaitForRun,
    WaitResult,
)
from unpod_async._tables import (
    RunSummary,
    call_of,
    cost_of,
    duration_of,
    name_of,
    number_of,
    outcome_of,
)
from unpod_async.errors import DecodeError, IncompleteListing, WaitTimeout
from unpod_async.models import Run, Space, Task

if TYPE_CHECKING:
    from unpod_async import UnpodClient, WatchedRun

__all__ = ["ReadTools"]

T = TypeVar("T", Space, Run, Task)

_PAGE_SIZE: Final = 500
"""Rows per request of tools that read whole listings."""
_SUMMARY: Final = 300
"""Maximum number of characters of a summary in a list."""
_PAGE_OF_TRANSCRIPT: Final = 20_000
"""Characters of a transcript in one result. A single message is cut at this length."""
_MAX_OPEN: Final = 20


class _Rows(NamedTuple, Generic[T]):
    """Some rows of a listing, whether there are more, and what is missing."""

    rows: list[T]
    has_more: bool
    warning: str | None


class ReadTools:
    """The tools that read, as methods: each takes its arguments and returns its result.

    Raises:
        UnpodError: the service refused a request, or could not be reached.
        ToolProblem: the arguments cannot be used.
    """

    def __init__(self, client: UnpodClient, contact_data: ContactData) -> None:
        self._client = client
        self._contact_data = contact_data

    async def list_spaces(self, wanted: ListSpaces) -> FoundSpaces:
        page = await _read_page(
            self._client.spaces.list(), _token_of, wanted.limit, wanted.cursor, self._contact_data
        )
        spaces = [
            FoundSpace(
                space=one.token, name=_cut(self._contact_data.text(one.name or "")), type=one.space_type
            )
            for one in page.rows
        ]
        return FoundSpaces(
            spaces=spaces,
            next_cursor=page.rows[-1].token if page.has_more else None,
            warning=page.warning,
        )

    async def list_runs(self, wanted: ListRuns) -> FoundRuns:
        size = _PAGE_SIZE if wanted.cursor or wanted.status else wanted.limit + 1
        pager = self._client.runs.list(wanted.space, status=wanted.status, page_size=size)
        page = await _read_page(pager, _run_id_of, wanted.limit, wanted.cursor, self._contact_data)
        runs = [
            FoundRun(
                run=one.run_id,
                status=one.status,
                calls=one.batch_count,
                created=_time(one.created_at, one.created),
                modified=_time(one.modified_at, one.modified),
            )
            for one in page.rows
        ]
        return FoundRuns(
            runs=runs, next_cursor=page.rows[-1].run_id if page.has_more else None, warning=page.warning
        )

    async def run_summary(self, wanted: SummarizeRun) -> RunTotals:
        run = await self._client.runs.find(wanted.space, wanted.run)
        if run is None:
            raise ToolProblem("the space has no run with this id", "list_runs lists the runs of the space")
        totals, warning = RunSummary(), None
        try:
            async for task in self._client.runs.tasks(wanted.space, wanted.run, page_size=_PAGE_SIZE):
                totals.add(self._contact_data.task(task))
        except (DecodeError, IncompleteListing) as error:
            warning = self._contact_data.text(f"some calls are not counted: {error.summary}")
        fields = totals.fields()
        return RunTotals(
            run=wanted.run,
            status=run.status,
            ended=run_has_ended(run.status, totals.statuses, all_tasks_read=warning is None),
            calls=fields["tasks"],
            outcomes=fields["outcomes"],
            duration_seconds=fields["duration"],
            cost_usd=fields["cost"],
            created=_time(run.created_at, run.created),
            modified=_time(run.modified_at, run.modified),
            warning=warning,
        )

    async def wait_for_run(self, wanted: WaitForRun) -> WaitResult:
        try:
            waited = await self._client.runs.wait(wanted.space, wanted.run, deadline=wanted.timeout_seconds)
        except WaitTimeout as error:
            if not error.runs:
                return WaitResult(
                    run=wanted.run,
                    status=None,
                    ended=False,
                    calls={},
                    open_calls=[],
                    warning="the run could not be read within timeout_seconds",
                )
            waited = error.runs[0]
        return self._wait_result(wanted.run, waited)

    def _wait_result(self, run_id: str, waited: WatchedRun) -> WaitResult:
        warnings = [] if waited.error is None else [f"the calls could not be read: {waited.error}"]
        if waited.unreadable:
            warnings.append(f"{waited.unreadable:,} calls could not be read")
        open_tasks = waited.open_tasks
        return WaitResult(
            run=run_id,
            status=waited.run.status,
            ended=waited.settled,
            calls=dict(Counter(task.status or "" for task in waited.tasks).most_common()),
            open_calls=[OpenCall(call=task.task_id, status=task.status) for task in open_tasks[:_MAX_OPEN]],
            more_open_calls=max(len(open_tasks) - _MAX_OPEN, 0),
            warning=self._contact_data.text("; ".join(warnings)) or None,
        )

    async def find_calls(self, wanted: FindCalls) -> FoundCalls:
        task_id, created_to = _split_cursor(wanted)
        if wanted.run is None:
            pager = self._client.tasks.list(
                wanted.space,
                search=wanted.search,
                outcome=wanted.outcome,
                created_from=wanted.created_from,
                created_to=created_to,
                status=wanted.status,
                page_size=_PAGE_SIZE if wanted.status else wanted.limit + 1,
            )
            rows: AsyncIterable[Task] = pager
        elif wanted.search is not None:
            raise ToolProblem("search cannot be combined with run", "omit one of them")
        else:
            listing = self._client.runs.tasks(
                wanted.space, wanted.run, status=wanted.status, page_size=_PAGE_SIZE
            )
            rows = _matching(listing, wanted, created_to)
        page = await _read_page(rows, _task_id_of, wanted.limit, task_id, self._contact_data)
        last = page.rows[-1] if page.has_more else None
        return FoundCalls(
            calls=[self._found_call(task) for task in page.rows],
            next_cursor=None if last is None else f"{last.task_id}@{last.created or ''}",
            warning=page.warning,
        )

    def _found_call(self, row: Task) -> FoundCall:
        task = self._contact_data.task(row)
        call = call_of(task)
        return FoundCall(
            call=task.task_id,
            run=task.run_id,
            status=task.status,
            outcome=outcome_of(task),
            name=_cut(name_of(task)),
            number=_cut(number_of(task)),
            ref_id=_cut(task.ref_id),
            agent=task.assignee,
            created=_time(task.created_at, task.created),
            duration_seconds=duration_of(task),
            cost_usd=cost_of(task),
            summary=_cut(call and call.summary),
            error=_cut((call and call.error) or task.last_failure_reason),
            has_transcript=bool(call and call.transcript),
        )

    async def transcript(self, wanted: Transcript) -> TranscriptPage:
        client = self._client
        pager = (
            client.tasks.list(wanted.space, page_size=_PAGE_SIZE)
            if wanted.run is None
            else client.runs.tasks(wanted.space, wanted.run, page_size=_PAGE_SIZE)
        )
        async for task in pager:
            if task.task_id == wanted.call:
                return _transcript_page(self._contact_data.task(task), wanted)
        raise ToolProblem(
            f"the {'space' if wanted.run is None else 'run'} has no call with this id",
            "find_calls returns the ids of calls",
        )


# -- pages --------------------------------------------------------------------------------------------------


def _token_of(space: Space) -> str | None:
    return space.token


def _run_id_of(run: Run) -> str | None:
    return run.run_id


def _task_id_of(task: Task) -> str | None:
    return task.task_id


async def _read_page(
    rows: AsyncIterable[T],
    id_of: Callable[[T], str | None],
    limit: int,
    after: str | None,
    contact_data: ContactData,
) -> _Rows[T]:
    """Return the rows after the row with the id `after`, or the first rows.

    The listing is read from its start. So rows that are added meanwhile move no row to another page.

    Raises:
        ToolProblem: there is no such row.
    """
    found: list[T] = []
    is_reached = after is None
    warning = None
    try:
        async for row in rows:
            if is_reached:
                found.append(row)
                if len(found) > limit:
                    break
            elif id_of(row) == after:
                is_reached = True
    except (DecodeError, IncompleteListing) as error:
        warning = contact_data.text(f"some rows are missing: {error.summary}")
    if not is_reached:
        raise ToolProblem(
            "the cursor does not belong to this listing, or its row was removed",
            "start again without a cursor, or use the same arguments as before",
        )
    return _Rows(found[:limit], len(found) > limit, warning)


def _split_cursor(wanted: FindCalls) -> tuple[str | None, datetime | None]:
    """Return the id of the last call that was returned, and the latest time of the calls to read.

    The service lists the newest calls first, so calls that are newer than the last one need not be read.
    """
    if wanted.cursor is None:
        return None, wanted.created_to
    task_id, _, created = wanted.cursor.partition("@")
    times = [one for one in (wanted.created_to, parse_time(created)) if one is not None]
    return task_id, min(times, default=None)


async def _matching(
    tasks: AsyncIterable[Task], wanted: FindCalls, created_to: datetime | None
) -> AsyncIterator[Task]:
    """Yield the tasks of a run that fit the filters, which the service has for whole spaces only."""
    async for task in tasks:
        call, created = call_of(task), task.created_at
        if wanted.outcome is not None and (call is None or call.outcome not in wanted.outcome):
            continue
        if wanted.created_from is not None and (created is None or created < wanted.created_from):
            continue
        if created_to is not None and (created is None or created > created_to):
            continue
        yield task


def _transcript_page(task: Task, wanted: Transcript) -> TranscriptPage:
    call = call_of(task)
    spoken: list[SpokenMessage] = []
    if call is not None:
        spoken = [SpokenMessage(role=one.role, text=one.text or "") for one in call.messages]
        if not spoken:
            lines = (call.transcript or "").splitlines()
            spoken = [SpokenMessage(role=None, text=line) for line in lines if line.strip()]
    page: list[SpokenMessage] = []
    left = _PAGE_OF_TRANSCRIPT
    for message in spoken[wanted.first :]:
        text = message.text
        if len(text) > _PAGE_OF_TRANSCRIPT:
            text = f"{text[:_PAGE_OF_TRANSCRIPT]}…"
        if page and len(text) > left:
            break
        page.append(SpokenMessage(role=message.role, text=text))
        left -= len(text)
    next_first = wanted.first + len(page)
    more = max(len(spoken) - next_first, 0)
    return TranscriptPage(
        call=wanted.call,
        run=task.run_id,
        status=task.status,
        outcome=outcome_of(task),
        summary=None if call is None else call.summary,
        messages=page,
        more_messages=more,
        next_first=next_first if more else None,
    )


def _cut(value: object) -> str | None:
    return None if value is None or value == "" else shorten(str(value), _SUMMARY)


def _time(at: datetime | None, sent: str | None) -> str | None:
    """Return a time with its zone, which the service leaves out, so that it can be used as an argument."""
    return sent if at is None else at.isoformat().replace("+00:00", "Z")
