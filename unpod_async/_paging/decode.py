"""Decode the body of a page: typed rows, raw rows, or rows of another kind; large pages in slices.

A page is decoded into its model in one go. Only if that fails is it decoded row by row, so that a row that
does not fit becomes a `RejectedRow` and the others are kept. If a field that nothing depends on has
another type, it becomes None.

A row may have `MAX_DEPTH` levels of arrays and objects. msgspec has the limit of the interpreter, which
differs between Python versions; a scanner without a limit reads pages that exceed it.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from gc import is_tracked
from operator import attrgetter
from typing import Any, Generic, TypeAlias, TypeVar, cast, get_args, get_origin

import msgspec

from unpod_async._call_output import Record
from unpod_async._common import (
    MAX_DEPTH,
    array_items,
    cut_at_depth,
    is_too_deep,
    is_value_too_deep,
    object_members,
    parse_time,
    replace_user_tokens,
    shorten,
)
from unpod_async._paging.listings import Listing, RowKey
from unpod_async._paging.page import DecodedPage, RejectedRow
from unpod_async.errors import DecodeError, InvalidArgument
from unpod_async.models import Task

__all__ = [
    "MAX_WHOLE_BYTES",
    "SLICE_BYTES",
    "Decode",
    "ScannedPage",
    "check_model",
    "check_utf8",
    "decode_any",
    "decode_in_slices",
    "decode_lines",
    "decode_object",
    "decode_raw",
    "decode_rows",
    "decode_unless_known",
    "decode_with",
    "detach_from_body",
    "number_equal_rows",
    "scan_page",
]

T = TypeVar("T")

Decode: TypeAlias = Callable[[Listing[Any], bytes, int, Mapping[str, str]], DecodedPage]
"""Decodes the body of a page, as `decode_rows` does; takes the listing, body, page number and headers."""

MAX_WHOLE_BYTES = 3 * 2**20
"""Largest body, in bytes, that is decoded in one go; that takes 17 ms on a slow machine."""

SLICE_BYTES = 2**18
"""Size of a slice of a larger body, in bytes.

