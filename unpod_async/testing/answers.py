"""The responses of the service: one class, and a function for each common shape."""

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
    """A complete HTTP response."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class ImmediateResponse(Exception):
    """A view raises it to send a response at once."""

    def __init__(self, response: ApiResponse) -> None:
        super().__init__(response.status)
        self.response = response


def json_response(status: int, payload: Mapping[str, Any]) -> ApiResponse:
    """Return a JSON response."""
    return ApiResponse(status, msgspec.json.encode(payload))


def html_page(status: int) -> ApiResponse:
    """Return an HTML page, as Django does outside of views, without the header `Allow`."""
    return ApiResponse(status, _PAGE.format(title=_TITLES[status]).encode(), HTML)


def access_refused(message: str) -> ApiResponse:
    """Return a 206 without `errors`: the space is unknown or foreign, or the role does not suffice."""
    return json_response(206, {"status_code": 206, "message": message, "data": {}})


def upstream_failure(message: str, errors: str) -> ApiResponse:
    """Return a 206 with a string in `errors`, which is repeated in `data`."""
    payload = {"status_code": 206, "message": message, "data": {"errors": errors}, "errors": errors}
    return json_response(206, payload)


def unauthorized(message: str, challenge: str) -> ApiResponse:
    """Return the 401 of a view."""
    body = msgspec.json.encode({"message": message, "status_code": 401})
    return ApiResponse(401, body, headers={"WWW-Authenticate": challenge})
