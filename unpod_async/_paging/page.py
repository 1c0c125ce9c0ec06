"""A page of a walk, the rows of one answer, and a row that is none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

__all__ = ["DecodedPage", "Page", "RejectedRow"]

T = TypeVar("T")

_USER_TOKEN = re.compile(rb'("user_token"\s*:\s*")[^"]*')


class RejectedRow(NamedTuple):
    """A row that came and is not part of the listing's items.

    Attributes:
        raw: its JSON bytes as the server sent them; on an exception `user_token` is masked in them.
        path: where the fault is in the answer, such as "$.data[3].task_id".
        reason: what is wrong there; holds no data of the row.
    """

    raw: bytes
    path: str
    reason: str

    def masked(self) -> RejectedRow:
        """The row for an exception, which is pickled and mailed around: without the user's access token."""
        return self._replace(raw=_USER_TOKEN.sub(rb"\1***", self.raw))

    def __repr__(self) -> str:
        # The bytes hold names and numbers of people.
        return f"RejectedRow(path={self.path!r}, reason={self.reason!r}, {len(self.raw)} bytes)"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a walk, without the rows that were yielded before.

    Attributes:
        items: the rows, in the server's order; with a filter, those that match.
        number: the page as the server numbers it, from 1.
        page_size: rows asked for per page.
        count: rows of the whole listing, as the server counted them in this answer, or None.
        rejected: rows that came and do not fit.
        unreadable: places in the listing (from 1) whose row the server cannot send; `page=<place>` with
            `page_size=1` is the request that fails.
        headers: Date, Retry-After, X-RateLimit-*, X-Request-ID of the answer, names in lower case.
    """

    items: list[T]
    number: int
    page_size: int
    count: int | None
    rejected: list[RejectedRow]
    unreadable: list[int]
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        # Rows as bytes hold all there is, user tokens too.
        return f"Page(number={self.number}, {len(self.items)} items)"


class DecodedPage(msgspec.Struct, frozen=True):
    """The rows of one answer, by place: an item, or why there is none."""

    rows: Sequence[Any]
    keys: Sequence[str]
    count: int | None
    created: Sequence[datetime | None]
    headers: Mapping[str, str]
    status_code: object = None
    message: object = None