A task that waits for a timer resumes two turns of the event loop after the timer is due; by then two slices
are decoded.
"""

_CHUNK_BYTES = 4096
"""Bytes of a body whose encoding is checked at a time, about a row."""

_ROW_LEVEL = 2
"""Levels around a row: the body and its `data`."""

_TOO_DEEP = "nested too deeply"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NOT_ACCEPTED = "the model does not accept the value"
# Other reasons of a model of the user may contain data: the value of an enumeration, or a text of its code.
_SAFE_REASON = re.compile(r"Expected `|Object missing required field `")
_INDEX = re.compile(r"(?<=^\$\.data\[)[0-9]+")


class RowFields(msgspec.Struct, gc=False):
    """The fields of a raw row that the walk and the filters need. They can have any type, as in bad rows."""

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
        """`created` as a timezone-aware datetime in UTC, or None if it is not a time."""
        return parse_time(self.created)


class ScannedPage(msgspec.Struct, frozen=True):
    """A page whose rows are located but not decoded. The attributes are as in `DecodedPage`."""

    raws: Sequence[msgspec.Raw]
    count: int | None
    body_size: int
    headers: Mapping[str, str]
    status_code: object
    message: object


class _Envelope(msgspec.Struct, Generic[T]):
    data: list[T] | msgspec.UnsetType | None = msgspec.UNSET
    count: Any = None
    status_code: Any = None
    message: Any = None


class _ObjectEnvelope(msgspec.Struct, Generic[T]):
    data: T
    status_code: Any = None


_Decoder: TypeAlias = msgspec.json.Decoder[Any]


@functools.cache
def _page_decoder(model: Hashable) -> _Decoder:
    return msgspec.json.Decoder(_Envelope[model])  # type: ignore[valid-type]


@functools.cache
def _decoder(model: Hashable) -> _Decoder:
    return msgspec.json.Decoder(cast("type[Any]", model))


_set_field = msgspec.structs.force_setattr
_MEMBERS = _decoder(dict[str, msgspec.Raw])
_ITEMS = _decoder(list[msgspec.Raw])
_CONTAINERS = frozenset({dict, list})
_STRICT = frozenset({"id", "run_id", "task_id", "task_ids", "token", "handle", "domain_handle", "status"})
_RAW_PAGE = _page_decoder(msgspec.Raw)
_RAW_OBJECT = _decoder(_ObjectEnvelope[msgspec.Raw])
_FIELDS = _decoder(RowFields)
_FIELDS_PAGE = _page_decoder(RowFields)


# Whole pages


def decode_rows(listing: Listing[Any], body: bytes, page: int, headers: Mapping[str, str]) -> DecodedPage:
    """Decode a page into rows of the listing's model; a row that does not fit becomes a `RejectedRow`.

    Raises:
        DecodeError: the body is not a listing.
    """
    if not listing.identity:
        return _decode_custom(listing, body, page, headers)
    envelope = _decode_typed(listing, body)
    if envelope is None:
        return _decode_row_by_row(listing, body, page, headers)
    rows = _rows_of(envelope, page)
    keys = list(map(attrgetter(listing.identity[0]), rows))
    if None in keys or "" in keys:
        return _decode_row_by_row(listing, body, page, headers)
    if listing.run_id is not None and not {listing.run_id, None}.issuperset(map(attrgetter("run_id"), rows)):
        return _decode_row_by_row(listing, body, page, headers)
    if listing.model is Task:
        if _may_nest(rows) and _have_deep_fields(rows):
            return _decode_row_by_row(listing, body, page, headers)
        for row in rows:  # the same as `detach_from_body`, in two thirds of the time
            _set_field(row, "output_json", row.output_json.copy())
    return DecodedPage(
        keys,
        _count_of(envelope),
        [row.created_at for row in rows] if listing.tied else (),
        len(body),
        rows=rows,
        headers=headers,
        status_code=envelope.status_code,
        message=envelope.message,
    )


def decode_unless_known(
    are_known: Callable[[Sequence[str]], bool],
    decode: Decode,
    listing: Listing[Any],
    body: bytes,
    page: int,
    headers: Mapping[str, str],
) -> DecodedPage:
    """Decode a page with `decode`, unless its rows are all known: then return only their keys and the count.

    This takes 153 instead of 345 us for 100 tasks of 3.8 kB. Raises what `decode` raises.
    """
    if listing.tied:  # the walk needs the time of each row
        return decode(listing, body, page, headers)
    try:
        envelope = _FIELDS_PAGE.decode(body)
        keys = list(map(attrgetter(listing.identity[0]), _rows_of(envelope, page)))
    except (*_UNREADABLE, DecodeError):
        return decode(listing, body, page, headers)
    if set(map(type, keys)) != {str} or not are_known(keys):
        return decode(listing, body, page, headers)
    return DecodedPage(
        keys,
        _count_of(envelope),
        body_size=len(body),
        rows=(),
        headers=headers,
        status_code=envelope.status_code,
        message=envelope.message,
    )


def decode_raw(listing: Listing[Any], body: bytes, page: int, headers: Mapping[str, str]) -> DecodedPage:
    """Decode a page into the exact bytes of each row. Rows of any type are accepted.

    Raises:
        DecodeError: the body is not a listing.
    """

    if not listing.identity:
        return _decode_custom(listing, body, page, headers, lambda raw, index: raw)

    def rows_of(_: bytes, raws: Sequence[msgspec.Raw], fields: Sequence[RowFields]) -> list[Any]:
        return [bytes(raw) if listing.keeps(row) else None for raw, row in zip(raws, fields, strict=True)]

    return decode_with(listing, body, page, headers, _fields_of_each, rows_of)


def decode_lines(listing: Listing[Any], body: bytes, page: int, headers: Mapping[str, str]) -> DecodedPage:
    """Decode a page into the JSON bytes of each row, with null in place of user tokens.

    As in an export, a row that is not an object, not UTF-8 or nested too deeply becomes a `RejectedRow`.

    Raises:
        DecodeError: the body is not a listing.
    """

    if not listing.identity:
        return _decode_custom(listing, body, page, headers, _line_of)

    def rows_of(_: bytes, raws: Sequence[msgspec.Raw], fields: Sequence[RowFields]) -> list[Any]:
        rows = enumerate(zip(raws, fields, strict=True))
        return [_line_of(bytes(raw), index) if listing.keeps(row) else None for index, (raw, row) in rows]

    return decode_with(listing, body, page, headers, _fields_of_each, rows_of)


def _line_of(row: bytes, index: int) -> bytes | RejectedRow:
    try:
        row.decode()
    except UnicodeDecodeError as fault:
        return RejectedRow(row, f"$.data[{index}]", _reason(fault))
    if row[:1] != b"{":
        return RejectedRow(row, f"$.data[{index}]", "the row is not a JSON object")
    if is_too_deep(row):
        return RejectedRow(row, f"$.data[{index}]", _TOO_DEEP)
    return replace_user_tokens(row, b"null")


def decode_with(
    listing: Listing[Any],
    body: bytes,
    page: int,
    headers: Mapping[str, str],
    heads_of: Callable[[Sequence[msgspec.Raw]], list[Any]],
    rows_of: Callable[[bytes, Sequence[msgspec.Raw], Sequence[Any]], list[Any]],
) -> DecodedPage:
    """Decode a page into rows that `rows_of` makes.

    Args:
        heads_of: reads the fields of each row that the walk needs, as attributes named as in `RowFields`;
            must not raise.
        rows_of: makes the rows from the body, the bytes of each row, and what `heads_of` returned.

    Raises:
        DecodeError: the body is not a listing.
    """
    envelope, raws, shallow = _decode_envelope(body, page)
    heads = heads_of(shallow)
    keys: list[Any] = list(map(attrgetter(listing.identity[0]), heads))
    if set(map(type, keys)) != {str} or "" in keys:
        keys = [listing.key_of(head) or _digest(raw) for head, raw in zip(heads, raws, strict=True)]
    rows = rows_of(body, raws, heads)
    run = listing.run_id
    if run is not None and [head.run_id for head in heads].count(run) < len(heads):
        for index, head in enumerate(heads):
            if head.run_id != listing.run_id and _is_of_another_run(listing, head):
                rows[index] = _reject_row_of_another_run(listing, raws[index], index)
    return DecodedPage(
        keys,
        _count_of(envelope),
        [head.created_at for head in heads] if listing.tied else (),
        len(body),
        rows=rows,
        headers=headers,
        status_code=envelope.status_code,
        message=envelope.message,
    )


def detach_from_body(rows: Sequence[Any]) -> None:
    """Copy the part of the body that a task refers to.

    Without it, one task in memory keeps its whole page in memory. Other rows keep nothing of the body.
    """
    for row in rows:
        if isinstance(row, Task):
            _set_field(row, "output_json", row.output_json.copy())


def decode_object(model: type[T], body: bytes) -> tuple[T, object]:
    """Decode a response with a single object.

    As in a row, a field other than an id or status may have another type; it is then None.

    Returns:
        The `data` of the body, and its `status_code` as sent.

    Raises:
        DecodeError: the body is not such a response.
    """
    try:
        body.decode()
        if is_too_deep(body, MAX_DEPTH + 1):
            reason = _TOO_DEEP
        else:
            envelope = _decode_data(model, body)
            return envelope.data, envelope.status_code
    except _UNREADABLE as fault:
        reason = _reason(fault)
    raise DecodeError(f"the response is not the expected JSON: {reason}")


def check_model(model: Any) -> None:
    """Check that JSON can be decoded into a type.

    Raises:
        InvalidArgument: it cannot.
    """
    try:
        _decoder(cast("Hashable", model))
    except (TypeError, NameError, AttributeError) as fault:
        reason = shorten(str(fault), 200)
    else:
        return
    raise InvalidArgument(f"model cannot be decoded from JSON: {reason}", argument="model")


def decode_any(body: bytes, model: Any = None) -> Any:
    """Decode a body without a model, or its `data` (the whole body if it has none) into a model.

    Raises:
        DecodeError: the body is not JSON, or does not fit the model.
    """
    problem = "is not JSON"
    try:
        body.decode()
        if model is None:
            return msgspec.json.decode(body)
        problem = "does not fit the model"
        return _decode_into(model, _data_of(body))
    except _UNREADABLE as fault:
        reason = _reason_for(model, fault)
    raise DecodeError(f"the response {problem}: {reason}")


def _data_of(body: bytes) -> msgspec.Raw:
    try:
        members: dict[str, msgspec.Raw] = _MEMBERS.decode(body)
    except msgspec.ValidationError:  # it is not an object
        members = {}
    return members.get("data") or msgspec.Raw(body)


def _decode_into(model: Any, raw: msgspec.Raw) -> Any:
    try:
        return _decoder(cast("Hashable", model)).decode(raw)
    except msgspec.ValidationError:
        if not _is_record(model):
            raise
    return decode_leniently(model, raw, _STRICT)[0]


def _decode_data(model: type[Any], body: bytes) -> _ObjectEnvelope[Any]:
    try:
        return cast(
            "_ObjectEnvelope[Any]",
            _decoder(cast("Hashable", _ObjectEnvelope[model])).decode(body),  # type: ignore[valid-type]
        )
    except msgspec.ValidationError:
        envelope: _ObjectEnvelope[msgspec.Raw] = _RAW_OBJECT.decode(body)
    data, _ = decode_leniently(model, envelope.data, _STRICT)
    return _ObjectEnvelope(data, envelope.status_code)


def check_utf8(body: bytes) -> None:
    """Check that `body` is valid UTF-8.

    The body is decoded in small chunks. A chunk of ASCII is the fastest. As one string, a page of 100 rows
    takes three times as long: the string is large, and all its characters take the width of the widest one.

    Raises:
        UnicodeDecodeError: it is not.
    """
    view, end = memoryview(body), 0
    while end < len(view):
        start, end = end, end + _CHUNK_BYTES
        end = start + codecs.utf_8_decode(view[start:end], "strict", end >= len(view))[1]


def _decode_typed(listing: Listing[Any], body: bytes) -> Any:
    """Return the envelope with rows of the listing's model, or None if anything in the body does not fit.

    It does not raise: a UnicodeDecodeError keeps the body in memory, and so does an exception raised while
    it is handled.
    """
    try:
        # msgspec does not check the encoding inside a field that it keeps as bytes.
        check_utf8(body)
        return _page_decoder(cast("Hashable", listing.model)).decode(body)
    except _UNREADABLE:
        return None


def _decode_row_by_row(
    listing: Listing[Any], body: bytes, page: int, headers: Mapping[str, str]
) -> DecodedPage:
    """Decode a page in which a row does not fit the model, has no key, or belongs to another run."""
    envelope, raws, shallow = _decode_envelope(body, page)
    rows: list[Any] = []
    keys: list[str] = []
    drift: list[str] = []
    for index, (raw, cut) in enumerate(zip(raws, shallow, strict=True)):
        row = _decode_row(listing, raw, cut, index, drift)
        fields = _fields_of(cut) if isinstance(row, RejectedRow) else row
        keys.append(listing.key_of(fields) or _digest(raw))
        is_foreign = not isinstance(row, RejectedRow) and _is_of_another_run(listing, row)
        rows.append(_reject_row_of_another_run(listing, raw, index) if is_foreign else row)
    detach_from_body(rows)
    return DecodedPage(
        keys,
        _count_of(envelope),
        [getattr(row, "created_at", None) for row in rows] if listing.tied else (),
        len(body),
        rows=rows,
        headers=headers,
        status_code=envelope.status_code,
        message=envelope.message,
        drift=drift,
    )


# Custom listings


def _decode_custom(
    listing: Listing[Any],
    body: bytes,
    page: int,
    headers: Mapping[str, str],
    row_of: Callable[[bytes, int], bytes | RejectedRow] | None = None,
) -> DecodedPage:
    """Decode a page of a custom listing, row by row.

    Args:
        row_of: takes the bytes of a row and its index, and returns the row to deliver; by default it is
            decoded into the model of the listing.
    """
    envelope, raws, shallow = _decode_envelope(body, page)
    rows: list[Any] = []
    keys: list[str] = []
    drift: list[str] = []
    undated: list[int] = []
    for index, (raw, cut) in enumerate(zip(raws, shallow, strict=True)):
        row: Any = _decode_row(listing, raw, cut, index, drift)
        if row is None or (cut is not raw and is_too_deep(bytes(raw))):
            reason = "the row is null" if row is None else _TOO_DEEP
            row = RejectedRow(bytes(raw), f"$.data[{index}]", reason)
        is_rejected = isinstance(row, RejectedRow)
        keys.append(_custom_key(listing.key, row, cut, is_rejected=is_rejected) or _anonymous_key(raw))
        if listing.window is not None and not is_rejected and getattr(row, "created_at", None) is None:
            undated.append(index)
        if row_of is not None:
            row = row_of(bytes(raw), index) if is_rejected or listing.keeps(row) else None
        rows.append(row)
    detach_from_body(rows)
    return DecodedPage(
        keys,
        _count_of(envelope),
        body_size=len(body),
        rows=rows,
        headers=headers,
        status_code=envelope.status_code,
        message=envelope.message,
        drift=drift,
        undated=frozenset(undated),
    )


_ANONYMOUS = "\0#"
"""The start of the key of a row that is identified by its bytes. No other key begins with it."""


def _anonymous_key(raw: msgspec.Raw) -> str:
    return f"{_ANONYMOUS}{_digest(raw)}"


def _custom_key(key: RowKey | None, row: Any, raw: msgspec.Raw, *, is_rejected: bool) -> str | None:
    """Return the key of a row as a string that differs if the keys differ, or None if it has none."""
    if key is None:
        return None
    if isinstance(key, str):
        try:
            value: Any = _decoder(_key_struct(key)).decode(raw).key
        except _UNREADABLE:
            return None
    elif is_rejected:
        return None
    else:
        value = key(row)
    if isinstance(value, str):
        text = str.__str__(value)
        return f"\0s{text}" if text.startswith("\0") else text or None
    if value is None or (isinstance(key, str) and type(value) is not int):
        return None
    return f"\0k{_key_text(value)}"


def _key_text(value: object) -> str:
    """Return a text for the key of a row: different ones for different keys."""
    if isinstance(value, str):
        return f"s{len(value)}:{str.__str__(value)}"
    if value is None:
        return "n"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"i{int.__index__(value):x};"  # Python limits the length of decimal numbers
    if isinstance(value, tuple):
        return f"({''.join(map(_key_text, cast('tuple[object, ...]', value)))})"
    raise InvalidArgument(
        f"key must return a str, an int, a tuple of them, or None, not {type(value).__name__}",
        argument="key",
    )


@functools.cache
def _key_struct(name: str) -> Hashable:
    """Return a struct with the value of one key of a JSON object as `key`."""
    return msgspec.defstruct("RowKeyField", [("key", Any, msgspec.field(name=name, default=None))])


def number_equal_rows(page: DecodedPage) -> DecodedPage:
    """Return the page with different keys for equal rows that have no key: they are rows of their own."""
    seen: Counter[str] = Counter()
    keys = list(page.keys)
    for index, key in enumerate(keys):
        if key.startswith(_ANONYMOUS):
            seen[key] += 1
            if seen[key] > 1:
                keys[index] = f"{key}/{seen[key]}"
    return msgspec.structs.replace(page, keys=keys)


def _decode_envelope(body: bytes, page: int) -> tuple[Any, list[msgspec.Raw], list[msgspec.Raw]]:
    """Return the envelope, the bytes of each row, and the bytes of each row that msgspec can decode.

    The two lists of rows differ only if a row is nested too deeply for the interpreter. In the second list,
    the arrays and objects of such a row are empty below `MAX_DEPTH`, so it still has one level too many.
    """
    try:
        envelope = _RAW_PAGE.decode(body)
    except RecursionError:
        reason = _TOO_DEEP
    except _UNREADABLE as fault:
        reason = _reason(fault)
    else:
        rows = _rows_of(envelope, page)
        return envelope, rows, rows
    if reason is _TOO_DEEP:
        try:
            envelope = _RAW_PAGE.decode(cut_at_depth(body, _ROW_LEVEL + MAX_DEPTH + 1))
        except _UNREADABLE as fault:
            reason = _reason(fault)
        else:
            shallow, raws = _rows_of(envelope, page), _locate_rows(body)
            if len(raws) == len(shallow):
                return envelope, raws, shallow
    raise DecodeError(f"the response is not a JSON listing: {reason}")


def _locate_rows(body: bytes) -> list[msgspec.Raw]:
    """Return the bytes of each row of a page, however deeply nested."""
    # If a key is repeated, its last value counts.
    at = [(start, end) for key, start, end in object_members(body) if key == "data"][-1]
    return [msgspec.Raw(body[start:end]) for start, end in array_items(body, *at)]


def _rows_of(envelope: Any, page: int) -> list[Any]:
    data: list[Any] | msgspec.UnsetType | None = envelope.data
    if data is msgspec.UNSET:
        raise DecodeError("the response is JSON without `data`")
    if data is not None:
        return data
    if page > 1 or envelope.count in (0, None):
        return []
    raise DecodeError(f"the response has null as its `data` although its `count` is {envelope.count!r:.40}")


def _count_of(envelope: Any) -> int | None:
    count = envelope.count
    return count if type(count) is int and count >= 0 else None


# Single rows


def _decode_row(
    listing: Listing[Any], raw: msgspec.Raw, shallow: msgspec.Raw, index: int, drift: list[str]
) -> Any:
    """Decode one row into the listing's model, or return a `RejectedRow`.

    Args:
        raw: the row.
        shallow: the row as `_decode_envelope` returns it for decoding.
        drift: receives the names of fields whose values do not have the type of the model.
    """
    path = ""
    try:
        bytes(raw).decode()
        row, fields = _decode_any(listing, shallow)
        deep = _deep_field(row) if isinstance(row, Task) else None
        if deep is None:
            if shallow is not raw and isinstance(row, Task):
                _set_output(row, bytes(raw))
            drift += fields
            return row
        reason, path = _TOO_DEEP, f".{deep}"
    except _UNREADABLE as fault:
        reason, _, path = _reason_for(listing.model, fault).partition(" - at `$")
    return RejectedRow(bytes(raw), f"$.data[{index}]{path.rstrip('`')}", reason)


def _decode_any(listing: Listing[Any], raw: msgspec.Raw) -> tuple[Any, list[str]]:
    try:
        return _decoder(cast("Hashable", listing.model)).decode(raw), []
    except msgspec.ValidationError:
        # The types of a model of the user are what its code relies on.
        if not _is_record(listing.model):
            raise
    return decode_leniently(listing.model, raw, listing.strict_fields)


def _is_record(model: object) -> bool:
    """Return whether a model is one of this package."""
    return isinstance(model, type) and issubclass(model, Record)


def _set_output(row: Task, raw: bytes) -> None:
    """Give a task the output in `raw`, which the interpreter cannot decode."""
    for key, start, end in object_members(raw):
        if key == "output":
            _set_field(row, "output_json", msgspec.Raw(raw[start:end]))


@functools.cache
def _fields_of_model(model: Hashable) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a struct. msgspec evaluates their annotations each time, which takes 0.5 ms."""
    return msgspec.structs.fields(cast("type[Any]", model))


