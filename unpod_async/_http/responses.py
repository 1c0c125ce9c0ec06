"""Map a response to the error it stands for. No I/O: status, headers and body in, exception out.

Nothing depends on the text of a message, because the server translates it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec

from unpod_async import errors
from unpod_async._common import looks_like_markup, printable
from unpod_async._http.secret import Secret
from unpod_async.errors import APIError, UnpodError

__all__ = [
    "Hint",
    "Request",
    "Response",
    "classify",
    "classify_body",
    "message_of",
    "parse_http_date",
    "redact_error",
    "redact_response",
    "retry_after",
    "safe_headers",
]

PROXY_LOGIN: Final = 407
PROXY_LOGIN_HINT: Final = "pass the user name and password in proxy=http://user:password@host:port"
"""The status with which a proxy requires a login, and the hint for it."""

_JWT_SCHEMES: Final = frozenset({"jwt", "bearer"})

_HINTS: Final[dict[type[APIError], str]] = {
    errors.RefusedError: "the space may not exist, belong to another account, or need a higher role",
    errors.PermissionDeniedError: "the account of the token needs a role there: ask an administrator",
    errors.NotFoundError: "check the handle or id and org_handle",
}
"""Hints for errors whose cause is known by their class only."""

_MAX_KEPT_BODY: Final = 4096

_SAFE_HEADERS: Final = frozenset({
    "date",
    "retry-after",
    "retry-after-ms",
    "x-request-id",
    "www-authenticate",
})
_SAFE_HEADER_PREFIXES: Final = ("x-ratelimit-", "ratelimit-")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,30})?")
_UNIX_TIME: Final = re.compile(r"[0-9]{1,13}(?:\.[0-9]{1,30})?")
# A reset is a Unix time. A smaller number is a delay in seconds: some gateways send that instead.
_LONGEST_RESET_DELAY: Final = 10**7
# In seconds, this would be the year 5138; in milliseconds, it is 1973.
_FIRST_MILLISECONDS: Final = 10**11
_WEEKDAY: Final = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6}", re.IGNORECASE)
# Dates must be in UTC, and must name it. Only the last form, that of C's `asctime`, has no time zone.
_HTTP_DATE: Final = re.compile(
    r"(?:[A-Za-z]{3,9}, )?.{1,40} (?:GMT|UTC|[+-]0000)|[A-Za-z]{3} [A-Za-z]{3} [ 0-9][0-9] [0-9:]{8} [0-9]{4}"
)


class Hint(NamedTuple):
    """What the reader can do about an error of one endpoint.

    Attributes:
        status: the status of the response.
        text: the hint.
        mentions: the hint applies only if the body contains this, in lower case.
    """

    status: int
    text: str
    mentions: str = ""


class Request(NamedTuple):
    """The parts of a request that an error message needs.

    Attributes:
        jwt_expiry: `Secret.jwt_expiry` of the token; set only for an error response.
        hints: the hints of the endpoint, which take precedence over general ones.
    """

    method: str
    path: str
    scheme: str
    jwt_expiry: float | None = None
    hints: Sequence[Hint] = ()


class Response(NamedTuple):
    """A complete response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def redact_response(response: Response, token: Secret) -> Response:
    """Return the response without the token, which some servers repeat when they refuse it."""
    headers = {name: token.redact(value) for name, value in response.headers.items()}
    return Response(response.status, headers, token.redact_bytes(response.body))


def redact_error(error: UnpodError, token: Secret) -> None:
    """Remove the token from all attributes of an error: decoding may have unescaped it."""
    error.args = tuple(_redact(error.args, token))
    for name, value in vars(error).items():
        setattr(error, name, _redact(value, token))


def _redact(value: Any, token: Secret) -> Any:
    if isinstance(value, str):
        return token.redact(value)
    if isinstance(value, bytes):
        return token.redact_bytes(value)
    if isinstance(value, dict):
        items = cast("dict[object, Any]", value).items()
        return {_redact(key, token): _redact(one, token) for key, one in items}
    if type(value) in {list, tuple}:
        return type(value)(_redact(one, token) for one in value)
    return value


