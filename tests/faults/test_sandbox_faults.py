"""`unpod_async.testing.faults`: what users play in the sandbox is what the rows of the matrix are."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import pytest

from tests.clock import time_passes
from tests.faults.harness import FAST, no_secret_in, shown
from unpod_async import (
    APIError,
    AuthenticationError,
    DecodeError,
    InvalidRequestError,
    OutcomeUnknown,
    RateLimitedError,
    RefusedError,
    ServerError,
    TransportError,
    UnpodClient,
    UnpodError,
    UpstreamError,
)
from unpod_async.testing import Sandbox, faults

ROWS = {*range(2, 14), *range(18, 23), *range(24, 41)}


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    options = {"retry": FAST, "timeout": 20, "max_response_bytes": 2**20, **options}
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **options)


def test_the_rows_are_those_a_plain_http_server_can_cause() -> None:
    assert set(faults.MATRIX) == ROWS
    for name in faults.__all__:
        if name not in ("MATRIX", "play"):
            assert "Row" in (getattr(faults, name).__doc__ or "")[:3]


OF_A_READ: dict[int, type[UnpodError] | None] = {
    **dict.fromkeys((2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 18, 21), TransportError),
    **dict.fromkeys((7, 8, 31), DecodeError),
    **dict.fromkeys((19, 22, 36, 37, 38, 39), None),
    20: APIError,
    24: RateLimitedError,
    25: ServerError,
    26: RefusedError,
    27: UpstreamError,
    28: DecodeError,
    29: InvalidRequestError,
    30: AuthenticationError,
    32: ServerError,
    33: DecodeError,
    34: DecodeError,
    35: DecodeError,
    40: DecodeError,
}


def options_for(row: int) -> dict[str, Any]:
    """Return a short timeout for a response that arrives byte by byte, which takes 25 s."""
    return {"timeout": 1} if row == 12 else {}


def until_timeouts(sandbox: Sandbox, row: int) -> AbstractAsyncContextManager[None]:
    """Let the timeouts of all attempts pass if the sandbox does not respond."""
    return time_passes(sandbox, 20, requests=FAST.attempts) if row == 13 else nullcontext()


@pytest.mark.parametrize("row", sorted(ROWS))
async def test_a_read_under_each_row(row: int) -> None:
    async with (
        Sandbox(runs=3, tasks_per_run=5) as sandbox,
        client(sandbox, **options_for(row)) as unpod,
        until_timeouts(sandbox, row),
    ):
        if row == 21:
            sandbox.script(faults.too_long(3 * 2**20))
        else:
            faults.play(sandbox, row, times=50)
        error: UnpodError | None = None
        try:
            await unpod.runs.tasks(sandbox.space_token, sandbox.run_ids()[0]).collect()
        except UnpodError as caught:
            error = caught
            no_secret_in(*shown(caught))
        assert type(error) is (OF_A_READ[row] or type(None)), error


@pytest.mark.parametrize("row", sorted(ROWS - {28, 33, 34, 35, 36, 37, 38, 39, 40}))
async def test_a_create_under_each_row_calls_nobody_twice(row: int) -> None:
    """The ledger of what was really queued has at most one call per document."""
    async with (
        Sandbox(runs=1, tasks_per_run=1) as sandbox,
        client(sandbox, **options_for(row)) as unpod,
        until_timeouts(sandbox, row),
    ):
        if row == 21:
            sandbox.script(faults.too_long(3 * 2**20))
        else:
            faults.play(sandbox, row, times=50)
        documents = [{"name": f"Person {number}", "contact_number": "+15550100"} for number in range(3)]
        pilot = sandbox.agent_handle
        error: UnpodError | None = None
        try:
            await unpod.tasks.create(sandbox.space_token, pilot=pilot, documents=documents, context="x")
        except UnpodError as caught:
            error = caught
        queued = Counter(call.document["name"] for call in sandbox.ledger)
        assert set(queued.values()) <= {1}
        own = {
            20: APIError,
            24: RateLimitedError,
            26: RefusedError,
            29: InvalidRequestError,
            30: AuthenticationError,
        }
        expect = None if row == 19 else own.get(row, OutcomeUnknown)
        assert type(error) is (expect or type(None)), error
        assert sum(one.method == "POST" for one in sandbox.log) == (3 if row == 24 else 1)


@pytest.mark.parametrize("lost", ["reset_before_status", "closed_before_status", "reset_in_body", "drip"])
async def test_a_call_with_a_lost_response_is_found(lost: str) -> None:
    options = options_for(12) if lost == "drip" else {}
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, client(sandbox, **options) as unpod:
        sandbox.script(getattr(faults, lost)(method="POST"))
        document = {"name": "Ann", "contact_number": "+15550100"}
        with pytest.raises(OutcomeUnknown) as unknown:
            await unpod.tasks.create(
                sandbox.space_token, pilot=sandbox.agent_handle, documents=[document], context="x"
            )
        found = await unpod.with_options(timeout=20).tasks.reconcile(unknown.value)
        assert found.state == "created"
        assert [call.task_id for call in sandbox.ledger] == list(found.task_ids.values())


async def test_a_retry_succeeds() -> None:
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        for fault in (
            faults.reset_before_status(times=2),
            faults.closed_in_head(times=2),
            faults.rate_limited(0, times=2),
            faults.rate_limited(0, form="date", times=2),
            faults.rate_limited("soon", times=2),
            faults.server_error(times=2),
            faults.upstream_error(times=2),
        ):
            sandbox.script(fault)
            before = sandbox.requests
            assert len(await unpod.runs.list(sandbox.space_token).collect()) == 3
            assert sandbox.requests - before == 3


async def test_rows_move_and_the_walk_is_complete() -> None:
    async with Sandbox(runs=4, tasks_per_run=5) as sandbox, client(sandbox, page_size=4) as unpod:
        stayed = set(sandbox.task_ids())
        got: list[str | None] = []
        async for page in unpod.tasks.list(sandbox.space_token).pages():
            got.extend(task.task_id for task in page.items)
            if page.number < 3 and len(got) < 12:
                faults.rows_move(sandbox)
            stayed &= set(sandbox.task_ids())
        assert stayed <= set(got)


async def test_kinds_of_malformed_rows() -> None:
    for kind in ("utf-8", "not a number", "deep", "wrong type", "no object"):
        async with Sandbox(runs=1, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
            bad = faults.malformed_row(sandbox, kind)  # type: ignore[arg-type]
            listed = unpod.tasks.list(sandbox.space_token, on_bad_row="skip")
            assert [task.task_id for task in await listed.collect()] == [
                one for one in sandbox.task_ids() if one != bad
            ]
