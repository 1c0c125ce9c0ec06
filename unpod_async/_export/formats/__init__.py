"""The formats of part files.

Modules: `writer` (what all writers share), `jsonl`, `csv` and `parquet`. The flat columns are in `_tables`.
`FORMATS` has each format by its name.
"""

from __future__ import annotations

from collections.abc import Mapping

from unpod_async._export.formats.csv import CsvWriter, escape_formula
from unpod_async._export.formats.jsonl import GzipJsonlWriter, JsonlWriter
from unpod_async._export.formats.parquet import ParquetWriter, load
from unpod_async._export.formats.writer import CsvOptions, Format, Range, Writer
from unpod_async._tables import COLUMNS, SCHEMA_VERSION, RowKind, describe, split_into_cells

__all__ = [
    "COLUMNS",
    "FORMATS",
    "SCHEMA_VERSION",
    "CsvOptions",
    "Range",
    "RowKind",
    "Writer",
    "describe",
    "escape_formula",
    "split_into_cells",
]

FORMATS: Mapping[str, Format] = {
    "jsonl": Format(".jsonl", JsonlWriter, is_lines=True),
    "jsonl.gz": Format(".jsonl.gz", GzipJsonlWriter),
    "csv": Format(".csv", CsvWriter),
    "parquet": Format(".parquet", ParquetWriter, load),
}
