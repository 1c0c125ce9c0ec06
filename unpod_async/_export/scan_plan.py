"""How long a space-wide listing is, and how large its rows are: whether and how an export reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from unpod_async._common import cancel_and_wait
from unpod_async._http import Deadline, Reader
from unpod_async._http import endpoints as _paths
from unpod_async._paging import Listing, ListingPreview, PageFailure, PageRequest, PageResult, fetch
from unpod_async.models import Task

__all__ = ["FEW_REQUESTS", "Plan", "Samples", "plan_for", "space_tasks"]

FEW_REQUESTS = 4
"""So many requests run by run are not worth asking how long the space-wide listing is."""

_ROWS = 10
_MOST_ROWS = 500
_PAGE_BYTES = 2 * 2**20
"""Size of a page, about. Decoding it takes 5 ms and its lines as many, while the event loop stands still."""

_Sample: TypeAlias = "PageResult | PageFailure"


def space_tasks(space_token: str) -> Listing[Task]:
    return Listing(_paths.space_tasks(space_token), Task, ("task_id", "id"))


class Samples:
    """The first rows of the space-wide listings of some spaces."""

    def __init__(self, reader: Reader, deadline: Deadline) -> None:
        self._reader = reader
        self._deadline = deadline
        self._asked: dict[str, asyncio.Task[_Sample]] = {}

    def ask(self, space_token: str) -> None:
        """Ask for it already, beside something else."""
        if space_token not in self._asked:
            self._asked[space_token] = asyncio.create_task(self._fetch(space_token))

    async def get(self, space_token: str) -> _Sample:
        """Raises what `fetch` raises."""
        self.ask(space_token)
        return await self._asked[space_token]

    async def _fetch(self, space_token: str) -> _Sample:
        return await fetch(
            self._reader, space_tasks(space_token), PageRequest(1, _ROWS), self._deadline, raw=True
        )

    async def aclose(self) -> asyncio.CancelledError | None:
        """Leave nothing behind; returns the cancellation asked for meanwhile."""
        return await cancel_and_wait([*self._asked.values()])


class Plan(NamedTuple):
    """How a space-wide listing is read: rows per page, and what was seen of it just before."""

    page_size: int
    glance: ListingPreview | None


def plan_for(sample: PageResult, asked: int | None, one_by_one: int) -> Plan | None:
    """None where the space-wide listing takes no fewer requests than the runs.

    Args:
        asked: the page size that is asked for.
        one_by_one: requests that the runs take.
    """
    rows, count = len(sample.keys), sample.count
    # A server that counts its page only does not tell.
    if count is None or (count <= rows and rows >= _ROWS):
        return None
    page_size = asked or _size_for(sample.rows.rows)
    if count // page_size + 2 >= one_by_one:
        return None
    return Plan(page_size, ListingPreview(count, sample.keys[0]) if sample.keys else None)


def _size_for(rows: Sequence[object]) -> int:
    """Where some of the rows are like these; the newest are often short, so never very many."""
    sizes = [len(row) for row in rows if isinstance(row, bytes)]
    mean = sum(sizes) // len(sizes) if sizes else 0
    return max(1, min(_MOST_ROWS, _PAGE_BYTES // max(1, mean)))
