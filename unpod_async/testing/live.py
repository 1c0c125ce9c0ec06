"""The model of a live sandbox: which runs start when, and how each call goes; and the clocks of a sandbox.

The model is a pure function of the seed, the speed and the time, in microseconds since 1970. At speed
1, a run starts every six seconds, and most of its calls end within ten.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from unpod_async.testing.data import SECOND, mix

__all__ = [
    "MAX_SPEED",
    "CallTimeline",
    "LiveModel",
    "ManualClock",
    "PlannedRun",
    "StatusChange",
    "utc_now",
]

MAX_SPEED: Final = 1000.0

_RUN_INTERVAL = 6.0  # seconds at speed 1, as all times below
_MILLISECOND = SECOND // 1000
_MAX_RETRIES = 2
_LINE_DELAY = 0.25  # between the starts of two calls of a run
_QUEUED, _RINGING, _REFUSED = (0.3, 1.0), (0.5, 1.5), (0.3, 1.0)
_TALKING, _PROCESSING, _BEFORE_RETRY = (1.5, 4.5), (0.3, 0.8), (0.8, 1.5)
_FAILS, _IS_RETRIED, _IS_HELD, _IS_SCHEDULED = 0.2, 0.7, 1 / 256, 0.1
_SCHEDULE_DELAY = 3.0


class StatusChange(NamedTuple):
    """The status of a task from `moment` on, and its failures and retries so far."""

    moment: int
    status: str
    failures: int = 0
    retries: int = 0


class CallTimeline(NamedTuple):
    """Every status of a task, oldest first, and when its call was answered and ended if it completes."""

    changes: tuple[StatusChange, ...]
    answered: int
    ended: int

    def at(self, moment: int) -> StatusChange:
        """Return the last change before or at a time; the first one if all are later."""
        changes = self.changes
        if moment >= changes[-1].moment:
            return changes[-1]
        return changes[max(bisect_right(changes, moment, key=_moment_of) - 1, 0)]

    @classmethod
    def constant(cls, moment: int, status: str) -> CallTimeline:
        """Return the timeline of a task that keeps a status."""
        return cls((StatusChange(moment, status),), moment - 60 * SECOND, moment)


def _moment_of(change: StatusChange) -> int:
    return change.moment


class PlannedRun(NamedTuple):
    """A run of the model. `scheduled` is in Unix seconds, None for a run whose calls start at once."""

    created: int
    size: int
    scheduled: int | None


class LiveModel:
    """Plans runs, which are numbered without gaps, and calls."""

    def __init__(self, seed: int, tasks_per_run: tuple[int, int], speed: float) -> None:
        if not 0 < speed <= MAX_SPEED:
            raise ValueError(f"speed must be above 0 and at most {MAX_SPEED:g}, not {speed!r}")
        self._seed = mix(seed, -2)
        self._sizes = tasks_per_run
        self._second = SECOND / speed
        self._interval = round(_RUN_INTERVAL * self._second)

    def newest_run(self, moment: int) -> int:
        """Return the number of the newest run at a time."""
        number = moment // self._interval
        return number if self._created(number) <= moment else number - 1

    def run(self, number: int) -> PlannedRun:
        """Return the plan of a run."""
        low, high = self._sizes
        bits = mix(self._seed, ~number)
        created = self._created(number)
        scheduled = None
        if _share(bits, 1) < _IS_SCHEDULED:
            scheduled = int(created + _SCHEDULE_DELAY * self._second) // SECOND + 1
        return PlannedRun(created, low + mix(bits, 2) % (high - low + 1), scheduled)

    def _created(self, number: int) -> int:
        # In whole milliseconds, as on the service, and in the first half of the interval.
        delay = mix(self._seed, number) % (self._interval // 2)
        return (number * self._interval + delay) // _MILLISECOND * _MILLISECOND

    def auto_delay(self) -> int:
        """Return the delay of the schedule "auto" in whole seconds."""
        return max(1, round(_SCHEDULE_DELAY * self._second / SECOND))

    def call(
        self, task: int, created: int, *, place: int = 0, scheduled: int | None = None, may_hold: bool = False
    ) -> CallTimeline:
        """Return the timeline of a call.

        Args:
            task: a number that identifies the call. It decides how the call goes.
            created: when it was created.
            place: its place in its run. The calls of a run start one after another.
            scheduled: when it is due, in Unix seconds; None: at once.
            may_hold: whether it may stay on hold forever.
        """
        bits = mix(self._seed + 1, task)
        rolls = 0

        def share() -> float:
            nonlocal rolls
            rolls += 1
            return _share(bits, rolls)

        def after(moment: int, bounds: tuple[float, float]) -> int:
            low, high = bounds
            delay = (low + (high - low) * share()) * self._second
            return moment + int(delay) // _MILLISECOND * _MILLISECOND

        changes = [StatusChange(created, "pending" if scheduled is None else "scheduled")]
        queued = created
        if scheduled is not None:
            queued = max(created, scheduled * SECOND)
            changes.append(StatusChange(queued, "pending"))
        is_held = may_hold and share() < _IS_HELD
        queued += int(place * _LINE_DELAY * self._second) // _MILLISECOND * _MILLISECOND
        failures = retries = 0
        while True:
            dialed = after(queued, _QUEUED)
            changes.append(StatusChange(dialed, "in_progress", failures, retries))
            answered = after(dialed, _RINGING)
            if is_held:
                changes.append(StatusChange(answered, "hold", failures, retries))
                return CallTimeline(tuple(changes), answered, answered)
            if share() >= _FAILS:
                break
            failures += 1
            failed = after(answered, _REFUSED)
            changes.append(StatusChange(failed, "failed", failures, retries))
            if retries == _MAX_RETRIES or share() >= _IS_RETRIED:
                return CallTimeline(tuple(changes), failed, failed)
            retries += 1
            queued = after(failed, _BEFORE_RETRY)
            changes.append(StatusChange(queued, "pending", failures, retries))
        ended = after(answered, _TALKING)
        changes.extend((
            StatusChange(ended, "processing", failures, retries),
            StatusChange(after(ended, _PROCESSING), "completed", failures, retries),
        ))
        return CallTimeline(tuple(changes), answered, ended)


def _share(bits: int, number: int) -> float:
    """Return a number from 0 to 1, without 1."""
    return (mix(bits, number) >> 11) / 2**53


def utc_now() -> datetime:
    """Return the time of the machine's clock, in UTC."""
    return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until it is advanced: the argument `now` of a `Sandbox`.

    ::

        clock = ManualClock()
        async with Sandbox(live=True, now=clock) as sandbox:
            clock.advance(10)  # ten seconds of calls

    Args:
        start: its first time, with a time zone. Default: 2026-01-15T10:00:00 in UTC.

    Raises:
        ValueError: `start` has no time zone.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 15, 10, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError("the start of a clock must be a timezone-aware datetime")
        self._now = start

    def __call__(self) -> datetime:
        """Return the current time."""
        return self._now

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now.isoformat()}>"

    def advance(self, seconds: float) -> datetime:
        """Advance the clock, and return the new time. Raises ValueError if `seconds` is negative."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} seconds")
        self._now += timedelta(seconds=seconds)
        return self._now
