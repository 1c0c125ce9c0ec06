"""Matchers find the contact data of a row in the other strings of the row."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from unpod_async._export.redaction.patterns import (
    CONTACT_SHAPE,
    MAY_CONTAIN_CONTACT,
    PLACEHOLDERS,
    KeyKind,
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
        substrings: A string with the value has one of these if `is_exact`, else all of them in lower case.
            Empty if only the pattern can tell.
    """

    value: str
    required: str
    compile: Callable[[str], re.Pattern[str]]
    form: str
    substrings: tuple[bytes, ...]
    is_exact: bool

    @property
    def pattern(self) -> re.Pattern[str]:
        return self.compile(self.form)


class _ValueMatchers:
    """The matchers of one value.

    Attributes:
        numbers: Numbers of seven or more digits.
        short_numbers: Numbers of three to six digits.
        names: Names and all other contact data.
        digits: The digits and the text of each of `numbers`.
        by_required: `short_numbers` and `names` by `required`.
    """

    __slots__ = ("by_required", "digits", "names", "numbers", "short_numbers")

    def __init__(self, value: str, *, is_name: bool) -> None:
        self.numbers: list[Matcher] = []
        self.short_numbers: list[Matcher] = []
        self.names: list[Matcher] = []
        self.digits: list[tuple[str, str]] = []
        self._add(value, is_name=is_name)
        by_required: dict[bytes, list[Matcher]] = {}
        for matcher in (*self.short_numbers, *self.names):
            by_required.setdefault(matcher.required.encode(), []).append(matcher)
        self.by_required = list(by_required.items())

    def _add(self, value: str, *, is_name: bool) -> None:
        if normalize(value).isdigit():
            self._add_number(value)
            return
        may_contain_contact = MAY_CONTAIN_CONTACT.search(value) is not None
        for found in CONTACT_SHAPE.finditer(value) if may_contain_contact else ():
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
            self.short_numbers.append(
                Matcher(value, digits, _short_number_pattern, digits, (digits.encode(),), True)
            )
            return
        self.digits.append((digits, value))
        # A country prefix has one to three digits. Only a table of all countries would tell how many.
        has_prefix = value.startswith(("+", "00")) or len(digits) > 10
        local = digits[min(3, len(digits) - 7) :] if has_prefix else digits
        self.numbers.append(Matcher(value, local, _number_pattern, local, (local.encode(),), True))


class RowMatchers:
    """The matchers of one row.

    Args:
        contacts: The contact data of the row, the kinds of their keys, and where they are.

    Attributes:
        numbers: Numbers of seven or more digits, searched everywhere.
        in_texts: Numbers of three to six digits, searched as whole words, then names and all other contact
            data. Both are searched in texts only.
        by_required: `in_texts` by `required`.
    """

    def __init__(self, contacts: Iterable[tuple[str, KeyKind, Any, Any]]) -> None:
        self.numbers: list[Matcher] = []
        self.by_required: list[tuple[bytes, list[Matcher]]] = []
        self._digits: list[tuple[str, str]] = []
        short_numbers: list[Matcher] = []
        names: list[Matcher] = []
        # In the order of the row, so that equal rows give equal lines.
        for one in dict.fromkeys([_matchers_of(text, kind) for text, kind, _, _ in contacts]):
            if one is not None:
                self.numbers += one.numbers
                self._digits += one.digits
                short_numbers += one.short_numbers
                names += one.names
                self.by_required += one.by_required
        self.in_texts = short_numbers + names

    def number(self, found: str) -> str:
        """Return the number of the row that equals a found one apart from its prefix, or the found one."""
        digits = digits_of(found)
        for own, value in self._digits:
            if digits.endswith(own[-10:]) or (len(digits) > 6 and own.endswith(digits.lstrip("0")[-10:])):
                return value
        return found


# Most values occur several times in a row, and those of the user in all of its rows.
@functools.lru_cache(maxsize=2048)
def _matchers_of(text: str, kind: KeyKind) -> _ValueMatchers | None:
    if _should_search(text, kind):
        return _matchers_of_value(text.strip(), kind == "name")
    return None


@functools.lru_cache(maxsize=2048)
def _matchers_of_value(value: str, is_name: bool) -> _ValueMatchers:
    return _ValueMatchers(value, is_name=is_name)


def _should_search(text: str, kind: KeyKind) -> bool:
    """Return whether a value is searched elsewhere. Values of other keys, such as "yes", are not."""
    text = text.strip()
    if len(text) > _MAX_NAME_LENGTH or text.casefold() in PLACEHOLDERS:
        return False
    if kind not in {"name", "reach"} and not (
        kind == "text" and any(found["mail"] or found["phone"] for found in CONTACT_SHAPE.finditer(text))
    ):
        return False
    return len(text) > 2 or (len(text) == 2 and _UNSPACED.search(text) is not None)


def _name(value: str) -> Matcher:
    parts = sorted(value.lower().split(), key=len, reverse=True)
    longest = max(value.split(), key=len).lower()
    # Non-ASCII letters may be composed in one string and decomposed in the other.
    substrings = tuple(part.encode() for part in parts if part.isascii())
    return Matcher(value, longest if longest.isascii() else "", _name_pattern, value, substrings, False)


def _parts(value: str) -> Iterator[Matcher]:
    parts = [part.strip(".,;:()\"'") for part in value.split()]
    if 2 <= len(parts) <= 5:
        for part in parts:
            if len(part) > 2 and part.isalpha() and part.lower() not in _COMMON:
                substrings = tuple(form.encode() for form in _forms(part))
                yield Matcher(
                    value, part.lower() if part.isascii() else "", _part_pattern, part, substrings, True
                )


def _forms(part: str) -> list[str]:
    """Return how a part of a name is written. "Will" is a name, "will" hardly ever is."""
    return sorted({part.title(), part.upper(), part if part != part.lower() else part.title()})


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
    return re.compile(_WHOLE_WORD.format("|".join(_forms(part))))
