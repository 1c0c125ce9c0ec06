"""Query an export with DuckDB: a view of the runs and one of the tasks, for every format."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from unpod_async._export.manifest import read_manifest
from unpod_async._tables import COLUMNS, ColumnType, RowKind, TableBuilder, import_package
from unpod_async._version import install_command

__all__ = ["open_duckdb"]

_TYPES: Final[Mapping[ColumnType, str]] = {
    "text": "VARCHAR",
    "json": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "timestamp": "TIMESTAMPTZ",
}


def open_duckdb(target: Path) -> Any:
    """Return a DuckDB connection with the views `runs` and `tasks` of an export.

    Raises:
        ConfigurationError: a package is not installed.
        ExportError: the target has no readable manifest.
    """
    duckdb = import_package("duckdb", "to_duckdb", "pip install duckdb")
    manifest = read_manifest(target)
    connection = duckdb.connect()
    kinds: tuple[RowKind, ...] = ("runs", "tasks")
    for kind in kinds:
        paths = [target / part.name for part in manifest.parts if part.kind == kind]
        _create_view(connection, kind, manifest.options.format, paths)
    return connection


def _create_view(connection: Any, kind: RowKind, format_: str, paths: list[Path]) -> None:
    types = {column.name: _TYPES[column.kind] for column in COLUMNS[kind]}
    files = f"[{', '.join(map(_quoted, map(str, paths)))}]"
    if not paths:
        columns = ", ".join(f"CAST(NULL AS {type_}) AS {name}" for name, type_ in types.items())
        source = f"(SELECT {columns} WHERE false)"
    elif format_ == "parquet":
        source = f"read_parquet({files})"
    elif format_ == "csv":
        columns = ", ".join(f"{_quoted(name)}: {_quoted(type_)}" for name, type_ in types.items())
        source = (
            f"read_csv({files}, columns = {{{columns}}}, header = true, auto_detect = false, delim = ',', "
            "quote = '\"', escape = '\"', allow_quoted_nulls = false, max_line_size = 100000000)"
        )
    else:
        table = TableBuilder(kind)
        table.add(_lines(paths))
        arrow = import_package("pyarrow", "to_duckdb with JSONL files", install_command("parquet"))
        connection.register(f"_{kind}", table.to_arrow(arrow))
        source = f"_{kind}"
    connection.execute(f"CREATE TEMP VIEW {kind} AS SELECT * FROM {source}")  # noqa: S608 - names of ours


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _lines(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            lines = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            for line in lines:
                yield line.rstrip(b"\n")
