"""Tracing, mocks and recorders of aiohttp see every attempt, and nothing of one call stays for the next.

Such libraries change aiohttp for the whole process: OpenTelemetry and Sentry add a trace config to every
session that is created, others wrap `ClientSession._request`. These tests do the same.
"""

from __future__ import annotations

import functools
import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from unittest import mock

import aiohttp
import msgspec
import pytest

from tests.raw_server import RawConnection, RawServer, http_response, json_response
from unpod_async import (
    OutcomeUnknown,
    RecordingError,
    RetryPolicy,
    Task,
    TransportError,
    UnpodClient,
    UnpodError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

SPACE = "S"
RUN = {"run_id": "R1", "space_id": "S", "status": "completed", "created": "2026-01-01T00:00:00"}
RUNS = {"count": 1, "status_code": 200, "message": "ok", "data": [RUN]}
CREATED = {"status_code": 200, "data": {"run_id": "R1", "task_ids": ["T1"], "status": {"T1": "pending"}}}
FAST = RetryPolicy(attempts=3, base=0.001, cap=0.002)

caller: ContextVar[str] = ContextVar("caller", default="nobody")
"""What a tracing library takes from the context of a call and adds to its requests."""


async def list_runs(unpod: UnpodClient) -> int:
    return len(await unpod.runs.list(SPACE).collect())


async def prefetch_runs(unpod: UnpodClient) -> int:
    async with unpod.runs.list(SPACE).prefetch(2) as rows:
        return len([row async for row in rows])


async def tasks_of_runs(unpod: UnpodClient) -> int:
    async with unpod.runs.tasks_for(SPACE, runs=["R1"]) as rows:
        return len([row async for row in rows])


async def create(unpod: UnpodClient) -> int:
    documents = [{"id": "d", "name": "Ann Example", "contact_number": "+15550001111"}]
    created = await unpod.tasks.create(SPACE, pilot="p", documents=documents, context="c")
    return len(created.run_id or "")


CALLS = [list_runs, prefetch_runs, tasks_of_runs, create]


class Service:
    """Answers reads with one run and creates with success; `failing` answers come first."""

    def __init__(self, *failing: bytes) -> None:
        self.failing = list(failing)

    async def __call__(self, connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            if self.failing:
                answer = self.failing.pop(0)
                if not answer:
                    return
                await connection.send(answer)
            elif request.startswith(b"POST"):
                await connection.send(json_response(CREATED))
            else:
                await connection.send(json_response(RUNS))


def headers_of(server: RawServer, name: str) -> list[str | None]:
    """Return the value of a header in each request."""
    found: list[str | None] = []
    for request in server.requests:
        lines = [line.partition(b": ") for line in request.split(b"\r\n")]
        found.append(next((v.decode() for key, _, v in lines if key.lower() == name.encode()), None))
    return found


# --- trace configs -----------------------------------------------------------------------------------------


class Tracer:
    """What a tracing library does for a request: a header of its caller, and a span."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str]] = []

    def config(self) -> aiohttp.TraceConfig:
        config = aiohttp.TraceConfig()

        async def start(_: object, context: Any, params: aiohttp.TraceRequestStartParams) -> None:
            context.caller = caller.get()
            params.headers["baggage"] = caller.get()

        async def end(_: object, context: Any, params: aiohttp.TraceRequestEndParams) -> None:
            self.spans.append((context.caller, str(params.response.status)))

        async def failed(_: object, context: Any, params: aiohttp.TraceRequestExceptionParams) -> None:
            self.spans.append((context.caller, type(params.exception).__name__))

        config.on_request_start.append(start)
        config.on_request_end.append(end)
        config.on_request_exception.append(failed)
        return config


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Tracer:
    """A tracing library that is switched on for every session that is created."""
    tracer, original = Tracer(), aiohttp.ClientSession.__init__

    def instrumented(self: aiohttp.ClientSession, *arguments: Any, **named: Any) -> None:
        named["trace_configs"] = [*(named.get("trace_configs") or ()), tracer.config()]
        original(self, *arguments, **named)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", instrumented)
    return tracer


@pytest.mark.parametrize("call", CALLS)
async def test_each_request_has_the_context_of_its_own_caller_and_one_span(
    tracer: Tracer, call: Callable[[UnpodClient], Awaitable[int]]
) -> None:
    names = ["alpha", "beta", "gamma"]
    async with RawServer(Service()) as server, UnpodClient("t0ken", "acme", server.base_url) as unpod:
        for name in names:
            caller.set(name)
            assert await call(unpod)
    expected = [name for name in names for _ in range(len(server.requests) // 3)]
    assert headers_of(server, "baggage") == expected
    assert tracer.spans == [(name, "200") for name in expected]


@pytest.mark.parametrize(
    ("call", "failing", "spans"),
    [
        (list_runs, json_response({}, 503), ["503", "200"]),
        (list_runs, b"", ["ConnectionLost", "200"]),
        (create, json_response({}, 429), ["429", "200"]),
    ],
)
async def test_each_attempt_has_a_span(
    tracer: Tracer, call: Callable[[UnpodClient], Awaitable[int]], failing: bytes, spans: list[str]
) -> None:
    async with (
        RawServer(Service(failing)) as server,
        UnpodClient("t0ken", "acme", server.base_url, retry=FAST) as unpod,
    ):
        caller.set("alpha")
        assert await call(unpod)
    assert headers_of(server, "baggage") == ["alpha", "alpha"]
    assert tracer.spans == [("alpha", status) for status in spans]


async def test_a_create_that_is_traced_is_still_known_to_be_sent_or_not(tracer: Tracer) -> None:
    async with RawServer(Service(b"")) as server, UnpodClient("t0ken", "acme", server.base_url) as unpod:
        with pytest.raises(OutcomeUnknown):
            await create(unpod)
        assert len(server.requests) == 1
        address = server.base_url
    async with UnpodClient("t0ken", "acme", address, retry=FAST) as unpod:
        with pytest.raises(TransportError, match="nothing was sent"):
            await create(unpod)
    assert [status for _, status in tracer.spans][1:] == ["ClientConnectorError"] * 3


async def test_a_trace_config_that_is_added_later_is_used_from_then_on() -> None:
    tracer = Tracer()
    async with RawServer(Service()) as server, UnpodClient("t0ken", "acme", server.base_url) as unpod:
        await list_runs(unpod)
        session = unpod._context.executor.transport.sessions.for_read()
        config = tracer.config()
        config.freeze()
        session.trace_configs.append(config)
        for name in ("alpha", "beta"):
            caller.set(name)
            await list_runs(unpod)
        session.trace_configs.clear()
        await list_runs(unpod)
    assert headers_of(server, "baggage") == [None, "alpha", "beta", None]
    assert tracer.spans == [("alpha", "200"), ("beta", "200")]


async def test_without_tracing_no_request_differs_from_the_others() -> None:
    async with RawServer(Service()) as server, UnpodClient("t0ken", "acme", server.base_url) as unpod:
        for name in ("alpha", "beta"):
            caller.set(name)
            await list_runs(unpod)
    assert server.requests[0] == server.requests[1]
    assert len(server.requests) == 2


# --- wrappers of ClientSession._request --------------------------------------------------------------------


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A tracing library that wraps `ClientSession._request`; gives the requests that it has seen."""
    seen: list[str] = []
    original = aiohttp.ClientSession._request

    @functools.wraps(original)
    async def traced(self: aiohttp.ClientSession, method: str, url: Any, **named: Any) -> Any:
        seen.append(f"{caller.get()} {method}")
        named["headers"] = {**(named.get("headers") or {}), "baggage": caller.get()}
        return await original(self, method, url, **named)

    with monkeypatch.context() as patched:
        patched.setattr(aiohttp.ClientSession, "_request", traced)
        yield seen


@pytest.mark.parametrize("call", CALLS)
async def test_a_wrapper_of_the_request_sees_each_with_its_own_caller(
    wrapped: list[str], call: Callable[[UnpodClient], Awaitable[int]]
) -> None:
    async with RawServer(Service()) as server, UnpodClient("t0ken", "acme", server.base_url) as unpod:
        for name in ("alpha", "beta"):
            caller.set(name)
            assert await call(unpod)
    callers = [line.partition(" ")[0] for line in wrapped]
    assert headers_of(server, "baggage") == callers
    assert set(callers) == {"alpha", "beta"}


async def test_a_wrapper_that_comes_and_goes_leaves_nothing_behind() -> None:
    original = aiohttp.ClientSession._request
    seen: list[str] = []

    async def traced(self: aiohttp.ClientSession, method: str, url: Any, **named: Any) -> Any:
        seen.append(method)
        named["headers"] = {**(named.get("headers") or {}), "baggage": "alpha"}
        return await original(self, method, url, **named)

    async with RawServer(Service()) as server, UnpodClient("t0ken", "acme", server.base_url) as unpod:
        await list_runs(unpod)
        with mock.patch.object(aiohttp.ClientSession, "_request", traced):
            await list_runs(unpod)
        await list_runs(unpod)
    assert headers_of(server, "baggage") == [None, "alpha", None]
    assert seen == ["GET"]


async def test_the_limit_of_a_response_holds_for_wrapped_requests_too(wrapped: list[str]) -> None:
    async with (
        RawServer(Service(json_response({**RUNS, "message": "x" * 5000}))) as server,
        UnpodClient("t0ken", "acme", server.base_url, max_response_bytes=1000) as unpod,
    ):
        with pytest.raises(TransportError, match="max_response_bytes"):
            await list_runs(unpod)
    assert wrapped == ["nobody GET"]


# --- mocks and recorders -----------------------------------------------------------------------------------


class Canned:
    """A response of a mock, which has only what its author thought of."""

    def __init__(self, content: object, **attributes: object) -> None:
        self.status = 200
        self.headers = {"Content-Type": "application/json"}
        self._body = json.dumps(content).encode()
        vars(self).update(attributes)

    async def __aenter__(self) -> Canned:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


class Whole(Canned):
    async def read(self) -> bytes:
        return self._body


class Streamed(Canned):
    @property
    def content(self) -> Any:
        return mock.Mock(readany=mock.AsyncMock(side_effect=[self._body, b""]))


class Endless(Canned):
    content = mock.Mock(readany=mock.AsyncMock(return_value=b"{}"))


@pytest.mark.parametrize("kind", [Whole, Streamed])
@pytest.mark.parametrize("call", CALLS)
async def test_a_mock_of_the_request_is_used(
    kind: type[Canned], call: Callable[[UnpodClient], Awaitable[int]]
) -> None:
    async def canned(_: object, method: str, url: object, **named: object) -> Canned:
        return kind(CREATED if method == "POST" else RUNS)

    async with RawServer(Service()) as server, UnpodClient("t0ken", "acme", server.base_url) as unpod:
        with mock.patch.object(aiohttp.ClientSession, "_request", canned):
            assert await call(unpod)
        assert server.requests == []
        assert await call(unpod)  # and no longer
        assert server.requests


@pytest.mark.parametrize(
    "replaced",
    [
        pytest.param({"_request": mock.MagicMock()}, id="a MagicMock"),
        pytest.param({"_request": mock.AsyncMock()}, id="an AsyncMock"),
        pytest.param({"request": mock.MagicMock()}, id="request"),
        pytest.param({"get": mock.MagicMock(), "post": mock.MagicMock()}, id="get and post"),
        pytest.param({"get": mock.AsyncMock(), "post": mock.AsyncMock()}, id="awaitable get and post"),
        pytest.param({"_request": mock.AsyncMock(return_value=Canned(RUNS))}, id="no body"),
        pytest.param({"_request": mock.AsyncMock(return_value=Whole(RUNS, status="200"))}, id="odd status"),
        pytest.param({"_request": mock.AsyncMock(return_value=Endless(RUNS))}, id="endless"),
        pytest.param({"_request": mock.AsyncMock(side_effect=KeyError("5ecret"))}, id="raises"),
    ],
)
@pytest.mark.parametrize("call", CALLS)
async def test_a_mock_that_does_not_behave_like_aiohttp_is_named(
    replaced: dict[str, Any], call: Callable[[UnpodClient], Awaitable[int]]
) -> None:
    async with (
        RawServer(Service()) as server,
        UnpodClient("t0ken", "acme", server.base_url, max_response_bytes=10_000) as unpod,
    ):
        with mock.patch.multiple(aiohttp.ClientSession, **replaced), pytest.raises(UnpodError) as caught:
            await call(unpod)
        assert server.requests == []
    text = str(caught.value)
    if "max_response_bytes" not in text:
        assert "a mock, a recorder or another library that replaces aiohttp failed" in text
        if not isinstance(caught.value, OutcomeUnknown):
            assert "use unpod_async.testing.Sandbox in tests" in text
    assert len(caught.value.attempts) <= 1
    assert "5ecret" not in text


@pytest.mark.parametrize("call", CALLS)
async def test_a_mock_of_the_whole_session_is_named(call: Callable[[UnpodClient], Awaitable[int]]) -> None:
    async with RawServer(Service()) as server:
        with mock.patch("aiohttp.ClientSession"):
            async with UnpodClient("t0ken", "acme", server.base_url) as unpod:
                with pytest.raises(UnpodError, match="a mock, a recorder or another library"):
                    await call(unpod)
        assert server.connections == 0


async def test_what_a_mock_raises_as_aiohttp_does_is_retried_as_usual() -> None:
    failing = mock.AsyncMock(side_effect=[aiohttp.ServerDisconnectedError(), Whole(RUNS)])
    async with UnpodClient("t0ken", "acme", "http://127.0.0.1:9", retry=FAST) as unpod:
        with mock.patch.object(aiohttp.ClientSession, "_request", failing):
            assert await list_runs(unpod) == 1
    assert failing.await_count == 2


@pytest.mark.parametrize("call", CALLS)
async def test_a_recorder_that_has_read_the_body_sees_every_request(
    call: Callable[[UnpodClient], Awaitable[int]],
) -> None:
    recorded: list[tuple[str, bytes]] = []
    original = aiohttp.ClientSession._request

    async def recorder(self: aiohttp.ClientSession, method: str, url: Any, **named: Any) -> Any:
        response = await original(self, method, url, **named)
        recorded.append((method, await response.read()))
        return response

    async with RawServer(Service()) as server, UnpodClient("t0ken", "acme", server.base_url) as unpod:
        with mock.patch.object(aiohttp.ClientSession, "_request", recorder):
            assert await call(unpod)
    assert len(recorded) == len(server.requests)
    assert all(json.loads(body)["status_code"] == 200 for _, body in recorded)


@pytest.mark.parametrize("call", CALLS)
async def test_vcr_records_and_plays_back(
    call: Callable[[UnpodClient], Awaitable[int]], tmp_path: Path
) -> None:
    vcr = pytest.importorskip("vcr", reason="vcrpy is not installed")
    cassette = str(tmp_path / "cassette.yaml")
    async with RawServer(Service()) as server:
        with vcr.use_cassette(cassette, record_mode="once"):
            async with UnpodClient("t0ken", "acme", server.base_url) as unpod:
                recorded = await call(unpod)
        requests = len(server.requests)
        with vcr.use_cassette(cassette, record_mode="none") as played:
            async with UnpodClient("t0ken", "acme", server.base_url) as unpod:
                assert await call(unpod) == recorded > 0
            assert played.play_count == requests > 0
        assert len(server.requests) == requests


async def test_an_error_of_ours_is_not_blamed_on_a_mock() -> None:
    """A refused create with a mocked response has the outcome that it would have without a mock."""
    refused = Whole({"message": "no"}, status=500)
    async with UnpodClient("t0ken", "acme", "http://127.0.0.1:9") as unpod:
        with (
            mock.patch.object(aiohttp.ClientSession, "_request", mock.AsyncMock(return_value=refused)),
            pytest.raises(OutcomeUnknown, match="answered 500"),
        ):
            await create(unpod)


# --- recordings --------------------------------------------------------------------------------------------


async def download(server: RawServer, directory: Path) -> Path:
    output = {"call_id": "c", "recording_url": f"{server.base_url}/rec.wav?sig=5ecret"}
    task = msgspec.json.decode(msgspec.json.encode({"task_id": "T1", "output": output}), type=Task)
    async with UnpodClient("t0ken", "acme", server.base_url, retry=FAST) as unpod:
        hosts = [f"127.0.0.1:{server.port}"]
        return await unpod.recordings.download(task, directory, recording_hosts=hosts)


async def test_each_request_for_a_recording_has_a_span(tracer: Tracer, tmp_path: Path) -> None:
    sound = http_response(b"sound", 200, [("Content-Type", "audio/wav")])
    moved = http_response(b"", 302, [("Location", "/moved.wav")])
    async with RawServer(Service(json_response({}, 503), moved, sound)) as server:
        caller.set("alpha")
        await download(server, tmp_path)
    assert headers_of(server, "baggage") == ["alpha"] * 3
    assert tracer.spans == [("alpha", "503"), ("alpha", "302"), ("alpha", "200")]


async def test_a_mock_of_a_recording_is_named(tmp_path: Path) -> None:
    async with RawServer(Service()) as server:
        with (
            mock.patch.object(aiohttp.ClientSession, "_request", mock.AsyncMock(return_value=Canned({}))),
            pytest.raises(RecordingError, match="a mock, a recorder or another library") as caught,
        ):
            await download(server, tmp_path)
        assert server.requests == []
    assert caught.value.permanent
    assert "5ecret" not in str(caught.value)
