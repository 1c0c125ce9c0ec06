"""`Watch`: the stream of events, one worker per space behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unpod_async._common import run_workers
from unpod_async._http import is_retryable_get, retry_after_of
from unpod_async._paging import ClientContext, SendBatch, Stream
from unpod_async._watch.clock import Clock
from unpod_async._watch.connection import ConnectionState
from unpod_async._watch.known import Known
from unpod_async._watch.poll import SpacePoll
from unpod_async._watch.schedule import Schedule
from unpod_async._watch.source import SpaceSource
from unpod_async._watch.state import WatchState, state_of
from unpod_async.errors import AuthenticationError, ConfigurationError, RunNotFound, UnpodError
from unpod_async.events import Event

__all__ = ["Watch"]

_ENDS_AT_ONCE = (AuthenticationError, ConfigurationError, RunNotFound)

_STRIKES = 3
"""Polls in a row that end in an error which asking again does not help, before it is raised."""


class Watch(Stream[Event]):
    """Events of runs and tasks: `async with unpod.runs.watch(space) as events: async for event in events`.

    Nothing is asked while an event is being dealt with: who is slow sees changes later, and loses none.
    Leaving the block stops it and waits for its requests.
    """

    def __init__(
        self,
        context: ClientContext,
        known: Mapping[str, Known],
        schedule: Schedule,
        clock: Clock,
        *,
        tasks: bool,
        chosen: frozenset[str] | None,
    ) -> None:
        super().__init__(f"watch of {len(known)} spaces" if len(known) > 1 else "watch", self._watch)
        self._context = context
        self._known = known
        self._schedule = schedule
        self._clock = clock
        self._tasks = tasks
        self._chosen = chosen
        self._polls: list[SpacePoll] = []

    @property
    def polls(self) -> int:
        """Polls that came to their end, over all spaces: a sign of life for health checks."""
        return sum(poll.polls for poll in self._polls)

    @property
    def resyncs(self) -> int:
        """Resyncs that came to their end, over all spaces."""
        return sum(poll.resyncs for poll in self._polls)

    @property
    def state(self) -> WatchState:
        """What has been told until now, this event included: a watch that starts from it tells the rest."""
        return state_of(self._known, self._chosen, tasks=self._tasks)

    def _handed_out(self, rows: Sequence[Event]) -> Iterator[Event]:
        # Known only now: what was not taken any more is told again after a restart.
        return map(self._note, rows)

    def _note(self, event: Event) -> Event:
        self._known[event.space_token].apply(event, self._clock.monotonic())
        return event

    async def _watch(self, put: SendBatch[Event]) -> None:
        spaces = iter(self._known.items())

        async def work() -> None:
            token, known = next(spaces)
            line = ConnectionState(token, put, self._clock)
            questions = SpaceSource(self._context, token, known, line.tell, self._clock, self._chosen)
            poll = SpacePoll(questions, self._schedule, tasks=self._tasks)
            self._polls.append(poll)
            failures, strikes, hint = 0, 0, None
            while True:
                try:
                    await poll.poll()
                except UnpodError as error:
                    strikes += not is_retryable_get(error, 1)
                    # What worked before may be on the mend: a strange answer in a deploy is no reason to end.
                    if (
                        isinstance(error, _ENDS_AT_ONCE)
                        or (strikes and not poll.polls)
                        or strikes == _STRIKES
                    ):
                        raise
                    failures, hint = failures + 1, retry_after_of(error)
                    await line.failed(error)
                else:
                    failures, strikes, hint = 0, 0, None
                    await line.succeeded()
                await self._clock.sleep(self._schedule.pause(failures, hint))

        await run_workers(len(self._known), work)
