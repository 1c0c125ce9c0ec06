"""The one loop that decides about every attempt of every request."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Protocol, TypeVar

import anyio
import backoff
import msgspec

from unpod_async._http.admission import RequestLimiter, Slots
from unpod_async._http.deadline import Deadline
from unpod_async._http.endpoints import Endpoint
from unpod_async._http.lifecycle import ClientLifecycle
from unpod_async._http.options import Options
from unpod_async._http.responses import Request, Response, redacted
from unpod_async._http.retry import (
    DEFAULT_RETRY,
    Jitter,
    backoff_delays,
    is_retryable_create,
    is_retryable_get,
    retry_after_of,
    wait_for,
)
from unpod_async._http.retry_budget import RetryBudget
from unpod_async._http.secret import Secret
from unpod_async._http.sessions import SentFlag
from unpod_async._http.stats import Stats
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


class Reader(Protocol):
    """What a walk needs of whoever sends its requests."""

    @property
    def stats(self) -> Stats: ...

    def deadline(self) -> Deadline: ...

    async def read(
        self,
        endpoint: Endpoint,
        query: Mapping[str, str],
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        *,
        single_out: bool = False,
    ) -> T: ...


class RequestExecutor(msgspec.Struct, frozen=True):
    """Sends requests under the client's limits. Views share everything but options and their own slots."""

    lifetime: ClientLifecycle
    transport: Transport
    admission: RequestLimiter
    budget: RetryBudget
    stats: Stats
    slots: tuple[Slots, ...]
    options: Options
    jitter: Jitter = backoff.full_jitter

    def with_options(self, options: Options, max_concurrency: int | None) -> RequestExecutor:
        share = () if max_concurrency is None else (Slots(max_concurrency),)
        return msgspec.structs.replace(self, options=options, slots=(*share, *self.slots))

    def deadline(self) -> Deadline:
        """A clock for one call or walk; it starts with the first request."""
        return Deadline(self.options.deadline)

    async def read(
        self,
        endpoint: Endpoint,
        query: Mapping[str, str],
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        *,
        single_out: bool = False,
    ) -> T:
        """One GET, repeated as the policy allows, and what `parse` makes of its answer.

        `single_out` looks for the row that breaks a page: an answer that such a row can explain is final.

        Raises:
            UnpodError: the error of the last attempt, with `attempts`.
            TransportError: the client was closed meanwhile, and the time for that was over.
            ConfigurationError: the client is closed, or belongs to another loop or process.
        """
        sent = SentFlag()

        def may_repeat(error: UnpodError, made: int) -> bool:
            blame_row = single_out and not isinstance(error, TransportError) and retry_after_of(error) is None
            return not blame_row and is_retryable_get(error, made)

        def send(timeout: float) -> Awaitable[Response]:
            sent.sent = True  # more is known of a create only, where it matters
            return self.transport.get(endpoint.path, query, timeout)

        return await self._perform("GET", endpoint, send, parse, may_repeat, deadline, sent)

    async def create(
        self,
        endpoint: Endpoint,
        body: bytes,
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        sent: SentFlag,
    ) -> T:
        """One POST, sent again only when it certainly never left or was turned away by a 429."""

        async def send(timeout: float) -> Response:
            sent.sent = False
            response = await self.transport.post(endpoint.path, body, timeout, sent)
            if response.status in (401, 429):
                sent.sent = False  # turned away at the door: nothing of it is queued
            return response

        return await self._perform("POST", endpoint, send, parse, is_retryable_create, deadline, sent)

    async def _perform(
        self,
        method: str,
        endpoint: Endpoint,
        send: Callable[[float], Awaitable[Response]],
        parse: Callable[[Request, Response], T],
        may_repeat: Callable[[UnpodError, int], bool],
        deadline: Deadline,
        sent: SentFlag,
    ) -> T:
        made: list[Attempt] = []
        with self.lifetime.call() as call:
            try:
                return await self._repeat(method, endpoint, send, parse, may_repeat, deadline, made)
            except (TransportError, ConfigurationError):
                # What comes of closed connections, before the end is heard of.
                if not call.ended:
                    raise
        left = "" if sent.sent else "; nothing was sent"
        error = TransportError(
            f"{method} /{endpoint.path}: the client was closed while this request was under way{left}",
            sent=sent.sent,
            permanent=True,
        )
        error.attempts = tuple(made)
        raise error

    async def _repeat(
        self,
        method: str,
        endpoint: Endpoint,
        send: Callable[[float], Awaitable[Response]],
        parse: Callable[[Request, Response], T],
        may_repeat: Callable[[UnpodError, int], bool],
        deadline: Deadline,
        made: list[Attempt],
    ) -> T:
        policy = self.options.retry
        drawn: Iterator[float] | None = None
        paid = 0
        renewed = False
        request = self.transport.request(method, endpoint.path)
        self.stats.requests += 1
        deadline.start()
        while True:
            try:
                probe = await self.admission.enter(self.slots, deadline)
            except TransportError as over:
                over.attempts = tuple(made)
                raise
            token = self.transport.token
            try:
                found = await self._attempt(method, endpoint, request, send, parse, deadline, probe=probe)
            except UnpodError as fault:
                error = fault
            else:
                self.budget.succeed(paid)
                return found
            made.append(_attempt_of(error))
            error.attempts = tuple(made)
            if isinstance(error, AuthenticationError) and not renewed:
                with anyio.move_on_after(deadline.left()):
                    renewed = await self.transport.renew(token)
                if renewed:
                    continue
            if policy is None or len(made) >= policy.attempts or not may_repeat(error, len(made)):
                break
            hint = retry_after_of(error)
            if hint is not None and hint > policy.max_retry_after:
                break
            drawn = drawn or backoff_delays(policy, self.jitter)
            wait = wait_for(next(drawn), hint, self.jitter)
            if wait > deadline.left():
                break
            cost = self.budget.spend(after_timeout=isinstance(error, TransportError) and error.timed_out)
            if not cost:
                break
            paid += cost
            made[-1] = made[-1]._replace(wait=wait)
            await self._pause(method, endpoint, error, len(made), wait)
        # The frames below hold the answer, and so whatever is in its rows.
        raise error.with_traceback(None)

    async def _attempt(
        self,
        method: str,
        endpoint: Endpoint,
        request: Request,
        send: Callable[[float], Awaitable[Response]],
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        *,
        probe: bool,
    ) -> T:
        began = time.monotonic()
        answered = False
        status: object = "no answer"
        try:
            self.stats.attempts += 1
            token = self.transport.token
            # Never 0, which is no limit to aiohttp.
            response = await send(max(0.001, min(self.options.timeout, deadline.left())))
            status = response.status
            self.stats.bytes += len(response.body)
            found = _parsed(parse, request, response, token)
            answered = True
        except UnpodError as error:
            answered = not isinstance(error, TransportError) and self._heed(error)
            raise
        finally:
            self.admission.leave(self.slots, probe=probe, answered=answered)
            if _log.isEnabledFor(logging.DEBUG):
                spent = (time.monotonic() - began) * 1000
                _log.debug("%s %s: %s in %.0f ms", method, endpoint.template, status, spent)
        return found

    def _heed(self, error: UnpodError) -> bool:
        """Close the gate where the server asks to wait; whether it did not."""
        hint = retry_after_of(error)
        limited = isinstance(error, APIError) and error.status == 429
        if hint is None and not limited:
            return True
        policy = self.options.retry
        pause = hint if hint is not None else (policy.base if policy is not None else 0.0)
        # Never longer than a request would be let wait: beyond that, calls fail at once and on their own.
        longest = (policy or DEFAULT_RETRY).max_retry_after
        if self.admission.close(min(pause, longest)):
            _log.warning("the server asks for a pause of %.1f s: no request starts before", pause)
        return False

    async def _pause(
        self, method: str, endpoint: Endpoint, error: UnpodError, made: int, wait: float
    ) -> None:
        cause = str(error.status) if isinstance(error, APIError) else type(error).__name__
        self.stats.retries[cause] += 1
        _log.warning("%s %s: %s, attempt %d; again in %.2f s", method, endpoint.template, cause, made, wait)
        began = time.monotonic()
        await anyio.sleep(wait)
        self.stats.waited += time.monotonic() - began


def _parsed(
    parse: Callable[[Request, Response], T], request: Request, response: Response, token: Secret
) -> T:
    try:
        return parse(request, response)
    except UnpodError:
        pass
    # What is wrong is said once more, of the answer without the token.
    return parse(request, redacted(response, token))


def _attempt_of(error: UnpodError) -> Attempt:
    return Attempt(error.status if isinstance(error, APIError) else None, type(error).__name__, 0.0)
