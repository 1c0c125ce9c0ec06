"""A listing never lies, end to end: `Pager` against a server whose rows come and go between its answers."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unpod_async import IncompleteListing, Pager, Task, UnpodClient, UnpodError
from unpod_async.testing import Oddities, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 2, 1, tzinfo=UTC)
SEEDS = st.integers(0, 2**32)


class History:
    """What happens to a run's tasks: before each answer (the sandbox asks its clock) and between items."""

    def __init__(self, seed: int, inserts: float, deletes: float) -> None:
        self.random = random.Random(seed)
        self.inserts, self.deletes = inserts, deletes
        self.left = 40  # a listing that grows by a page per request is never caught up with
        self.gone: set[str] = set()
        self.born: set[str] = set()
        self.sandbox: Sandbox | None = None

    def now(self) -> datetime:
        """The sandbox's clock: it looks before every answer."""
        self.happen()
        return NOW

    def happen(self) -> None:
        sandbox = self.sandbox
        self.left -= 1
        if sandbox is None or self.left < 0:
            return
        run_id = sandbox.run_ids()[0]
        for _ in range(2):
            if self.random.random() < self.inserts:
                self.born.add(sandbox.insert_task(run_id))
            ids = sandbox.task_ids(run_id)
            if ids and self.random.random() < self.deletes:
                name = self.random.choice(ids)
                sandbox.delete_task(name)
                self.gone.add(name)
            if self.random.random() < 0.2:
                sandbox.advance()


async def walk(pager: Pager[Any], ahead: int, between: Callable[[], None]) -> tuple[list[str], Any]:
    """The ids a walk yields and the error it ends in; `between` happens while the reader has a row."""
    found: list[str] = []
    try:
        if ahead == 1:
            async for row in pager:
                found.append(row.task_id)
                between()
        else:
            async with pager.prefetch(ahead) as stream:
                async for row in stream:
                    found.append(row.task_id)
                    between()
    except UnpodError as error:
        return found, error
    return found, None


@settings(max_examples=40)
@given(
    length=st.integers(0, 12),
    size=st.integers(1, 4),
    ahead=st.sampled_from([1, 1, 2, 4]),
    clamp=st.sampled_from([None, None, 1, 2]),
    count=st.sampled_from(["true", "true", "true", "null", "absent"]),
    past_end=st.sampled_from(["empty", "404", "repeat"]),
    seed=SEEDS,
    inserts=st.sampled_from([0, 0.1, 0.3]),
    deletes=st.sampled_from([0, 0.05, 0.2]),
    listing=st.sampled_from(["run", "space", "agent", "shuffled agent", "any path", "any path, by function"]),
)
async def test_every_row_that_stays_is_yielded_once_or_the_walk_says_so(
    length: int,
    size: int,
    ahead: int,
    clamp: int | None,
    count: Any,
    past_end: Any,
    seed: int,
    inserts: float,
    deletes: float,
    listing: str,
) -> None:
    if listing.endswith("agent") and count != "true":
        past_end = "empty"  # the other way has tests of its own below
    history = History(seed, inserts, deletes)
    async with (
        Sandbox(
            runs=1,
            tasks_per_run=length,
            now=history.now,
            oddities=Oddities(max_page_size=clamp, count=count, past_end=past_end),
            shuffle_ties=listing.startswith("shuffled"),
        ) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=size, retry=None) as unpod,
    ):
        there = set(sandbox.task_ids())
        pager = {
            "run": lambda: unpod.runs.tasks(sandbox.space_token, sandbox.run_ids()[0]),
            "space": lambda: unpod.tasks.list(sandbox.space_token),
            "any path": lambda: unpod.paginate(
                f"spaces/{sandbox.space_token}/tasks/", key="task_id", model=Task
            ),
            "any path, by function": lambda: unpod.paginate(
                f"spaces/{sandbox.space_token}/tasks/", key=lambda task: task.task_id, model=Task
            ),
        }.get(listing, lambda: unpod.agents.tasks(sandbox.agent_handle))()
        history.sandbox = sandbox
        found, error = await walk(pager, ahead, history.happen if seed % 2 else lambda: None)

        assert len(found) == len(set(found)), "a row came twice"
        assert set(found) <= there | history.born
        if error is None:
            assert there - history.gone <= set(found), "rows were lost without a word"
        else:
            assert isinstance(error, IncompleteListing), error
            assert error.seen >= len(found)
            assert error.listing is not None
            assert error.page is not None
        if count == "true" and not deletes and not listing.endswith("agent"):
            assert error is None, "the listing only grew, and counted its rows"
        pages = -(-(length + len(history.born)) // min(size, clamp or size))
        # Of shuffled rows there is a test of its own below.
        assert listing.startswith("shuffled") or sandbox.requests <= 4 * max(1, pages) + 64


@settings(max_examples=20)
@given(
    length=st.integers(1, 12),
    size=st.integers(1, 4),
    ahead=st.sampled_from([1, 3]),
    bad=st.sets(st.integers(0, 11), min_size=1, max_size=2),
    poisoned=st.booleans(),
)
async def test_bad_rows_cost_only_themselves(
    length: int, size: int, ahead: int, bad: set[int], poisoned: bool
) -> None:
    async with (
        Sandbox(runs=1, tasks_per_run=length) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=size, retry=None) as unpod,
    ):
        ids = sandbox.task_ids()
        names = {ids[place] for place in bad if place < length}
        if poisoned:
            # Two next to each other may be all that is looked at: then the page's own error comes.
            names = set(sorted(names)[: length > 1])
        for name in names:
            if poisoned:
                sandbox.poison(name)
            else:
                sandbox.malform(name, f'{{"task_id": "{name}", "input": 17}}'.encode())
        pager = unpod.tasks.list(sandbox.space_token, on_bad_row="skip")
        found, error = await walk(pager, ahead, lambda: None)
        assert found == [name for name in ids if name not in names]
        assert error is None


