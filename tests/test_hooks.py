"""Hooks receive one event for each request, attempt and wait, and cannot change what happens to a request."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from tests.cancel import destroy
from tests.leaks import leaks
from tests.raw_server import RawConnection, RawServer, answering_in_turn, json_response
from unpod_async import (
    AttemptEvent,
    ConfigurationError,
    InvalidRequestError,
    OutcomeUnknown,
    RequestEvent,
    RetryPolicy,
    TransportError,
    UnpodClient,
    UnpodError,
    WaitEvent,
)
from unpod_async._http import Deadline, RateGate, RequestLimiter, Stats
from unpod_async.testing import Sandbox, faults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

SPACE = "SPACE-1D"
RUNS = "spaces/{space_token}/runs/"
TASKS = "spaces/{space_token}/tasks/"
RUN = {"run_id": "RUN-1D", "space_id": "S", "status": "completed", "created": "2026-01-01T00:00:00"}
PAGE = json_response({"count": 1, "status_code": 200, "message": "ok", "data": [RUN]})
SIZE = len(PAGE.partition(b"\r\n\r\n")[2])
CREATED = json_response({
    "status_code": 200,
    "data": {"run_id": "R1", "task_ids": ["T1"], "status": {"T1": "pending"}},
})
FAST = RetryPolicy(attempts=3, base=0.001, cap=0.002)
DOCUMENT = {"id": "d", "name": "Ann Example", "contact_number": "+15550001111"}


class Events:
    """The events of all hooks, in order."""

    def __init__(self) -> None:
        self.all: list[RequestEvent | AttemptEvent | WaitEvent] = []

    @property
    def hooks(self) -> dict[str, Any]:
        return {"on_request": self.all.append, "on_attempt": self.all.append, "on_wait": self.all.append}

    def named(self, name: str) -> list[Any]:
        return [event for event in self.all if type(event).__name__ == name]

    @property
    def requests(self) -> list[RequestEvent]:
        return self.named("RequestEvent")

    @property
    def attempts(self) -> list[AttemptEvent]:
        return self.named("AttemptEvent")

    @property
    def waits(self) -> list[WaitEvent]:
        return self.named("WaitEvent")


service = functools.partial(answering_in_turn, get=PAGE, post=CREATED)


def client(server: RawServer, **options: Any) -> UnpodClient:
    return UnpodClient("t0ken-5ecret", "acme", server.base_url, **{"retry": FAST, **options})


async def create(unpod: UnpodClient) -> object:
    return await unpod.tasks.create(SPACE, pilot="p", documents=[DOCUMENT], context="c")


# --- what the events say -----------------------------------------------------------------------------------


async def test_a_retried_read_is_two_attempts_a_wait_and_a_request() -> None:
    events = Events()
    async with (
        RawServer(service(json_response({}, 503))) as server,
        client(server, **events.hooks) as unpod,
    ):
        await unpod.runs.list(SPACE).collect()
    first, wait, second, request = events.all
    assert first == AttemptEvent(
        method="GET",
        endpoint=RUNS,
        attempt=1,
        status=503,
        error="ServerError",
        timed_out=False,
        seconds=first.seconds,
        bytes=2,
    )
    assert wait == WaitEvent(
        method="GET",
        endpoint=RUNS,
        attempt=2,
        reason="retry",
        seconds=wait.seconds,
        status=503,
        error="ServerError",
    )
    assert second == AttemptEvent(
        method="GET",
        endpoint=RUNS,
        attempt=2,
        status=200,
        error=None,
        timed_out=False,
        seconds=second.seconds,
        bytes=SIZE,
    )
    assert isinstance(request, RequestEvent)
    assert request == RequestEvent(
        method="GET",
        endpoint=RUNS,
        attempts=2,
        status=200,
        error=None,
        timed_out=False,
        seconds=request.seconds,
        waited=wait.seconds,
        bytes=SIZE,
    )
    assert request.seconds >= first.seconds + wait.seconds + second.seconds > 0


async def test_a_create_has_events() -> None:
    events = Events()
    async with (
        RawServer(service(json_response({}, 429), b"")) as server,
        client(server, **events.hooks) as unpod,
    ):
        with pytest.raises(OutcomeUnknown):
            await create(unpod)
    assert [(event.method, event.endpoint) for event in events.all] == [("POST", TASKS)] * len(events.all)
    assert [(one.attempt, one.status, one.error) for one in events.attempts] == [
        (1, 429, "RateLimitedError"),
        (2, None, "TransportError"),
    ]
    (request,) = events.requests
    assert (request.attempts, request.status, request.error) == (2, None, "TransportError")
    assert request.bytes is None


async def test_a_listing_has_a_request_for_each_page() -> None:
    events = Events()
    async with Sandbox(runs=25) as sandbox, sandbox.client(page_size=10, **events.hooks) as unpod:
        await unpod.runs.list(sandbox.space_token).collect()
        await unpod.agents.tasks(sandbox.agent_handle).first()
    assert len(events.requests) == len(events.attempts) == unpod.stats.requests
    assert {event.endpoint for event in events.all} == {RUNS, "agents/{agent_handle}/tasks/"}


async def test_events_contain_no_ids_and_no_secrets() -> None:
    events = Events()
    async with Sandbox(runs=3) as sandbox, sandbox.client(retry=None, **events.hooks) as unpod:
        (run_id, *_) = sandbox.run_ids()
        sandbox.script(faults.closed_in_body(), faults.rejected())
        for _ in range(2):
            with pytest.raises(UnpodError):
                await unpod.runs.tasks(sandbox.space_token, run_id).collect()
        await unpod.agents.tasks(sandbox.agent_handle).first()
        await unpod.tasks.create(sandbox.space_token, pilot="p", documents=[DOCUMENT], context="c")
    shown = repr(events.all)
    for secret in (sandbox.space_token, run_id, sandbox.agent_handle, sandbox.token, "Ann", "+1555", "acme"):
        assert secret not in shown
    assert {type(value) for event in events.all for value in msgspec.structs.asdict(event).values()} <= {
        *(str, int, float, bool, type(None)),
    }
    with pytest.raises(AttributeError):
        events.all[0].method = "POST"


async def test_a_new_token_is_a_wait_and_another_attempt() -> None:
    events = Events()

    async def provider() -> str:
        return "another"

    async with (
        RawServer(service(json_response({}, 401))) as server,
        client(server, token_provider=provider, **events.hooks) as unpod,
    ):
        await unpod.runs.list(SPACE).collect()
    (wait,) = events.waits
    assert (wait.reason, wait.attempt, wait.status, wait.error) == ("token", 2, 401, "AuthenticationError")
    assert [one.status for one in events.attempts] == [401, 200]
    assert events.requests[0].waited == wait.seconds


async def test_without_a_token_provider_a_401_is_no_wait() -> None:
    events = Events()
    async with (
        RawServer(service(json_response({}, 401))) as server,
        client(server, **events.hooks) as unpod,
    ):
        with pytest.raises(UnpodError):
            await unpod.runs.list(SPACE).collect()
    assert events.waits == []


async def test_a_request_that_waits_for_a_slot_says_so() -> None:
    events = Events()
    arrived, release = anyio.Event(), anyio.Event()

    async def handle(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            arrived.set()
            await release.wait()
            await connection.send(PAGE)

    async with RawServer(handle) as server, client(server, max_concurrency=1, **events.hooks) as unpod:
        first = asyncio.create_task(unpod.runs.list(SPACE).first())
        await arrived.wait()
        second = asyncio.create_task(unpod.runs.list(SPACE).first())
        await anyio.wait_all_tasks_blocked()
        release.set()
        await asyncio.gather(first, second)
    (wait,) = events.waits
    assert (wait.reason, wait.attempt, wait.error) == ("concurrency", 1, None)


@pytest.mark.parametrize(("close", "reason"), [(False, "rate_limit"), (True, "server_delay")])
async def test_waits_at_the_rate_gate_have_a_reason(close: bool, reason: str) -> None:
    clock = map(float, itertools.count()).__next__  # a second passes whenever it is read
    limiter = RequestLimiter(RateGate(0.4), Stats(), clock)
    waits: list[tuple[str, float]] = []
    first = await limiter.acquire((), Deadline(None))
    limiter.release((), is_probe=first.is_probe, accepted=True)
    if close:
        limiter.close_gate(0.001)
    gate_is_open = asyncio.create_task(
        limiter.acquire((), Deadline(None), lambda why, seconds: waits.append((why, seconds)))
    )
    await anyio.wait_all_tasks_blocked()
    await gate_is_open
    assert {why for why, _ in waits} == {reason}
    assert all(seconds >= 1 for _, seconds in waits)


async def test_waits_that_are_cut_short_are_events_too() -> None:
    events = Events()
    slow = RetryPolicy(attempts=3, base=1000, cap=1000)
    failed = anyio.Event()

    def on_attempt(event: AttemptEvent) -> None:
        events.all.append(event)
        failed.set()

    async with (
        RawServer(service(json_response({}, 503))) as server,
        client(server, retry=slow, **{**events.hooks, "on_attempt": on_attempt}) as unpod,
    ):
        executor = msgspec.structs.replace(unpod._context.executor, jitter=lambda longest: longest)
        unpod._context.executor = executor
        task = asyncio.create_task(unpod.runs.list(SPACE).collect())
        await failed.wait()
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (wait,) = events.waits
    assert (wait.reason, wait.status) == ("retry", 503)
    assert wait.seconds < 1000
    assert events.requests[0].error == "CancelledError"


async def test_a_cancelled_attempt_has_events() -> None:
    events = Events()
    arrived = anyio.Event()

    async def handle(connection: RawConnection) -> None:
        await connection.read_request()
        arrived.set()
        await anyio.sleep_forever()

    async with RawServer(handle) as server, client(server, **events.hooks) as unpod:
        task = asyncio.create_task(unpod.runs.list(SPACE).collect())
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    attempt, request = events.all
    assert (attempt.status, attempt.error) == (None, "CancelledError")
    assert isinstance(request, RequestEvent)
    assert (request.attempts, request.error, request.timed_out) == (1, "CancelledError", False)


async def test_a_task_that_was_destroyed_has_no_events() -> None:
    events = Events()
    slow = RetryPolicy(attempts=3, base=1000, cap=1000)
    async with (
        RawServer(service(json_response({}, 503))) as server,
        client(server, retry=slow, **events.hooks) as unpod,
    ):
        executor = msgspec.structs.replace(unpod._context.executor, jitter=lambda longest: longest)
        unpod._context.executor = executor
        call = unpod.runs.list(SPACE).collect()
        await destroy(call, when=lambda: bool(events.all))
        assert [type(event) for event in events.all] == [AttemptEvent]


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
async def test_a_request_that_takes_too_long_has_timed_out(limit: str) -> None:
    events = Events()

    async def handle(connection: RawConnection) -> None:
        await connection.read_request()
        await anyio.sleep_forever()

    async with (
        RawServer(handle) as server,
        client(server, retry=None, **{limit: 0.02}, **events.hooks) as unpod,
    ):
        with pytest.raises(TransportError):
            await unpod.runs.list(SPACE).collect()
    (request,) = events.requests
    assert (request.error, request.timed_out) == ("TransportError", True)


async def test_a_request_that_a_closed_client_refuses_has_no_attempts() -> None:
    events = Events()
    async with RawServer(service()) as server:
        async with client(server, **events.hooks) as unpod:
            pass
        with pytest.raises(ConfigurationError, match="closed"):
            await unpod.runs.list(SPACE).collect()
    (request,) = events.all
    assert isinstance(request, RequestEvent)
    assert (request.attempts, request.error) == (0, "ConfigurationError")


async def test_an_export_has_events(tmp_path: Path) -> None:
    events = Events()
    async with Sandbox(runs=5) as sandbox, sandbox.client(**events.hooks) as unpod:
        await unpod.export(sandbox.space_token, tmp_path / "data")
        assert len(events.requests) == unpod.stats.requests
        assert len(events.attempts) == unpod.stats.attempts


# --- whose hooks -------------------------------------------------------------------------------------------


async def test_a_view_has_the_hooks_of_its_client_or_its_own() -> None:
    ours, theirs = Events(), Events()
    async with RawServer(service()) as server, client(server, **ours.hooks) as unpod:
        await unpod.with_options(timeout=30).runs.list(SPACE).collect()
        assert len(ours.all) == 2
        view = unpod.with_options(on_request=theirs.all.append, on_attempt=None)
        await view.runs.list(SPACE).collect()
        assert (len(ours.all), len(theirs.all)) == (2, 1)
        silent = view.with_options(on_request=None, on_wait=None)
        await silent.runs.list(SPACE).collect()
        assert silent._context.executor.observers is None
        await unpod.runs.list(SPACE).collect()
        assert (len(ours.all), len(theirs.all)) == (4, 1)


async def test_a_view_can_have_hooks_that_its_client_does_not_have() -> None:
    events = Events()
    async with RawServer(service()) as server, client(server) as unpod:
        assert unpod._context.executor.observers is None
        await unpod.with_options(**events.hooks).runs.list(SPACE).collect()
    assert len(events.all) == 2


caller: ContextVar[str] = ContextVar("caller", default="nobody")


async def test_hooks_see_the_context_variables_of_the_caller() -> None:
    seen: list[str] = []

    async def list_as(name: str) -> None:
        caller.set(name)
        async for _ in unpod.runs.list(SPACE):
            pass

    async with (
        RawServer(service()) as server,
        client(server, on_attempt=lambda _: seen.append(caller.get())) as unpod,
        asyncio.TaskGroup() as tasks,
    ):
        for name in ("alpha", "beta", "gamma"):
            tasks.create_task(list_as(name))
    assert sorted(seen) == ["alpha", "beta", "gamma"]


@pytest.mark.parametrize("kind", ["prefetch", "tasks_for", "nested"])
async def test_requests_of_a_stream_belong_to_what_its_reader_does(kind: str) -> None:
    seen: list[str] = []
    async with (
        Sandbox(runs=6, tasks_per_run=(5, 5)) as sandbox,
        sandbox.client(page_size=1, on_attempt=lambda _: seen.append(caller.get())) as unpod,
    ):
        caller.set("entered")
        space = sandbox.space_token
        if kind == "prefetch":
            stream: Any = unpod.runs.list(space).prefetch(2)
        elif kind == "tasks_for":
            stream = unpod.runs.tasks_for(space, runs=sandbox.run_ids()[:2], concurrency=1)
        else:
            stream = unpod.runs.tasks_for(space, concurrency=1)
        async with stream:
            rows = aiter(stream)
            caller.set("first")
            await anext(rows)
            await anyio.wait_all_tasks_blocked()
            before = len(seen)
            caller.set("second")
            async for _ in rows:
                pass
    assert set(seen[:before]) <= {"entered", "first"}
    assert "first" in seen[:before]
    # The requests that were on their way belong to what the reader did before.
    late = seen[before:].count("first")
    assert late <= 2
    assert seen[before:].count("second") == len(seen) - before - late > 2


# --- hooks that fail ---------------------------------------------------------------------------------------


def fail(event: object) -> None:
    raise RuntimeError(f"broken by {type(event).__name__}")


def ask_a_cancelled_future(event: object) -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    future.result()


@pytest.mark.parametrize("name", ["on_request", "on_attempt", "on_wait"])
@pytest.mark.parametrize(
    ("hook", "kind"), [(fail, RuntimeError), (ask_a_cancelled_future, asyncio.CancelledError)]
)
async def test_a_hook_that_raises_changes_nothing_and_is_logged_once(
    name: str,
    hook: Callable[[object], None],
    kind: type[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for hooks in ({}, {name: hook}):
        async with (
            RawServer(service(json_response({}, 503), json_response({}, 503))) as server,
            client(server, **hooks) as unpod,
        ):
            rows = [await unpod.runs.list(SPACE).collect() for _ in range(2)]
            await create(unpod)
        assert [row.run_id for listed in rows for row in listed] == ["RUN-1D"] * 2
        assert len(server.requests) == 5
        assert (unpod.stats.requests, unpod.stats.attempts) == (3, 5)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.getMessage().startswith(f"{name} failed; requests continue")
    assert record.exc_info
    assert isinstance(record.exc_info[1], kind)


async def test_a_hook_that_raises_does_not_replace_the_error_of_a_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks = dict.fromkeys(("on_request", "on_attempt", "on_wait"), fail)
    personal = json_response({"data": "Ann Example +15550001111"}, 400)
    async with RawServer(service(personal)) as server, client(server, **hooks) as unpod:
        with pytest.raises(InvalidRequestError) as caught:
            await unpod.runs.list(SPACE).collect()
    assert not leaks(caught.value, re.compile("broken by"))
    failures = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert len(failures) == 2
    for failure in failures:
        assert failure is not None
        assert failure.__context__ is None
        assert not leaks(failure, re.compile("Ann"))


async def test_the_cause_that_a_hook_names_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: object) -> None:
        try:
            fail(event)
        except RuntimeError as fault:
            raise ValueError from fault

    async with RawServer(service(json_response({}, 404))) as server, client(server, on_request=hook) as unpod:
        with pytest.raises(UnpodError):
            await unpod.runs.list(SPACE).collect()
    (failure,) = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert isinstance(failure, ValueError)
    assert isinstance(failure.__cause__, RuntimeError)
    assert failure.__cause__.__context__ is None


def keep_for_later(event: object) -> None:
    """Raise an error that names another as its cause, which was raised earlier in the hook."""
    errors: list[Exception] = []
    for _ in range(2):
        try:
            fail(event)
        except RuntimeError as fault:
            errors.append(fault)
    raise ExceptionGroup("all", [ValueError("other"), errors[0]]) from errors[1]


def raise_the_error_again(event: object) -> None:
    raise


@pytest.mark.parametrize("hook", [keep_for_later, raise_the_error_again])
async def test_logs_of_a_failed_hook_do_not_show_the_error_of_the_request(
    hook: Callable[[object], None], caplog: pytest.LogCaptureFixture
) -> None:
    personal = json_response({"data": "Ann Example +15550001111"}, 400)
    async with RawServer(service(personal)) as server, client(server, on_attempt=hook) as unpod:
        with pytest.raises(InvalidRequestError):
            await unpod.runs.list(SPACE).collect()
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    failures: list[BaseException | None] = [record.exc_info[1] if record.exc_info else None]
    while failures:
        failure = failures.pop()
        if failure is not None:
            assert not isinstance(failure, UnpodError)
            failures += [failure.__context__, failure.__cause__, *getattr(failure, "exceptions", ())]


async def test_a_function_that_returns_a_coroutine_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def hook(event: object) -> None:
        raise AssertionError(event)

    async with RawServer(service()) as server, client(server, on_request=lambda e: hook(e)) as unpod:
        await unpod.runs.list(SPACE).collect()
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info
    assert "returned a coroutine" in str(record.exc_info[1])


async def an_async_function(event: object) -> None:
    raise AssertionError(event)


async def an_async_generator_function(event: object) -> AsyncIterator[object]:
    yield event


def a_generator_function(event: object) -> Iterator[object]:
    yield event


class AsyncObject:
    async def __call__(self, event: object) -> None:
        raise AssertionError(event)


@pytest.mark.parametrize("name", ["on_request", "on_attempt", "on_wait"])
@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        (an_async_function, "must not be an async function"),
        (functools.partial(an_async_function), "must not be an async function"),
        (AsyncObject(), "must not be an async function"),
        (an_async_generator_function, "must not be an async function"),
        (a_generator_function, "must not be a generator function"),
        ("print", "must be a function or None, not str"),
        (False, "must be a function or None, not bool"),
    ],
)
async def test_what_is_not_a_plain_function_is_refused(name: str, hook: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} {problem}") as caught:
        UnpodClient("t0ken", **{name: hook})
    assert caught.value.argument == name
    assert caught.value.hint
    unpod = UnpodClient("t0ken")
    with pytest.raises(ConfigurationError, match=f"{name} {problem}"):
        unpod.with_options(**{name: hook})


@pytest.mark.parametrize("hook", [print, [].append, AsyncObject, functools.partial(fail)])
def test_any_callable_is_accepted(hook: Any) -> None:
    UnpodClient("t0ken", on_request=hook, on_attempt=hook, on_wait=hook)
