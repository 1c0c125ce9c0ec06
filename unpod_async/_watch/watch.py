"""`Watch`: a stream of events, with one worker for each space."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from unpod_async._common import run_workers
from unpod_async._http import is_retryable_get
from unpod_async._paging import ClientContext, SendBatch, Stream
from unpod_async._watch.poll import SpacePoll
from unpod_async._watch.schedule import Clock, PollDelays, PollSchedule
from unpod_async._watch.source import SpaceSource
from unpod_async._watch.state import Known, WatchState, save_known
from unpod_async.errors import AuthenticationError, ConfigurationError, RunNotFound, UnpodError
from unpod_async.events import Disconnected, Event, Reconnected

__all__ = ["ConnectionState", "Watch"]

_log = logging.getLogger("unpod_async")

_ENDS_WATCH: Final = (AuthenticationError, ConfigurationError, RunNotFound)

_MAX_FINAL_ERRORS: Final = 3
"""Number of consecutive polls with an error that a retry cannot fix, after which the watch raises it."""

_MAX_INTERRUPTED: Final = 3
"""Number of consecutive interrupted polls with responses, after which the space counts as disconnected."""


class Watch(Stream[Event]):
    """The events of `runs.watch`: `async with unpod.runs.watch(space) as events: async for event in events`.

    It starts background tasks; use it with `async with`. Leaving the block stops them and waits for their
    requests. Nothing is requested while the caller handles an event: a slow caller sees changes later, but
    misses none.
    """

    def __init__(
        self,
        context: ClientContext,
        known: Mapping[str, Known],
        schedule: PollSchedule,
        clock: Clock,
        *,
        tasks: bool,
        run_ids: frozenset[str] | None,
    ) -> None:
        super().__init__(f"watch of {len(known)} spaces" if len(known) > 1 else "watch", self._watch)
        self._context = context
        self._known = known
        self._schedule = schedule
        self._clock = clock
        self._tasks = tasks
        self._run_ids = run_ids
        self._polls: list[SpacePoll] = []

    @property
    def polls(self) -> int:
        """The number of completed polls of all spaces, for health checks."""
        return sum(poll.polls for poll in self._polls)

    @property
    def resyncs(self) -> int:
        """The number of completed resyncs of all spaces."""
        return sum(poll.resyncs for poll in self._polls)

    @property
    def state(self) -> WatchState:
        """The state of the watch: everything reported so far, including the current event.

        A watch that starts with this state reports everything after it. Each access makes a copy.
        """
        return save_known(self._known, self._run_ids, tasks=self._tasks)

    def _iterate(self, rows: Sequence[Event]) -> Iterator[Event]:
        # Apply each event only now: after a restart, events that were not received are reported again.
        return map(self._apply, rows)

    def _apply(self, event: Event) -> Event:
        self._known[event.space_token].apply(event, self._clock.monotonic())
        return event

    async def _watch(self, put: SendBatch[Event]) -> None:
        spaces = iter(self._known)

        async def work() -> None:
            await self._watch_space(next(spaces), put)

        await run_workers(len(self._known), work)

    async def _watch_space(self, space_token: str, put: SendBatch[Event]) -> None:
        connection = ConnectionState(space_token, put, self._clock)
        source = SpaceSource(
            self._context, space_token, self._known[space_token], connection.emit, self._clock, self._run_ids
        )
        poll = SpacePoll(source, self._schedule, tasks=self._tasks)
        self._polls.append(poll)
        delays = PollDelays(self._schedule.interval, self._clock.random)
        final_errors = 0
        while True:
            try:
                await poll.poll()
            except UnpodError as error:
                final_errors += not is_retryable_get(error, 1)
                # After a first success, even a final error may be temporary, such as during a deployment.
                limit = _MAX_FINAL_ERRORS if poll.polls else 1
                if isinstance(error, _ENDS_WATCH) or final_errors >= limit:
                    raise
                await connection.record_interruption(error)
                delay = delays.after_failure(error)
            else:
                final_errors = 0
                await connection.record_completed_poll()
                delay = delays.after_success()
            await self._clock.sleep(delay)


class ConnectionState:
    """Reports when a space becomes unreachable and when it can be reached again.

    A space becomes disconnected if a poll gets no response at all; the next response ends this. It also
    becomes disconnected if several consecutive polls get responses but are interrupted; a complete poll ends
    this.
    """

    def __init__(self, space_token: str, put: SendBatch[Event], clock: Clock) -> None:
        self._space = space_token
        self._put = put
        self._clock = clock
        self._disconnected_at: float | None = None
        self._interrupted = 0
        self._no_response = True  # in the current poll

    async def emit(self, events: Sequence[Event]) -> None:
        """Pass on the events of a response, possibly none."""
        self._no_response = False
        if self._interrupted < _MAX_INTERRUPTED:
            await self._reconnect()
        await self._put(events)

    async def record_completed_poll(self) -> None:
        """Record that a poll completed."""
        self._interrupted, self._no_response = 0, True
        await self._reconnect()

    async def record_interruption(self, error: UnpodError) -> None:
        """Record that an error interrupted a poll."""
        if not self._no_response:
            self._interrupted += 1
            if self._interrupted == 1:
                _log.warning("a poll of space %s was interrupted: %s", self._space, error.summary)
        is_unreachable = self._no_response or self._interrupted >= _MAX_INTERRUPTED
        if is_unreachable and self._disconnected_at is None:
            self._disconnected_at = self._clock.monotonic()
            _log.warning("space %s cannot be read; polling continues: %s", self._space, error.summary)
            event = Disconnected(
                space_token=self._space,
                seen_at=self._clock.utc_now(),
                old="connected",
                new="disconnected",
                reason=error.summary,
            )
            await self._put([event])
        self._no_response = True

    async def _reconnect(self) -> None:
        if self._disconnected_at is None:
            return
        after, self._disconnected_at = self._clock.monotonic() - self._disconnected_at, None
        _log.warning("space %s can be read again after %.0f s", self._space, after)
        event = Reconnected(
            space_token=self._space,
            seen_at=self._clock.utc_now(),
            old="disconnected",
            new="connected",
            after=after,
        )
        await self._put([event])
