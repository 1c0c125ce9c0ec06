"""Parquet parts, written and read with pyarrow. It is imported only when it is needed.

The schema is fixed: strings and JSON are strings, times are UTC timestamps with microseconds. The metadata of
the file has `unpod_async.schema_version` and `unpod_async.rows` ("runs" or "tasks"). The compression is zstd.
Row groups have a maximum number of rows and bytes, because readers and this writer hold one in memory.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from unpod_async._call_output import is_empty
from unpod_async._export.formats.writer import (
    Columns,
    ColumnWriter,
    CsvOptions,
    OutputFile,
    Range,
    copy_error,
    open_part,
    part_error,
)
from unpod_async._tables import COLUMNS, FlatColumn, RowKind, arrow_schema, split_into_columns
from unpod_async._version import install_command
from unpod_async.errors import ConfigurationError

__all__ = ["ParquetWriter", "load", "read_parquet"]

_READ_ROWS = 1024
_GROUP_ROWS = 65_536
_GROUP_BYTES = 32 << 20  # of columns


def load() -> tuple[Any, Any]:
    """Import pyarrow and pyarrow.parquet.

    Raises:
        ConfigurationError: pyarrow cannot be imported.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        reason = str(error)
    raise ConfigurationError(
        f"Parquet needs pyarrow, which cannot be imported: {reason}", hint=install_command("parquet")
    )


class ParquetWriter(ColumnWriter):
    """Writes Parquet."""

    def __init__(self, output: OutputFile, kind: RowKind, csv: CsvOptions | None = None) -> None:
        super().__init__(output, kind, csv)
        self._arrow, self._parquet = load()
        self._kind: RowKind = kind
        self._schema = arrow_schema(self._arrow, kind)
        self._pending: list[Any] = []
        self._pending_rows = self._pending_bytes = 0
        with self._arrow_errors():
            self._arrow_writer = self._parquet.ParquetWriter(
                self._arrow.PythonFile(output, mode="w"),
                self._schema,
                compression="zstd",
                # Least and greatest values of JSON help no query, and they can be long.
                write_statistics=[column.name for column in COLUMNS[kind] if column.kind != "json"],
            )

    def _write_lines(self, lines: list[bytes]) -> None:
        columns = split_into_columns(self._kind, lines)
        with self._arrow_errors():
            arrays = map(self._array, columns, COLUMNS[self._kind], self._schema)
            batch = self._arrow.RecordBatch.from_arrays(list(arrays), schema=self._schema)
            # Not `nbytes`, which takes 80 us. The two are equal, because the arrays share no memory.
            self._add(batch, batch.get_total_buffer_size())

    def _array(self, cells: list[Any], column: FlatColumn, field: Any) -> Any:
        if is_empty(cells):
            return self._arrow.nulls(len(cells), field.type)
        if column.kind == "json":
            # Lines are valid UTF-8, so the view is not checked again: 0.7 us for an output instead of 1.7.
            return self._arrow.array(cells, self._arrow.binary()).view(field.type)
        if column.kind == "timestamp":
            return self._arrow.array(cells, self._arrow.string()).cast(field.type)
        return self._arrow.array(cells, field.type)

    def _add(self, batch: Any, size: int) -> None:
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += size
        if self._pending_rows >= _GROUP_ROWS or self._pending_bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            table = self._arrow.Table.from_batches(pending, schema=self._schema)
            self._arrow_writer.write_table(table, row_group_size=self._pending_rows)
        self._pending_rows = self._pending_bytes = 0

    def _copy(self, source: Path, ranges: Sequence[Range]) -> None:
        self._write_pending()
        with self._arrow_errors(source), os.fdopen(open_part(source), "rb") as file:
            # Without pre_buffer, only the data of the current batch is read.
            part = self._parquet.ParquetFile(file, pre_buffer=False)
            if not part.schema_arrow.equals(self._schema, check_metadata=True):
                raise copy_error(source, "the part has a different schema")
            if part.metadata.num_rows < ranges[-1][1]:
                raise copy_error(source, f"the part ends after {part.metadata.num_rows} rows")
            for batch, picked in self._batches(part, ranges):
                # `take` copies the rows. A slice would keep the whole batch in memory.
                copied = batch if picked is None else batch.take(self._arrow.array(picked))
                self._add(copied, copied.nbytes)

    def _batches(self, part: Any, ranges: Sequence[Range]) -> Iterator[tuple[Any, list[int] | None]]:
        """Yield batches of a part, each with the rows to copy, or None for all. Skips groups without any."""
        left = list(reversed(ranges))
        end = 0
        for group in range(part.num_row_groups):
            at, end = end, end + part.metadata.row_group(group).num_rows
            if not left or left[-1][0] >= end:
                continue
            for batch in part.iter_batches(_READ_ROWS, row_groups=[group]):
                stop = at + batch.num_rows
                picked: list[int] = []
                while left and left[-1][0] < stop:
                    first, last = left.pop()
                    picked += range(max(first, at) - at, min(last, stop) - at)
                    if last > stop:
                        left.append((stop, last))
                        break
                if picked:
                    yield batch, picked if len(picked) < batch.num_rows else None
                at = stop

    def _finish(self) -> None:
        self._write_pending()
        with self._arrow_errors():
            self._flush()
            self._arrow_writer.close()

    def abort(self) -> None:
        super().abort()
        # Otherwise pyarrow writes when the object is collected. Now the output ignores that.
        with contextlib.suppress(OSError, self._arrow.ArrowException):
            self._arrow_writer.close()

    @contextlib.contextmanager
    def _arrow_errors(self, source: Path | None = None) -> Generator[None, None, None]:
        """Raise OSError for the errors of pyarrow."""
        reason = ""
        try:
            yield
        except self._arrow.ArrowException as error:
            if isinstance(error, OSError):
                raise
            reason = type(error).__name__
        if reason and source is not None:
            raise copy_error(source, f"the part cannot be read ({reason})")
        if reason:
            raise OSError(errno.EIO, f"pyarrow cannot write the part ({reason})")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_parquet(path: Path, kind: RowKind, names: Sequence[str], _csv: CsvOptions) -> Iterator[Columns]:
    """Yield the rows of a part; see `Format.read`."""
    arrow, parquet = load()
    expected = arrow_schema(arrow, kind)
    problem = ""
    try:
        with parquet.ParquetFile(path) as file:
            for name in names:
                field = file.schema_arrow.field(name) if name in file.schema_arrow.names else None
                if field is None or not field.type.equals(expected.field(name).type):
                    raise part_error(path, f"it has no column {name} of the right type")
            for batch in file.iter_batches(_READ_ROWS, columns=list(names)):
                yield [_cells(arrow, batch.column(name)) for name in names]
    except arrow.ArrowException as error:
        problem = type(error).__name__
    except OSError as error:
        if error.errno is not None:
            raise
        problem = "it cannot be decompressed"  # pyarrow has no class for that
    if problem:
        raise part_error(path, f"it is damaged ({problem})")


def _cells(arrow: Any, column: Any) -> list[Any]:
    if not arrow.types.is_timestamp(column.type):
        cells: list[Any] = column.to_pylist()
        return cells
    # As datetimes, they would need a database of time zones, which Windows does not have.
    return [
        None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
        for microseconds in column.cast(arrow.int64()).to_pylist()
    ]
