"""Waiting out what passes: a bulk job wants completeness, not an answer within seconds.

The client's own repeats come first. When they are used up, or their budget is, one question decides whether
the service answers at all. It does not: everything waits, and one probe at a time asks again, until it does
or the deadline ends. It does: then it is this request that fails, and after a few more rounds it is given up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio

from unpod_async._http import Deadline, Endpoint, Reader, Request, Response, Stats, retry_after_of
from unpod_async.errors import (
    APIError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnpodError,
    UpstreamError,
)

__all__ = ["OutageRetrier", "passes"]

T = TypeVar("T")

ROUNDS = 3
"""Rounds of attempts that a request gets while the service answers others."""

LIMITED_ROUNDS = 10
"""The same where it is told to wait: a busy service may let others in first."""

LONGEST_OUTAGE = 3600.0
"""Seconds that an outage is waited out where no deadline says how long."""

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0


class OutageRetrier:
    """Sends requests as the client does, and waits out what passes.

    Args:
        caller: the client's, with its repeats.
        probe: asks the service something small, once; raises what went wrong.
        deadline: of the whole job.
        repeats: False where the client sends everything once; then nothing is waited for.
    """

    def __init__(
        self,
        caller: Reader,
        probe: Callable[[], Awaitable[object]],
        deadline: Deadline,
        *,
        repeats: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caller = caller
        self._repeats = repeats
        self._probe = probe
        self._deadline = deadline
        self._clock = clock
        self._turn = anyio.Lock()
        self._answers = 0
        self._since: float | None = None
        self._resume_at = float("-inf")
        self.over: UnpodError | None = None
        """The error with which waiting ended: nothing more can be asked."""

    @property
    def stats(self) -> Stats:
        return self._caller.stats

    @property
    def waiting(self) -> float:
        """Seconds that the service has been waited for, 0 when it answers."""
        return 0.0 if self._since is None else self._clock() - self._since

    def deadline(self) -> Deadline:
        return self._deadline

    async def read(
        self,
        endpoint: Endpoint,
        query: Mapping[str, str],
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        *,
        single_out: bool = False,
    ) -> T:
        """As `RequestExecutor.read`.

        Raises:
            UnpodError: what no waiting helps; it is `over` when nothing more can be asked.
        """
        rounds = 0
        began = self._clock()
        while True:
            if self._since is not None:
                async with self._turn:  # somebody is finding out whether the service is back
                    pass
            answers = self._answers
            try:
                found = await self._caller.read(endpoint, query, parse, deadline, single_out=single_out)
            except UnpodError as error:
                if not (self._repeats and passes(error)):
                    self._note_answer()
                    raise
                told = error
            else:
                self._note_answer()
                return found
            is_its_own = await self._outlast(told, answers, rounds)
            rounds += is_its_own
            if is_its_own and (
                rounds >= _rounds_for(told, single_out=single_out) or self._clock() - began > LONGEST_OUTAGE
            ):
                raise told

    def _note_answer(self) -> None:
        self._answers += 1
        self._since = None

    async def _outlast(self, error: UnpodError, answers: int, rounds: int) -> bool:
        """Wait until it is worth asking again; whether the service answers, save to this request."""
        if is_limited(error):
            # Before the turn comes: all who were told to wait, wait at the same time.
            self._resume_at = max(self._resume_at, self._clock() + (retry_after_of(error) or _FIRST_WAIT))
        async with self._turn:
            left = self._resume_at - self._clock()
            if left > 0:
                await self._wait(left, error)
            if self._deadline.left() <= 0:
                self._give_up(error)
            if self._answers == answers and await self._find(error):
                return False  # it was the service
        if rounds + 1 < ROUNDS and not isinstance(error, UpstreamError):
            await self._pause(random.uniform(0, _FIRST_WAIT * 2**rounds), error)  # noqa: S311 - jitter
        return True

    async def _find(self, error: UnpodError) -> bool:
        """Probe until the service answers; whether it did not at first."""
        wait = _FIRST_WAIT
        was_down = False
        while True:
            try:
                await self._probe()
            except UnpodError as fault:
                if not passes(fault):
                    raise
                error = fault
            else:
                self._note_answer()
                return was_down
            was_down = True
            await self._wait(max(retry_after_of(error) or 0.0, random.uniform(wait / 2, wait)), error)  # noqa: S311
            wait = min(2 * wait, _LONGEST_WAIT)

    async def _wait(self, seconds: float, error: UnpodError) -> None:
        """Sleep, while nobody else asks either."""
        if self._since is None:
            self._since = self._clock()
        if self._deadline.left() == float("inf") and self.waiting + seconds > LONGEST_OUTAGE:
            self._give_up(error)
        await self._pause(seconds, error)

    async def _pause(self, seconds: float, error: UnpodError) -> None:
        if seconds > self._deadline.left():
            self._give_up(error)
        await anyio.sleep(seconds)

    def _give_up(self, error: UnpodError) -> None:
        self.over = error
        raise error


def _rounds_for(error: UnpodError, *, single_out: bool) -> int:
    if is_limited(error):
        return LIMITED_ROUNDS
    # It may be one bad row, which the walk finds by itself.
    if isinstance(error, UpstreamError) or (single_out and not isinstance(error, TransportError)):
        return 1
    return ROUNDS


def is_limited(error: UnpodError) -> bool:
    """Whether the service asks to wait."""
    return isinstance(error, RateLimitedError) or retry_after_of(error) is not None


def passes(error: UnpodError) -> bool:
    """Whether it may be that the service, or the way to it, is down or busy."""
    if isinstance(error, TransportError):
        return not error.permanent
    return isinstance(error, RateLimitedError | ServerError | UpstreamError) or (
        isinstance(error, APIError) and error.status == 408
    )
