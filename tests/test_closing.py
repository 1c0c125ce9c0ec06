"""Closing a client: requests in flight may finish within a limit, none starts, and nothing stays open."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from anyio.from_thread import start_blocking_portal

from tests.cancel import cancel_everywhere
from tests.raw_server import RawConnection, RawServer, json_response
from unpod_async import (
    AuthenticationError,
    ConfigurationError,
    OutcomeUnknown,
    RetryPolicy,
    TransportError,
    UnpodClient,
)
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

SPACE = json_response({"data": {"token": "S"}})
CREATED = json_response({"status_code": 200, "data": {"run_id": "R1", "task_ids": ["T1"]}})
BUSY = json_response({}, 503)
SOON = RetryPolicy(base=0.001)
FOR_EVER = 3600.0


async def read(unpod: UnpodClient) -> Any:
    return await unpod.spaces.get("S")


async def create(unpod: UnpodClient) -> Any:
    documents = [{"id": "d", "name": "Ann Example", "contact_number": "+490000000"}]
    return await unpod.tasks.create("S", pilot="p", documents=documents, context="c")


CALLS = pytest.mark.parametrize("call", [read, create])


class Held:
    """Answers when it is told to; before that, with `first`, which are sent at once."""

    def __init__(self, *first: bytes) -> None:
        self.opened, self.arrived = asyncio.Event(), asyncio.Semaphore(0)
        self._first = list(first)

    async def __call__(self, connection: RawConnection) -> None:
        while request := await connection.read_request():
            self.arrived.release()
            if self._first:
                await connection.send(self._first.pop(0))
                continue
            await self.opened.wait()
            await connection.send(CREATED if request.startswith(b"POST") else SPACE)


@asynccontextmanager
async def held(*first: bytes, **options: Any) -> AsyncIterator[tuple[Held, RawServer, UnpodClient]]:
    server = Held(*first)
    async with RawServer(server) as raw:
        unpod = UnpodClient("t0ken", "acme", raw.base_url, **{"retry": None, **options})
        try:
            async with asyncio.timeout(200):
                yield server, raw, unpod
        finally:
            await unpod.aclose(grace=0)


async def settle() -> None:
    """Let everything that can go on without the test go on: turns of the loop, not time."""
    for _ in range(100):
        await asyncio.sleep(0)


def is_closed(unpod: UnpodClient) -> bool:
    sessions = unpod._context.executor.transport.sessions
    return all(one is None or one.closed for one in (sessions.reads, sessions.creates))


async def error_of(call: asyncio.Future[Any]) -> BaseException:
    await asyncio.wait({call})
    error = call.exception()
    assert error is not None
    return error


# --- within the limit --------------------------------------------------------------------------------------


@CALLS
async def test_a_call_under_way_gets_its_answer(call: Callable[[UnpodClient], Awaitable[Any]]) -> None:
    async with held() as (server, raw, unpod):
        flight = asyncio.ensure_future(call(unpod))
        await server.arrived.acquire()
        closing = asyncio.ensure_future(unpod.aclose(FOR_EVER))
        await settle()
        assert not closing.done()
        server.opened.set()
        await closing
        answer = await flight
        assert (getattr(answer, "token", None) or answer.run_id) in {"S", "R1"}
        assert is_closed(unpod)
        assert len(raw.requests) == 1


async def test_a_request_that_is_retried_or_waits_for_a_slot_may_finish_too() -> None:
    async with held(BUSY, max_concurrency=1, retry=SOON) as (server, raw, unpod):
        flights = [asyncio.ensure_future(call(unpod)) for call in (read, create, read)]
        await server.arrived.acquire()
        closing = asyncio.ensure_future(unpod.aclose(FOR_EVER))
        server.opened.set()
        await closing
        assert [getattr(one.result(), "run_id", "read") for one in flights] == ["read", "R1", "read"]
        assert len(raw.requests) == 4


async def test_calls_of_views_are_waited_for_and_closing_a_view_closes_nothing() -> None:
    async with held() as (server, _, unpod):
        view = unpod.with_options(deadline=FOR_EVER, max_concurrency=1)
        flight = asyncio.ensure_future(read(view))
        await server.arrived.acquire()
        await view.aclose()
        assert not flight.done()
        closing = asyncio.ensure_future(unpod.aclose(FOR_EVER))
        await settle()
        assert not closing.done()
        server.opened.set()
        await closing
        assert (await flight).token == "S"


async def test_no_call_begins_once_closing_has_begun() -> None:
    async with held() as (server, raw, unpod):
        flight = asyncio.ensure_future(read(unpod))
        await server.arrived.acquire()
        closing = asyncio.ensure_future(unpod.aclose(FOR_EVER))
        await settle()
        for user in (unpod, unpod.with_options(deadline=5)):
            for call in (read, create):
                with pytest.raises(ConfigurationError, match="closed"):
                    await call(user)
        async with unpod.runs.list("S").prefetch(2) as stream:
            with pytest.raises(ConfigurationError, match="closed"):
                await anext(aiter(stream))
        server.opened.set()
        await closing
        await flight
        assert len(raw.requests) == 1


async def test_a_walk_ends_at_its_next_page() -> None:
    rows = [{"run_id": f"R{number}"} for number in range(2)]
    async with held(json_response({"count": 4, "data": rows})) as (_, raw, unpod):
        walk = aiter(unpod.runs.list("S", page_size=2))
        assert (await anext(walk)).run_id == "R0"
        await unpod.aclose(FOR_EVER)  # nothing of it is under way, so it is not waited for
        assert (await anext(walk)).run_id == "R1"
        with pytest.raises(ConfigurationError, match="closed"):
            await anext(walk)
        assert len(raw.requests) == 1


@pytest.mark.parametrize("grace", [0, 5, math.inf])
async def test_with_nothing_under_way_nothing_is_waited_for(grace: float) -> None:
    async with aiohttp.ClientSession() as session, held(SPACE, session=session) as (_, _, unpod):
        await read(unpod)
        await unpod.aclose(grace)
        await unpod.aclose(grace)
        assert not session.closed


# --- when the limit is over --------------------------------------------------------------------------------


@pytest.mark.parametrize("grace", [0, 0.05])
async def test_what_is_still_under_way_is_ended(grace: float) -> None:
    async with held() as (server, raw, unpod):
        flights = [asyncio.ensure_future(call(unpod)) for call in (read, create)]
        for _ in flights:
            await server.arrived.acquire()
        began = asyncio.get_running_loop().time()
        await unpod.aclose(grace)
        assert asyncio.get_running_loop().time() - began >= grace * 0.9
        assert is_closed(unpod)
        reading, creating = [await error_of(flight) for flight in flights]
        assert isinstance(reading, TransportError)
        assert (reading.sent, reading.permanent) == (True, True)
        assert str(reading) == "GET /spaces/S/: the client was closed during this request"
        assert isinstance(creating, OutcomeUnknown)
        assert "the client was closed during" in str(creating)
        assert len(raw.requests) == 2


async def test_a_wait_for_a_slot_is_ended_and_nothing_was_sent() -> None:
    async with held(max_concurrency=1) as (server, raw, unpod):
        sent = asyncio.ensure_future(read(unpod))
        await server.arrived.acquire()
        waiting = [asyncio.ensure_future(call(unpod)) for call in (read, create)]
        await settle()
        await unpod.aclose(grace=0)
        await error_of(sent)
        for one in waiting:
            error = await error_of(one)
            assert isinstance(error, TransportError)  # of the create, too: certainly nothing is queued
            assert not error.sent
            assert "nothing was sent" in str(error)
        assert len(raw.requests) == 1


class Waits(logging.Filter):
    """Hears of the log that a call waits before it is sent again."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = asyncio.Event()

    def filter(self, record: logging.LogRecord) -> bool:
        if "next attempt in" in record.getMessage():
            self.heard.set()
        return True


