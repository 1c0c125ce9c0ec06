"""The strings of a decoded row.

This is several times as fast as `json_strings`. It is for rows that decoding and encoding does not change:
no repeated keys, no numbers or escapes in another notation, no spaces between values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from unpod_async._common import is_too_deep
from unpod_async._export.redaction.json_strings import (
    SERVER_KEYS,
    SPECIAL_KEYS,
    Context,
    JsonString,
    context_of,
    key_meaning,
    read_inside,
)
from unpod_async._export.redaction.messages import Messages, split_row
from unpod_async._export.redaction.patterns import KeyKind, is_long_number

__all__ = ["Contact", "DecodedStrings", "Document", "Place", "decode_row", "decode_row_of_call"]

_BRACKETS = ("{", "[")
"""What strings that may be JSON begin with."""
_LONG = 10**7
"""The smallest number that may be contact data without a key that says so."""
_MAX_KEYS = 4096
"""Keys that are remembered per scope."""
_decode = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
_encode_row = msgspec.json.Encoder(enc_hook=Messages.encode).encode
# `type`, typed: type checkers know nothing about the type of a decoded value.
_type_of: Callable[[object], object] = type


class Document(NamedTuple):
    """A string that is JSON.

    Attributes:
        container, key: The dict or list that contains the string, and its key there.
    """

    text: str
    context: Context
    kind: KeyKind
    container: Any
    key: Any

    def read(self) -> JsonString:
        """Return the string with the strings inside it."""
        string = JsonString(0, 0, self.text, self.context, self.kind)
        read_inside(string)
        return string


Place: TypeAlias = tuple[str, Context, Any, Any]
"""A string, its context, the dict or list that contains it, and its key there. For a string inside a string
that is JSON, its `Document` and None."""
Contact: TypeAlias = tuple[str, KeyKind, Any, Any]
"""A string or number as text, the kind of its key, the dict or list that contains it, and its key there. For
one inside a string that is JSON, None and None."""


class _UnusualRow(Exception):
    """Only `json_strings` can read this row."""


# -- what keys say ------------------------------------------------------------------------------------------


class _Meaning:
    """What a key says about its value; see `KeyMeaning`.

    Attributes:
        scope: The scope of the keys of an object under the key.
    """

    __slots__ = ("is_contact", "is_plain", "kind", "scope")

    def __init__(self, kind: KeyKind, scope: _Scope, *, is_contact: bool, is_plain: bool) -> None:
        self.kind: KeyKind = kind
        self.scope = scope
        self.is_contact = is_contact
        self.is_plain = is_plain


class _Scope(dict[str, tuple[Context | None, _Meaning]]):
    """The meanings of the keys of objects that have the same meaning themselves, computed on first use.

    The context is None for a column that the service fills in.
    """

    def __init__(
        self, outer: str, kind: KeyKind, *, is_contact: bool, server_keys: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self._outer = outer, kind, is_contact
        self._server_keys = server_keys

    def __missing__(self, key: str) -> tuple[Context | None, _Meaning]:
        kind, is_contact, context, is_plain = key_meaning(key, *self._outer)
        scope = _scope_under(key, kind, is_contact=is_contact)
        meaning = (
            None if key in self._server_keys else context,
            _Meaning(kind, scope, is_contact=is_contact, is_plain=is_plain),
        )
        if len(self) < _MAX_KEYS:
            self[key] = meaning
        return meaning


def _scope_under(key: str, kind: KeyKind, *, is_contact: bool) -> _Scope:
    """Return the scope of the keys of an object under a key."""
    outer_kind: KeyKind = "location" if kind == "location" else "text"
    return _scope(key if key in SPECIAL_KEYS else "", outer_kind, is_contact)


@functools.cache
def _scope(outer: str, kind: KeyKind, is_contact: bool) -> _Scope:
    return _Scope(outer, kind, is_contact=is_contact)


_ROW: Final = _Scope("", "text", is_contact=False, server_keys=SERVER_KEYS)


# -- the strings --------------------------------------------------------------------------------------------


class DecodedStrings:
    """A row as objects, and its strings without the columns that the service fills in.

    Technical strings of letters only are left out, because they contain no contact data.

    Attributes:
        contacts: The strings that are contact data by their key, in the order of the row, and numbers.
        texts: The places of free texts and references.
        technical: The places of technical strings.
        documents: The strings that are JSON and contain contact data.
        keys: The keys that are not identifiers.
        messages: The messages of the call, if they were read apart. Their strings are not in the others.
    """

    __slots__ = ("_in_document", "_value", "contacts", "documents", "keys", "messages", "technical", "texts")

    def __init__(self, value: Any, *, in_document: bool = False) -> None:
        self._value = value
        self._in_document = in_document
        self.contacts: list[Contact] = []
        self.texts: list[Place] = []
        self.technical: list[Place] = []
        self.documents: list[Document] = []
        self.keys: list[str] = []
        self.messages: Messages | None = None

    def encode(self) -> bytes:
        """Return the row as JSON."""
        return _encode_row(self._value)

    def add_messages(self, key: str, messages: Messages) -> bool:
        """Add the messages that the row was read without. Return False if they were not in the output."""
        output = self._value["output"]
        if output.get(key) != []:
            return False
        output[key] = self.messages = messages
        return True

    def read_object(self, values: dict[str, Any], scope: _Scope) -> None:
        for key, value in values.items():
            context, meaning = scope[key]
            value_type = _type_of(value)
            if value_type is str:
                if not value or context is None:
                    pass
                elif value[0] in _BRACKETS:
                    self._read_document(value, meaning.kind, context, values, key)
                elif context == "text" or context == "reference":
                    self.texts.append((value, context, values, key))
                elif context == "contact":
                    self.contacts.append((value, meaning.kind, values, key))
                elif not value.isalpha():
                    self.technical.append((value, context, values, key))
            elif value_type is dict:
                self.read_object(value, meaning.scope)
            elif value_type is list:
                if context is None:
                    raise _UnusualRow
                if value:
                    self.read_list(value, meaning.kind, meaning.is_contact, meaning.scope)
            elif (value_type is int or value_type is float) and context is not None:
                self._read_number(value, meaning.kind, meaning.is_contact, values, key)
            if not meaning.is_plain:
                self.keys.append(key)

    def read_list(self, values: list[Any], kind: KeyKind, is_contact: bool, scope: _Scope) -> None:
        context = context_of(kind, is_contact=is_contact)
        for index, value in enumerate(values):
            value_type = _type_of(value)
            if value_type is dict:
                self.read_object(value, scope)
            elif value_type is str:
                if value and value[0] in _BRACKETS:
                    self._read_document(value, kind, context, values, index)
                elif value:
                    self._add(value, kind, context, values, index)
            elif value_type is list:
                self.read_list(value, kind, is_contact, scope)
            elif value_type is int or value_type is float:
                self._read_number(value, kind, is_contact, values, index)

    def _add(self, text: str, kind: KeyKind, context: Context, container: Any, key: Any) -> None:
        if context == "contact":
            self.contacts.append((text, kind, container, key))
        elif context == "technical":
            if not text.isalpha():
                self.technical.append((text, context, container, key))
        else:
            self.texts.append((text, context, container, key))

    def _read_document(self, text: str, kind: KeyKind, context: Context, container: Any, key: Any) -> None:
        """Read a string that may be JSON."""
        document = Document(text, context, kind, container, key)
        if self._in_document:
            self.documents.append(document)
        elif (inside := _strings_inside(document)) is not None:
            self.texts.extend([(text, context, document, None) for text, context, _, _ in inside.texts])
            ids = inside.technical
            self.technical.extend([(text, context, document, None) for text, context, _, _ in ids])
        else:
            string = document.read()
            if string.inside is None:
                self._add(text, kind, string.context, container, key)
            else:
                found = string.inside.contacts()
                self.contacts.extend([(contact.text, contact.kind, None, None) for contact in found])
                self.documents.append(document)

    def _read_number(self, number: float, kind: KeyKind, is_contact: bool, container: Any, key: Any) -> None:
        if is_contact or (number >= _LONG and kind != "measure" and is_long_number(_encode(number))):
            self.contacts.append((_encode(number).decode(), kind, container, key))


def _strings_inside(document: Document) -> DecodedStrings | None:
    """Return the strings inside a string that is JSON; None if only `json_strings` can read it.

    It can read all of them. This is faster for JSON without contact data and without other JSON in it.
    """
    data = document.text.encode()
    if is_too_deep(data):
        return None
    try:
        value = _decode(data)
        compact = _encode(value)
        if data != compact and data != msgspec.json.format(compact, indent=0):
            return None
        strings = DecodedStrings(value, in_document=True)
        kind, is_contact = document.kind, document.context == "contact"
        scope = _scope_under("", kind, is_contact=is_contact)
        if _type_of(value) is dict:
            strings.read_object(value, scope)
        else:
            strings.read_list(value, kind, is_contact, scope)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return None if strings.contacts or strings.documents or strings.keys else strings


def decode_row(line: bytes) -> DecodedStrings | None:
    """Return a row as objects; None if the row would not be encoded in the same way."""
    try:
        row = _decode_object(line)
        if _encode(row) != line:
            return None
        strings = DecodedStrings(row)
        strings.read_object(row, _ROW)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, _UnusualRow):
        return None
    return strings


def decode_row_of_call(line: bytes) -> DecodedStrings | None:
    """Return a row as objects, with its messages read apart; None if it has no messages that can be."""
    split = split_row(line)
    strings = None if split is None else decode_row(split.line)
    if strings is None or split is None or not strings.add_messages(split.key, split.messages):
        return None
    return strings
