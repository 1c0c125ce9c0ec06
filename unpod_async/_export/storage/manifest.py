"""The manifest: the options of a data set, its files, and what is missing from it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from unpod_async._export.formats import SCHEMA_VERSION
from unpod_async._export.results import BadRow, FailedRun
from unpod_async._export.storage.catalog import Catalog, RunState
from unpod_async._export.storage.parts import Parts
from unpod_async._version import VERSION

__all__ = ["Contents", "contents", "manifest"]

_MAX_EXAMPLES = 1000
"""Failed runs and bad rows that the manifest lists. It counts all of them."""


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


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set holds and what is missing from it."""

    runs: int
    tasks: int
    recordings: int
    parts: list[PartInfo]
    failed_runs: int
    failed: list[FailedRun]
    bad_rows: int
    bad: list[BadRow]
    failed_recordings: int

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def is_whole(self) -> bool:
        return not (self.failed_runs or self.bad_rows or self.failed_recordings)


def contents(catalog: Catalog, parts: Parts) -> Contents:
    """Return the contents of a data set by its catalog. Blocks."""
    stored = catalog.parts()
    recordings, failed_recordings = catalog.count_recordings()
    failed, bad = catalog.failed_runs(_MAX_EXAMPLES), catalog.bad_rows(_MAX_EXAMPLES)
    failed_runs, bad_rows = catalog.count_runs(RunState.FAILED), catalog.count_bad_rows()
    files = [
        PartInfo(name=parts.name(kind, number), kind=kind, rows=rows, bytes=size, sha256=sha256)
        for kind, number, rows, size, sha256 in stored
    ]
    return Contents(
        runs=sum(part.rows for part in files if part.kind == "runs"),
        tasks=sum(part.rows for part in files if part.kind == "tasks"),
        recordings=recordings,
        parts=files,
        failed_runs=failed_runs,
        failed=[
            FailedRun(space_token=token, run_id=run_id, reason=reason) for token, run_id, reason in failed
        ],
        bad_rows=bad_rows,
        bad=[
            BadRow(space_token=token, run_id=run_id, place=position, reason=reason)
            for token, run_id, position, reason in bad
        ],
        failed_recordings=failed_recordings,
    )


def manifest(options: Mapping[str, Any], found: Contents, started: datetime, reasons: Sequence[str]) -> bytes:
    """Return the content of `_manifest.json`."""
    content = {
        "complete": found.is_whole and not reasons,
        "started": started,
        "finished": datetime.now(UTC),
        "options": options,
        "versions": {
            "unpod_async": VERSION,
            "python": platform.python_version(),
            "columns": SCHEMA_VERSION,
            "manifest": 1,
        },
        "counts": {
            "runs": found.runs,
            "tasks": found.tasks,
            "recordings": found.recordings,
            "files": len(found.parts),
            "bytes": found.bytes,
        },
        "parts": found.parts,
        "failed_runs": {"count": found.failed_runs, "examples": found.failed},
        "unreadable_rows": {"count": found.bad_rows, "examples": found.bad},
        "failed_recordings": found.failed_recordings,
        "reasons": reasons,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
