"""The formats of part files.

Modules: `columns` (the flat columns), `cells` (a line as cells), `writer` (what all writers share), `jsonl`,
`csv` and `parquet`. `FORMATS` has each format by its name.
"""

from __future__ import annotations

from collections.abc import Mapping

from unpod_async._export.formats.cells import cells
from unpod_async._export.formats.columns import COLUMNS, SCHEMA_VERSION, RowKind, describe
from unpod_async._export.formats.csv import CsvWriter, safe
from unpod_async._export.formats.jsonl import GzipJsonlWriter, JsonlWriter
from unpod_async._export.formats.parquet import ParquetWriter, load
from unpod_async._export.formats.writer import CsvOptions, Format, Range, Writer

__all__ = [
    "COLUMNS",
    "FORMATS",
    "SCHEMA_VERSION",
    "CsvOptions",
    "Range",
    "RowKind",
    "Writer",
    "cells",
    "describe",
    "safe",
]

FORMATS: Mapping[str, Format] = {
    "jsonl": Format(".jsonl", JsonlWriter, is_lines=True),
    "jsonl.gz": Format(".jsonl.gz", GzipJsonlWriter),
    "csv": Format(".csv", CsvWriter),
    "parquet": Format(".parquet", ParquetWriter, load),
}
