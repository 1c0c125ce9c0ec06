"""A page's bytes into rows: typed as a whole at full speed, row by row only where that fails."""

from __future__ import annotations

import codecs
import functools
import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar, cast

import msgspec

from unpod_async._common import parse_time
from unpod_async._paging.listings import Listing
from unpod_async._paging.page import DecodedPage, Page, RejectedRow
from unpod_async.errors import DecodeError
from unpod_async.models import detach

__all__ = [
    "Decode",
    "DecodedPage",
    "Page",
    "RejectedRow",
    "check_utf8",
    "decode_one",
    "decode_raw",
    "decode_rows",
    "decode_with",
    "scan_page",
]

T = TypeVar("T")

Decode: TypeAlias = Callable[[Listing[Any], bytes, int, Mapping[str, str]], DecodedPage]
"""Makes rows of the body of a page, as `decode_rows` does: of a listing, the page's number, the headers."""

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class RowHead(msgspec.Struct, gc=False):
    """What the walk and the filters need of a row that is not decoded: any type, for a bad row is a row."""

    id: Any = msgspec.field(name="_id", default=None)
    task_id: Any = None
    run_id: Any = None
    handle: Any = None
    token: Any = None
    domain_handle: Any = None
    status: Any = None
    created: Any = None

    @property
    def created_at(self) -> datetime | None:
        return parse_time(self.created)


class _Envelope(msgspec.Struct, Generic[T]):
    data: list[T] | msgspec.UnsetType | None = msgspec.UNSET
    count: Any = None
    status_code: Any = None
    message: Any = None


class _One(msgspec.Struct, Generic[T]):
    data: T
    status_code: Any = None


_Decoder: TypeAlias = msgspec.json.Decoder[Any]


@functools.cache
def _page_decoder(model: Hashable) -> _Decoder:
    return msgspec.json.Decoder(_Envelope[model])  # type: ignore[valid-type]


@functools.cache
def _decoder(model: Hashable) -> _Decoder:
    return msgspec.json.Decoder(cast("type[Any]", model))


_RAW_PAGE = _page_decoder(msgspec.Raw)
_HEAD = _decoder(RowHead)


def decode_rows(listing: Listing[Any], body: bytes, page: int, headers: Mapping[str, str]) -> DecodedPage:
    """The page as rows of the listing's model; a row that does not fit becomes a `RejectedRow`.

    Raises:
        DecodeError: the body is no listing at all.
    """
    envelope = _typed_page(listing, body)
    if envelope is None:
        envelope, raws = _raw_page(body, page)
        rows = [_row(listing, raw, index) for index, raw in enumerate(raws)]
    else:
        rows = [detach(row) for row in _data(envelope, page)]
    keys = [None if isinstance(row, RejectedRow) else listing.key_of(row) for row in rows]
    if None in keys:
        _, raws = _raw_page(body, page)
        for index, key in enumerate(keys):
            if key is None:
                row = rows[index]
                head = _head(raws[index]) if isinstance(row, RejectedRow) else row
                keys[index] = listing.key_of(head) or _digest(raws[index])
    foreign = (
        [
            index
            for index, row in enumerate(rows)
            if not isinstance(row, RejectedRow) and listing.is_foreign(row)
        ]
        if listing.run_id is not None
        else []
    )
    if foreign:
        _, raws = _raw_page(body, page)
        for index in foreign:
            rows[index] = _foreign(listing, raws[index], index)
    created = [getattr(row, "created_at", None) for row in rows] if listing.tied else ()
    named = cast("list[str]", keys)  # every None was replaced above
    return DecodedPage(
        rows, named, _count(envelope), created, headers, envelope.status_code, envelope.message
    )


def decode_raw(listing: Listing[Any], body: bytes, page: int, headers: Mapping[str, str]) -> DecodedPage:
    """The page as each row's exact bytes; no row is too bad for it."""

    def exact(_: bytes, raws: Sequence[msgspec.Raw], heads: Sequence[RowHead]) -> list[Any]:
        return [bytes(raw) if listing.keeps(head) else None for raw, head in zip(raws, heads, strict=True)]

    return decode_with(listing, body, page, headers, _head, exact)


