"""Rows as tables: the flat columns of CSV, Parquet and data frames, and data frames built from rows.

Modules: `columns` (the columns and the cells of a row), `batches` (the cells of many rows, which takes less
than half as long), `frames` (tables of pyarrow, Polars and pandas) and `call_summary` (what tables show of a
call).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unpod_async._common import import_on_use

if TYPE_CHECKING:
    from unpod_async._tables.batches import split_into_columns
    from unpod_async._tables.call_summary import (
        RunSummary,
        call_of,
        cost_of,
        duration_of,
        name_of,
        number_of,
        outcome_of,
    )
    from unpod_async._tables.columns import (
        COLUMNS,
        SCHEMA_VERSION,
        ColumnType,
        FlatColumn,
        RowKind,
        arrow_schema,
        describe,
        join_cells,
        row_names,
        split_into_cells,
    )
    from unpod_async._tables.frames import TableBuilder, import_package

__all__ = [
    "COLUMNS",
    "SCHEMA_VERSION",
    "ColumnType",
    "FlatColumn",
    "RowKind",
    "RunSummary",
    "TableBuilder",
    "arrow_schema",
    "call_of",
    "cost_of",
    "describe",
    "duration_of",
    "import_package",
    "join_cells",
    "name_of",
    "number_of",
    "outcome_of",
    "row_names",
    "split_into_cells",
    "split_into_columns",
]

# Modules are imported on first use: the tables of the command line need `call_summary` only.
_MODULES = {
    "batches": "split_into_columns",
    "call_summary": "RunSummary call_of cost_of duration_of name_of number_of outcome_of",
    "columns": (
        "COLUMNS SCHEMA_VERSION ColumnType FlatColumn RowKind arrow_schema describe join_cells row_names "
        "split_into_cells"
    ),
    "frames": "TableBuilder import_package",
}

__getattr__ = import_on_use(__name__, _MODULES)
