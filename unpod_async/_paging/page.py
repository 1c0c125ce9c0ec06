"""Pages, as users see them and as a walk works with them, and the collector that builds them.

The collector also reports bad rows at the end of a walk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from unpod_async._call_output import Record
from unpod_async._common import html_table, replace_user_tokens, shorten
from unpod_async._http import Reader, check_choice
from unpod_async._paging.commands import Deliver, PageFailure, PageResult
from unpod_async._paging.listings import Listing
from unpod_async.errors import DecodeError, UnpodError

__all__ = ["Collector", "DecodedPage", "OnBadRow", "Page", "RejectedRow", "check_on_bad_row"]

T = TypeVar("T")

_SHOWN_ROWS: Final = 50
"""Maximum number of rows that a notebook shows of a page."""


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

    def _repr_html_(self) -> str:
        """Return the HTML that notebooks show: a table with the fields of each row that its `repr` shows."""
        rows = [dict(row.__rich_repr__()) for row in self.items[:_SHOWN_ROWS] if isinstance(row, Record)]
        caption = repr(self) if len(rows) == len(self.items) else f"{self!r}, of which {len(rows)} are shown"
        return html_table([*rows[0]] if rows else [], [[*row.values()] for row in rows], caption)


class DecodedPage(PageResult, frozen=True, kw_only=True):
    """The rows of one response.

    Attributes:
        rows: by position in the page: an item, a `RejectedRow`, or None for a row that a filter removed.
        headers: as `Page.headers`.
        status_code: `status_code` in the body, as sent.
        message: `message` in the body, as sent.
        drift: the names of fields whose values do not have the type of the model. They are None in the row.
        undated: the positions of rows without a time, which a filter by time keeps. Only custom listings.
    """

    rows: Sequence[Any]
    headers: Mapping[str, str]
    status_code: object = None
    message: object = None
    drift: Sequence[str] = ()
    undated: frozenset[int] = frozenset()


OnBadRow: TypeAlias = Literal["raise", "skip"]

_BAD_ROW_TYPES: Final = frozenset({type(None), RejectedRow})
_log = logging.getLogger("unpod_async")

_MAX_KEPT = 100
"""Number of bad rows that an exception carries; further ones are only counted."""


def check_on_bad_row(value: object) -> OnBadRow:
    """Return the argument `on_bad_row`.

    Raises:
        InvalidArgument: it is neither "raise" nor "skip".
    """
    choices: tuple[OnBadRow, OnBadRow] = ("raise", "skip")
    return check_choice("on_bad_row", value, choices)


class Collector(Generic[T]):
    """Builds the pages of one walk.

    Args:
        listing: the listing that is read.
        page_size: number of rows requested per page.
        on_bad_row: "raise" makes `bad_rows` return an error; "skip" logs bad rows.
        executor: counts the rows.
    """

    def __init__(
        self, listing: Listing[T], *, page_size: int, on_bad_row: OnBadRow, executor: Reader
    ) -> None:
        self._executor = executor
        self._listing = listing
        self._keeps = listing.keeps if listing.is_filtered else None
        self._page_size = page_size
        self._on_bad_row = on_bad_row
        self._rejected: list[RejectedRow] = []
        self._unreadable: list[int] = []
        self._bad = self._unreadable_rows = 0
        self._answer = ""
        self._first_bad_page: int | None = None
        self._is_first = True

    def page(self, deliver: Deliver) -> Page[T] | None:
        """Return the page to yield, or None if it is empty and not the first one."""
        items: list[Any] = []
        rejected: list[RejectedRow] = []
        count: int | None = None
        headers: Any = {}
        repeated = undated = 0
        part: Any  # a DecodedPage; the walk knows only its base class
        for part, new in deliver.parts:
            rows = part.rows
            count, headers = part.count, part.headers
            if part.undated:
                undated += len(part.undated.intersection(new))
            if len(new) < len(rows):
                repeated += len(rows) - len(new)
                rows = [rows[index] for index in new]
            items += self._select_usable(rows, rejected)
        unreadable = list(deliver.unreadable)
        if rejected or unreadable:
            self._add_bad_rows(deliver.number, rejected, unreadable)
        self._executor.count_page(
            self._listing.endpoint,
            rows=len(items),
            rejected=len(rejected),
            unreadable=len(unreadable),
            repeated=repeated,
            undated=undated,
        )
        if not (items or rejected or unreadable or self._is_first):
            return None
        self._is_first = False
        return Page(items, deliver.number, self._page_size, count, rejected, unreadable, headers)

    def note_failure(self, failure: PageFailure) -> None:
        """Remember what the server answered instead of rows, for the message about unreadable rows."""
        if failure.unreadable:
            self._answer = shorten(failure.error.summary, 200)

    def _select_usable(self, rows: Sequence[Any], rejected: list[RejectedRow]) -> Sequence[Any]:
        """Return the rows to yield, and append the rejected ones to `rejected`."""
        usable = rows
        # Few pages have such rows, and this check is faster than a loop over the rows.
        if not _BAD_ROW_TYPES.isdisjoint(map(type, rows)):
            usable = [row for row in rows if type(row) not in _BAD_ROW_TYPES]
            rejected += [row for row in rows if type(row) is RejectedRow]
        keeps = self._keeps
        if keeps is not None:
            # Raw rows were filtered while they were decoded.
            usable = [row for row in usable if type(row) is bytes or keeps(row)]
        return usable

    def _add_bad_rows(self, page: int, rejected: list[RejectedRow], unreadable: list[int]) -> None:
        self._bad += len(rejected) + len(unreadable)
        self._unreadable_rows += len(unreadable)
        self._first_bad_page = self._first_bad_page or page
        redact = self._executor.redact
        self._rejected += [row.masked(redact) for row in rejected[: _MAX_KEPT - len(self._rejected)]]
        self._unreadable += unreadable[: _MAX_KEPT - len(self._unreadable)]
        if self._on_bad_row == "skip":
            _log.warning(
                "%s, page %d: %d rows rejected (%s), %d rows unreadable (%s)",
                self._listing.endpoint.label,
                page,
                len(rejected),
                ", ".join(f"{row.path}: {row.reason}" for row in rejected[:3]) or "none",
                len(unreadable),
                ", ".join(str(position) for position in unreadable[:3]) or "none",
            )

    def bad_rows(self) -> DecodeError | None:
        """Return the error with which a complete walk ends, or None if it ends without one."""
        if not self._bad or self._on_bad_row == "skip":
            return None
        error = DecodeError(
            f"{_rows(self._bad)} of {self._listing.endpoint.label} cannot be used: {self._places()}; "
            "all other rows were yielded",
            rejected=self._rejected,
            unreadable=self._unreadable,
            hint="on_bad_row='skip' logs such rows and continues",
        )
        self.locate(error, self._first_bad_page or 1)
        return error

    def locate(self, error: UnpodError, page: int) -> None:
        """Add the listing and the page to an error of this walk."""
        if error.listing is not None:
            return
        error.locate(self._listing.endpoint.label, page)
        if self._bad and not isinstance(error, DecodeError):
            error.add_note(f"{_rows(self._bad)} could not be used: {self._places()}")

    def _places(self) -> str:
        """Return where the bad rows are, and why they are rejected or what the server answered instead."""
        by_reason: dict[str, list[str]] = {}
        for row in self._rejected:
            by_reason.setdefault(row.reason, []).append(row.path)
        parts = [f"{', '.join(paths)}: {reason}" for reason, paths in by_reason.items()]
        if others := self._bad - self._unreadable_rows - len(self._rejected):
            parts.append(f"{others} more rejected")
        if self._unreadable:
            single = self._unreadable_rows == 1
            places = _ranges(self._unreadable)
            if others := self._unreadable_rows - len(self._unreadable):
                places += f" and {others} more"
            answer = f" ({self._answer})" if self._answer else ""
            parts.append(
                f"the row at position {places} is unreadable{answer}"
                if single
                else f"the rows at positions {places} are unreadable{answer}"
            )
        return "; ".join(parts)


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number} rows"


def _ranges(positions: Iterable[int]) -> str:
    """Return positions in ascending order, such as "2, 5-9, 40"."""
    ranges: list[list[int]] = []
    for position in sorted(positions):
        if ranges and position == ranges[-1][1] + 1:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
