"""Rows 36, 37, 39 and 40: listings that count, page or move oddly."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.faults.harness import FAST, Row, always, client_for, page_body, watch
from tests.raw_server import RawServer, json_response
from unpod_async import DecodeError, IncompleteListing, StalledListing, UnpodClient
from unpod_async.testing import Oddities, Sandbox

TASKS = 130


def sandbox_with(**odd: Any) -> Sandbox:
    return Sandbox(runs=26, tasks_per_run=5, oddities=Oddities(**odd))


async def walked(row: Row, sandbox: Sandbox, allowed: type[Exception] | None, seen: str) -> None:
    """All rows, each once; or else the error that says that some may be missing."""
    want = sandbox.task_ids()
    async with UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=25, retry=FAST) as unpod:
        got: list[str | None] = []

        async def walk() -> None:
            nonlocal got
            async for task in unpod.tasks.list(sandbox.space_token):
                got += [task.task_id]

        outcome = await watch(walk())
        row.note(f"{seen}: {outcome.name}", sandbox.requests)
        assert len(set(got)) == len(got)
        assert set(got) <= set(want)
        if allowed is None:
            assert outcome.error is None, outcome.error
        if outcome.error is None:
            assert got == want
        else:
            assert allowed is not None
            assert type(outcome.error) is allowed
        assert sandbox.requests < 60


@pytest.mark.parametrize(
    ("count", "allowed"),
    [
        ("null", None),
        ("absent", None),
        ("zero", None),
        ("page", None),
        ("low", None),
        ("high", IncompleteListing),
    ],
)
async def test_row_36_count(row: Row, count: Any, allowed: type[Exception] | None) -> None:
    async with sandbox_with(count=count) as sandbox:
        await walked(row, sandbox, allowed, f"count {count}")


async def test_row_36_count_is_text(row: Row) -> None:
    body = b'{"count":"1","status_code":200,"message":"x","data":[{"run_id":"R1"}]}'
    async with RawServer(always(json_response(body))) as server, client_for(server.base_url) as unpod:
        outcome = await watch(unpod.runs.list("SPACE").collect())
        assert outcome.error is None
        assert [run.run_id for run in outcome.value] == ["R1"]
        row.note("count text: ok", len(server.requests))


@pytest.mark.parametrize(
    ("odd", "allowed"),
    [
        ({"ignore_page": True}, StalledListing),
        ({"ignore_page_size": True}, None),
        ({"max_page_size": 10}, None),
        ({"ignore_page": True, "ignore_page_size": True}, StalledListing),
        ({"past_end": "repeat"}, None),
        ({"past_end": "404"}, None),
        ({"past_end": "206"}, None),
        ({"past_end": "404", "max_page_size": 10}, None),
        ({"past_end": "repeat", "count": "null"}, None),
        ({"past_end": "404", "count": "null"}, None),
        ({"ignore_page": True, "count": "null"}, StalledListing),
    ],
)
async def test_row_37_pages(row: Row, odd: dict[str, Any], allowed: type[Exception] | None) -> None:
    name = ", ".join(key if value is True else f"{key} {value}" for key, value in odd.items())
    async with sandbox_with(**odd) as sandbox:
        await walked(row, sandbox, allowed, name)


async def test_row_39_rows_move(row: Row) -> None:
    """Rows enter and leave during the walk: what stayed comes, once; or the walk says it is not sure."""
    for seed in range(12):
        await moving_listing(seed)
    row.note("12 moving listings: every row that stayed, once", "–")


async def moving_listing(seed: int) -> None:
    rng = random.Random(seed)
    got: list[str | None] = []
    async with Sandbox(runs=30, tasks_per_run=5, seed=seed) as sandbox:
        stayed = set(sandbox.task_ids())

        async def walk() -> None:
            async with UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=10) as unpod:
                async for page in unpod.tasks.list(sandbox.space_token).pages():
                    got.extend(task.task_id for task in page.items)
                    if len(got) < 120 and rng.random() < 0.5:
                        sandbox.insert_task(rng.choice(sandbox.run_ids()))
                    if len(got) < 120 and rng.random() < 0.3:
                        gone = rng.choice(sandbox.task_ids())
                        sandbox.delete_task(gone)
                        stayed.discard(gone)

        outcome = await watch(walk())
    assert len(set(got)) == len(got)
    if outcome.error is None:
        assert stayed <= set(got), seed
    else:
        assert isinstance(outcome.error, IncompleteListing)


async def test_row_40_rows_of_another_run(row: Row) -> None:
    rows = [b'{"task_id":"T1","run_id":"R1"}', b'{"task_id":"T2","run_id":"R2"}', b'{"task_id":"T3"}']
    async with RawServer(always(page_body(rows))) as server, client_for(server.base_url) as unpod:
        outcome = await watch(unpod.runs.tasks("SPACE", "R1", on_bad_row="skip").collect())
        assert outcome.error is None
        assert [task.task_id for task in outcome.value] == ["T1", "T3"]
        outcome = await watch(unpod.runs.tasks("SPACE", "R1").collect())
        assert isinstance(outcome.error, DecodeError)
        (rejected,) = outcome.error.rejected
        assert rejected.path == "$.data[1].run_id"
        row.note("row rejected, the others come; DecodeError at the end", 1)
