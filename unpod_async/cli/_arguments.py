"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["JsonLines", "Limit", "Space", "Statuses"]

Space = Annotated[str, typer.Argument(show_default=False, help="Token of the space.")]
Limit = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", show_default=False, help="Rows at most; 0 is all. 50 in a table unless given."
    ),
]
JsonLines = Annotated[
    bool | None,
    typer.Option(
        "--json/--table",
        show_default=False,
        help="Lines of JSON, or a table. JSON unless stdout is a terminal.",
    ),
]
Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status", metavar="STATUS", show_default=False, help="Only rows of this status; may be repeated."
    ),
]
