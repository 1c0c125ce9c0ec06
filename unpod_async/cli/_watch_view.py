"""The table of `watch`: what was seen, drawn to fit any terminal. No I/O."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from rich.text import Text

from unpod_async._common import printable
from unpod_async.cli._tables import GAP, Column, laid_out
from unpod_async.cli._watch_lines import clock
from unpod_async.cli._watch_seen import Change, Ended, Going, Seen

__all__ = ["draw"]

_ID: Final = 34
_MOST: Final = 10
"""Rows of a list."""
_BAR: Final = 40
"""Cells of the longest bar."""
_NAME: Final = 24
"""Cells of a status."""
_REASON: Final = 3
"""Lines of the reason of an outage."""
_ORDER: Final = ("pending", "scheduled", "in_progress", "processing", "hold")
_STYLES: Final = {
    "completed": "green",
    "partially_completed": "yellow",
    "failed": "red",
    "in_progress": "cyan",
    "processing": "cyan",
    "hold": "magenta",
    "pending": "blue",
    "scheduled": "blue",
}


class _List(NamedTuple):
    """Rows under a title.

    Attributes:
        number: what the title counts, where it is not the rows, of which only the latest are kept.
        style: the style of a cell by the title of its column and its row.
    """

    title: str
    number: int | None
    rows: Sequence[Any]
    columns: Sequence[Column]
    style: Callable[[str, Any], str]

    def head(self, hidden: int = 0) -> Text:
        """The title; `hidden` rows are not shown."""
        line = _title(self.title, f"{self.number or len(self.rows):,}" if self.rows else "none")
        return line.append(f", {hidden:,} not shown", "dim") if hidden and self.number is None else line


def draw(seen: Seen, now: datetime, *, width: int, height: int, ascii_only: bool = False) -> list[Text]:
    """The lines, at most `height` of them and none wider than `width` cells.

    What there is no room for goes: first rows of the lists, then the bars, then the lists.

    Args:
        now: an aware datetime.
        ascii_only: the terminal has no other characters.
    """
    dot, dash = ("*", "=") if ascii_only else ("●", "━")
    lines = _head(seen, now, width, dot)[: max(height, 1)]
    room = height - len(lines)
    gap = 1 if room >= 8 else 0
    statuses = _in_order(seen)
    lists = _lists(seen, now)
    # Bars where the lists keep room for a few rows each.
    if room >= len(statuses) + 1 + gap + len(lists) * (gap + 4):
        runs = _bars(statuses, width, dash)
    else:
        runs = [_counts(statuses)]
    blocks = [runs, *_fill(lists, room - gap - len(runs), gap, width)]
    for block in blocks:
        lines += [Text()] * gap + block
    lines = lines[: max(height, 1)]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


# -- what is always there -----------------------------------------------------------------------------------


def _head(seen: Seen, now: datetime, width: int, dot: str) -> list[Text]:
    spaces = seen.spaces
    up = [space for space in spaces if space not in seen.outages]
    lines: list[Text] = []
    if up:
        name = printable(up[0]) if len(spaces) == 1 else f"{len(up):,} of {len(spaces):,} spaces"
        style, state = ("green", "connected") if seen.polls else ("yellow", "connecting")
        lines.append(Text.assemble((f"{dot} ", style), (name, "bold"), "  ", state))
    for outage in seen.outages.values():
        line = Text.assemble((f"{dot} ", "red"), (printable(outage.space), "bold"), "  ")
        line.append(f"disconnected since {_time(outage.since, now)}", "red")
        away = f", {clock((now - outage.since).total_seconds())}"
        if line.cell_len + len(away) <= width:
            line.append(away, "red")
        lines.append(line)
        reason = textwrap.wrap(
            printable(outage.reason), max(width - GAP, 1), max_lines=_REASON, placeholder=" …"
        )
        lines += [Text(f"{' ' * GAP}{part}", "red") for part in reason]
    if seen.polled_at is not None:
        polled = f"polled {_time(seen.polled_at, now)}"
        free = width - lines[0].cell_len - len(polled)
        if free >= GAP:
            lines[0].append(" " * free + polled, "dim")
    return lines


def _in_order(seen: Seen) -> list[tuple[str, int]]:
    """Statuses and counts: those on their way first, then the others, the commonest first."""
    rank = {status: place for place, status in enumerate(_ORDER)}
    found = seen.statuses.items()
    return sorted(found, key=lambda item: (rank.get(item[0], len(rank)), -item[1], item[0]))


def _bars(statuses: Sequence[tuple[str, int]], width: int, dash: str) -> list[Text]:
    total = sum(count for _, count in statuses)
    lines = [_title("RUNS", f"{total:,}" if total else "none")]
    if not statuses:
        return lines
    names = [printable(status) for status, _ in statuses]
    name_width = min(max(len(name) for name in names), _NAME, max(width // 2, 4))
    count_width = len(f"{max(count for _, count in statuses):,}")
    bar = min(width - name_width - count_width - 2 * GAP, _BAR)
    most = max(count for _, count in statuses)
    for name, (status, count) in zip(names, statuses, strict=True):
        line = Text(name[:name_width].ljust(name_width) + " " * GAP + f"{count:,}".rjust(count_width))
        if bar > 0:
            line.append(" " * GAP + dash * max(round(bar * count / most), 1), _style(status))
        lines.append(line)
    return lines


def _counts(statuses: Sequence[tuple[str, int]]) -> Text:
    line = _title("RUNS", "" if statuses else "none")
    for place, (status, count) in enumerate(statuses):
        line.append(" " * GAP if place else "")
        line.append(f"{count:,} {printable(status)}", _style(status))
    return line


# -- lists --------------------------------------------------------------------------------------------------


def _lists(seen: Seen, now: datetime) -> list[_List]:
    return [_going(seen, now), _ended(seen, now)] if seen.tasks else [_changes(seen, now)]


def _fill(lists: Sequence[_List], room: int, gap: int, width: int) -> list[list[Text]]:
    """The lists in so many lines; a title each where there is no room for more."""
    rows = room - len(lists) * (gap + 2)
    if rows < len(lists):
        return [[one.head()] for one in lists[: max(room // (gap + 1), 0)]]
    blocks: list[list[Text]] = []
    for place, one in enumerate(lists):
        after = sum(min(len(other.rows), _MOST) for other in lists[place + 1 :])
        # Half of what is left, and what the lists after it do not need.
        fair = max(-(-rows // (len(lists) - place)), rows - after)
        shown = list(one.rows)[: min(fair, _MOST, rows)]
        rows -= len(shown)
        blocks.append(_drawn(one, shown, width))
    return blocks


def _drawn(one: _List, shown: Sequence[Any], width: int) -> list[Text]:
    title = one.head(len(one.rows) - len(shown))
    if not shown:
        return [title]
    columns, (heads, *lines) = laid_out(shown, one.columns, width)
    block = [title, Text((" " * GAP).join(heads).rstrip(), "dim")]
    for row, cells in zip(shown, lines, strict=True):
        line = Text()
        for place, (column, cell) in enumerate(zip(columns, cells, strict=True)):
            line.append((" " * GAP if place else "") + cell, one.style(column.title, row))
        line.rstrip()
        block.append(line)
    return block


def _going(seen: Seen, now: datetime) -> _List:
    def since(row: Going) -> str | None:
        return None if row.since is None else _time(row.since, now)

    def length(row: Going) -> str | None:
        return None if row.since is None else clock((now - row.since).total_seconds())

    def style(title: str, row: Going) -> str:
        return "cyan" if title == "FOR" else ""

    columns = (
        Column("CALL", "task", _ID, firm=True),
        *_where(seen, run_rank=2),
        Column("SINCE", since, 8),
        Column("FOR", length, 5, rank=1, right=True),
    )
    # The longest first: one that hangs is what people look for.
    rows = sorted(seen.going.values(), key=lambda row: (row.since is None, row.since or now, row.task))
    return _List("CALLS IN PROGRESS", None, rows, columns, style)


def _ended(seen: Seen, now: datetime) -> _List:
    def outcome(row: Ended) -> str | None:
        return row.outcome or row.status

    def length(row: Ended) -> str | None:
        return None if row.length is None else clock(row.length)

    def at(row: Ended) -> str:
        return _time(row.at, now)

    def style(title: str, row: Ended) -> str:
        return _style(row.status) if title == "OUTCOME" else ""

    columns = (
        Column("CALL", "task", _ID, firm=True),
        *_where(seen, run_rank=3),
        Column("OUTCOME", outcome, 12),
        Column("LENGTH", length, 6, right=True),
        Column("ENDED", at, 8, rank=2),
    )
    return _List("CALLS ENDED", seen.calls, seen.ended, columns, style)


def _changes(seen: Seen, now: datetime) -> _List:
    def was(row: Change) -> str:
        return row.old or "new"

    def is_now(row: Change) -> str:
        return row.new or "gone"

    def at(row: Change) -> str:
        return _time(row.at, now)

    def style(title: str, row: Change) -> str:
        return _style(row.new) if title == "IS" else ""

    columns = (
        Column("RUN", "run", _ID, firm=True),
        *_space(seen),
        Column("WAS", was, 11, rank=1),
        Column("IS", is_now, 11),
        Column("SEEN", at, 8, rank=2),
    )
    return _List("LATEST CHANGES", None, seen.changes, columns, style)


def _space(seen: Seen) -> list[Column]:
    """The column of the space, where there are several."""
    return [Column("SPACE", "space", 8, rank=4)] if len(seen.spaces) > 1 else []


def _where(seen: Seen, *, run_rank: int) -> list[Column]:
    """Columns that say where a call is."""
    return [*_space(seen), Column("RUN", "run", 8, rank=run_rank)]


def _title(title: str, note: str) -> Text:
    return Text.assemble((title, "bold"), " " * GAP, note)


def _style(status: str | None) -> str:
    return _STYLES.get(status or "", "")


def _time(at: datetime, now: datetime) -> str:
    """The local time; for what is long ago, the date."""
    local = at.astimezone()
    return f"{local:%H:%M:%S}" if abs(now - at) < timedelta(hours=20) else f"{local:%b %d}"
