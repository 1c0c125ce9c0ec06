"""Headers that the user adds to requests. Their values are treated like the token. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, cast

from unpod_async._common import shorten
from unpod_async._http.secret import Secret
from unpod_async.errors import ConfigurationError, InvalidArgument

__all__ = ["ExtraHeaders", "merge_headers", "without_refused"]

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
# Other characters reach the server as undefined bytes, and it drops spaces at the ends.
_VALUE: Final = re.compile(r"[!-~](?:[\t -~]*[!-~])?")
_MAX_LENGTH: Final = 4096

_VALUE_HINT: Final = (
    f"use 1 to {_MAX_LENGTH} characters of printable ASCII, without line breaks\n"
    "and without spaces at the ends"
)

_REFUSED: Final = {
    "authorization": "the client sends the token itself: pass token= and auth_scheme=",
    "org-handle": "pass org_handle=",
    "user-agent": "pass app_name=",
    **dict.fromkeys(
        ("x-http-method", "x-http-method-override", "x-method-override"),
        "pass the method to `request`: some servers take it from this header",
    ),
    **dict.fromkeys(
        ("x-original-url", "x-rewrite-url"),
        "pass the path to `request`: some servers take it from this header",
    ),
    **dict.fromkeys(
        (
            *(
                "accept-encoding",
                "connection",
                "content-encoding",
                "content-length",
                "cookie",
                "expect",
                "host",
            ),
            *("keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        ),
        "leave it out: the client sets it, or does not support it",
    ),
}
"""Names that are refused, in lower case, and the hint for each."""

_MIN_REDACTED: Final = 6
"""Minimum length of a value that is masked where the server repeats it. Shorter values, such as 1 or true,
are not secrets, and masking them would make responses unreadable."""


class ExtraHeaders:
    """Headers to add to a request. The repr shows only their names.

    Attributes:
        secrets: the values to mask where the server repeats them.
    """

    __slots__ = ("_headers", "secrets")

    def __init__(self, headers: Mapping[str, Secret]) -> None:
        self._headers: Final = headers
        self.secrets: Final = tuple(
            secret for secret in headers.values() if len(secret.reveal()) >= _MIN_REDACTED
        )

    def __repr__(self) -> str:
        return f"ExtraHeaders({', '.join(self._headers)})"

    def merged_into(self, other: ExtraHeaders | None) -> ExtraHeaders:
        """Return the headers of `other` and these, which take precedence."""
        if other is None:
            return self
        ours = set(map(_plain, self._headers))
        theirs = {name: value for name, value in other._headers.items() if _plain(name) not in ours}
        return ExtraHeaders({**theirs, **self._headers})

    def add_to(self, headers: MutableMapping[str, str]) -> None:
        """Set these headers. `headers` ignores case."""
        for name, value in self._headers.items():
            headers[name] = value.reveal()

    def redact_bytes(self, data: bytes) -> bytes:
        """Return `data` without the values."""
        for secret in self.secrets:
            data = secret.redact_bytes(data)
        return data


def _plain(name: str) -> str:
    """Return a form that is equal for names that a server does not distinguish."""
    # By the rules of CGI, "-" and "_" are the same.
    return name.lower().replace("_", "-")


def _refusal(plain: str) -> str | None:
    """Return a hint if headers of this name are refused, else None."""
    return "pass proxy=" if plain.startswith("proxy-") else _REFUSED.get(plain)


def without_refused(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Return those of the headers of another library that can be sent, and that the client does not set."""
    return {
        name: value
        for name, value in headers.items()
        if isinstance(name, str)
        and isinstance(value, str)
        and _NAME.fullmatch(name)
        and _VALUE.fullmatch(value)
        and _refusal(_plain(name)) is None
    }


def merge_headers(
    given: object,
    others: ExtraHeaders | None,
    *,
    error: type[InvalidArgument] | type[ConfigurationError] = InvalidArgument,
) -> ExtraHeaders | None:
    """Return `others` with the headers in the argument `headers=`, which may be None.

    The caller must not keep `given` in a variable: tracebacks of later errors would show the values.

    Raises:
        InvalidArgument: a header is not accepted. Neither the message nor the traceback shows a value.
    """
    if given is None:
        return others
    problem = _problem(given)
    if problem is None:
        headers = cast("Mapping[str, str]", given)
        secrets = {
            str.__str__(name): Secret(str.__str__(value), spaces=True) for name, value in headers.items()
        }
        return ExtraHeaders(secrets).merged_into(others) if secrets else others
    given = None
    text, hint = problem
    raise error(f"headers{text}", argument="headers", hint=hint)


def _problem(given: Any) -> tuple[str, str] | None:
    """Return why headers are not accepted and a hint, or None."""
    headers = given
    if not isinstance(given, Mapping):
        return f" must be a mapping, not {type(given).__name__}", "pass a dict of names and values"
    seen: set[str] = set()
    for name, value in headers.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            return " has a name that is not a valid header name", "use letters, digits and '-'"
        plain = _plain(name)
        hint = _refusal(plain)
        shown = shorten(name, 60)
        if hint is not None:
            return f" must not contain {shown}", hint
        if plain in seen:
            return (
                f" contains {shown} twice",
                "pass it once; upper and lower case, and '-' and '_', are the same",
            )
        seen.add(plain)
        if not isinstance(value, str):
            return f"[{shown!r}] must be a str, not {type(value).__name__}", "pass the value as a str"
        if len(value) > _MAX_LENGTH or _VALUE.fullmatch(value) is None:
            return f"[{shown!r}] has a value that cannot be sent", _VALUE_HINT
    return None
