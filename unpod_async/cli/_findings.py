"""What the doctor found, as it is told."""

from __future__ import annotations

import sys
from typing import Final, Literal

import msgspec

from unpod_async._common import printable
from unpod_async.cli._output import console, put, put_line

__all__ = ["Report"]

State = Literal["ok", "note", "problem"]

_STYLES: Final = {"ok": "green", "note": "yellow", "problem": "bold red"}


class Report:
    """Tells each finding at once.

    Attributes:
        problems: how many were told.
        authentication: whether one of them is that the token is refused, or may not do this.
    """

    def __init__(self, *, json_lines: bool) -> None:
        self._json_lines = json_lines
        self.problems = 0
        self.authentication = False

    def ok(self, check: str, said: str) -> None:
        """All is well with it."""
        self._tell("ok", check, said, "")

    def note(self, check: str, said: str, advice: str = "") -> None:
        """Worth knowing, and no problem."""
        self._tell("note", check, said, advice)

    def problem(self, check: str, said: str, advice: str, *, authentication: bool = False) -> None:
        """It has to be seen to."""
        self.problems += 1
        self.authentication = self.authentication or authentication
        self._tell("problem", check, said, advice)

    def _tell(self, state: State, check: str, said: str, advice: str) -> None:
        said, advice = printable(said), printable(advice)
        if self._json_lines:
            told = {"check": check, "state": state, "said": said, "advice": advice or None}
            put_line(msgspec.json.encode(told))
            return
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=7)
        grid.add_column(width=8)
        grid.add_column(overflow="fold")
        grid.add_row(Text(state, _STYLES[state]), check, Text(said))
        if advice:
            grid.add_row("", "", Text(f"-> {advice}", "bold" if state == "problem" else ""))
        out = console(sys.stdout)
        with out.capture() as drawing:
            out.print(grid)
        put("\n".join(line.rstrip() for line in drawing.get().splitlines()))
