"""Hooks (functions of the user) and telemetry, which receive events of requests. No I/O.

`ObservedRequest` turns the steps of one request into events. `Observers` passes them to the hooks of a client
and to its telemetry, and keeps their failures away from the request.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, ParamSpec, Protocol, Self, TypeAlias, TypeVar, cast

import msgspec

from unpod_async._common import caller_context
from unpod_async._http.extra_headers import without_refused
from unpod_async.errors import ConfigurationError, TransportError

__all__ = [
    "AttemptEvent",
    "Hooks",
    "MeasuredWait",
    "NoteWait",
    "ObservedRequest",
    "Observers",
    "RequestEvent",
    "RequestTelemetry",
    "Telemetry",
    "WaitEvent",
    "WaitReason",
    "check_hook",
]

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("unpod_async")

WaitReason: TypeAlias = Literal["retry", "server_delay", "rate_limit", "concurrency", "token"]

NoteWait: TypeAlias = Callable[[WaitReason, float], None]
"""Receives the reason for a wait that has ended, and its seconds."""


class RequestEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A request has ended, with all its attempts and waits: the argument of the hook `on_request`.

    A request is one page of a listing, one object, or one create. No attribute contains an id, a query, a
    header or a text of the server.

    Attributes:
        method: HTTP method, such as "GET".
        endpoint: path with names in place of ids, such as "spaces/{space_token}/runs/".
        attempts: number of attempts; 0 if the request could not start.
        status: HTTP status of the last response, or None if there was none.
        error: name of the error class, such as "ServerError" or "CancelledError", or None after a success.
        timed_out: whether the last attempt took longer than `timeout`, or the deadline ended the request.
        seconds: duration, including waits.
        waited: seconds that the request spent in waits.
        bytes: size of the body of the last response after decompression, or None.
    """

    method: str
    endpoint: str
    attempts: int
    status: int | None
    error: str | None
    timed_out: bool
    seconds: float
    waited: float
    bytes: int | None


class AttemptEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a request has ended: the argument of the hook `on_attempt`.

    Attributes:
        method: HTTP method, such as "GET".
        endpoint: path with names in place of ids, such as "spaces/{space_token}/runs/".
        attempt: 1 for the first attempt, 2 for the first retry.
        status: HTTP status, or None if no response arrived.
        error: name of the error class, such as "RateLimitedError", or None after a success.
        timed_out: whether the attempt took longer than `timeout` or than the deadline.
        seconds: duration from the start of sending until the response was decoded, without waits.
        bytes: size of the response body after decompression, or None.
    """

    method: str
    endpoint: str
    attempt: int
    status: int | None
    error: str | None
    timed_out: bool
    seconds: float
    bytes: int | None


class WaitEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A wait of a request has ended or was cut short: the argument of the hook `on_wait`.

    ==============  ==================================================================================
    `reason`        The request waited
    ==============  ==================================================================================
    "retry"         for the delay before a retry
    "server_delay"  because the server asked all requests to wait, with a 429 or a 503
    "rate_limit"    because of `rate_limit`
    "concurrency"   for a free slot of `max_concurrency`
    "token"         for the `token_provider`
    ==============  ==================================================================================

    Attributes:
        method: HTTP method, such as "GET".
        endpoint: path with names in place of ids, such as "spaces/{space_token}/runs/".
        attempt: number of the attempt that had to wait.
        reason: why, as in the table.
        seconds: duration of the wait.
        status: HTTP status of the previous attempt, or None.
        error: name of the error class of the previous attempt; None for the first attempt.
    """

    method: str
    endpoint: str
    attempt: int
    reason: WaitReason
    seconds: float
    status: int | None
    error: str | None