def decode_leniently(model: type[Any], raw: msgspec.Raw, strict: frozenset[str]) -> tuple[Any, list[str]]:
    """Decode an object. Fields whose values do not have the type of the model become None.

    Args:
        strict: fields that must have their type.

    Returns:
        The struct, and the names of the fields with another type ("user_info.id").

    Raises:
        msgspec.ValidationError: it is not an object, or a strict field has another type.
    """
    members: dict[str, msgspec.Raw] = _MEMBERS.decode(raw)
    values: dict[str, Any] = {}
    drift: list[str] = []
    for field in _fields_of_model(cast("Hashable", model)):
        value = members.get(field.encode_name)
        if value is None:
            continue
        try:
            values[field.name] = _decoder(cast("Hashable", field.type)).decode(value)
        except msgspec.ValidationError as fault:
            if field.name in strict:
                reason, _, path = str(fault).partition(" - at `$")
                location = f"$.{field.encode_name}{path.rstrip('`')}"
                raise msgspec.ValidationError(f"{reason} - at `{location}`") from None
            values[field.name], inner = _decode_part(field.type, value)
            drift += [f"{field.encode_name}.{name}" for name in inner] or [field.encode_name]
    return model(**values), drift


def _decode_part(kind: Any, raw: msgspec.Raw) -> tuple[Any, list[str]]:
    """Decode a value that does not have the type of the model: objects and lists of objects, in part."""
    for struct in get_args(kind):
        is_list = get_origin(struct) is list
        model = get_args(struct)[0] if is_list else struct
        if not (isinstance(model, type) and issubclass(model, msgspec.Struct)):
            continue
        try:
            if not is_list:
                return decode_leniently(model, raw, frozenset())
            items = [decode_leniently(model, item, frozenset()) for item in _ITEMS.decode(raw)]
        except msgspec.ValidationError:
            return None, []
        return [item for item, _ in items], sorted({name for _, inner in items for name in inner})
    return None, []


