"""HTML and SVG as text. Every string is escaped, except those that are markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

from unpod_async._common import printable

__all__ = ["Child", "Markup", "element", "join"]


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


Child: TypeAlias = str | int | None
"""A string is escaped, unless it is `Markup`: it becomes one line, with single spaces and visible control
characters. None is left out."""


def element(name: str, *children: Child, **attributes: Child) -> Markup:
    """Return an element.

    Args:
        attributes: An underscore at the end of a name is left out, others become hyphens. None leaves the
            attribute out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Return the children one after another."""
    return Markup("".join(_escape(child) for child in children if child is not None))


def _escape(value: str | int) -> str:
    return value if isinstance(value, Markup) else html.escape(printable(str(value)))
