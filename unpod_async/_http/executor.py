"""Send a request under the client's limits and retry it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

import anyio
import backoff
import msgspec

from unpod_async._common import TimeLimit
from unpod_async._http.endpoints import Endpoint
from unpod_async._http.extra_headers import ExtraHeaders
from unpod_async._http.hooks import Hooks, MeasuredWait, NoteWait, ObservedRequest, Observers
from unpod_async._http.lifecycle import ClientLifecycle
from unpod_async._http.limits import Permit, RequestLimiter
from unpod_async._http.responses import Request, Response, redact_error, redact_response
from unpod_async._http.retry import (
    DEFAULT_RETRY,
    Jitter,
    RetryBudget,
    RetrySchedule,
    is_internal_error,
    is_retryable_create,
    is_retryable_get,
    is_retryable_write,
    policy_in_effect,
    retry_after_of,
)
from unpod_async._http.secret import Secret
from unpod_async._http.sessions import SentFlag
from unpod_async._http.settings import RequestOptions
from unpod_async._http.stats import Stats
from unpod_async._http.timeouts import Deadline
from unpod_async._http.transport import Transport
from unpod_async.errors import (
    APIError,
    Attempt,
    AuthenticationError,
    ConfigurationError,
    TransportError,
    UnpodError,
)

__all__ = ["Reader", "RequestExecutor"]

T = TypeVar("T")

_log = logging.getLogger("unpod_async")

_NO_HEADERS: Final[Mapping[str, str]] = {}


class Reader(Protocol):
    """The methods that a listing needs to send its requests."""

    def deadline(self) -> Deadline: ...

    def count_page(
        self,
        endpoint: Endpoint,
        *,
        rows: int,
        rejected: int,
        unreadable: int,
        repeated: int,
        undated: int = 0,
    ) -> None: ...

    def count_drift(self, model: str, fields: Sequence[str]) -> None: ...

    def redact(self, data: bytes) -> bytes: ...

    async def read(
        self,
        endpoint: Endpoint,
        query: Mapping[str, str],
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        *,
        single_out: bool = False,
        can_split: bool = False,
    ) -> T: ...


class _RetriedRequest(Generic[T]):
    """One request with all its attempts.

    Attributes:
        request: method and path, for error messages.
        send: makes one attempt; takes its timeout in seconds, and headers to add.
        parse: converts a response to the result, or raises its error.
        is_retryable: takes an error and the number of attempts; returns whether to retry.
        attempts: the failed attempts.
        started: whether an attempt was started.
        sent: for a create, whether an attempt may have left this machine.
        observed: makes the events for hooks and telemetry; None if there are none.
    """

    __slots__ = (
        "attempts",
        "deadline",
        "endpoint",
        "is_retryable",
        "observed",
        "parse",
        "request",
        "send",
        "sent",
        "started",
    )

    def __init__(
        self,
        request: Request,
        endpoint: Endpoint,
        send: Callable[[float, Mapping[str, str]], Awaitable[Response]],
        parse: Callable[[Request, Response], T],
        is_retryable: Callable[[UnpodError, int], bool],
        deadline: Deadline,
        sent: SentFlag | None = None,
    ) -> None:
        self.request = request
        self.endpoint = endpoint
        self.send = send
        self.parse = parse
        self.is_retryable = is_retryable
        self.deadline = deadline
        self.attempts: list[Attempt] = []
        self.sent = sent
        self.started = False
        self.observed: ObservedRequest | None = None

    def note_failure(self, error: UnpodError) -> None:
        status = error.status if isinstance(error, APIError) else None
        self.attempts.append(Attempt(status, type(error).__name__, 0.0))
        error.attempts = tuple(self.attempts)

    def note_delay(self, delay: float) -> None:
        self.attempts[-1] = self.attempts[-1]._replace(wait=delay)

    @property
    def note_wait(self) -> NoteWait | None:
        """Receives the waits of this request; None if there are no hooks and no telemetry."""
        return None if self.observed is None else self.observed.note_wait


class RequestExecutor(msgspec.Struct, frozen=True):
    """Sends requests under the client's limits.

    The executor of a view shares everything but the options with the executor of its client. It can have a
    semaphore of its own in addition to that of the client.
    """

    lifecycle: ClientLifecycle
    transport: Transport
    limiter: RequestLimiter
    budget: RetryBudget
    stats: Stats
    semaphores: tuple[anyio.Semaphore, ...]
    options: RequestOptions
    jitter: Jitter = backoff.full_jitter
    retry_level: int = logging.WARNING
    observers: Observers | None = None
    clock: Callable[[], float] = time.monotonic

    def with_hooks(self, hooks: Hooks) -> RequestExecutor:
        """Return the executor of a view with other hooks."""
        telemetry = None if self.observers is None else self.observers.telemetry
        return msgspec.structs.replace(self, observers=Observers.create(hooks, telemetry))

    @property
    def hooks(self) -> Hooks:
        """The hooks of the client or the view."""
        return Hooks() if self.observers is None else self.observers.hooks

    def with_options(self, options: RequestOptions, max_concurrency: int | None) -> RequestExecutor:
        """Return the executor of a view; `max_concurrency` limits its requests, None adds no limit."""
        own = () if max_concurrency is None else (anyio.Semaphore(max_concurrency),)
        return msgspec.structs.replace(self, options=options, semaphores=(*own, *self.semaphores))

    def deadline(self) -> Deadline:
        """Return the deadline of one call or listing; its clock starts with the first request."""
        return Deadline(self.options.deadline, self.clock)

    def count_page(
        self,
        endpoint: Endpoint,
        *,
        rows: int,
        rejected: int,
        unreadable: int,
        repeated: int,
        undated: int = 0,
    ) -> None:
        """Add the rows of one page of a listing to the counters; the arguments are named as in `Stats`."""
        stats = self.stats
        stats.rows += rows
        stats.rejected += rejected
        stats.unreadable += unreadable
        stats.repeated += repeated
        stats.undated += undated
        if self.observers is not None:
            counts = {"returned": rows, "rejected": rejected, "unreadable": unreadable, "repeated": repeated}
            self.observers.count_rows(endpoint.template, counts)

    def count_drift(self, model: str, fields: Sequence[str]) -> None:
        """Count values of a type other than documented, and log the name of each field once."""
        for name, count in Counter(f"{model}.{field}" for field in fields).items():
            if name not in self.stats.drift:
                _log.warning(
                    "%s does not have the documented type, so it is None; raw() returns the value "
                    "(logged once, counted in stats.drift)",
                    name,
                )
            self.stats.drift[name] += count

    def redact(self, data: bytes) -> bytes:
        """Return `data` without the token of the client and the values of its extra headers."""
        data = self.transport.token.redact_bytes(data)
        extra = self.options.headers
        return data if extra is None else extra.redact_bytes(data)

    async def read(
        self,
        endpoint: Endpoint,
        query: Mapping[str, str],
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        *,
        single_out: bool = False,
        can_split: bool = False,
    ) -> T:
        """Send a GET, with retries, and return the result of `parse`.

        Args:
            single_out: do not retry an error that a single broken row can explain. Used to find that row.
            can_split: do not retry a 500, because the caller reads the same rows in smaller pages.

        Raises:
            UnpodError: the error of the last attempt, with `attempts`.
            TransportError: the client was closed meanwhile and its grace period is over.
            ConfigurationError: the client is closed, or belongs to another event loop or process.
        """

        def is_retryable(error: UnpodError, attempts: int) -> bool:
            if single_out and not isinstance(error, TransportError) and retry_after_of(error) is None:
                return False
            if can_split and is_internal_error(error):
                return False
            return is_retryable_get(error, attempts)

        def send(timeout: float, trace: Mapping[str, str]) -> Awaitable[Response]:
            return self.transport.get(endpoint.path, query, timeout, self.options.headers, trace)

        request = Request("GET", f"/{endpoint.path}", self.transport.auth_scheme, hints=endpoint.hints)
        return await self._run(_RetriedRequest(request, endpoint, send, parse, is_retryable, deadline))

    async def create(
        self,
        endpoint: Endpoint,
        body: bytes,
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        sent: SentFlag,
    ) -> T:
        """Send a POST that creates calls. It is retried only if it was not sent, or refused with a 429.

        Args:
            sent: set if the request may have been processed. It can be read even after a cancellation.
        """
        return await self.write("POST", endpoint, {}, body, parse, deadline, sent, is_retryable_create)

    async def write(
        self,
        method: str,
        endpoint: Endpoint,
        query: Mapping[str, str],
        body: bytes | None,
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        sent: SentFlag,
        is_retryable: Callable[[UnpodError, int], bool] = is_retryable_write,
    ) -> T:
        """Send a POST, PUT, PATCH or DELETE. By default it is retried only if it certainly was not sent.

        Args:
            body: JSON, or None.
            sent: set if the request may have been processed. It can be read even after a cancellation.
        """

        async def send(timeout: float, trace: Mapping[str, str]) -> Response:
            sent.sent = False
            response = await self.transport.write(
                method, endpoint.path, query, body, timeout, sent, self.options.headers, trace
            )
            if response.status in (401, 429):
                sent.sent = False  # refused before the server looked at it: nothing is queued
            return response

        request = Request(method, f"/{endpoint.path}", self.transport.auth_scheme, hints=endpoint.hints)
        return await self._run(_RetriedRequest(request, endpoint, send, parse, is_retryable, deadline, sent))

    def _run(self, call: _RetriedRequest[T]) -> Awaitable[T]:
        """Send a request. Raises TransportError if the client is closed meanwhile."""
        return self._run_in_flight(call) if self.observers is None else self._observe(call, self.observers)

    async def _observe(self, call: _RetriedRequest[T], observers: Observers) -> T:
        with ObservedRequest(
            observers, call.request.method, call.endpoint.template, call.deadline.seconds
        ) as call.observed:
            return await self._run_in_flight(call)

    async def _run_in_flight(self, call: _RetriedRequest[T]) -> T:
        with self.lifecycle.request() as in_flight:
            try:
                return await self._send_with_retries(call)
            except (TransportError, ConfigurationError):
                # Closing the client closes connections, and their errors may come before the cancellation.
                if not in_flight.cancelled:
                    raise
        sent = call.started if call.sent is None else call.sent.sent
        error = TransportError(
            f"{call.request.method} {call.request.path}: the client was closed during this request"
            + ("" if sent else "; nothing was sent"),
            sent=sent,
            permanent=True,
        )
        error.attempts = tuple(call.attempts)
        raise error

    async def _send_with_retries(self, call: _RetriedRequest[T]) -> T:
        schedule: RetrySchedule | None = None
        has_new_token = False
        self.stats.requests += 1
        while True:
            try:
                permit = await self.limiter.acquire(self.semaphores, call.deadline, call.note_wait)
            except TransportError as late:
                late.attempts = tuple(call.attempts)
                raise
            token = self.transport.token
            try:
                if call.observed is None:
                    result = await self._attempt(call, permit)
                else:
                    result = await self._observe_attempt(call, permit, call.observed)
            except UnpodError as failure:
                error = failure
            else:
                if not self.budget.is_full:
                    self.budget.deposit(0 if schedule is None else schedule.cost)
                return result
            call.note_failure(error)
            if schedule is None:
                schedule = RetrySchedule.from_policy(
                    self.options.retry, jitter=self.jitter, deadline=call.deadline, budget=self.budget
                )
            if isinstance(error, AuthenticationError) and not has_new_token:
                has_new_token = await self._renew(call, token)
                if has_new_token:
                    schedule.retry_at_once()
                    continue
                error.hint = self.transport.renewal_problem or error.hint
            delay = schedule.next_delay(
                retryable=call.is_retryable(error, len(call.attempts)),
                retry_after=retry_after_of(error),
                timed_out=isinstance(error, TransportError) and error.timed_out,
            )
            if delay is None:
                break
            call.note_delay(delay)
            await self._sleep(call, error, delay)
        # The frames of the traceback hold the response, and with it personal data.
        raise error.with_traceback(None)

    async def _renew(self, call: _RetriedRequest[T], refused: Secret) -> bool:
        """Get a new token within the deadline. Returns whether there is another token to try."""
        if not self.transport.can_renew:
            return False
        has_new_token = False
        with MeasuredWait("token", call.note_wait):
            async with TimeLimit(call.deadline.left()):
                has_new_token = await self.transport.renew(refused)
        return has_new_token

    async def _observe_attempt(
        self, call: _RetriedRequest[T], permit: Permit, observed: ObservedRequest
    ) -> T:
        observed.start_attempt()
        try:
            result = await self._attempt(call, permit)
        except BaseException as error:
            observed.end_attempt(error)
            raise
        observed.end_attempt(None)
        return result

    async def _attempt(self, call: _RetriedRequest[T], permit: Permit) -> T:
        began = time.monotonic()
        accepted = False
        status: object = "no response"
        try:
            self.stats.attempts += 1
            call.started = True
            token = self.transport.token
            # Never 0, which means no limit to aiohttp.
            seconds = max(0.001, min(self.options.timeout, permit.seconds_left))
            response = await call.send(
                seconds, _NO_HEADERS if call.observed is None else call.observed.headers
            )
            status = response.status
            self.stats.bytes += len(response.body)
            if call.observed is not None:
                call.observed.note_response(status, len(response.body))
            result = _parse(call, response, token, self.options.headers)
            accepted = True
        except UnpodError as error:
            accepted = not isinstance(error, TransportError) and not self._is_rate_limited(error)
            raise
        finally:
            self.limiter.release(self.semaphores, is_probe=permit.is_probe, accepted=accepted)
            if _log.isEnabledFor(logging.DEBUG):
                milliseconds = (time.monotonic() - began) * 1000
                _log.debug(
                    "%s %s: %s in %.0f ms",
                    call.request.method,
                    call.endpoint.template,
                    status,
                    milliseconds,
                )
        return result

    def _is_rate_limited(self, error: UnpodError) -> bool:
        """Return whether the server asks for a delay; if so, close the gate for that time."""
        retry_after = retry_after_of(error)
        if retry_after is None and not (isinstance(error, APIError) and error.status == 429):
            return False
        policy = policy_in_effect(self.options.retry)
        pause = retry_after if retry_after is not None else (policy.base if policy is not None else 0.0)
        # Each call raises at once if the server asks for a longer delay than max_retry_after.
        longest = (policy or DEFAULT_RETRY).max_retry_after
        if self.limiter.close_gate(min(pause, longest)):
            _log.warning("the server asks for a delay of %.1f s: no request starts before it is over", pause)
        return True

    async def _sleep(self, call: _RetriedRequest[T], error: UnpodError, delay: float) -> None:
        cause = str(error.status) if isinstance(error, APIError) else type(error).__name__
        self.stats.retries[cause] += 1
        _log.log(
            self.retry_level,
            "%s %s: attempt %d failed: %s; next attempt in %.2f s",
            call.request.method,
            call.endpoint.template,
            len(call.attempts),
            cause,
            delay,
        )
        wait = MeasuredWait("retry", call.note_wait)
        try:
            with wait:
                await anyio.sleep(delay)
        finally:
            self.stats.waited += wait.seconds


def _parse(call: _RetriedRequest[T], response: Response, token: Secret, extra: ExtraHeaders | None) -> T:
    try:
        return call.parse(call.request, response)
    except UnpodError:
        pass
    # Create the error again, from the response without the token.
    secrets = (token,) if extra is None else (token, *extra.secrets)
    for secret in secrets:
        response = redact_response(response, secret)
    try:
        return call.parse(call.request._replace(jwt_expiry=token.jwt_expiry()), response)
    except UnpodError as error:
        for secret in secrets:
            redact_error(error, secret)
        raise
