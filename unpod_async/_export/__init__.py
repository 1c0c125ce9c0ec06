"""Bulk export: the runs and tasks of spaces as files in a directory, complete and resumable.

`spec` has the options and `results` the summary and progress; `job` runs an export. It lists the runs
(`run_sync`) and reads their tasks, run by run (`run_tasks`) or from the listing of the whole space
(`space_scan`). `storage` keeps the state, the rows and the finished parts, and
`manifest` describes them. `object_store` uploads them. `plan` divides an export into shards, `claim` notes in
a target which plan its shards belong to, `shards` exports one, and `merge` makes one data set of them;
`merge_checks` has what it checks. `processing` applies a function to the tasks of shards. `reading` reads
data sets back, and `duckdb_views` opens them with DuckDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unpod_async._common import import_on_use

if TYPE_CHECKING:
    from unpod_async._export.claim import shard_directory
    from unpod_async._export.formats import Columns
    from unpod_async._export.job import run_export
    from unpod_async._export.manifest import MANIFEST, Manifest
    from unpod_async._export.merge import merge_shards
    from unpod_async._export.missing import BadRow, FailedRun
    from unpod_async._export.object_store import StoreAddress, shard_state_directory, state_directory
    from unpod_async._export.outage import is_transient
    from unpod_async._export.plan import ExportPlan, all_shards, check_plan, new_plan, shard_spec
    from unpod_async._export.processing import (
        Process,
        check_process,
        merge_processed,
        process_shard,
    )
    from unpod_async._export.reading import DatasetReader
    from unpod_async._export.redaction import Redactor, mask_contact
    from unpod_async._export.results import ExportProgress, ExportSummary
    from unpod_async._export.rows import (
        InvalidRow,
        Row,
        RowPages,
        row_decoder,
        row_header,
        row_line,
        row_lines,
    )
    from unpod_async._export.run_tasks import FetchContext
    from unpod_async._export.shards import export_shard, extend_plan, make_plan
    from unpod_async._export.space_scan import EarlyRequests, PrefetchWindow, plan_scan, space_tasks
    from unpod_async._export.spec import (
        REDACT_KEY_VARIABLE,
        ExportFormat,
        ExportOptions,
        ExportSpec,
        Redaction,
        check_directory,
        differing_options,
        field_types,
        redact_key_of,
    )
    from unpod_async._export.storage import is_resumable

__all__ = [
    "MANIFEST",
    "REDACT_KEY_VARIABLE",
    "BadRow",
    "Columns",
    "DatasetReader",
    "EarlyRequests",
    "ExportFormat",
    "ExportOptions",
    "ExportPlan",
    "ExportProgress",
    "ExportSpec",
    "ExportSummary",
    "FailedRun",
    "FetchContext",
    "InvalidRow",
    "Manifest",
    "PrefetchWindow",
    "Process",
    "Redaction",
    "Redactor",
    "Row",
    "RowPages",
    "StoreAddress",
    "all_shards",
    "check_directory",
    "check_plan",
    "check_process",
    "differing_options",
    "export_shard",
    "extend_plan",
    "field_types",
    "is_resumable",
    "is_transient",
    "make_plan",
    "mask_contact",
    "merge_processed",
    "merge_shards",
    "new_plan",
    "plan_scan",
    "process_shard",
    "redact_key_of",
    "row_decoder",
    "row_header",
    "row_line",
    "row_lines",
    "run_export",
    "shard_directory",
    "shard_spec",
    "shard_state_directory",
    "space_tasks",
    "state_directory",
]

# Modules are imported on first use: `unpod-async export --help` needs `spec` only, and no database.
_MODULES = {
    "claim": "shard_directory",
    "formats": "Columns",
    "job": "run_export",
    "manifest": "MANIFEST Manifest",
    "merge": "merge_shards",
    "missing": "BadRow FailedRun",
    "object_store": "StoreAddress shard_state_directory state_directory",
    "outage": "is_transient",
    "plan": "ExportPlan all_shards check_plan new_plan shard_spec",
    "processing": "Process check_process merge_processed process_shard",
    "reading": "DatasetReader",
    "redaction": "Redactor mask_contact",
    "results": "ExportProgress ExportSummary",
    "rows": "InvalidRow Row RowPages row_decoder row_header row_line row_lines",
    "run_tasks": "FetchContext",
    "shards": "export_shard extend_plan make_plan",
    "space_scan": "EarlyRequests PrefetchWindow plan_scan space_tasks",
    "spec": (
        "REDACT_KEY_VARIABLE ExportFormat ExportOptions ExportSpec Redaction check_directory "
        "differing_options field_types redact_key_of"
    ),
    "storage": "is_resumable",
}

__getattr__ = import_on_use(__name__, _MODULES)
