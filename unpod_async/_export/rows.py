"""A page of a listing as an export wants it: of each row its line and its head.

A row's head is read once, and what can be is looked at for a whole page: 18 µs per row of 4 kB for head and
line, where reading the head again for each question and checking each line by itself took 33.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec

from unpod_async._export.row_header import Head, head_of
from unpod_async._export.row_line import InvalidRow, lines_of
from unpod_async._paging import Decode, decode_with

__all__ = ["Row", "decoder"]


class Row(msgspec.Struct, gc=False):
    """A row that came; its line is made when it is asked for.

    Pages that were asked for at the same time may come in the same turn of the event loop. Their lines need
    not be made in that turn as well.
    """

    raw: msgspec.Raw
    head: Head
    place: int
    page: _Lines

    @property
    def line(self) -> bytes | InvalidRow:
        """As it stands in a file, or why it is no row."""
        return self.page.lines[self.place]


class _Lines:
    """The lines of the rows of one page."""

    def __init__(
        self, body: bytes, raws: Sequence[msgspec.Raw], heads: Sequence[Head], *, keep_user_token: bool
    ) -> None:
        self._body = body
        self._raws = raws
        self._heads = heads
        self._keep_user_token = keep_user_token

    @functools.cached_property
    def lines(self) -> list[bytes | InvalidRow]:
        return lines_of(self._body, self._raws, self._heads, keep_user_token=self._keep_user_token)


def decoder(*, keep_user_token: bool) -> Decode:
    """For a walk over `Row`s."""

    def rows_of(body: bytes, raws: Sequence[msgspec.Raw], heads: Sequence[Head]) -> list[Any]:
        page = _Lines(body, raws, heads, keep_user_token=keep_user_token)
        return [
            Row(raw, head, place, page) for place, (raw, head) in enumerate(zip(raws, heads, strict=True))
        ]

    return functools.partial(decode_with, head_of=head_of, rows_of=rows_of)
