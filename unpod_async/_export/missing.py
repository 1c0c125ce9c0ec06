"""What is missing from an export: runs, rows and recordings."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["BadRow", "DownloadFailures", "FailedDownloads", "FailedRun"]

_MAX_REASONS: Final = 3
"""Maximum number of reasons about recordings. Each host of a store has its own."""


class FailedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run whose tasks could not all be read. The next export reads it again.

    The data set has the tasks that were read, or those of an earlier export if that had more of them.

    Attributes:
        run_id: Id of the run; "" if it has none.
        reason: How many rows were written and why the others could not be read.
    """

    space_token: str
    run_id: str
    reason: str


class BadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is in no file: the server could not send it, or sent something that is not a valid row.

    Attributes:
        run_id: The run that the task belongs to; None if the row is a run.
        place: Position in its listing, counted from 1; None if the server sent it and it is invalid.
        reason: What is wrong with it. Contains no data of the row.
    """

    space_token: str
    run_id: str | None
    place: int | None
    reason: str


class FailedDownloads(msgspec.Struct, frozen=True, kw_only=True):
    """Recordings that were not downloaded for the same reason.

    Attributes:
        count: Their number.
        problem: `RecordingError.problem`. Contains no path of a URL.
        task_id: Task of one of them.
        hint: What to do about it, or "".
    """

    count: int = 1
    problem: str
    task_id: str
    hint: str = ""

    @property
    def reason(self) -> str:
        """Why recordings are missing, as readable text."""
        more = f" (and {self.count - 1:,} more)" if self.count > 1 else ""
        return f"the recording of task {self.task_id} was not downloaded: {self.problem}{more}"


class DownloadFailures:
    """Counts failed downloads by their problem."""

    def __init__(self) -> None:
        self._by_problem: dict[str, FailedDownloads] = {}

    def add(self, failed: FailedDownloads) -> None:
        known = self._by_problem.get(failed.problem)
        self._by_problem[failed.problem] = (
            failed if known is None else msgspec.structs.replace(known, count=known.count + failed.count)
        )

    def most_frequent(self) -> list[FailedDownloads]:
        """Return an element for each of the most frequent problems, the most frequent one first."""
        return sorted(self._by_problem.values(), key=lambda one: -one.count)[:_MAX_REASONS]
