"""Rows as tables: the flat columns of CSV, Parquet and data frames, and data frames built from rows.

Modules: `columns` (the columns and the cells of a row), `batches` (the cells of many rows, which takes less
than half as long) and `frames` (tables of pyarrow, Polars and pandas).
"""

from __future__ import annotations

from unpod_async._call_output import is_empty
from unpod_async._tables.batches import split_into_columns
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
    "TableBuilder",
    "arrow_schema",
    "describe",
    "import_package",
    "is_empty",
    "join_cells",
    "row_names",
    "split_into_cells",
    "split_into_columns",
]
