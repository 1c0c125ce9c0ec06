"""Content codings that aiohttp does not decode itself. No I/O."""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["decode_body", "is_plain"]

_NO_CODING: Final = frozenset({"", "identity", "aws-chunked"})
"""Names under which a body is sent unchanged. Stores repeat `aws-chunked` from the upload of a file, although
its framing is gone by then."""

_AIOHTTP: Final = frozenset({"gzip", "deflate", "br", "zstd"})
_GZIP: Final = frozenset({"gzip", "x-gzip"})
_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16


def is_plain(coding: str) -> bool:
    """Return whether a Content-Encoding says that the body is sent unchanged."""
    return not _codings(coding)


def decode_body(coding: str, body: bytes, max_bytes: int) -> bytes | None:
    """Return a body decoded according to its Content-Encoding, or None if it is longer than `max_bytes`.

    A body that aiohttp has decoded, or whose coding is unknown, is returned as it is.

    Raises:
        zlib.error: the body is damaged.
        EOFError: the body is incomplete.
    """
    if coding.lower() in _AIOHTTP or len(codings := _codings(coding)) != 1 or codings[0] not in _GZIP:
        return body
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
