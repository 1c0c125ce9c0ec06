"""What is missing from an export: runs and rows."""

from __future__ import annotations

import msgspec

__all__ = ["BadRow", "FailedRun"]


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
