"""The request body of a create, checked and encoded.

A create places phone calls. It cannot be undone and is not safe to repeat, and some malformed bodies leave an
empty run behind. So everything that the server is known to refuse or to misread is refused here, before
anything is sent.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, cast

import msgspec

from unpod_async._common import shorten
from unpod_async._http import check_id
from unpod_async.create import Schedule, ScheduleAuto, ScheduleCustom, ScheduleNow
from unpod_async.errors import InvalidArgument

__all__ = [
    "CheckedCreate",
    "EncodedCreate",
    "check_create",
    "check_json",
    "combine_problems",
    "encode_create",
]

_MAX_DEPTH: Final = 100
_MAX_LISTED: Final = 100
"""Maximum number of problems that a message lists. `problems` of the error has all of them."""

_INVALID_CHARACTER: Final = re.compile("[\x00\ud800-\udfff]")
# Errors show a key only if it looks like the name of a field: any other key may be personal data.
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


_NUMBER_HINT: Final = "use 3 to 20 ASCII digits, optionally a leading + and spaces . - ( )"

_NUMBER_DIGITS: Final = range(3, 21)
_NUMBER: Final = re.compile(r"\+?\(?[0-9](?:[ .()-]*[0-9])*\)?")
# A float: a spreadsheet or a data frame has converted the number.
_FLOAT: Final = re.compile(r"[^.]*\.0+\)?")
_SCIENTIFIC: Final = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]*)?[eE][+-]?[0-9]+")
_NUMBER_CHARACTERS: Final = frozenset("0123456789+ .-()")


class EncodedCreate(NamedTuple):
    """The body of a create, ready to be sent.

    Attributes:
        body: the JSON of the request.
        document_ids: the ids of the documents that have one, in order. The server returns the id of a
            document as the `ref_id` of its task.
    """

    body: bytes
    document_ids: tuple[str, ...]


class CheckedCreate(NamedTuple):
    """The checked arguments of a create. The documents are copies."""

    pilot: str
    documents: Sequence[dict[str, object]]
    context: str
    schedule: ScheduleNow | ScheduleAuto | ScheduleCustom

    def with_ids(self, make_id: Callable[[int], str]) -> CheckedCreate:
        """Return a copy in which each document has an id. `make_id` takes the index of one without an id."""
        return self._replace(
            documents=[
                document if id_of_document(document) else {**document, "document_id": make_id(index)}
                for index, document in enumerate(self.documents)
            ]
        )

    def encode(self) -> EncodedCreate:
        """Encode the request."""
        ids = [str(document_id) for document in self.documents if (document_id := id_of_document(document))]
        return EncodedCreate(msgspec.json.encode(self._asdict()), tuple(ids))


def encode_create(
    *,
    pilot: str,
    documents: Iterable[Mapping[str, object]],
    context: str,
    schedule: Schedule = "now",
    make_id: Callable[[], str] | None = None,
) -> EncodedCreate:
    """Check the arguments of a create and encode them.

    Args:
        pilot: as in `check_create`.
        documents: as in `check_create`.
        context: as in `check_create`.
        schedule: as in `check_create`.
        make_id: creates the `document_id` of a document without an id. None, the default, adds no ids.

    Raises:
        InvalidArgument: as `check_create`.
    """
    create = check_create(pilot=pilot, documents=documents, context=context, schedule=schedule)
    if make_id is not None:
        create = create.with_ids(lambda _: make_id())
    return create.encode()


def check_create(
    *, pilot: object, documents: object, context: object, schedule: object = "now"
) -> CheckedCreate:
    """Check the arguments of a create.

    The documents are copied; the caller's objects stay unchanged. The API documents the body in "Create a
    Task in a Space".

    Args:
        pilot: the handle of the agent that calls. The server does not check that the agent exists.
        documents: one mapping for each call, with the strings `name` and `contact_number`. All other values
            are JSON. The server returns `id`, or else `document_id`, as the `ref_id` of the task.
        context: what the calls are about. The API documents it as optional, but refuses a body without it.
        schedule: a `ScheduleNow`, `ScheduleAuto` or `ScheduleCustom`, or "now" or "auto".

    Raises:
        InvalidArgument: an argument is not accepted. The message names the location ("documents[3].age") and
            contains no values. If several documents are not accepted, it lists each of them.
    """
    return CheckedCreate(
        documents=_copy_documents(documents),
        pilot=check_id("pilot", pilot),
        context=_check_not_blank("context", context),
        schedule=_schedule_object(schedule),
    )


def id_of_document(document: Mapping[str, object]) -> object:
    """Return the id of a document; a false value if it has none.

    An empty id counts as none: spreadsheet exports write one into every row that has no id.
    """
    return document.get("id") or document.get("document_id")


def _schedule_object(value: object) -> ScheduleNow | ScheduleAuto | ScheduleCustom:
    if isinstance(value, ScheduleNow | ScheduleAuto | ScheduleCustom):
        return value
    if isinstance(value, str) and value in {"now", "auto"}:
        return ScheduleNow() if value == "now" else ScheduleAuto()
    raise InvalidArgument(
        "schedule must be 'now', 'auto', a ScheduleNow, a ScheduleAuto or a ScheduleCustom",
        argument="schedule",
        hint="use ScheduleCustom(date, time) or ScheduleCustom.at(datetime)",
    )


def _copy_documents(value: object) -> list[dict[str, object]]:
    kind = type(value).__name__
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _invalid("documents", f"must be a sequence of mappings, not {kind}")
    copies: list[dict[str, object]] = []
    refused: list[InvalidArgument] = []
    index_of: dict[object, int] = {}
    for index, document in enumerate(cast("Iterable[object]", value)):
        try:
            copy = _copy_document(f"documents[{index}]", document)
            _check_unique(index, copy, index_of)
        except InvalidArgument as error:
            refused.append(error)
        else:
            copies.append(copy)
    if refused:
        raise combine_problems("documents", refused, len(refused) + len(copies))
    if not copies:
        raise _invalid("documents", "must contain at least one mapping", "each mapping is one call")
    return copies


def combine_problems(argument: str, refused: Sequence[InvalidArgument], total: int) -> InvalidArgument:
    """Return one error for all refused items of an argument. `total` is the number of its items."""
    problems = tuple(problem for error in refused for problem in error.problems or (error.summary,))
    if len(problems) == 1:
        return InvalidArgument(problems[0], argument=argument, hint=refused[0].hint, problems=problems)
    more = f"; and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
    return InvalidArgument(
        f"{argument}: {len(refused)} of {total} cannot be sent: {'; '.join(problems[:_MAX_LISTED])}{more}",
        argument=argument,
        hint=next((error.hint for error in refused if error.hint), None),
        problems=problems,
    )


def _copy_document(where: str, document: object) -> dict[str, object]:
    if not isinstance(document, Mapping):
        raise _invalid(where, f"must be a mapping, not {type(document).__name__}")
    copy = _copy_mapping(where, cast("Mapping[object, object]", document), 1)
    for key in ("name", "contact_number"):
        if key not in copy:
            raise _invalid(where, f"must have {key!r}, a non-empty string")
        _check_not_blank(f"{where}.{key}", copy[key])
    problem = _number_problem(str(copy["contact_number"]))
    if problem is not None:
        raise _invalid(f"{where}.contact_number", f"is not a phone number: {problem}", _NUMBER_HINT)
    for key in ("id", "document_id"):
        if copy.get(key) is not None:
            _check_text(f"{where}.{key}", copy[key])
    return copy


def _check_unique(index: int, document: Mapping[str, object], index_of: dict[object, int]) -> None:
    """Record the id of a document. Raises InvalidArgument if an earlier document has the same id."""
    document_id = id_of_document(document)
    if not document_id:
        return
    first = index_of.setdefault(document_id, index)
    if first != index:
        raise _invalid(
            f"documents[{index}]",
            f"has the same id as documents[{first}]",
            "use a different id for each document, to tell their tasks apart",
        )


def check_json(where: str, value: object) -> object:
    """Return a copy of `value` that contains plain JSON types only.

    Raises:
        InvalidArgument: it contains something that JSON or the server does not take. The message contains no
            values.
    """
    return _copy_json(where, value, 1)


def _copy_json(where: str, value: object, depth: int) -> object:
    """Return a copy of `value` that contains plain JSON types only."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _check_text(where, value)
    if isinstance(value, int | float):
        return _copy_number(where, value)
    if isinstance(value, Mapping):
        return _copy_mapping(where, cast("Mapping[object, object]", value), depth)
    if isinstance(value, list | tuple):
        _check_depth(where, depth)
        items = enumerate(cast("Sequence[object]", value))
        return [_copy_json(f"{where}[{index}]", item, depth + 1) for index, item in items]
    kind = type(value).__name__
    raise _invalid(
        where,
        f"must be a JSON value, not {kind}",
        "use str, int, float, bool, None, mappings, lists and tuples",
    )


