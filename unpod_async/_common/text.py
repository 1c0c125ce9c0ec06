"""Make text from a server safe to display: short, on one line, without control and direction characters."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, cast

import msgspec

_READABLE: Final = 300

# Category C: control and format characters, including ESC and all bidirectional marks; Z: line separators.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
# The first character of a body decides: no JSON begins with it.
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<[!?a-z]", re.IGNORECASE)
# Inside a text, only a tag that people do not write counts as markup.
_PAGE_OR_TRACEBACK = re.compile(
    r"(?P<page><(?:!--|(?:!doctype|\?xml|html|head|body|title|center|h[1-6]|pre|div|p|script|style)\b))"
    r"|Traceback \(most recent call last\)",
    re.IGNORECASE,
)
_MAX_DEPTH: Final = 6


def printable(text: str) -> str:
    """Return `text` on one line, with control and direction characters as escapes."""
    flat = " ".join(text.split())
    if flat.isascii() and flat.isprintable():
        return flat
    return "".join(
        character
        if unicodedata.category(character) not in _UNSAFE
        else character.encode("unicode_escape").decode("ascii")
        for character in flat
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 run" or "2,000 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def html_table(names: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> str:
    """Return a table for a notebook. Everything in it is escaped; None is an empty cell."""

    def cells(values: Iterable[object], tag: str) -> str:
        texts = ("" if value is None else html.escape(printable(str(value))) for value in values)
        return "".join(f"<{tag}>{text}</{tag}>" for text in texts)

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{cells(names, 'th')}</tr></thead>"
    return f"<table><caption>{html.escape(caption)}</caption>{head}<tbody>{body}</tbody></table>"


def shorten(value: object, limit: int = _READABLE) -> str:
    """Return `value` as readable text of at most about `limit` characters."""
    readable = _simplify(value, _MAX_DEPTH)
    if not isinstance(readable, str):
        readable = msgspec.json.encode(readable, enc_hook=repr).decode("utf-8", "replace")
    # Cut before cleaning: a server may send megabytes.
    text = printable(readable[: 4 * limit])
    return text if len(text) <= limit else f"{text[:limit]}…"


def _simplify(value: object, depth: int) -> object:
    """Return `value` with a short description in place of pages, tracebacks and deep nesting."""
    if isinstance(value, str):
        return _without_pages(value)
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {_simplify(key, 1): _simplify(item, depth - 1) for key, item in items} if depth else "…"
    if isinstance(value, list):
        return [_simplify(item, depth - 1) for item in cast("list[object]", value)] if depth else "…"
    return value


def _without_pages(text: str) -> str:
    found = _PAGE_OR_TRACEBACK.search(text)
    if found is None:
        return text
    is_page = found["page"] is not None
    what = _page(text[found.start() :].encode("utf-8", "replace")) if is_page else "a traceback"
    before = text[: found.start()].rstrip(" :\r\n")
    return f"{before}: {what}" if before else what


def looks_like_markup(body: bytes) -> bool:
    """Return whether a body is an HTML or XML page."""
    return _MARKUP.match(body) is not None


def summarise_body(body: bytes) -> str:
    """Describe a response body without a JSON message, never quoting markup or a traceback."""
    if not body.strip():
        return "no message"
    if looks_like_markup(body):
        return _page(body)
    first = next(line for line in body.splitlines() if line.strip())
    start = printable(_without_pages(first[:120].decode("utf-8", "replace")))
    return start if start == "a traceback" else f"text that starts {start!r}"


def _page(body: bytes) -> str:
    title = _TITLE.search(body)
    name = printable(title[1].decode("utf-8", "replace"))[:80] if title else ""
    return f"an HTML page{f' titled {name!r}' if name else ''}"
