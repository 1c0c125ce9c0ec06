"""The strings of a line of JSON, each with its position and what its key says about it.

The reader is not recursive, so no line is nested too deeply for it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from unpod_async._common import string_value
from unpod_async._export.redaction.patterns import KeyKind, kind_of_key, words

__all__ = ["Context", "JsonString", "JsonStrings", "read_strings"]

Context: TypeAlias = Literal["contact", "text", "technical"]
"""Contact data by its key, free text, or something technical that should have no name and no number."""

# Columns at the top level that the service fills in. Rows are identified and joined by them.
_SERVER_KEYS = words(
    "_id space_id user user_org_id thread_id run_id task_id collection_ref execution_type run_mode status"
    " created modified assignee provider last_status_change scheduled_timestamp"
)
_DEEPEST = 4  # levels of JSON inside strings of JSON
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A string (group 2 is set if it is a key), a bracket or a number. Possessive, so that it never backtracks.
_TOKEN = re.compile(
    rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?|[{}\[\]]|-?[0-9][0-9.eE+\-]*+',
    re.DOTALL,
)
_QUOTE, _OPEN, _CLOSE = b'"'[0], b"{[", b"}]"


@dataclass(slots=True)
class JsonString:
    """A string, or a number that is contact data.

    Attributes:
        start, end: Position in the JSON.
        kind: What its own key says about it.
        inside: The strings inside it if it is JSON itself.
    """

    start: int
    end: int
    text: str
    context: Context
    kind: KeyKind
    inside: JsonStrings | None = None


@dataclass(slots=True)
class JsonStrings:
    """JSON and its strings in their order, without the columns that the service fills in."""

    json: bytes
    strings: list[JsonString] = field(default_factory=list[JsonString])

    def contacts(self) -> Iterator[JsonString]:
        """Yield the strings that are contact data by their key."""
        for string in self.strings:
            if string.inside is not None:
                yield from string.inside.contacts()
            elif string.context == "contact":
                yield string


def read_strings(line: bytes) -> JsonStrings:
    """Return the strings of a row."""
    return _read(line, _DEEPEST, "text", is_contact=False, is_row=True)


def _read(line: bytes, deepest: int, kind: KeyKind, *, is_contact: bool, is_row: bool) -> JsonStrings:
    strings = JsonStrings(line)
    # For each container: what its key says, and whether that key or an outer one names contact data.
    containers: list[tuple[KeyKind, bool]] = []
    is_server = False
    for found in _TOKEN.finditer(line):
        start, end = found.span()
        first = line[start]
        if first == _QUOTE:
            token, colon = found.groups()
            if colon is not None:
                text, kind, is_plain = _key(token)
                is_server = is_row and len(containers) == 1 and text in _SERVER_KEYS
                is_contact = kind in {"name", "reach"} or (containers[-1][1] and kind != "technical")
                if not is_plain:
                    strings.strings.append(JsonString(start, start + len(token), text, "text", "text"))
            elif not is_server and end - start > 2:
                text = string_value(token)
                context: Context = "contact" if is_contact else "technical" if kind == "technical" else "text"
                string = JsonString(start, end, text, context, kind)
                if text[0] in "{[" and deepest and _is_json(text):
                    inner = text.encode()
                    string.inside = _read(inner, deepest - 1, kind, is_contact=is_contact, is_row=False)
                strings.strings.append(string)
        elif first in _OPEN:
            containers.append((kind, is_contact))
        elif first in _CLOSE:
            kind, is_contact = containers.pop()
        elif is_contact and not is_server:
            strings.strings.append(JsonString(start, end, found[0].decode(), "contact", kind))
    return strings


@functools.lru_cache(maxsize=8192)
def _key(token: bytes) -> tuple[str, KeyKind, bool]:
    """Return a key as str, what it says about its value, and whether it is an identifier."""
    text = string_value(token)
    return text, kind_of_key(text), _IDENTIFIER.fullmatch(text) is not None


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