def _copy_number(where: str, value: float) -> float:
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise _invalid(where, "must fit into a signed 64-bit integer", "send a longer number as a str")
        return int(value)
    if not math.isfinite(value):
        raise _invalid(where, "must be a finite number", "JSON has neither NaN nor infinity")
    return float(value)


def _copy_mapping(where: str, value: Mapping[object, object], depth: int) -> dict[str, object]:
    _check_depth(where, depth)
    copy: dict[str, object] = {}
    for index, (key, item) in enumerate(value.items()):
        field = _check_text(f"key {index} of {where}", key)
        inner = f"{where}.{field}" if _FIELD.fullmatch(field) else f"{where}.<key {index}>"
        copy[field] = _copy_json(inner, item, depth + 1)
    return copy


def _check_depth(where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _invalid(shorten(where, 120), f"is nested more than {_MAX_DEPTH} levels deep")


def _check_text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise _invalid(where, f"must be a str, not {type(value).__name__}")
    text = str.__str__(value)
    if _INVALID_CHARACTER.search(text):
        raise _invalid(where, "must not contain a NUL character or a lone surrogate")
    return text


def _check_not_blank(where: str, value: object) -> str:
    text = _check_text(where, value)
    if not text.strip():
        raise _invalid(where, "must not be only whitespace" if text else "must not be empty")
    return text


def _invalid(where: str, problem: str, hint: str | None = None) -> InvalidArgument:
    return InvalidArgument(f"{where} {problem}", argument=where, hint=hint)


def _number_problem(text: str) -> str | None:
    """Return why `text` is not a phone number that can be called, or None if it is one.

    The service queues a call to any string. So this accepts only strings that every dialler reads as the same
    number. The reason contains no digits of the number.
    """
    strange = next((character for character in text if character not in _NUMBER_CHARACTERS), None)
    if strange is not None:
        if _SCIENTIFIC.fullmatch(text):
            return "it is in scientific notation, as spreadsheets write long numbers"
        return f"it contains {_describe_character(strange)}"
    digits = sum(character.isdigit() for character in text)
    if digits not in _NUMBER_DIGITS:
        return f"it has {digits} digit{'' if digits == 1 else 's'}"
    if "+" in text[1:]:
        return "it has a plus sign that is not its first character"
    if _NUMBER.fullmatch(text) is None:
        return "it has a space, a dot, a hyphen or a bracket before its first or after its last digit"
    if _FLOAT.fullmatch(text):
        return "it ends in a decimal point and zeros, as spreadsheets and data frames write numbers"
    return None


def _describe_character(character: str) -> str:
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