def decode_with(
    listing: Listing[Any],
    body: bytes,
    page: int,
    headers: Mapping[str, str],
    head_of: Callable[[msgspec.Raw], Any],
    rows_of: Callable[[bytes, Sequence[msgspec.Raw], Sequence[Any]], list[Any]],
) -> DecodedPage:
    """The page as whatever `rows_of` makes of the body, its rows, and their heads.

    Args:
        head_of: reads what the walk needs of a row (attributes as `RowHead` has); it never raises.
    """
    envelope, raws = _raw_page(body, page)
    heads = [head_of(raw) for raw in raws]
    keys = [listing.key_of(head) or _digest(raw) for head, raw in zip(heads, raws, strict=True)]
    rows = rows_of(body, raws, heads)
    if listing.run_id is not None:
        for index, head in enumerate(heads):
            if listing.is_foreign(head):
                rows[index] = _foreign(listing, raws[index], index)
    created = [head.created_at for head in heads] if listing.tied else ()
    return DecodedPage(rows, keys, _count(envelope), created, headers, envelope.status_code, envelope.message)


def scan_page(body: bytes, page: int) -> tuple[list[msgspec.Raw], int | None, object, object]:
    """Rows of a page, its count, and the status and message that its body states.

    Raises:
        DecodeError: the body is no listing at all.
    """
    envelope, raws = _raw_page(body, page)
    return raws, _count(envelope), envelope.status_code, envelope.message


def decode_one(model: type[T], body: bytes) -> tuple[T, object]:
    """The `data` object of a single answer and the status the body states.

    Raises:
        DecodeError: the body is no such answer.
    """
    try:
        body.decode()
        one = _decoder(cast("Hashable", _One[model])).decode(body)  # type: ignore[valid-type]
    except _UNREADABLE as fault:
        reason = _reason(fault)
    else:
        return one.data, one.status_code
    raise DecodeError(f"the answer is not the expected JSON: {reason}")


def check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError where `body` is not UTF-8.

    In pieces: the text of a whole page takes four times as long, for it is large and made to be thrown away.
    """
    view, end = memoryview(body), 0
    while end < len(view):
        start, end = end, end + 65_536
        end = start + codecs.utf_8_decode(view[start:end], "strict", end >= len(view))[1]


def _typed_page(listing: Listing[Any], body: bytes) -> Any:
    """The envelope with decoded rows, or None when some of it does not fit.

    None rather than an exception: that of the encoding holds the body, and what is raised while it is
    handled would keep it.
    """
    try:
        # Inside a field that is kept as bytes msgspec does not look at the encoding.
        check_utf8(body)
        return _page_decoder(cast("Hashable", listing.model)).decode(body)
    except _UNREADABLE:
        return None


def _raw_page(body: bytes, page: int) -> tuple[Any, list[msgspec.Raw]]:
    try:
        envelope = _RAW_PAGE.decode(body)
    except _UNREADABLE as fault:
        reason = _reason(fault)
    else:
        return envelope, _data(envelope, page)
    raise DecodeError(f"the answer is no JSON listing: {reason}")


def _data(envelope: Any, page: int) -> list[Any]:
    data: list[Any] | msgspec.UnsetType | None = envelope.data
    if data is msgspec.UNSET:
        raise DecodeError("the answer is JSON without `data`")
    if data is not None:
        return data
    if page > 1 or envelope.count in (0, None):
        return []
    raise DecodeError(f"the answer's `data` is null although its `count` is {envelope.count!r:.40}")


def _row(listing: Listing[Any], raw: msgspec.Raw, index: int) -> Any:
    try:
        bytes(raw).decode()
        return detach(_decoder(cast("Hashable", listing.model)).decode(raw))
    except _UNREADABLE as fault:
        reason, _, path = _reason(fault).partition(" - at `$")
    return RejectedRow(bytes(raw), f"$.data[{index}]{path.rstrip('`')}", reason)


def _head(raw: msgspec.Raw) -> RowHead:
    try:
        head: RowHead = _HEAD.decode(raw)
    except _UNREADABLE:
        return RowHead()
    return head


def _foreign(listing: Listing[Any], raw: msgspec.Raw, index: int) -> RejectedRow:
    return RejectedRow(
        bytes(raw), f"$.data[{index}].run_id", f"the row belongs to another run than {listing.run_id}"
    )


def _digest(raw: msgspec.Raw) -> str:
    return "#" + hashlib.blake2b(raw, digest_size=16).hexdigest()


def _count(envelope: Any) -> int | None:
    count = envelope.count
    return count if type(count) is int and count >= 0 else None


def _reason(fault: Exception) -> str:
    """What msgspec says of a fault; it names types and places, no data of the row."""
    if isinstance(fault, UnicodeDecodeError):
        return "invalid UTF-8"
    if isinstance(fault, RecursionError):
        return "nested too deeply"
    return str(fault)
