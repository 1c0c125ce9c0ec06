"""The contact data that a row was found to hold, to be looked for in the row's other texts."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from unpod_async._export.redaction.json_strings import Leaf
from unpod_async._export.redaction.patterns import (
    FOUND_OR_MAIL,
    PLACEHOLDERS,
    digits_of,
    is_phone,
    normal,
    words,
)

__all__ = ["Needle", "Needles"]

_LONGEST = 200  # characters; what is longer is no name
_GAP = r"[\s().\-/\u2010-\u2015]{0,3}"
# Between the parts of a name, also in an address or the name of a file.
_SPACE = r"(?:\s|%20|[+_.\-])+"
# Written without spaces between words: a name has no boundary there, and two characters are a whole one.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]"
)
_WHOLE_WORD = r"(?<!\w)(?:{})(?:['’]?s)?(?!\w)"
# Parts of a name that are nobody's.
_COMMON = words(
    "the and for von van der den del los las mrs miss prof sir ltd inc llc pvt gmbh test user customer client"
    " contact name person lead"
)


class Needle(NamedTuple):
    """A value and how it may be written in a text.

    Attributes:
        value: what it is to be replaced for: of the part of a name, the whole name.
        must: a text without this, in lower case or as digits, does not hold it.
        write: makes the pattern of `form`, once a text passes `must`.
    """

    value: str
    must: str
    write: Callable[[str], re.Pattern[str]]
    form: str

    @property
    def pattern(self) -> re.Pattern[str]:
        return self.write(self.form)


class Needles:
    """What to look for in the texts of one row.

    Attributes:
        numbers: of seven digits and more, looked for everywhere.
        short_numbers: of three to six digits, looked for in free text, standing alone.
        names: names and whatever else was given as contact data.
    """

    def __init__(self, contacts: Iterable[Leaf]) -> None:
        self.numbers: list[Needle] = []
        self.short_numbers: list[Needle] = []
        self.names: list[Needle] = []
        self._digits: list[tuple[str, str]] = []
        # In the order of the row, so that the same row always gives the same line.
        met = [(leaf.text.strip(), leaf.kind == "name") for leaf in contacts if _counts(leaf)]
        for value, is_name in dict.fromkeys(met):
            self._add(value, is_name)

    def number(self, found: str) -> str:
        """The value of the row that a number found in a text is, with or without a prefix; else itself."""
        digits = digits_of(found)
        for own, value in self._digits:
            if digits.endswith(own[-10:]) or (len(digits) > 6 and own.endswith(digits.lstrip("0")[-10:])):
                return value
        return found

    def _add(self, value: str, is_name: bool) -> None:
        plain = normal(value)
        if plain.isdigit():
            self._add_number(value)
            return
        for found in FOUND_OR_MAIL.finditer(value):
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
            self.short_numbers.append(Needle(value, digits, _short_number_pattern, digits))
            return
        self._digits.append((digits, value))
        # How long a country prefix is, only a table of all countries would say: it has one to three digits.
        has_prefix = value.startswith(("+", "00")) or len(digits) > 10
        local = digits[min(3, len(digits) - 7) :] if has_prefix else digits
        self.numbers.append(Needle(value, local, _number_pattern, local))


def _counts(leaf: Leaf) -> bool:
    """Whether a value is looked for: not what a contact's other keys hold, such as "yes"."""
    text = leaf.text.strip()
    if len(text) > _LONGEST or text.casefold() in PLACEHOLDERS:
        return False
    if leaf.kind == "text" and not any(
        found["mail"] or found["phone"] for found in FOUND_OR_MAIL.finditer(text)
    ):
        return False
    return len(text) > 2 or (len(text) == 2 and _UNSPACED.search(text) is not None)


def _name(value: str) -> Needle:
    longest = max(value.split(), key=len).lower()
    # Other letters may be composed in the one text and decomposed in the other.
    return Needle(value, longest if longest.isascii() else "", _name_pattern, value)


def _parts(value: str) -> Iterator[Needle]:
    parts = [part.strip(".,;:()\"'") for part in value.split()]
    if 2 <= len(parts) <= 5:
        for part in parts:
            if len(part) > 2 and part.isalpha() and part.lower() not in _COMMON:
                yield Needle(value, part.lower() if part.isascii() else "", _part_pattern, part)


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
    # Capitalised only: "Will" is a name, and "will" hardly ever is.
    forms = {part.title(), part.upper(), part if part != part.lower() else part.title()}
    return re.compile(_WHOLE_WORD.format("|".join(sorted(forms))))
