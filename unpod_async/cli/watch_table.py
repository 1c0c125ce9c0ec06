"""The table of `watch`: the state computed from the events, and how it is drawn. No I/O."""

from __future__ import annotations

import textwrap
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.text import Text

from unpod_async._common import printable
from unpod_async._tables import duration_of, outcome_of
from unpod_async.cli.fields import outcome_style, status_style
from unpod_async.cli.output import clock, local_time, zone_name
from unpod_async.cli.tables import GAP, Column, lay_out
from unpod_async.events import (
    CallEnded,
    Disconnected,
    Event,
    Reconnected,
    RunEvent,
    RunRemoved,
    RunSeen,
    RunStatusChanged,
    TaskRemoved,
    TaskSeen,
    TaskStatusChanged,
)

if TYPE_CHECKING:
    from unpod_async import WatchState

__all__ = ["WatchView", "draw"]

_IN_PROGRESS: Final = frozenset({"in_progress", "processing"})
_KEPT: Final = 50
"""Maximum number of ended calls, and of changes of runs, that are kept."""

_MAX_ROWS: Final = 10
"""Maximum number of rows of a list."""
_BAR: Final = 40
"""Width of the longest bar in cells."""
_SHARE_WIDTH: Final = 4
"""Width of a percentage in cells."""
_TITLED: Final = 6
"""Minimum number of lines of a table with a title."""
_STATUS_WIDTH: Final = 24
"""Width of a status in cells."""
_REASON_LINES: Final = 3
"""Maximum number of lines for the reason of an outage."""
_ORDER: Final = ("pending", "scheduled", "in_progress", "processing", "hold")


class ActiveCall(NamedTuple):
    """A call in progress. `since` is None if its start is not known."""

    space: str
    run: str
    task: str
    since: datetime | None


class EndedCall(NamedTuple):
    """A call that ended; `duration` is in seconds."""

    space: str
    run: str
    task: str
    status: str | None
    outcome: str | None
    duration: float | None
    at: datetime


class RunChange(NamedTuple):
    """A new status of a run; `new` is None if the run was removed."""

    space: str
    run: str
    old: str | None
    new: str | None
    at: datetime


class Outage(NamedTuple):
    """A space that cannot be read."""

    space: str
    since: datetime
    reason: str


