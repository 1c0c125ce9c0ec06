"""What an answer of the service is, and the shapes it uses again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

__all__ = [
    "HTML",
    "JSON",
    "ApiResponse",
    "ImmediateResponse",
    "access_refused",
    "html_page",
    "json_response",
    "unauthorized",
    "upstream_failure",
]

JSON = "application/json"
HTML = "text/html; charset=utf-8"
_PAGE = """<!DOCTYPE html>

<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>{title}</title>
    <meta name="description" content="Unpod">
  </head>
  <body><h1>{title}</h1></body>
</html>
"""
_TITLES = {404: "Page not found", 500: "Server Error"}


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """One HTTP answer, whole."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class ImmediateResponse(Exception):
    """Raised by a view to answer at once."""

    def __init__(self, answer: ApiResponse) -> None:
        super().__init__(answer.status)
        self.answer = answer


def json_response(status: int, payload: Mapping[str, Any]) -> ApiResponse:
    """A JSON answer."""
    return ApiResponse(status, msgspec.json.encode(payload))


def html_page(status: int) -> ApiResponse:
    """A page made for a browser, as Django answers where no view does; without `Allow`."""
    return ApiResponse(status, _PAGE.format(title=_TITLES[status]).encode(), HTML)


def access_refused(message: str) -> ApiResponse:
    """206 without `errors`: unknown or foreign space, role too low."""
    return json_response(206, {"status_code": 206, "message": message, "data": {}})


def upstream_failure(message: str, errors: str) -> ApiResponse:
    """206 with a string in `errors`, which stands in `data` again."""
    payload = {"status_code": 206, "message": message, "data": {"errors": errors}, "errors": errors}
    return json_response(206, payload)


def unauthorized(message: str, challenge: str) -> ApiResponse:
    """401 of a view."""
    body = msgspec.json.encode({"message": message, "status_code": 401})
    return ApiResponse(401, body, headers={"WWW-Authenticate": challenge})
