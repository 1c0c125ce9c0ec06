"""What an export tells: its progress while it runs, and its summary."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["BadRow", "ExportProgress", "ExportSummary", "FailedRun"]


class ExportProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a running export; the last one has phase "done".

    Attributes:
        phase: "listing" runs, "fetching" their tasks, "recordings", "writing" the files, "done".
        runs_seen: runs of the listing that are asked for, so far.
        runs_total: runs whose tasks are to be fetched by this export; None while they are being listed.
        runs_done: of these, how many have been fetched.
        runs_failed: of these, how many could not be read.
        rows: tasks fetched by this export.
        bytes: bytes received, decompressed.
        requests: requests really sent.
        retries: of these, repeats.
        waiting: seconds that the service has been waited for just now; 0 when it answers.
        seconds: since the export began.
        rate: tasks per second, over the last seconds.
        remaining: seconds still to go, estimated; None when nothing can be said.
    """

    phase: Literal["listing", "fetching", "recordings", "writing", "done"]
    runs_seen: int = 0
    runs_total: int | None = None
    runs_done: int = 0
    runs_failed: int = 0
    rows: int = 0
    bytes: int = 0
    requests: int = 0
    retries: int = 0
    waiting: float = 0.0
    seconds: float = 0.0
    rate: float = 0.0
    remaining: float | None = None


class FailedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run whose tasks could not be read; the data set has those of an earlier export, or none.

    `run_id` is "" for a run that has none.
    """

    space_token: str
    run_id: str
    reason: str


class BadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is in no file: the server cannot send it, or what it sends is no row.

    Attributes:
        run_id: the run it is a task of; None for a row of the listing of runs.
        place: its place in its listing, from 1; None when it came and cannot be read.
        reason: what is wrong with it; holds no data of the row.
    """

    space_token: str
    run_id: str | None
    place: int | None
    reason: str


class ExportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What an export came to.

    Attributes:
        target: the directory, as it was given.
        complete: every run and every row is there.
        runs, tasks: rows of the data set.
        files: files with rows in them; bytes: their size together.
        fetched_runs, fetched_tasks: runs read by this export, and their tasks.
        unchanged_runs: runs of the data set that were not asked for again.
        gone_runs: runs that were in the data set and are no longer in the space.
        failed_runs: how many runs could not be read; `failed` names the first hundred.
        bad_rows: how many rows are in no file; `bad` names the first hundred.
        recordings: recordings in the data set; failed_recordings: those that could not be downloaded.
        reasons: what else makes the data set incomplete, in words.
        requests, retries: as in `ExportProgress`.
        seconds: how long it took.
    """

    target: str
    complete: bool
    runs: int
    tasks: int
    files: int
    bytes: int
    fetched_runs: int
    fetched_tasks: int
    unchanged_runs: int
    gone_runs: int
    failed_runs: int
    failed: tuple[FailedRun, ...] = ()
    bad_rows: int = 0
    bad: tuple[BadRow, ...] = ()
    recordings: int = 0
    failed_recordings: int = 0
    reasons: tuple[str, ...] = ()
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0
