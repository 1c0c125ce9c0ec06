"""Headers of a response: limits, repeated headers, content codings that aiohttp does not decode. No I/O."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from unpod_async._common import printable

__all__ = [
    "MAX_FIELD_SIZE",
    "MAX_HEADERS",
    "RawHeaders",
    "combine_headers",
    "describe_conflict",
    "describe_excess",
    "gunzip",
    "is_plain",
    "is_undecodable",
    "is_undecoded_gzip",
]

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


def combine_headers(headers: RawHeaders) -> dict[str, str]:
    """Return the headers with lower-case names. Different values of one name are joined with ", "."""
    combined: dict[str, list[str]] = {}
    for name, value in headers.items():
        values = combined.setdefault(name.lower(), [])
        if value not in values:
            values.append(value)
    return {name: ", ".join(values) for name, values in combined.items()}


def describe_conflict(headers: Mapping[str, str]) -> str | None:
    """Return what makes combined headers ambiguous, or None.

    Two lengths mean that two programs disagree about where the response ends. aiohttp's C parser refuses
    them; its Python parser uses the first one.
    """
    return "two different Content-Length headers" if "," in headers.get("content-length", "") else None


def describe_excess(headers: RawHeaders) -> str | None:
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


_NO_CODING: Final = frozenset({"", "identity", "aws-chunked"})
"""Content codings of a body that is sent unchanged. Object stores repeat `aws-chunked` from the upload of a
file, although the download does not have its framing."""

_AIOHTTP: Final = frozenset({"gzip", "deflate", "br", "zstd"})
_GZIP: Final = (["gzip"], ["x-gzip"])
_GZIP_START: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16


def is_plain(coding: str) -> bool:
    """Return whether a Content-Encoding means that the body is sent unchanged."""
    return not _codings(coding)


def is_undecoded_gzip(coding: str, body: bytes) -> bool:
    """Return whether a body is still compressed with gzip, as its Content-Encoding says.

    aiohttp does not decode `x-gzip`, or several codings in one header.
    """
    start = body[: len(_GZIP_START)]  # one byte, if the body was cut short there
    return coding.lower() not in _AIOHTTP and _codings(coding) in _GZIP and _GZIP_START.startswith(start)


def is_undecodable(coding: str) -> bool:
    """Return whether neither aiohttp nor `gunzip` decodes a Content-Encoding."""
    codings = _codings(coding)
    return bool(codings) and coding.lower() not in _AIOHTTP and codings not in _GZIP


def gunzip(body: bytes, max_bytes: int) -> bytes | None:
    """Return a decompressed body, or None if it is longer than `max_bytes`.

    Raises:
        zlib.error: the body is damaged.
        EOFError: the body is incomplete.
    """
    pieces: list[bytes] = []
    left = max_bytes
    while body:  # a body may consist of several members
        member = zlib.decompressobj(_GZIP_WINDOW)
        piece = member.decompress(body, left + 1)
        if len(piece) > left:
            return None
        if not member.eof:
            raise EOFError
        pieces.append(piece)
        left -= len(piece)
        body = member.unused_data
    return b"".join(pieces)


def _codings(header: str) -> list[str]:
    return [name for name in map(str.strip, header.lower().split(",")) if name not in _NO_CODING]
