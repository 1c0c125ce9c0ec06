"""The exceptions of this package: a catalogue, in one module so that it is found in one place.

Everything that is raised on purpose is an `UnpodError`::

    UnpodError
    ├── ConfigurationError          the client is set up, or used, in a way that cannot work
    ├── InvalidArgument             refused before anything was sent (also a ValueError)
    ├── TransportError              no usable answer came back; `sent` says whether the request may have left
    ├── APIError                    the server answered with an error
    │   ├── RefusedError            206 without `errors`: unknown or foreign space, role too low
    │   ├── InvalidRequestError     206 validation, 400, 422
    │   ├── UpstreamError           206 with a string in `errors`: the server's own upstream failed
    │   ├── AuthenticationError     401
    │   ├── PermissionDeniedError   403
    │   ├── NotFoundError           404
    │   ├── RateLimitedError        429; `retry_after` in seconds or None
    │   └── ServerError             5xx
    ├── DecodeError                 an answer, or rows of it, cannot be read
    ├── IncompleteListing           a walk ended and rows may be missing
    │   └── StalledListing          the server repeats one page whatever page is asked for
    ├── OutcomeUnknown              a create was sent and no clear answer came back: calls may be queued
    ├── RunNotFound                 a run is not in the listing of its space
    ├── WaitTimeout                 what was waited for did not come in time
    ├── RecordingError              a recording was not downloaded
    └── ExportError                 the target of an export cannot be used or written
        └── TargetLockedError       another export is writing to it

Errors raised while a listing is walked carry `listing` (for people) and `page`: the same listing with
`start_page=error.page` goes on where this one ended.

Every exception pickles with its attributes. No text is built from a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from unpod_async._common import shorten, summarise_body

__all__ = [
    "APIError",
    "AuthenticationError",
    "ConfigurationError",
    "DecodeError",
    "ExportError",
    "IncompleteListing",
    "InvalidArgument",
    "InvalidRequestError",
    "NotFoundError",
    "OutcomeUnknown",
    "PermissionDeniedError",
    "RateLimitedError",
    "RecordingError",
    "RefusedError",
    "RunNotFound",
    "ServerError",
    "StalledListing",
    "TargetLockedError",
    "TransportError",
    "UnpodError",
    "UpstreamError",
    "WaitTimeout",
]


class Attempt(NamedTuple):
    """One send of a request, as its error tells of it.

    Attributes:
        status: HTTP status, or None when no answer came.
        error: name of the error class.
        wait: seconds waited after it; 0 for the last.
    """

    status: int | None
    error: str
    wait: float


class UnpodError(Exception):
    """Base of every exception of this package.

    Attributes:
        listing: what was being walked, for people ("runs of space X"), or None outside a walk.
        page: the page to go on from with `start_page=`, or None outside a walk.
        attempts: each send of the request that failed.
    """

    listing: str | None = None
    page: int | None = None
    attempts: tuple[Attempt, ...] = ()

    def __str__(self) -> str:
        text = self._text()
        if self.listing is not None:
            text = f"{text} [while walking {self.listing}, page {self.page}]"
        if len(self.attempts) > 1:
            text = f"{text} [{len(self.attempts)} attempts]"
        return text

    def _text(self) -> str:
        return super().__str__()

    def __reduce__(self) -> tuple[Callable[..., UnpodError], tuple[Any, ...], dict[str, Any]]:
        # The default would call the class with `args`, which keyword arguments do not survive.
        return _revive, (type(self), self.args), self.__dict__


def _revive(cls: type[UnpodError], args: tuple[Any, ...]) -> UnpodError:
    return cls.__new__(cls, *args)


class ConfigurationError(UnpodError):
    """The client is set up or used in a way that cannot work.

    A missing token, a base URL that would send the token in the clear, a call without the Org-Handle it
    needs, a closed client, a second event loop, a stream iterated without `async with`.
    """


class InvalidArgument(UnpodError, ValueError):
    """An argument was refused before anything was sent; the text names it and says what is accepted."""


class TransportError(UnpodError):
    """No usable answer: connection refused, reset or timed out, TLS failure, a body cut short.

    Attributes:
        sent: False when the request certainly did not leave this machine.
        timed_out: whether it was a time-out.
        permanent: whether trying again is of no use, as with a certificate that is not trusted.
    """

    def __init__(self, message: str, *, sent: bool, timed_out: bool = False, permanent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.timed_out = timed_out
        self.permanent = permanent


class APIError(UnpodError):
    """The server answered with an error.

    Attributes:
        status: HTTP status, or the `status_code` of an error body inside a 200.
        message: the server's message, "" when it sent none.
        errors: field errors (dict), a text, or None: the `errors` of the body as sent.
        headers: Date, Retry-After, X-RateLimit-*, X-Request-ID and WWW-Authenticate of the answer, names in
            lower case.
        body: the first 4 kB of the answer.
        method, path: what was asked.
    """

    def __init__(
        self,
        status: int,
        message: str = "",
        errors: object = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        method: str = "",
        path: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.errors = errors
        self.headers: Mapping[str, str] = dict(headers or {})
        self.body = body
        self.method = method
        self.path = path
        self.hint = hint

    def _text(self) -> str:
        asked = f"{self.method} {self.path}".strip() or "the request"
        said = shorten(self.message) if self.message else summarise_body(self.body)
        text = f"{asked} answered {self.status}: {said}"
        if self.errors:
            text += f" ({shorten(self.errors)})"
        return f"{text.rstrip('.')}. {self.hint}" if self.hint else text


class RefusedError(APIError):
    """206 without `errors`: the space token is unknown or foreign, or the role is too low."""


class InvalidRequestError(APIError):
    """The server did not accept the request: 206 with field errors, 400 or 422."""


class UpstreamError(APIError):
    """206 with a string in `errors`: an upstream of the server failed, or one stored row cannot be read."""


class AuthenticationError(APIError):
    """401: the token is not accepted here. The text names the scheme that was used and what to try."""


class PermissionDeniedError(APIError):
    """403: the token is known and may not do this."""


class NotFoundError(APIError):
    """404: no such agent, space or organization; with an HTML body, a wrong path or base URL."""


class RateLimitedError(APIError):
    """429. `retry_after` is what the server asked for in seconds, or None."""

    retry_after: float | None = None


class ServerError(APIError):
    """5xx."""


class DecodeError(UnpodError):
    """An answer, or some rows of a listing, cannot be read.

    Attributes:
        rejected: rows that came but do not fit (`RejectedRow`), at the end of a walk with on_bad_row="raise".
        unreadable: places in the listing, counted from 1, whose row the server cannot send.
    """

    def __init__(self, message: str, *, rejected: Sequence[Any] = (), unreadable: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rejected = tuple(rejected)
        self.unreadable = tuple(unreadable)


class IncompleteListing(UnpodError):
    """A walk ended, everything it could get was yielded, and rows may be missing.

    Attributes:
        seen: distinct rows met.
        expected: rows the server says there are, or None when it does not say.
    """

    def __init__(self, message: str, *, seen: int, expected: int | None) -> None:
        super().__init__(message)
        self.seen = seen
        self.expected = expected


class StalledListing(IncompleteListing):
    """The server repeats one page whatever page is asked for, so the other rows cannot be reached."""


class OutcomeUnknown(UnpodError):
    """A create was sent and it is not known whether calls were queued. Do not send it again blindly.

    `tasks.reconcile(error)` looks for its calls. By hand: the runs of the space created from about
    `started_at` on; their tasks carry the document ids as `ref_id`.

    Attributes:
        space_token: the space the calls would be in.
        document_ids: ids of the documents in order, given or made.
        started_at: when the request was sent, as an aware datetime in UTC.
        status: HTTP status of the answer, or None when there was none.
        message: the server's message where there was an answer.
    """

    def __init__(
        self,
        message: str,
        *,
        space_token: str,
        document_ids: Sequence[str],
        started_at: datetime,
        status: int | None = None,
        server_message: str = "",
    ) -> None:
        super().__init__(message)
        self.space_token = space_token
        self.document_ids = tuple(document_ids)
        self.started_at = started_at
        self.status = status
        self.message = server_message


class RunNotFound(UnpodError):
    """A run that was asked for is not in the listing of its space, or no longer.

    Attributes:
        space_token: the space.
        run_ids: the runs.
    """

    def __init__(self, space_token: str, run_ids: Sequence[str]) -> None:
        super().__init__(space_token, tuple(run_ids))
        self.space_token = space_token
        self.run_ids = tuple(run_ids)

    def _text(self) -> str:
        names = ", ".join(self.run_ids[:3]) + (", …" if len(self.run_ids) > 3 else "")
        what = f"run {names} is" if len(self.run_ids) == 1 else f"{len(self.run_ids)} runs ({names}) are"
        return f"{what} not listed in space {self.space_token}: check the ids and the space"


class WaitTimeout(UnpodError):
    """What `runs.wait` waited for did not come before its deadline.

    Attributes:
        runs: each run that was asked for, as it was seen last (`WatchedRun`), its tasks without `user_info`;
            the text says what holds them.
        holding: the tasks that have not ended.
    """

    def __init__(self, message: str, *, runs: Sequence[Any] = (), holding: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.runs = tuple(runs)
        self.holding = tuple(holding)


class RecordingError(UnpodError):
    """A recording was not downloaded; the text says why, without the URL, which is a secret when signed.

    Attributes:
        permanent: whether trying again is of no use: a refused address, no recording, too long.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class ExportError(UnpodError):
    """The target of an export cannot be used or written: no room, no rights, or made with other questions.

    What was there stays, and so does what was fetched up to the last checkpoint: the same export run again
    goes on from there.
    """


class TargetLockedError(ExportError):
    """Another export is writing to the same target; nothing was read or written."""
