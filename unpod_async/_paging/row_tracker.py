"""When each row of a listing was seen, and what follows from it.

A row that was seen at two moments existed at every moment between them, for rows do not come back. So at
the moment of one answer there are *known* rows; when they number exactly what that answer says the listing
holds, the listing held nothing else, and no row that existed during the whole walk can be missing.
That argument needs no order of the rows, and it is the only proof where the order or the count fails.

What is kept per row is most of what a long walk keeps: 102 bytes with 200,000 rows (117 as the dict grows),
of which 48 are the id as a number and 8 its place. With the id as text and a number for its place it was 150.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["Mark", "RowTracker"]

# A sighting is one integer: answer number * WIDTH + index in the answer.
_WIDTH = 1 << 32

_PLACES_KEPT = 8
"""Answers whose rows' places are at hand: a page repeats rows of two others, tied rows of a few more."""

_Key: TypeAlias = int | str

_ID_LENGTH = 33
"""Of ids of the service: a capital letter and 32 hex digits in lower case."""


_from_bytes: Callable[[bytes], int] = int.from_bytes


def _lean(keys: Sequence[str]) -> Sequence[_Key]:
    """The keys; ids of the service as numbers, no two of which are the same.

    All of an answer at once where they begin with the same letter: 0.4 us each, one by one 2.
    """
    together = _numbers(keys)
    if together is not None:
        return together
    return [key if (number := _numbers((key,))) is None else number[0] for key in keys]


def _numbers(keys: Sequence[str]) -> list[int] | None:
    """Of ids that begin with the same letter; None when one of them is something else."""
    if set(map(len, keys)) != {_ID_LENGTH}:
        return None
    number, joined, letter = len(keys), "".join(keys), keys[0][0]
    if not "A" <= letter <= "Z" or joined[::_ID_LENGTH] != letter * number or joined.count(letter) != number:
        return None
    digits = joined.replace(letter, f"{ord(letter):02x}")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        return None
    if len(raw) != 17 * number or digits != digits.lower():
        return None  # with spaces, which are skipped, or capitals
    return list(map(_from_bytes, struct.unpack("17s" * number, raw)))


class Mark(NamedTuple):
    """What one answer brought."""

    fresh: Sequence[int]  # indices of rows never seen in this walk
    news: int  # rows not seen before in this pass
    adds_up: bool  # every row met twice in this pass moved as far as the count grew


class RowTracker:
    """First and last sighting of every row, by answer."""

    def __init__(self) -> None:
        self.answers = 0
        """Answers marked so far; the number of the next one."""
        self._first: dict[_Key, int] = {}  # the number of the answer: one object for all rows of it
        self._last: dict[_Key, int] = {}  # sightings, only of rows seen more than once
        # Of each answer the keys that it was the first to show, at their places.
        self._keys: list[Sequence[_Key | None]] = []
        self._offsets: list[int] = []
        self._counts: list[int | None] = []
        self._bounds: dict[int, int] = {}
        self._pass_start = 0
        self._places: dict[int, dict[_Key, int]] = {}  # of the answers asked for last

    def __len__(self) -> int:
        return len(self._first)

    def start_pass(self) -> None:
        self._pass_start = self.answers * _WIDTH

    def mark(self, keys: Sequence[str], offset: int, count: int | None) -> Mark:
        """Take down an answer: `keys` stood at `offset` when the listing was `count` long."""
        answer = self.answers
        self.answers += 1
        self._offsets.append(offset)
        self._counts.append(count)
        lean = _lean(keys)
        if not self._first.keys().isdisjoint(lean):
            return self._mark_mixed(lean, answer)
        held = len(self._first)
        self._first.update(zip(lean, itertools.repeat(answer)))
        if len(self._first) - held == len(lean):
            self._keys.append(lean)
            return Mark(range(len(lean)), len(lean), True)
        # One answer shows a row twice: it stays at its last place, and the answer does not add up.
        fresh = sorted({key: index for index, key in enumerate(lean)}.values())
        self._keep(lean, fresh)
        return Mark(fresh, len(fresh), False)

    def _mark_mixed(self, keys: Sequence[_Key], answer: int) -> Mark:
        fresh: list[int] = []
        for index, key in enumerate(keys):
            if key not in self._first:
                self._first[key] = answer
                fresh.append(index)
        self._keep(keys, fresh)
        news = len(fresh)
        adds_up = True
        is_fresh = frozenset(fresh)
        for index, key in enumerate(keys):
            if index in is_fresh:
                continue
            last = self._last_of(key)
            slot = answer * _WIDTH + index
            if last < self._pass_start:
                news += 1
            elif self._distance(slot) is None or self._distance(last) != self._distance(slot):
                adds_up = False
            self._last[key] = slot
        return Mark(fresh, news, adds_up)

    def _keep(self, keys: Sequence[_Key], fresh: Sequence[int]) -> None:
        kept: list[_Key | None] = [None] * len(keys)
        for index in fresh:
            kept[index] = keys[index]
        self._keys.append(kept)

    def _last_of(self, key: _Key) -> int:
        """The last sighting of a row that was seen."""
        last = self._last.get(key)
        if last is not None:
            return last
        answer = self._first[key]
        return answer * _WIDTH + self._index(key, answer)

    def _index(self, key: _Key, answer: int) -> int:
        """Where in the answer that showed it first a row stood."""
        places = self._places.get(answer)
        if places is None:
            if len(self._places) == _PLACES_KEPT:
                self._places.clear()
            kept = self._keys[answer]
            places = {key: index for index, key in enumerate(kept) if key is not None}
            self._places[answer] = places
        return places[key]

    def place(self, key: str) -> int | None:
        """Where this row stood when it was first seen, counted from 0; None for a new row."""
        (lean,) = _lean((key,))
        answer = self._first.get(lean)
        return None if answer is None else self._offsets[answer] + self._index(lean, answer)

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
            change[first] += 1
            last = self._last.get(key)
            change[(first if last is None else last // _WIDTH) + 1] -= 1
        known = list(itertools.accumulate(change))
        return any(
            known[answer] + unreadable == length
            for answer, length in self._bounds.items()
            if answer < self.answers
        )