def safe_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that may be shown: an allow-list, because others may contain secrets."""
    return {
        name: value
        for name, value in headers.items()
        if name in _SAFE_HEADERS or name.startswith(_SAFE_HEADER_PREFIXES)
    }


def classify(request: Request, response: Response) -> APIError | None:
    """Return the error of a response according to its HTTP status, or None for a success.

    Only the body of a success can tell whether it contains an error; see `classify_body`.
    """
    if 200 <= response.status < 300 and response.status != 206:
        return None
    return _error(request, response, response.status, _json_object(response.body))


def message_of(response: Response) -> str:
    """Return the server's message in a response of any status, or ""."""
    return _message(_json_object(response.body))


def classify_body(request: Request, response: Response) -> APIError | None:
    """Return the error that the body of a 200 states as its `status_code`, or None.

    It decodes the body a second time, untyped. Call it for responses that did not decode or that state
    another status.
    """
    payload = _json_object(response.body)
    status = payload.get("status_code")
    if type(status) is int and (status == 206 or 300 <= status <= 599):
        return _error(request, response, status, payload)
    return None


def _error(request: Request, response: Response, status: int, payload: Mapping[str, Any]) -> APIError:
    data = payload.get("data")
    inner = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    errors_field = _first_present(payload.get("errors"), inner.get("errors"))
    error_class = _error_class(status, errors_field, readable=bool(payload))
    error = error_class(
        status,
        _message(payload),
        inner.get("detail") or None if errors_field is None else errors_field,
        safe_headers(response.headers),
        response.body[:_MAX_KEPT_BODY],
        method=request.method,
        path=request.path,
        hint=_hint(request, response, status, error_class),
    )
    if isinstance(error, errors.RateLimitedError):
        error.retry_after = retry_after(response.headers)
    return error


def _first_present(*candidates: object) -> object:
    """Return the first `errors` that is present, even "": an upstream may fail without a message."""
    return next((found for found in candidates if found or isinstance(found, str)), None)


def _error_class(status: int, errors_field: object, *, readable: bool) -> type[APIError]:
    if status == 206:
        if isinstance(errors_field, str) or not readable:
            return errors.UpstreamError
        return errors.InvalidRequestError if errors_field else errors.RefusedError
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


def _json_object(body: bytes) -> Mapping[str, Any]:
    if looks_like_markup(body):
        return {}
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return cast("dict[str, Any]", payload) if isinstance(payload, dict) else {}


def _message(payload: Mapping[str, Any]) -> str:
    for found in (payload.get("message"), payload.get("detail"), payload.get("error")):
        text: object = cast("dict[str, Any]", found).get("message") if isinstance(found, dict) else found
        if isinstance(text, str) and text:
            return text
    return ""


def _hint(request: Request, response: Response, status: int, error_class: type[APIError]) -> str | None:
    for hint in request.hints:
        if hint.status == status and hint.mentions.encode() in response.body.lower():
            return hint.text
    if 300 <= status < 400:
        target = _redirect_target(response.headers.get("location", ""))
        is_slash_missing = not request.path.endswith("/") and target.endswith(f"{request.path}/")
        advice = "end the path with a slash" if is_slash_missing else "check base_url"
        return f"{advice}: redirects are not followed, such as this one to {target}"
    if status in (401, 403) and (expired := _expiry_hint(request, response)) is not None:
        return expired
    if status == 401:
        return _rejected_token_hint(request, response.headers.get("www-authenticate", ""))
    if status == PROXY_LOGIN:
        return PROXY_LOGIN_HINT
    if status == 404 and looks_like_markup(response.body):
        return "an HTML page means that the path does not exist: check base_url"
    return _HINTS.get(error_class)


