"""Creating tasks: the checks of the service in their order, and what remains stored after a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NoReturn, cast

from unpod_async.testing import accounts
from unpod_async.testing.answers import ApiResponse, ImmediateResponse, json_response
from unpod_async.testing.store import AddedTask, DataStore

__all__ = ["CreatedCall", "create"]

_REQUIRED = "This field is required."
_SPANISH = {
    _REQUIRED: "Este campo es requerido.",
    "This field may not be null.": "Este campo no puede ser nulo.",
    "This field may not be blank.": "Este campo no puede estar en blanco.",
}
_NO_DATE = "Invalid schedule format. 'calling_date' and 'calling_time' are required for manual scheduling."
_MISSING = object()
_INT64 = range(-(2**63), 2**63)
_MAX_DOCUMENT = 16 * 2**20  # bytes; the limit of the database
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([AaPp][Mm])?\s*(Z|[+-]\d{2}:?\d{2})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class CreatedCall:
    """A call that a POST queued. `document` is as the caller sent it."""

    run_id: str
    task_id: str
    document: dict[str, Any]
    space_token: str


def create(
    store: DataStore,
    account: accounts.FakeAccount,
    space: accounts.FakeSpace,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> tuple[ApiResponse, list[CreatedCall]]:
    """Return the response to a create request, and the calls that it queued.

    A document that cannot be stored fails the request after its run was stored, so an empty run remains.

    Raises:
        ImmediateResponse: the request is refused.
    """
    data = _parse(headers, body)
    pilot, documents, context, schedule = _validate(data, headers.get("accept-language", ""))
    if not documents:
        raise ImmediateResponse(_failed(400, {"detail": "No documents to call."}))
    scheduled = _scheduled(schedule, now)
    for place, document in enumerate(documents):
        reference = document.get("id") or document.get("document_id")
        if reference is not None and not isinstance(reference, str):
            problem = {
                "type": "string_type",
                "loc": ["body", "tasks", place, "ref_id"],
                "msg": "Input should be a valid string",
                "input": reference,
            }
            raise ImmediateResponse(_upstream(422, {"detail": [problem]}))
    moment = int(now.timestamp() * 1000) * 1000
    run = store.insert_run(space.token, moment)
    if any(not _storable(document) for document in documents):
        raise ImmediateResponse(_upstream(500, "Internal Server Error"))
    run_id, status = store.ids.make("R", run), "pending" if scheduled is None else "scheduled"
    calls: list[CreatedCall] = []
    for document in documents:
        added = AddedTask(run, store.newest, pilot, account, context, document, scheduled)
        task_id = store.ids.make("T", store.insert_task(added, status))
        calls.append(CreatedCall(run_id, task_id, document, space.token))
    ids = [call.task_id for call in calls]
    created = {"run_id": run_id, "task_ids": ids, "status": dict.fromkeys(ids, status)}
    payload = {"status_code": 200, "message": "Task Created Successfully", "data": created}
    return json_response(200, payload), calls


def _parse(headers: Mapping[str, str], body: bytes) -> object:
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        message = f'Unsupported media type "{content_type}" in request.'
        raise ImmediateResponse(json_response(415, {"message": message, "status_code": 415}))
    try:
        return cast(object, json.loads(body.decode(), parse_constant=_not_json))
    except ValueError as error:  # broken JSON, NaN, or not UTF-8
        detail = {"detail": f"JSON parse error - {error}"}
        raise ImmediateResponse(
            json_response(400, {"status_code": 400, "message": "Error", "data": detail})
        ) from None


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"Out of range float values are not JSON compliant: {constant}")


def _validate(data: object, language: str) -> tuple[str, list[dict[str, Any]], str, dict[str, Any]]:
    if not isinstance(data, dict):
        text = f"Invalid data. Expected a dictionary, but got {type(data).__name__}."
        raise ImmediateResponse(_invalid({"non_field_errors": [text]}, language))
    body = cast(dict[str, Any], data)
    errors: dict[str, Any] = {}
    for name in ("pilot", "context"):
        problem = _text_problem(body.get(name, _MISSING))
        if problem is not None:
            errors[name] = [problem]
    problems = _documents_problem(body.get("documents", _MISSING))
    if problems is not None:
        errors["documents"] = problems
    schedule = body.get("schedule", {})
    if not isinstance(schedule, dict):
        errors["schedule"] = [_dictionary_problem(schedule)]
    if errors:
        raise ImmediateResponse(_invalid(errors, language))
    pilot, context = str(body["pilot"]).strip(), str(body["context"]).strip()
    return pilot, body["documents"], context, cast(dict[str, Any], schedule)


def _text_problem(value: object) -> str | None:
    if value is _MISSING:
        return _REQUIRED
    if value is None:
        return "This field may not be null."
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return "Not a valid string."
    text = str(value)
    if "\0" in text:
        return "Null characters are not allowed."
    return None if text.strip() else "This field may not be blank."


def _documents_problem(value: object) -> list[str] | dict[str, list[str]] | None:
    if value is _MISSING:
        return [_REQUIRED]
    if value is None:
        return ["This field may not be null."]
    if not isinstance(value, list):
        return [f'Expected a list of items but got type "{type(value).__name__}".']
    items = enumerate(cast(list[object], value))
    problems = {str(at): [_dictionary_problem(item)] for at, item in items if not isinstance(item, dict)}
    return problems or None


def _dictionary_problem(value: object) -> str:
    if value is None:
        return "This field may not be null."
    return f'Expected a dictionary of items but got type "{type(value).__name__}".'


def _scheduled(schedule: Mapping[str, Any], now: datetime) -> int | None:
    """Return the time of a custom schedule in unix seconds; None for the others, which call at once."""
    if schedule.get("type") != "custom":
        return None
    date, time = schedule.get("calling_date"), schedule.get("calling_time")
    if not date or not time:
        raise ImmediateResponse(_failed(400, {"detail": _NO_DATE}))
    moment = _moment(str(date), str(time))
    if moment is None:
        raise ImmediateResponse(_upstream(500, "Internal Server Error"))
    if moment <= now:
        raise ImmediateResponse(_failed(400, {"detail": "Scheduled time must be in the future."}))
    return int(moment.timestamp())


def _moment(date: str, time: str) -> datetime | None:
    found = _TIME.fullmatch(time.strip())
    if found is None:
        return None
    hours, minutes, seconds, half, zone = found.groups()
    hour = int(hours)
    if half is not None:
        hour = hour % 12 + 12 * (half.lower() == "pm")
    try:
        day = datetime.strptime(date.strip(), "%Y-%m-%d").replace(tzinfo=_zone(zone))
        return day.replace(hour=hour, minute=int(minutes), second=int(seconds or 0))
    except ValueError:
        return None


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def _storable(document: dict[str, Any]) -> bool:
    small = len(json.dumps(document)) <= _MAX_DOCUMENT
    return small and all(value in _INT64 for value in _integers(document))


def _integers(document: object) -> Iterator[int]:
    left: list[object] = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(cast(dict[str, object], value).values())
        elif isinstance(value, list):
            left.extend(cast(list[object], value))
        elif isinstance(value, int):
            yield value


def _invalid(errors: dict[str, Any], language: str) -> ApiResponse:
    if language.lower().startswith("es"):
        errors = {
            name: [_SPANISH.get(text, text) for text in cast(list[str], texts)]
            if isinstance(texts, list)
            else texts
            for name, texts in errors.items()
        }
    payload = {
        "status_code": 206,
        "message": "There is some Validation error",
        "data": {"errors": errors},
        "errors": errors,
    }
    return json_response(206, payload)


def _failed(status: int, errors: dict[str, Any]) -> ApiResponse:
    message = "Task Creation Failed"
    return json_response(
        status, {"status_code": status, "message": message, "data": {"errors": errors}, "errors": errors}
    )


def _upstream(status: int, errors: object) -> ApiResponse:
    return json_response(status, {"message": "Task Creation Failed", "errors": errors})
