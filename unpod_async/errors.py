"""The exceptions of this package.

Every error that the package raises on purpose is an `UnpodError`::

    UnpodError
    ├── ConfigurationError          the client is set up or used in a way that cannot work
    ├── InvalidArgument             an argument was refused before anything was sent (also a ValueError)
    ├── TransportError              no usable response; `sent` says whether the request may have left
    ├── APIError                    the server answered with an error
    │   ├── RefusedError            206 without `errors`: space unknown or not yours, or role too low
    │   ├── InvalidRequestError     206 validation, 400, 422
    │   ├── UpstreamError           206 with a string in `errors`: an upstream of the server failed
    │   ├── AuthenticationError     401
    │   ├── PermissionDeniedError   403
    │   ├── NotFoundError           404
    │   ├── RateLimitedError        429; `retry_after` in seconds or None
    │   └── ServerError             5xx
    ├── DecodeError                 a response, or some of its rows, cannot be read
    ├── IncompleteListing           a listing ended and rows may be missing
    │   └── StalledListing          the server repeats one page, whichever page is requested
    ├── OutcomeUnknown              a create or another write was sent without a clear response
    ├── RunNotFound                 a run is not in the listing of its space
    ├── WaitTimeout                 `runs.wait` reached its deadline
    ├── RecordingError              a recording was not downloaded
    └── ExportError                 the target of an export cannot be used or written
        └── TargetLockedError       another export is writing to the target

`str(error)` says what happened and, on a second line after `hint:`, what to do about it if there is advice.
`error.summary` is the first line alone, `error.hint` the advice alone.

An error raised while a listing is read carries `listing` and `page`: calling the same listing with
`start_page=error.page` resumes where it stopped.

Every exception can be pickled and keeps its attributes. No text contains the token.
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
    """One failed attempt of a request, as listed in `UnpodError.attempts`.

    Attributes:
        status: HTTP status, or None if no response came.
        error: name of the error class.
        wait: seconds waited before the next attempt; 0 for the last one.
    """

    status: int | None
    error: str
    wait: float


class UnpodError(Exception):
    """Base class of every exception of this package.

    Args:
        args: the message, which says what happened.
        hint: what the reader can do about it; shown on a line of its own.

    Attributes:
        hint: the advice, or None.
        listing: a description of the listing that was being read ("runs of space X"), or None.
        page: the page to pass as `start_page=` to resume the listing, or None outside a listing.
        attempts: the failed attempts of the request.
    """

    hint: str | None = None
    listing: str | None = None
    page: int | None = None
    attempts: tuple[Attempt, ...] = ()

    def __init__(self, *args: object, hint: str | None = None) -> None:
        super().__init__(*args)
        if hint:
            self.hint = hint

    def locate(self, listing: str, page: int) -> None:
        """Set `listing` and `page`, unless they are set already. The code that reads listings calls this."""
        if self.listing is None:
            self.listing = listing
        if self.page is None:
            self.page = page

    @property
    def summary(self) -> str:
        """The message with the listing and the number of attempts, without the hint."""
        text = self._message()
        if self.listing is not None:
            text = f"{text} [while reading {self.listing}, page {self.page}]"
        if len(self.attempts) > 1:
            text = f"{text} [{len(self.attempts)} attempts]"
        return text

    def __str__(self) -> str:
        if not self.hint:
            return self.summary
        hint = self.hint.replace("\n", "\n      ")
        return f"{self.summary}\nhint: {hint}"

    def _message(self) -> str:
        return super().__str__()

    def __reduce__(self) -> tuple[Callable[..., UnpodError], tuple[Any, ...], dict[str, Any]]:
        # The default calls the class with `args` only, which fails if keyword arguments are required.
        return _restore, (type(self), self.args), self.__dict__


def _restore(cls: type[UnpodError], args: tuple[Any, ...]) -> UnpodError:
    return cls.__new__(cls, *args)


class ConfigurationError(UnpodError):
    """The client is set up or used in a way that cannot work.

    Examples: a missing token, a base URL that would send the token unencrypted, a call that needs an
    Org-Handle without one, a closed client, a second event loop, a stream iterated without `async with`.

    Attributes:
        argument: name of the client argument that is the cause, or None. The message begins with it.
    """

    argument: str | None = None

    def __init__(self, *args: object, argument: str | None = None, hint: str | None = None) -> None:
        super().__init__(*args, hint=hint)
        if argument is not None:
            self.argument = argument


class InvalidArgument(UnpodError, ValueError):
    """An argument was refused before anything was sent.

    Attributes:
        argument: name of the refused argument, with which the message begins; None if the cause is a
            combination of arguments.
        problems: the problems of all refused documents and requests of a create, such as
            "documents[3].contact_number is not a phone number: it contains a letter". The message lists the
            first hundred.
    """

    argument: str | None = None
    problems: tuple[str, ...] = ()

    def __init__(
        self,
        *args: object,
        argument: str | None = None,
        hint: str | None = None,
        problems: tuple[str, ...] = (),
    ) -> None:
        super().__init__(*args, hint=hint)
        if argument is not None:
            self.argument = argument
        if problems:
            self.problems = problems


class TransportError(UnpodError):
    """No usable response: connection refused, reset or timed out, TLS failure, body cut short.

    Attributes:
        sent: False if the request certainly did not leave this machine.
        timed_out: True if the cause was a timeout.
        permanent: True if another attempt cannot help, as with an untrusted certificate.
    """

    def __init__(
        self,
        message: str,
        *,
        sent: bool,
        timed_out: bool = False,
        permanent: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent
        self.timed_out = timed_out
        self.permanent = permanent


class APIError(UnpodError):
    """The server answered with an error.

    Attributes:
        status: HTTP status, or the `status_code` in the body of a 200 that reports an error.
        message: the server's message, or "" if it sent none.
        errors: the `errors` of the body as sent: field errors (dict), a string, or None.
        headers: Date, Retry-After, retry-after-ms, X-RateLimit-*, RateLimit-*, X-Request-ID and
            WWW-Authenticate of the response, with lower-case names.
        body: the first 4 kB of the response.
        method: HTTP method of the request.
        path: path of the request.
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
        hint: str | None = None,
    ) -> None:
        super().__init__(status, message, hint=hint)
        self.status = status
        self.message = message
        self.errors = errors
        self.headers: Mapping[str, str] = dict(headers or {})
        self.body = body
        self.method = method
        self.path = path

    def _message(self) -> str:
        request = f"{self.method} {self.path}".strip() or "the request"
        answer = shorten(self.message) if self.message else summarise_body(self.body)
        text = f"{request} answered {self.status}: {answer}"
        return f"{text} ({shorten(self.errors)})" if self.errors else text


