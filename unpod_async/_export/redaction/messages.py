"""The messages of a call, which are most of a row, read without a dict for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

__all__ = ["SEPARATOR", "Messages", "SplitRow", "split_row"]

SEPARATOR = "\0"
"""Separates strings that are searched together."""
_MIN_BYTES = 200  # shorter messages take longer in this way than as a part of their row
_BRACKETS = ("{", "[")
_NOTHING = frozenset({None, UNSET})


class _Message(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A message of an array `transcript`."""

    role: str | UnsetType | None = UNSET
    content: str | UnsetType = UNSET
    user_id: str | UnsetType | None = UNSET
    timestamp: str | UnsetType | None = UNSET


class _TimedMessage(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, rename="camel"):
    """A message of an array `messages`. Its times are measures, so they are never contact data."""

    role: str | UnsetType | None = UNSET
    time: int | float | UnsetType | None = UNSET
    end_time: int | float | UnsetType | None = UNSET
    message: str | UnsetType = UNSET
    seconds_from_start: int | float | UnsetType | None = UNSET
    duration: int | float | UnsetType | None = UNSET


class _Output(msgspec.Struct, gc=False):
    transcript: Raw | UnsetType = UNSET
    messages: Raw | UnsetType = UNSET


class _Head(msgspec.Struct, gc=False):
    output: _Output | None = None


_decode_head = msgspec.json.Decoder(_Head).decode
_encode = msgspec.json.Encoder().encode


class UnusualMessage(Exception):
    """The messages must be read as a part of their row."""


class _Form:
    """How messages of a type are read.

    Args:
        start: What the messages begin with in a row: a key and a bracket.
        decode: Returns the messages of an array.
        text: The field with the text of a message.
        technical: The fields with technical strings.
    """

    def __init__(
        self, start: bytes, decode: Callable[[bytes], list[Any]], text: str, technical: Iterable[str]
    ) -> None:
        self.start = start
        self.decode = decode
        self.text = text
        self.text_of = attrgetter(text)
        self.technical = [attrgetter(name) for name in technical]


_FORMS = {
    "transcript": _Form(
        b'"transcript":[',
        msgspec.json.Decoder(list[_Message]).decode,
        "content",
        ("role", "user_id", "timestamp"),
    ),
    "messages": _Form(
        b'"messages":[', msgspec.json.Decoder(list[_TimedMessage]).decode, "message", ("role",)
    ),
}


class Messages:
    """The messages of a row.

    Attributes:
        text: The texts of the messages, with separators.
        count: Number of messages.
        technical: The different other strings, without those of letters only.

    Raises:
        UnusualMessage: A message has no text, or a string is JSON.
    """

    __slots__ = ("_form", "_is_changed", "_messages", "_raw", "count", "technical", "text")

    def __init__(self, raw: Raw, form: _Form, messages: list[Any]) -> None:
        self._raw = raw
        self._form = form
        self._messages = messages
        self._is_changed = False
        self.count = len(messages)
        try:
            self.text = text = SEPARATOR.join(map(form.text_of, messages))
        except TypeError:
            raise UnusualMessage from None
        technical: set[Any] = set()
        for value_of in form.technical:
            technical.update(map(value_of, messages))
        technical -= _NOTHING
        self.technical: list[str] = [one for one in technical if not one.isalpha()]
        if (
            text.startswith(_BRACKETS)
            or ("{" in text and SEPARATOR + "{" in text)
            or ("[" in text and SEPARATOR + "[" in text)
            or any(one.startswith(_BRACKETS) for one in self.technical)
        ):
            raise UnusualMessage

    def text_of(self, index: int) -> str:
        """Return the text of a message."""
        text: str = self._form.text_of(self._messages[index])
        return text

    def replace(self, index: int, text: str) -> None:
        """Replace the text of a message."""
        setattr(self._messages[index], self._form.text, text)
        self._is_changed = True

    def encode(self) -> Raw:
        """Return the messages as JSON."""
        return Raw(_encode(self._messages)) if self._is_changed else self._raw


class SplitRow(NamedTuple):
    """A row without its messages.

    Attributes:
        line: The row with [] for its messages.
        key: The key of the messages in the output.
    """

    line: bytes
    key: str
    messages: Messages


def split_row(line: bytes) -> SplitRow | None:
    """Return a row and its messages; None if they are few, or have unknown fields or an unusual notation."""
    try:
        output = _decode_head(line).output
        return None if output is None else _split(line, output)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, UnusualMessage):
        return None


def _split(line: bytes, output: _Output) -> SplitRow | None:
    for key, form in _FORMS.items():
        value: object = getattr(output, key)
        if not isinstance(value, Raw) or len(value) < _MIN_BYTES:
            continue
        raw = bytes(value)
        # To find all of `raw` in the line would take 13 us.
        start = line.find(form.start) + len(form.start) - 1
        if not line.startswith(raw, start):
            continue
        messages = form.decode(raw)
        if _encode(messages) != raw:
            return None
        rest = b"%b[]%b" % (line[:start], line[start + len(raw) :])
        return SplitRow(rest, key, Messages(value, form, messages))
    return None
