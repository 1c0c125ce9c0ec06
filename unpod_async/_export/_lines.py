"""A row's bytes, as the server sent them, into one line of a file. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from unpod_async._decode import check_utf8
from unpod_async._export._heads import FullHead, Head, UserInfo
from unpod_async._export._scan import members

__all__ = ["NoRow", "line_of", "lines_of"]

_Span: TypeAlias = tuple[int, int]


class NoRow(Exception):
    """What came in place of a row is no row. `reason` says why and holds no data of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Head(msgspec.Struct, gc=False):
    user_info: UserInfo | None = None


_HEAD = msgspec.json.Decoder(_Head)
_ANY_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
# Between tokens only: a line break inside a string is no JSON, and decoding has refused it.
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
# An escape that stands for an underscore or a small letter, of which the keys are made.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:5[fF]|[67])")
_KEY = b'"user_token":'
_COLON = re.compile(rb'"user_token"[ \t\r\n]*:[ \t\r\n]*')


def line_of(row: bytes, *, keep_user_token: bool) -> bytes:
    r"""`row` as one line, without a line break at its end.

    Byte for byte what came, with two exceptions: line breaks between tokens (\n and \r) are spaces, and the
    value of `user_info.user_token` is null unless `keep_user_token`, whatever its type, however the keys are
    spelled, and at each of their places when they are repeated. A `user_token` elsewhere stays.

    Raises:
        NoRow: it is not a JSON object in UTF-8, or is nested so deeply that it cannot be read.
    """
    told, spans = _check(row)
    if not keep_user_token:
        for start, end in reversed(_tokens(row, told) if spans is None else spans):
            row = b"%bnull%b" % (row[:start], row[end:])
    if b"\n" in row or b"\r" in row:
        row = row.translate(_ONE_LINE)
    return row


def lines_of(
    body: bytes, raws: Sequence[msgspec.Raw], heads: Sequence[Head], *, keep_user_token: bool
) -> list[bytes | NoRow]:
    """`line_of` for each row of a page, or why it is no row. `heads` are what `head_of` read of them.

    What can be is looked at once for the whole page, which takes 9 µs per row of 4 kB instead of 15.
    """
    if b"\n" in body or b"\r" in body or not _is_utf8(body):
        return [_line_or_fault(raw, keep_user_token=keep_user_token) for raw in raws]
    lines: list[bytes | NoRow] = []
    plain = keep_user_token or _is_plain(body, heads)
    for raw, head in zip(raws, heads, strict=True):
        row = bytes(raw)
        if type(head) is not FullHead or not plain:
            lines.append(_line_or_fault(raw, keep_user_token=keep_user_token))
        elif keep_user_token or head.user_info is None or head.user_info.user_token is msgspec.UNSET:
            lines.append(row)
        else:
            # The key stands in the row once, at its path; found with this very value, this is its place.
            token = bytes(head.user_info.user_token)
            start = row.find(_KEY) + len(_KEY)
            if row.startswith(token, start):
                lines.append(b"%bnull%b" % (row[:start], row[start + len(token) :]))
            else:
                lines.append(_line_or_fault(raw, keep_user_token=False))
    return lines


def _is_plain(body: bytes, heads: Sequence[Head]) -> bool:
    """Whether the key of the user's token occurs only where heads have it, each time plainly spelled.

    A head has one of those of its row. So when there are as many in the page as heads that have one, there
    is one in each of these rows, and none in the others.
    """
    told = sum(
        type(head) is FullHead
        and head.user_info is not None
        and head.user_info.user_token is not msgspec.UNSET
        for head in heads
    )
    return body.count(b"user_token") == told and _ESCAPED_LETTER.search(body) is None


def _is_utf8(body: bytes) -> bool:
    try:
        if not body.isascii():
            check_utf8(body)
    except UnicodeDecodeError:
        return False
    return True


def _line_or_fault(raw: msgspec.Raw, *, keep_user_token: bool) -> bytes | NoRow:
    try:
        return line_of(bytes(raw), keep_user_token=keep_user_token)
    except NoRow as fault:
        return fault.with_traceback(None)  # whose frames hold the row


def _check(row: bytes) -> tuple[_Head, list[_Span] | None]:
    """The head of the row, and where its user tokens are when looking closely was needed to read it."""
    reason = ""
    try:
        if not row.isascii():
            # In what is skipped msgspec does not look at the encoding.
            row.decode()
        return _HEAD.decode(row), None
    except msgspec.ValidationError:
        pass  # `user_info` has another type, or the row has
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        reason = _reason(fault)
    if not reason:
        try:
            _ANY_OBJECT.decode(row)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            reason = _reason(fault)
    # Outside the handlers: the exception of the encoding holds the row.
    if reason:
        raise NoRow(reason)
    return _Head(), _search(row)


def _reason(fault: Exception) -> str:
    if isinstance(fault, RecursionError):
        return "the row is nested too deeply"
    if isinstance(fault, UnicodeDecodeError):
        return "the row is not UTF-8"
    if isinstance(fault, msgspec.ValidationError):
        return "the row is not a JSON object"
    return "the row is not JSON"


def _tokens(row: bytes, told: _Head) -> list[_Span]:
    """Where the user tokens are: at once where the key occurs once and plainly spelled; else by looking.

    For a row of 4 kB `line_of` takes about 20 µs as a whole, and 330 µs where it has to look.
    """
    plain = row.count(b"user_token")
    if _ESCAPED_LETTER.search(row) is None:
        if plain == 0:
            return []
        token = told.user_info.user_token if told.user_info is not None else msgspec.UNSET
        if token is not msgspec.UNSET and plain == 1:
            # Written once and found at its path, so this is the place.
            found = _COLON.search(row)
            if found is not None:
                return [(found.end(), found.end() + len(bytes(token)))]
    return _search(row)


def _search(row: bytes) -> list[_Span]:
    return [
        (start, end)
        for key, opens, closes in members(row)
        if key == "user_info" and row[opens] == b"{"[0]
        for inner, start, end in members(row, opens, closes)
        if inner == "user_token"
    ]