@pytest.mark.parametrize("ahead", [1, 4])
async def test_an_honest_listing_that_stands_still_costs_no_request_too_many(ahead: int) -> None:
    async with (
        Sandbox(runs=1, tasks_per_run=25) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=10, retry=None) as unpod,
    ):
        found, error = await walk(unpod.tasks.list(sandbox.space_token), ahead, lambda: None)
        assert (found, error) == (sandbox.task_ids(), None)
        assert sandbox.requests == 4


async def test_uncounted_tied_rows_that_change_places_are_not_lost_behind_a_repeated_last_page() -> None:
    for seed in range(30):
        async with (
            Sandbox(
                runs=1,
                tasks_per_run=3,
                seed=seed,
                shuffle_ties=True,
                oddities=Oddities(count="null", past_end="repeat"),
            ) as sandbox,
            UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=2, retry=None) as unpod,
        ):
            found, error = await walk(unpod.agents.tasks(sandbox.agent_handle), 1, lambda: None)
            assert isinstance(error, IncompleteListing) or set(found) == set(sandbox.task_ids()), (
                f"seed {seed}"
            )


@pytest.mark.parametrize("length", [1, 3, 4])
async def test_uncounted_tied_rows_that_keep_their_places_end_behind_a_repeated_last_page(
    length: int,
) -> None:
    async with (
        Sandbox(runs=1, tasks_per_run=length, oddities=Oddities(count="null", past_end="repeat")) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url, retry=None) as unpod,
    ):
        for size in (1, 2, 3):
            before = sandbox.requests
            pager = unpod.agents.tasks(sandbox.agent_handle, page_size=size)
            found, error = await walk(pager, 1, lambda: None)
            assert set(found) == set(sandbox.task_ids())
            assert error is None
            # The last page is full or not, it comes again, and the closing request shows all rows.
            assert sandbox.requests - before <= -(-length // size) + 2 + (length % size > 0)


@pytest.mark.parametrize("past_end", ["empty", "404", "repeat"])
async def test_rows_that_change_places_cost_no_more_requests_than_others(past_end: Any) -> None:
    for seed in range(10):
        async with (
            Sandbox(
                runs=1,
                tasks_per_run=8,
                seed=seed,
                shuffle_ties=True,
                oddities=Oddities(past_end=past_end),
            ) as sandbox,
            UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=1, retry=None) as unpod,
        ):
            found, error = await walk(unpod.agents.tasks(sandbox.agent_handle), 1, lambda: None)
            assert isinstance(error, IncompleteListing) or set(found) == set(sandbox.task_ids())
            assert sandbox.requests <= 4 * 8 + 64
