"""Decodes the body of a create request: JSON and forms, as the framework of the service does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.message import Message
from email.parser import BytesParser
from typing import Any, NoReturn, cast
from urllib.parse import parse_qsl

from unpod_async.testing.answers import ImmediateResponse, json_response
from unpod_async.testing.translations import translate

__all__ = ["decode_body"]

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