async def test_a_wait_before_a_repeat_is_ended() -> None:
    patient = RetryPolicy(base=FOR_EVER, cap=FOR_EVER, max_retry_after=FOR_EVER)
    later = json_response({}, 503, [("Retry-After", "3000")])
    async with held(later, retry=patient) as (_, raw, unpod):
        logger, backoff_delays = logging.getLogger("unpod_async"), Waits()
        logger.addFilter(backoff_delays)
        try:
            flight = asyncio.ensure_future(read(unpod))
            await backoff_delays.heard.wait()
        finally:
            logger.removeFilter(backoff_delays)
        await settle()
        await unpod.aclose(grace=0.01)
        error = await error_of(flight)
        assert isinstance(error, TransportError)
        assert [attempt.status for attempt in error.attempts] == [503]
        assert len(raw.requests) == 1


async def test_a_wait_for_a_new_token_is_ended() -> None:
    asked = asyncio.Event()

    async def provider() -> str:
        asked.set()
        return await asyncio.get_running_loop().create_future()

    async with held(json_response({}, 401), token_provider=provider) as (_, _, unpod):
        flight = asyncio.ensure_future(create(unpod))
        await asked.wait()
        await unpod.aclose(grace=0)
        error = await error_of(flight)
        assert isinstance(error, TransportError)
        assert not error.sent  # a 401 queues nothing