class MeasuredWait:
    """A block that waits. Its end is noted, also if it was cut short.

    Args:
        reason: why it waits.
        note: receives the reason and the seconds; None if there are no hooks and no telemetry.
        clock: monotonic seconds.

    Attributes:
        seconds: the duration, once the block has ended.
    """

    __slots__ = ("_began", "_clock", "_note", "_reason", "seconds")

    def __init__(
        self, reason: WaitReason, note: NoteWait | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = 0.0
        self._reason: WaitReason = reason
        self._note = note
        self._clock = clock

    def __enter__(self) -> Self:
        self._began = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.seconds = self._clock() - self._began
        # After a GeneratorExit, the task was destroyed, and this may run in any context.
        if self._note is not None and kind is not GeneratorExit:
            self._note(self._reason, self.seconds)


class Hooks(NamedTuple):
    """The hooks of a client or a view: see `UnpodClient`."""

    on_request: Callable[[RequestEvent], None] | None = None
    on_attempt: Callable[[AttemptEvent], None] | None = None
    on_wait: Callable[[WaitEvent], None] | None = None


_NOT_PLAIN: Final[Mapping[str, Callable[[object], bool]]] = {
    "an async function": lambda hook: inspect.iscoroutinefunction(hook) or inspect.isasyncgenfunction(hook),
    "a generator function": inspect.isgeneratorfunction,
}
"""Functions that do nothing when they are called."""


def check_hook(name: str, hook: T) -> T:
    """Return a hook.

    Raises:
        ConfigurationError: it is neither None nor a plain function.
    """
    if hook is not None and not callable(hook):
        raise ConfigurationError(
            f"{name} must be a function or None, not {type(hook).__name__}",
            argument=name,
            hint=f"write {name}=function, without calling the function",
        )
    call: Any = getattr(type(hook), "__call__", None)  # noqa: B004 - of an object, which may be async
    for kind, is_kind in _NOT_PLAIN.items():
        if is_kind(hook) or is_kind(call):
            raise ConfigurationError(
                f"{name} must not be {kind}",
                argument=name,
                hint="use a plain function; it can put the event into an asyncio.Queue",
            )
    return hook


class RequestTelemetry(Protocol):
    """Receives what happens to one request. All methods are called in its task."""

    def start_attempt(self, number: int) -> Mapping[str, str]:
        """Note that an attempt starts. Returns headers to send with it."""
        ...

    def end_attempt(self, event: AttemptEvent) -> None: ...

    def end_wait(self, event: WaitEvent) -> None: ...

    def end(self, event: RequestEvent) -> None: ...

    def abandon(self) -> None:
        """Note that the task was destroyed before its end. This may be called in any thread and context."""
        ...


class Telemetry(Protocol):
    """Receives what happens to all requests of a client."""

    def start(
        self, method: str, endpoint: str, deadline: float | None, caller: Context | None
    ) -> RequestTelemetry | None:
        """Note that a request starts.

        Args:
            deadline: the seconds that it has, or None.
            caller: the context of the caller, if the request runs in a background task; else None.
        """
        ...

    def count_rows(self, endpoint: str, rows: Mapping[str, int]) -> None:
        """Count the rows of a page by what happened to them."""
        ...


class Observers:
    """The hooks and the telemetry of a client or of a view.

    Attributes:
        hooks: the functions of the user.
        telemetry: None if it is not used.
    """

    def __init__(self, hooks: Hooks, telemetry: Telemetry | None) -> None:
        self.hooks: Final = hooks
        self.telemetry: Final = telemetry
        self._failed: set[str] = set()

    @classmethod
    def create(cls, hooks: Hooks, telemetry: Telemetry | None) -> Observers | None:
        """Return the observers, or None if there is neither a hook nor telemetry."""
        return None if telemetry is None and not any(hooks) else cls(hooks, telemetry)

    def call(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call a hook or telemetry and return its result. It raises nothing; the first failure is logged."""
        in_flight = sys.exception()
        try:
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("a hook must be a plain function, but this one returned a coroutine")
        # A hook must not change what happens to a request. It raises CancelledError without a cancellation,
        # for example, if it asks a cancelled future for its result.
        except (Exception, asyncio.CancelledError) as fault:  # noqa: BLE001
            if name not in self._failed:
                self._failed.add(name)
                _remove_from_chain(fault, in_flight)
                _log.error(
                    "%s failed; requests continue, and further failures of it are not logged",
                    name,
                    exc_info=None if fault is in_flight else fault,
                )
            return None
        return result

    def count_rows(self, endpoint: str, rows: Mapping[str, int]) -> None:
        """Count the rows of a page."""
        if self.telemetry is not None:
            self.call("opentelemetry", self.telemetry.count_rows, endpoint, rows)


def _remove_from_chain(fault: BaseException, in_flight: BaseException | None) -> None:
    """Remove the error of a request from the context of the error of a hook.

    The frames of its traceback hold the response, and with it personal data.
    """
    seen: set[int] = set()
    chain: list[BaseException | None] = [] if in_flight is None else [fault]
    while chain:
        error = chain.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        if error.__context__ is in_flight:
            error.__context__ = None
        if error.__cause__ is in_flight:
            error.__cause__ = None
        chain += [error.__context__, error.__cause__]
        if isinstance(error, BaseExceptionGroup):
            chain += cast("BaseExceptionGroup[BaseException]", error).exceptions


class _Outcome(NamedTuple):
    """How an attempt or a request ended."""

    error: str | None = None
    timed_out: bool = False


_SUCCESS: Final = _Outcome()


def _outcome(error: BaseException | None) -> _Outcome:
    if error is None:
        return _SUCCESS
    return _Outcome(type(error).__name__, isinstance(error, TransportError) and error.timed_out)


class ObservedRequest:
    """One request with its attempts and waits: a block around the request, which makes the events.

    Args:
        observers: receive the events.
        method: HTTP method.
        endpoint: the path with names in place of ids.
        deadline: the seconds that the request has, or None.
        clock: monotonic seconds.

    Attributes:
        headers: headers to send with the current attempt.
    """

    __slots__ = (
        "_attempt_began",
        "_attempts",
        "_began",
        "_bytes",
        "_caller",
        "_clock",
        "_endpoint",
        "_method",
        "_observers",
        "_previous",
        "_status",
        "_telemetry",
        "_waited",
        "headers",
    )

    def __init__(
        self,
        observers: Observers,
        method: str,
        endpoint: str,
        deadline: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.headers: Mapping[str, str] = {}
        self._observers = observers
        self._method = method
        self._endpoint = endpoint
        self._clock = clock
        self._attempts = 0
        self._waited = 0.0
        self._status: int | None = None
        self._bytes: int | None = None
        self._previous = _SUCCESS
        self._caller = caller_context()
        self._telemetry: RequestTelemetry | None = None
        self._began = self._attempt_began = clock()
        if observers.telemetry is not None:
            self._telemetry = observers.call(
                "opentelemetry", observers.telemetry.start, method, endpoint, deadline, self._caller
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is GeneratorExit:
            # The task was destroyed, and this may run in any thread and context, where no hook expects it.
            if self._telemetry is not None:
                self._observers.call("opentelemetry", self._telemetry.abandon)
            return
        error_name, timed_out = _outcome(error)
        event = RequestEvent(
            method=self._method,
            endpoint=self._endpoint,
            attempts=self._attempts,
            status=self._status,
            error=error_name,
            timed_out=timed_out,
            seconds=self._clock() - self._began,
            waited=self._waited,
            bytes=self._bytes,
        )
        self._call_hook("on_request", self._observers.hooks.on_request, event)
        if self._telemetry is not None:
            self._observers.call("opentelemetry", self._telemetry.end, event)

    def start_attempt(self) -> None:
        """Note that an attempt starts."""
        self._attempts += 1
        self._status = self._bytes = None
        self._attempt_began = self._clock()
        if self._telemetry is not None:
            headers = self._observers.call("opentelemetry", self._telemetry.start_attempt, self._attempts)
            self.headers = without_refused(headers or {})

    def note_response(self, status: int, size: int) -> None:
        """Note the response to the current attempt, whose body has `size` bytes."""
        self._status, self._bytes = status, size

    def end_attempt(self, error: BaseException | None) -> None:
        """Note that the attempt has ended, with an error or None."""
        if isinstance(error, GeneratorExit):
            return
        self._previous = outcome = _outcome(error)
        event = AttemptEvent(
            method=self._method,
            endpoint=self._endpoint,
            attempt=self._attempts,
            status=self._status,
            error=outcome.error,
            timed_out=outcome.timed_out,
            seconds=self._clock() - self._attempt_began,
            bytes=self._bytes,
        )
        self._call_hook("on_attempt", self._observers.hooks.on_attempt, event)
        if self._telemetry is not None:
            self._observers.call("opentelemetry", self._telemetry.end_attempt, event)

    def note_wait(self, reason: WaitReason, seconds: float) -> None:
        """Note that a wait has ended."""
        self._waited += seconds
        event = WaitEvent(
            method=self._method,
            endpoint=self._endpoint,
            attempt=self._attempts + 1,
            reason=reason,
            seconds=seconds,
            status=self._status,
            error=self._previous.error,
        )
        self._call_hook("on_wait", self._observers.hooks.on_wait, event)
        if self._telemetry is not None:
            self._observers.call("opentelemetry", self._telemetry.end_wait, event)

    def _call_hook(self, name: str, hook: Callable[[T], None] | None, event: T) -> None:
        if hook is None:
            return
        if self._caller is None:
            self._observers.call(name, hook, event)
        else:
            self._observers.call(name, self._caller.run, hook, event)
