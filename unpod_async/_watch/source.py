"""Read the listings of one space for a watch, and emit the changes as events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from unpod_async._http import space_tasks
from unpod_async._paging import (
    ClientContext,
    DecodedPage,
    Listing,
    Page,
    PageRequest,
    RejectedRow,
    SendBatch,
    SequentialWalk,
    fetch,
    run_tasks,
    space_runs,
)
from unpod_async._watch.diff import Diff
from unpod_async._watch.schedule import Clock
from unpod_async._watch.state import Known
from unpod_async.errors import (
    APIError,
    AuthenticationError,
    DecodeError,
    IncompleteListing,
    InvalidArgument,
    TransportError,
    UnpodError,
)
from unpod_async.events import Event
from unpod_async.models import Run, Task

__all__ = ["SpaceSource", "concerns_one_run", "count_fell", "is_readable"]

T = TypeVar("T")


def concerns_one_run(error: UnpodError) -> bool:
    """Return whether an error concerns only the run whose tasks were read, so that other runs may succeed.

    It does not if the service cannot be reached or the token is refused. A run id that cannot be sent and a
    response that is too long concern one run.
    """
    if isinstance(error, TransportError):
        return error.permanent
    if isinstance(error, AuthenticationError):
        return False
    return isinstance(error, APIError | DecodeError | IncompleteListing | InvalidArgument)


def is_readable(page: Page[Any]) -> bool:
    """Return whether every row of a page could be read."""
    return not (page.rejected or page.unreadable)


def count_fell(before: int | None, after: int | None) -> bool:
    """Return whether the count of a listing fell from one page to the next, or may have fallen.

    In that case, a row behind these pages may have moved onto an earlier one.
    """
    return before is None or after is None or after < before


class SpaceSource:
    """Reads one space, and emits the changes in the order of the responses.

    Args:
        emit: called after each response with the events it leads to, possibly none. It returns once the
            caller of the watch has received them, so that `known` contains them.
        run_ids: the runs that are watched; None for all.

    Attributes:
        deadline: limits one poll, which restarts it.
    """

    def __init__(
        self,
        context: ClientContext,
        space_token: str,
        known: Known,
        emit: SendBatch[Event],
        clock: Clock,
        run_ids: frozenset[str] | None,
    ) -> None:
        self.space_token = space_token
        self.known = known
        self.clock = clock
        self.run_ids = run_ids
        self.page_size = context.settings.page_size
        self.deadline = context.executor.deadline()
        self._context = context
        self._emit = emit
        self._emitting = asyncio.Lock()
        self._diff = Diff(space_token, known, run_ids)
        self._run_listing = space_runs(space_token)

    def is_late(self) -> bool:
        """Return whether more than half of the time of this poll has passed."""
        return self.deadline.left() < (self._context.executor.options.deadline or 0) / 2

    def runs(self) -> SequentialWalk[Run]:
        """Return a new traversal of the runs, newest first."""
        return self._traverse(self._run_listing)

    def tasks(self) -> SequentialWalk[Task]:
        """Return a new traversal of the tasks of the space, newest first."""
        return self._traverse(Listing(space_tasks(self.space_token), Task, ("task_id", "id")))

    def tasks_of(self, run_id: str) -> SequentialWalk[Task]:
        """Return a new traversal of the tasks of one run, newest first."""
        return self._traverse(run_tasks(self.space_token, run_id, None))

    def _traverse(self, listing: Listing[T]) -> SequentialWalk[T]:
        return SequentialWalk(
            self._context.executor,
            listing,
            page_size=self.page_size,
            on_bad_row="skip",
            deadline=self.deadline,
        )

    async def has_tasks(self, run_id: str) -> bool:
        """Return whether a run has tasks. A run that does not exist has none."""
        page = await self.tasks_of(run_id).next_page()
        return page is not None and bool(page.items or page.rejected or page.unreadable or page.count)

    async def page_of_runs(self, number: int) -> tuple[list[Run], int | None]:
        """Read one page of the runs by its number.

        Returns:
            Its readable rows and the total number of runs. If a row makes the server fail, no rows and None.

        Raises:
            UnpodError: the page could not be read.
        """
        request = PageRequest(number, self.page_size, patient=True)
        outcome = await fetch(self._context.executor, self._run_listing, request, self.deadline)
        if isinstance(outcome, DecodedPage):
            rows: Sequence[Run | RejectedRow] = outcome.rows
            return [row for row in rows if not isinstance(row, RejectedRow)], outcome.count
        if outcome.unreadable:
            return [], None
        outcome.error.locate(self._run_listing.endpoint.label, number)
        raise outcome.error

    async def emit_runs(self, rows: Sequence[Run]) -> None:
        """Emit the changes that rows of runs show."""
        await self._emit_changes(lambda: self._diff.runs(rows, self.clock.utc_now()))

    async def emit_tasks(self, rows: Sequence[Task], run_id: str | None = None) -> None:
        """Emit the changes that rows of tasks show; `run_id` is the run whose tasks were listed, if any."""
        await self._emit_changes(lambda: self._diff.tasks(rows, self.clock.utc_now(), run_id))

    async def emit_removed_runs(self, run_ids: set[str]) -> None:
        """Emit that these runs are no longer listed."""
        await self._emit_changes(lambda: self._diff.removed_runs(run_ids, self.clock.utc_now()))

    async def emit_removed_tasks(self, run_id: str, listed: set[str]) -> None:
        """Emit that the known tasks of a run are no longer listed, except those in `listed`."""
        await self._emit_changes(lambda: self._diff.removed_tasks(run_id, listed, self.clock.utc_now()))

    async def emit_settled(self, run_id: str) -> None:
        """Record that all tasks of a run were read, and emit `RunSettled` if it has newly settled.

        If tasks are not watched, the run's own row is all there is to read.
        """
        run = self.known.runs.get(run_id)
        if run is None:
            return
        run.tasks_read = True
        if run.backfilling:
            run.settled = run.has_ended()  # an old run that has ended is not news
        await self._emit_changes(lambda: self._diff.settled(run_id, run, self.clock.utc_now()))

    async def _emit_changes(self, compare: Callable[[], list[Event]]) -> None:
        """Emit the events that `compare` returns.

        `compare` is called after all earlier events were received. Otherwise two responses that show the same
        change at the same time would report it twice.
        """
        async with self._emitting:
            await self._emit(compare())
