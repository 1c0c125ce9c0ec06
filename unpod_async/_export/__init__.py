"""Bulk export: the runs and tasks of spaces into a directory of files, complete and resumable.

Imports go down only::

    _entry             `UnpodClient.export`: arguments and their documentation
    _job               one export from its beginning to its end
    _relist            which runs are new, may have changed, are gone
    _fetching _flat _loading   tasks run by run; from the space-wide listing; recordings
    _row_pages _window   pages one by one or ahead, and how far
    _samples _head_start   how long a space-wide listing is; its first pages, asked for beside the runs
    _patience          waiting out what passes; which request fails for reasons of its own
    _staging           rows into the spool, noted at checkpoints
    _publish _run_parts   staged rows into parts
    _pieces _parts     what a part holds; parts into their place, by a step that can be redone
    _manifest _meter _told   what there is, how far it is, and the structs that say so
    _dataset           a target while an export has it open
    _state _spool _whole_files   what a target knows of itself (a database); rows on their way
    _disk _target      the thread that touches the disk; where a data set is kept
    _asked             the question a target answers, and the options
    _formats _csv _parquet _text_parts _writer _sink   the formats of parts
    _columns _cells    the flat columns of CSV and Parquet
    _redact _contact _leaves _needles   contact data out of rows
    _lines _scan _heads   a row as a line; what must be known of it

A run is wanted, then staged (its rows are in the spool), then done (they are in a part); or failed, or gone.
What is staged or done is on the disk and noted, so a kill costs what came after the last checkpoint."""

from __future__ import annotations

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
from unpod_async._export.spec import ExportFormat, Redaction, asked_of, key_of, options_of

__all__ = [
    "BadRow",
    "ExportFormat",
    "ExportProgress",
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
    "asked_of",
    "decoder",
    "head_of",
    "key_of",
    "line_of",
    "lines_of",
    "options_of",
    "plan_for",
    "space_tasks",
]