class WatchView:
    """The state of the watched spaces, updated by `view(event)` for each event.

    Args:
        interval: seconds between two polls, for the title.
        zone: the zone of times; None is that of this machine.

    Attributes:
        spaces: the tokens of the watched spaces.
        tasks: whether tasks are watched.
        active: the calls in progress, by space and task.
        ended: the latest calls that ended, newest first.
        changes: the latest changes of runs, newest first.
        ended_count: how many calls ended.
        outages: the spaces that cannot be read, by token.
        polls: how many polls are complete.
        is_reading: whether there was a response.
        polled_at: when the last poll was complete.
    """

    def __init__(
        self,
        spaces: Sequence[str],
        *,
        tasks: bool,
        state: WatchState | None = None,
        interval: float | None = None,
        zone: tzinfo | None = None,
    ) -> None:
        self.spaces: tuple[str, ...] = tuple(dict.fromkeys(spaces))
        self.tasks = tasks
        self.interval = interval
        self.zone = zone
        self.active: dict[tuple[str, str], ActiveCall] = {}
        self.ended: deque[EndedCall] = deque(maxlen=_KEPT)
        self.changes: deque[RunChange] = deque(maxlen=_KEPT)
        self.ended_count: int = 0
        self.outages: dict[str, Outage] = {}
        self.polls: int = 0
        self.is_reading: bool = False
        self.polled_at: datetime | None = None
        self._runs: dict[tuple[str, str], str | None] = {}
        if state is not None:
            self._load(state)

    def _load(self, state: WatchState) -> None:
        """Start with what a saved state contains: a watch that resumes does not report it again."""
        for space, saved in state.spaces.items():
            for run, known in saved.runs.items():
                self._runs[space, run] = known.status
                for status in _IN_PROGRESS & set(known.tasks):
                    self.active |= {
                        (space, task): ActiveCall(space, run, task, None) for task in known.tasks[status]
                    }

    @property
    def statuses(self) -> Counter[str]:
        """The number of runs per status."""
        return Counter(status or "-" for status in self._runs.values())

    def set_polls(self, polls: int, now: datetime, *, is_reading: bool = False) -> None:
        """Record how many polls are complete, and whether there was a response."""
        self.is_reading = is_reading
        if polls != self.polls:
            self.polls, self.polled_at = polls, now

    def __call__(self, event: Event) -> None:
        match event:
            case Disconnected():
                self.outages[event.space_token] = Outage(event.space_token, event.seen_at, event.reason)
            case Reconnected():
                self.outages.pop(event.space_token, None)
            case RunEvent():
                self._update_run(event)
            case _:
                pass

    def _update_run(self, event: RunEvent) -> None:
        space, run, at = event.space_token, event.run_id, event.seen_at
        match event:
            case RunSeen() | RunStatusChanged():
                self._runs[space, run] = event.new
            case RunRemoved():
                self._runs.pop((space, run), None)
                for key in [key for key, call in self.active.items() if call[:2] == (space, run)]:
                    del self.active[key]
            case TaskSeen() | TaskStatusChanged() | TaskRemoved():
                self._update_call(event)
            case CallEnded():
                self.ended_count += 1
                outcome, duration = outcome_of(event.task), duration_of(event.task)
                self.ended.appendleft(EndedCall(space, run, event.task_id, event.new, outcome, duration, at))
            case _:
                pass
        if isinstance(event, RunStatusChanged | RunRemoved) or (
            isinstance(event, RunSeen) and not event.existing
        ):
            self.changes.appendleft(RunChange(space, run, event.old, event.new, at))

    def _update_call(self, event: TaskSeen | TaskStatusChanged | TaskRemoved) -> None:
        key = (event.space_token, event.task_id)
        before = self.active.pop(key, None)
        if event.new not in _IN_PROGRESS:
            return
        since: datetime | None = event.seen_at
        if before is not None:
            since = before.since
        elif isinstance(event, TaskSeen) and event.existing:
            since = event.task.last_status_change_at or event.task.modified_at
        self.active[key] = ActiveCall(event.space_token, event.run_id, event.task_id, since)


# -- drawing ------------------------------------------------------------------------------------------------


class _List(NamedTuple):
    """Rows under a title.

    Attributes:
        total: the number in the title, if only the latest rows are kept; otherwise the rows are counted.
    """

    title: str
    total: int | None
    rows: Sequence[Any]
    columns: Sequence[Column]

    def heading(self, hidden: int = 0) -> Text:
        """Return the title line; `hidden` is the number of rows that are not shown."""
        line = _title(self.title, f"{self.total or len(self.rows):,}" if self.rows else "none")
        return line.append(f", {hidden:,} not shown", "dim") if hidden and self.total is None else line


def draw(view: WatchView, now: datetime, *, width: int, height: int, ascii_only: bool = False) -> list[Text]:
    """Return at most `height` lines, none wider than `width` cells.

    If there is too little room, rows of the lists are left out first, then the bars, then the lists.

    Args:
        now: a timezone-aware datetime.
        ascii_only: the terminal has no other characters.
    """
    dot, dash, mark = ("*", "=", "~") if ascii_only else ("●", "━", "…")
    title = [_watch_title(view, now)] if height >= _TITLED else []
    lines = [*title, *_header(view, now, width, dot, mark)][: max(height, 1)]
    room = height - len(lines)
    gap = 1 if room >= 8 else 0
    statuses = _sorted_statuses(view)
    lists = _lists(view, now)
    # Draw bars only if a few rows of each list still fit.
    if room >= len(statuses) + 1 + gap + len(lists) * (gap + 4):
        runs = _bars(statuses, width, dash)
    else:
        runs = [_counts(statuses)]
    blocks = [runs, *_fill(lists, room - gap - len(runs), gap, width, mark)]
    for block in blocks:
        lines += [Text()] * gap + block
    lines = lines[: max(height, 1)]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return lines


