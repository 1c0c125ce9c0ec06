"""What an export needs to know of a row it hands on as bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from unpod_async._times import parse_time

__all__ = ["RunHead", "TaskHead", "has_ended", "run_head", "task_head"]

_ENDED = frozenset({"completed", "failed"})


class RunHead(msgspec.Struct, gc=False):
    """Of a row of the listing of runs; any type, for a row of the wrong types is a row all the same."""

    run_id: Any = None
    status: Any = None
    created: Any = None
    batch_count: Any = None

    @property
    def expected(self) -> int | None:
        """Tasks the run says it has."""
        count = self.batch_count
        return count if type(count) is int and 0 <= count < 2**31 else None

    @property
    def created_at(self) -> datetime | None:
        return parse_time(self.created)


class TaskHead(msgspec.Struct, gc=False):
    """Of a row of a listing of tasks."""

    task_id: Any = None
    run_id: Any = None
    status: Any = None


_RUN = msgspec.json.Decoder(RunHead)
_TASK = msgspec.json.Decoder(TaskHead)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def run_head(line: bytes) -> RunHead:
    try:
        return _RUN.decode(line)
    except _UNREADABLE:
        return RunHead()


def task_head(line: bytes) -> TaskHead:
    try:
        return _TASK.decode(line)
    except _UNREADABLE:
        return TaskHead()


def has_ended(status: object) -> bool:
    """Whether a run or task with this status is done with, as far as its status goes."""
    return isinstance(status, str) and status in _ENDED
