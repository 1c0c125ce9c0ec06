"""Contact data out of the lines of an export. Pure: no I/O."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from unpod_async._export.redaction.json_strings import Leaf, Place, Texts, read_texts
from unpod_async._export.redaction.matchers import Needles
from unpod_async._export.redaction.patterns import (
    FOUND,
    FOUND_OR_MAIL,
    MAIL,
    PLACEHOLDERS,
    WORTH_A_LOOK,
    is_phone,
    normal,
)
from unpod_async.errors import InvalidArgument

__all__ = ["Redactor"]

_Span: TypeAlias = tuple[int, int, str]
_NOT_DIGITS = re.compile(r"[\s().\-/\u2010-\u2015]+")


class Redactor:
    """Takes names, phone numbers and e-mail addresses out of lines; a line may be a task or a run.

    Args:
        mode: "drop" puts null in place of a value, and `[redacted]` in texts. "hash" puts `h:` and 16 hex
            digits of HMAC-SHA256(key, value), the same for the same value in every row made with the same
            key: of a number its last ten digits, with or without a country prefix; of names and addresses
            the text stripped and casefolded.
        key: the secret of "hash". Who has it can try out all numbers there are.

    What is found:

    * Values under keys that name contact data, at any depth, and all that is below such a key save ids
      and times: `name`, `full_name`, `customer`, `contact_number`, `phone`, `email` and so on in every
      spelling, also in the caller's own documents and in texts that hold JSON (`structured_data`). Left
      alone are keys of agents, companies and things (`assistant_number`, `company_name`) and ids. "" and
      "N/A" stay.
    * These values (three characters or more) wherever else they are in texts of the same row, in any case:
      names also by their parts, when these are capitalised; numbers in any spacing, with and without a
      prefix. Names of three or four letters are found as whole words only.
    * E-mail addresses anywhere, and what looks like a phone number in any text: 7 digits and more with gaps
      or a plus sign, or 8 to 15 in one piece. That takes a policy number of nine digits as well. Times,
      dates, UUIDs, IP addresses and decimal fractions are told apart; what is an id, a time or a status by
      its key is not looked at for numbers, and columns that the service fills in (`run_id`) for nothing.
    * In a URL, e-mail addresses and what was found elsewhere in the row: a `recording_url` is usable as
      long as it holds no contact data, and no longer when it does.

    What is not found, and cannot be by a program of this kind: a name that is only spoken in a transcript,
    a nickname or a misspelling, a number or an address spelled out in words, the voices of a recording.
    Postal addresses, the IP address and the place in `user_info.location`, companies and texts about a
    person are not contact data here. Keys that are plain words are not changed.

    Raises:
        InvalidArgument: "hash" without a key, or another mode.
    """

    def __init__(self, mode: Literal["drop", "hash"], key: bytes = b"") -> None:
        if mode not in {"drop", "hash"}:
            raise InvalidArgument("redact must be 'drop' or 'hash'")
        if mode == "hash" and not key:
            raise InvalidArgument("redact='hash' needs a key: without one anybody can try out all numbers")
        self._key = key if mode == "hash" else None

    def __call__(self, line: bytes) -> bytes:
        """The line, redacted: one line of JSON as well. Never raises for a line that `line_of` made."""
        texts = read_texts(line)
        return self._written(texts, Needles(texts.contacts()))

    def _written(self, texts: Texts, needles: Needles) -> bytes:
        pieces: list[bytes] = []
        at = 0
        for leaf in texts.leaves:
            if (new := self._replacement(leaf, needles)) is not None:
                pieces += (texts.json[at : leaf.start], new)
                at = leaf.end
        pieces.append(texts.json[at:])
        return b"".join(pieces)

    def _replacement(self, leaf: Leaf, needles: Needles) -> bytes | None:
        """The JSON that takes the leaf's place, or None when it stays."""
        if leaf.inside is not None:
            text = self._written(leaf.inside, needles).decode()
        elif leaf.place == "contact":
            if leaf.text.strip().casefold() in PLACEHOLDERS:
                return None
            return b"null" if self._key is None else b'"%b"' % self._said(leaf.text).encode()
        else:
            text = self._text(leaf.text, leaf.place, needles)
        return None if text == leaf.text else msgspec.json.encode(text)

    def _text(self, text: str, place: Place, needles: Needles) -> str:
        spans = sorted(_spans(text, place, needles))
        if not spans:
            return text
        pieces: list[str] = []
        at = 0
        for number, (start, end, value) in enumerate(spans):
            # Of values that overlap the first is named, and all are taken out.
            if start >= at or not number:
                pieces += (text[at:start], self._said(value))
            at = max(at, end)
        pieces.append(text[at:])
        return "".join(pieces)

    def _said(self, value: str) -> str:
        if self._key is None:
            return "[redacted]"
        return f"h:{hmac.digest(self._key, normal(value).encode(), 'sha256').hex()[:16]}"


def _spans(text: str, place: Place, needles: Needles) -> Iterator[_Span]:
    """(start, end, value) of all contact data in a text; they may overlap."""
    if WORTH_A_LOOK.search(text):
        yield from _shaped(text, place, needles)
        digits = _NOT_DIGITS.sub("", text) if needles.numbers else ""
        for needle in needles.numbers:
            if needle.must in digits:
                for found in needle.pattern.finditer(text):
                    # In an id digits may meet by chance: there a number stands alone.
                    if place == "text" or _stands_alone(found):
                        yield *found.span(), needle.value
    if place == "technical":
        return
    lower = text.lower()
    for needle in (*needles.short_numbers, *needles.names):
        if needle.must in lower:
            yield from ((*found.span(), needle.value) for found in needle.pattern.finditer(text))


def _shaped(text: str, place: Place, needles: Needles) -> Iterator[_Span]:
    """What looks like an address or a number, whoever's it is."""
    pattern = FOUND_OR_MAIL if "@" in text or "%40" in text else FOUND
    for found in pattern.finditer(text):
        shape = found.lastgroup
        if shape == "mail":
            yield *found.span(), found[0].replace("%40", "@")
        elif shape == "phone" and place == "text" and is_phone(found):
            yield *found.span(), needles.number(found[0])
        elif shape == "url" and pattern is FOUND_OR_MAIL:
            for mail in MAIL.finditer(text, *found.span()):
                yield *mail.span(), mail[0].replace("%40", "@")


def _stands_alone(found: re.Match[str]) -> bool:
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return not (before.isalnum() or after.isalnum())
