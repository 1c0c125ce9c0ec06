"""Traces and metrics of requests, read back with the exporter and the reader of OpenTelemetry's SDK."""

from __future__ import annotations

import asyncio
import functools
import logging
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import msgspec
import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor, create_trace_config
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.cancel import destroy
from tests.raw_server import RawConnection, RawServer, answering_in_turn, json_response
from unpod_async import (
    AttemptEvent,
    ConfigurationError,
    OpenTelemetry,
    OutcomeUnknown,
    RetryPolicy,
    TransportError,
    UnpodClient,
    UnpodError,
)
from unpod_async.testing import Sandbox, faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPACE = "SPACE-1D"
RUNS = "spaces/{space_token}/runs/"
ROOT = "/api/v2/platform/"
RUN = {
    "run_id": "R1",
    "task_id": "T1",
    "space_id": "S",
    "status": "completed",
    "created": "2026-01-01T00:00:00",
}
PAGE = json_response({"count": 1, "status_code": 200, "message": "ok", "data": [RUN]})
CREATED = json_response({
    "status_code": 200,
    "data": {"run_id": "R1", "task_ids": ["T1"], "status": {"T1": "pending"}},
})
FAST = RetryPolicy(attempts=3, base=0.001, cap=0.002)
DOCUMENT = {"id": "d", "name": "Ann Example", "contact_number": "+15550001111"}


