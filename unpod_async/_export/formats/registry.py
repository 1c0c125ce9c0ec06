"""The formats by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unpod_async._export.formats.columns import RowKind
from unpod_async._export.formats.csv import CsvWriter
from unpod_async._export.formats.jsonl import GzipJsonlWriter, JsonlWriter
from unpod_async._export.formats.parquet import ParquetWriter, load
from unpod_async._export.formats.writer import OutputFile, Writer

__all__ = ["FORMATS", "Format", "Writer"]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of part files.

    Attributes:
        suffix: Suffix of the files, with its dot.
        make: Returns a writer for (file, kind, csv_safe).
        check: Raises ConfigurationError if a package that the format needs is missing.
        is_lines: A part consists of the lines that `row_line` makes and nothing else.
    """

    suffix: str
    make: Callable[[OutputFile, RowKind, bool], Writer]
    check: Callable[[], object] = tuple
    is_lines: bool = False

    def create(self, path: Path, kind: RowKind, *, csv_safe: bool = False) -> Writer:
        """Create a part file, readable by its owner only, and return its writer.

        Args:
            csv_safe: See `safe`. Only CSV uses it.

        Raises:
            ConfigurationError: See `check`. No file was created.
            OSError: The file cannot be created, or exists.
        """
        self.check()
        output = OutputFile(path)
        try:
            return self.make(output, kind, csv_safe)
        except BaseException:
            output.discard()
            raise


FORMATS: Mapping[str, Format] = {
    "jsonl": Format(".jsonl", lambda output, kind, csv_safe: JsonlWriter(output), is_lines=True),
    "jsonl.gz": Format(".jsonl.gz", lambda output, kind, csv_safe: GzipJsonlWriter(output)),
    "csv": Format(".csv", lambda output, kind, csv_safe: CsvWriter(output, kind, csv_safe=csv_safe)),
    "parquet": Format(".parquet", lambda output, kind, csv_safe: ParquetWriter(output, kind), load),
}
