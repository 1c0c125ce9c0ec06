"""What a walk emits made into pages, and what is wrong with its rows kept until the end."""

from __future__ import annotations

import logging
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from unpod_async._http import Stats, check_choice
from unpod_async._paging.commands import Deliver
from unpod_async._paging.decode import DecodedPage, Page, RejectedRow
from unpod_async._paging.listings import Listing
from unpod_async.errors import DecodeError, UnpodError

__all__ = ["Collector", "OnBadRow", "check_on_bad_row"]

T = TypeVar("T")
OnBadRow: TypeAlias = Literal["raise", "skip"]

_log = logging.getLogger("unpod_async")

_ON_BAD_ROW: Final[tuple[OnBadRow, ...]] = ("raise", "skip")
_KEPT = 100
"""Bad rows an exception carries; more are counted only."""


def check_on_bad_row(value: object) -> OnBadRow:
    return check_choice("on_bad_row", value, _ON_BAD_ROW)


class Collector(Generic[T]):
    """Pages of one walk. Bad rows stand in their page; `bad_rows` is the error for them at the end."""

    def __init__(self, listing: Listing[T], *, page_size: int, on_bad_row: OnBadRow, stats: Stats) -> None:
        self._stats = stats
        self._listing = listing
        self._page_size = page_size
        self._on_bad_row = on_bad_row
        self._rejected: list[RejectedRow] = []
        self._unreadable: list[int] = []
        self._bad = 0
        self._first_bad_page: int | None = None
        self._emitted = False

    def page(self, emit: Deliver) -> Page[T] | None:
        """The page to hand on, or None when it would be empty and is not the first."""
        items: list[Any] = []
        rejected: list[RejectedRow] = []
        count: int | None = None
        headers: Any = {}
        keeps = self._listing.keeps if self._listing.filters_here else None
        for answer, fresh in emit.parts:
            rows: DecodedPage = answer.rows
            self._stats.repeated += len(answer.keys) - len(fresh)
            count, headers = rows.count, rows.headers
            met = rows.rows if len(fresh) == len(rows.rows) else [rows.rows[index] for index in fresh]
            good = [row for row in met if row is not None and type(row) is not RejectedRow]
            if len(good) < len(met):
                rejected += [row for row in met if type(row) is RejectedRow]
            if keeps is not None:
                good = [row for row in good if type(row) is bytes or keeps(row)]
            items += good
        unreadable = list(emit.unreadable)
        self._stats.rows += len(items)
        self._stats.rejected += len(rejected)
        self._stats.unreadable += len(unreadable)
        if self._emitted and not (items or rejected or unreadable):
            return None
        self._emitted = True
        if rejected or unreadable:
            self._note_bad(emit.number, rejected, unreadable)
        return Page(items, emit.number, self._page_size, count, rejected, unreadable, headers)

    def _note_bad(self, number: int, rejected: list[RejectedRow], unreadable: list[int]) -> None:
        self._bad += len(rejected) + len(unreadable)
        self._first_bad_page = self._first_bad_page or number
        self._rejected += [row.masked() for row in rejected[: _KEPT - len(self._rejected)]]
        self._unreadable += unreadable[: _KEPT - len(self._unreadable)]
        if self._on_bad_row == "skip":
            _log.warning(
                "%s, page %d: %d rows rejected (%s), %d cannot be read (%s)",
                self._listing.endpoint.label,
                number,
                len(rejected),
                ", ".join(f"{row.path}: {row.reason}" for row in rejected[:3]) or "none",
                len(unreadable),
                ", ".join(str(place) for place in unreadable[:3]) or "none",
            )

    def bad_rows(self) -> DecodeError | None:
        """What a complete walk ends with when rows were bad and on_bad_row is "raise"."""
        if not self._bad or self._on_bad_row == "skip":
            return None
        error = DecodeError(
            f"{self._bad} rows of {self._listing.endpoint.label} cannot be used: {self._examples()}. "
            "All others were yielded; on_bad_row='skip' logs such rows and goes on",
            rejected=self._rejected,
            unreadable=self._unreadable,
        )
        self.sign(error, self._first_bad_page or 1)
        return error

    def sign(self, error: UnpodError, page: int) -> None:
        """Note on an error where in which listing it was met."""
        error.listing = self._listing.endpoint.label
        if error.page is None:
            error.page = page
        if self._bad and not isinstance(error, DecodeError):
            error.add_note(f"{self._bad} rows could not be used: {self._examples()}")

    def _examples(self) -> str:
        found = [f"{row.path}: {row.reason}" for row in self._rejected[:3]]
        found += [f"place {place} cannot be read" for place in self._unreadable[:3]]
        return "; ".join(found)
