"""`_manifest.json`: its name, its version, and reading it."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from unpod_async._common import os_error_reason, path_text
from unpod_async._export.missing import BadRow, FailedDownloads, FailedRun
from unpod_async._tables import SCHEMA_VERSION
from unpod_async.errors import ExportError

__all__ = [
    "MANIFEST",
    "MANIFEST_VERSION",
    "PLAN",
    "WORK",
    "Manifest",
    "PartInfo",
    "decode_manifest",
    "read_manifest",
]

MANIFEST: Final = "_manifest.json"
"""Tools that read a directory skip names with an underscore."""

MANIFEST_VERSION: Final = 1
"""Increases when older versions of this package could misread the manifest."""

PLAN: Final = "_plan.json"
"""The file that says which plan the shards in a directory belong to."""

WORK: Final = ".unpod-export"
"""The folder with the state of an export."""

_OLD_MANIFEST: Final = "manifest.json"
_PART_NAME: Final = re.compile(r"(runs|tasks)/[^./\\\0][^/\\\0]*")


class PartInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A part file.

    Attributes:
        name: Path in the target.
        kind: "runs" or "tasks".
        bytes: Size of the file.
        sha256: Digest of the file in hex.
    """

    name: str
    kind: str
    rows: int
    bytes: int
    sha256: str


class FailedRuns(msgspec.Struct, frozen=True):
    """The number of runs whose tasks could not all be read, and the first of them."""

    count: int
    examples: list[FailedRun]


class BadRows(msgspec.Struct, frozen=True):
    """The number of rows that are in no file, and the first of them."""

    count: int
    examples: list[BadRow]


class DatasetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the data set that its readers need; see `ExportSpec`.

    Attributes:
        plan: Digest of the plan if the data set is a shard, or was merged from shards.
        shard: Number of the shard.
    """

    format: str
    spaces: list[str]
    runs: list[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    csv_safe: bool = False
    redact: Literal["drop", "hash"] | None = None
    plan: str | None = None
    shard: int | None = None


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """The versions of the columns and of the manifest."""

    columns: int
    manifest: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `_manifest.json`. `build_manifest` writes it.

    Attributes:
        reasons: Other reasons why rows may be missing.
        failed_downloads: Why recordings were not downloaded, with the most frequent problem first.
        unlisted_runs: Number of planned runs of a shard that no longer exist.
    """

    complete: bool
    finished: datetime
    options: DatasetOptions
    versions: Versions
    parts: list[PartInfo]
    failed_runs: FailedRuns
    unreadable_rows: BadRows
    failed_recordings: int
    reasons: list[str]
    failed_downloads: list[FailedDownloads] = []
    unlisted_runs: int = 0

    def __post_init__(self) -> None:
        for part in self.parts:
            if not _PART_NAME.fullmatch(part.name) or part.name.partition("/")[0] != part.kind:
                raise ValueError("a part has a name that no export writes")


class _AnyVersion(msgspec.Struct):
    """What the manifests of all versions have in common."""

    versions: Versions


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of an export. Blocks.

    Raises:
        ExportError: The directory is not an export, the export has not ended, or the manifest cannot be read.
    """
    shown = path_text(directory)
    try:
        content = (directory / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise _no_manifest(directory) from None
    except OSError as error:
        raise ExportError(
            f"the manifest of {shown} cannot be read: {os_error_reason(error)}",
            hint="check the permissions of the directory and its files",
        ) from None
    return decode_manifest(content, shown)


def decode_manifest(
    content: bytes, shown: str, hint: str = "run the export again: it rewrites the manifest"
) -> Manifest:
    """Return the manifest of an export.

    Args:
        shown: The path or the URL of the data set, for errors.
        hint: What to do if the manifest is damaged.

    Raises:
        ExportError: The manifest cannot be read.
    """
    try:
        versions = msgspec.json.decode(content, type=_AnyVersion).versions
        if versions.manifest > MANIFEST_VERSION or versions.columns > SCHEMA_VERSION:
            raise ExportError(
                f"a newer version of unpod-async made the export in {shown}", hint="upgrade unpod-async"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # the message may quote the content
    raise ExportError(f"the manifest of {shown} is damaged or has been changed", hint=hint)


def _no_manifest(directory: Path) -> ExportError:
    shown = path_text(directory)
    if not directory.is_dir():
        state = "is not a directory" if directory.exists() else "does not exist"
        return ExportError(f"{shown} {state}", hint="give the directory of an export")
    if (directory / WORK).is_dir():
        return ExportError(
            f"{shown} has no manifest: its export is running or was interrupted",
            hint="wait for the export to end, or run it again",
        )
    if (directory / _OLD_MANIFEST).exists():
        return ExportError(
            f"{shown} has the file layout of an older version of unpod-async",
            hint="export to a directory that is empty or does not exist",
        )
    return ExportError(
        f"{shown} is not the directory of an export: it has no manifest",
        hint="give the directory of an export",
    )
