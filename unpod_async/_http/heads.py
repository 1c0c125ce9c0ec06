"""The head of a response: limits of its headers, and repeated headers. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from unpod_async._common import printable

__all__ = ["MAX_FIELD_SIZE", "MAX_HEADERS", "RawHeaders", "combine", "contradiction", "excess"]

MAX_FIELD_SIZE: Final = 2**16
"""Maximum length of a header value in bytes. The parser of a session accepts more, so that the error can name
the header, and so that the response to a create is always read."""

MAX_HEADERS: Final = 256
"""Maximum number of headers."""

_MAX_SHOWN: Final = 80


class RawHeaders(Protocol):
    """The headers of a response as aiohttp returns them: names in any case, including repeated ones."""

    def __len__(self) -> int: ...

    def keys(self) -> Iterable[str]: ...

    def items(self) -> Iterable[tuple[str, str]]: ...

    def getall(self, key: str, /) -> Sequence[str]: ...


def combine(headers: RawHeaders) -> dict[str, str]:
    """Return the headers with lower-case names. Different values of one name are joined with ", "."""
    combined: dict[str, list[str]] = {}
    for name, value in headers.items():
        values = combined.setdefault(name.lower(), [])
        if value not in values:
            values.append(value)
    return {name: ", ".join(values) for name, values in combined.items()}


def contradiction(headers: Mapping[str, str]) -> str | None:
    """Return what makes combined headers ambiguous, or None.

    Two lengths mean that two programs disagree about where the response ends. aiohttp's C parser refuses
    them; its Python parser uses the first one.
    """
    return "two different Content-Length headers" if "," in headers.get("content-length", "") else None


def excess(headers: RawHeaders) -> str | None:
    """Return a description of the header that exceeds `MAX_FIELD_SIZE` or `MAX_HEADERS`, or None."""
    for number, (name, value) in enumerate(headers.items(), start=1):
        shown = printable(name[:_MAX_SHOWN])
        if len(value) > MAX_FIELD_SIZE:
            return f"the response header {shown!r} has {len(value)} bytes (maximum {MAX_FIELD_SIZE})"
        if number > MAX_HEADERS:
            return (
                f"the response has {len(headers)} headers (maximum {MAX_HEADERS}): {shown!r} is the first "
                "one too many"
            )
    return None
