"""What is sent again, how long is waited, and what ends at once: over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import ssl
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import msgspec
import pytest

from tests.clock import pass_time, time_passes
from tests.raw_server import RawConnection, RawServer, json_response
from tests.tables import each_row
from unpod_async import RetryPolicy, Run, UnpodClient
from unpod_async._http import RateGate, RequestLimiter
from unpod_async.errors import (
    APIError,
    AuthenticationError,
    DecodeError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    ServerError,
    TransportError,
    UnpodError,
)
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

FAST = RetryPolicy(base=0.001)
NO_HINT = b'{"message": "slow down"}'
NO_RUNS = json_response({"count": 0, "data": []})


@asynccontextmanager
async def served(*faults: Fault, runs: int = 3, tasks: int = 5, **options: Any) -> AsyncIterator[Any]:
    async with Sandbox(runs=runs, tasks_per_run=tasks) as sandbox:
        sandbox.script(*faults)
        async with UnpodClient(
            sandbox.token, sandbox.org_handle, sandbox.base_url, **{"retry": FAST, **options}
        ) as unpod:
            yield sandbox, unpod


async def runs_of(sandbox: Sandbox, unpod: UnpodClient) -> list[str | None]:
    return [run.run_id async for run in unpod.runs.list(sandbox.space_token)]


async def all_tasks(unpod: UnpodClient, sandbox: Sandbox) -> None:
    async with unpod.runs.tasks_for(sandbox.space_token, concurrency=2) as stream:
        async for _ in stream:
            pass


# --- what is repeated --------------------------------------------------------------------------------------

REPEATED = {
    "503": (Fault(status=503, times=2), "503"),
    "504": (Fault(status=504, body=b"<html>", content_type="text/html", times=2), "504"),
    "408": (Fault(status=408, times=2), "408"),
    "429 without hint": (Fault(status=429, body=NO_HINT, times=2), "429"),
    "429 nonsense": (Fault(status=429, headers={"Retry-After": "nan"}, times=2), "429"),
    "429 now": (Fault(status=429, headers={"Retry-After": "0"}, times=2), "429"),
    "reset": (Fault(reset_at=0, times=2), "TransportError"),
    "reset in the head": (Fault(reset_at=30, times=2), "TransportError"),
    "truncated": (Fault(reset_at=200, times=2), "TransportError"),
    "time-out": (Fault(stall=600, times=2), "TransportError"),
    "206 with a string": (Fault(status=206, body=b'{"errors": "upstream"}', times=2), "206"),
}


@pytest.mark.parametrize("name", REPEATED)
async def test_a_read_is_repeated(name: str) -> None:
    fault, cause = REPEATED[name]
    async with (
        served(fault, timeout=20) as (sandbox, unpod),
        time_passes(sandbox, 20, requests=2 if name == "time-out" else 0),
    ):
        assert await runs_of(sandbox, unpod) == sandbox.run_ids()
        assert sandbox.requests == 3
        assert unpod.stats.attempts == 3
        assert unpod.stats.requests == 1
        assert unpod.stats.retries == {cause: 2}


async def test_a_page_that_answers_500_is_split_at_once() -> None:
    """One row may be the cause (a NaN in a task of an agent is), so retries would only lose time."""
    async with served(Fault(status=500, times=1)) as (sandbox, unpod):
        assert await runs_of(sandbox, unpod) == sandbox.run_ids()
        assert unpod.stats.retries == {}


async def test_a_500_of_every_page_is_retried() -> None:
    async with served(Fault(status=500, times=1_000)) as (sandbox, unpod):
        with pytest.raises(ServerError, match="500") as caught:
            await runs_of(sandbox, unpod)
    assert len(caught.value.attempts) == 4
    assert unpod.stats.retries == {"500": 3}


async def test_an_outage_that_begins_with_a_500_is_waited_out() -> None:
    async with served(
        Fault(status=500), Fault(status=502), Fault(status=503, times=2), Fault(reset_at=0)
    ) as (sandbox, unpod):
        assert await runs_of(sandbox, unpod) == sandbox.run_ids()


NOT_REPEATED = {
    "400": (Fault(status=400), InvalidRequestError),
    "401": (Fault(status=401), AuthenticationError),
    "403": (Fault(status=403), PermissionDeniedError),
    "404": (Fault(status=404), NotFoundError),
    "405": (Fault(status=405), APIError),
    "409": (Fault(status=409), APIError),
    "422": (Fault(status=422), InvalidRequestError),
    "302": (Fault(status=302, headers={"Location": "/x/"}), APIError),
    "206 refusal": (Fault(status=206, body=b'{"message": "no", "data": {}}'), RefusedError),
    "206 validation": (Fault(status=206, body=b'{"errors": {"a": ["b"]}}'), InvalidRequestError),
}


@pytest.mark.parametrize("name", NOT_REPEATED)
async def test_a_refusal_is_not_repeated(name: str) -> None:
    fault, kind = NOT_REPEATED[name]
    async with served(fault) as (sandbox, unpod):
        with pytest.raises(kind) as caught:
            await runs_of(sandbox, unpod)
        assert type(caught.value) is kind
        assert sandbox.requests == 1
        assert len(caught.value.attempts) == 1
        assert unpod.stats.retries == {}


async def test_an_unreadable_200_is_retried_once() -> None:
    async with served(Fault(body=b"<html>login", times=9)) as (sandbox, unpod):
        with pytest.raises(DecodeError):
            await unpod.spaces.get(sandbox.space_token)
        assert sandbox.requests == 2


async def test_a_page_with_an_unreadable_row_is_requested_three_times_then_split() -> None:
    async with served(runs=2, tasks=8) as (sandbox, unpod):
        bad = sandbox.task_ids()[3]
        sandbox.poison(bad)
        pager = unpod.tasks.list(sandbox.space_token, page_size=8, on_bad_row="skip")
        ids = [task.task_id async for task in pager]
        assert ids == [one for one in sandbox.task_ids() if one != bad]
        sizes = [request.query["page_size"] for request in sandbox.log]
        assert sizes[:3] == ["8", "8", "8"]
        assert unpod.stats.retries == {"206": 2}
        # A walk of one page, 2 log2(8) + 2 requests for the bad row, and two retries.
        assert len(sizes) <= (1 + 3) + (2 * 3 + 2) + 2


async def test_a_certificate_that_is_not_trusted_is_never_tried_again(tmp_path: Any) -> None:
    connections = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme = pytest.importorskip("trustme")
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def seen(*_: object) -> None:
        nonlocal connections
        connections += 1

    context.sni_callback = seen
    server = await asyncio.start_server(count, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        async with UnpodClient("t", "o", f"https://localhost:{port}", retry=FAST) as unpod:
            with pytest.raises(TransportError, match="certificate") as caught:
                await unpod.spaces.get("S")
        assert caught.value.sent is False
        assert caught.value.permanent is True
        assert len(caught.value.attempts) == 1
    finally:
        server.close()


async def test_a_refused_connection_is_tried_again_and_nothing_was_sent(refusing_port: int) -> None:
    async with UnpodClient("t", "o", f"http://127.0.0.1:{refusing_port}", retry=FAST) as unpod:
        with pytest.raises(TransportError) as caught:
            await unpod.spaces.get("S")
    assert caught.value.sent is False
    assert [attempt.error for attempt in caught.value.attempts] == ["TransportError"] * 4


@pytest.mark.parametrize("own", [False, True])
async def test_one_attempt_is_one_send_with_the_callers_session_too(own: bool) -> None:
    async def reset(connection: RawConnection) -> None:
        await connection.read_request()
        connection.reset()

    async with RawServer(reset) as server, aiohttp.ClientSession() as session:
        async with UnpodClient(
            "t", "o", server.base_url, retry=None, session=session if own else None
        ) as unpod:
            with pytest.raises(TransportError):
                await unpod.spaces.get("S")
        assert len(server.requests) == 1
        assert not session.closed


# --- how long is waited ------------------------------------------------------------------------------------


async def test_the_attempts_on_the_error_say_status_error_and_wait() -> None:
    async with served(Fault(status=503), Fault(reset_at=0), Fault(status=504), Fault(status=502)) as (
        s,
        unpod,
    ):
        began = time.monotonic()
        with pytest.raises(ServerError, match="4 attempts") as caught:
            await runs_of(s, unpod)
        spent = time.monotonic() - began
    attempts = caught.value.attempts
    assert [attempt[:2] for attempt in attempts] == [
        (503, "ServerError"),
        (None, "TransportError"),
        (504, "ServerError"),
        (502, "ServerError"),
    ]
    assert attempts[-1].wait == 0
    assert 0 <= sum(attempt.wait for attempt in attempts) <= spent


async def test_the_delays_of_a_request_double_and_the_error_lists_them() -> None:
    async with served(Fault(status=503, times=9), retry=RetryPolicy(base=0.01, attempts=5)) as (s, unpod):
        msgspec.structs.force_setattr(unpod._context.executor, "jitter", lambda longest: longest)
        with pytest.raises(ServerError) as caught:
            await runs_of(s, unpod)
    assert [attempt.wait for attempt in caught.value.attempts] == [0.01, 0.02, 0.04, 0.08, 0]


@pytest.mark.parametrize("answer", [200, 404])
async def test_requests_run_side_by_side_again_once_the_probe_is_answered(answer: int) -> None:
    """A 404 to the probe is an answer like any other: the server accepts requests again."""

    async def respond(connection: RawConnection) -> None:
        while await connection.read_request():
            number = len(server.requests)
            if number == 1:
                await connection.send(json_response({}, 429, [("Retry-After", "0")]))
            elif number == 2:
                await connection.send(json_response({"count": 0, "data": []}, answer))
            else:
                if number == 4:
                    both.set()
                await both.wait()
                await connection.send(json_response({"count": 0, "data": []}))

    both = asyncio.Event()
    async with (
        RawServer(respond) as server,
        UnpodClient("t", "o", server.base_url, retry=FAST) as unpod,
        asyncio.timeout(30),
    ):
        if answer == 200:
            await unpod.runs.list("S").collect()
        else:
            with pytest.raises(NotFoundError):
                await unpod.runs.list("S").collect()
        # Each of these is answered when both have arrived.
        await asyncio.gather(unpod.runs.list("S").collect(), unpod.runs.list("S").collect())


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_not_undercut(status: int) -> None:
    async with served(Fault(status=status, headers={"Retry-After": "1"})) as (sandbox, unpod):
        began = time.monotonic()
        assert await runs_of(sandbox, unpod) == sandbox.run_ids()
        spent = time.monotonic() - began
        assert spent >= 1
        assert sandbox.requests == 2
        assert 1 <= unpod.stats.waited < spent


async def test_a_retry_after_beyond_the_longest_is_raised_at_once() -> None:
    async with served(Fault(status=429, headers={"Retry-After": "3600"})) as (sandbox, unpod):
        with pytest.raises(RateLimitedError) as caught:
            await runs_of(sandbox, unpod)
        assert unpod.stats.waited == 0
        assert caught.value.retry_after == 3600
        assert sandbox.requests == 1


class Held:
    """A server that answers the first requests as told, and holds the others until `count` of them arrived.

    Each of `first` is sent as it is; an `asyncio.Event` is waited for, and then the listing is sent.
    """

    def __init__(self, *first: bytes | asyncio.Event, count: int = 0) -> None:
        self.first = first
        self.count = count
        self.arrived = 0
        self.times: list[float] = []
        self.changed = asyncio.Condition()

    async def __call__(self, connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            number = self.arrived
            async with self.changed:
                self.arrived += 1
                self.times.append(time.monotonic())
                self.changed.notify_all()
            response = self.first[number] if number < len(self.first) else NO_RUNS
            if isinstance(response, asyncio.Event):
                await response.wait()
                response = NO_RUNS
            elif number >= len(self.first):
                await self.until(len(self.first) + self.count)
            if not response:
                connection.reset()
                return
            await connection.send(response)

    async def until(self, requests: int) -> None:
        """Wait until this many requests arrived."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.arrived >= requests)


