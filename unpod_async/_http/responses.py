"""Which error an answer is. Pure: status, headers and body in, exception out.

Nothing is decided by message text: the server translates it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec

from unpod_async import errors
from unpod_async._common import looks_like_markup, printable
from unpod_async._http.secret import Secret
from unpod_async.errors import APIError

__all__ = [
    "Request",
    "Response",
    "classify",
    "classify_inside",
    "message_of",
    "parse_http_date",
    "redacted",
    "retry_after",
    "shown_headers",
]

KEPT_BODY = 4096

_SHOWN = re.compile(r"date|retry-after|x-ratelimit-.+|x-request-id|www-authenticate")
_SECONDS = re.compile(r"[0-9]{1,9}")
# X-RateLimit-Reset is a unix time; a number this small is a delay some gateways send in its place.
_LATEST_DELAY = 10**7


class Request(NamedTuple):
    """What was asked, as far as an error text needs it."""

    method: str
    path: str
    scheme: str = "Token"


class Response(NamedTuple):
    """An answer, read whole. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def redacted(response: Response, token: Secret) -> Response:
    """The answer without the token, which some servers repeat where they refuse it."""
    headers = {name: token.redact(value) for name, value in response.headers.items()}
    return Response(response.status, headers, token.redact_bytes(response.body))


def shown_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that may be shown: an allow-list, since others can carry cookies and internals."""
    return {name: value for name, value in headers.items() if _SHOWN.fullmatch(name)}


def classify(request: Request, response: Response) -> APIError | None:
    """The error this answer is by its HTTP status; None for a 200, whose body `classify_inside` reads.

    Any other success counts as a 200, whatever it is called on the way: only its body can tell.
    """
    if 200 <= response.status < 300 and response.status != 206:
        return None
    return _error(request, response, response.status, _told(response.body))


def message_of(response: Response) -> str:
    """The server's message in an answer of any status, "" where there is none."""
    return _message(_told(response.body))


def classify_inside(request: Request, response: Response) -> APIError | None:
    """The error that the body of a 200 states as its `status_code`, or None.

    Reads the body untyped, so it is for answers that did not decode or that stated another status.
    """
    told = _told(response.body)
    status = told.get("status_code")
    if type(status) is int and (status == 206 or 300 <= status <= 599):
        return _error(request, response, status, told)
    return None


def _error(request: Request, response: Response, status: int, told: Mapping[str, Any]) -> APIError:
    data = told.get("data")
    inner = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    stated = _stated(told.get("errors"), inner.get("errors"))
    kind = _kind(status, stated, readable=bool(told))
    error = kind(
        status,
        _message(told),
        inner.get("detail") or None if stated is None else stated,
        shown_headers(response.headers),
        response.body[:KEPT_BODY],
        method=request.method,
        path=request.path,
        hint=_hint(request, response, status),
    )
    if isinstance(error, errors.RateLimitedError):
        error.retry_after = retry_after(response.headers)
    return error


def _stated(*places: object) -> object:
    """What is under `errors`; an empty text is a text, for an upstream may fail without words."""
    return next((found for found in places if found or isinstance(found, str)), None)


def _kind(status: int, stated: object, *, readable: bool) -> type[APIError]:
    if status == 206:
        if isinstance(stated, str) or not readable:
            return errors.UpstreamError
        return errors.InvalidRequestError if stated else errors.RefusedError
    if status >= 500:
        return errors.ServerError
    return {
        400: errors.InvalidRequestError,
        401: errors.AuthenticationError,
        403: errors.PermissionDeniedError,
        404: errors.NotFoundError,
        422: errors.InvalidRequestError,
        429: errors.RateLimitedError,
    }.get(status, APIError)


def _told(body: bytes) -> Mapping[str, Any]:
    if looks_like_markup(body):
        return {}
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return cast("dict[str, Any]", told) if isinstance(told, dict) else {}


def _message(told: Mapping[str, Any]) -> str:
    for found in (told.get("message"), told.get("detail"), told.get("error")):
        text: object = cast("dict[str, Any]", found).get("message") if isinstance(found, dict) else found
        if isinstance(text, str) and text:
            return text
    return ""


def _hint(request: Request, response: Response, status: int) -> str:
    if 300 <= status < 400:
        return (
            f"It redirects to {_target(response.headers.get('location', ''))}, and redirects are not "
            "followed: check base_url"
        )
    if status == 401:
        wanted = printable(response.headers.get("www-authenticate", ""))[:80]
        asks = f"; the server asks for {wanted!r}" if wanted else ""
        return (
            f"The token was sent with auth_scheme={request.scheme!r}{asks}. Check that the token is whole "
            "and not expired; API keys go with 'Token', and some servers take only a JWT with 'JWT' or "
            "'Bearer' for spaces and organizations"
        )
    if status == 404 and looks_like_markup(response.body):
        return "An HTML page means that there is no such path: check base_url"
    return ""


def _target(location: str) -> str:
    """A redirect's target without what it may carry in user info, query or fragment."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an address that cannot be read"
    host = parts.netloc.rpartition("@")[2]
    if not host and (parts.scheme or "@" in parts.path):
        # Not an address; what looks like a path may be user info.
        return "an address that cannot be read"
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    origin = f"{scheme}//{host}" if host else ""
    return printable(f"{origin}{parts.path}")[:200] or "nowhere"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait, from Retry-After or X-RateLimit-Reset; None when it does not say.

    Both are read strictly: "inf", "nan" or other digits would make a wait that never ends. Dates are
    compared with the answer's own Date, not with this machine's clock.
    """
    asked = headers.get("retry-after", "").strip()
    now = parse_http_date(headers.get("date", ""))
    if _SECONDS.fullmatch(asked):
        return float(asked)
    until = parse_http_date(asked)
    if until is not None and now is not None:
        return max(0.0, (until - now).total_seconds())
    reset = headers.get("x-ratelimit-reset", "").strip()
    if not re.fullmatch(r"[0-9]{1,12}", reset):
        return None
    if int(reset) < _LATEST_DELAY:
        return float(reset)
    return None if now is None else max(0.0, int(reset) - now.timestamp())


def parse_http_date(text: str) -> datetime | None:
    """Return the time of an HTTP date such as a `Date` header, or None if it is invalid."""
    if not text.endswith("GMT"):
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
