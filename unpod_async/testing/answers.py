"""The responses of the service: one class, a function for each common shape, and the texts it translates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

__all__ = [
    "HTML",
    "JSON",
    "ApiResponse",
    "ImmediateResponse",
    "access_refused",
    "html_page",
    "json_response",
    "language_of",
    "translate",
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


_SPANISH: Final = {
    "Authentication credentials were not provided.": "Las credenciales de autenticación no se proveyeron.",
    "Could not satisfy the request Accept header.": (
        "No se ha podido satisfacer la solicitud de cabecera de Accept."
    ),
    'Expected a dictionary of items but got type "{}".': (
        'Se esperaba un diccionario de elementos en vez del tipo "{}".'
    ),
    'Expected a list of items but got type "{}".': (
        'Se esperaba una lista de elementos en vez del tipo "{}".'
    ),
    "Invalid data. Expected a dictionary, but got {}.": (
        "Datos inválidos. Se esperaba un diccionario pero es un {}."
    ),
    "Invalid token header. No credentials provided.": (
        "Cabecera token inválida. Las credenciales no fueron suministradas."
    ),
    "Invalid token header. Token string should not contain spaces.": (
        "Cabecera token inválida. La cadena token no debe contener espacios."
    ),
    "Invalid token.": "Token inválido.",
    'Method "{}" not allowed.': 'Método "{}" no permitido.',
    "Not a valid string.": "No es una cadena válida.",
    "Not found.": "No encontrado.",
    "Null characters are not allowed.": "Los caracteres nulos no están permitidos.",
    "This field is required.": "Este campo es requerido.",
    "This field may not be blank.": "Este campo no puede estar en blanco.",
    "This field may not be null.": "Este campo no puede ser nulo.",
    'Unsupported media type "{}" in request.': 'Tipo de medio "{}" incompatible en la solicitud.',
    "User inactive or deleted.": "Usuario inactivo o borrado.",
}


def language_of(accept: str) -> str:
    """Return the language that an Accept-Language header prefers: "es", or "en" for any other.

    The service knows more languages; the sandbox answers in English where it would use one of them.
    """
    ranked: list[tuple[float, str]] = []
    for part in accept.lower().split(","):
        name, _, weight = part.strip().partition(";")
        try:
            quality = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if name and quality > 0:
            ranked.append((quality, name.strip()))
    # The sort is stable: of languages with equal weights, the first wins.
    for _, name in sorted(ranked, key=lambda each: -each[0]):
        if name != "*":
            return "es" if name.partition("-")[0] == "es" else "en"
    return "en"


def translate(language: str, text: str, *values: object) -> str:
    """Return a message in a language, with `values` in place of each `{}`."""
    template = _SPANISH.get(text, text) if language == "es" else text
    return template.format(*values) if values else template
