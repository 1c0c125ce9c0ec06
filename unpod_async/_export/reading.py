"""Read the rows of a data set back, in any format, some rows at a time."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from unpod_async._common import os_error_reason, path_text
from unpod_async._export.formats import FORMATS, Columns, CsvOptions, RowKind
from unpod_async._export.manifest import DatasetOptions, PartInfo, read_manifest
from unpod_async.errors import ExportError

__all__ = ["DatasetReader", "PartReader"]


class PartReader:
    """Reads the parts of a data set. All methods block. Memory does not depend on the number of rows.

    Args:
        options: The options of the data set.
        shown: Its path or its URL, for errors.

    Raises:
        ExportError: This version does not know the format.
        ConfigurationError: A package that the format needs is not installed.
    """

    def __init__(self, options: DatasetOptions, shown: str) -> None:
        if options.format not in FORMATS:
            raise ExportError(
                f"this version of unpod-async does not know the format of {shown}",
                hint="upgrade unpod-async",
            )
        self._format = FORMATS[options.format]
        self._format.check()
        self._csv = CsvOptions(safe=options.csv_safe)

    def read(self, part: PartInfo, path: Path, names: Sequence[str]) -> Iterator[Columns]:
        """Yield the rows of a part, some at a time, as columns in the order of `names`.

        Args:
            path: The file with the part.
            names: Names of columns of the table. JSON is a str or bytes.

        Raises:
            ExportError: The file cannot be read, or is not the part.
        """
        kind: RowKind = "runs" if part.kind == "runs" else "tasks"
        rows = 0
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != part.bytes:
                raise _changed_error(path)
            for columns in self._format.read(path, kind, names, self._csv):
                rows += len(columns[0])
                yield columns
        except FileNotFoundError:
            raise _changed_error(path, "is missing") from None
        except OSError as error:
            raise ExportError(
                f"{path_text(path)} cannot be read: {os_error_reason(error)}",
                hint="check its permissions, or restore the directory from a backup",
            ) from None
        if rows != part.rows:
            raise _changed_error(path)


class DatasetReader:
    """Reads the data set in a directory. All methods block. Memory does not depend on the number of rows.

    An export may replace the files at any time. `check_unchanged` detects that.

    Attributes:
        manifest: The manifest of the data set.

    Raises:
        ExportError: The directory is not an export, its export has not ended, or its files cannot be read.
        ConfigurationError: A package that the format needs is not installed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.manifest = read_manifest(directory)
        self._reader = PartReader(self.manifest.options, path_text(directory))

    def read(self, kind: RowKind, names: Sequence[str]) -> Iterator[Columns]:
        """Yield the rows of a kind, some at a time, as columns in the order of `names`.

        Args:
            names: Names of columns of the table. JSON is a str or bytes.
        """
        for part in self.manifest.parts:
            if part.kind == kind:
                yield from self.read_part(part, names)

    def read_part(self, part: PartInfo, names: Sequence[str]) -> Iterator[Columns]:
        """Yield the rows of a part; see `read`."""
        yield from self._reader.read(part, self._directory / part.name, names)

    def check_unchanged(self) -> None:
        """Raise ExportError if an export has written to the data set since this reader was made."""
        if read_manifest(self._directory) != self.manifest:
            raise ExportError(
                f"an export has changed the files in {path_text(self._directory)} while they were read",
                hint="try again",
            )


def _changed_error(path: Path, what: str = "is not the file that the export wrote") -> ExportError:
    return ExportError(
        f"{path_text(path)} {what}",
        hint="if an export is running, wait until it has ended; otherwise restore the\n"
        "directory from a backup, or export to a new one",
    )
