"""Parts as Parquet, with pyarrow, which is imported when the first part is made and not before.

The schema is fixed: texts and JSON are strings, moments are timestamps with microseconds in UTC. The file's
metadata has `unpod_async.schema_version` and `unpod_async.rows` ("runs" or "tasks"). Compressed with zstd;
row groups are bounded in rows and bytes: a reader takes one into memory as a whole, and so does this writer.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unpod_async._export.formats.cells import cells
from unpod_async._export.formats.columns import COLUMNS, SCHEMA_VERSION, Rows
from unpod_async._export.formats.output_file import Sink, open_part
from unpod_async._export.formats.writer import Range, Writer, damaged
from unpod_async.errors import ConfigurationError

__all__ = ["ParquetWriter", "load"]

_BATCH_ROWS = 1024
_BATCH_BYTES = 4 << 20  # of lines
_GROUP_ROWS = 65_536
_GROUP_BYTES = 32 << 20  # of columns


def load() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as fault:
        reason = str(fault)
    raise ConfigurationError(
        f"Parquet needs pyarrow, which cannot be imported ({reason}): pip install 'unpod-async[parquet]'"
    )


class ParquetWriter(Writer):
    """A part as Parquet."""

    def __init__(self, sink: Sink, kind: Rows) -> None:
        super().__init__(sink)
        self._arrow, self._parquet = load()
        self._kind: Rows = kind
        self._schema = self._schema_of(kind)
        self._cells: list[list[Any]] = []
        self._cells_bytes = 0
        self._pending: list[Any] = []
        self._pending_rows = self._pending_bytes = 0
        with self._plain_errors():
            self._out = self._parquet.ParquetWriter(
                self._arrow.PythonFile(sink, mode="w"), self._schema, compression="zstd"
            )

    def _schema_of(self, kind: Rows) -> Any:
        types = {
            "text": self._arrow.string(),
            "json": self._arrow.string(),
            "integer": self._arrow.int64(),
            "number": self._arrow.float64(),
            "timestamp": self._arrow.timestamp("us", tz="UTC"),
        }
        return self._arrow.schema(
            [(column.name, types[column.kind]) for column in COLUMNS[kind]],
            metadata={"unpod_async.schema_version": str(SCHEMA_VERSION), "unpod_async.rows": kind},
        )

    def write(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            # Cells become columns many rows at a time, also when lines come one by one.
            self._cells.append(cells(self._kind, line))
            self._cells_bytes += len(line)
            self.rows += 1
            if len(self._cells) >= _BATCH_ROWS or self._cells_bytes >= _BATCH_BYTES:
                self._to_columns()

    def _to_columns(self) -> None:
        rows, self._cells, self._cells_bytes = self._cells, [], 0
        if rows:
            with self._plain_errors():
                arrays = [
                    self._arrow.array(column, field.type)
                    for column, field in zip(zip(*rows, strict=True), self._schema, strict=True)
                ]
                self._add(self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema))

    def _add(self, batch: Any) -> None:
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += batch.nbytes
        if self._pending_rows >= _GROUP_ROWS or self._pending_bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            table = self._arrow.Table.from_batches(pending, schema=self._schema)
            self._out.write_table(table, row_group_size=self._pending_rows)
        self._pending_rows = self._pending_bytes = 0

    def _copy(self, source: Path, ranges: Sequence[Range]) -> None:
        self._to_columns()
        with self._plain_errors(source), os.fdopen(open_part(source), "rb") as file:
            # Not read ahead: of a group's columns only what the batch in hand needs.
            part = self._parquet.ParquetFile(file, pre_buffer=False)
            if not part.schema_arrow.equals(self._schema, check_metadata=True):
                raise damaged(source, "the part has another schema")
            if part.metadata.num_rows < ranges[-1][1]:
                raise damaged(source, f"the part ends after {part.metadata.num_rows} rows")
            for batch, picked in self._batches(part, ranges):
                # Copied out of the batch: a slice would keep all of it in memory.
                self._add(batch if picked is None else batch.take(self._arrow.array(picked)))

    def _batches(self, part: Any, ranges: Sequence[Range]) -> Iterator[tuple[Any, list[int] | None]]:
        """Batches of the part with the rows to be kept, or None for all; groups without any are not read."""
        left = list(reversed(ranges))
        end = 0
        for group in range(part.num_row_groups):
            at, end = end, end + part.metadata.row_group(group).num_rows
            if not left or left[-1][0] >= end:
                continue
            for batch in part.iter_batches(_BATCH_ROWS, row_groups=[group]):
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
        self._to_columns()
        with self._plain_errors():
            self._flush()
            self._out.close()

    def abort(self) -> None:
        super().abort()
        # It would close, and so write, when it is collected; now nothing of that goes anywhere.
        with contextlib.suppress(OSError, self._arrow.ArrowException):
            self._out.close()

    @contextlib.contextmanager
    def _plain_errors(self, source: Path | None = None) -> Generator[None, None, None]:
        """pyarrow's errors as OSError."""
        reason = ""
        try:
            yield
        except self._arrow.ArrowException as fault:
            if isinstance(fault, OSError):
                raise
            reason = type(fault).__name__
        if reason and source is not None:
            raise damaged(source, f"the part cannot be read ({reason})")
        if reason:
            raise OSError(errno.EIO, f"pyarrow cannot write the part ({reason})")
