"""Spans of requests, attempts and waits. This module and `metrics` import OpenTelemetry.

The span of a request is internal, and that of an attempt is an HTTP client span: OpenTelemetry's conventions
want one of these for each request on the wire. The conventions also have `url.full`, which would contain ids
and tokens of spaces; `url.template` replaces it. Errors are recorded by their class only, because their texts
can contain ids.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Context, Token
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from unpod_async._api import OpenTelemetry
from unpod_async._http import AttemptEvent, RequestEvent, RequestTelemetry, Telemetry, WaitEvent
from unpod_async._integrations.otel.metrics import Instruments
from unpod_async._version import VERSION

__all__ = ["connect"]

_NAME: Final = "unpod_async"

_SUPPRESS: Final = "suppress_instrumentation"
"""Key that OpenTelemetry sets in a context whose requests are not to be recorded."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def connect(options: OpenTelemetry, base_url: str) -> Telemetry:
    """Return the telemetry of a client."""
    tracer = trace.get_tracer(_NAME, VERSION, options.tracer_provider)
    meter = metrics.get_meter(_NAME, VERSION, options.meter_provider)
    return _ClientTelemetry(tracer, Instruments(meter), base_url)


class _ClientTelemetry:
    """The telemetry of one client: starts that of each request."""

    def __init__(self, tracer: trace.Tracer, instruments: Instruments, base_url: str) -> None:
        url = urlsplit(base_url)
        self.tracer: Final = tracer
        self.instruments: Final = instruments
        self.root: Final = url.path
        self.server: Final[dict[str, AttributeValue]] = {
            "server.address": url.hostname or "",
            "server.port": url.port or _DEFAULT_PORTS[url.scheme],
        }

    def start(
        self, method: str, endpoint: str, deadline: float | None, caller: Context | None
    ) -> RequestTelemetry | None:
        parent = context.get_current() if caller is None else caller.run(context.get_current)
        if parent.get(_SUPPRESS):
            return None
        return _RequestSpans(self, method, endpoint, deadline, parent)

    def count_rows(self, endpoint: str, rows: Mapping[str, int]) -> None:
        self.instruments.count_rows({"url.template": self.root + endpoint, **self.server}, rows)


class _RequestSpans:
    """The spans of one request.

    The span of the request is current during waits, and that of an attempt during the attempt. So the spans
    and log records of other libraries belong to them.
    """

    def __init__(
        self,
        client: _ClientTelemetry,
        method: str,
        endpoint: str,
        deadline: float | None,
        parent: TraceContext,
    ) -> None:
        self._client = client
        template = client.root + endpoint
        self._attempt_name = f"{method} {template}"
        attributes: dict[str, AttributeValue] = {"http.request.method": method, "url.template": template}
        attributes |= client.server
        self._attributes = attributes
        self._attempt: tuple[Span, Token[TraceContext]] | None = None
        self._attempt_error: str | None = None
        limit: dict[str, AttributeValue] = {} if deadline is None else {"unpod.deadline": deadline}
        self._span = client.tracer.start_span(
            f"{method} {endpoint}", parent, attributes={**attributes, **limit}
        )
        self._context = trace.set_span_in_context(self._span, parent)
        self._token = context.attach(self._context)

    def start_attempt(self, number: int) -> Mapping[str, str]:
        attributes = self._attributes
        if number > 1:
            attributes = {**attributes, "http.request.resend_count": number - 1}
        span = self._client.tracer.start_span(self._attempt_name, self._context, SpanKind.CLIENT, attributes)
        around = trace.set_span_in_context(span, self._context)
        headers: dict[str, str] = {}
        propagate.inject(headers, around)
        self._attempt = span, context.attach(around)
        return headers

    def end_attempt(self, event: AttemptEvent) -> None:
        if self._attempt is None:
            return  # its start failed
        (span, token), self._attempt = self._attempt, None
        self._attempt_error = event.error
        result = _result(event.status, event.error, timed_out=event.timed_out)
        try:
            self._client.instruments.request_duration.record(event.seconds, {**self._attributes, **result})
        finally:
            context.detach(token)
            _end(span, result)

    def end_wait(self, event: WaitEvent) -> None:
        reason: dict[str, AttributeValue] = {"unpod.wait.reason": event.reason}
        now = time.time_ns()
        span = self._client.tracer.start_span(
            f"wait {event.reason}",
            self._context,
            attributes=reason,
            start_time=now - int(event.seconds * 1e9),
        )
        span.end(now)
        self._client.instruments.wait_duration.record(event.seconds, {**self._attributes, **reason})

    def end(self, event: RequestEvent) -> None:
        result = _result(event.status, event.error, timed_out=event.timed_out)
        if "error.type" in result and event.error != self._attempt_error:
            # It ended after its last attempt: it was cancelled while it waited, for example.
            result |= _result(None, event.error, timed_out=event.timed_out)
        try:
            self._client.instruments.operation_duration.record(event.seconds, {**self._attributes, **result})
            self._span.set_attribute("unpod.attempts", event.attempts)
        finally:
            context.detach(self._token)
            _end(self._span, result)

    def abandon(self) -> None:
        # No metrics: the garbage collector may run this while the meter has locked itself.
        result = _result(None, "GeneratorExit", timed_out=False)
        open_spans = [(self._span, self._token)]
        if self._attempt is not None:
            open_spans.insert(0, self._attempt)
        for span, token in open_spans:
            _end(span, result)
            # `context.detach` would log that this is another context.
            with suppress(ValueError):
                token.var.reset(token)


def _result(status: int | None, error: str | None, *, timed_out: bool) -> dict[str, AttributeValue]:
    """Return the attributes that describe how an attempt or a request ended."""
    result: dict[str, AttributeValue] = {}
    if status is not None:
        result["http.response.status_code"] = status
    if error is not None:
        is_http_error = status is not None and status >= 400
        result["error.type"] = str(status) if is_http_error else "timeout" if timed_out else error
    return result


def _end(span: Span, result: Mapping[str, AttributeValue]) -> None:
    span.set_attributes(result)
    if "error.type" in result:
        span.set_status(StatusCode.ERROR)
    span.end()
