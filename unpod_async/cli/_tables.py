"""Rows for people, cut to the width of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from unpod_async._common import printable
from unpod_async.cli._output import console, put

__all__ = ["GAP", "Column", "joined", "laid_out", "pairs", "table"]

GAP: Final = 2
_NARROWEST: Final = 4  # cells
_LONGEST: Final = 512  # characters of a value that are looked at


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its head.
        value: the attribute of a row, or what makes its text; nothing is a dash.
        least: cells below which it is left out rather than cut.
        rank: the highest is left out first; 0 never is.
        firm: cut only when the others have given what they can.
        right: stands at the right side.
    """

    title: str
    value: str | Callable[[Any], object]
    least: int = 8
    rank: int = 0
    firm: bool = False
    right: bool = False


def table(rows: Sequence[Any], columns: Sequence[Column]) -> None:
    """Rows under their heads on stdout."""
    from rich.text import Text

    out = console(sys.stdout)
    _, (head, *lines) = laid_out(rows, columns, out.width)
    with out.capture() as drawing:
        out.print(Text(joined(head), "bold"), no_wrap=True, crop=False, end="")
    put("\n".join([drawing.get(), *map(joined, lines)]))


def laid_out(
    rows: Sequence[Any], columns: Sequence[Column], room: int
) -> tuple[list[Column], list[list[str]]]:
    """The columns that `room` cells have room for; the heads, and then each row, as cells of their widths."""
    cells = [[_shown(column, row) for column in columns] for row in rows]
    widths = _widths(columns, cells, room)
    kept = [(place, width) for place, width in enumerate(widths) if width]
    lines = [
        [_fitted(line[place], width, right=columns[place].right) for place, width in kept]
        for line in ([column.title for column in columns], *cells)
    ]
    return [columns[place] for place, _ in kept], lines


def joined(cells: Sequence[str]) -> str:
    """Cells of `laid_out` as one line."""
    return (" " * GAP).join(cells).rstrip()


def _fitted(cell: str, width: int, *, right: bool) -> str:
    """The cell in so many columns of the terminal; a character may take none, one or two."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(cell) > width:
        return set_cell_size(cell, width - 1) + "…"
    return " " * (width - cell_len(cell)) + cell if right else set_cell_size(cell, width)


def pairs(lines: Sequence[tuple[str, str]]) -> None:
    """Names and what they are, one pair a line; what is too long goes on below itself."""
    from rich.table import Table
    from rich.text import Text

    out = console(sys.stdout)
    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in lines:
        drawn.add_row(name, Text(printable(value)))
    with out.capture() as drawing:
        out.print(drawn)
    put("\n".join(line.rstrip() for line in drawing.get().splitlines()))


def _shown(column: Column, row: Any) -> str:
    value: object = getattr(row, column.value) if isinstance(column.value, str) else column.value(row)
    return printable(str(value)[:_LONGEST]) if value not in (None, "") else "-"


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], room: int) -> list[int]:
    """Cells for each column; 0 leaves it out."""
    from rich.cells import cell_len

    widths = [
        max([len(column.title), *(cell_len(line[place]) for line in cells)])
        for place, column in enumerate(columns)
    ]

    def excess(of: Sequence[int]) -> int:
        return sum(width + GAP for width in of if width) - GAP - room

    # First columns go, the least wanted first, as long as cutting alone would not do.
    for place in sorted(range(len(columns)), key=lambda place: -columns[place].rank):
        cut = [min(width, column.least) for width, column in zip(widths, columns, strict=True)]
        if columns[place].rank and excess(cut) > 0:
            widths[place] = 0
    # Then the widest are cut, and ids only when the others have given what they can.
    for floors in (
        [width if column.firm else column.least for column, width in zip(columns, widths, strict=True)],
        [column.least for column in columns],
        [_NARROWEST] * len(columns),
    ):
        while excess(widths) > 0:
            wide = [(width, place) for place, width in enumerate(widths) if width > floors[place]]
            if not wide:
                break
            widths[max(wide)[1]] -= 1
    return widths
