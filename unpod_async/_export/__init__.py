"""Bulk export: the runs and tasks of spaces as files in a directory, complete and resumable.

`spec` has the options and `results` the summary and progress; `job` runs an export. It lists the runs
(`run_sync`) and reads their tasks, run by run (`run_tasks`) or from the listing of the whole space
(`space_scan`). `storage` keeps the state, the rows and the finished parts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unpod_async._export.early_pages import HeadStart
    from unpod_async._export.job import Job
    from unpod_async._export.prefetch_window import Window
    from unpod_async._export.results import BadRow, ExportProgress, ExportSummary, FailedRun
    from unpod_async._export.row_header import head_of
    from unpod_async._export.row_line import InvalidRow, line_of, lines_of
    from unpod_async._export.row_pages import RowPages
    from unpod_async._export.rows import Row, decoder
    from unpod_async._export.run_tasks import Fetching
    from unpod_async._export.scan_plan import Samples, plan_for, space_tasks
    from unpod_async._export.spec import (
        ExportFormat,
        ExportOptions,
        ExportSpec,
        Redaction,
        differing_options,
        field_types,
    )

__all__ = [
    "BadRow",
    "ExportFormat",
    "ExportOptions",
    "ExportProgress",
    "ExportSpec",
    "ExportSummary",
    "FailedRun",
    "Fetching",
    "HeadStart",
    "InvalidRow",
    "Job",
    "Redaction",
    "Row",
    "RowPages",
    "Samples",
    "Window",
    "decoder",
    "differing_options",
    "field_types",
    "head_of",
    "line_of",
    "lines_of",
    "plan_for",
    "space_tasks",
]

# Modules are imported on first use: `unpod-async export --help` needs `spec` only, and no database.
_MODULES = {
    "early_pages": "HeadStart",
    "job": "Job",
    "prefetch_window": "Window",
    "results": "BadRow ExportProgress ExportSummary FailedRun",
    "row_header": "head_of",
    "row_line": "InvalidRow line_of lines_of",
    "row_pages": "RowPages",
    "rows": "Row decoder",
    "run_tasks": "Fetching",
    "scan_plan": "Samples plan_for space_tasks",
    "spec": "ExportFormat ExportOptions ExportSpec Redaction differing_options field_types",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