class Telemetry:
    """Providers that keep what they receive."""

    def __init__(self, *processors: SpanProcessor) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        for processor in (*processors, SimpleSpanProcessor(self._exporter)):
            self.tracers.add_span_processor(processor)
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("test")

    @property
    def option(self) -> OpenTelemetry:
        return OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The spans that have ended, in the order of their ends."""
        return self._exporter.get_finished_spans()

    def of_kind(self, kind: SpanKind, scope: str = "unpod_async") -> list[ReadableSpan]:
        return [one for one in self.spans if one.kind is kind and one.instrumentation_scope.name == scope]

    @property
    def attempts(self) -> list[ReadableSpan]:
        return self.of_kind(SpanKind.CLIENT)

    @property
    def requests(self) -> list[ReadableSpan]:
        return [one for one in self.of_kind(SpanKind.INTERNAL) if not one.name.startswith("wait ")]

    @property
    def waits(self) -> list[ReadableSpan]:
        return [one for one in self.of_kind(SpanKind.INTERNAL) if one.name.startswith("wait ")]

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name."""
        data = self._reader.get_metrics_data()
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            if scope.scope.name == "unpod_async"
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Return the attributes of each data point of a metric, and its count or value."""
        return [
            (dict(point.attributes), point.count if hasattr(point, "count") else point.value)
            for point in self.metrics()[name].data.data_points
        ]

    @contextmanager
    def span(self, name: str) -> Iterator[str]:
        """Make a span current, as the code of a user does. Yields its id."""
        with self.tracer.start_as_current_span(name) as span:
            yield f"{span.get_span_context().span_id:016x}"


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def ids(span: ReadableSpan) -> tuple[str, str | None]:
    """Return the id of a span and that of its parent."""
    parent = None if span.parent is None else f"{span.parent.span_id:016x}"
    return f"{span.context.span_id:016x}", parent


def id_of(span: ReadableSpan) -> str:
    return ids(span)[0]


def parent_of(span: ReadableSpan) -> str | None:
    return ids(span)[1]


service = functools.partial(answering_in_turn, get=PAGE, post=CREATED)


def client(server: RawServer, telemetry: Telemetry, **options: Any) -> UnpodClient:
    options = {"retry": FAST, "opentelemetry": telemetry.option, **options}
    return UnpodClient("t0ken-5ecret", "acme", server.base_url, **options)


def waiting_client(server: RawServer, telemetry: Telemetry, **options: Any) -> UnpodClient:
    """Return a client that waits long before a retry."""
    unpod = client(server, telemetry, retry=RetryPolicy(attempts=3, base=1000, cap=1000), **options)
    executor = msgspec.structs.replace(unpod._context.executor, jitter=lambda longest: longest)
    unpod._context.executor = executor
    return unpod


async def list_runs(unpod: UnpodClient) -> object:
    return await unpod.runs.list(SPACE).collect()


async def prefetch_runs(unpod: UnpodClient) -> object:
    async with unpod.runs.list(SPACE).prefetch(2) as rows:
        return [row async for row in rows]


async def tasks_of_runs(unpod: UnpodClient) -> object:
    async with unpod.runs.tasks_for(SPACE, runs=["R1"]) as rows:
        return [row async for row in rows]


async def create(unpod: UnpodClient) -> object:
    return await unpod.tasks.create(SPACE, pilot="p", documents=[DOCUMENT], context="c")


CALLS = [list_runs, prefetch_runs, tasks_of_runs, create]


def sent(server: RawServer, name: str) -> list[list[str]]:
    """Return the values of a header in each request."""
    return [
        [
            value.decode()
            for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
            for key, _, value in (line.partition(b": "),)
            if key.lower() == name.encode()
        ]
        for request in server.requests
    ]


def sent_parents(server: RawServer) -> list[str]:
    """Return the id of the parent span that each request names; each names one."""
    return [value.split("-")[2] for (value,) in sent(server, "traceparent")]


# --- spans -------------------------------------------------------------------------------------------------


async def test_a_read_has_a_span_for_the_request_and_one_for_its_attempt(telemetry: Telemetry) -> None:
    async with RawServer(service()) as server, client(server, telemetry) as unpod:
        with telemetry.span("caller") as caller:
            await list_runs(unpod)
        port = server.port
    attempt, request, _ = telemetry.spans
    assert parent_of(request) == caller
    assert parent_of(attempt) == id_of(request)
    assert (request.name, request.kind) == (f"GET {RUNS}", SpanKind.INTERNAL)
    assert (attempt.name, attempt.kind) == (f"GET {ROOT}{RUNS}", SpanKind.CLIENT)
    common = {
        "http.request.method": "GET",
        "url.template": ROOT + RUNS,
        "server.address": "127.0.0.1",
        "server.port": port,
        "http.response.status_code": 200,
    }
    assert dict(attempt.attributes) == common
    assert dict(request.attributes) == {**common, "unpod.attempts": 1}
    for span in (attempt, request):
        assert span.status.status_code is StatusCode.UNSET
        assert span.instrumentation_scope.version


@pytest.mark.parametrize(
    ("base_url", "address", "port"),
    [
        ("https://unpod.example", "unpod.example", 443),
        ("http://[::1]", "::1", 80),
        ("http://127.0.0.1:81/proxy", "127.0.0.1", 81),
    ],
)
async def test_the_address_and_the_port_are_those_of_the_base_url(
    telemetry: Telemetry, base_url: str, address: str, port: int
) -> None:
    async with UnpodClient("t", base_url=base_url, opentelemetry=telemetry.option) as unpod:
        await unpod.aclose()
        with pytest.raises(ConfigurationError):
            await list_runs(unpod)
    (span,) = telemetry.spans
    assert (span.attributes["server.address"], span.attributes["server.port"]) == (address, port)
    prefix = "/proxy" if base_url.endswith("proxy") else ""
    assert span.attributes["url.template"] == prefix + ROOT + RUNS
    assert span.attributes["error.type"] == "ConfigurationError"


async def test_each_retry_has_a_span_with_its_number_and_waits_are_spans(telemetry: Telemetry) -> None:
    async with (
        RawServer(service(json_response({}, 503), b"")) as server,
        client(server, telemetry) as unpod,
    ):
        await list_runs(unpod)
    (request,) = telemetry.requests
    assert [
        (
            one.attributes.get("http.request.resend_count"),
            one.attributes.get("http.response.status_code"),
            one.attributes.get("error.type"),
            one.status.status_code,
        )
        for one in telemetry.attempts
    ] == [
        (None, 503, "503", StatusCode.ERROR),
        (1, None, "TransportError", StatusCode.ERROR),
        (2, 200, None, StatusCode.UNSET),
    ]
    assert request.attributes["unpod.attempts"] == 3
    assert request.status.status_code is StatusCode.UNSET
    assert [(one.name, one.attributes["unpod.wait.reason"]) for one in telemetry.waits] == [
        ("wait retry", "retry"),
        ("wait retry", "retry"),
    ]
    for span in (*telemetry.attempts, *telemetry.waits):
        assert parent_of(span) == id_of(request)
        assert request.start_time <= span.start_time <= span.end_time <= request.end_time
    assert len(sent_parents(server)) == 3
    assert sent_parents(server) == [id_of(span) for span in telemetry.attempts]


async def test_a_create_has_spans_too(telemetry: Telemetry) -> None:
    async with RawServer(service(json_response({}, 429))) as server, client(server, telemetry) as unpod:
        await create(unpod)
        assert [one.attributes["http.response.status_code"] for one in telemetry.attempts] == [429, 200]
        assert {one.name for one in telemetry.requests} == {"POST spaces/{space_token}/tasks/"}
        assert sent_parents(server) == [id_of(span) for span in telemetry.attempts]


async def test_a_lost_create_has_a_span_with_its_error(telemetry: Telemetry) -> None:
    async with RawServer(service(b"")) as server, client(server, telemetry) as unpod:
        with pytest.raises(OutcomeUnknown):
            await create(unpod)
    for span in telemetry.spans:
        assert span.attributes["error.type"] == "TransportError"
        assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
async def test_a_request_that_takes_too_long_is_a_timeout(telemetry: Telemetry, limit: str) -> None:
    async def handle(connection: RawConnection) -> None:
        await connection.read_request()
        await anyio.sleep_forever()

    async with (
        RawServer(handle) as server,
        client(server, telemetry, retry=None, **{limit: 0.02}) as unpod,
    ):
        with pytest.raises(TransportError):
            await list_runs(unpod)
    (request,) = telemetry.requests
    assert request.attributes["error.type"] == "timeout"
    assert request.attributes.get("unpod.deadline") == (0.02 if limit == "deadline" else None)


async def test_cancelled_calls_end_their_spans(telemetry: Telemetry) -> None:
    arrived = anyio.Event()

    async def handle(connection: RawConnection) -> None:
        await connection.read_request()
        arrived.set()
        await anyio.sleep_forever()

    async with RawServer(handle) as server, client(server, telemetry) as unpod:
        task = asyncio.create_task(list_runs(unpod))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [span.attributes["error.type"] for span in telemetry.spans] == ["CancelledError"] * 2
    assert [span.status.status_code for span in telemetry.spans] == [StatusCode.ERROR] * 2


@pytest.mark.parametrize(("end", "error"), [("cancel", "CancelledError"), ("close", "TransportError")])
async def test_a_request_that_ends_in_a_wait_has_an_error_of_its_own(
    telemetry: Telemetry, end: str, error: str
) -> None:
    failed = anyio.Event()
    async with (
        RawServer(service(json_response({}, 503))) as server,
        waiting_client(server, telemetry, on_attempt=lambda _: failed.set()) as unpod,
    ):
        task = asyncio.create_task(list_runs(unpod))
        await failed.wait()
        await anyio.wait_all_tasks_blocked()
        if end == "cancel":
            task.cancel()
        else:
            await unpod.aclose(0)
        with pytest.raises((asyncio.CancelledError, TransportError)):
            await task
    (attempt,), (request,) = telemetry.attempts, telemetry.requests
    assert attempt.attributes["error.type"] == "503"
    assert request.attributes["http.response.status_code"] == 503
    assert request.attributes["error.type"] == error


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("at", ["attempt", "wait"])
async def test_a_task_that_was_destroyed_ends_its_spans(
    at: str, elsewhere: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    started: list[str] = []

    class Started(SpanProcessor):
        def on_start(self, span: Any, parent_context: object = None) -> None:
            started.append(span.name)

    def is_time() -> bool:
        return bool(telemetry.attempts) if at == "wait" else len(started) == 2

    telemetry = Telemetry(Started())
    async with (
        RawServer(service(json_response({}, 503))) as server,
        waiting_client(server, telemetry) as unpod,
    ):
        before = context.get_current()
        await destroy(unpod.runs.list(SPACE).collect(), when=is_time, elsewhere=elsewhere)
        if not elsewhere:
            assert context.get_current() is before
    assert sorted(span.name for span in telemetry.spans) == sorted(started)
    (request,), (attempt,) = telemetry.requests, telemetry.attempts
    assert request.attributes["error.type"] == "GeneratorExit"
    assert attempt.attributes["error.type"] == ("503" if at == "wait" else "GeneratorExit")
    assert caplog.messages == []


async def test_after_a_call_the_span_of_the_caller_is_current_again(telemetry: Telemetry) -> None:
    answers = (json_response({}, 503), json_response({}, 404))
    async with RawServer(service(*answers)) as server, client(server, telemetry) as unpod:
        with telemetry.span("caller"):
            before = context.get_current()
            with pytest.raises(UnpodError):
                await list_runs(unpod)
            assert context.get_current() is before
            await create(unpod)
            assert context.get_current() is before


async def test_spans_contain_no_ids_no_secrets_and_no_texts_of_the_server(telemetry: Telemetry) -> None:
    async with (
        Sandbox(runs=3) as sandbox,
        sandbox.client(retry=None, opentelemetry=telemetry.option) as unpod,
    ):
        (run_id, *_) = sandbox.run_ids()
        sandbox.script(faults.closed_in_body(), faults.rejected(), faults.refusal("Ann Example"))
        for _ in range(3):
            with pytest.raises(UnpodError):
                await unpod.runs.tasks(sandbox.space_token, run_id).collect()
        await unpod.agents.tasks(sandbox.agent_handle).first()
        await unpod.tasks.create(sandbox.space_token, pilot="p", documents=[DOCUMENT], context="c")
    shown = "".join(span.to_json() for span in telemetry.spans)
    for name in telemetry.metrics():
        shown += repr(telemetry.points(name))
    for secret in (sandbox.space_token, run_id, sandbox.agent_handle, sandbox.token, "Ann", "+1555", "acme"):
        assert secret not in shown
    assert not any(span.events for span in telemetry.spans)
    assert not any(span.status.description for span in telemetry.spans)


async def test_log_records_and_hooks_of_an_attempt_are_in_its_span(telemetry: Telemetry) -> None:
    seen: list[int] = []

    def hook(event: AttemptEvent) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    async with RawServer(service()) as server, client(server, telemetry, on_attempt=hook) as unpod:
        await list_runs(unpod)
    (attempt,) = telemetry.attempts
    assert seen == [attempt.context.span_id]


async def test_a_token_provider_is_called_in_the_span_of_the_request(telemetry: Telemetry) -> None:
    async def provider() -> str:
        with telemetry.span("fetch a token"):
            return "another"

    async with (
        RawServer(service(json_response({}, 401))) as server,
        client(server, telemetry, token_provider=provider) as unpod,
    ):
        await list_runs(unpod)
    (request,), (wait,) = telemetry.requests, telemetry.waits
    (fetch,) = [span for span in telemetry.spans if span.name == "fetch a token"]
    assert parent_of(fetch) == id_of(request) == parent_of(wait)
    assert wait.name == "wait token"


async def test_nothing_is_recorded_where_the_caller_suppresses_it(telemetry: Telemetry) -> None:
    async with RawServer(service()) as server, client(server, telemetry) as unpod:
        with suppress_instrumentation():
            await list_runs(unpod)
        assert telemetry.spans == ()
        assert sent(server, "traceparent") == [[]]


# --- context -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
async def test_each_request_carries_the_context_of_its_own_caller(
    telemetry: Telemetry, call: Callable[[UnpodClient], Any]
) -> None:
    async def call_as(name: str) -> None:
        token = context.attach(baggage.set_baggage("caller", name))
        with telemetry.span(name):
            await call(unpod)
        context.detach(token)

    names = ["alpha", "beta", "gamma"]
    async with (
        RawServer(service()) as server,
        client(server, telemetry) as unpod,
        asyncio.TaskGroup() as tasks,
    ):
        for name in names:
            tasks.create_task(call_as(name))
    traces = {span.context.trace_id: span.name for span in telemetry.spans if span.name in names}
    assert len(traces) == 3
    found = [
        (traces[int(value.split("-")[1], 16)], carried.removeprefix("caller="))
        for (value,), (carried,) in zip(sent(server, "traceparent"), sent(server, "baggage"), strict=True)
    ]
    assert sorted(found) == sorted((name, name) for name in names for _ in range(len(server.requests) // 3))
    assert sorted(sent_parents(server)) == sorted(id_of(span) for span in telemetry.attempts)


async def test_requests_without_telemetry_carry_no_context_of_earlier_ones(telemetry: Telemetry) -> None:
    async with RawServer(service()) as server, client(server, telemetry) as unpod:
        await list_runs(unpod)
        with suppress_instrumentation():
            await list_runs(unpod)
        await list_runs(unpod)
    first, second, third = server.requests
    assert b"traceparent" in first
    assert b"traceparent" in third
    lines = [line for line in first.split(b"\r\n") if not line.startswith(b"traceparent")]
    assert b"\r\n".join(lines) == second


@pytest.mark.parametrize("kind", ["pager", "prefetch", "tasks_for"])
async def test_pages_are_children_of_what_the_reader_does(telemetry: Telemetry, kind: str) -> None:
    async with (
        Sandbox(runs=6, tasks_per_run=(4, 4)) as sandbox,
        sandbox.client(page_size=1, opentelemetry=telemetry.option) as unpod,
    ):
        listing = unpod.runs.list(sandbox.space_token)
        with telemetry.span("entered") as entered:
            if kind == "pager":
                rows: Any = aiter(listing)
                close: Any = rows.aclose
            else:
                stream: Any = (
                    listing.prefetch(2)
                    if kind == "prefetch"
                    else unpod.runs.tasks_for(sandbox.space_token, runs=sandbox.run_ids(), concurrency=2)
                )
                close = await stream.__aenter__()
                rows = aiter(stream)
        with telemetry.span("first") as first:
            await anext(rows)
            await anyio.wait_all_tasks_blocked()
        before = len(telemetry.requests)
        with telemetry.span("rest") as rest:
            async for _ in rows:
                pass
        if kind == "pager":
            await close()
        else:
            await stream.__aexit__(None, None, None)
    parents = [parent_of(span) for span in telemetry.requests]
    started = sorted(telemetry.requests, key=lambda span: span.start_time or 0)
    assert set(parents) <= {entered, first, rest}
    assert parents.count(rest) >= 4
    assert [parent_of(span) for span in started] == sorted(
        (parent_of(span) for span in started), key=[entered, first, rest].index
    )
    assert before


# --- other instrumentation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
async def test_spans_of_aiohttps_instrumentation_are_children_of_ours(
    telemetry: Telemetry, call: Callable[[UnpodClient], Any]
) -> None:
    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.tracers)
    try:
        async with (
            RawServer(service(json_response({}, 429))) as server,
            client(server, telemetry) as unpod,
        ):
            await call(unpod)
    finally:
        instrumentor.uninstrument()
    theirs = telemetry.of_kind(SpanKind.CLIENT, "opentelemetry.instrumentation.aiohttp_client")
    assert len(theirs) == len(server.requests) >= 2
    assert [parent_of(span) for span in theirs] == [id_of(span) for span in telemetry.attempts]
    assert sent_parents(server) == [id_of(span) for span in theirs]


@pytest.mark.parametrize("call", CALLS)
async def test_aiohttps_instrumentation_alone_sees_each_request_with_its_own_caller(
    telemetry: Telemetry, call: Callable[[UnpodClient], Any]
) -> None:
    callers: list[tuple[str, str]] = []  # the trace and the baggage of each request
    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.tracers)
    try:
        async with (
            RawServer(service()) as server,
            UnpodClient("t0ken", "acme", server.base_url, retry=None) as unpod,
        ):
            for tenant in ("alpha", "beta", "gamma"):
                token = context.attach(baggage.set_baggage("tenant", tenant))
                before = len(server.requests)
                with telemetry.tracer.start_as_current_span(tenant) as span:
                    await call(unpod)
                context.detach(token)
                trace_id = f"{span.get_span_context().trace_id:032x}"
                callers += [(trace_id, f"tenant={tenant}")] * (len(server.requests) - before)
    finally:
        instrumentor.uninstrument()
    traces = [value.split("-")[1] for (value,) in sent(server, "traceparent")]
    carried = [value for (value,) in sent(server, "baggage")]
    assert list(zip(traces, carried, strict=True)) == callers
    theirs = telemetry.of_kind(SpanKind.CLIENT, "opentelemetry.instrumentation.aiohttp_client")
    assert len(theirs) == len(server.requests) >= 3
    assert {span.status.status_code for span in theirs} == {StatusCode.UNSET}


async def test_a_session_of_the_user_can_have_a_trace_config_too(telemetry: Telemetry) -> None:
    config = create_trace_config(tracer_provider=telemetry.tracers)
    async with (
        RawServer(service()) as server,
        aiohttp.ClientSession(trace_configs=[config]) as session,
        client(server, telemetry, session=session) as unpod,
    ):
        await list_runs(unpod)
    (theirs,) = telemetry.of_kind(SpanKind.CLIENT, "opentelemetry.instrumentation.aiohttp_client")
    (ours,) = telemetry.attempts
    assert parent_of(theirs) == id_of(ours)
    assert sent_parents(server) == [id_of(theirs)]


async def test_requests_over_a_session_of_the_user_carry_the_context(telemetry: Telemetry) -> None:
    async with (
        RawServer(service()) as server,
        aiohttp.ClientSession() as session,
        client(server, telemetry, session=session) as unpod,
    ):
        await list_runs(unpod)
        assert sent_parents(server) == [id_of(span) for span in telemetry.attempts]


# --- metrics -----------------------------------------------------------------------------------------------


async def test_attempts_requests_and_waits_are_metrics(telemetry: Telemetry) -> None:
    async with RawServer(service(json_response({}, 503))) as server, client(server, telemetry) as unpod:
        await list_runs(unpod)
    common = {
        "http.request.method": "GET",
        "url.template": ROOT + RUNS,
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    refused = {**common, "http.response.status_code": 503, "error.type": "503"}
    answered = {**common, "http.response.status_code": 200}
    assert telemetry.points("http.client.request.duration") == [(refused, 1), (answered, 1)]
    assert telemetry.points("unpod.client.operation.duration") == [(answered, 1)]
    assert telemetry.points("unpod.client.wait.duration") == [({**common, "unpod.wait.reason": "retry"}, 1)]
    metrics = telemetry.metrics()
    assert {metrics[name].unit for name in metrics if name.endswith("duration")} == {"s"}
    bounds = metrics["http.client.request.duration"].data.data_points[0].explicit_bounds
    assert tuple(bounds) == (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


async def test_rows_are_counted_by_what_happened_to_them(telemetry: Telemetry) -> None:
    async with Sandbox(runs=12) as sandbox:
        faults.malformed_row(sandbox)
        async with sandbox.client(opentelemetry=telemetry.option) as unpod:
            run_id = sandbox.run_ids()[0]
            listed = await unpod.runs.list(sandbox.space_token).collect()
            await unpod.runs.tasks(sandbox.space_token, run_id, on_bad_row="skip").collect()
            stats = unpod.stats
    counted: dict[str, int] = {}
    for attributes, value in telemetry.points("unpod.client.rows"):
        assert attributes["url.template"].startswith(ROOT + "spaces/{space_token}/runs/")
        outcome = attributes["unpod.row.outcome"]
        counted[outcome] = counted.get(outcome, 0) + value
    assert len(listed) == 12
    assert counted == {
        name: value
        for name, value in {
            "returned": stats.rows,
            "rejected": stats.rejected,
            "unreadable": stats.unreadable,
            "repeated": stats.repeated,
        }.items()
        if value
    }


# --- failures ----------------------------------------------------------------------------------------------


class BrokenProcessor(SpanProcessor):
    """Fails like a processor with a bug, at the start or the end of spans."""

    def __init__(self, at: str, kind: SpanKind) -> None:
        self._at = at
        self._kind = kind

    def on_start(self, span: Any, parent_context: object = None) -> None:
        if self._at == "start" and span.kind is self._kind:
            raise RuntimeError("broken")

    def on_end(self, span: ReadableSpan) -> None:
        if self._at == "end" and span.kind is self._kind:
            raise RuntimeError("broken")


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("kind", [SpanKind.INTERNAL, SpanKind.CLIENT])
async def test_telemetry_that_fails_changes_nothing_and_is_logged_once(
    at: str, kind: SpanKind, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = Telemetry(BrokenProcessor(at, kind))
    answers = [*[json_response({}, 503), PAGE] * 2, json_response({}, 404)]
    async with RawServer(service(*answers)) as server, client(server, telemetry) as unpod:
        before = context.get_current()
        for _ in range(2):
            await list_runs(unpod)
        with pytest.raises(UnpodError, match="404"):
            await list_runs(unpod)
        assert context.get_current() is before
    assert unpod.stats.attempts == len(server.requests) == 5
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.getMessage().startswith("opentelemetry failed; requests continue")


class OddPropagator:
    """Adds headers that cannot be sent, and one that can."""

    fields = frozenset[str]()

    def extract(self, *arguments: Any, **named: Any) -> context.Context:
        return context.get_current()

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        carrier |= {"x-odd": "a\r\nInjected: yes", "x odd": "b", "x-empty": "", "x-umlaut": "ä"}
        carrier |= {"x-odd-number": 1, 2: "odd", b"x-odd-bytes": b"odd"}
        carrier |= dict.fromkeys(("Authorization", "Host", "content-length", "COOKIE", "Org_Handle"), "odd")
        carrier |= {"x-ok": "c"}


@pytest.mark.parametrize("call", [list_runs, create])
async def test_headers_that_cannot_be_sent_are_left_out(
    telemetry: Telemetry, call: Callable[[UnpodClient], Any]
) -> None:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(OddPropagator())
    try:
        async with RawServer(service()) as server, client(server, telemetry) as unpod:
            await call(unpod)
    finally:
        propagate.set_global_textmap(before)
    (request,) = server.requests
    assert b"\r\nx-ok: c\r\n" in request
    for odd in (b"odd", b"Injected", b"x-empty", b"umlaut"):
        assert odd not in request


# --- switching it on ---------------------------------------------------------------------------------------


def test_by_default_nothing_is_recorded() -> None:
    assert UnpodClient("t0ken")._context.executor.observers is None


async def test_true_uses_the_global_providers() -> None:
    async with RawServer(service()) as server:
        async with UnpodClient("t0ken", base_url=server.base_url, opentelemetry=True) as unpod:
            await list_runs(unpod)
        # Without the SDK, the API has no spans, and so no context to send.
        assert sent(server, "traceparent") == [[]]


@pytest.mark.parametrize("value", [None, 1, "yes", TracerProvider])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="opentelemetry must be a bool or") as caught:
        UnpodClient("t0ken", opentelemetry=value)
    assert caught.value.argument == "opentelemetry"


async def test_views_record_with_the_telemetry_of_their_client(telemetry: Telemetry) -> None:
    async with RawServer(service()) as server, client(server, telemetry) as unpod:
        events: list[object] = []
        view = unpod.with_options(timeout=30, on_attempt=events.append)
        await list_runs(view)
        await list_runs(view.with_options(on_attempt=None))
    assert len(telemetry.attempts) == 2
    assert len(events) == 1


WITHOUT = """
import asyncio, importlib, pkgutil, sys

