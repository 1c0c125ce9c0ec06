"""The messages that the service translates, in English and Spanish. Its others are always in English."""

from __future__ import annotations

from typing import Final

__all__ = ["language_of", "translate"]

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
