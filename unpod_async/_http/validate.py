"""Checks of arguments: one function for each kind of value.

Each function returns the checked value, or raises an error whose message begins with the argument's name and
whose `argument` is that name. The error is `InvalidArgument`, unless the caller passes another class (client
settings raise `ConfigurationError`). No message contains a string that was given, which may be a misplaced
token; only `check_id` shows it, shortened.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import datetime
from math import inf
from typing import Any, Final, TypeVar

from unpod_async._common import shorten
from unpod_async.errors import ConfigurationError, InvalidArgument
from unpod_async.models import Run

__all__ = [
    "MAX_INTEGER",
    "check_aware_datetime",
    "check_bool",
    "check_choice",
    "check_id",
    "check_ids",
    "check_instance",
    "check_integer",
    "check_number",
    "check_path",
    "check_query_text",
    "check_run_id",
    "check_run_ids",
    "check_seconds",
    "check_str",
    "check_str_or_list",
]

T = TypeVar("T")

MAX_INTEGER: Final = 2**31 - 1
"""Largest page number and page size that the server accepts."""

_MAX_ID_LENGTH: Final = 512
# Printable ASCII without space, "#", "%", "/", "?" and "\".
_ID: Final = re.compile(r"""[!"$&-.0->@-\[\]-~]+""")
_MAX_PATH_LENGTH: Final = 2048

_ErrorClass = type[InvalidArgument] | type[ConfigurationError]


