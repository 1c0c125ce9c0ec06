"""One reading of a listing's pages from the first to the end, and whether its counts and rows add up."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

__all__ = ["Pass"]


class _FromEnd(NamedTuple):
    """How far a row that cannot be read is from the end of the listing, which stays when rows enter.

    Its answer has no count: the one before says how far at least, the one after how far at most.
    """

    least: int
    most: float = inf


class Pass:
    """What a pass has shown so far.

    `believed` turns False for good when the count is absent or contradicts the rows; from then on only rows
    decide where the listing ends. `fell` turns True when the count drops: rows may have slipped over the
    boundary between two pages.
    """

    def __init__(self, first_answer: int) -> None:
        self.first_answer = first_answer
        self.count: int | None = None  # of the latest answer
        self.first_count: int | None = None
        self.constant = True
        self.believed = True
        self.overrun = False  # more rows came than the count allows: it is no count of this listing
        self.missing_rows = False  # fewer rows came than the count promises
        self.fell = False
        self.adds_up = True
        self.finished = False
        self.found = 0  # distinct rows met in this pass
        self.fresh = 0  # of these, never met in the walk before
        self._unreadable: dict[int, _FromEnd] = {}  # by place
        self._just_met: list[int] = []  # of these, since the latest count
        # The page read last
        self.keys: list[str] = []
        self.reach = 0  # the place behind its last row
        self.filled = 0  # its rows, unreadable ones included
        self.quiet = 0  # pages in a row that brought nothing new to this pass
        self.repeats = 0  # times the same page came again with the count as it was
        self.confirming = False  # a full page reached the count: the next one should bring nothing
        self.split = False  # it came in pieces, or not at all
        self.stopped_at: int | None = None  # the place where it ended with a row that told no count
        self.whole = False  # it was the whole listing, whatever page was asked for
        # The whole pass
        self.head: list[str] = []  # keys of its first page
        self.pages_with_news = 0
        self.end = 0  # the place behind the last row met
        self.last_news = first_answer
        self.end_answer = first_answer  # the answer at whose moment the listing was at most `end` long

    @property
    def clean(self) -> bool:
        """No count fell or lied and every row stood where it should: nothing slipped through."""
        if self.whole:
            return self.finished
        return self.finished and self.believed and self.adds_up and not self.fell

    @property
    def one_picture(self) -> bool:
        """Every answer so far can be of one unchanged listing."""
        return self.believed and self.constant and self.adds_up

    def judge(self, *, offset: int, size: int, rows: int, news: int, count: int | None, answer: int) -> None:
        """Compare the count of answer number `answer` with its rows and with the count before."""
        end = offset + rows
        if news and end > self.end:
            self.end, self.last_news = end, answer
            # A short page shows the end itself; behind a full one it is the next answer that does.
            self.end_answer = answer if rows < size else answer + 1
        promised = 0 if count is None else min(size, max(0, count - offset))
        if count is None:
            self.believed = False
        elif news and end > count:
            self.believed = False
            self.overrun = True
        elif self.falls_to(count) and not (self.confirming and count == 0):
            self.fell = True
        elif rows < promised:
            self.believed = False
            self.missing_rows = True
        if self.first_count is None:
            self.first_count = count
        self.constant = self.constant and count == self.first_count
        if count is None:
            self.count = None
        else:
            self.hear(count)

    def falls_to(self, count: int) -> bool:
        """Whether this count says that rows have gone since the one before."""
        return self.believed and self.count is not None and count < self.count

    def hear(self, count: int) -> None:
        """The listing has so many rows now: there may be some behind the place where a page stopped."""
        self.adds_up = self.adds_up and (self.stopped_at is None or count <= self.stopped_at)
        for place in self._just_met:
            self._unreadable[place] = self._unreadable[place]._replace(most=count - place)
        self._just_met.clear()
        self.count = count

    @property
    def unreadable(self) -> int:
        return len(self._unreadable)

    @property
    def surely_unreadable(self) -> int:
        """Rows that cannot be read, at least: while others enter, one is met at one place after another."""
        if not self.believed:
            return self.unreadable
        if self.fell:
            return min(self.unreadable, 1)  # how far they are from the end may not have stayed
        surely, reached = 0, -inf
        for row in sorted(self._unreadable.values(), key=lambda row: row.most):
            if row.least > reached:
                surely, reached = surely + 1, row.most
        return surely

    def meet_unreadable(self, place: int, next_answer: int) -> None:
        self._unreadable[place] = _FromEnd((self.count or 0) - place)
        self._just_met.append(place)
        if place >= self.end:
            self.end, self.end_answer = place + 1, next_answer

    def close_page(self, keys: Sequence[str], *, reach: int, filled: int, news: int, grown: bool) -> None:
        """The page is read: keep count of pages that bring nothing."""
        keys = list(keys)
        again = bool(keys) and keys == self.keys and not grown
        self.repeats = self.repeats + 1 if again else 0
        self.quiet = 0 if news else self.quiet + 1
        self.pages_with_news += news > 0
        self.keys, self.reach, self.filled = keys, reach, filled

    def same_dead_end(self, before: Pass) -> bool:
        """Both passes found the same too few rows: another one will not find more."""
        return self.missing_rows and before.missing_rows and not self.fresh and self.found == before.found