def _watch_title(view: WatchView, now: datetime) -> Text:
    every = "" if view.interval is None else f"every {view.interval:g} s, "
    line = Text("unpod-async watch", "bold")
    return line.append(f"{' ' * GAP}{every}times in {zone_name(local_time(now, view.zone))}", "dim not bold")


def _header(view: WatchView, now: datetime, width: int, dot: str, mark: str) -> list[Text]:
    spaces = view.spaces
    connected = [space for space in spaces if space not in view.outages]
    lines: list[Text] = []
    if connected:
        name = (
            printable(connected[0]) if len(spaces) == 1 else f"{len(connected):,} of {len(spaces):,} spaces"
        )
        style, state = ("yellow", "reading" if view.is_reading else "connecting")
        if view.polls:
            style, state = "green", "connected"
        lines.append(Text.assemble((f"{dot} ", style), (name, "bold"), "  ", state))
    for outage in view.outages.values():
        line = Text.assemble((f"{dot} ", "red"), (printable(outage.space), "bold"), "  ")
        line.append(f"disconnected since {_time(outage.since, now, view.zone)}", "red")
        duration = f", {clock((now - outage.since).total_seconds())}"
        if line.cell_len + len(duration) <= width:
            line.append(duration, "red")
        lines.append(line)
        reason = textwrap.wrap(
            printable(outage.reason), max(width - GAP, 1), max_lines=_REASON_LINES, placeholder=f" {mark}"
        )
        lines += [Text(f"{' ' * GAP}{part}", "red") for part in reason]
    if view.polled_at is not None:
        polled = f"polled {_time(view.polled_at, now, view.zone)}"
        free = width - lines[0].cell_len - len(polled)
        if free >= GAP:
            lines[0].append(" " * free + polled, "dim")
    return lines


def _sorted_statuses(view: WatchView) -> list[tuple[str, int]]:
    """Return statuses and counts: statuses of runs in progress first, then the others by frequency."""
    rank = {status: index for index, status in enumerate(_ORDER)}
    return sorted(view.statuses.items(), key=lambda item: (rank.get(item[0], len(rank)), -item[1], item[0]))


