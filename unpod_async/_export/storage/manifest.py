"""The manifest: what is in a data set, what was asked, and what is not in it. And the summary, likewise."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from unpod_async._export.formats import SCHEMA_VERSION
from unpod_async._export.results import BadRow, FailedRun
from unpod_async._export.storage.catalog import Catalog, RunState
from unpod_async._export.storage.parts import Parts
from unpod_async._version import VERSION

__all__ = ["Contents", "contents", "manifest"]

_NAMED = 1000
"""Failed runs and bad rows that are named; all are counted."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A file of rows; `bytes` is its size, `sha256` its digest in hex."""

    name: str
    kind: str
    rows: int
    bytes: int
    sha256: str


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """A data set in numbers, and what is missing from it."""

    runs: int
    tasks: int
    recordings: int
    parts: list[Part]
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


def contents(state: Catalog, parts: Parts) -> Contents:
    """Read off the state. Blocks."""
    files = [
        Part(name=parts.name(kind, number), kind=kind, rows=rows, bytes=size, sha256=sha256)
        for kind, number, rows, size, sha256 in state.run(
            "SELECT kind, number, rows, size, sha256 FROM part ORDER BY kind, number"
        )
    ]
    failed = state.run(
        "SELECT token, id, reason FROM run JOIN space ON space.number = run.space WHERE state = ? "
        "ORDER BY run.number LIMIT ?",
        (RunState.FAILED, _NAMED),
    )
    bad = state.run(
        "SELECT token, run.id, bad.place, bad.reason FROM bad JOIN space ON space.number = bad.space "
        "LEFT JOIN run ON run.number = bad.run LIMIT ?",
        (_NAMED,),
    )
    return Contents(
        runs=sum(part.rows for part in files if part.kind == "runs"),
        tasks=sum(part.rows for part in files if part.kind == "tasks"),
        recordings=int(state.value("SELECT count(*) FROM recording WHERE file IS NOT NULL")),
        parts=files,
        failed_runs=int(state.value("SELECT count(*) FROM run WHERE state = ?", (RunState.FAILED,))),
        failed=[
            FailedRun(space_token=token, run_id="" if name.startswith("#") else name, reason=reason)
            for token, name, reason in failed
        ],
        bad_rows=int(state.value("SELECT count(*) FROM bad")),
        bad=[
            BadRow(space_token=token, run_id=run_id, place=place, reason=reason)
            for token, run_id, place, reason in bad
        ],
        failed_recordings=int(state.value("SELECT count(*) FROM recording WHERE reason IS NOT NULL")),
    )


def manifest(options: Mapping[str, object], found: Contents, started: datetime, reasons: list[str]) -> bytes:
    """Return the content of `_manifest.json`."""
    told = {
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
    return msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"
