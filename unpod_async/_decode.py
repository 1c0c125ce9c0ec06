"""A page's bytes into rows: typed as a whole at full speed, row by row only where that fails."""

from __future__ import annotations

import codecs
import functools
import hashlib
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from unpod_async._listing import Listing
from unpod_async._times import parse_time
from unpod_async.errors import DecodeError
from unpod_async.models import detach

__all__ = ["Page", "RejectedRow", "Rows", "decode_one", "decode_raw", "decode_rows"]

T = TypeVar("T")

_USER_TOKEN = re.compile(rb'("user_token"\s*:\s*")[^"]*')
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class RejectedRow(NamedTuple):
    """A row that came and is not part of the listing's items.

    Attributes:
        raw: its JSON bytes as the server sent them; on an exception `user_token` is masked in them.
        path: where the fault is in the answer, such as "$.data[3].task_id".
        reason: what is wrong there; holds no data of the row.
    """

    raw: bytes
    path: str
    reason: str

    def masked(self) -> RejectedRow:
        """The row for an exception, which is pickled and mailed around: without the user's access token."""
        return self._replace(raw=_USER_TOKEN.sub(rb"\1***", self.raw))

    def __repr__(self) -> str:
        # The bytes hold names and numbers of people.
        return f"RejectedRow(path={self.path!r}, reason={self.reason!r}, {len(self.raw)} bytes)"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a walk, without the rows that were yielded before.

    Attributes:
        items: the rows, in the server's order; with a filter, those that match.
        number: the page as the server numbers it, from 1.
        page_size: rows asked for per page.
        count: rows of the whole listing, as the server counted them in this answer, or None.
        rejected: rows that came and do not fit.
        unreadable: places in the listing (from 1) whose row the server cannot send; `page=<place>` with
            `page_size=1` is the request that fails.
        headers: Date, Retry-After, X-RateLimit-*, X-Request-ID of the answer, names in lower case.
    """

    items: list[T]
    number: int
    page_size: int
    count: int | None
    rejected: list[RejectedRow]
    unreadable: list[int]
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        # Rows as bytes hold all there is, user tokens too.
        return f"Page(number={self.number}, {len(self.items)} items)"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one answer, by place: an item, or why there is none."""

    rows: Sequence[Any]
    keys: Sequence[str]
    count: int | None
    created: Sequence[datetime | None]
    headers: Mapping[str, str]
    status_code: object = None
    message: object = None


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

    def __post_init__(self) -> None:
        # A value of another type names no run and no status.
        if not isinstance(self.run_id, str):
            self.run_id = None
        if not isinstance(self.status, str):
            self.status = None

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


def decode_rows(listing: Listing[Any], body: bytes, page: int, headers: Mapping[str, str]) -> Rows:
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
    return Rows(rows, named, _count(envelope), created, headers, envelope.status_code, envelope.message)


def decode_raw(listing: Listing[Any], body: bytes, page: int, headers: Mapping[str, str]) -> Rows:
    """The page as each row's exact bytes, wrapped with what filters need; no row is too bad for it."""
    envelope, raws = _raw_page(body, page)
    heads = [_head(raw) for raw in raws]
    keys = [listing.key_of(head) or _digest(raw) for head, raw in zip(heads, raws, strict=True)]
    rows: list[Any] = [
        _foreign(listing, raw, index)
        if listing.is_foreign(head)
        else (bytes(raw) if listing.keeps(head) else None)
        for index, (head, raw) in enumerate(zip(heads, raws, strict=True))
    ]
    created = [head.created_at for head in heads] if listing.tied else ()
    return Rows(rows, keys, _count(envelope), created, headers, envelope.status_code, envelope.message)


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


def _check_utf8(body: bytes) -> None:
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
        _check_utf8(body)
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
