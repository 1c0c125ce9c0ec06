"""The patterns of contact data: the keys that name it, e-mail addresses and phone numbers."""

from __future__ import annotations

import functools
import re
import unicodedata
from decimal import Decimal
from typing import Literal, TypeAlias

__all__ = [
    "CONTACT_SHAPE",
    "MAIL",
    "MAY_CONTAIN_CONTACT",
    "NUMBER_OR_URL",
    "PLACEHOLDERS",
    "KeyKind",
    "digits_of",
    "is_long_number",
    "is_phone",
    "kind_of_key",
    "mask_contact",
    "normalize",
    "words",
]

KeyKind: TypeAlias = Literal["name", "reach", "location", "measure", "reference", "technical", "text"]
"""The kind of value that a key names.

"name": the name of a person. "reach": a phone number or an address. "location": the location of a user.
"measure": a time, duration, cost or count. "reference": an id that may contain contact data. "technical":
another technical value, such as a status. "text": none of these.
"""


def words(text: str) -> frozenset[str]:
    """Return the words of a string."""
    return frozenset(text.split())


_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+")
_REACH = words(
    "phone phones telephone tel mobile mobiles cell cellphone landline whatsapp msisdn fax email emails mail"
    " mails"
)
_PERSONS = words(
    "customer customers contact contacts caller callers callee callees called calling recipient recipients"
    " client lead user person alternate alternative alt primary secondary other home work office emergency to"
    " from dialed dialled destination registered"
)
_PEOPLE = words("customer customers contact contacts caller callers callee callees recipient recipients")
_NAMES = words(
    "name names surname firstname lastname middlename fullname forename nickname username displayname"
    " customername contactname"
)
_NUMBERS = words("number numbers no num nos nums")
# Numbers and names of the agent are not contact data. The other words name things.
_THINGS = words(
    "agent assistant bot company organization organisation org business brand product model tool function"
    " file host domain space event campaign plan service voice provider queue template column field"
)
_TECHNICAL = words(
    "id ids uuid token handle role type status state timestamp time times date datetime created modified"
    " updated started ended at ts timezone language version ref provider format mode count"
)


@functools.lru_cache(maxsize=4096)
def kind_of_key(key: str) -> KeyKind:
    """Return what a key says about its value. The key may be snake_case, camelCase or words.

    "contact_number", "Phone No. 2", "customerName" and "email_id" name contact data; "phoneNumberId" and
    "assistant_number" do not.
    """
    key_words = [
        word.lower() for word in _WORDS.findall(key.replace("e-mail", "email").replace("E-mail", "email"))
    ]
    if not key_words:
        return "text"
    last, found = key_words[-1], set(key_words)
    if found in ({"caller", "id"}, {"callerid"}):
        return "reach"
    if found & _THINGS and not found & {"email", "emails", "mail"}:
        return "technical" if found & {"agent", "assistant", "bot"} or last in _TECHNICAL else "text"
    # In India, "Email ID" means an address.
    if last in _TECHNICAL and not (last in {"id", "ids"} and found & {"email", "emails", "mail"}):
        return "technical"
    if found & _REACH:
        return "reach"
    if last in _NUMBERS and (key_words == ["number"] or (found & _PERSONS and found <= _PERSONS | _NUMBERS)):
        return "reach"
    if last in _NAMES or found <= _PEOPLE:
        return "name"
    return "text"


# A string without any of these has no address and no number.
MAY_CONTAIN_CONTACT = re.compile(r"\d|@|%40")

# Values that stand for a missing name or number, casefolded.
PLACEHOLDERS = words("n/a na nan nil null none unknown undefined true false") | {"", "-"}

