"""The texts of a line of JSON, each with its place and with what its key says of it. Never too deep."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from unpod_async._export.redaction.patterns import KeyKind, kind_of_key, words
from unpod_async._export.rows import string_value

__all__ = ["Leaf", "Place", "Texts", "read_texts"]

Place: TypeAlias = Literal["contact", "text", "technical"]
"""Contact data by its key; free text; or something technical, in which no name and no number is expected."""

# Columns that the service fills in itself, at the top of a row: rows are told apart and joined by them.
_SERVER_KEYS = words(
    "_id space_id user user_org_id thread_id run_id task_id collection_ref execution_type run_mode status"
    " created modified assignee provider last_status_change scheduled_timestamp"
)
_DEEPEST = 4  # JSON in a text of JSON in a text …
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A string, with group 2 when it is a key; a bracket; a number. Possessive, as in `_scan`.
_TOKEN = re.compile(
    rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?|[{}\[\]]|-?[0-9][0-9.eE+\-]*+',
    re.DOTALL,
)
_QUOTE, _OPEN, _CLOSE = b'"'[0], b"{[", b"}]"


@dataclass(slots=True)
class Leaf:
    """A text, or a number that is contact data.

    Attributes:
        start, end: its place in the JSON.
        kind: what its own key says of it.
        inside: what it holds when it is a text of JSON.
    """

    start: int
    end: int
    text: str
    place: Place
    kind: KeyKind
    inside: Texts | None = None


@dataclass(slots=True)
class Texts:
    """A JSON text and its leaves, in order; the server's own columns are none."""

    json: bytes
    leaves: list[Leaf] = field(default_factory=list[Leaf])

    def contacts(self) -> Iterator[Leaf]:
        """The leaves that are contact data by their key."""
        for leaf in self.leaves:
            if leaf.inside is not None:
                yield from leaf.inside.contacts()
            elif leaf.place == "contact":
                yield leaf


def read_texts(line: bytes) -> Texts:
    """The texts of a row."""
    return _read(line, _DEEPEST, "text", is_contact=False, is_row=True)


def _read(line: bytes, deepest: int, kind: KeyKind, *, is_contact: bool, is_row: bool) -> Texts:
    texts = Texts(line)
    # What holds for what is inside each container around: what its key says, and whether that or a key
    # further out names contact data.
    around: list[tuple[KeyKind, bool]] = []
    is_server = False
    for found in _TOKEN.finditer(line):
        start, end = found.span()
        first = line[start]
        if first == _QUOTE:
            token, colon = found.groups()
            if colon is not None:
                text, kind, is_plain = _key(token)
                is_server = is_row and len(around) == 1 and text in _SERVER_KEYS
                is_contact = kind in {"name", "reach"} or (around[-1][1] and kind != "technical")
                if not is_plain:
                    texts.leaves.append(Leaf(start, start + len(token), text, "text", "text"))
            elif not is_server and end - start > 2:
                text = string_value(token)
                place: Place = "contact" if is_contact else "technical" if kind == "technical" else "text"
                leaf = Leaf(start, end, text, place, kind)
                if text[0] in "{[" and deepest and _is_json(text):
                    inner = text.encode()
                    leaf.inside = _read(inner, deepest - 1, kind, is_contact=is_contact, is_row=False)
                texts.leaves.append(leaf)
        elif first in _OPEN:
            around.append((kind, is_contact))
        elif first in _CLOSE:
            kind, is_contact = around.pop()
        elif is_contact and not is_server:
            texts.leaves.append(Leaf(start, end, found[0].decode(), "contact", kind))
    return texts


@functools.lru_cache(maxsize=8192)
def _key(token: bytes) -> tuple[str, KeyKind, bool]:
    """A key's text, what it says of its value, and whether it is a plain word that is never changed."""
    text = string_value(token)
    return text, kind_of_key(text), _IDENTIFIER.fullmatch(text) is not None


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