def _rejected_token_hint(request: Request, challenge: str) -> str:
    """Return the hint for a 401. What helps depends on the kind of the token and on how it was sent."""
    is_sent_as_jwt = request.scheme.lower() in _JWT_SCHEMES
    if request.jwt_expiry is not None:
        if is_sent_as_jwt:
            return "check that the token is complete and that this server issued it"
        return "the token is a JWT: use auth_scheme='JWT' or 'Bearer'"
    if is_sent_as_jwt:
        return "check that the token is complete; an API key needs auth_scheme='Token'"
    if challenge.partition(" ")[0].lower() in _JWT_SCHEMES:
        return "the server asks for a JWT here: pass one with auth_scheme='JWT'"
    return "check that the API key is complete and not expired;\na JWT needs auth_scheme='JWT'"


def _expiry_hint(request: Request, response: Response) -> str | None:
    """Return the hint for a JWT that has expired by the server's clock, or None."""
    expiry = request.jwt_expiry
    date = parse_http_date(response.headers.get("date", ""))
    now = time.time() if date is None else date.timestamp()
    if expiry is None or expiry > now:
        return None
    moment = datetime.fromtimestamp(expiry, UTC) if expiry > 0 else None
    when = f" at {moment:%Y-%m-%dT%H:%M:%SZ}" if moment is not None else ""
    return f"the token is a JWT that expired{when}: use a new one,\nor pass token_provider= to renew it"


def _redirect_target(location: str) -> str:
    """Return the target of a redirect without user info, query and fragment, which may contain secrets."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an unreadable address"
    host = parts.netloc.rpartition("@")[2]
    if not host and (parts.scheme or "@" in parts.path):
        # Not an address: what looks like a path may be user info.
        return "an unreadable address"
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    origin = f"{scheme}//{host}" if host else ""
    return printable(f"{origin}{parts.path}")[:200] or "nowhere"


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that the server asks to wait, rounded up to a whole number, or None.

    Retry-After and retry-after-ms take precedence over X-RateLimit-Reset and RateLimit-Reset. If there are
    several values, the longest is used. Times are compared with the Date header of the response, if there is
    one, so a wrong clock of this machine does not matter.

    Numbers are parsed strictly: "inf" or "nan" would be a delay that never ends.

    Args:
        headers: the headers with lower-case names; repeated headers are joined with ", ".
        now: the Unix time of this machine.
    """
    date = parse_http_date(headers.get("date", ""))
    current = now() if date is None else date.timestamp()
    retry_delays = [
        *(_parse_retry_after(value, current) for value in _split_header(headers.get("retry-after", ""))),
        *(_parse_milliseconds(value) for value in _split_header(headers.get("retry-after-ms", ""))),
    ]
    reset_delays = [
        _parse_reset(value, current)
        for name in ("x-ratelimit-reset", "ratelimit-reset")
        for value in _split_header(headers.get(name, ""))
    ]
    for delays in (retry_delays, reset_delays):
        known = [delay for delay in delays if delay is not None]
        if known:
            return float(math.ceil(max(known)))
    return None


def _split_header(header: str) -> list[str]:
    """Return the items of a list. A comma after the weekday of a date does not separate items."""
    values: list[str] = []
    for part in header.split(","):
        if values and _WEEKDAY.fullmatch(values[-1]):
            values[-1] += f", {part.strip()}"
        else:
            values.append(part.strip())
    return values


def _parse_retry_after(value: str, current: float) -> float | None:
    """Return the seconds of a Retry-After: a number of seconds, or a date."""
    if _SECONDS.fullmatch(value):
        return float(value)
    date = parse_http_date(value)
    return None if date is None else max(0.0, date.timestamp() - current)


def _parse_milliseconds(value: str) -> float | None:
    return float(value) / 1000 if _SECONDS.fullmatch(value) else None


def _parse_reset(value: str, current: float) -> float | None:
    """Return the seconds of a rate limit's reset: a Unix time in seconds or milliseconds, or a delay."""
    if not _UNIX_TIME.fullmatch(value):
        return None
    number = float(value)
    if number < _LONGEST_RESET_DELAY:
        return number
    return max(0.0, (number if number < _FIRST_MILLISECONDS else number / 1000) - current)


def parse_http_date(text: str) -> datetime | None:
    """Return the time of an HTTP date such as a `Date` header, or None if it is invalid."""
    if not _HTTP_DATE.fullmatch(text):
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
