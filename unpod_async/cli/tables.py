"""Tables that fit the width of the terminal."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, tzinfo
from typing import Any, Final, Literal, NamedTuple

from unpod_async._common import printable
from unpod_async.cli.output import (
    can_colour,
    columns_of,
    console,
    cut_mark,
    echo,
    echo_err,
    local_time,
    zone_name,
)

__all__ = ["GAP", "Cell", "Column", "Layout", "Table", "echo_pairs", "lay_out"]

GAP: Final = 2
"""Cells between two columns."""
_NARROW_GAP: Final = 1
"""Cells between two columns if a column would have to be cut otherwise."""
_SHORT_ID: Final = 9
"""Minimum number of characters of a shortened id."""
_MIN_WIDTH: Final = 4  # cells
_MAX_VALUE: Final = 512  # characters of a value that are examined
_SEPARATORS: Final = "./-_@:"
"""Characters after which a folded value continues on the next line."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its heading.
        value: the name of an attribute of a row, or a function of a row. None and "" are shown as a dash.
        min_width: minimum width; the column is hidden if there is less room.
        rank: columns with a higher rank are hidden first; 0 is never hidden.
        firm: keeps its width until all other columns have their minimum width.
        right: aligned to the right.
        fold: a value that does not fit continues on the next line, instead of being cut.
        kind: "id" for ids, which are shortened; "time" for datetimes, whose zone is part of the heading.
        style: returns the style of a cell, from its row.
    """

    title: str
    value: str | Callable[[Any], object]
    min_width: int = 8
    rank: int = 0
    firm: bool = False
    right: bool = False
    fold: bool = False
    kind: Literal["text", "id", "time"] = "text"
    style: Callable[[Any], str] | None = None


class Cell(NamedTuple):
    """A cell of a table that is laid out; its text has the width of its column."""

    text: str
    style: str = ""


class Layout(NamedTuple):
    """A table that is laid out.

    Attributes:
        lines: cells of equal widths: first the headings, then the rows. A row with a folded cell has several
            lines.
        gap: cells between two columns.
    """

    lines: list[list[Cell]]
    gap: int

    def join(self, line: Sequence[Cell]) -> str:
        """Return a line without colours."""
        return (" " * self.gap).join(cell.text for cell in line).rstrip()


class Table:
    """Collects rows and writes them under their headings. It keeps the cells of a row, not the row.

    Args:
        wide: show whole ids and every column, and cut nothing, so that lines may be longer than the terminal.
        zone: the zone of times; None is that of this machine.
    """

    def __init__(self, columns: Sequence[Column], *, wide: bool = False, zone: tzinfo | None = None) -> None:
        self._columns = columns
        self._wide = wide
        self._zone = zone
        self._rows: list[list[tuple[object, str]]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: object) -> None:
        """Add a row."""
        self._rows.append([(_value(column, row), _style(column, row)) for column in self._columns])

    def lay_out(self, width: int, mark: str = "…") -> Layout:
        """Return the table, fitted into a width.

        Args:
            width: cells of a line.
            mark: the character appended to text that is cut.
        """
        titles, texts = _format(self._columns, self._rows, wide=self._wide, zone=self._zone, mark=mark)
        if self._wide:
            widths, gap = _natural_widths(titles, texts), GAP
        else:
            widths, gap = _fit_widths(self._columns, titles, texts, width)
        shown = [(index, cell_width) for index, cell_width in enumerate(widths) if cell_width]

        def fit(line: Sequence[str], styles: Sequence[str]) -> list[Cell]:
            return [
                Cell(
                    _fit_cell(line[index], cell_width, mark, right=self._columns[index].right),
                    styles[index],
                )
                for index, cell_width in shown
            ]

        lines = [fit(titles, [""] * len(titles))]
        for row, text in zip(self._rows, texts, strict=True):
            styles = [style for _, style in row]
            lines += [fit(line, styles) for line in _fold_row(self._columns, text, widths)]
        return Layout(lines, gap)

    def echo(self) -> None:
        """Write the table to stdout, with colours on a terminal. Says on stderr if columns were left out."""
        layout = self.lay_out(columns_of(sys.stdout), cut_mark(sys.stdout.encoding))
        heading = layout.lines[0] = [cell._replace(style="bold") for cell in layout.lines[0]]
        if can_colour(sys.stdout):
            echo(_coloured(layout))
        else:
            echo("\n".join(map(layout.join, layout.lines)))
        if len(heading) < len(self._columns):
            echo_err("Some columns do not fit. --wide shows all columns.")


def lay_out(rows: Iterable[Any], columns: Sequence[Column], width: int, mark: str) -> Layout:
    """Fit a table into `width` cells: see `Table.lay_out`."""
    table = Table(columns)
    for row in rows:
        table.add(row)
    return table.lay_out(width, mark)


def _coloured(layout: Layout) -> str:
    from rich.text import Text

    out = console(sys.stdout)
    with out.capture() as captured:
        for line in layout.lines:
            text = Text(" " * layout.gap).join(Text(cell.text, cell.style) for cell in line)
            text.rstrip()
            out.print(text, no_wrap=True, crop=False, overflow="ignore", soft_wrap=True)
    return captured.get().removesuffix("\n")


def echo_pairs(pairs: Sequence[tuple[str, str | Cell]]) -> None:
    """Write names and values to stdout, a pair per line. A long value continues on the next line.

    A line ends after a word, or after a separator in it such as the dot of a host name.
    """
    from rich.table import Table as Grid
    from rich.text import Text

    out = console(sys.stdout)
    grid = Grid(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    room = max(out.width - max((len(name) for name, _ in pairs), default=0) - GAP, 1)
    for name, value in pairs:
        text, style = (value, "") if isinstance(value, str) else value
        # rich wraps between words, and a word itself anywhere.
        words = [" ".join(_fold(word, room)) for word in printable(text).split(" ")]
        grid.add_row(name, Text(" ".join(words), style))
    with out.capture() as captured:
        out.print(grid)
    echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


# -- the text of a cell -------------------------------------------------------------------------------------


def _value(column: Column, row: Any) -> object:
    return getattr(row, column.value) if isinstance(column.value, str) else column.value(row)


def _style(column: Column, row: Any) -> str:
    return "" if column.style is None else column.style(row)


def _format(
    columns: Sequence[Column],
    rows: Sequence[Sequence[tuple[object, str]]],
    *,
    wide: bool,
    zone: tzinfo | None,
    mark: str,
) -> tuple[list[str], list[list[str]]]:
    """Return the headings, and the text of each cell."""
    titles: list[str] = []
    by_column: list[list[str]] = []
    for index, column in enumerate(columns):
        values = [row[index][0] for row in rows]
        title, texts = column.title, values
        if column.kind == "time":
            title, texts = _format_times(column.title, values, zone)
        titles.append(title)
        cells = [_cell_text(value) for value in texts]
        by_column.append(_short_ids(cells, mark) if column.kind == "id" and not wide else cells)
    return titles, [list(line) for line in zip(*by_column, strict=True)]


def _cell_text(value: object) -> str:
    return printable(str(value)[:_MAX_VALUE]) if value not in (None, "") else "-"


def _format_times(title: str, values: Sequence[object], zone: tzinfo | None) -> tuple[str, list[object]]:
    """Return the heading with the zone, and the times. If their zones differ, each time has its own."""
    times = [local_time(value, zone) if isinstance(value, datetime) else value for value in values]
    names = {zone_name(value) for value in times if isinstance(value, datetime)}
    suffix = f" ({names.pop()})" if len(names) == 1 else ""
    texts: list[object] = [
        f"{value:%Y-%m-%d %H:%M}{'' if suffix else f' {zone_name(value)}'}"
        if isinstance(value, datetime)
        else value
        for value in times
    ]
    return title + suffix, texts


def _short_ids(ids: Sequence[str], mark: str) -> list[str]:
    """Return the ids cut to one length, with a mark. At this length, different ids are still different."""
    different = set(ids)
    length = _SHORT_ID
    while len({one[:length] for one in different}) < len(different):
        length += 1
    # The mark takes a cell too, so that an id of one more character is not cut.
    return [one if len(one) <= length + 1 else f"{one[:length]}{mark}" for one in ids]


# -- widths -------------------------------------------------------------------------------------------------


def _fit_cell(cell: str, width: int, mark: str, *, right: bool) -> str:
    """Pad or cut a cell. A character may take no cell, one or two."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(cell) > width:
        return set_cell_size(cell, width - 1) + mark
    return " " * (width - cell_len(cell)) + cell if right else set_cell_size(cell, width)