@CALLS
@pytest.mark.parametrize("grace", [0, 0.01])
async def test_a_token_provider_may_close_the_client(
    grace: float, call: Callable[[UnpodClient], Awaitable[Any]]
) -> None:
    """Closing ends the request that waits for the token, which is a request of the same task."""

    async def provider() -> str:
        await unpod.aclose(grace)
        return "new"

    async with held(json_response({}, 401), SPACE, token_provider=provider) as (_, raw, unpod):
        with pytest.raises(TransportError, match="the client was closed during this request"):
            await call(unpod)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert len(raw.requests) == 1


async def test_an_error_that_takes_the_place_of_the_cancellation_is_raised() -> None:
    asked = asyncio.Event()

    async def provider() -> str:
        asked.set()
        try:
            return await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise LookupError("no token") from None

    async with held(json_response({}, 401), token_provider=provider) as (_, _, unpod):
        flight = asyncio.ensure_future(read(unpod))
        await asked.wait()
        await unpod.aclose(grace=0)
        assert isinstance(await error_of(flight), AuthenticationError)


async def test_a_request_in_the_cleanup_of_a_cancelled_task_is_ended_too() -> None:
    async def read_at_the_end() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await read(unpod)

    async with held() as (server, _, unpod):
        flight = asyncio.ensure_future(read_at_the_end())
        await settle()
        flight.cancel()
        await server.arrived.acquire()
        await unpod.aclose(grace=0)
        assert isinstance(await error_of(flight), TransportError)


async def test_a_create_that_was_still_connecting_was_certainly_not_sent() -> None:
    shaking_hands, never = asyncio.Event(), asyncio.Event()

    async def mute(connection: RawConnection) -> None:
        shaking_hands.set()
        await never.wait()

    async with RawServer(mute) as server:
        unpod = UnpodClient("t0ken", "acme", f"https://127.0.0.1:{server.port}", retry=None)
        flight = asyncio.ensure_future(create(unpod))
        await shaking_hands.wait()
        await unpod.aclose(grace=0)
        error = await error_of(flight)
        assert isinstance(error, TransportError)
        assert not error.sent


async def test_an_export_under_way_ends_and_does_not_take_it_for_an_outage(tmp_path: Path) -> None:
    async with asyncio.timeout(200), Sandbox(runs=8) as sandbox:
        sandbox.script(Fault(stall=FOR_EVER, path="/tasks/", times=100))
        unpod = UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url)
        job = asyncio.ensure_future(unpod.export(sandbox.space_token, tmp_path / "data"))
        while not any("/tasks/" in request.path for request in sandbox.log):
            await sandbox.arrived(sandbox.requests + 1)
        await unpod.aclose(grace=0)
        assert isinstance(await error_of(job), ConfigurationError | TransportError)


# --- who does not want to wait -----------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
async def test_closing_that_is_cancelled_closes_at_once(late: bool) -> None:
    flights: list[tuple[UnpodClient, asyncio.Future[Any]]] = []
    server = Held()
    async with RawServer(server) as raw:
        try:

            async def close_while_reading() -> None:
                unpod = UnpodClient("t0ken", "acme", raw.base_url, retry=None)
                flight = asyncio.ensure_future(read(unpod))
                flights.append((unpod, flight))
                try:
                    await server.arrived.acquire()
                finally:
                    await unpod.aclose(grace=0.01)

            def all_closed(point: int) -> None:
                assert is_closed(flights[-1][0]), f"point {point}"

            await cancel_everywhere(close_while_reading, late=late, after_each=all_closed)
            await asyncio.wait({flight for _, flight in flights}, timeout=200)
            assert {type(flight.exception()) for _, flight in flights} <= {TransportError, ConfigurationError}
        finally:
            for unpod, flight in flights:
                flight.cancel()
                await unpod.aclose(grace=0)