def refusal(status: int, content: object = None, **headers: str) -> bytes:
    return json_response(content or {"message": "no"}, status, list(headers.items()))


SLOW_DOWN = refusal(429, **{"Retry-After": "0"})


async def settle() -> None:
    """Run the event loop until nothing else can continue without the test; no time has to pass."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_one_429_pauses_fifty_tasks_together_and_then_one_goes_first() -> None:
    now, probe = [0.0], asyncio.Event()
    server = Held(refusal(429, **{"Retry-After": "1"}), probe)
    async with (
        RawServer(server) as raw,
        UnpodClient("t0ken", "o", raw.base_url, max_concurrency=50, retry=FAST) as unpod,
    ):
        executor = unpod._context.executor
        limiter = RequestLimiter(RateGate(), executor.stats, clock=lambda: now[0])
        msgspec.structs.force_setattr(executor, "limiter", limiter)
        first = asyncio.ensure_future(unpod.runs.list("S").collect())
        await server.until(1)
        await settle()
        others = [asyncio.ensure_future(unpod.runs.list("S").collect()) for _ in range(49)]
        now[0] = 0.9
        await asyncio.sleep(1.1)  # the timers of the delay end, but not the delay
        assert server.arrived == 1
        now[0] = 1.0
        await server.until(2)
        await settle()
        assert server.arrived == 2, "the others wait for the one that went first"
        probe.set()
        assert await asyncio.gather(first, *others) == [[]] * 50
        assert server.arrived == 51


ACCEPTED = {
    "200": NO_RUNS,
    "200 that cannot be read": json_response(b"{"),
    "400": refusal(400),
    "401": refusal(401),
    "403": refusal(403),
    "404": refusal(404),
    "206": refusal(206, {"message": "refused", "data": {}}),
    "206 with a string": refusal(206, {"errors": "upstream"}),
    "500": refusal(500),
    "502": refusal(502),
    "503 without a delay": refusal(503),
}


@each_row("probe", ACCEPTED)
async def test_any_answer_but_a_request_for_a_delay_opens_the_gate(probe: str) -> None:
    server = Held(SLOW_DOWN, ACCEPTED[probe], count=5)
    async with RawServer(server) as raw, UnpodClient("t0ken", "o", raw.base_url, retry=None) as unpod:
        for _ in range(2):
            with contextlib.suppress(UnpodError):
                await unpod.agents.list().collect()
        with anyio.fail_after(30):  # the server answers when all five have arrived
            await asyncio.gather(*(unpod.agents.list().collect() for _ in range(5)))


@each_row("probe", [SLOW_DOWN, refusal(503, **{"Retry-After": "0"}), b""])
async def test_a_probe_that_is_lost_or_sent_away_keeps_the_gate_half_open(probe: bytes) -> None:
    held = asyncio.Event()
    server = Held(SLOW_DOWN, probe, held)
    async with RawServer(server) as raw, UnpodClient("t0ken", "o", raw.base_url, retry=None) as unpod:
        for _ in range(2):
            with pytest.raises(UnpodError):
                await unpod.agents.list().collect()
        calls = [asyncio.ensure_future(unpod.agents.list().collect()) for _ in range(5)]
        await server.until(3)
        await settle()
        assert server.arrived == 3
        held.set()
        assert await asyncio.gather(*calls) == [[]] * 5


async def test_the_delays_between_retries_grow() -> None:
    server = Held(*[refusal(503)] * 6)
    policy = RetryPolicy(attempts=6, base=0.01, cap=0.05)
    async with RawServer(server) as raw, UnpodClient("t0ken", "o", raw.base_url, retry=policy) as unpod:
        msgspec.structs.force_setattr(unpod._context.executor, "jitter", lambda longest: longest)
        with pytest.raises(ServerError) as caught:
            await unpod.agents.list().collect()
    delays = [0.01, 0.02, 0.04, 0.05, 0.05]
    assert [attempt.wait for attempt in caught.value.attempts] == [*delays, 0]
    for (earlier, later), delay in zip(itertools.pairwise(server.times), delays, strict=True):
        assert later - earlier >= delay * 0.99


@each_row("call", ["read", "create"])
async def test_a_policy_of_one_attempt_sends_once(call: str) -> None:
    server = Held(refusal(429, **{"Retry-After": "0"}))
    async with (
        RawServer(server) as raw,
        UnpodClient("t0ken", "o", raw.base_url, retry=RetryPolicy(attempts=1)) as unpod,
    ):
        document = {"name": "Ann Example", "contact_number": "+490000000"}
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "read": unpod.agents.list().collect,
            "create": lambda: unpod.tasks.create("S", pilot="p", documents=[document], context="c"),
        }
        with pytest.raises(RateLimitedError) as caught:
            await calls[call]()
        assert len(caught.value.attempts) == 1
    assert server.arrived == 1


async def test_a_429_closes_the_gate_for_views_that_repeat_nothing_as_well() -> None:
    async with served(Fault(status=429, headers={"Retry-After": "1"})) as (sandbox, unpod):
        once = unpod.with_options(retry=None)
        began = time.monotonic()
        with pytest.raises(RateLimitedError):
            await runs_of(sandbox, once)
        await runs_of(sandbox, unpod)
        assert time.monotonic() - began >= 1


async def test_a_429_that_does_not_say_how_long_is_followed_by_one_request_first() -> None:
    opened, arrived = asyncio.Event(), asyncio.Semaphore(0)

    async def answer(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            if len(server.requests) == 1:
                await connection.send(json_response({}, 429))
                continue
            arrived.release()
            await opened.wait()
            await connection.send(NO_RUNS)

    async with RawServer(answer) as server, UnpodClient("t", "o", server.base_url, retry=None) as unpod:
        with pytest.raises(RateLimitedError):
            await unpod.runs.list("S").collect()
        reads = [asyncio.ensure_future(unpod.runs.list("S").collect()) for _ in range(3)]
        await arrived.acquire()
        assert unpod.stats.waited == 0  # a client without retries does not wait before the first one
        await settle()
        assert len(server.requests) == 2
        opened.set()
        assert await asyncio.gather(*reads) == [[], [], []]


async def test_no_request_starts_faster_than_the_rate_limit() -> None:
    async with served(rate_limit=40) as (sandbox, unpod):
        began = time.monotonic()
        await asyncio.gather(*(runs_of(sandbox, unpod) for _ in range(21)))
        spent = time.monotonic() - began
        assert spent >= 20 / 40
        assert 0 < unpod.stats.waited < 21 * spent


async def test_the_slot_is_released_during_a_delay() -> None:
    # The delay is longer than a test may take: only a free slot lets the second call through.
    async with served(Fault(status=503), max_concurrency=1, retry=RetryPolicy(base=600, cap=600)) as (
        sandbox,
        unpod,
    ):
        executor = unpod._context.executor
        msgspec.structs.force_setattr(executor, "jitter", lambda longest: longest)
        waiting = asyncio.ensure_future(runs_of(sandbox, unpod))
        await sandbox.arrived(1)
        await runs_of(sandbox, unpod)
        assert not waiting.done()
        assert unpod.stats.retries.total() == 1
        waiting.cancel()
        await asyncio.wait({waiting})


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_view", [False, True])
async def test_retry_none_sends_once(by_view: bool) -> None:
    async with served(Fault(status=503, times=9), retry=FAST if by_view else None) as (sandbox, unpod):
        with pytest.raises(ServerError) as caught:
            await runs_of(sandbox, unpod.with_options(retry=None) if by_view else unpod)
        assert sandbox.requests == 1
        assert len(caught.value.attempts) == 1
        if by_view:
            with pytest.raises(ServerError):
                await runs_of(sandbox, unpod)
            assert sandbox.requests == 5


@pytest.mark.parametrize(("times_out", "expected"), [(False, 3), (True, 2)])
async def test_a_retry_after_a_timeout_takes_twice_as_much_of_the_budget(
    times_out: bool, expected: int
) -> None:
    async def fail(connection: RawConnection) -> None:
        await connection.read_request()
        if times_out:
            pass_time(20)
            await connection.read_request()
        connection.reset()

    policy = RetryPolicy(base=0.001, budget=10, attempts=9)
    async with (
        RawServer(fail) as raw,
        UnpodClient("t0ken", "o", raw.base_url, retry=policy, timeout=20) as unpod,
    ):
        with pytest.raises(TransportError) as caught:
            await unpod.spaces.get("S")
        assert caught.value.timed_out is times_out
        assert raw.connections == expected


async def test_first_attempts_that_succeed_fill_the_budget_again() -> None:
    policy = RetryPolicy(base=0.001, budget=5, attempts=2)
    async with served(Fault(status=502, times=3), retry=policy) as (sandbox, unpod):
        for attempts in (2, 1):  # the budget pays for one retry
            with pytest.raises(ServerError) as caught:
                await unpod.agents.list().first()
            assert len(caught.value.attempts) == attempts
        for _ in range(5):
            await unpod.agents.list().first()
        sandbox.script(Fault(status=502, times=1))
        await unpod.agents.list().first()
        assert unpod.stats.retries == {"502": 2}


async def test_a_view_has_its_own_time_out_and_page_size() -> None:
    async with served(Fault(stall=600, times=1), retry=None) as (sandbox, unpod):
        view = unpod.with_options(timeout=20, page_size=2)
        with pytest.raises(TransportError) as caught:
            async with time_passes(sandbox, 20):  # less than the default, and than the limit of a silence
                await runs_of(sandbox, view)
        assert caught.value.timed_out
        assert sandbox.log[-1].query["page_size"] == "2"
        # The first request of each walk; later passes of a walk may use larger pages.
        first = len(sandbox.log)
        await runs_of(sandbox, view.with_options(timeout=60))
        assert sandbox.log[first].query["page_size"] == "2", "a view of a view keeps the rest"
        first = len(sandbox.log)
        await runs_of(sandbox, unpod)
        assert sandbox.log[first].query["page_size"] == "100"


async def test_views_share_session_budget_and_counters_and_closing_one_closes_nothing() -> None:
    async with served(retry=RetryPolicy(base=0.001, budget=5)) as (sandbox, unpod):
        view = unpod.with_options(timeout=3)
        sandbox.script(Fault(status=503, times=2))
        with pytest.raises(ServerError) as caught:
            await runs_of(sandbox, view)
        assert len(caught.value.attempts) == 2, "the budget pays for one repeat"
        sandbox.script(Fault(status=503))
        with pytest.raises(ServerError) as caught:
            await runs_of(sandbox, unpod)
        assert len(caught.value.attempts) == 1
        assert view.stats is unpod.stats
        await view.aclose()
        async with view:
            pass
        await runs_of(sandbox, view)
        await runs_of(sandbox, unpod)


class Busy:
    """A server that notes how many requests it held at once.

    It holds requests until it has `full` of them once, and those of a space until `go`.
    """

    def __init__(self, held: str, full: int) -> None:
        self.now = self.most = 0
        self.held = held.encode()
        self.full = full
        self.is_full, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now >= self.full:
                self.is_full.set()
            await self.is_full.wait()
            await settle()  # more requests may arrive
            if self.held in request:
                await self.go.wait()
            self.now -= 1
            await connection.send(json_response({"count": 0, "data": []}))


@pytest.mark.parametrize(("share", "most"), [(2, 2), (20, 6)])
async def test_a_view_never_uses_more_than_its_share(share: int, most: int) -> None:
    busy = Busy(held="/BULK/", full=most)
    async with RawServer(busy) as server, UnpodClient("t", "o", server.base_url, max_concurrency=6) as unpod:
        view = unpod.with_options(max_concurrency=share)
        runs = [f"R{number}" for number in range(40)]
        async with view.runs.tasks_for("S", runs, concurrency=20) as stream:
            assert [task async for task in stream] == []
        assert busy.most == most
        # The rest of the client's places are free while the view is busy.
        bulk = [asyncio.ensure_future(view.runs.list("BULK").collect()) for _ in range(40)]
        if share == 2:
            while busy.now < 2:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0)
            await unpod.runs.list("S").collect()
            assert not any(task.done() for task in bulk)
        busy.go.set()
        await asyncio.gather(*bulk)
        assert busy.most == most + (share == 2)


# --- logs and counters -------------------------------------------------------------------------------------


def test_the_logger_is_silent_without_a_handler() -> None:
    handlers = logging.getLogger("unpod_async").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


async def test_log_records_name_templates_not_ids(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="unpod_async")
    async with served(Fault(status=503), Fault(status=429, headers={"Retry-After": "0"})) as (sandbox, unpod):
        run = sandbox.run_ids()[0]
        await unpod.runs.tasks(sandbox.space_token, run).collect()
    records = [record for record in caplog.records if record.name == "unpod_async"]
    assert [record.levelname for record in records] == [
        *("DEBUG", "WARNING"),
        *("WARNING", "DEBUG", "WARNING"),
        "DEBUG",
    ]
    for record in records:
        assert run not in record.getMessage()
        assert sandbox.space_token not in record.getMessage()
    attempts = [record.getMessage() for record in records if record.levelname == "DEBUG"]
    assert all(text.startswith("GET spaces/{space_token}/runs/{run_id}/tasks/") for text in attempts), (
        attempts
    )
    assert ["503" in attempts[0], "429" in attempts[1], "200" in attempts[2]] == [True] * 3


async def test_the_counters_count() -> None:
    async with served(Fault(status=503), runs=3, tasks=4) as (sandbox, unpod):
        bad = sandbox.task_ids()[0]
        sandbox.malform(bad, b'{"task_id": "x", "status": 3}')
        sandbox.poison(sandbox.task_ids()[5])
        rows = await unpod.tasks.list(sandbox.space_token, page_size=5, on_bad_row="skip").collect()
        stats = unpod.stats
        assert stats.rows == len(rows) == 10
        assert stats.rejected == 1
        assert stats.unreadable == 1
        assert stats.attempts == sandbox.requests
        assert stats.attempts == stats.requests + sum(stats.retries.values())
        assert stats.retries["503"] == 1
        assert stats.bytes > 10 * 100
        assert stats.waited > 0


# --- tokens ------------------------------------------------------------------------------------------------


class Door:
    """A server that takes one token, and counts those it turned away."""

    def __init__(self, good: str) -> None:
        self.good, self.turned_away, self.pages = good, 0, 0

    async def __call__(self, connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            allowed = f"Authorization: Token {self.good}\r\n".encode() in request
            if allowed:
                self.pages += 1
                await connection.send(json_response({"count": 0, "data": []}))
            else:
                self.turned_away += 1
                await connection.send(json_response({"message": "no"}, 401))

    async def turns_away(self, requests: int) -> None:
        """Wait until this many requests were turned away, and the client has received the responses."""
        while self.turned_away < requests:  # noqa: ASYNC110 - a condition would say no more
            await asyncio.sleep(0)
        await settle()


async def test_the_provider_is_called_once_for_64_calls_that_get_a_401_together() -> None:
    asked = 0

    async def provider() -> str:
        nonlocal asked
        asked += 1
        await door.turns_away(64)
        return "new\n"

    door = Door("new")
    async with (
        RawServer(door) as server,
        UnpodClient("old", "o", server.base_url, max_concurrency=64, token_provider=provider) as unpod,
    ):
        await asyncio.gather(*(unpod.runs.list("S").collect() for _ in range(64)))
        assert asked == 1
        assert door.turned_away == 64
        assert door.pages == 64
        door.good = "newer"

        async def newer() -> str:
            return "newer"

        unpod._context.executor.transport._token_provider = newer
        await unpod.runs.list("S").collect()
        assert asked == 1


@pytest.mark.parametrize("failing", ["raises", "same", "no text", "line break", "not accepted"])
async def test_a_provider_that_does_not_help_ends_in_the_401(failing: str) -> None:
    asked = 0

    async def provider() -> Any:
        nonlocal asked
        asked += 1
        await door.turns_away(64)
        if failing == "raises":
            raise RuntimeError("no new token")
        return {"same": "old", "no text": None, "line break": "a\nb", "not accepted": "bad"}[failing]

    door = Door("new")
    async with (
        RawServer(door) as server,
        UnpodClient("old", "o", server.base_url, max_concurrency=64, token_provider=provider) as unpod,
    ):
        calls = (unpod.runs.list("S").collect() for _ in range(64))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {AuthenticationError}
        assert asked == 1
        assert door.turned_away == (128 if failing == "not accepted" else 64)


def tell_nothing() -> str:
    raise RuntimeError("the token is k3y")


@each_row(
    ("returned", "problem"),
    [
        *((returned, None) for returned in ("new", " new\r\n", "\ufeffnew\n", b"new".decode("utf-8-sig"))),
        *((f"{quote}new{quote}", "must not be in quotes") for quote in "\"'`\u201c"),
        ('n"ew', "must not contain a quote"),
        ("UNPOD_PLATFORM_TOKEN=new", "must not be a whole line NAME=value"),
        ('export TOKEN="new"', "must not be a whole line NAME=value"),
        ("Token new", "must not include the scheme"),
        ("ne w", "contains a space"),
        ("new".encode("utf-16").decode("latin-1"), "NUL characters"),
        ("new".encode("utf-16-le").decode(), "NUL characters"),
        ("\u0440new", "outside ASCII"),
        (" \n", "is empty"),
        (b"new", "must be a str, not bytes"),
        (None, "must be a str, not None"),
        (tell_nothing, "the token_provider failed: RuntimeError"),
    ],
)
async def test_a_renewed_token_follows_the_rules_of_a_given_one(returned: Any, problem: str | None) -> None:
    """A token in quotes is refused here: sent, it would end in a misleading second 401."""

    async def provider() -> Any:
        return returned() if callable(returned) else returned

    door = Door("new")
    async with (
        RawServer(door) as server,
        UnpodClient("old", "o", server.base_url, token_provider=provider) as unpod,
    ):
        if problem is None:
            await unpod.runs.list("S").collect()
            return
        for _ in range(2):
            with pytest.raises(AuthenticationError) as caught:
                await unpod.runs.list("S").collect()
            assert problem in str(caught.value.hint)
            assert "new" not in str(caught.value)
            assert "k3y" not in str(caught.value)
        assert door.turned_away == 2


@each_row("status", [403, 404, 429, 500, 503])
async def test_the_provider_is_asked_only_after_a_401(status: int) -> None:
    asked: list[int] = []

    async def provider() -> str:
        asked.append(status)
        return "new"

    server = Held(refusal(status))
    async with (
        RawServer(server) as raw,
        UnpodClient("old", "o", raw.base_url, token_provider=provider, retry=None) as unpod,
    ):
        with pytest.raises(APIError):
            await unpod.agents.list().collect()
    assert (asked, server.arrived) == ([], 1)


async def test_a_plain_function_may_provide_the_token() -> None:
    provider: Any = lambda: "new"  # noqa: E731
    async with (
        RawServer(Door("new")) as server,
        UnpodClient("old", "o", server.base_url, token_provider=provider) as unpod,
    ):
        await unpod.runs.list("S").collect()


async def test_a_walk_goes_on_with_the_new_token() -> None:
    async with Sandbox(runs=9, tasks_per_run=1) as sandbox:

        async def provider() -> str:
            return sandbox.token

        async with UnpodClient(
            "expired", sandbox.org_handle, sandbox.base_url, token_provider=provider
        ) as unpod:
            found = [run.run_id async for run in unpod.runs.list(sandbox.space_token, page_size=2)]
        assert found == sandbox.run_ids()
        assert [request.status for request in sandbox.log].count(401) == 1


@pytest.mark.parametrize("errors", ["raise", "yield"])
async def test_a_401_amid_tasks_for_stops_all_workers_with_one_error(errors: Any) -> None:
    async with served(runs=40, tasks=3) as (sandbox, unpod):

        async def job() -> None:
            got = 0
            stream = unpod.runs.tasks_for(sandbox.space_token, concurrency=8, page_size=2, errors=errors)
            async with stream:
                async for _ in stream:
                    got += 1
                    if got == 20:
                        sandbox.script(Fault(status=401, times=1000))

        with pytest.raises(AuthenticationError):
            await job()
        sent = sandbox.requests
        await asyncio.sleep(0.05)
        assert sandbox.requests == sent
        # Eight workers, and the next page of runs.
        assert 1 <= [request.status for request in sandbox.log].count(401) <= 9


# --- deadlines ---------------------------------------------------------------------------------------------


async def test_a_deadline_is_shared_by_a_whole_walk() -> None:
    async with served(runs=50) as (sandbox, unpod):
        sandbox.script(Fault(stall=0.08, times=1000))
        began = time.monotonic()
        with pytest.raises(TransportError) as caught:
            async for _ in unpod.with_options(deadline=0.4, page_size=2).runs.list(sandbox.space_token):
                pass
        assert time.monotonic() - began > 0.3
        assert caught.value.timed_out
        assert sandbox.requests <= 0.4 / 0.08 + 1


async def test_a_deadline_is_shared_by_a_whole_job() -> None:
    async with served(runs=50) as (sandbox, unpod):
        sandbox.script(Fault(stall=0.05, times=1000))
        began = time.monotonic()
        with pytest.raises(TransportError):
            await all_tasks(unpod.with_options(deadline=0.4), sandbox)
        assert time.monotonic() - began > 0.3
        assert sandbox.requests <= 1 + 2 * (0.4 / 0.05 + 1)  # one for the runs; two workers


async def test_the_consumers_own_time_counts() -> None:
    async with served(runs=6) as (sandbox, unpod):
        got: list[Run] = []

        async def slowly() -> None:
            async for run in unpod.with_options(deadline=2, page_size=2).runs.list(sandbox.space_token):
                got.append(run)
                await asyncio.sleep(1.1)

        with pytest.raises(TransportError, match="deadline") as caught:
            await slowly()
        assert len(got) == 2
        assert sandbox.requests == 1
        assert caught.value.sent is False
        assert caught.value.page == 2


async def test_a_sleep_that_does_not_fit_is_not_begun() -> None:
    async with served(Fault(status=503, headers={"Retry-After": "5"})) as (sandbox, unpod):
        with pytest.raises(ServerError) as caught:
            await runs_of(sandbox, unpod.with_options(deadline=2))
        assert caught.value.attempts == ((503, "ServerError", 0.0),)
        # The others do not wait for a gate that opens too late either, nor is that repeated.
        with pytest.raises(TransportError, match="deadline") as over:
            await runs_of(sandbox, unpod.with_options(deadline=2))
        assert unpod.stats.waited == 0
        assert over.value.sent is False
        assert over.value.attempts == ()
        assert sandbox.requests == 1


async def test_waiting_for_a_slot_counts_for_the_deadline() -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            arrived.set()
            await release.wait()
            await connection.send(NO_RUNS)

    async with (
        RawServer(hold) as server,
        UnpodClient("t", "o", server.base_url, max_concurrency=1, retry=None) as unpod,
    ):
        busy = asyncio.ensure_future(unpod.runs.list("S").collect())
        await arrived.wait()
        began = time.monotonic()
        with pytest.raises(TransportError, match="free slot") as caught:
            await unpod.with_options(deadline=0.2).runs.list("S").collect()
        assert time.monotonic() - began >= 0.2
        assert caught.value.sent is False
        release.set()
        assert await busy == []


async def test_waiting_for_a_slot_does_not_count_for_the_attempt() -> None:
    async def slow(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            pass_time(5)
            await connection.send(json_response({"count": 0, "data": []}))

    # The calls take 100 s together, which is more than the timeout of one.
    async with (
        RawServer(slow) as server,
        UnpodClient("t", "o", server.base_url, max_concurrency=1, timeout=20, retry=None) as unpod,
    ):
        await asyncio.gather(*(unpod.runs.list("S").collect() for _ in range(20)))
    assert len(server.requests) == 20


async def test_cancelling_waiting_calls_leaves_every_slot_free() -> None:
    async with served(max_concurrency=2) as (sandbox, unpod):
        sandbox.script(Fault(stall=5, times=2))
        tasks = [asyncio.ensure_future(runs_of(sandbox, unpod)) for _ in range(10)]
        await sandbox.arrived(2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        with anyio.fail_after(20):
            await asyncio.gather(runs_of(sandbox, unpod), runs_of(sandbox, unpod))


async def test_a_probe_that_is_cancelled_makes_way_for_another() -> None:
    async with served() as (sandbox, unpod):
        sandbox.script(Fault(status=429, headers={"Retry-After": "1"}), Fault(stall=60))
        first = asyncio.ensure_future(runs_of(sandbox, unpod))
        await sandbox.arrived(2)
        second = asyncio.ensure_future(runs_of(sandbox, unpod))
        await settle()
        first.cancel()
        with anyio.fail_after(20):
            await second
        assert first.cancelled()


async def test_a_probe_that_is_cancelled_keeps_the_gate_half_open() -> None:
    server = Held(SLOW_DOWN, asyncio.Event(), held := asyncio.Event())
    async with RawServer(server) as raw, UnpodClient("t0ken", "o", raw.base_url, retry=None) as unpod:
        with pytest.raises(RateLimitedError):
            await unpod.agents.list().collect()
        probe = asyncio.ensure_future(unpod.agents.list().collect())
        await server.until(2)
        calls = [asyncio.ensure_future(unpod.agents.list().collect()) for _ in range(5)]
        await settle()
        probe.cancel()
        await server.until(3)
        await settle()
        assert server.arrived == 3
        held.set()
        assert await asyncio.gather(*calls) == [[]] * 5


async def test_errors_are_ours_alone() -> None:
    async def garbage(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")

    async with RawServer(garbage) as server, UnpodClient("t", "o", server.base_url, retry=FAST) as unpod:
        with pytest.raises(UnpodError) as caught:
            await unpod.spaces.get("S")
    assert len(caught.value.attempts) == len(server.requests) == 4
