"""When each row of a listing was seen, and what follows from it.

A row that was seen at two moments existed at every moment between them, for rows do not come back. So at
the moment of one answer there are *known* rows; when they number exactly what that answer says the listing
holds, the listing held nothing else, and no row that existed during the whole walk can be missing.
That argument needs no order of the rows, and it is the only proof where the order or the count fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Mark", "Sightings"]

# A sighting is one integer: answer number * WIDTH + index in the answer.
_WIDTH = 1 << 32


class Mark(NamedTuple):
    """What one answer brought."""

    fresh: Sequence[int]  # indices of rows never seen in this walk
    news: int  # rows not seen before in this pass
    adds_up: bool  # every row met twice in this pass moved as far as the count grew


class Sightings:
    """First and last sighting of every row, by answer."""

    def __init__(self) -> None:
        self.answers = 0
        """Answers marked so far; the number of the next one."""
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}  # only rows seen more than once
        self._offsets: list[int] = []
        self._counts: list[int | None] = []
        self._bounds: dict[int, int] = {}
        self._pass_start = 0

    def __len__(self) -> int:
        return len(self._first)

    def start_pass(self) -> None:
        self._pass_start = self.answers * _WIDTH

    def mark(self, keys: Sequence[str], offset: int, count: int | None) -> Mark:
        """Take down an answer: `keys` stood at `offset` when the listing was `count` long."""
        base = self.answers * _WIDTH
        self.answers += 1
        self._offsets.append(offset)
        self._counts.append(count)
        if self._first.keys().isdisjoint(keys):
            held = len(self._first)
            self._first.update(zip(keys, itertools.count(base)))
            if len(self._first) - held == len(keys):
                return Mark(range(len(keys)), len(keys), True)
            # One answer shows a row twice: it stays at its last place, and the answer does not add up.
            fresh = [i for i, key in enumerate(keys) if self._first[key] == base + i]
            return Mark(fresh, len(fresh), False)
        return self._mark_mixed(keys, base)

    def _mark_mixed(self, keys: Sequence[str], base: int) -> Mark:
        fresh: list[int] = []
        news = 0
        adds_up = True
        for slot, key in enumerate(keys, base):
            first = self._first.setdefault(key, slot)
            if first == slot:
                fresh.append(slot - base)
                news += 1
                continue
            last = self._last.get(key, first)
            if last < self._pass_start:
                news += 1
            elif self._distance(slot) is None or self._distance(last) != self._distance(slot):
                adds_up = False
            self._last[key] = slot
        return Mark(fresh, news, adds_up)

    def place(self, key: str) -> int | None:
        """Where this row stood when it was first seen, counted from 0; None for a new row."""
        first = self._first.get(key)
        if first is None:
            return None
        answer, index = divmod(first, _WIDTH)
        return self._offsets[answer] + index

    def _distance(self, slot: int) -> int | None:
        """Rows from the end of the listing: rows that enter at the head do not change it."""
        answer, index = divmod(slot, _WIDTH)
        count = self._counts[answer]
        return None if count is None else count - self._offsets[answer] - index

    def bound(self, answer: int, length: int) -> None:
        """At the moment of `answer` the listing held at most `length` rows."""
        self._bounds[answer] = length

    def bound_by_counts(self, first_answer: int, skipped: int) -> None:
        """From `first_answer` on, every answer's count (less the rows skipped on purpose) is the length."""
        for answer in range(first_answer, self.answers):
            count = self._counts[answer]
            if count is not None:
                self._bounds[answer] = count - skipped

    def prove(self, unreadable: int) -> bool:
        """Whether at some answer the known rows and `unreadable` ones are all the listing held."""
        change = [0] * (self.answers + 1)
        for key, first in self._first.items():
            change[first // _WIDTH] += 1
            change[self._last.get(key, first) // _WIDTH + 1] -= 1
        known = list(itertools.accumulate(change))
        return any(
            known[answer] + unreadable == length
            for answer, length in self._bounds.items()
            if answer < self.answers
        )
