"""What repeats may cost: one account for all calls of a client."""

from __future__ import annotations

__all__ = ["RetryBudget"]

_REPEAT = 5
_AFTER_TIMEOUT = 10
_PLAIN_SUCCESS = 1


class RetryBudget:
    """Spent by repeats, given back by success; empty, nothing is repeated.

    After an outage it fills one success at a time, so repeats come back singly and not all at once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.left = size

    def spend(self, *, after_timeout: bool) -> int:
        """Pay for one repeat; what it cost, or 0 when there is not enough left."""
        cost = _AFTER_TIMEOUT if after_timeout else _REPEAT
        if cost > self.left:
            return 0
        self.left -= cost
        return cost

    def succeed(self, cost: int) -> None:
        """A call succeeded after repeats that cost `cost` (0 for none)."""
        self.left = min(self._size, self.left + (cost or _PLAIN_SUCCESS))