_URL = r"(?P<url>(?:https?|wss?|ftp|s3|gs)://[^\s\"'<>]+)"
_MAIL = r"(?P<mail>(?<![\w.+%\-])[\w.+%\-]{1,256}?(?:@|%40)[^\W_][\w\-]{0,62}(?:\.[\w\-]{1,63}){1,8})"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
# Digits that are not a phone number: times, dates, UUIDs, IP addresses, ranges of years, decimal fractions.
_NOT_A_PHONE = (
    r"(?P<keep>(?<![\w.])(?:"
    r"\d{4}(?P<dash>[-_])\d\d?(?P=dash)\d\d?"
    r"(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?(?:Z|[+-]\d\d:?\d\d))?)?"
    r"|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:T?[0-2]\d[0-5]\d[0-5]\dZ?)?"
    rf"|{_DAY}(?P<mark>[./\-]){_DAY}(?P=mark)(?:19|20)?\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?"
    r"|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
    r"|\d{1,3}(?:\.\d{1,3}){3}"
    r"|(?:19|20)\d\d\s?[\-–/]\s?(?:19|20)\d\d"
    r"|\d{1,4}\.\d+"
    r")(?![\w.\-]*\w))"
)
_GAP = r"[\s().\-/\u00a0\u2010-\u2015]"
_PHONE = (
    r"(?P<phone>(?<![A-Za-z0-9_])(?:\((?=\+?\d{1,5}\)))?(?:\+\s?)?"
    rf"(?:\d(?:{_GAP}{{0,3}}\d){{6,24}}|\d{{2,6}}(?:_\d{{2,6}}){{1,4}})(?![A-Za-z0-9_]))"
)

MAIL = re.compile(_MAIL)
NUMBER_OR_URL = re.compile(f"{_URL}|{_NOT_A_PHONE}|{_PHONE}", re.IGNORECASE)
CONTACT_SHAPE = re.compile(f"{_URL}|{_MAIL}|{_NOT_A_PHONE}|{_PHONE}", re.IGNORECASE)
"""Has the groups url, mail, keep and phone. Check a `phone` with `is_phone`."""

_WRITTEN_NUMBER = re.compile(r"[+(]*\d(?:[\s()._\-/\u00a0\u2010-\u2015]*\d)*[\s)]*")


def digits_of(text: str) -> str:
    """Return the digits in a string; digits of other scripts become ASCII."""
    if text.isascii():
        return "".join(filter(str.isdigit, text))
    return "".join(str(unicodedata.digit(one)) for one in text if one.isdigit())


def is_phone(found: re.Match[str]) -> bool:
    """Return whether a match has the length of a phone number and is not part of a longer word."""
    text = found["phone"]
    digits = len(digits_of(text))
    if text.isdigit():
        # More digits than E.164 allows are an id. With gaps, they may be two numbers.
        if not 8 <= digits <= 15:
            return False
    elif digits < 7:
        return False
    start = found.start()
    # "INV-2025-001" is an invoice, but "Tel-9876543210" has a phone number.
    joined = start > 1 and found.string[start - 1] in "-/._#" and found.string[start - 2].isalnum()
    return digits >= 10 or not joined


def mask_contact(text: str) -> str:
    """Return a string with "•••" in place of e-mail addresses and of what looks like phone numbers."""

    def mask(found: re.Match[str]) -> str:
        return "•••" if found["mail"] or (found["phone"] and is_phone(found)) else found[0]

    return CONTACT_SHAPE.sub(mask, text)


def is_long_number(number: bytes) -> bool:
    """Return whether a JSON number is whole and has 8 to 15 digits, like a phone number."""
    if number.isdigit():  # the usual case
        return 8 <= len(number) <= 15
    if len(number) < 3:  # the shortest is 1e7
        return False
    try:
        value = Decimal(number.decode())
        return 10**7 <= value < 10**15 and value == value.to_integral_value()
    except ArithmeticError:
        return False


def normalize(value: str) -> str:
    """Return the form of a value that is equal for the same person.

    For a number, it is the last ten digits, so that the country prefix does not matter. For any other value,
    it is the casefolded string with single spaces.
    """
    value = value.strip()
    if _WRITTEN_NUMBER.fullmatch(value):
        return digits_of(value)[-10:]
    return " ".join(value.casefold().split())
