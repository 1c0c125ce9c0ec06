"""`limit` of a listing: the first rows, and no more pages than they need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from unpod_async import DecodeError, InvalidArgument, Pager, UnpodClient
from unpod_async.testing import Sandbox

RUNS = 7
PAGE = 3


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    async with (
        Sandbox(runs=RUNS, tasks_per_run=1) as sandbox,
        UnpodClient(
            sandbox.jwt,  # an API key cannot list spaces and organizations
            sandbox.org_handle,
            sandbox.base_url,
            auth_scheme="JWT",
            page_size=PAGE,
            retry=None,
        ) as unpod,
    ):
        yield sandbox, unpod


async def of_iteration(pager: Pager[Any]) -> list[Any]:
    return [row async for row in pager]


async def of_pages(pager: Pager[Any]) -> list[Any]:
    return [row async for page in pager.pages() for row in page.items]


async def of_prefetch(pager: Pager[Any]) -> list[Any]:
    async with pager.prefetch(2) as stream:
        return [row async for row in stream]


async def of_raw(pager: Pager[Any]) -> list[Any]:
    return [None async for _ in pager.raw()]


READS: dict[str, Callable[[Pager[Any]], Any]] = {
    "async for": of_iteration,
    "pages": of_pages,
    "collect": lambda pager: pager.collect(),
    "prefetch": of_prefetch,
    "raw": of_raw,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_a_listing_ends_at_its_limit_and_reads_no_page_for_nothing(
    read: Callable[[Pager[Any]], Any],
) -> None:
    async with serving() as (sandbox, unpod):
        ids = sandbox.run_ids()
        for limit in range(RUNS + 2):
            before = sandbox.requests
            rows = await read(unpod.runs.list(sandbox.space_token, limit=limit))
            assert len(rows) == min(limit, RUNS)
            if read is not of_raw:
                assert [row.run_id for row in rows] == ids[:limit]
            requests = sandbox.requests - before
            if limit <= RUNS:
                # Prefetching may request pages that turn out not to be needed.
                pages = -(-limit // PAGE)
                assert requests == pages if read is not of_prefetch else requests <= pages + 2


@pytest.mark.parametrize(
    ("limit", "collected", "expected"), [(5, 2, 2), (2, 5, 2), (None, 2, 2), (2, None, 2)]
)
async def test_the_lower_of_two_limits_counts(
    limit: int | None, collected: int | None, expected: int
) -> None:
    async with serving() as (sandbox, unpod):
        rows = await unpod.runs.list(sandbox.space_token, limit=limit).collect(collected)
        assert [row.run_id for row in rows] == sandbox.run_ids()[:expected]


async def test_first_and_count_with_a_limit() -> None:
    async with serving() as (sandbox, unpod):
        runs = unpod.runs.list(sandbox.space_token, limit=2)
        first = await runs.first()
        assert first is not None
        assert first.run_id == sandbox.run_ids()[0]
        assert await runs.count() == RUNS  # the size of the whole listing
        assert await unpod.runs.list(sandbox.space_token, limit=0).first() is None
        filtered = unpod.runs.list(sandbox.space_token, limit=1, status=["completed", "failed", "pending"])
        assert (
            await filtered.count()
            == await unpod.runs.list(sandbox.space_token, status=["completed", "failed", "pending"]).count()
        )


async def test_a_limit_counts_the_rows_that_a_filter_keeps() -> None:
    async with serving() as (sandbox, unpod):
        statuses = {str(row["status"]) for row in sandbox.run_rows()}
        for status in statuses:
            ids = [row["run_id"] for row in sandbox.run_rows() if row["status"] == status]
            for read in (of_iteration, of_prefetch):
                rows = await read(unpod.runs.list(sandbox.space_token, status=status, limit=2))
                assert [row.run_id for row in rows] == ids[:2]


async def test_a_limit_applies_from_the_start_page() -> None:
    async with serving() as (sandbox, unpod):
        rows = await unpod.runs.list(sandbox.space_token, start_page=2, limit=2).collect()
        assert [row.run_id for row in rows] == sandbox.run_ids()[PAGE : PAGE + 2]


async def test_bad_rows_after_the_limit_are_no_error() -> None:
    async with serving() as (sandbox, unpod):
        sandbox.poison(sandbox.run_ids()[5])
        rows = await unpod.runs.list(sandbox.space_token, limit=3).collect()
        assert [row.run_id for row in rows] == sandbox.run_ids()[:3]
        with pytest.raises(DecodeError):
            await unpod.runs.list(sandbox.space_token, limit=RUNS).collect()


LISTINGS: dict[str, Callable[[UnpodClient, Sandbox, Any], Pager[Any]]] = {
    "organizations.list": lambda unpod, sandbox, limit: unpod.organizations.list(limit=limit),
    "spaces.list": lambda unpod, sandbox, limit: unpod.spaces.list(limit=limit),
    "agents.list": lambda unpod, sandbox, limit: unpod.agents.list(limit=limit),
    "agents.tasks": lambda unpod, sandbox, limit: unpod.agents.tasks(sandbox.agent_handle, limit=limit),
    "runs.list": lambda unpod, sandbox, limit: unpod.runs.list(sandbox.space_token, limit=limit),
    "runs.tasks": lambda unpod, sandbox, limit: unpod.runs.tasks(
        sandbox.space_token, sandbox.run_ids()[0], limit=limit
    ),
    "tasks.list": lambda unpod, sandbox, limit: unpod.tasks.list(sandbox.space_token, limit=limit),
}


@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS)
async def test_every_listing_has_a_limit(listing: Callable[..., Pager[Any]]) -> None:
    async with serving() as (sandbox, unpod):
        everything = await listing(unpod, sandbox, None).collect()
        assert await listing(unpod, sandbox, 1).collect() == everything[:1]
        assert await of_prefetch(listing(unpod, sandbox, 1)) == everything[:1]
        assert await listing(unpod, sandbox, 0).collect() == []
        assert everything
        for limit in (-1, 1.5, "3", True):
            with pytest.raises(InvalidArgument) as caught:
                listing(unpod, sandbox, limit)
            assert caught.value.argument == "limit"
