"""Creating tasks: the checks of the service in their order, and what remains stored after a failure.

The body of a request is JSON or a form, and is decoded as the framework of the service does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from email.message import Message
from email.parser import BytesParser
from typing import Any, NoReturn, cast
from urllib.parse import parse_qsl

from unpod_async.testing import accounts
from unpod_async.testing.answers import (
    ApiResponse,
    ImmediateResponse,
    html_page,
    json_response,
    language_of,
    translate,
)
from unpod_async.testing.store import AddedTask, DataStore, microseconds

__all__ = ["CreatedCall", "create", "decode_body"]

_REQUIRED = "This field is required."
_NO_DATE = "Invalid schedule format. 'calling_date' and 'calling_time' are required for manual scheduling."
_NO_DOCUMENTS = "No tasks provided and filters missing in data"
_NOT_FOUND = "No tasks provided and no tasks found in store"
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
class _ValidRequest:
    """The contents of a valid request."""

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
    request = _validate(decode_body(headers, body, language), language)
    documents = request.documents
    if any(math.isinf(value) for value in _numbers(documents) if isinstance(value, float)):
        raise ImmediateResponse(html_page(500))  # the service cannot pass it on as JSON
    _check_references(documents)
    if not documents:
        detail = _NOT_FOUND if request.filters else _NO_DOCUMENTS
        raise ImmediateResponse(_failed(400, {"detail": detail}))
    scheduled = _schedule_time(request, now, store.auto_delay())
    run = store.insert_run(space.token, microseconds(now), batch_count=len(documents))
    run_id, status = store.ids.make("R", run), "pending" if scheduled is None else "scheduled"
    calls: list[CreatedCall] = []
    for document in documents:
        if not _is_storable(document):
            return _upstream(500, "Internal Server Error"), calls
        added = AddedTask(run, store.newest, request.pilot, account, request.context, document, scheduled)
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


def _validate(data: object, language: str) -> _ValidRequest:
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
    return _ValidRequest(
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


def _schedule_time(request: _ValidRequest, now: datetime, auto_delay: int) -> int | None:
    """Return the time of a schedule in Unix seconds, or None to call at once.

    The agent defines the schedule "auto". An agent that does not exist has none.
    """
    kind = request.schedule.get("type")
    if kind == "auto" and request.pilot in accounts.AGENTS:
        return int(now.timestamp()) + auto_delay
    if kind != "custom":
        return None
    date, time = request.schedule.get("calling_date"), request.schedule.get("calling_time")
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


_ITEM = re.compile(r"documents\[([0-9]+)\](.*)")
_BOUNDARY = re.compile(r"[ -~]{0,200}[!-~]")


def decode_body(headers: Mapping[str, str], body: bytes, language: str) -> object:
    """Return the data of a request. An empty body is an empty object, whatever its type.

    A body without a Content-Length, such as a chunked one, counts as empty.

    Raises:
        ImmediateResponse: the type is not supported, or the body is malformed.
    """
    content_type = Message()
    content_type["Content-Type"] = headers.get("content-type", "")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = kind in {"application/x-www-form-urlencoded", "multipart/form-data"}
    if not body or headers.get("content-length", "0") == "0":
        return _form_data([]) if is_form else {}
    if kind == "application/json":
        return _decode_json(body, str(content_type.get_param("charset", "utf-8")))
    if kind == "application/x-www-form-urlencoded":
        return _form_data(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
    if kind == "multipart/form-data":
        return _form_data(_multipart_fields(headers["content-type"], content_type, body))
    text = translate(language, 'Unsupported media type "{}" in request.', headers.get("content-type", ""))
    raise ImmediateResponse(json_response(415, {"message": text, "status_code": 415}))


def _decode_json(body: bytes, charset: str) -> object:
    try:
        try:
            text = body.decode(charset)
        except LookupError:
            text = body.decode()
        return cast(object, json.loads(text, parse_constant=_not_json))
    except ValueError as error:  # malformed JSON, NaN, or the wrong charset
        raise _malformed(f"JSON parse error - {error}") from None


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"Out of range float values are not JSON compliant: {constant!r}")


def _malformed(detail: str) -> ImmediateResponse:
    payload = {"status_code": 400, "message": "Error", "data": {"detail": detail}}
    return ImmediateResponse(json_response(400, payload))


def _multipart_fields(header: str, content_type: Message, body: bytes) -> list[tuple[str, str]]:
    boundary = content_type.get_param("boundary")
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(boundary):
        raise _malformed(f"Multipart form parse error - Invalid boundary in multipart: {boundary}")
    parsed = BytesParser().parsebytes(f"Content-Type: {header}\r\n\r\n".encode() + body)
    fields: list[tuple[str, str]] = []
    for part in parsed.get_payload() if parsed.is_multipart() else []:
        if isinstance(part, Message) and part.get_filename() is None:
            name = part.get_param("name", header="content-disposition")
            value = part.get_payload(decode=True)
            if isinstance(name, str) and isinstance(value, bytes):
                fields.append((name, value.decode(errors="replace")))
    return fields


def _form_data(fields: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the data that the fields of a form describe: `documents[0].name=Ann&schedule.type=now`.

    A plain `documents` gives strings, which are not valid documents.
    """
    form = dict(fields)  # keeps the last value of a repeated name
    data: dict[str, Any] = {name: form[name] for name in ("pilot", "context") if name in form}
    plain = [value for name, value in fields if name == "documents"]
    items = plain or _form_items(form)
    if items:
        data["documents"] = items
    for field in ("schedule", "filters"):
        prefix = f"{field}."
        data[field] = {
            name.removeprefix(prefix): value
            for name, value in form.items()
            if name.startswith(prefix) and name != prefix
        }
    return data


def _form_items(form: Mapping[str, str]) -> list[Any]:
    items: dict[int, Any] = {}
    for name, value in form.items():
        found = _ITEM.fullmatch(name)
        if found is None:
            continue
        index, key = int(found[1]), found[2]
        item = items.get(index)
        if not key:
            items[index] = value
            continue
        if not isinstance(item, dict):
            items[index] = item = {}
        if key.startswith(".") and key != ".":
            item[key[1:]] = value
    return [items[index] for index in sorted(items)]
