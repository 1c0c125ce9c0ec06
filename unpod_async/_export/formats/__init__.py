"""The formats of part files, which are written and read.

Modules: `writer` (what all writers share), `jsonl`, `csv` and `parquet`. The flat columns are in `_tables`.
`FORMATS` has each format by its name.
"""

from __future__ import annotations

from collections.abc import Mapping

from unpod_async._export.formats.csv import CsvWriter, escape_formula, read_csv
from unpod_async._export.formats.jsonl import GzipJsonlWriter, JsonlWriter, read_gzip_jsonl, read_jsonl
from unpod_async._export.formats.parquet import ParquetWriter, load, read_parquet
from unpod_async._export.formats.writer import Columns, CsvOptions, Format, Range, Writer
from unpod_async._tables import COLUMNS, SCHEMA_VERSION, RowKind, describe, split_into_cells

__all__ = [
    "COLUMNS",
    "FORMATS",
    "SCHEMA_VERSION",
    "Columns",
    "CsvOptions",
    "Range",
    "RowKind",
    "Writer",
    "describe",
    "escape_formula",
    "split_into_cells",
]

FORMATS: Mapping[str, Format] = {
    "jsonl": Format(".jsonl", JsonlWriter, read_jsonl, is_lines=True),
    "jsonl.gz": Format(".jsonl.gz", GzipJsonlWriter, read_gzip_jsonl),
    "csv": Format(".csv", CsvWriter, read_csv),
    "parquet": Format(".parquet", ParquetWriter, read_parquet, load),
}
