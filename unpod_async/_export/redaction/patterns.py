"""What counts as contact data: keys that name it, and what e-mail addresses and phone numbers look like."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Literal, TypeAlias

__all__ = [
    "FOUND",
    "FOUND_OR_MAIL",
    "MAIL",
    "PLACEHOLDERS",
    "WORTH_A_LOOK",
    "KeyKind",
    "digits_of",
    "is_phone",
    "kind_of_key",
    "normal",
    "words",
]

KeyKind: TypeAlias = Literal["name", "reach", "technical", "text"]
"""What a key says of its value: a person's name, a number or address to reach one by, something technical
(ids, times, statuses), or nothing."""


def words(text: str) -> frozenset[str]:
    """The words of a text."""
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
# The agent's own number and names are no contact's; the others name things.
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
    """What the key says of its value; reads snake_case, camelCase and words.

    "contact_number", "Phone No. 2", "customerName" and "email_id" name contact data; "phoneNumberId" and
    "assistant_number" do not.
    """
    said = [
        word.lower() for word in _WORDS.findall(key.replace("e-mail", "email").replace("E-mail", "email"))
    ]
    if not said:
        return "text"
    last, among = said[-1], set(said)
    if among in ({"caller", "id"}, {"callerid"}):
        return "reach"
    if among & _THINGS and not among & {"email", "emails", "mail"}:
        return "technical" if among & {"agent", "assistant", "bot"} or last in _TECHNICAL else "text"
    # "Email ID" is what an address is called in India.
    if last in _TECHNICAL and not (last in {"id", "ids"} and among & {"email", "emails", "mail"}):
        return "technical"
    if among & _REACH:
        return "reach"
    if last in _NUMBERS and (said == ["number"] or (among & _PERSONS and among <= _PERSONS | _NUMBERS)):
        return "reach"
    if last in _NAMES or among <= _PEOPLE:
        return "name"
    return "text"


# A text without any of these holds no address and no number.
WORTH_A_LOOK = re.compile(r"\d|@|%40")

# Said where there is no name or number, casefolded.
PLACEHOLDERS = words("n/a na nan nil null none unknown undefined true false") | {"", "-"}

_URL = r"(?P<url>(?:https?|wss?|ftp|s3|gs)://[^\s\"'<>]+)"
_MAIL = r"(?P<mail>(?<![\w.+%\-])[\w.+%\-]{1,256}?(?:@|%40)[^\W_][\w\-]{0,62}(?:\.[\w\-]{1,63}){1,8})"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
# Digits that are no phone number: times and dates, UUIDs, IP addresses, spans of years, decimal fractions.
_KEEP = (
    r"(?P<keep>(?<![\w.])(?:"
    r"\d{4}-\d\d?-\d\d?(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?(?:Z|[+-]\d\d:?\d\d))?)?"
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
    rf"\d(?:{_GAP}{{0,3}}\d){{6,24}}(?![A-Za-z0-9_]))"
)

MAIL = re.compile(_MAIL)
FOUND = re.compile(f"{_URL}|{_KEEP}|{_PHONE}", re.IGNORECASE)
FOUND_OR_MAIL = re.compile(f"{_URL}|{_MAIL}|{_KEEP}|{_PHONE}", re.IGNORECASE)
"""Groups url, mail, keep and phone; a `phone` is one when `is_phone` says so as well."""

_WRITTEN_NUMBER = re.compile(r"[+(]*\d(?:[\s().\-/\u00a0\u2010-\u2015]*\d)*[\s)]*")


def digits_of(text: str) -> str:
    """The digits in `text`, those of other scripts as ASCII."""
    return "".join(str(unicodedata.digit(one)) for one in text if one.isdigit())


def is_phone(found: re.Match[str]) -> bool:
    """Whether what the pattern found has a phone number's length, and does not belong to a longer word."""
    text = found["phone"]
    digits = len(digits_of(text))
    if text.isdigit():
        # More than E.164 allows is an id. With gaps it may be two numbers one after the other.
        if not 8 <= digits <= 15:
            return False
    elif digits < 7:
        return False
    start = found.start()
    # "INV-2025-001" is an invoice; "Tel-9876543210" is a number all the same.
    joined = start > 1 and found.string[start - 1] in "-/._#" and found.string[start - 2].isalnum()
    return digits >= 10 or not joined


def normal(value: str) -> str:
    """The form of a value in which it is the same for the same person.

    Of a number its last ten digits, so that it is the same with and without a country prefix; of anything
    else the text without white space around it and without case.
    """
    value = value.strip()
    if _WRITTEN_NUMBER.fullmatch(value):
        return digits_of(value)[-10:]
    return " ".join(value.casefold().split())
