"""Plots as SVG: pure functions from numbers to text.

Positions from left to right are percentages, so a plot fills any width while its text keeps its size.
Colours come from the classes `s0`, `s1` and `s2` of the page's style, one for each series.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from unpod_async._integrations.report.markup import Markup, element, join

__all__ = ["PlotColumn", "PlotRow", "column_plot", "row_plot", "scale"]

_PLOT_HEIGHT: Final = 190  # px, of the columns
_TOP: Final = 12
_BOTTOM: Final = 26
_MAX_COLUMN: Final = 9.0  # per cent of the width
_MAX_LABELS: Final = 8

_ROW: Final = 42
_BAR: Final = 10


class PlotColumn(NamedTuple):
    """A column of a plot.

    Attributes:
        label: Below the column, if there is room.
        values: The values that are stacked, from the bottom up.
        tooltip: Shown when the pointer is on the column.
    """

    label: str
    values: tuple[float, ...]
    tooltip: str


class PlotRow(NamedTuple):
    """A horizontal bar.

    Attributes:
        values: The values that are stacked, from left to right.
        text: At the right end, above the bar.
        tooltip: Shown when the pointer is on the bar.
        is_muted: Whether the bar is for missing values, or for all others together.
    """

    label: str
    values: tuple[float, ...]
    text: str
    tooltip: str
    is_muted: bool = False


def scale(maximum: float, *, is_whole: bool = True) -> list[float]:
    """Return the values of the grid lines from 0 up to at least `maximum`: three to five round numbers."""
    if maximum <= 0:
        return [0.0, 1.0]
    rough = maximum / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999999)
    if is_whole:
        step = max(1.0, math.ceil(step))
    return [step * number for number in range(math.ceil(maximum / step - 1e-9) + 1)]


def column_plot(
    columns: Sequence[PlotColumn],
    description: str,
    *,
    tick: Callable[[float], str] = "{:,.0f}".format,
    is_whole: bool = True,
    at_edges: bool = False,
    label_every: int | None = None,
) -> Markup:
    """Return a plot of stacked columns.

    Args:
        description: What screen readers read instead of the plot.
        tick: Returns the text of a grid line.
        is_whole: The values are counts.
        at_edges: The labels are the lower bounds of the columns, and are left of them.
        label_every: Label only every n-th column. By default, as many columns are labelled as fit.
    """
    lines = scale(max((sum(column.values) for column in columns), default=0), is_whole=is_whole)
    slot = 100 / max(len(columns), 1)
    every = label_every or max(1, math.ceil(len(columns) / _MAX_LABELS))
    drawn = [
        *(_grid_line(value, value / lines[-1], tick) for value in lines),
        *(_column(column, number * slot, slot, lines[-1]) for number, column in enumerate(columns)),
        *(
            element(
                "text",
                columns[number].label,
                x=_percent(number * slot + (0 if at_edges else slot / 2)),
                y=_TOP + _PLOT_HEIGHT + 17,
                # On a narrow screen, every second label is left out.
                class_="tick x" if number // every % 2 == 0 or len(columns) <= 4 else "tick x roomy",
            )
            for number in range(0, len(columns), every)
        ),
    ]
    height = _TOP + _PLOT_HEIGHT + _BOTTOM
    return element("svg", join(drawn), class_="columns", height=height, role="img", aria_label=description)


def _grid_line(value: float, share: float, tick: Callable[[float], str]) -> Markup:
    y = _TOP + _PLOT_HEIGHT * (1 - share)
    line = element(
        "line", x1="0", x2="100%", y1=_number(y), y2=_number(y), class_="base" if value == 0 else "grid"
    )
    return join([line, element("text", tick(value), x="-8", y=_number(y + 4), class_="tick y")])


def _column(column: PlotColumn, left: float, slot: float, maximum: float) -> Markup:
    width = min(slot * (0.82 if slot > 1.5 else 0.9), _MAX_COLUMN)
    x = left + (slot - width) / 2
    top = float(_TOP + _PLOT_HEIGHT)
    parts: list[Markup] = [element("title", column.tooltip)]
    for series, value in enumerate(column.values):
        if value > 0:
            # A value that is not zero is visible.
            height = max(_PLOT_HEIGHT * value / maximum, 1.0)
            top -= height
            parts.append(
                element(
                    "rect",
                    x=_percent(x),
                    y=_number(top),
                    width=_percent(width),
                    height=_number(height),
                    class_=f"s{series}",
                )
            )
    hover = element(
        "rect", x=_percent(left), y=_TOP, width=_percent(slot), height=_PLOT_HEIGHT, class_="hover"
    )
    return element("g", hover, *parts, class_="slot")


def row_plot(rows: Sequence[PlotRow], description: str) -> Markup:
    """Return a plot of horizontal bars, each with its label and its text above it."""
    maximum = max((sum(row.values) for row in rows), default=0) or 1
    drawn = [_row(row, number * _ROW, maximum) for number, row in enumerate(rows)]
    return element(
        "svg", join(drawn), class_="rows", height=_ROW * len(rows), role="img", aria_label=description
    )


def _row(row: PlotRow, top: int, maximum: float) -> Markup:
    y = top + 22
    parts = [
        element("title", row.tooltip),
        element("text", row.label, x="0", y=top + 15, class_="label muted" if row.is_muted else "label"),
        element("text", row.text, x="100%", y=top + 15, class_="value"),
        element("rect", x="0", y=y, width="100%", height=_BAR, rx="3", class_="track"),
    ]
    left = 0.0
    for series, value in enumerate(row.values):
        if value > 0:
            width = max(100 * value / maximum, 0.3)
            name = "s2" if row.is_muted else f"s{series}"
            parts.append(
                element(
                    "rect", x=_percent(left), y=y, width=_percent(width), height=_BAR, rx="3", class_=name
                )
            )
            left += width
    return element("g", *parts, class_="slot")


def _percent(value: float) -> str:
    return f"{_number(value)}%"


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
