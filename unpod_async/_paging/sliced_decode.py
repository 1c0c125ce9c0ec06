"""A large page decoded as several small ones, with a turn of the event loop before each.

msgspec keeps the interpreter while it decodes, so a thread would not free the loop. Finding the rows first
takes 5 us for each of 4 kB, where decoding it takes 12; so pages of usual size are decoded whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from unpod_async._paging.decode import Decode, scan_page
from unpod_async._paging.listings import Listing
from unpod_async._paging.page import DecodedPage, RejectedRow

__all__ = ["MAX_WHOLE_BYTES", "Scanned", "decode_in_slices", "scan"]

MAX_WHOLE_BYTES = 3 * 2**20
"""Bytes of a page that is decoded at once, at most; that takes 17 ms on a slow machine."""

SLICE_BYTES = 2**18
"""Bytes. Whoever waits for a timer is woken two turns after it is due: two slices are decoded meanwhile."""

_INDEX = re.compile(r"(?<=^\$\.data\[)[0-9]+")


class Scanned(msgspec.Struct, frozen=True):
    """A page whose rows are found and not yet decoded."""

    raws: Sequence[msgspec.Raw]
    count: int | None
    status_code: object
    message: object
    headers: Mapping[str, str]


def scan(body: bytes, page: int, headers: Mapping[str, str]) -> Scanned:
    """Raises DecodeError: the body is no listing at all."""
    return Scanned(*scan_page(body, page), headers)


async def decode_in_slices(scanned: Scanned, listing: Listing[Any], page: int, decode: Decode) -> DecodedPage:
    """The rows of the page, as `decode` makes them of smaller bodies."""
    rows: list[Any] = []
    keys: list[str] = []
    created: list[datetime | None] = []
    for body in _bodies(scanned.raws):
        await asyncio.sleep(0)
        part = decode(listing, body, page, scanned.headers)
        rows += [_moved(row, len(keys)) if type(row) is RejectedRow else row for row in part.rows]
        keys += part.keys
        created += part.created
    return DecodedPage(
        rows, keys, scanned.count, created, scanned.headers, scanned.status_code, scanned.message
    )


def _bodies(raws: Sequence[msgspec.Raw]) -> Iterator[bytes]:
    start = length = 0
    for end, raw in enumerate(raws, 1):
        length += len(raw)
        if length >= SLICE_BYTES or end == len(raws):
            yield b'{"data":[%b]}' % b",".join(raws[start:end])
            start, length = end, 0


def _moved(row: RejectedRow, by: int) -> RejectedRow:
    """With its place in the whole page."""
    return row._replace(path=_INDEX.sub(lambda found: str(int(found[0]) + by), row.path))