def _bars(statuses: Sequence[tuple[str, int]], width: int, dash: str) -> list[Text]:
    total = sum(count for _, count in statuses)
    lines = [_title("RUNS", f"{total:,}" if total else "none")]
    if not statuses:
        return lines
    names = [printable(status) for status, _ in statuses]
    most = max(count for _, count in statuses)
    name_width = min(max(len(name) for name in names), _STATUS_WIDTH, max(width // 2, 4))
    count_width = len(f"{most:,}")
    bar = min(width - name_width - count_width - _SHARE_WIDTH - 3 * GAP, _BAR)
    for name, (status, count) in zip(names, statuses, strict=True):
        line = Text(name[:name_width].ljust(name_width) + " " * GAP + f"{count:,}".rjust(count_width))
        line.append(" " * GAP + _share(count, total).rjust(_SHARE_WIDTH))
        if bar > 0:
            line.append(" " * GAP + dash * max(round(bar * count / most), 1), status_style(status))
        lines.append(line)
    return lines


def _share(count: int, total: int) -> str:
    """Return a percentage that is 0% or 100% only if it is exactly that."""
    share = count / total
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"


def _counts(statuses: Sequence[tuple[str, int]]) -> Text:
    line = _title("RUNS", "" if statuses else "none")
    for index, (status, count) in enumerate(statuses):
        line.append(" " * GAP if index else "")
        line.append(f"{count:,} {printable(status)}", status_style(status))
    return line


def _lists(view: WatchView, now: datetime) -> list[_List]:
    return [_active_calls(view, now), _ended_calls(view, now)] if view.tasks else [_run_changes(view, now)]


def _fill(lists: Sequence[_List], room: int, gap: int, width: int, mark: str) -> list[list[Text]]:
    """Return the lists in `room` lines; only their titles if there is no room for more."""
    rows = room - len(lists) * (gap + 2)
    if rows < len(lists):
        return [[one.heading()] for one in lists[: max(room // (gap + 1), 0)]]
    blocks: list[list[Text]] = []
    for index, one in enumerate(lists):
        needed_after = sum(min(len(other.rows), _MAX_ROWS) for other in lists[index + 1 :])
        # An equal share of the rest, plus what the lists after this one do not need.
        share = max(-(-rows // (len(lists) - index)), rows - needed_after)
        shown = list(one.rows)[: min(share, _MAX_ROWS, rows)]
        rows -= len(shown)
        blocks.append(_draw_list(one, shown, width, mark))
    return blocks


def _draw_list(one: _List, shown: Sequence[Any], width: int, mark: str) -> list[Text]:
    title = one.heading(len(one.rows) - len(shown))
    if not shown:
        return [title]
    layout = lay_out(shown, one.columns, width, mark)
    block = [title, Text(layout.join(layout.lines[0]), "dim")]
    for row in layout.lines[1:]:
        line = Text()
        for index, cell in enumerate(row):
            line.append((" " * layout.gap if index else "") + cell.text, cell.style)
        line.rstrip()
        block.append(line)
    return block


def _active_calls(view: WatchView, now: datetime) -> _List:
    def since(row: ActiveCall) -> str | None:
        return None if row.since is None else _time(row.since, now, view.zone)

    def duration(row: ActiveCall) -> str | None:
        return None if row.since is None else clock((now - row.since).total_seconds())

    def style(row: ActiveCall) -> str:
        return status_style("in_progress")

    columns = (
        Column("CALL", "task", 10, firm=True, kind="id"),
        *_place_columns(view, run_rank=2),
        Column("SINCE", since, 8),
        Column("DURATION", duration, 8, rank=1, right=True, style=style),
    )
    # The longest first, because a call that hangs is what users look for.
    rows = sorted(view.active.values(), key=lambda row: (row.since is None, row.since or now, row.task))
    return _List("CALLS IN PROGRESS", None, rows, columns)


def _ended_calls(view: WatchView, now: datetime) -> _List:
    def outcome(row: EndedCall) -> str | None:
        return row.outcome or row.status

    def duration(row: EndedCall) -> str | None:
        return None if row.duration is None else clock(row.duration)

    def at(row: EndedCall) -> str:
        return _time(row.at, now, view.zone)

    def style(row: EndedCall) -> str:
        return outcome_style(row.outcome) if row.outcome else status_style(row.status)

    columns = (
        Column("CALL", "task", 10, firm=True, kind="id"),
        *_place_columns(view, run_rank=3),
        Column("OUTCOME", outcome, 12, style=style),
        Column("DURATION", duration, 8, right=True),
        Column("ENDED", at, 8, rank=2),
    )
    return _List("CALLS ENDED", view.ended_count, view.ended, columns)


def _run_changes(view: WatchView, now: datetime) -> _List:
    def old(row: RunChange) -> str:
        return row.old or "new"

    def new(row: RunChange) -> str:
        return row.new or "removed"

    def at(row: RunChange) -> str:
        return _time(row.at, now, view.zone)

    def style(row: RunChange) -> str:
        return status_style(row.new)

    columns = (
        Column("RUN", "run", 10, firm=True, kind="id"),
        *_space_column(view),
        Column("BEFORE", old, 11, rank=1),
        Column("AFTER", new, 11, style=style),
        Column("SEEN", at, 8, rank=2),
    )
    return _List("LATEST CHANGES", None, view.changes, columns)


def _space_column(view: WatchView) -> list[Column]:
    """Return the column of the space if several are watched."""
    return [Column("SPACE", "space", 8, rank=4)] if len(view.spaces) > 1 else []


def _place_columns(view: WatchView, *, run_rank: int) -> list[Column]:
    """Return the columns that show where a call belongs."""
    return [*_space_column(view), Column("RUN", "run", 10, rank=run_rank, kind="id")]


def _title(title: str, note: str) -> Text:
    return Text.assemble((title, "bold"), " " * GAP, note)


def _time(at: datetime, now: datetime, zone: tzinfo | None) -> str:
    """Return the time of day, or the date if it is long ago. The title names the time zone."""
    local = local_time(at, zone)
    return f"{local:%H:%M:%S}" if abs(now - at) < timedelta(hours=20) else f"{local:%b %d}"
