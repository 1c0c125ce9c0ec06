"""The platform token, kept out of every text, dump and copy."""

from __future__ import annotations

import hmac
import re
from typing import Any, Final, NoReturn, final

from unpod_async.errors import ConfigurationError

__all__ = ["Secret"]

_MASK: Final = "***"


@final
class Secret:
    """A text that shows itself only when asked to by `reveal`.

    `repr`, `str` and `format` give `***`. It is no `str`, so it is not joined, encoded or written to JSON by
    accident; it is not pickled, copied or hashed; and two are compared in constant time.

    Raises:
        ConfigurationError: the value is not text, is empty, or holds anything but printable ASCII.
    """

    # Slots: `vars()`, `__dict__` and the error reporters that read it find nothing.
    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value: Final = _checked(value)

    def reveal(self) -> str:
        """The text itself. Only the code that writes the Authorization header has a reason to call this."""
        return self.__value

    def redact(self, text: str) -> str:
        """`text` with the secret replaced by `***`, also where it stands JSON-escaped or percent-encoded."""
        return re.sub(_pattern(self.__value), _MASK, text)

    def redact_bytes(self, data: bytes) -> bytes:
        """The same for bytes, which need not be UTF-8."""
        # Latin-1 maps every byte to one character and back, so nothing but the secret is changed.
        return self.redact(data.decode("latin-1")).encode("latin-1")

    def __repr__(self) -> str:
        return _MASK

    def __format__(self, spec: str, /) -> str:
        # A width or precision would be a way to learn about the value; it is ignored.
        return _MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__value, other.__value)

    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        raise TypeError(
            "a Secret is not pickled or copied, because that would write the token out: "
            "hand on the name of the variable that holds it and build the client where it is used"
        )

    # Since Python 3.11 `object.__getstate__` hands out the values of slots.
    def __getstate__(self) -> NoReturn:
        self.__reduce_ex__(0)


def _checked(value: object) -> str:
    if not isinstance(value, str) or re.fullmatch(r"[!-~]+", value) is None:
        raise ConfigurationError("a secret is a non-empty text of printable ASCII without blanks")
    return str.__str__(value)


def _pattern(value: str) -> str:
    # Character by character, since quoting functions differ in which characters they leave alone.
    return "".join(map(_character, value))


def _character(character: str) -> str:
    """A pattern for a character that may be plain, JSON-escaped or percent-encoded."""
    if character.isalnum():
        return character
    # Longest first: a plain "%" or "\" is also the start of its own escape.
    forms = [rf"(?i:%{ord(character):02x}|\\u00{ord(character):02x})"]
    if character in '"/\\':
        forms.append(re.escape(f"\\{character}"))
    return f"(?:{'|'.join(forms)}|{re.escape(character)})"
