"""The server's clock, as far as its responses show it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from unpod_async._http import parse_http_date

__all__ = ["ServerClock"]


class ServerClock:
    """How far the server's clock is ahead of this machine's.

    Attributes:
        offset: the difference according to the last response with a `Date` header; None if there was none.
    """

    def __init__(self, offset: timedelta | None = None) -> None:
        self.offset = offset

    def note(self, date: str | None, now: datetime | None = None) -> None:
        """Record the `Date` header of a response that arrives now, or None if it has none.

        The header has whole seconds and is written before the response is read. So the offset is too low by
        up to a second and the time of the transfer, and a search that starts by it starts too early.
        """
        server = parse_http_date(date or "")
        if server is not None:
            self.offset = server - (now or datetime.now(UTC))
