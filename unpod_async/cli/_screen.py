"""The last lines of a terminal, overwritten when they are to say something else."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Final, Self

from unpod_async.cli._output import console

if TYPE_CHECKING:
    from types import TracebackType

    from rich.text import Text

__all__ = ["Draw", "Screen"]

_SPARE: Final = 3
"""Lines below: when it ends, the first line is not to be pushed out by ^C and the next prompt."""

Draw = Callable[[int, int, bool], "Sequence[Text]"]
"""Gives the lines for so many cells and lines, in ASCII only or not."""


class Screen:
    """Draws between entering and leaving it; then its last lines stay, unless it is `transient`.

    Nothing is written as long as the lines are the same.
    """

    def __init__(self, stream: IO[str], draw: Draw, *, transient: bool = False) -> None:
        from rich.live import Live

        self._console = console(stream)
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without a character is to show another one, not an error.
            stream.reconfigure(errors="replace")
        self._ascii = not self._console.encoding.startswith("utf")
        self._draw = draw
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=transient,
            redirect_stdout=stream is not sys.stdout,
            vertical_overflow="crop",
        )
        self._size = self._console.size
        self._lines: Sequence[Text] | None = None

    def __enter__(self) -> Self:
        self._live.__enter__()
        self.look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.look()
        self._live.__exit__(kind, error, trace)

    def look(self) -> None:
        """Draw again if that makes a difference."""
        from rich.console import Group

        size = self._console.size
        if size != self._size:
            # The terminal has moved the old lines; where they are now is not known.
            self._console.clear()
            self._size, self._lines = size, None
        spare = _SPARE if size.height > 4 * _SPARE else 1
        lines = self._draw(size.width, max(size.height - spare, 1), self._ascii)
        if lines != self._lines:
            self._lines = lines
            self._live.update(Group(*lines), refresh=True)
