"""The formats of part files.

Modules: `columns` (the flat columns), `cells` (a line as cells), `writer` (what all writers share), `jsonl`,
`csv`, `parquet`, and `registry` (the formats by name).
"""

from __future__ import annotations

from unpod_async._export.formats.cells import cells
from unpod_async._export.formats.columns import COLUMNS, SCHEMA_VERSION, RowKind, describe
from unpod_async._export.formats.csv import safe
from unpod_async._export.formats.registry import FORMATS
from unpod_async._export.formats.writer import Range, Writer

__all__ = [
    "COLUMNS",
    "FORMATS",
    "SCHEMA_VERSION",
    "Range",
    "RowKind",
    "Writer",
    "cells",
    "describe",
    "safe",
]
