"""`Page` as users see it, the decoded page that a walk works with, and rows that were rejected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from unpod_async._paging.commands import PageResult
from unpod_async._paging.user_tokens import replace_user_tokens

__all__ = ["DecodedPage", "Page", "RejectedRow"]

T = TypeVar("T")


class RejectedRow(NamedTuple):
    """A row that the server sent and that cannot be an item of the listing.

    Attributes:
        raw: the row's JSON bytes as sent. In a row that an exception carries, user tokens and the client's
            token are masked.
        path: location of the problem in the response body, such as "$.data[3].task_id".
        reason: description of the problem; contains no data of the row.
    """

    raw: bytes
    path: str
    reason: str

    def masked(self, redact: Callable[[bytes], bytes] = bytes) -> RejectedRow:
        """Return a copy for exceptions, which are pickled and logged.

        Args:
            redact: replaces the client's token.
        """
        return self._replace(raw=redact(replace_user_tokens(self.raw, b'"***"')))

    def __repr__(self) -> str:
        # The bytes contain names and phone numbers.
        return f"RejectedRow(path={self.path!r}, reason={self.reason!r}, {len(self.raw)} bytes)"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing, without rows that were yielded before.

    Attributes:
        items: the rows in the server's order; with a client-side filter, only the matching ones.
        number: page number, counted from 1.
        page_size: number of rows requested per page.
        count: size of the whole listing according to this response, or None if the server does not say.
        rejected: rows that were received but do not fit the model, or belong to another run.
        unreadable: positions in the listing, counted from 1, whose row the server cannot send. The request
            that fails is `page=<position>` with `page_size=1`.
        headers: Date, Retry-After, X-RateLimit-* and X-Request-ID of the response, with lower-case names.
    """

    items: list[T]
    number: int
    page_size: int
    count: int | None
    rejected: list[RejectedRow]
    unreadable: list[int]
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        # Raw rows contain everything, including user tokens.
        return f"Page(number={self.number}, {len(self.items)} items)"


class DecodedPage(PageResult, frozen=True, kw_only=True):
    """The rows of one response.

    Attributes:
        rows: by position in the page: an item, a `RejectedRow`, or None for a row that a filter removed.
        headers: as `Page.headers`.
        status_code: `status_code` in the body, as sent.
        message: `message` in the body, as sent.
        drift: the names of fields with another type than in the model. They are None in the row.
    """

    rows: Sequence[Any]
    headers: Mapping[str, str]
    status_code: object = None
    message: object = None
    drift: Sequence[str] = ()