def _fold_row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    """Return the lines of a row: one, or more if a cell is folded."""
    folded = [
        _fold(cell, width) if column.fold and width else [cell]
        for column, cell, width in zip(columns, cells, widths, strict=True)
    ]
    return [list(line) for line in itertools.zip_longest(*folded, fillvalue="")]


def _fold(text: str, width: int) -> list[str]:
    """Return text in pieces of at most `width` cells. A piece ends after a separator if there is one."""
    from rich.cells import cell_len

    pieces: list[str] = []
    while cell_len(text) > width:
        end = used = 0
        while end < len(text) and (used := used + cell_len(text[end])) <= width:
            end += 1
        separator = max(text.rfind(one, 0, end) for one in _SEPARATORS)
        end = separator + 1 if separator >= end // 2 else max(end, 1)
        pieces.append(text[:end])
        text = text[end:]
    return [*pieces, text]


def _natural_widths(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [
        max([len(title), *(cell_len(line[index]) for line in cells)]) for index, title in enumerate(titles)
    ]


def _fit_widths(
    columns: Sequence[Column], titles: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> tuple[list[int], int]:
    """Return a width for each column, where 0 hides it, and the gap between two columns."""
    widths, gap = _natural_widths(titles, cells), GAP

    def excess(widths: Sequence[int]) -> int:
        return sum(one + gap for one in widths if one) - gap - width

    # Hide columns, the highest rank first, while their minimum widths do not fit.
    for index in sorted(range(len(columns)), key=lambda index: -columns[index].rank):
        least = [min(one, column.min_width) for one, column in zip(widths, columns, strict=True)]
        if columns[index].rank and excess(least) > 0:
            widths[index] = 0
    if excess(widths) > 0:
        gap = _NARROW_GAP
    # Then make the widest column narrower, firm columns only after the others.
    for floors in (
        [one if column.firm else column.min_width for column, one in zip(columns, widths, strict=True)],
        [column.min_width for column in columns],
        [_MIN_WIDTH] * len(columns),
    ):
        while excess(widths) > 0:
            wider = [(one, index) for index, one in enumerate(widths) if one > floors[index]]
            if not wider:
                break
            widths[max(wider)[1]] -= 1
    return widths, gap
