"""What an export needs to know of a row it hands on as bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from unpod_async._common import parse_time

__all__ = ["FullHead", "Head", "UserInfo", "has_ended", "head_of"]

_ENDED = frozenset({"completed", "failed"})


class Head(msgspec.Struct, gc=False):
    """Of a row of tasks or runs; any type, for a row of the wrong types is a row all the same."""

    id: Any = msgspec.field(name="_id", default=None)
    task_id: Any = None
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


class UserInfo(msgspec.Struct, gc=False):
    """What an export leaves out of a task."""

    user_token: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class FullHead(Head, gc=False):
    """The head of a row that is a JSON object, and whose `user_info` is one if there is any."""

    user_info: UserInfo | None = None


_FULL = msgspec.json.Decoder(FullHead)
_HEAD = msgspec.json.Decoder(Head)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def head_of(row: bytes | msgspec.Raw) -> Head:
    """Never raises: of what is no row all is None."""
    try:
        return _FULL.decode(row)
    except _UNREADABLE:
        pass
    try:
        return _HEAD.decode(row)
    except _UNREADABLE:
        return Head()


def has_ended(status: object) -> bool:
    """Whether a run or task with this status is done with, as far as its status goes."""
    return isinstance(status, str) and status in _ENDED
