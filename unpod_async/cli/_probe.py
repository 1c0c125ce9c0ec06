"""What the doctor asks the server, and what the answers mean."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from unpod_async._common import looks_like_markup
from unpod_async.errors import (
    APIError,
    AuthenticationError,
    DecodeError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnpodError,
    UpstreamError,
)

if TYPE_CHECKING:
    from unpod_async import Pager

__all__ = ["Meaning", "Probe", "probe"]


class Meaning(Enum):
    """What an answer says of the token."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    FORBIDDEN = "forbidden"
    UNREACHED = "unreached"
    WRONG_PLACE = "wrong place"
    TROUBLE = "trouble"


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer, or why there is none.

    Attributes:
        meaning: of it for the token. A space or an organization that is refused was looked up by somebody
            who is known.
        count: rows of the whole listing, where the server says.
        rows: of its first page.
        error: what it was, unless it was a listing.
        skew: seconds by which this machine's clock is ahead of the server's, or None when it did not say.
    """

    meaning: Meaning
    count: int | None = None
    rows: tuple[Any, ...] = ()
    error: UnpodError | None = None
    skew: float | None = None


async def probe(pager: Pager[Any]) -> Probe:
    """Ask for the first page of a listing."""
    try:
        async for page in pager.pages():
            return Probe(
                Meaning.ACCEPTED, page.count, tuple(page.items), None, _skew(page.headers.get("date"))
            )
    except APIError as error:
        return Probe(_meaning(error), error=error, skew=_skew(error.headers.get("date")))
    except DecodeError as error:
        bad_rows = error.rejected or error.unreadable
        return Probe(Meaning.ACCEPTED if bad_rows else Meaning.WRONG_PLACE, error=error)
    except TransportError as error:
        return Probe(Meaning.UNREACHED, error=error)
    return Probe(Meaning.ACCEPTED)


def _meaning(error: APIError) -> Meaning:
    if isinstance(error, AuthenticationError):
        return Meaning.REFUSED
    if isinstance(error, PermissionDeniedError):
        return Meaning.FORBIDDEN
    if 300 <= error.status < 400 or (isinstance(error, NotFoundError) and looks_like_markup(error.body)):
        return Meaning.WRONG_PLACE
    if isinstance(error, RateLimitedError | ServerError | UpstreamError):
        return Meaning.TROUBLE
    return Meaning.ACCEPTED


def _skew(date: str | None) -> float | None:
    try:
        theirs = parsedate_to_datetime(date or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    theirs = theirs if theirs.tzinfo is not None else theirs.replace(tzinfo=UTC)
    return (datetime.now(UTC) - theirs).total_seconds()
