"""Matchers find the contact data of a row in the other strings of the row."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from unpod_async._export.redaction.json_strings import JsonString
from unpod_async._export.redaction.patterns import (
    CONTACT_SHAPE,
    PLACEHOLDERS,
    digits_of,
    is_phone,
    normalize,
    words,
)

__all__ = ["Matcher", "RowMatchers"]

_MAX_NAME_LENGTH = 200  # characters; a longer value is not a name
_GAP = r"[\s()._\-/\u2010-\u2015]{0,3}"
# Separators of the parts of a name, also in an address or a file name.
_SPACE = r"(?:\s|%20|[+_.\-])+"
# Scripts without spaces between words: a name has no word boundary, and may have only two characters.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]"
)
_WHOLE_WORD = r"(?<!\w)(?:{})(?:['’]?s)?(?!\w)"
# Parts of a name that do not identify anyone.
_COMMON = words(
    "the and for von van der den del los las mrs miss prof sir ltd inc llc pvt gmbh test user customer client"
    " contact name person lead"
)


class Matcher(NamedTuple):
    """Finds a value in strings.

    Attributes:
        value: The value that a match is replaced for. For a part of a name, it is the whole name.
        required: A string without this, in lower case or as digits, does not contain the value.
        compile: Returns the pattern for `form`. It is called only for strings that have `required`.
    """

    value: str
    required: str
    compile: Callable[[str], re.Pattern[str]]
    form: str

    @property
    def pattern(self) -> re.Pattern[str]:
        return self.compile(self.form)


class RowMatchers:
    """The matchers of one row.

    Attributes:
        numbers: Numbers of seven or more digits, searched everywhere.
        short_numbers: Numbers of three to six digits, searched as whole words in free text.
        names: Names and all other contact data.
        in_texts: `short_numbers` and `names`, which are searched in texts only.
    """

    def __init__(self, contacts: Iterable[JsonString]) -> None:
        self.numbers: list[Matcher] = []
        self.short_numbers: list[Matcher] = []
        self.names: list[Matcher] = []
        self._digits: list[tuple[str, str]] = []
        # In the order of the row, so that equal rows give equal lines.
        values = [
            (string.text.strip(), string.kind == "name") for string in contacts if _should_search(string)
        ]
        for value, is_name in dict.fromkeys(values):
            self._add(value, is_name)
        self.in_texts = (*self.short_numbers, *self.names)

    def number(self, found: str) -> str:
        """Return the number of the row that equals a found one apart from its prefix, or the found one."""
        digits = digits_of(found)
        for own, value in self._digits:
            if digits.endswith(own[-10:]) or (len(digits) > 6 and own.endswith(digits.lstrip("0")[-10:])):
                return value
        return found

    def _add(self, value: str, is_name: bool) -> None:
        plain = normalize(value)
        if plain.isdigit():
            self._add_number(value)
            return
        for found in CONTACT_SHAPE.finditer(value):
            if found["phone"] and is_phone(found):
                self._add_number(found[0])
            elif found["mail"] and found[0] != value:
                self.names.append(_name(found[0]))
        self.names.append(_name(value))
        if is_name:
            self.names += _parts(value)

    def _add_number(self, value: str) -> None:
        digits = digits_of(value).lstrip("0")
        if len(digits) < 3:
            return
        if len(digits) < 7:
            self.short_numbers.append(Matcher(value, digits, _short_number_pattern, digits))
            return
        self._digits.append((digits, value))
        # A country prefix has one to three digits. Only a table of all countries would tell how many.
        has_prefix = value.startswith(("+", "00")) or len(digits) > 10
        local = digits[min(3, len(digits) - 7) :] if has_prefix else digits
        self.numbers.append(Matcher(value, local, _number_pattern, local))


def _should_search(string: JsonString) -> bool:
    """Return whether a value is searched elsewhere. Values of other keys, such as "yes", are not."""
    text = string.text.strip()
    if len(text) > _MAX_NAME_LENGTH or text.casefold() in PLACEHOLDERS:
        return False
    if string.kind not in {"name", "reach"} and not (
        string.kind == "text"
        and any(found["mail"] or found["phone"] for found in CONTACT_SHAPE.finditer(text))
    ):
        return False
    return len(text) > 2 or (len(text) == 2 and _UNSPACED.search(text) is not None)


def _name(value: str) -> Matcher:
    longest = max(value.split(), key=len).lower()
    # Non-ASCII letters may be composed in one string and decomposed in the other.
    return Matcher(value, longest if longest.isascii() else "", _name_pattern, value)


def _parts(value: str) -> Iterator[Matcher]:
    parts = [part.strip(".,;:()\"'") for part in value.split()]
    if 2 <= len(parts) <= 5:
        for part in parts:
            if len(part) > 2 and part.isalpha() and part.lower() not in _COMMON:
                yield Matcher(value, part.lower() if part.isascii() else "", _part_pattern, part)


@functools.lru_cache(maxsize=512)
def _short_number_pattern(digits: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){digits}(?![A-Za-z0-9])")


@functools.lru_cache(maxsize=512)
def _number_pattern(digits: str) -> re.Pattern[str]:
    end = r"(?!\d)" if len(digits) < 9 else ""
    prefix = rf"(?:\+\d{{1,3}}{_GAP}\d{{0,3}}{_GAP}|\d{{0,5}})"
    return re.compile(prefix + _GAP.join(digits) + end)


@functools.lru_cache(maxsize=512)
def _name_pattern(name: str) -> re.Pattern[str]:
    forms = sorted({name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))})
    written = "|".join(_SPACE.join(map(re.escape, form.split())) for form in forms)
    if len(name) < 5 and name.isalpha() and not _UNSPACED.search(name):
        written = _WHOLE_WORD.format(written)
    return re.compile(written, re.IGNORECASE)


@functools.lru_cache(maxsize=512)
def _part_pattern(part: str) -> re.Pattern[str]:
    # Only capitalised: "Will" is a name, "will" hardly ever is.
    forms = {part.title(), part.upper(), part if part != part.lower() else part.title()}
    return re.compile(_WHOLE_WORD.format("|".join(sorted(forms))))
