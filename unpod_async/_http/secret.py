"""A secret string, such as the token of the platform, which appears in no text, dump or copy."""

from __future__ import annotations

import base64
import hmac
import re
from math import inf
from typing import Any, Final, NoReturn, cast, final

import msgspec

from unpod_async.errors import ConfigurationError

__all__ = ["Secret"]

_MASK: Final = "***"

_JWT_START: Final = "eyJ"
"""`{"` in base64. The header of every JWT begins with it."""

_HTML_NAMES: Final = {
    "&": ("amp",),
    "<": ("lt",),
    ">": ("gt",),
    '"': ("quot",),
    "'": ("apos",),
    "/": ("sol",),
    "+": ("plus",),
    "=": ("equals",),
}
"""The HTML entities of characters that HTML pages escape, and of those that base64 tokens contain."""

_LAST_TIME: Final = 10**11

_TOKEN: Final = re.compile(r"[!-~]+")
_TEXT: Final = re.compile(r"[\t -~]+")


@final
class Secret:
    """A string that only `reveal` returns.

    `repr`, `str` and `format` return `***`. It is not a `str`, so it cannot be joined, encoded or written to
    JSON by accident. It cannot be pickled, copied or hashed, and comparison takes constant time.

    Args:
        value: the string.
        spaces: whether it may contain spaces and tabs, as the value of a header may.

    Raises:
        ConfigurationError: the value is not a non-empty string of printable ASCII without spaces.
    """

    # With slots, `vars()` and error reporters that read `__dict__` find nothing.
    __slots__ = ("__value",)

    def __init__(self, value: str, *, spaces: bool = False) -> None:
        self.__value: Final = _check_token(value, _TEXT if spaces else _TOKEN)

    def reveal(self) -> str:
        """Return the string itself. Only the code that writes the Authorization header needs this."""
        return self.__value

    def jwt_expiry(self) -> float | None:
        """Return the Unix time at which a JWT expires: infinity for never; None for other tokens."""
        parts = self.__value.split(".")
        if len(parts) != 3 or not parts[0].startswith(_JWT_START):
            return None
        try:
            claims: object = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=="))
        except (ValueError, msgspec.DecodeError, RecursionError):  # before msgspec 0.21, not a ValueError
            return inf
        expiry = cast("dict[str, object]", claims).get("exp") if isinstance(claims, dict) else None
        is_time = (
            isinstance(expiry, int | float) and not isinstance(expiry, bool) and abs(expiry) < _LAST_TIME
        )
        return float(cast("float", expiry)) if is_time else inf

    def redact(self, text: str) -> str:
        """Return `text` with the secret replaced by `***`, even if it is escaped as in JSON, URLs or HTML."""
        # Every escape begins with one of these characters, and compiling the patterns takes milliseconds.
        if "\\" not in text and "%" not in text and "&" not in text:
            return text.replace(self.__value, _MASK)
        for pattern in _patterns(self.__value):
            text = re.sub(pattern, _MASK, text)
        return text

    def redact_bytes(self, data: bytes) -> bytes:
        """Return bytes with the secret replaced, as `redact` does. They need not be UTF-8."""
        # Latin-1 maps each byte to one character and back, so nothing but the secret changes.
        return self.redact(data.decode("latin-1")).encode("latin-1")

    def __repr__(self) -> str:
        return _MASK

    def __format__(self, spec: str, /) -> str:
        # A width or precision would reveal the length of the value, so it is ignored.
        return _MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__value, other.__value)

    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        raise TypeError(
            "a Secret cannot be pickled or copied, because that would write the token: create the client "
            "where it is used"
        )

    # Since Python 3.11 `object.__getstate__` returns the values of slots.
    def __getstate__(self) -> NoReturn:
        self.__reduce_ex__(0)


def _check_token(value: object, allowed: re.Pattern[str]) -> str:
    if not isinstance(value, str) or allowed.fullmatch(value) is None:
        raise ConfigurationError("a secret must be a non-empty string of printable ASCII without spaces")
    return str.__str__(value)


def _patterns(value: str) -> list[str]:
    """Return patterns that together find the value in any form.

    Each pattern begins with a literal character, which makes its search ten times as fast. The escaped
    forms come first, because a plain "%", "\\" or "&" is also the start of its own escape.
    """
    # For each character, because quoting functions differ in the characters that they leave unchanged.
    first, rest = value[0], "".join(map(_character_pattern, value[1:]))
    return [form + rest for form in (*_escape_patterns(first), re.escape(first))]


def _character_pattern(character: str) -> str:
    """Return a pattern for a character that may be plain or escaped."""
    return f"(?:{'|'.join(_escape_patterns(character))}|{re.escape(character)})"


def _escape_patterns(character: str) -> list[str]:
    """Return patterns for the forms of a character in JSON, in a URL and in HTML, escaped once or more often.

    JSON inside a string of JSON has more than one backslash.
    """
    code = f"(?i:{ord(character):02x})"
    names = "".join(f"|{name}" for name in _HTML_NAMES.get(character, ()))
    entity = rf"&(?:amp;)*(?:\#0*{ord(character)}|\#[xX]0*{code}{names});"
    forms = [rf"\\\\*u00{code}", f"%(?:25)*{code}", entity]
    if character in '"/\\':
        forms.insert(0, rf"\\\\*{re.escape(character)}")
    return forms