def check_integer(
    name: str,
    value: object,
    *,
    minimum: int = 1,
    maximum: int | None = MAX_INTEGER,
    error: _ErrorClass = InvalidArgument,
) -> int:
    """Return `value` if it is an integer from `minimum` to `maximum` (None: no upper bound)."""
    given = _type_name(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if minimum <= value and (maximum is None or value <= maximum):
            return value
        if value.bit_length() <= 64:
            given = str(value)
    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    raise error(f"{name} must be an integer {bounds}, not {given}", argument=name)


def check_number(name: str, value: object, *, error: _ErrorClass = InvalidArgument) -> float:
    """Return `value` as a float if it is a finite number greater than 0."""
    number = _to_float(value)
    if number is None or not 0 < number < inf:
        raise error(
            f"{name} must be a finite number greater than 0, not {_describe_number(value)}", argument=name
        )
    return number


def check_seconds(
    name: str,
    value: object,
    *,
    finite: bool = True,
    error: _ErrorClass = InvalidArgument,
    hint: str | None = None,
) -> float:
    """Return `value` as a float if it is a number of seconds.

    Args:
        finite: accept finite numbers greater than 0; if False, accept 0 and infinity too.
        hint: advice for the error.
    """
    number = _to_float(value)
    if number is not None and (0 < number < inf if finite else number >= 0):
        return number
    kind = "a finite number of seconds greater than 0" if finite else "a number of seconds of at least 0"
    raise error(f"{name} must be {kind}, not {_describe_number(value)}", argument=name, hint=hint)


def _to_float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond the range of float
        return inf if value > 0 else -inf


def _describe_number(value: object) -> str:
    number = _to_float(value)
    return _type_name(value) if number is None else f"{number:g}"


def _type_name(value: object) -> str:
    return "None" if value is None else type(value).__name__


def check_bool(name: str, value: object, *, error: _ErrorClass = InvalidArgument) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, not {_type_name(value)}", argument=name)
    return value


def check_str(name: str, value: object, *, error: _ErrorClass = InvalidArgument) -> str:
    """Return `value` as a plain str."""
    if not isinstance(value, str):
        raise error(f"{name} must be a str, not {_type_name(value)}", argument=name)
    # A member of a str enumeration formats as its name; str.__str__ returns its value.
    return str.__str__(value)


def check_choice(name: str, value: object, choices: Collection[T]) -> T:
    """Return the one of `choices` that equals `value`."""
    for choice in choices:
        # `1 == True`: only values of one type are compared.
        if value == choice and isinstance(value, type(choice)):
            return choice
    *others, last = [repr(choice) for choice in choices]
    listed = f"{', '.join(others)} or {last}" if others else last
    raise InvalidArgument(f"{name} must be {listed}", argument=name)


def check_instance(name: str, value: object, kind: type[T], *, error: _ErrorClass = InvalidArgument) -> T:
    """Return `value` if it is an instance of `kind`."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise error(f"{name} must be {article} {kind.__name__}, not {_type_name(value)}", argument=name)
    return value


def check_str_or_list(name: str, value: Any) -> list[Any]:
    """Return one string as a list of one, and an iterable as a list. The items are not checked."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        return list(value)  # pyright: ignore[reportUnknownArgumentType] - the items are of any type
    raise InvalidArgument(f"{name} must be a str or a list of str, not {_type_name(value)}", argument=name)


def check_aware_datetime(name: str, value: object) -> datetime:
    """Return `value` if it is a timezone-aware datetime."""
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return value
    given = "a naive one" if isinstance(value, datetime) else _type_name(value)
    raise InvalidArgument(
        f"{name} must be a timezone-aware datetime, not {given}",
        argument=name,
        hint="add a time zone, as in datetime(2030, 1, 1, tzinfo=UTC)",
    )


def check_id(name: str, value: object) -> str:
    r"""Return `value` as a plain str that is safe as one segment of a path.

    Raises:
        InvalidArgument: it is not a str, is empty, longer than 512 characters, `.` or `..`, or contains
            anything but printable ASCII, or a space or one of `/ \ ? # %`.
    """
    text = check_str(name, value)
    if not _is_segment(text):
        raise InvalidArgument(
            f"{name} {shorten(ascii(text[:100]), 80)} is not a valid id",
            argument=name,
            hint=f"an id has 1 to {_MAX_ID_LENGTH} printable ASCII characters, without spaces\n"
            r"and / \ ? # %, and is not '.' or '..'",
        )
    return text


def _is_segment(text: str) -> bool:
    # Some servers remove ";" and what follows from a segment, and "..;" is then "..".
    is_dots = text.partition(";")[0] in {".", ".."}
    return not is_dots and len(text) <= _MAX_ID_LENGTH and _ID.fullmatch(text) is not None


def check_path(name: str, value: object) -> str:
    r"""Return `value` as a plain str that is safe as a path relative to the root of the API.

    Each of its segments is an id as `check_id` accepts it. So no part of it can lead to another endpoint, be
    a query, or be decoded by a server into something else. It may end with a slash.

    Raises:
        InvalidArgument: it is not such a path.
    """
    text = check_str(name, value)
    segments = text.removesuffix("/").split("/")
    # A colon in the first segment would make it the scheme of a URL. Servers that remove ";" and what follows
    # find an empty segment where one begins with it, and may remove that too.
    is_safe = ":" not in segments[0] and len(text) <= _MAX_PATH_LENGTH
    if not is_safe or not all(_is_segment(one) and one[0] != ";" for one in segments):
        raise InvalidArgument(
            f"{name} {shorten(ascii(text[:100]), 80)} is not a path relative to the API",
            argument=name,
            hint="write it as 'call-logs/': ids separated by single slashes, without a slash\n"
            "at the start, without '.' and '..', and without spaces and \\ ? # %;\n"
            "pass a query with params=",
        )
    return text


def check_query_text(name: str, value: object) -> str:
    """Return `value` as a plain str that reaches the server unchanged in a query.

    Raises:
        InvalidArgument: it is not a str, or contains a NUL character or a lone surrogate.
    """
    text = check_str(name, value)
    # Encoding would drop a lone surrogate, and with it part of the text.
    if "\0" in text or text != text.encode("utf-8", "ignore").decode("utf-8"):
        raise InvalidArgument(
            f"{name} contains a NUL character or a lone surrogate, which cannot be sent", argument=name
        )
    return text


def check_run_id(name: str, value: object) -> str:
    """Return the id of a run that is given as a `Run` or as its id."""
    if not isinstance(value, Run):
        return check_id(name, value)
    if value.run_id is None:
        raise InvalidArgument(f"{name} contains a Run without a run_id", argument=name)
    return check_id(name, value.run_id)


def check_ids(name: str, value: object) -> list[str]:
    """Return an id, or an iterable of ids, as a list of checked ids."""
    return [check_id(name, one) for one in check_str_or_list(name, value)]


def check_run_ids(name: str, value: object) -> list[str]:
    """Return the ids of one or more runs, each given as a `Run` or as its id."""
    runs = [value] if isinstance(value, Run) else check_str_or_list(name, value)
    if not runs:
        raise InvalidArgument(f"{name} must contain at least one run id", argument=name)
    return [check_run_id(name, run) for run in runs]
