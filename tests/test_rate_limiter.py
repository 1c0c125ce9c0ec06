"""`RateLimiter`: a limit that several clients share."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.clock import pass_time
from unpod_async import (
    ConfigurationError,
    RateLimitedError,
    RateLimiter,
    RetryPolicy,
    TransportError,
    UnpodClient,
    WaitEvent,
)
from unpod_async._http import Deadline, RateGate, RequestLimiter, Stats
from unpod_async.testing import Sandbox, faults


class Limit:
    """Returns the delays that a test gives it, then 0.

    Attributes:
        pauses: the delays that the server has asked for.
    """

    def __init__(self, *delays: Any) -> None:
        self.delays = list(delays)
        self.reserved = 0
        self.pauses: list[float] = []

    async def reserve(self) -> float:
        self.reserved += 1
        delay: float = self.delays.pop(0) if self.delays else 0.0
        return delay

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


class Spaced(Limit):
    """Lets one request start per interval."""

    def __init__(self, interval: float) -> None:
        super().__init__()
        self.interval = interval
        self.next_start = 0.0

    async def reserve(self) -> float:
        self.reserved += 1
        now = time.monotonic()
        start = max(now, self.next_start)
        self.next_start = start + self.interval
        return start - now


async def first_run(sandbox: Sandbox, unpod: UnpodClient) -> None:
    await unpod.runs.list(sandbox.space_token, limit=1).collect()


async def test_clients_that_share_a_limiter_start_no_faster_than_it_allows() -> None:
    limit = Spaced(0.02)
    async with (
        Sandbox() as sandbox,
        sandbox.client(rate_limit=limit) as one,
        sandbox.client(rate_limit=limit) as other,
    ):
        began = time.monotonic()
        await asyncio.gather(*(first_run(sandbox, unpod) for unpod in (one, other) for _ in range(8)))
        assert time.monotonic() - began >= 15 * 0.02
        assert sandbox.requests == limit.reserved == 16
        assert one.stats.waited > 0
        assert other.stats.waited > 0


async def test_each_attempt_is_reserved_and_the_limiter_learns_the_delays_of_the_server() -> None:
    limit = Limit()
    async with (
        Sandbox() as sandbox,
        sandbox.client(rate_limit=limit, retry=RetryPolicy(base=0.001)) as unpod,
    ):
        sandbox.script(faults.rate_limited(1), faults.Fault(status=503))
        await first_run(sandbox, unpod)
        assert sandbox.requests == limit.reserved == 3
        assert limit.pauses == [1]


async def test_no_start_is_reserved_while_the_server_asks_to_wait() -> None:
    now, limit = [0.0], Limit()
    limiter = RequestLimiter(RateGate(), Stats(), lambda: now[0], limit)
    limiter.close_gate(0.5)
    waiting = asyncio.ensure_future(limiter.acquire((), Deadline(None)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert limit.reserved == 0
    now[0] = 0.5
    pass_time(0.5)
    assert (await waiting).is_probe
    assert limit.reserved == 1


async def test_an_interval_that_is_no_number_is_ignored(tmp_path: Path) -> None:
    limit = Limit()
    limit.interval = "1s"  # type: ignore[attr-defined]
    async with Sandbox(runs=61) as sandbox, sandbox.client(rate_limit=limit) as unpod:
        summary = await unpod.export(sandbox.space_token, tmp_path / "data")
    assert summary.complete


async def test_without_a_delay_of_the_server_the_limiter_is_never_told_to_pause() -> None:
    limit = Limit()
    async with Sandbox() as sandbox, sandbox.client(rate_limit=limit) as unpod:
        assert len(await unpod.runs.list(sandbox.space_token, page_size=5).collect()) == 20
        assert (limit.reserved, limit.pauses, unpod.stats.waited) == (
            sandbox.requests,
            [],
            pytest.approx(0, abs=0.5),
        )


async def test_a_limiter_whose_pause_fails_does_not_hide_the_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Limit):
        def pause(self, seconds: float) -> None:
            raise RuntimeError("secret")

    async with Sandbox() as sandbox, sandbox.client(rate_limit=Broken(), retry=None) as unpod:
        sandbox.script(faults.rate_limited(0))
        with pytest.raises(RateLimitedError):
            await first_run(sandbox, unpod)
    assert "pause() of the rate limiter failed with RuntimeError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), -1, "1", None])
async def test_a_delay_that_is_no_number_of_seconds_is_an_error_and_frees_the_slot(delay: object) -> None:
    async with Sandbox() as sandbox, sandbox.client(rate_limit=Limit(delay), max_concurrency=1) as unpod:
        with pytest.raises(TransportError, match=r"reserve\(\) of the rate limiter") as caught:
            await first_run(sandbox, unpod)
        assert (caught.value.sent, sandbox.requests) == (False, 0)
        assert "seconds" in (caught.value.hint or "")
        await first_run(sandbox, unpod)


async def test_an_error_of_the_limiter_is_the_cause_and_frees_the_slot() -> None:
    class Failing(Limit):
        async def reserve(self) -> float:
            if not self.reserved:
                self.reserved += 1
                raise OSError("no connection")
            return 0.0

    async with Sandbox() as sandbox, sandbox.client(rate_limit=Failing(), max_concurrency=1) as unpod:
        with pytest.raises(TransportError, match="failed with OSError; nothing was sent") as caught:
            await first_run(sandbox, unpod)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.sent is False
        await first_run(sandbox, unpod)


async def test_the_deadline_ends_a_wait_for_the_limiter() -> None:
    class Hanging(Limit):
        async def reserve(self) -> float:
            await asyncio.Event().wait()
            raise AssertionError

    for limit in (Hanging(), Limit(3600.0)):
        async with Sandbox() as sandbox, sandbox.client(rate_limit=limit, deadline=0.1) as unpod:
            with pytest.raises(
                TransportError, match=r"the deadline of 0\.1 s ended before a request may start"
            ):
                await first_run(sandbox, unpod)
            assert sandbox.requests == 0


async def test_a_cancelled_wait_frees_the_slot() -> None:
    async with Sandbox() as sandbox, sandbox.client(rate_limit=Limit(3600.0), max_concurrency=1) as unpod:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first_run(sandbox, unpod), 0.05)
        await first_run(sandbox, unpod)
        assert sandbox.requests == 1


async def test_a_wait_is_reported_to_the_hook() -> None:
    waits: list[WaitEvent] = []
    async with Sandbox() as sandbox, sandbox.client(rate_limit=Limit(0.05), on_wait=waits.append) as unpod:
        await first_run(sandbox, unpod)
    assert [wait.reason for wait in waits] == ["rate_limit"]
    assert waits[0].seconds >= 0.04


@pytest.mark.parametrize("wrong", [Limit, object(), [], True])
def test_what_is_neither_a_number_nor_a_limiter_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="rate_limit") as caught:
        UnpodClient("t0ken", rate_limit=wrong)
    assert caught.value.argument == "rate_limit"


def test_the_protocol_describes_the_limiters_of_these_tests() -> None:
    limiter: RateLimiter = Limit()
    assert UnpodClient("t0ken", rate_limit=limiter)
