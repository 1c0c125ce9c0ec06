"""Find the access tokens of users in rows, at any depth and in any spelling of their keys.

This module alone says what the name of a user token is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

import msgspec

from unpod_async._common.json_text import MAX_DEPTH, STRING, end_of_value, string_value

__all__ = ["RowSearch", "replace_user_tokens", "search_rows"]


_FIRST, _SEPARATORS, _LAST = "user", "_-. ", "token"
"""The parts of the name: user_token, userToken, User-Token and so on."""


def _written(character: str) -> str:
    """Return a pattern for a character of a key: in any case, plain or escaped, including inside a string."""
    codes = "|".join(sorted({f"(?i:{ord(one):02x})" for one in (character, character.upper())}))
    return rf"(?:[{re.escape(character)}{character.upper()}]|\\+u00(?:{codes}))"


_NAME = (
    "".join(map(_written, _FIRST))
    + f"(?:{'|'.join(map(_written, _SEPARATORS))})?"
    + "".join(map(_written, _LAST))
).encode()
_WITHOUT_SEPARATOR = f"{_FIRST}{_LAST}".encode()
_KEY = re.compile(rb'"%b"[ \t\r\n]*+:' % _NAME)
# An escape for a character of a name, or for a quote or a backslash of JSON inside a string.
_ESCAPE = re.compile(rb"\\u00(?:[4-7]|2[02dDeE])")
_BEFORE_OKEN = len(b"user_t")
_SPACE = b" \t\r\n"


class RowSearch(NamedTuple):
    """What one search found in several rows.

    Attributes:
        has_many_levels: One of the rows may be nested deeper than `MAX_DEPTH` levels.
        max_names: An upper bound of the number of names of user tokens, in any spelling, in keys, in JSON
            inside strings, and in other text. Infinity if a name may be escaped.
    """

    has_many_levels: bool
    max_names: float


def search_rows(rows: Iterable[bytes]) -> RowSearch:
    """Search rows for the names of user tokens, and for deep nesting, all rows at once."""
    # Letters K, O, E and N become lower case for the search for names; `lower` takes three times as many
    # instructions. The first `MAX_DEPTH` opening brackets of each row are replaced, so a `{` is left only if
    # a row has more of them.
    text = b" ".join([
        row
        .replace(b"[", b"{")
        .replace(b"{", b"x", MAX_DEPTH)
        .replace(b"O", b"o")
        .replace(b"E", b"e")
        .replace(b"N", b"n")
        for row in rows
    ])
    if text.find(b"K") >= 0:
        text = text.replace(b"K", b"k")
    return RowSearch(text.find(b"{") >= 0, _max_names(text))


def _max_names(text: bytes) -> float:
    if text.find(b"\\u00") >= 0 and _ESCAPE.search(text) is not None:
        return inf
    starts = [before[-_BEFORE_OKEN:] for before in text.split(b"oken")]
    names = b"oken".join(starts).lower().translate(None, _SEPARATORS.encode())
    return names.count(_WITHOUT_SEPARATOR)


def replace_user_tokens(row: bytes, replacement: bytes) -> bytes:
    """Return a row in which `replacement` (JSON) replaces the user tokens.

    A token is the value of a key `user_token`, whatever the type of the value, at any depth, and also in a
    string that contains JSON. The key may be repeated, escaped, or spelled differently, such as `userToken`.
    null is kept. Never raises: a row need not be valid JSON.
    """
    names = search_rows((row,)).max_names
    if not names:
        return row
    chunks: list[bytes] = []
    at = keys = 0
    for found in _KEY.finditer(row, 0, len(row) if names == inf else _end_of_keys(row)):
        # An escaped quote precedes it if it is the end of a longer key.
        if found.start() < at or row.endswith(b"\\", 0, found.start()):
            continue
        keys += 1
        start = len(row) - len(row[found.end() :].lstrip(_SPACE))
        end = end_of_value(row, start)
        if row[start:end] != b"null":
            chunks += (row[at:start], replacement)
            at = end
    row = b"".join((*chunks, row[at:]))
    if names == keys or b"\\" not in row:
        return row
    return STRING.sub(lambda string: _without_tokens(string[0], replacement), row)


def _end_of_keys(row: bytes) -> int:
    """Return a position after the last name. Searching 4 kB with the pattern takes 20 µs."""
    return row.find(b":", row.lower().rfind(b"token")) + 1 or len(row)


def _without_tokens(string: bytes, replacement: bytes) -> bytes:
    """Return a JSON string without the user tokens of the JSON inside it."""
    # The keys of JSON inside a string have escaped quotes.
    if b"\\" not in string or not search_rows((string,)).max_names:
        return string
    try:
        text = string_value(string).encode()
        inner = replace_user_tokens(text, replacement)
        return string if inner == text else msgspec.json.encode(inner.decode())
    except (msgspec.DecodeError, UnicodeError):
        return replacement