def _may_nest(tasks: Sequence[Any]) -> bool:
    """Return whether a field of a task, other than its output, may hold lists or dicts (0.06 µs per row)."""
    for task in tasks:
        # Until Python 3.13, the garbage collector does not track a dict that contains none.
        if is_tracked(task.input) or is_tracked(task.task) or task.attachments:
            return True
        if (info := task.user_info) and is_tracked(info.location):
            return True
    return False


def _have_deep_fields(tasks: Sequence[Any]) -> bool:
    """Return whether a field of a task, other than its output, may be nested too deeply (0.4 µs per row).

    The task and the field are two levels. A location has three, so the limit may be one too low.
    """
    locations = [info.location for task in tasks if (info := task.user_info) is not None]
    fields = [*[task.input for task in tasks], *[task.task for task in tasks], *locations]
    nested = [one for data in fields if data for one in data.values() if type(one) in _CONTAINERS]
    nested += [task.attachments for task in tasks if task.attachments]
    return any(is_value_too_deep(one, MAX_DEPTH - 3) for one in nested)


def _deep_field(task: Task) -> str | None:
    """Return the name of a field of a task, other than its output, that is nested too deeply, or None."""
    for name, value in (("input", task.input), ("task", task.task), ("attachments", task.attachments)):
        if is_value_too_deep(value, MAX_DEPTH - 1):
            return name
    info = task.user_info
    if info is not None and is_value_too_deep(info.location, MAX_DEPTH - 2):
        return "user_info.location"
    return None


