"""formats"""

from __future__ import annotations

from unpod_async._export.formats.cells import cells
from unpod_async._export.formats.columns import COLUMNS, SCHEMA_VERSION, Rows, describe
from unpod_async._export.formats.csv import safe
from unpod_async._export.formats.registry import FORMATS
from unpod_async._export.formats.writer import Range, Writer

__all__ = [
    "COLUMNS",
    "FORMATS",
    "SCHEMA_VERSION",
    "Range",
    "Rows",
    "Writer",
    "cells",
    "describe",
    "safe",
]
