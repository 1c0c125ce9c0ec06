"""A page about an export: one HTML file with plots and tables.

Modules: `aggregate` (the numbers, from columns of rows), `plots` (SVG), `markup` (escaping), `style`, and
`page`, which assembles them. The rows are read with `DatasetReader` of `_export`.
"""

from __future__ import annotations

from datetime import tzinfo
from pathlib import Path
from typing import NamedTuple

from unpod_async._export import DatasetReader
from unpod_async._integrations.report.aggregate import (
    RUN_COLUMNS,
    TASK_COLUMNS,
    Figures,
    Groups,
    Tally,
    aggregate,
    group_days,
    percentile,
    top_groups,
)
from unpod_async._integrations.report.markup import Markup, element
from unpod_async._integrations.report.page import build_page
from unpod_async._integrations.report.plots import PlotColumn, PlotRow, column_plot, row_plot, scale

__all__ = [
    "RUN_COLUMNS",
    "TASK_COLUMNS",
    "Figures",
    "Groups",
    "Markup",
    "PlotColumn",
    "PlotRow",
    "Report",
    "Tally",
    "aggregate",
    "build_page",
    "build_report",
    "column_plot",
    "element",
    "group_days",
    "percentile",
    "row_plot",
    "scale",
    "top_groups",
]


class Report(NamedTuple):
    """A page about an export.

    Attributes:
        complete: The export has every run, every task and every recording that it was to download.
    """

    html: str
    runs: int
    calls: int
    complete: bool


def build_report(directory: Path, zone: tzinfo | None) -> Report:
    """Read an export and return a page about it. Blocks. Memory does not depend on the number of rows.

    Args:
        directory: The target of the export.
        zone: The zone of the times; None is the zone of this machine.

    Raises:
        ExportError: The directory is not an export, its export has not ended, or its files cannot be read.
        ConfigurationError: A package that the format needs is not installed.
    """
    dataset = DatasetReader(directory)
    figures = aggregate(dataset.read("runs", RUN_COLUMNS), dataset.read("tasks", TASK_COLUMNS), zone)
    dataset.check_unchanged()
    return Report(
        build_page(dataset.manifest, figures, zone),
        figures.runs.total(),
        figures.total.calls,
        dataset.manifest.complete,
    )
