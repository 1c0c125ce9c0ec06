"""The rule for strings that are accepted as phone numbers."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["NUMBER_HINT", "number_problem"]

NUMBER_HINT: Final = "use 3 to 20 ASCII digits, optionally a leading + and spaces . - ( )"

_DIGITS: Final = range(3, 21)
_NUMBER: Final = re.compile(r"\+?\(?[0-9](?:[ .()-]*[0-9])*\)?")
# A float: a spreadsheet or a data frame has converted the number.
_FLOAT: Final = re.compile(r"[^.]*\.0+\)?")
_SCIENTIFIC: Final = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]*)?[eE][+-]?[0-9]+")
_ALLOWED: Final = frozenset("0123456789+ .-()")


def number_problem(text: str) -> str | None:
    """Return why `text` is not a phone number that can be called, or None if it is one.

    The service queues a call to any string. So this accepts only strings that every dialler reads as the same
    number. The reason contains no digits of the number.
    """
    strange = next((character for character in text if character not in _ALLOWED), None)
    if strange is not None:
        if _SCIENTIFIC.fullmatch(text):
            return "it is in scientific notation, as spreadsheets write long numbers"
        return f"it contains {_described(strange)}"
    digits = sum(character.isdigit() for character in text)
    if digits not in _DIGITS:
        return f"it has {digits} digit{'' if digits == 1 else 's'}"
    if "+" in text[1:]:
        return "it has a plus sign that is not its first character"
    if _NUMBER.fullmatch(text) is None:
        return "it has a space, a dot, a hyphen or a bracket before its first or after its last digit"
    if _FLOAT.fullmatch(text):
        return "it ends in a decimal point and zeros, as spreadsheets and data frames write numbers"
    return None


def _described(character: str) -> str:
    """Describe a character that a phone number cannot have."""
    if character == "'":
        return "an apostrophe"
    if character in "\t\r\n":
        return "a tab or a line break"
    code = f"U+{ord(character):04X}"
    if not character.isprintable():
        # Control, format and direction characters, and spaces other than the ASCII one.
        return f"an invisible character ({code})"
    kind = unicodedata.category(character)
    if kind[0] == "N":
        return f"a digit that is not ASCII ({code})"
    if kind[0] in "LM":
        return "a letter" if character.isascii() else f"a letter or a mark that is not ASCII ({code})"
    return f"the character {character}" if character.isascii() else f"a character that is not ASCII ({code})"