def _fields_of(raw: msgspec.Raw) -> RowFields:
    try:
        fields: RowFields = _FIELDS.decode(raw)
    except _UNREADABLE:
        return RowFields()
    return fields


def _fields_of_each(raws: Sequence[msgspec.Raw]) -> list[RowFields]:
    return list(map(_fields_of, raws))


def _is_of_another_run(listing: Listing[Any], row: Any) -> bool:
    """Whether the row names a run other than the one that is listed."""
    # A run id of a raw row can have any type; only a string names a run.
    return listing.run_id is not None and isinstance(row.run_id, str) and row.run_id != listing.run_id


def _reject_row_of_another_run(listing: Listing[Any], raw: msgspec.Raw, index: int) -> RejectedRow:
    return RejectedRow(
        bytes(raw), f"$.data[{index}].run_id", f"the row belongs to a run other than {listing.run_id}"
    )


def _digest(raw: msgspec.Raw) -> str:
    """Return a key for a row without an id."""
    return "#" + hashlib.blake2b(raw, digest_size=16).hexdigest()


def _reason(fault: Exception) -> str:
    """Return a description of a decoding error; msgspec's names types and locations, never data."""
    if isinstance(fault, UnicodeDecodeError):
        return "invalid UTF-8"
    if isinstance(fault, RecursionError):
        return _TOO_DEEP
    return str(fault)


