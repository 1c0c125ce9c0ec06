"""The progress of an export while it runs, and its summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from unpod_async._common import html_table
from unpod_async._export.missing import BadRow, FailedRun
from unpod_async.errors import ExportError

__all__ = ["ExportProgress", "ExportSummary"]


class ExportProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a running export. The last event has the phase "done".

    `str` and `print` show it on one line, such as "fetching: 12 of 61 runs, 340 tasks".

    Attributes:
        phase: "listing" (of the runs), "fetching" (of their tasks), "recordings" (their download),
            "writing" (of the files), "uploading" (of the files to an object store) or "done".
        runs_seen: Selected runs listed so far.
        runs_total: Runs whose tasks this export has to read; None while the runs are being listed.
        runs_done: Number of these runs whose tasks have been read.
        runs_failed: Number of these runs whose tasks could not all be read.
        rows: Tasks read by this export.
        bytes: Bytes received, after decompression.
        requests: HTTP requests sent, including retries.
        retries: Retries among the requests.
        waiting: Seconds since the service stopped responding; 0 if it responds.
        outage: Why the service does not respond, and for how long the export retries, such as "the service
            answers 503; retrying for up to 60 min"; None if it responds.
        resumed: What an interrupted export had stored when this one resumed it, such as "65 of 300 runs";
            None if this export starts anew.
        seconds: Seconds since the export began.
        rate: Tasks per second, measured over the last ten seconds.
        remaining: Estimated seconds until the tasks are read, or in the phase "recordings" until these are
            downloaded; None if unknown.
        recordings_done: Number of recordings that this export has downloaded so far.
        recordings_failed: Number of recordings that could not be downloaded.
        recordings_total: Recordings that this export has to download; None before the downloads begin.
        uploads: Files uploaded to the object store so far.
        uploads_total: Files that this export uploads; None before the uploads begin.
    """

    phase: Literal["listing", "fetching", "recordings", "writing", "uploading", "done"]
    runs_seen: int = 0
    runs_total: int | None = None
    runs_done: int = 0
    runs_failed: int = 0
    rows: int = 0
    bytes: int = 0
    requests: int = 0
    retries: int = 0
    waiting: float = 0.0
    outage: str | None = None
    resumed: str | None = None
    seconds: float = 0.0
    rate: float = 0.0
    remaining: float | None = None
    recordings_done: int = 0
    recordings_failed: int = 0
    recordings_total: int | None = None
    uploads: int = 0
    uploads_total: int | None = None

    def __str__(self) -> str:
        runs = self.runs_seen if self.runs_total is None else self.runs_total
        noun = "run" if runs == 1 else "runs"
        outage = f"; {self.outage}" if self.outage else ""
        if self.phase == "uploading":
            return f"{self.phase}: {self.uploads:,} of {self.uploads_total or 0:,} files"
        if self.phase == "recordings":
            total = self.recordings_total or 0
            return f"{self.phase}: {self.recordings_done:,} of {total:,} recording{'s' * (total != 1)}"
        if self.runs_total is None:
            return f"{self.phase}: {runs:,} {noun} found{outage}"
        return f"{self.phase}: {self.runs_done:,} of {runs:,} {noun}, {self.rows:,} tasks{outage}"


class ExportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an export.

    Attributes:
        target: The directory or the URL, as it was given. Bytes in its name that are not UTF-8 are escaped.
        complete: True if the data set has every run, every task and, with `recordings=True`, every recording.
        runs: Runs in the data set.
        tasks: Tasks in the data set.
        files: Number of files with rows.
        bytes: Total size of these files.
        fetched_runs: Runs of which this export read all tasks.
        fetched_tasks: Tasks that this export read.
        unchanged_runs: Runs in the data set that this export did not read again.
        gone_runs: Runs that were in the data set and are no longer in the space.
        failed_runs: Number of runs whose tasks could not all be read.
        failed: The first hundred of these runs.
        bad_rows: Number of rows that are in no file.
        bad: The first hundred of these rows.
        recordings: Recordings in the data set.
        failed_recordings: Number of recordings that could not be downloaded.
        reasons: Other reasons why the data set is incomplete, as readable text. Recordings that were not
            downloaded for the same reason are one of them; there are at most three about recordings.
        hints: What to do about these recordings.
        requests: HTTP requests sent, including retries.
        retries: Retries among the requests.
        seconds: Duration of the export.
        local_copy: Directory on this machine with the same data set, if the target is in an object store.
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
    hints: tuple[str, ...] = ()
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0
    local_copy: str | None = None

    def _repr_html_(self) -> str:
        """Return the HTML that notebooks show: a table of the fields, without lists of runs and rows."""
        shown = {
            name: getattr(self, name) for name in self.__struct_fields__ if name not in {"failed", "bad"}
        }
        shown |= {name: "; ".join(getattr(self, name)) for name in ("reasons", "hints")}
        shown |= {"seconds": f"{self.seconds:.1f}"}
        return html_table(["field", "value"], shown.items(), type(self).__name__)

    def to_duckdb(self) -> Any:
        """Return a DuckDB connection in memory with the views `runs` and `tasks` of this export.

        Their columns are those of a Parquet export, whatever the format of the files, even without rows.
        Each query reads the Parquet or CSV files, so the data set can be larger than memory. The views are
        valid until the next export replaces files. JSONL files are read into memory now; this needs pyarrow.
        If the target is in an object store, the files of `local_copy` are read. A merge in a store has
        none.

        Example:
            ```python
            summary = await unpod.export(space_token, "data", format="parquet")
            print(summary.to_duckdb().sql("SELECT status, count(*) FROM tasks GROUP BY status"))
            ```

        Raises:
            ConfigurationError: DuckDB, or pyarrow for JSONL, is not installed.
            ExportError: the target has no manifest, for example because another export is in progress, or it
                is in an object store and there is no local copy.
        """
        from unpod_async._export.duckdb_views import open_duckdb

        if self.local_copy is None and self.target.startswith(("s3://", "gs://", "az://")):
            raise ExportError(
                f"{self.target} is in an object store, and this machine has no copy of the files",
                hint="copy the manifest and the files that it names into a directory, or let DuckDB\n"
                "read them from the store",
            )
        return open_duckdb(Path(self.local_copy or self.target))
