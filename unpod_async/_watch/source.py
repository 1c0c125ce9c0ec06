"""What a watch asks of one space, and the handing on of what the answers tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from unpod_async._http import endpoints as _paths
from unpod_async._paging import (
    ClientContext,
    Listing,
    PageRequest,
    PageResult,
    RejectedRow,
    SendBatch,
    SequentialWalk,
    fetch,
    run_tasks,
    space_runs,
)
from unpod_async._watch.clock import Clock
from unpod_async._watch.diff import Compare
from unpod_async._watch.known import Known
from unpod_async.events import Event
from unpod_async.models import Run, Task

__all__ = ["SpaceSource"]

T = TypeVar("T")


class SpaceSource:
    """Walks over one space. Their rows, compared with what is known, are told in the order of the answers.

    Args:
        put: hands on events, and returns when they have been taken, and so are known.
    """

    def __init__(
        self,
        context: ClientContext,
        space_token: str,
        known: Known,
        put: SendBatch[Event],
        clock: Clock,
        chosen: frozenset[str] | None,
    ) -> None:
        self.space_token = space_token
        self.known = known
        self.clock = clock
        self.chosen = chosen
        self.page_size = context.settings.page_size
        self._context = context
        self._compare = Compare(space_token, known, chosen)
        self._put = put
        self._listing = space_runs(space_token)
        self.deadline = context.executor.deadline()
        """Bounds one poll: the owner restarts it."""

    def is_late(self) -> bool:
        """Whether half of the time of this poll is over; the next one has its own."""
        return self.deadline.left() < (self._context.executor.options.deadline or 0) / 2

    def runs(self) -> SequentialWalk[Run]:
        return self._walk(self._listing)

    def tasks(self) -> SequentialWalk[Task]:
        listing = Listing(_paths.space_tasks(self.space_token), Task, ("task_id", "id"))
        return self._walk(listing)

    def tasks_of(self, run_id: str) -> SequentialWalk[Task]:
        return self._walk(run_tasks(self.space_token, run_id, None))

    def _walk(self, listing: Listing[T]) -> SequentialWalk[T]:
        return SequentialWalk(
            self._context.executor,
            listing,
            page_size=self.page_size,
            on_bad_row="skip",
            deadline=self.deadline,
        )

    async def has_tasks(self, run_id: str) -> bool:
        """Whether a run has any; one that does not exist has none."""
        page = await self.tasks_of(run_id).next_page()
        return page is not None and bool(page.items or page.rejected or page.unreadable or page.count)

    async def page_of_runs(self, number: int) -> tuple[list[Run], int | None]:
        """One page of the runs, and how many there are; no rows where one of them breaks it.

        Raises:
            UnpodError: it could not be read.
        """
        read = PageRequest(number, self.page_size)
        outcome = await fetch(self._context.executor, self._listing, read, self.deadline, raw=False)
        if isinstance(outcome, PageResult):
            rows: Sequence[Run | RejectedRow] = outcome.rows.rows
            return [row for row in rows if not isinstance(row, RejectedRow)], outcome.count
        if outcome.unreadable:
            return [], None
        outcome.error.listing, outcome.error.page = self._listing.endpoint.label, number
        raise outcome.error

    async def tell(self, events: Sequence[Event]) -> None:
        await self._put(events)

    async def tell_runs(self, rows: Sequence[Run]) -> None:
        await self.tell(self._compare.runs(rows, self.clock.utc_now()))

    async def tell_tasks(self, rows: Sequence[Task], run_id: str | None = None) -> None:
        await self.tell(self._compare.tasks(rows, self.clock.utc_now(), run_id))

    async def tell_gone_runs(self, names: set[str]) -> None:
        await self.tell(self._compare.gone_runs(names, self.clock.utc_now()))

    async def tell_gone_tasks(self, run_id: str, met: set[str]) -> None:
        await self.tell(self._compare.gone_tasks(run_id, met, self.clock.utc_now()))

    async def tell_settled(self, run_id: str) -> None:
        """A run was read whole; with tasks not watched, its row is all there is to read."""
        run = self.known.runs.get(run_id)
        if run is None:
            return
        run.read = True
        if run.backfilling:
            run.settled, run.backfilling = run.has_ended, False
        await self.tell(self._compare.settled(run_id, run, self.clock.utc_now()))