def _reason_for(model: Any, fault: Exception) -> str:
    """Return a description of a decoding error, without data, which the errors of a user's model contain."""
    reason = _reason(fault)
    if _is_record(model) or not isinstance(fault, msgspec.ValidationError) or _SAFE_REASON.match(reason):
        return reason
    _, separator, path = reason.rpartition(" - at `$")
    return _NOT_ACCEPTED + separator + path if separator else _NOT_ACCEPTED


# Large pages, in slices
#
# msgspec holds the interpreter lock while it decodes, so decoding in a thread would block the event loop too.
# Locating the rows first takes 5 us per row of 4 kB, decoding them 12 us; so only large pages are sliced.


def scan_page(body: bytes, page: int, headers: Mapping[str, str]) -> ScannedPage:
    """Locate the rows of a page without decoding them.

    Raises:
        DecodeError: the body is not a listing.
    """
    envelope, raws, _ = _decode_envelope(body, page)
    return ScannedPage(raws, _count_of(envelope), len(body), headers, envelope.status_code, envelope.message)


async def decode_in_slices(
    scanned: ScannedPage, listing: Listing[Any], page: int, decode: Decode
) -> DecodedPage:
    """Decode a page slice by slice with `decode`, with one turn of the event loop before each slice.

    Returns:
        The same as `decode` returns for the whole body.
    """
    rows: list[Any] = []
    keys: list[str] = []
    created: list[datetime | None] = []
    drift: list[str] = []
    undated: list[int] = []
    for body in _slices(scanned.raws):
        await asyncio.sleep(0)
        first = len(keys)
        part = decode(listing, body, page, scanned.headers)
        rows += [_shift_index(row, first) if type(row) is RejectedRow else row for row in part.rows]
        keys += part.keys
        created += part.created
        drift += part.drift
        undated += [first + index for index in part.undated]
    return DecodedPage(
        keys,
        scanned.count,
        created,
        scanned.body_size,
        rows=rows,
        headers=scanned.headers,
        status_code=scanned.status_code,
        message=scanned.message,
        drift=drift,
        undated=frozenset(undated),
    )


def _slices(raws: Sequence[msgspec.Raw]) -> Iterator[bytes]:
    """Yield bodies of about `SLICE_BYTES` that together contain all rows."""
    start = length = 0
    for end, raw in enumerate(raws, 1):
        length += len(raw)
        if length >= SLICE_BYTES or end == len(raws):
            yield b'{"data":[%b]}' % b",".join(raws[start:end])
            start, length = end, 0


def _shift_index(row: RejectedRow, by: int) -> RejectedRow:
    """Return the row with its position in the whole page instead of that in its slice."""
    return row._replace(path=_INDEX.sub(lambda match: str(int(match[0]) + by), row.path))
