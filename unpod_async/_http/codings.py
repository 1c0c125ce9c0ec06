"""Content codings that aiohttp does not decode itself. No I/O."""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["gunzip", "is_plain", "is_undecoded_gzip"]

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
    return coding.lower() not in _AIOHTTP and _codings(coding) in _GZIP and body.startswith(_GZIP_START)


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