class RefusedError(APIError):
    """206 without `errors`: the space is unknown or not yours, or the role is too low."""


class InvalidRequestError(APIError):
    """The server rejected the request as invalid: 206 with field errors, 400 or 422."""


class UpstreamError(APIError):
    """206 with a string in `errors`: an upstream service failed, or a stored row cannot be read."""


class AuthenticationError(APIError):
    """401: the server does not accept the token. The hint says what to check."""


class PermissionDeniedError(APIError):
    """403: the server knows the token and does not permit this request."""


class NotFoundError(APIError):
    """404: there is no such agent, space or organization. An HTML body means a wrong path or base URL."""


class RateLimitedError(APIError):
    """429: too many requests.

    Attributes:
        retry_after: seconds after which the server accepts requests again, or None if it did not say.
    """

    retry_after: float | None = None


class ServerError(APIError):
    """5xx: the server failed."""


class DecodeError(UnpodError):
    """A response, or some rows of a listing, cannot be read.

    Attributes:
        rejected: rows that were received but do not fit the model (`RejectedRow`). Set at the end of a
            listing with on_bad_row="raise".
        unreadable: positions, counted from 1, of the rows that the server cannot send.
    """

    def __init__(
        self,
        message: str,
        *,
        rejected: Sequence[Any] = (),
        unreadable: Sequence[int] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.rejected: tuple[Any, ...] = tuple(rejected)
        self.unreadable: tuple[int, ...] = tuple(unreadable)


class IncompleteListing(UnpodError):
    """A listing ended and rows may be missing; all rows that could be read were yielded.

    Attributes:
        seen: number of distinct rows read.
        expected: number of rows according to the server, or None if it does not say.
    """

    def __init__(self, message: str, *, seen: int, expected: int | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.seen = seen
        self.expected = expected


class StalledListing(IncompleteListing):
    """The server repeats one page, whichever page is requested, so the other rows cannot be reached."""


class OutcomeUnknown(UnpodError):
    """A create was sent and it is unknown whether calls were queued. Sending it again may call people twice.

    `tasks.reconcile(error)` searches for its calls. To check by hand, look at the runs of the space that
    were created since about `started_at`: the `ref_id` of a task is the id of its document.

    `UnpodClient.request` raises it too, for a POST, PUT, PATCH or DELETE that was sent and may have taken
    effect. Then `space_token` is "" and there are no `document_ids`.

    Attributes:
        space_token: the space that would contain the calls.
        document_ids: ids of the documents in order, given or generated.
        started_at: when the request was sent, as a timezone-aware datetime in UTC, by this machine's clock.
        status: HTTP status of the response, or None if there was none.
        message: the server's message, or "" if there was no response.
        clocks: the same moment by other clocks, for `tasks.reconcile`. An error that you create yourself does
            not have it. `reconcile` then cannot rule out that the clocks differ, so its result is "unclear"
            instead of "not_found" if the space has older runs.
    """

    def __init__(
        self,
        message: str,
        *,
        space_token: str = "",
        document_ids: Sequence[str] = (),
        started_at: datetime,
        status: int | None = None,
        server_message: str = "",
        hint: str | None = None,
        clocks: object = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.space_token = space_token
        self.document_ids: tuple[str, ...] = tuple(document_ids)
        self.started_at = started_at
        self.clocks = clocks
        self.status = status
        self.message = server_message


class RunNotFound(UnpodError):
    """A requested run is not, or no longer, in the listing of its space.

    Attributes:
        space_token: the space.
        run_ids: the missing runs.
    """

    def __init__(self, space_token: str, run_ids: Sequence[str]) -> None:
        super().__init__(space_token, tuple(run_ids), hint="check the run ids and the space token")
        self.space_token = space_token
        self.run_ids: tuple[str, ...] = tuple(run_ids)

    def _message(self) -> str:
        names = ", ".join(self.run_ids[:3]) + (", …" if len(self.run_ids) > 3 else "")
        runs = f"run {names} is" if len(self.run_ids) == 1 else f"{len(self.run_ids)} runs ({names}) are"
        return f"{runs} not listed in space {self.space_token}"


class WaitTimeout(UnpodError):
    """`runs.wait` reached its deadline before its condition was met.

    Attributes:
        runs: the last known state of each requested run (`WatchedRun`), with its tasks but without their
            `user_info`.
        holding: the tasks that have not ended. The message lists the first of them.
    """

    def __init__(
        self,
        message: str,
        *,
        runs: Sequence[Any] = (),
        holding: Sequence[Any] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.runs: tuple[Any, ...] = tuple(runs)
        self.holding: tuple[Any, ...] = tuple(holding)


class RecordingError(UnpodError):
    """A recording was not downloaded. The message does not contain the URL: a signed URL is a secret.

    Attributes:
        permanent: True if another attempt cannot help, as with a refused address or a missing recording.
        problem: what went wrong, with the host but without the task and the path of the URL: the same text
            for recordings that failed for the same reason.
    """

    def __init__(
        self, message: str, *, permanent: bool = False, problem: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.permanent = permanent
        self.problem: str = message if problem is None else problem


class ExportError(UnpodError):
    """The target of an export cannot be used: disk full, no permission, or made with different options.

    Existing files and everything fetched up to the last checkpoint are kept. Running the same export again
    resumes from there.
    """


class TargetLockedError(ExportError):
    """Another export is writing to the same target; nothing was read or written."""
