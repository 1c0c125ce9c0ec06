"""Text from outside made fit to show: cut, on one line, without control or direction marks."""

from __future__ import annotations

import re
import unicodedata

import msgspec

READABLE = 300

# Category C: control and format characters, among them ESC and every bidi mark; Z*: line separators.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_MARKUP = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)


def printable(text: str) -> str:
    """`text` on one line, with control and direction marks written as escapes."""
    flat = " ".join(text.split())
    if flat.isascii() and flat.isprintable():
        return flat
    return "".join(
        character
        if unicodedata.category(character) not in _UNSAFE
        else character.encode("unicode_escape").decode("ascii")
        for character in flat
    )


def shorten(value: object, limit: int = READABLE) -> str:
    """`value` as readable text of at most about `limit` characters."""
    if isinstance(value, str):
        if looks_like_markup(value.encode("utf-8", "replace")):
            return summarise_body(value.encode("utf-8", "replace"))
        text = value
    else:
        text = msgspec.json.encode(value, enc_hook=repr).decode("utf-8", "replace")
    # Cut before it is cleaned: a server may send megabytes.
    text = printable(text[: 4 * limit])
    return text if len(text) <= limit else f"{text[:limit]}…"


def looks_like_markup(body: bytes) -> bool:
    """Whether a body is a page made for a browser."""
    return _MARKUP.match(body) is not None


def summarise_body(body: bytes) -> str:
    """What an answer without a JSON message is, in a few words: never its markup or a traceback."""
    if not body.strip():
        return "no message"
    if looks_like_markup(body):
        title = _TITLE.search(body)
        name = printable(title[1].decode("utf-8", "replace"))[:80] if title else ""
        return f"an HTML page{f' titled {name!r}' if name else ''}"
    first = next(line for line in body.splitlines() if line.strip())
    return f"text that starts {printable(first[:120].decode('utf-8', 'replace'))!r}"