sys.modules["opentelemetry"] = None  # as if it were not installed

import unpod_async
from unpod_async.testing import Sandbox

for name in unpod_async.__all__:
    getattr(unpod_async, name)
modules = {module.name for module in pkgutil.walk_packages(unpod_async.__path__, "unpod_async.")}
# The package mcp imports OpenTelemetry.
integrations = "unpod_async._integrations"
needing = {name for name in modules if name.startswith((f"{integrations}.otel", f"{integrations}.mcp"))}
for name in modules - needing - {"unpod_async.__main__"}:
    importlib.import_module(name)


async def main():
    events = []
    async with Sandbox(runs=2) as sandbox, sandbox.client(on_request=events.append) as unpod:
        assert await unpod.runs.list(sandbox.space_token).collect()
    assert events
    try:
        sandbox.client(opentelemetry=True)
    except unpod_async.ConfigurationError as error:
        print(error)


asyncio.run(main())
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def test_without_the_extra_all_else_works_and_the_error_says_how_to_install_it() -> None:
    done = run_python(WITHOUT)
    assert done.returncode == 0, done.stderr
    first, hint = done.stdout.splitlines()
    assert first.startswith("opentelemetry needs opentelemetry-api, which cannot be imported")
    assert hint.startswith("hint: pip install")
    assert "otel" in hint


def test_a_client_without_telemetry_does_not_import_it() -> None:
    code = (
        "import sys, unpod_async; unpod_async.UnpodClient('t', on_request=print);"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = run_python(code)
    assert done.stdout.strip() == "[]"
