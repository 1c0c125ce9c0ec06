"""Creating tasks: the checks of the service in their order, and what remains stored after a failure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

from unpod_async.testing import accounts
from unpod_async.testing.answers import ApiResponse, ImmediateResponse, html_page, json_response
from unpod_async.testing.bodies import decode_body
from unpod_async.testing.store import AddedTask, DataStore
from unpod_async.testing.translations import language_of, translate

__all__ = ["CreatedCall", "create"]

_REQUIRED = "This field is required."
_NO_DATE = "Invalid schedule format. 'calling_date' and 'calling_time' are required for manual scheduling."
_NO_DOCUMENTS = "No tasks provided and filters missing in data"
_NOT_FOUND = "No tasks provided and no tasks found in store"
_AUTO_DELAY = 600  # seconds
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


@dataclass(frozen=True, slots=True)
class _Order:
    """What a valid request asks for."""

    pilot: str
    context: str
    documents: list[dict[str, Any]]
    schedule: dict[str, Any]
    filters: dict[str, Any]


def create(
    store: DataStore,
    account: accounts.FakeAccount,
    space: accounts.FakeSpace,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> tuple[ApiResponse, list[CreatedCall]]:
    """Return the response to a create request, and the calls that it queued.

    If a document cannot be stored, the request fails. But its run and the documents before it are stored, and
    their calls are placed.

    Raises:
        ImmediateResponse: the request is refused.
    """
    language = language_of(headers.get("accept-language", ""))
    order = _validate(decode_body(headers, body, language), language)
    documents = order.documents
    if any(math.isinf(value) for value in _numbers(documents) if isinstance(value, float)):
        raise ImmediateResponse(html_page(500))  # the service cannot pass it on as JSON
    _check_references(documents)
    if not documents:
        detail = _NOT_FOUND if order.filters else _NO_DOCUMENTS
        raise ImmediateResponse(_failed(400, {"detail": detail}))
    scheduled = _scheduled(order, now)
    moment = int(now.timestamp() * 1000) * 1000
    run = store.insert_run(space.token, moment, batch_count=len(documents))
    run_id, status = store.ids.make("R", run), "pending" if scheduled is None else "scheduled"
    calls: list[CreatedCall] = []
    for document in documents:
        if not _is_storable(document):
            return _upstream(500, "Internal Server Error"), calls
        added = AddedTask(run, store.newest, order.pilot, account, order.context, document, scheduled)
        task_id = store.ids.make("T", store.insert_task(added, status))
        calls.append(CreatedCall(run_id, task_id, document, space.token))
    ids = [call.task_id for call in calls]
    created = {"run_id": run_id, "task_ids": ids, "status": dict.fromkeys(ids, status)}
    payload = {"status_code": 200, "message": "Task Created Successfully", "data": created}
    return json_response(200, payload), calls


def _check_references(documents: list[dict[str, Any]]) -> None:
    problems: list[dict[str, Any]] = []
    for place, document in enumerate(documents):
        reference = document.get("id") or document.get("document_id")
        if reference is not None and not isinstance(reference, str):
            problems.append({
                "type": "string_type",
                "loc": ["body", "tasks", place, "ref_id"],
                "msg": "Input should be a valid string",
                "input": reference,
            })
    if problems:
        raise ImmediateResponse(_upstream(422, {"detail": problems}))


def _validate(data: object, language: str) -> _Order:
    if not isinstance(data, dict):
        text = translate(language, "Invalid data. Expected a dictionary, but got {}.", type(data).__name__)
        raise ImmediateResponse(_invalid({"non_field_errors": [text]}))
    body = cast(dict[str, Any], data)
    errors: dict[str, Any] = {}
    for name in ("pilot", "context"):
        problem = _text_problem(body.get(name, _MISSING))
        if problem is not None:
            errors[name] = [translate(language, problem)]
    problems = _documents_problem(body.get("documents", _MISSING), language)
    if problems is not None:
        errors["documents"] = problems
    for name in ("schedule", "filters"):
        value = body.get(name, {})
        if not isinstance(value, dict):
            errors[name] = [_dictionary_problem(value, language)]
    if errors:
        raise ImmediateResponse(_invalid(errors))
    return _Order(
        pilot=str(body["pilot"]).strip(),
        context=str(body["context"]).strip(),
        documents=body["documents"],
        schedule=body.get("schedule", {}),
        filters=body.get("filters", {}),
    )


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


def _documents_problem(value: object, language: str) -> list[str] | dict[str, list[str]] | None:
    if value is _MISSING:
        return [translate(language, _REQUIRED)]
    if value is None:
        return [translate(language, "This field may not be null.")]
    if not isinstance(value, list):
        return [translate(language, 'Expected a list of items but got type "{}".', type(value).__name__)]
    items = enumerate(cast(list[object], value))
    problems = {
        str(at): [_dictionary_problem(item, language)] for at, item in items if not isinstance(item, dict)
    }
    return problems or None


def _dictionary_problem(value: object, language: str) -> str:
    if value is None:
        return translate(language, "This field may not be null.")
    text = 'Expected a dictionary of items but got type "{}".'
    return translate(language, text, type(value).__name__)


def _scheduled(order: _Order, now: datetime) -> int | None:
    """Return the time of a schedule in Unix seconds, or None to call at once.

    The agent defines the schedule "auto". An agent that does not exist has none.
    """
    kind = order.schedule.get("type")
    if kind == "auto" and order.pilot in accounts.AGENTS:
        return int(now.timestamp()) + _AUTO_DELAY
    if kind != "custom":
        return None
    date, time = order.schedule.get("calling_date"), order.schedule.get("calling_time")
    if not date or not time:
        raise ImmediateResponse(_failed(400, {"detail": _NO_DATE}))
    moment = _moment(str(date), str(time))
    if moment is None:
        raise ImmediateResponse(_upstream(500, "Internal Server Error"))
    if int(moment.timestamp()) < int(now.timestamp()):
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


def _is_storable(document: dict[str, Any]) -> bool:
    small = len(json.dumps(document)) <= _MAX_DOCUMENT
    return small and all(value in _INT64 for value in _numbers(document) if isinstance(value, int))


def _numbers(document: object) -> Iterator[int | float]:
    left: list[object] = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(cast(dict[str, object], value).values())
        elif isinstance(value, list):
            left.extend(cast(list[object], value))
        elif isinstance(value, int | float):
            yield value


def _invalid(errors: dict[str, Any]) -> ApiResponse:
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
