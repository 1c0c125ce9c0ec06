"""`Watch`: the stream of events, one worker per space behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unpod_async._core import Core
from unpod_async._policy import hint_of, may_repeat_read
from unpod_async._stream import Put, Stream, run_workers
from unpod_async._watch._clock import Clock
from unpod_async._watch._known import Known
from unpod_async._watch._line import Line
from unpod_async._watch._questions import Questions
from unpod_async._watch._schedule import Schedule
from unpod_async._watch._space import SpacePoll
from unpod_async._watch._state import WatchState, told_of
from unpod_async.errors import UnpodError
from unpod_async.events import Event

__all__ = ["Watch"]


class Watch(Stream[Event]):
    """Events of runs and tasks: `async with unpod.runs.watch(space) as events: async for event in events`.

    Nothing is asked while an event is being dealt with: who is slow sees changes later, and loses none.
    Leaving the block stops it and waits for its requests.
    """

    def __init__(
        self,
        core: Core,
        known: Mapping[str, Known],
        schedule: Schedule,
        clock: Clock,
        *,
        tasks: bool,
        chosen: frozenset[str] | None,
    ) -> None:
        super().__init__(f"watch of {len(known)} spaces" if len(known) > 1 else "watch", self._watch)
        self._core = core
        self._known = known
        self._schedule = schedule
        self._clock = clock
        self._tasks = tasks
        self._chosen = chosen
        self._polls: list[SpacePoll] = []
        self.polls = 0
        """Polls that came to their end, over all spaces: a sign of life for health checks."""

    @property
    def sweeps(self) -> int:
        """Sweeps that came to their end, over all spaces."""
        return sum(poll.sweeps for poll in self._polls)

    @property
    def state(self) -> WatchState:
        """What has been told until now, this event included: a watch that starts from it tells the rest."""
        return WatchState(self._tasks, {token: told_of(known) for token, known in self._known.items()})

    def _handed_out(self, rows: Sequence[Event]) -> Iterator[Event]:
        # Known only now: what was not taken any more is told again after a restart.
        return map(self._note, rows)

    def _note(self, event: Event) -> Event:
        self._known[event.space_token].apply(event, self._clock.monotonic())
        return event

    async def _watch(self, put: Put[Event]) -> None:
        spaces = iter(self._known.items())

        async def work() -> None:
            token, known = next(spaces)
            line = Line(token, put, self._clock)
            questions = Questions(self._core, token, known, line.tell, self._clock, self._chosen)
            poll = SpacePoll(questions, self._schedule, tasks=self._tasks)
            self._polls.append(poll)
            failures, hint = 0, None
            while True:
                try:
                    await poll.poll()
                except UnpodError as error:
                    if not may_repeat_read(error, 1):
                        raise
                    failures, hint = failures + 1, hint_of(error)
                    await line.failed(error)
                else:
                    failures, hint = 0, None
                    self.polls += 1
                line.listening = True
                await self._clock.sleep(self._schedule.pause(failures, hint))

        await run_workers(len(self._known), work)
