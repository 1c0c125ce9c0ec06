"""The server's clock, estimated from the `Date` headers of its responses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from unpod_async._http import parse_http_date

__all__ = ["ServerClock"]


class ServerClock:
    """The offset of the server's clock from this machine's.

    Attributes:
        offset: the time by which the server's clock is ahead, from the last response with a `Date` header;
            None if there was none.
    """

    def __init__(self, offset: timedelta | None = None) -> None:
        self.offset = offset

    def note(self, date: str | None, now: datetime | None = None) -> None:
        """Record the `Date` header of a response that arrives now, or None if it has none.

        The header has whole seconds and is written before the response arrives. So the offset is too low by
        up to a second plus the transfer time, and a search based on it starts too early, never too late.
        """
        server = parse_http_date(date or "")
        if server is not None:
            self.offset = server - (now or datetime.now(UTC))
