"""JSON text looked at token by token: exact where decoding would lose something, and never too deep.

For JSON that is known to be valid, such as what `msgspec.Raw` let through; anything else gives nonsense.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

__all__ = ["TOKEN", "members", "text_of"]

# A string, a mark, or the rest: a number, true, false, null. Possessive: the service may send strings of
# megabytes, and every step that could be taken back would be remembered.
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]:,]|[^\s{}\[\]:,"]++', re.DOTALL)

_QUOTE, _OPEN, _CLOSE, _COLON, _COMMA = b'"'[0], b"{[", b"}]", b":"[0], b","[0]


def text_of(token: bytes) -> str:
    """The text that a string token stands for."""
    if b"\\" in token:
        return msgspec.json.decode(token, type=str)
    return token[1:-1].decode()


def members(line: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[str, int, int]]:
    """(key, start, end) of each value of the object that begins at `start`, in order, duplicates as well.

    White space around values is not part of them.
    """
    depth, key, begins = 0, None, 0
    for found in TOKEN.finditer(line, start, len(line) if end is None else end):
        first = line[found.start()]
        if first in _OPEN:
            if depth == 1:
                begins = found.start()
            depth += 1
        elif first in _CLOSE:
            depth -= 1
            if depth == 1 and key is not None:
                yield key, begins, found.end()
                key = None
        elif depth != 1 or first in {_COLON, _COMMA}:
            continue
        elif key is None:
            key = text_of(found[0])
        else:
            yield key, found.start(), found.end()
            key = None
