"""The redactor: replaces contact data in the lines of an export. It does no I/O."""

from __future__ import annotations

import functools
import hmac
import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from unpod_async._export.redaction.candidates import Candidates, find_candidates
from unpod_async._export.redaction.decoded_row import (
    Contact,
    DecodedStrings,
    Document,
    decode_row,
    decode_row_of_call,
)
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
            by `h:` and 16 hex digits of HMAC-SHA256(key, value). Equal values have the same hash in all rows
            that are redacted with the same key. For a number, the value is its last ten digits, so that the
            country prefix does not matter. For a name or address, it is the stripped and casefolded string.
        key: The secret of "hash". Anyone who has it can find the numbers by trying all of them.

    The redactor replaces:

    * **Fields of contact data**: all values under a key such as `name`, `full_name`, `customer`,
      `contact_number`, `phone` or `email`, in any spelling and at any depth. This includes the documents of
      the caller, and JSON inside strings (`structured_data`). Below such a key, ids and times are kept. ""
      and "N/A" are kept. Keys of agents, companies and things (`assistant_number`, `company_name`) do not
      name contact data.
    * **Locations**: everything in `user_info.location`, which is IP address, city and coordinates.
    * **The same values in other strings of the row**, in upper or lower case, if they have at least three
      characters. A number is found in any spacing, with or without its prefix. The capitalised parts of a
      name are found too. A name of three or four letters is found as a whole word only.
    * **E-mail addresses** in any string.
    * **Numbers that look like phone numbers** in any string: at least 7 digits with gaps or a plus sign, or 8
      to 15 digits without. So a policy number of nine digits is replaced. Times, dates, UUIDs, IP addresses
      and decimal fractions are kept.
    * **JSON numbers** that are whole and have 8 to 15 digits, unless their key is one of `MEASURES`: a time,
      duration, cost or count.

    Some strings are treated differently:

    * A value whose key names an id, a time or a status is not searched for phone numbers.
    * A column that the service fills in, such as `run_id`, is not searched at all.
    * `ref_id`, `document_id`, `assignee`, `call_id`, `thread_id`, and the `id` of an input or output, are
      searched like texts, because they may contain a name or a number.
    * A URL is searched only for e-mail addresses and the contact data of the row, so that a `recording_url`
      without contact data can still be used.
    * A key that is an identifier is not changed.

    The redactor does not replace:

    * A name that appears only in a transcript, a nickname or a misspelling, a number or address spelled out
      in words, and the voices in a recording. No program of this kind can find these.
    * Postal addresses, IP addresses outside of `user_info.location`, companies, and texts about a person.
      These are not contact data here.
    * A number of another length, or one that is joined to letters (`lead9876543210`), unless the row has it
      under a key that names contact data.

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
                hint="pass a secret key: without one, anyone can find the numbers by trying them all",
            )
        self._key = key if mode == "hash" else None
        # A value occurs several times in a row, and again in the rows of the same person.
        self._replacement_for = functools.lru_cache(maxsize=4096)(self._new_replacement)
        self._contact = functools.lru_cache(maxsize=4096)(self._new_contact)

    def __call__(self, line: bytes) -> bytes:
        """Return the redacted line, which is one line of JSON too. Never raises for a line of `row_line`."""
        for decode in (decode_row_of_call, decode_row):
            row = decode(line)
            if row is not None and (redacted := self._redact_decoded(row)) is not None:
                return redacted
        strings = read_strings(line)
        contacts: list[Contact] = [(one.text, one.kind, None, None) for one in strings.contacts()]
        return self._rewrite(strings, RowMatchers(contacts))

    def _redact_decoded(self, row: DecodedStrings) -> bytes | None:
        """Return the redacted line; None if a key or a technical string of a message has to change."""
        matchers = RowMatchers(row.contacts)
        candidates = find_candidates(row, matchers)
        if candidates.has_unusual_message:
            return None
        if row.keys and any(self._text(key, "text", matchers) != key for key in row.keys):
            return None
        for value, _, container, key in row.contacts:
            if container is not None:
                container[key] = self._contact(value)
        if candidates.places or candidates.messages or row.documents:
            self._replace_candidates(row, candidates, matchers)
        return row.encode()

    def _replace_candidates(self, row: DecodedStrings, candidates: Candidates, matchers: RowMatchers) -> None:
        documents = {id(document): document for document in row.documents}
        for text, context, container, key in candidates.places:
            new = self._text(text, context, matchers)
            if isinstance(container, Document):
                if new != text:
                    documents[id(container)] = container
            else:
                container[key] = new
        if row.messages is not None:
            for index in candidates.messages:
                row.messages.replace(index, self._text(row.messages.text_of(index), "text", matchers))
        for document in documents.values():
            inside = document.read().inside
            if inside is not None:
                document.container[document.key] = self._rewrite(inside, matchers).decode()

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
        """Return the JSON that replaces a string, or None if the string is kept."""
        if string.inside is not None:
            text = self._rewrite(string.inside, matchers).decode()
        elif string.context == "contact":
            new = self._contact(string.text)
            return None if new == string.text else msgspec.json.encode(new)
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

    def _new_contact(self, value: str) -> str | None:
        """Return what replaces a value whose key names contact data; the value itself if it is kept."""
        if value.strip().casefold() in PLACEHOLDERS:
            return value
        return None if self._key is None else self._new_replacement(value)

    def _new_replacement(self, value: str) -> str:
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
    if pattern is NUMBER_OR_URL and context == "technical":
        return
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
