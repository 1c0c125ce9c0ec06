"""Tables that fit the width of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from unpod_async._common import printable
from unpod_async.cli.output import console, echo

__all__ = ["GAP", "ID_WIDTH", "Column", "echo_pairs", "echo_table", "lay_out"]

GAP: Final = 2
"""Cells between two columns."""
ID_WIDTH: Final = 34
"""Cells for an id. Ids of the platform have 33 characters."""
_MIN_WIDTH: Final = 4  # cells
_MAX_VALUE: Final = 512  # characters of a value that are examined


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its heading.
        value: the name of an attribute of a row, or a function of a row. None and "" are shown as a dash.
        min_width: the column is hidden rather than made narrower.
        rank: columns with a higher rank are hidden first; 0 is never hidden.
        firm: made narrower only after the other columns have their minimum width.
        right: aligned to the right.
    """

    title: str
    value: str | Callable[[Any], object]
    min_width: int = 8
    rank: int = 0
    firm: bool = False
    right: bool = False


def echo_table(rows: Sequence[Any], columns: Sequence[Column]) -> None:
    """Write rows under their headings to stdout."""
    from rich.text import Text

    out = console(sys.stdout)
    _, (heading, *lines) = lay_out(rows, columns, out.width)
    with out.capture() as captured:
        out.print(Text(_join_cells(heading), "bold"), no_wrap=True, crop=False, end="")
    echo("\n".join([captured.get(), *map(_join_cells, lines)]))


def lay_out(
    rows: Sequence[Any], columns: Sequence[Column], width: int
) -> tuple[list[Column], list[list[str]]]:
    """Fit a table into `width` cells.

    Returns:
        The columns that are shown, and the lines as cells of equal widths: first the headings, then the rows.
    """
    cells = [[_cell_text(column, row) for column in columns] for row in rows]
    widths = _fit_widths(columns, cells, width)
    shown = [(index, cell_width) for index, cell_width in enumerate(widths) if cell_width]
    lines = [
        [_fit_cell(line[index], cell_width, right=columns[index].right) for index, cell_width in shown]
        for line in ([column.title for column in columns], *cells)
    ]
    return [columns[index] for index, _ in shown], lines


def _join_cells(cells: Sequence[str]) -> str:
    """Return the cells of a line of `lay_out` as a string."""
    return (" " * GAP).join(cells).rstrip()


def echo_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Write names and values to stdout, a pair per line. Long values continue below themselves."""
    from rich.table import Table
    from rich.text import Text

    out = console(sys.stdout)
    grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, Text(printable(value)))
    with out.capture() as captured:
        out.print(grid)
    echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _cell_text(column: Column, row: Any) -> str:
    value: object = getattr(row, column.value) if isinstance(column.value, str) else column.value(row)
    return printable(str(value)[:_MAX_VALUE]) if value not in (None, "") else "-"


def _fit_cell(cell: str, width: int, *, right: bool) -> str:
    """Pad or cut a cell. A character may take no cell, one or two."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(cell) > width:
        return set_cell_size(cell, width - 1) + "…"
    return " " * (width - cell_len(cell)) + cell if right else set_cell_size(cell, width)


def _fit_widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return a width for each column; 0 hides it."""
    from rich.cells import cell_len

    widths = [
        max([len(column.title), *(cell_len(line[index]) for line in cells)])
        for index, column in enumerate(columns)
    ]

    def excess(widths: Sequence[int]) -> int:
        return sum(one + GAP for one in widths if one) - GAP - width

    # Hide columns, the highest rank first, while their minimum widths do not fit.
    for index in sorted(range(len(columns)), key=lambda index: -columns[index].rank):
        least = [min(one, column.min_width) for one, column in zip(widths, columns, strict=True)]
        if columns[index].rank and excess(least) > 0:
            widths[index] = 0
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
    return widths
