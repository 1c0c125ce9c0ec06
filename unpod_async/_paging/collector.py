"""Build the pages of a walk from its `Deliver` commands, and report bad rows at the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from unpod_async._http import Reader, check_choice
from unpod_async._paging.commands import Deliver
from unpod_async._paging.listings import Listing
from unpod_async._paging.page import Page, RejectedRow
from unpod_async.errors import DecodeError, UnpodError

__all__ = ["Collector", "OnBadRow", "check_on_bad_row"]

T = TypeVar("T")
OnBadRow: TypeAlias = Literal["raise", "skip"]

_NOT_USABLE: Final = frozenset({type(None), RejectedRow})
_log = logging.getLogger("unpod_async")

_KEPT = 100
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
        self._bad = 0
        self._first_bad_page: int | None = None
        self._is_first = True

    def page(self, deliver: Deliver) -> Page[T] | None:
        """Return the page to yield, or None if it is empty and not the first one."""
        items: list[Any] = []
        rejected: list[RejectedRow] = []
        count: int | None = None
        headers: Any = {}
        repeated = 0
        part: Any  # a DecodedPage; the walk knows only its base class
        for part, new in deliver.parts:
            rows = part.rows
            count, headers = part.count, part.headers
            if len(new) < len(rows):
                repeated += len(rows) - len(new)
                rows = [rows[index] for index in new]
            items += self._usable(rows, rejected)
        unreadable = list(deliver.unreadable)
        if rejected or unreadable:
            self._add_bad_rows(deliver.number, rejected, unreadable)
        self._executor.count_page(
            rows=len(items), rejected=len(rejected), unreadable=len(unreadable), repeated=repeated
        )
        if not (items or rejected or unreadable or self._is_first):
            return None
        self._is_first = False
        return Page(items, deliver.number, self._page_size, count, rejected, unreadable, headers)

    def _usable(self, rows: Sequence[Any], rejected: list[RejectedRow]) -> Sequence[Any]:
        """Return the rows to yield, and append the rejected ones to `rejected`."""
        usable = rows
        # Few pages have such rows. Without them, this takes a tenth of the instructions of a loop.
        if not _NOT_USABLE.isdisjoint(map(type, rows)):
            usable = [row for row in rows if type(row) not in _NOT_USABLE]
            rejected += [row for row in rows if type(row) is RejectedRow]
        keeps = self._keeps
        if keeps is not None:
            # Raw rows were filtered while they were decoded.
            usable = [row for row in usable if type(row) is bytes or keeps(row)]
        return usable

    def _add_bad_rows(self, page: int, rejected: list[RejectedRow], unreadable: list[int]) -> None:
        self._bad += len(rejected) + len(unreadable)
        self._first_bad_page = self._first_bad_page or page
        redact = self._executor.redact
        self._rejected += [row.masked(redact) for row in rejected[: _KEPT - len(self._rejected)]]
        self._unreadable += unreadable[: _KEPT - len(self._unreadable)]
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
            f"{self._bad} rows of {self._listing.endpoint.label} cannot be used: {self._examples()}; "
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
            error.add_note(f"{self._bad} rows could not be used: {self._examples()}")

    def _examples(self) -> str:
        examples = [f"{row.path}: {row.reason}" for row in self._rejected[:3]]
        examples += [f"the row at position {position} is unreadable" for position in self._unreadable[:3]]
        return "; ".join(examples)
