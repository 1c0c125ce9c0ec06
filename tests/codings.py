"""Compresses bodies with each content coding that aiohttp may decode."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Sequence

import pytest

__all__ = ["CODINGS", "compress"]

CODINGS = ("gzip", "deflate", "br", "zstd")


def compress(coding: str, pieces: Sequence[bytes]) -> bytes:
    """Return a compressed body; skip the test if the library of a coding is not installed."""
    if coding in {"gzip", "deflate"}:
        packer = zlib.compressobj(1, wbits=31 if coding == "gzip" else 15)
        return b"".join(map(packer.compress, pieces)) + packer.flush()
    if coding == "br":
        brotli = pytest.importorskip("brotli").Compressor(quality=1)
        return b"".join(map(brotli.process, pieces)) + bytes(brotli.finish())
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    zstd = importlib.import_module(name).ZstdCompressor()
    return b"".join(map(zstd.compress, pieces)) + bytes(zstd.flush())
