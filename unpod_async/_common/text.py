"""Text from outside made fit to show: cut, on one line, without control or direction marks."""

from __future__ import annotations

import re
import unicodedata
from typing import cast

import msgspec

READABLE = 300

# Category C: control and format characters, among them ESC and every bidi mark; Z*: line separators.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
# A whole body is markup by its first character: no JSON begins with it.
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<[!?a-z]", re.IGNORECASE)
# Inside a text it takes a tag that people do not write.
_PASTED = re.compile(
    r"(?P<page><(?:!--|(?:!doctype|\?xml|html|head|body|title|center|h[1-6]|pre|div|p|script|style)\b))"
    r"|Traceback \(most recent call last\)",
    re.IGNORECASE,
)
_DEEPEST = 6


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
    told = _tell(value, _DEEPEST)
    if not isinstance(told, str):
        told = msgspec.json.encode(told, enc_hook=repr).decode("utf-8", "replace")
    # Cut before it is cleaned: a server may send megabytes.
    text = printable(told[: 4 * limit])
    return text if len(text) <= limit else f"{text[:limit]}…"


def _tell(value: object, deepest: int) -> object:
    """`value` with a few words in place of pages and tracebacks, and of what is nested very deeply."""
    if isinstance(value, str):
        return _without_paste(value)
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {_tell(key, 1): _tell(item, deepest - 1) for key, item in items} if deepest else "…"
    if isinstance(value, list):
        return [_tell(item, deepest - 1) for item in cast("list[object]", value)] if deepest else "…"
    return value


def _without_paste(text: str) -> str:
    pasted = _PASTED.search(text)
    if pasted is None:
        return text
    is_page = pasted["page"] is not None
    what = _page(text[pasted.start() :].encode("utf-8", "replace")) if is_page else "a traceback"
    before = text[: pasted.start()].rstrip(" :\r\n")
    return f"{before}: {what}" if before else what


def looks_like_markup(body: bytes) -> bool:
    """Whether a body is a page made for a browser."""
    return _MARKUP.match(body) is not None


def summarise_body(body: bytes) -> str:
    """What an answer without a JSON message is, in a few words: never its markup or a traceback."""
    if not body.strip():
        return "no message"
    if looks_like_markup(body):
        return _page(body)
    first = next(line for line in body.splitlines() if line.strip())
    start = printable(_without_paste(first[:120].decode("utf-8", "replace")))
    return start if start == "a traceback" else f"text that starts {start!r}"


def _page(body: bytes) -> str:
    title = _TITLE.search(body)
    name = printable(title[1].decode("utf-8", "replace"))[:80] if title else ""
    return f"an HTML page{f' titled {name!r}' if name else ''}"
