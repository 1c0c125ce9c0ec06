"""The strings of a decoded row.

This is more than twice as fast as `json_strings`. It is for rows that decoding and encoding does not change:
no repeated keys, no numbers or escapes in another notation, no spaces between values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from unpod_async._export.redaction.json_strings import (
    SERVER_KEYS,
    Context,
    JsonString,
    context_of,
    key_meaning,
    read_inside,
)
from unpod_async._export.redaction.patterns import KeyKind, is_long_number

__all__ = ["DecodedRow", "Place", "decode_row"]

_BRACKETS = ("", "{", "[")
"""What an empty string and strings that may be JSON begin with."""
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
# `type`, typed: type checkers know nothing about the type of a decoded value.
_type_of: Callable[[object], object] = type


Place: TypeAlias = tuple[str, Context, Any, Any]
"""A string or number as text, its context, the dict or list that contains it, and its key there."""


class _UnusualRow(Exception):
    """Only `json_strings` can read this row."""


class DecodedRow:
    """A row as objects, and its strings without the columns that the service fills in.

    Technical strings of letters only are left out, because they contain no contact data.

    Attributes:
        contacts: The strings that are contact data by their key, in the order of the row, also those inside
            strings that are JSON.
        contact_places: The places of `contacts` outside of strings that are JSON.
        texts: The places of free texts and references.
        technical: The places of technical strings.
        documents: The strings that are JSON, and their places.
        keys: The keys that are not identifiers.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        self._row = row
        self.contacts: list[JsonString] = []
        self.contact_places: list[Place] = []
        self.texts: list[Place] = []
        self.technical: list[Place] = []
        self.documents: list[tuple[JsonString, Place]] = []
        self.keys: list[str] = []
        self._read_object(row, "", "text", False, SERVER_KEYS)

    def encode(self) -> bytes:
        """Return the row as JSON."""
        return _encode(self._row)

    def _read_object(
        self,
        values: dict[str, Any],
        outer: str,
        outer_kind: KeyKind,
        outer_is_contact: bool,
        server_keys: frozenset[str] = frozenset(),
    ) -> None:
        for key, value in values.items():
            kind, is_contact, context, is_plain = key_meaning(key, outer, outer_kind, outer_is_contact)
            if not is_plain:
                self.keys.append(key)
            value_type = _type_of(value)
            if key in server_keys and value_type is not dict:
                if value_type is list:
                    raise _UnusualRow
            elif value_type is str:
                if context != "technical" or value[:1] in _BRACKETS:
                    self._read_string(value, kind, context, values, key)
                elif not value.isalpha():
                    self.technical.append((value, context, values, key))
            elif value_type is dict:
                self._read_object(value, key, kind, is_contact)
            elif value_type is list:
                self._read_list(value, key, kind, is_contact)
            elif value_type is int or value_type is float:
                self._read_number(value, kind, is_contact, values, key)

    def _read_list(self, values: list[Any], key: str, kind: KeyKind, is_contact: bool) -> None:
        context = context_of(kind, is_contact=is_contact)
        for index, value in enumerate(values):
            value_type = _type_of(value)
            if value_type is dict:
                self._read_object(value, key, kind, is_contact)
            elif value_type is str:
                self._read_string(value, kind, context, values, index)
            elif value_type is list:
                self._read_list(value, key, kind, is_contact)
            elif value_type is int or value_type is float:
                self._read_number(value, kind, is_contact, values, index)

    def _read_string(self, text: str, kind: KeyKind, context: Context, container: Any, key: Any) -> None:
        if not text:
            return
        if text[0] in _BRACKETS:
            string = JsonString(0, 0, text, context, kind)
            read_inside(string)
            context = string.context
            if string.inside is not None:
                self.contacts += string.inside.contacts()
                self.documents.append((string, (text, context, container, key)))
                return
        if context == "contact":
            self._add_contact(text, kind, container, key)
        elif context == "technical":
            self.technical.append((text, context, container, key))
        else:
            self.texts.append((text, context, container, key))

    def _read_number(self, number: float, kind: KeyKind, is_contact: bool, container: Any, key: Any) -> None:
        digits = _encode(number)
        if is_contact or (kind != "measure" and is_long_number(digits)):
            self._add_contact(digits.decode(), kind, container, key)

    def _add_contact(self, text: str, kind: KeyKind, container: Any, key: Any) -> None:
        self.contacts.append(JsonString(0, 0, text, "contact", kind))
        self.contact_places.append((text, "contact", container, key))


def decode_row(line: bytes) -> DecodedRow | None:
    """Return a row as objects; None if the row would not be encoded in the same way."""
    try:
        row = _decode_object(line)
        if _encode(row) == line:
            return DecodedRow(row)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, _UnusualRow):
        pass
    return None
