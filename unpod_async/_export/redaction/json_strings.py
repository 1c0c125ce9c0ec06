"""The strings of a line of JSON, each with its position and what its key says about it.

The reader is not recursive, so no line is nested too deeply for it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from unpod_async._common import is_too_deep, string_value
from unpod_async._export.redaction.patterns import KeyKind, is_long_number, kind_of_key, words

__all__ = [
    "MEASURES",
    "SERVER_KEYS",
    "SPECIAL_KEYS",
    "Context",
    "JsonString",
    "JsonStrings",
    "context_of",
    "key_meaning",
    "read_inside",
    "read_strings",
]

Context: TypeAlias = Literal["contact", "text", "reference", "technical"]
"""Kinds of strings: contact data by the key ("contact"), free text ("text"), an id that may contain a name or
a number ("reference"), or a value that contains neither ("technical")."""

# Columns at the top level that the service fills in. Rows are identified and joined by them.
SERVER_KEYS = words(
    "_id space_id user user_org_id run_id task_id collection_ref execution_type run_mode status"
    " created modified provider last_status_change scheduled_timestamp"
)
MEASURES = words(
    "time start_time end_time started_at ended_at timestamp scheduled_timestamp scheduled_at"
    " created created_at modified modified_at updated_at last_status_change seconds_from_start duration"
    " callback_datetime cost count batch_count failure_count retry_attempt"
)
"""Keys of times, durations, costs and counts, in any case style. Their values are never phone numbers."""

# Ids that users choose, or that contain a phone number: the id of the document is copied to `ref_id`.
_REFERENCE_KEYS = words("ref_id document_id assignee call_id thread_id")
# The `id` of an input or output is such an id. The `location` of a user is contact data.
_DOCUMENTS, _USERS = words("input output"), words("user_info userInfo")
SPECIAL_KEYS = _DOCUMENTS | _USERS
"""Keys of objects that change the meaning of a key in them."""

_MEASURES = frozenset(name.replace("_", "") for name in MEASURES)
_REFERENCES = frozenset(name.replace("_", "") for name in _REFERENCE_KEYS)
_MAX_JSON_LEVELS = 4  # levels of JSON inside strings of JSON
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A string (group 2 is set if it is a key), a bracket or a number. Possessive, so that it never backtracks.
_TOKEN = re.compile(
    rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?|[{}\[\]]|-?[0-9][0-9.eE+\-]*+',
    re.DOTALL,
)
_CONTACT_KINDS = frozenset({"name", "reach", "location"})
_IDENTIFYING_KINDS = frozenset({"technical", "measure", "reference"})
_CONTEXT: Mapping[KeyKind, Context] = {
    "measure": "technical",
    "reference": "reference",
    "technical": "technical",
    "text": "text",
}
_KEY_GROUP = 2
_OPEN, _CLOSE = b"{[", b"}]"


class KeyMeaning(NamedTuple):
    """What a key says about its value.

    Attributes:
        is_contact: Whether the value is contact data, by this key or by an outer one.
        context: The context of the value, if it is a string.
        is_plain: Whether the key is an identifier. Any other key is text, and may contain contact data.
    """

    kind: KeyKind
    is_contact: bool
    context: Context
    is_plain: bool


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
    return _read(line, _MAX_JSON_LEVELS, "text", is_contact=False, is_row=True)


def _read(line: bytes, levels_left: int, kind: KeyKind, *, is_contact: bool, is_row: bool) -> JsonStrings:
    strings = JsonStrings(line)
    server_keys = SERVER_KEYS if is_row else frozenset[str]()
    # For each container: its key, the kind of the key, and whether this or an outer key names contact data.
    containers: list[tuple[str, KeyKind, bool]] = []
    is_server = False
    key = ""
    for found in _TOKEN.finditer(line):
        group = found.lastindex
        if group == _KEY_GROUP:
            key = _key(found[1])
            is_server = len(containers) == 1 and key in server_keys
            kind, is_contact, _, is_plain = key_meaning(key, *containers[-1])
            if not is_plain:
                strings.strings.append(JsonString(*found.span(1), key, "text", "text"))
            continue
        start, end = found.span()
        first = line[start]
        if group is not None:
            if not is_server and end - start > 2:
                text = string_value(found[0])
                string = JsonString(start, end, text, context_of(kind, is_contact=is_contact), kind)
                read_inside(string, levels_left - 1)
                strings.strings.append(string)
        elif first in _OPEN:
            containers.append((key, kind, is_contact))
        elif first in _CLOSE:
            key, kind, is_contact = containers.pop()
        elif not is_server and (is_contact or (kind != "measure" and is_long_number(found[0]))):
            strings.strings.append(JsonString(start, end, found[0].decode(), "contact", kind))
    return strings


def context_of(kind: KeyKind, *, is_contact: bool) -> Context:
    """Return the context of a string by the kind of its key, and by whether it is contact data."""
    return "contact" if is_contact else _CONTEXT.get(kind, "contact")


def read_inside(string: JsonString, levels_left: int = _MAX_JSON_LEVELS - 1) -> None:
    """Read the strings inside a string, if it is JSON."""
    if levels_left < 0 or string.text[0] not in "{[":
        return
    inner = string.text.encode()
    if is_too_deep(inner):
        string.context = "contact"  # a string that cannot be read may contain anything
    elif _is_json(inner):
        is_contact = string.context == "contact"
        string.inside = _read(inner, levels_left, string.kind, is_contact=is_contact, is_row=False)


@functools.lru_cache(maxsize=8192)
def _key(token: bytes) -> str:
    """Return a key as str."""
    return string_value(token)


@functools.lru_cache(maxsize=8192)
def key_meaning(key: str, outer: str, outer_kind: KeyKind, outer_is_contact: bool) -> KeyMeaning:
    """Return what a key says about its value.

    Args:
        outer: The key of the object that has this key, with what that says about the object.
    """
    name = key.replace("_", "").lower()
    kind: KeyKind = (
        "measure" if name in _MEASURES else "reference" if name in _REFERENCES else kind_of_key(key)
    )
    if outer_kind == "location" or (key == "location" and outer in _USERS):
        kind = "location"
    elif key == "id" and outer in _DOCUMENTS:
        kind = "reference"
    is_contact = kind in _CONTACT_KINDS or (outer_is_contact and kind not in _IDENTIFYING_KINDS)
    return KeyMeaning(
        kind, is_contact, context_of(kind, is_contact=is_contact), _IDENTIFIER.fullmatch(key) is not None
    )


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
