"""The redactor: replaces contact data in the lines of an export. It does no I/O."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from unpod_async._export.redaction.json_strings import Context, JsonString, JsonStrings, read_strings
from unpod_async._export.redaction.matchers import RowMatchers
from unpod_async._export.redaction.patterns import (
    CONTACT_SHAPE,
    MAIL,
    MAY_CONTAIN_CONTACT,
    NUMBER_OR_URL,
    PLACEHOLDERS,
    is_phone,
    normalize,
)
from unpod_async.errors import InvalidArgument

__all__ = ["Redactor"]

_Span: TypeAlias = tuple[int, int, str]
_NOT_DIGITS = re.compile(r"[\s()._\-/\u2010-\u2015]+")


class Redactor:
    """Replaces names, phone numbers and e-mail addresses in lines. A line is a task or a run.

    Args:
        mode: "drop" replaces a value by null, and by `[redacted]` inside a longer string. "hash" replaces it
            by `h:` and 16 hex digits of HMAC-SHA256(key, value). The hash is equal for equal values in all
            rows that are redacted with the same key. For a number, the value is its last ten digits, so that
            the country prefix does not matter. For a name or address, it is the stripped and casefolded
            string.
        key: The secret of "hash". Anyone who has it can try out all numbers.

    It finds:

    * Values under keys that name contact data, at any depth, including everything below such a key except ids
      and times: `name`, `full_name`, `customer`, `contact_number`, `phone`, `email` and so on in every
      spelling, also in the caller's documents and in strings that contain JSON (`structured_data`). Ids and
      keys of agents, companies and things (`assistant_number`, `company_name`) are not contact data. "" and
      "N/A" are kept.
    * Everything in `user_info.location`: IP address, city, coordinates.
    * The same values (three characters or more) elsewhere in the strings of the row, in any case. It also
      finds the capitalised parts of a name, and a number in any spacing, with or without its prefix. Names of
      three or four letters must be whole words.
    * E-mail addresses everywhere, and whatever looks like a phone number in any string: at least 7 digits
      with gaps or a plus sign, or 8 to 15 digits without. A policy number of nine digits is redacted too.
      Times, dates, UUIDs, IP addresses and decimal fractions are kept. Values whose key says that they are an
      id, time or status are not searched for such numbers, and columns that the service fills in (`run_id`)
      are not searched at all. `ref_id`, `document_id`, `assignee`, `call_id`, `thread_id` and the `id` of an
      input or output are searched like texts, because they may contain a name or a number.
    * JSON numbers that are whole and have 8 to 15 digits, except those under the keys in `MEASURES`: times,
      durations, costs and counts.
    * In a URL, e-mail addresses and the contact data of the row. A `recording_url` without contact data stays
      usable.

    It does not find, and no program of this kind can: a name that appears only in a transcript, a nickname or
    misspelling, a number or address spelled out in words, and the voices in a recording. Postal addresses,
    IP addresses outside of `user_info.location`, companies and texts about a person are not contact data
    here. Neither is a number of another length, or one that is joined to letters (`lead9876543210`), unless
    the row has it under a key that names contact data. Keys that are identifiers do not change.

    Raises:
        InvalidArgument: The mode is unknown, or "hash" has no key.
    """

    def __init__(self, mode: Literal["drop", "hash"], key: bytes = b"") -> None:
        if mode not in {"drop", "hash"}:
            raise InvalidArgument("redact must be 'drop' or 'hash'", argument="redact")
        if mode == "hash" and not key:
            raise InvalidArgument(
                "redact='hash' needs a key",
                argument="redact_key",
                hint="without a key, anyone can find the numbers by trying them all",
            )
        self._key = key if mode == "hash" else None

    def __call__(self, line: bytes) -> bytes:
        """Return the redacted line, which is one line of JSON too. Never raises for a line of `row_line`."""
        strings = read_strings(line)
        return self._rewrite(strings, RowMatchers(strings.contacts()))

    def _rewrite(self, strings: JsonStrings, matchers: RowMatchers) -> bytes:
        chunks: list[bytes] = []
        at = 0
        for string in strings.strings:
            if (new := self._replacement(string, matchers)) is not None:
                chunks += (strings.json[at : string.start], new)
                at = string.end
        chunks.append(strings.json[at:])
        return b"".join(chunks)

    def _replacement(self, string: JsonString, matchers: RowMatchers) -> bytes | None:
        """Return the JSON that replaces a string; None if it stays."""
        if string.inside is not None:
            text = self._rewrite(string.inside, matchers).decode()
        elif string.context == "contact":
            if string.text.strip().casefold() in PLACEHOLDERS:
                return None
            return b"null" if self._key is None else b'"%b"' % self._replacement_for(string.text).encode()
        else:
            text = self._text(string.text, string.context, matchers)
        return None if text == string.text else msgspec.json.encode(text)

    def _text(self, text: str, context: Context, matchers: RowMatchers) -> str:
        if context == "technical" and not MAY_CONTAIN_CONTACT.search(text):
            return text  # most technical strings: a role, a status
        spans = sorted(_find_spans(text, context, matchers))
        if not spans:
            return text
        chunks: list[str] = []
        at = 0
        for number, (start, end, value) in enumerate(spans):
            # All overlapping values are removed; the replacement is that of the first one.
            if start >= at or not number:
                chunks += (text[at:start], self._replacement_for(value))
            at = max(at, end)
        chunks.append(text[at:])
        return "".join(chunks)

    def _replacement_for(self, value: str) -> str:
        if self._key is None:
            return "[redacted]"
        return f"h:{hmac.digest(self._key, normalize(value).encode(), 'sha256').hex()[:16]}"


def _find_spans(text: str, context: Context, matchers: RowMatchers) -> Iterator[_Span]:
    """Yield (start, end, value) of all contact data in a string. They may overlap."""
    if MAY_CONTAIN_CONTACT.search(text):
        yield from _spans_by_shape(text, context, matchers)
        digits = _NOT_DIGITS.sub("", text) if matchers.numbers else ""
        for matcher in matchers.numbers:
            if matcher.required in digits:
                for found in matcher.pattern.finditer(text):
                    # In an id, digits may match by chance. So in an id, a number must be a whole word, or all
                    # of the digits around it.
                    if context == "text" or _stands_alone(found, context):
                        yield *found.span(), matcher.value
    if context == "technical":
        return
    lower = text.lower()
    for matcher in matchers.in_texts:
        if matcher.required in lower:
            yield from ((*found.span(), matcher.value) for found in matcher.pattern.finditer(text))


def _spans_by_shape(text: str, context: Context, matchers: RowMatchers) -> Iterator[_Span]:
    """Yield what looks like an address or a number."""
    pattern = CONTACT_SHAPE if "@" in text or "%40" in text else NUMBER_OR_URL
    for found in pattern.finditer(text):
        shape = found.lastgroup
        if shape == "mail":
            yield *found.span(), found[0].replace("%40", "@")
        elif shape == "phone" and context != "technical" and is_phone(found):
            yield *found.span(), matchers.number(found[0])
        elif shape == "url" and pattern is CONTACT_SHAPE:
            for mail in MAIL.finditer(text, *found.span()):
                yield *mail.span(), mail[0].replace("%40", "@")


def _stands_alone(found: re.Match[str], context: Context) -> bool:
    before, after = found.string[: found.start()], found.string[found.end() :]
    if context == "reference":
        return not (before[-1:].isdigit() or after[:1].isdigit())
    return not (before[-1:].isalnum() or after[:1].isalnum())
