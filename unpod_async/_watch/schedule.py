"""When what is due. Plain decisions, in seconds of a clock that is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Schedule"]

_AGEING = 10.0
"""A run in which nothing changed for so many seconds may be seen a second late."""

_LONGEST_SILENCE = 60.0
"""Seconds between two questions in an outage at most, unless the interval is longer."""

_LONGEST_HINT = 900.0
"""Seconds for which a server that asks to wait is left alone at most; it may ask for years."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often a space is asked.

    Args:
        interval: seconds from the end of one poll to the next, on average.
        resync: seconds from the start of one resync to the next.
        draw: gives a number from 0 to 1.
    """

    interval: float
    resync: float
    draw: Callable[[], float]

    def pause(self, failures: int, hint: float | None) -> float:
        """Until the next poll, after so many that failed in a row.

        Spread by a fifth, so that watches started together do not go on asking together.
        """
        longest = max(self.interval, _LONGEST_SILENCE)
        wait = min(self.interval * 2.0 ** min(max(failures - 1, 0), 30), longest)
        wait *= 0.8 + 0.4 * self.draw()
        return max(wait, min(hint or 0.0, max(self.interval, _LONGEST_HINT)))

    def resync_again(self, failures: int) -> float:
        """Until the next resync, after so many in a row that were not whole."""
        return min(self.resync, self.interval * 2.0 ** min(failures + 2, 30))

    def is_overdue(self, ago: float) -> bool:
        """Whether a resync that began so long ago, in another process, is to be made up for at once.

        Also when it began in the future: the clock was put back.
        """
        return not 0 <= ago < self.resync

    def look_again(self, now: float, changed: float, failures: int) -> float:
        """When an unsettled run is to be read again that changed at `changed`.

        Soon after a change at each poll, then more and more rarely; never more rarely than a resync would.
        """
        wait = (now - changed) / _AGEING
        if failures:
            wait = max(wait, self.interval * 2.0 ** min(failures, 30))
        return now + min(wait, self.resync)

    def pages_at_once(self, pages: int) -> int:
        """Pages of a resync to read per poll, so that it takes half of the time until the next one."""
        polls = max(1.0, self.resync / 2 / self.interval)
        return max(1, math.ceil(pages / polls))