async def test_cancelled_in_the_middle_of_its_wait_it_ends_what_is_under_way() -> None:
    async with held() as (server, _, unpod):
        flight = asyncio.ensure_future(read(unpod))
        await server.arrived.acquire()
        closing = asyncio.ensure_future(unpod.aclose(FOR_EVER))
        await settle()
        closing.cancel()
        await asyncio.wait({closing})
        assert closing.cancelled()
        assert is_closed(unpod)
        assert isinstance(await error_of(flight), TransportError)


async def test_a_second_closing_with_less_patience_ends_both() -> None:
    async with held() as (server, _, unpod):
        flight = asyncio.ensure_future(read(unpod))
        await server.arrived.acquire()
        patient = asyncio.ensure_future(unpod.aclose(FOR_EVER))
        await settle()
        await unpod.aclose(grace=0)
        await patient
        assert isinstance(await error_of(flight), TransportError)


async def test_the_end_of_the_block_waits() -> None:
    async with held() as (server, _, unpod):
        async with unpod:
            flight = asyncio.ensure_future(read(unpod))
            await server.arrived.acquire()
            asyncio.get_running_loop().call_soon(server.opened.set)
        assert (await flight).token == "S"


async def test_a_block_that_is_left_by_an_exception_does_not() -> None:
    async with held() as (server, _, unpod):
        flight = asyncio.ensure_future(read(unpod))
        await server.arrived.acquire()

        async def block() -> None:
            async with unpod:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await block()
        # Were it waited for, it would have its answer.
        server.opened.set()
        assert isinstance(await error_of(flight), TransportError)


async def test_nor_does_one_that_is_cancelled() -> None:
    async with held() as (server, _, unpod):
        flight = asyncio.ensure_future(read(unpod))

        async def block() -> None:
            async with unpod:
                await asyncio.get_running_loop().create_future()

        using = asyncio.ensure_future(block())
        await server.arrived.acquire()
        using.cancel()
        await asyncio.wait({using})
        assert using.cancelled()
        server.opened.set()
        assert isinstance(await error_of(flight), TransportError)


# --- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grace", [-1, -0.001, math.nan, True, "5", None])
async def test_a_grace_that_makes_no_sense_is_refused_and_the_client_stays_open(grace: Any) -> None:
    async with held(SPACE) as (_, _, unpod):
        with pytest.raises(ConfigurationError, match="grace"):
            await unpod.aclose(grace)
        assert (await read(unpod)).token == "S"


@pytest.mark.parametrize("first_loop", ["closed", "stopped", "running in a thread"])
def test_closing_in_another_loop_leaves_no_connection_and_no_warning(first_loop: str) -> None:
    """The server sees every connection close, and the garbage collector finds nothing to warn of."""
    ended: list[int] = []

    async def answer(connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            await connection.send(CREATED if request.startswith(b"POST") else SPACE)
        ended.append(connection.number)

    async def use(unpod: UnpodClient) -> None:
        await read(unpod)
        await create(unpod)

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(RawServer(answer)) as server:
        unpod = UnpodClient("t0ken", "acme", server.base_url)
        with start_blocking_portal() if first_loop.startswith("running") else asyncio.Runner() as first:
            if isinstance(first, asyncio.Runner):
                first.run(use(unpod))
                if first_loop == "closed":
                    first.close()
            else:
                first.call(use, unpod)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                asyncio.run(unpod.aclose())
                asyncio.run(unpod.aclose())
                del unpod
                gc.collect()
        gc.collect()
        assert [str(warning.message) for warning in caught] == []
        assert server.connections == 2

        async def all_ended() -> None:
            while len(ended) < 2:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0)

        portal.call(all_ended)
