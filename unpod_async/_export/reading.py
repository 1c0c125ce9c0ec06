"""Read the rows of a data set back, in any format, some rows at a time."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from unpod_async._common import os_error_reason, path_text
from unpod_async._export.formats import FORMATS, Columns, CsvOptions, RowKind
from unpod_async._export.manifest import PartInfo, read_manifest
from unpod_async.errors import ExportError

__all__ = ["DatasetReader"]


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
        form = self.manifest.options.format
        if form not in FORMATS:
            raise ExportError(
                f"this version of unpod-async does not know the format of {path_text(directory)}",
                hint="upgrade unpod-async",
            )
        self._format = FORMATS[form]
        self._format.check()

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
        path = self._directory / part.name
        options = CsvOptions(safe=self.manifest.options.csv_safe)
        rows = 0
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != part.bytes:
                raise self._changed(part)
            for columns in self._format.read(
                path, "runs" if part.kind == "runs" else "tasks", names, options
            ):
                rows += len(columns[0])
                yield columns
        except FileNotFoundError:
            raise self._changed(part, "is missing") from None
        except OSError as error:
            raise ExportError(
                f"{path_text(path)} cannot be read: {os_error_reason(error)}",
                hint="check its permissions, or restore the directory from a backup",
            ) from None
        if rows != part.rows:
            raise self._changed(part)

    def check_unchanged(self) -> None:
        """Raise ExportError if an export has written to the data set since this reader was made."""
        if read_manifest(self._directory) != self.manifest:
            raise ExportError(
                f"an export has changed the files in {path_text(self._directory)} while they were read",
                hint="try again",
            )

    def _changed(self, part: PartInfo, what: str = "is not the file that the export wrote") -> ExportError:
        return ExportError(
            f"{path_text(self._directory / part.name)} {what}",
            hint="if an export is running, wait until it has ended; otherwise restore the\n"
            "directory from a backup, or export to a new one",
        )
