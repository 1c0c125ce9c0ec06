"""May a request start now, else when? One answer for the whole client; the clock is passed in."""

from __future__ import annotations

__all__ = ["AFTER_THE_PROBE", "RateGate"]

AFTER_THE_PROBE = float("inf")
"""The wait of a request that depends on another one: ask again when that one has come back."""


class RateGate:
    """Closed by a 429, or a 503 that asks to wait, until the asked time has passed.

    Then one request goes first, the probe; the others wait until it has come back without being turned away.

    Args:
        rate: requests that may start per second, evenly spaced; None is no limit.
    """

    def __init__(self, rate: float | None = None) -> None:
        self._interval = 0.0 if rate is None else 1 / rate
        self._next_start = float("-inf")
        self._closed_until = float("-inf")
        self._probing = False
        self._probe_out = False

    @property
    def probing(self) -> bool:
        """Whether a request that starts now is the probe."""
        return self._probing

    def ask(self, now: float) -> float:
        """Seconds until a request may start; 0 means now, and that it counts as started."""
        if now < self._closed_until:
            return self._closed_until - now
        if self._probe_out:
            return AFTER_THE_PROBE
        if now < self._next_start:
            return self._next_start - now
        self._next_start = now + self._interval
        self._probe_out = self._probing
        return 0.0

    def close(self, now: float, seconds: float) -> bool:
        """The server asked to wait. Returns whether the gate was open."""
        was_open = now >= self._closed_until and not self._probing
        self._closed_until = max(self._closed_until, now + seconds)
        self._probing = True
        return was_open

    def settle(self, *, answered: bool) -> None:
        """The probe is over; `answered` unless it was turned away or got lost."""
        self._probe_out = False
        if answered:
            self._probing = False
