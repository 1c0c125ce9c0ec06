"""The numbers of a report, from columns of runs and tasks.

Memory does not depend on the number of rows: days, hours, durations and statuses are few, and of other values
only the most frequent ones are counted one by one.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from unpod_async._common import local_time, shorten
from unpod_async._export import Columns, mask_contact

__all__ = [
    "RUN_COLUMNS",
    "TASK_COLUMNS",
    "Figures",
    "Group",
    "Groups",
    "Period",
    "RunFigures",
    "Tally",
    "Unit",
    "aggregate",
    "group_days",
    "percentile",
    "top_groups",
]

RUN_COLUMNS: Final = ("run_id", "status", "batch_count", "created")
TASK_COLUMNS: Final = (
    "run_id",
    "assignee",
    "status",
    "created",
    "call_started_at",
    "call_duration_s",
    "call_cost_usd",
    "call_outcome",
    "call_error",
)
"""The columns that `aggregate` needs, in this order."""

NANODOLLARS: Final = 10**9
"""Costs are summed as whole numbers, so that the order of the rows does not change the sum."""

_MAX_GROUPS: Final = 2_000
_MAX_STATUSES: Final = 50
_MAX_LABEL: Final = 80  # characters
_MAX_FAILED_RUNS: Final = 20
_MAX_DURATION: Final = 86_400  # seconds; a longer one is a mistake
_MAX_COST: Final = 1_000_000  # USD; a higher one is a mistake
_YEARS: Final = range(2000, 2100)  # another year is a mistake
_MONDAY: Final = 0


@dataclass(slots=True)
class Tally:
    """The numbers of some calls.

    Attributes:
        open: Calls that have neither completed nor failed.
        timed: Calls with a duration.
        milliseconds: Sum of these durations.
        priced: Calls with a cost.
        cost: Sum of these costs in billionths of a US dollar.
    """

    completed: int = 0
    failed: int = 0
    open: int = 0
    timed: int = 0
    milliseconds: int = 0
    priced: int = 0
    cost: int = 0

    @property
    def calls(self) -> int:
        return self.completed + self.failed + self.open

    def add(self, status: str | None, duration: float | None, cost: int | None) -> None:
        """Count a call."""
        if status == "completed":
            self.completed += 1
        elif status == "failed":
            self.failed += 1
        else:
            self.open += 1
        if duration is not None:
            self.timed += 1
            self.milliseconds += round(duration * 1000)
        if cost is not None:
            self.priced += 1
            self.cost += cost

    def merge(self, other: Tally) -> None:
        """Count the calls of another tally."""
        self.completed += other.completed
        self.failed += other.failed
        self.open += other.open
        self.timed += other.timed
        self.milliseconds += other.milliseconds
        self.priced += other.priced
        self.cost += other.cost


class Group(NamedTuple):
    """The calls with one value, such as those of one agent. `label` is None for calls without a value."""

    label: str | None
    tally: Tally


class Groups:
    """Calls grouped by a value.

    Services send few outcomes and agents, but nothing limits them. When there are too many values, the rarest
    are merged into `rest`, so the most frequent ones keep their own numbers.
    """

    def __init__(self, limit: int = _MAX_GROUPS) -> None:
        self._limit = limit
        self._tallies: dict[str | None, Tally] = {}
        self.rest = Tally()

    def __iter__(self) -> Iterator[Group]:
        for label, tally in self._tallies.items():
            yield Group(label, tally)

    def __len__(self) -> int:
        return len(self._tallies)

    def tally_of(self, label: str | None) -> Tally:
        """Return the tally of a value, to add a call to it."""
        tally = self._tallies.get(label)
        if tally is None:
            if len(self._tallies) >= self._limit:
                self._merge_rarest()
            tally = self._tallies[label] = Tally()
        return tally

    def _merge_rarest(self) -> None:
        ordered = sorted(self._tallies.items(), key=lambda item: -item[1].calls)
        self._tallies = dict(ordered[: self._limit // 2])
        for _, tally in ordered[self._limit // 2 :]:
            self.rest.merge(tally)


@dataclass(slots=True)
class RunFigures:
    """A run with failed calls, and its calls in the data set."""

    run_id: str
    status: str
    created: datetime | None
    tally: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Figures:
    """The numbers of a data set.

    Attributes:
        runs: Runs by status.
        failed_runs: The newest runs that failed, wholly or partially, newest first.
        statuses: Tasks by status.
        days: Calls by local day.
        hours: Calls by local hour of the day.
        undated: Calls without a usable time.
        seconds: Number of calls by duration in whole seconds.
        outcomes: Calls by outcome. None is a completed call without one.
        reasons: Failed calls by the reason.
        odd_durations: Durations that are not counted, because they are negative or longer than a day.
        odd_costs: Costs that are not counted, because they are negative or above a million USD.
        first: Time of the first call in local time.
        last: Time of the last call in local time.
    """

    runs: Counter[str | None] = field(default_factory=Counter[str | None])
    failed_runs: list[RunFigures] = field(default_factory=list[RunFigures])
    total: Tally = field(default_factory=Tally)
    statuses: Counter[str | None] = field(default_factory=Counter[str | None])
    days: defaultdict[date, Tally] = field(default_factory=lambda: defaultdict(Tally))
    hours: list[Tally] = field(default_factory=lambda: [Tally() for _ in range(24)])
    undated: int = 0
    seconds: Counter[int] = field(default_factory=Counter[int])
    outcomes: Groups = field(default_factory=Groups)
    reasons: Groups = field(default_factory=Groups)
    agents: Groups = field(default_factory=Groups)
    odd_durations: int = 0
    odd_costs: int = 0
    first: datetime | None = None
    last: datetime | None = None


def aggregate(runs: Iterable[Columns], tasks: Iterable[Columns], zone: tzinfo | None) -> Figures:
    """Return the numbers of runs and tasks.

    Args:
        runs: Batches of `RUN_COLUMNS`. All are read before the first task.
        tasks: Batches of `TASK_COLUMNS`.
        zone: The zone of days and hours; None is the zone of this machine.
    """
    figures = Figures()
    _add_runs(figures, runs)
    failed = {run.run_id: run.tally for run in figures.failed_runs}
    for columns in tasks:
        for row in zip(*columns, strict=True):
            _add_task(figures, failed, zone, row)
    return figures


def _add_runs(figures: Figures, batches: Iterable[Columns]) -> None:
    newest: list[tuple[datetime, int, RunFigures]] = []
    number = 0
    for columns in batches:
        for run_id, status, _, created in zip(*columns, strict=True):
            _count(figures.runs, status)
            if status in ("failed", "partially_completed"):
                number += 1
                run = RunFigures(_label(run_id) or "", status, created)
                item = (created or datetime.min.replace(tzinfo=UTC), -number, run)
                if len(newest) < _MAX_FAILED_RUNS:
                    heapq.heappush(newest, item)
                else:
                    heapq.heappushpop(newest, item)
    figures.failed_runs = [run for _, _, run in sorted(newest, reverse=True)]


def _add_task(figures: Figures, failed: Mapping[str, Tally], zone: tzinfo | None, row: Sequence[Any]) -> None:
    run_id, agent, status, created, started, seconds, dollars, outcome, error = row
    duration = _plausible(seconds, _MAX_DURATION)
    figures.odd_durations += duration is None and seconds is not None
    cost = _plausible(dollars, _MAX_COST)
    figures.odd_costs += cost is None and dollars is not None
    nanodollars = None if cost is None else round(cost * NANODOLLARS)
    call = (status, duration, nanodollars)

    _count(figures.statuses, status)
    figures.total.add(*call)
    figures.agents.tally_of(_label(agent)).add(*call)
    if duration is not None:
        figures.seconds[int(duration)] += 1
    if (outcome := _label(outcome)) is not None or status == "completed":
        figures.outcomes.tally_of(outcome).add(*call)
    if status == "failed":
        figures.reasons.tally_of(_label(error)).add(*call)
    if (tally := failed.get(run_id)) is not None:
        tally.add(*call)

    at = started or created
    if at is None or (local := local_time(at, zone)).year not in _YEARS:
        figures.undated += 1
        return
    figures.days[local.date()].add(*call)
    figures.hours[local.hour].add(*call)
    if figures.first is None or local < figures.first:
        figures.first = local
    if figures.last is None or local > figures.last:
        figures.last = local


def _plausible(value: float | None, maximum: float) -> float | None:
    return value if value is not None and 0 <= value <= maximum else None


def _count(counter: Counter[str | None], status: str | None) -> None:
    label = _label(status)
    # Beyond the limit, statuses that are new are counted together.
    counter[label if label in counter or len(counter) < _MAX_STATUSES else "(other)"] += 1


def _label(text: str | None) -> str | None:
    """Return a value as a short label without phone numbers and e-mail addresses; None for an empty one."""
    return _label_of(text[: 4 * _MAX_LABEL]) if text else None


@lru_cache(maxsize=4096)
def _label_of(text: str) -> str | None:
    return shorten(mask_contact(text), _MAX_LABEL) or None


# -- what the page shows of the numbers ---------------------------------------------------------------------


def top_groups(groups: Groups, most: int) -> tuple[list[Group], Tally, int]:
    """Return the most frequent values, the calls with other values, and how many other values there are.

    The number does not include values that were merged into `Groups.rest`.
    """
    ordered = sorted(groups, key=lambda group: (-group.tally.calls, group.label or ""))
    # A group of its own for a single other value.
    shown = ordered if len(ordered) == most + 1 and not groups.rest.calls else ordered[:most]
    others = Tally()
    for group in ordered[len(shown) :]:
        others.merge(group.tally)
    others.merge(groups.rest)
    return shown, others, len(ordered) - len(shown)


def percentile(seconds: Mapping[int, int], share: float) -> int | None:
    """Return the duration that this share of the calls does not exceed, in whole seconds."""
    wanted = share * sum(seconds.values())
    reached = 0
    for value in sorted(seconds):
        reached += seconds[value]
        if reached >= wanted:
            return value
    return None


Unit: TypeAlias = Literal["day", "week", "month", "year"]

_MAX_DAYS: Final = 92
_MAX_WEEKS: Final = 110
_MAX_MONTHS: Final = 72


class Period(NamedTuple):
    """The calls of a day, of a week from Monday on, of a month or of a year. `start` is its first day."""

    start: date
    tally: Tally


def group_days(days: Mapping[date, Tally]) -> tuple[Unit, list[Period]]:
    """Return the calls by day, or by week, month or year if there are too many days for a plot.

    Periods without calls are included.
    """
    if not days:
        return "day", []
    first, last = min(days), max(days)
    unit = _unit_for(first, last)
    tallies: defaultdict[date, Tally] = defaultdict(Tally)
    for day, tally in days.items():
        tallies[_start(day, unit)].merge(tally)
    periods: list[Period] = []
    start = _start(first, unit)
    while start <= last:
        periods.append(Period(start, tallies[start]))
        start = _next(start, unit)
    return unit, periods


def _unit_for(first: date, last: date) -> Unit:
    days = (last - first).days + 1
    if days <= _MAX_DAYS:
        return "day"
    if days <= 7 * (_MAX_WEEKS - 1):
        return "week"
    return "month" if days <= 30 * _MAX_MONTHS else "year"


def _start(day: date, unit: Unit) -> date:
    match unit:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday() - _MONDAY)
        case "month":
            return day.replace(day=1)
        case "year":
            return day.replace(month=1, day=1)


def _next(start: date, unit: Unit) -> date:
    match unit:
        case "day":
            return start + timedelta(days=1)
        case "week":
            return start + timedelta(days=7)
        case "month":
            return (start + timedelta(days=31)).replace(day=1)
        case "year":
            return start.replace(year=start.year + 1)
