"""The formats of a data set, by the names they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unpod_async._export.formats.columns import Rows
from unpod_async._export.formats.csv import CsvWriter
from unpod_async._export.formats.jsonl import GzipJsonlWriter, JsonlWriter
from unpod_async._export.formats.output_file import Sink
from unpod_async._export.formats.parquet import ParquetWriter, load
from unpod_async._export.formats.writer import Writer

__all__ = ["FORMATS", "Format", "Writer"]


@dataclass(frozen=True, slots=True)
class Format:
    """How parts are written.

    Attributes:
        suffix: of the files, with its dot.
        is_lines: a part of tasks is the lines that `line_of` makes, and nothing else.
        check: raises ConfigurationError when what the format needs is not installed.
    """

    suffix: str
    make: Callable[[Sink, Rows, bool], Writer]
    check: Callable[[], object] = tuple
    is_lines: bool = False

    def create(self, path: Path, kind: Rows, *, csv_safe: bool = False) -> Writer:
        """A new part, readable by its owner only. `csv_safe` is for CSV; the others have no need of it.

        Raises:
            ConfigurationError: see `check`; then no file was made.
            OSError: the file cannot be made, or is there already.
        """
        self.check()
        sink = Sink(path)
        try:
            return self.make(sink, kind, csv_safe)
        except BaseException:
            sink.discard()
            raise


FORMATS: Mapping[str, Format] = {
    "jsonl": Format(".jsonl", lambda sink, kind, csv_safe: JsonlWriter(sink), is_lines=True),
    "jsonl.gz": Format(".jsonl.gz", lambda sink, kind, csv_safe: GzipJsonlWriter(sink)),
    "csv": Format(".csv", lambda sink, kind, csv_safe: CsvWriter(sink, kind, csv_safe=csv_safe)),
    "parquet": Format(".parquet", lambda sink, kind, csv_safe: ParquetWriter(sink, kind), load),
}
