"""Results to stdout, diagnostics to stderr, and lines of a terminal that are redrawn."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

from unpod_async._common import (
    clock,
    counted,
    local_time,
    os_error_advice,
    os_error_reason,
    printable,
    zone_name,
)
from unpod_async.cli.errors import CliError

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from rich.text import Text

__all__ = [
    "CheckedStdout",
    "ClosedStdout",
    "Draw",
    "Screen",
    "can_colour",
    "can_redraw",
    "check_stdout",
    "clock",
    "columns_of",
    "console",
    "counted",
    "cut_mark",
    "echo",
    "echo_command",
    "echo_err",
    "echo_error",
    "echo_line",
    "has_stdout",
    "local_time",
    "stdout_error",
    "wants_json",
    "wrap_command",
    "write_err",
    "zone_name",
]

_DEFAULT_COLUMNS: Final = 80
_DEFAULT_LINES: Final = 25
_SPARE_LINES: Final = 3
"""Lines left free below a screen, so that ^C and the next prompt do not scroll its first line away."""


def wants_json(option: bool | None) -> bool:
    """Return True for JSON: the value of `--json` or `--table`, or else whether stdout is not a terminal."""
    return not sys.stdout.isatty() if option is None else option


def can_redraw(stream: IO[str]) -> bool:
    """Return True if the stream is a terminal that can overwrite lines."""
    # Windows does not set TERM; elsewhere, a terminal without a type can do nothing.
    terminal = os.environ.get("TERM", "xterm" if os.name == "nt" else "")
    return stream.isatty() and terminal not in {"", "dumb", "unknown"}


def cut_mark(encoding: str | None) -> str:
    """Return the character behind text that is cut: "…", or "~" if the encoding does not have it."""
    try:
        "…".encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return "~"
    return "…"


# -- stderr -------------------------------------------------------------------------------------------------


def echo_err(text: str, *, indent: str = "", label: str = "") -> None:
    """Write a line of diagnostics to stderr. On a terminal, it is wrapped between words.

    Args:
        text: control characters in it are escaped.
        indent: put in front of each line.
        label: put in front of the text, whose other lines are aligned with the first one.
    """
    line = indent + label + printable(text)
    if sys.stderr.isatty():
        line = textwrap.fill(
            line,
            columns_of(sys.stderr),
            subsequent_indent=indent + " " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        )
    write_err(line + "\n")


def write_err(text: str) -> None:
    """Write text to stderr.

    If stderr cannot be written, this text and everything after it is dropped: the command continues, and its
    results and exit status stay the same.
    """
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        # Not the broken stream: the interpreter flushes stderr when it exits, and would fail with status 120.
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends


def echo_command(argv: Sequence[str]) -> None:
    """Write to stderr a command line that the user may copy.

    A terminal would break a long one inside a word. On POSIX, it continues after a backslash instead.
    """
    words = [" ".join(map(printable, shlex.quote(one).split(" "))) for one in argv]
    parts: list[str] = []
    for word in words:
        # The value of an option stays with it.
        if parts and re.fullmatch(r"--[^ =]+", parts[-1]) and not word.startswith("-"):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    width = columns_of(sys.stderr) if sys.stderr.isatty() and os.name == "posix" else sys.maxsize
    for line in wrap_command(parts, width - 2):
        write_err(f"  {line}\n")


def wrap_command(parts: Sequence[str], width: int) -> list[str]:
    """Return the lines of a command: between two parts, a line may end in a backslash."""
    lines = [""]
    for part in parts:
        if lines[-1].strip() and len(f"{lines[-1]} {part} \\") > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return lines


def echo_error(message: str, hint: str = "", *, details: Sequence[str] = ()) -> None:
    """Write an error to stderr: what happened, its details, and the hint, each on a line of its own."""
    echo_err(f"unpod-async: {message}")
    for detail in details:
        echo_err(detail, indent="  ")
    if hint:
        echo_err(f"hint: {hint}")


# -- stdout -------------------------------------------------------------------------------------------------


class ClosedStdout(io.TextIOBase):
    """Replaces stdout if its file descriptor was closed when the process started. Nothing can be written."""

    encoding = "utf-8"

    @property
    def buffer(self) -> ClosedStdout:
        return self

    def write(self, text: object) -> int:
        raise _closed_error()


def _closed_error() -> OSError:
    return OSError(errno.EBADF, "it is closed")


class CheckedStdout(io.TextIOBase):
    """Stdout for code that writes to a stream. Raises as `echo_line`, so that the error names stdout."""

    def write(self, text: str) -> int:
        if text:
            echo(text.removesuffix("\n"))
        return len(text)


def has_stdout() -> bool:
    """Return False if the process was started without a stdout."""
    return not isinstance(sys.stdout, ClosedStdout)


def stdout_error(error: OSError) -> CliError:
    """Return the error of a stdout that cannot be written."""
    advice = os_error_advice(error, "")
    return CliError(
        f"cannot write to stdout: {os_error_reason(error)}",
        hint=f"{advice} or write the output elsewhere"
        if advice
        else "check where the output goes; > /dev/null discards it",
    )


def check_stdout() -> None:
    """Raise CliError if the process was started without a stdout."""
    if not has_stdout():
        raise stdout_error(_closed_error())


def echo_line(line: bytes) -> None:
    """Write a line to stdout and flush it, because another program may be reading along.

    Raises:
        BrokenPipeError: the reader has exited.
        CliError: stdout cannot be written.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise stdout_error(error) from None


def echo(text: str) -> None:
    """Write lines of text to stdout. Raises as `echo_line`."""
    echo_line(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def can_colour(stream: IO[str]) -> bool:
    """Return True if the stream is a terminal with colours, and NO_COLOR is not set."""
    return can_redraw(stream) and not os.environ.get("NO_COLOR")


def columns_of(stream: IO[str]) -> int:
    """Return the width of a terminal in cells: COLUMNS, what the terminal says, or 80."""
    setting = os.environ.get("COLUMNS", "")
    if setting.isdecimal() and int(setting) > 0:
        return int(setting)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _DEFAULT_COLUMNS
    except (OSError, ValueError):
        return _DEFAULT_COLUMNS


def console(stream: IO[str]) -> Console:
    """Return a console of rich that prints text as it is, and without colour if NO_COLOR is set."""
    from rich.console import Console

    redraws = can_redraw(stream)
    return Console(
        file=stream,
        color_system="auto" if can_colour(stream) else None,
        # rich does not ask a terminal that cannot redraw for its width.
        width=None if redraws else columns_of(stream),
        height=None if redraws else _DEFAULT_LINES,
        highlight=False,
        markup=False,
        emoji=False,
    )


# -- lines of a terminal that are redrawn -------------------------------------------------------------------

Draw = Callable[[int, int, bool], "Sequence[Text]"]
"""Returns the lines for a width and a height in cells, in ASCII only or not."""


class Screen:
    """The last lines of a terminal, redrawn in place: `with Screen(stream, draw) as screen`.

    Nothing is written while the lines stay the same. On exit the last lines stay, unless `transient`.
    """

    def __init__(self, stream: IO[str], draw: Draw, *, transient: bool = False) -> None:
        from rich.live import Live

        self._console = console(stream)
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal does not have is replaced instead of raising an error.
            stream.reconfigure(errors="replace")
        self._ascii_only = not self._console.encoding.startswith("utf")
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
        self.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refresh()
        self._live.__exit__(kind, error, trace)

    def remove_on_exit(self) -> None:
        """Remove the lines on exit."""
        self._live.transient = True

    def refresh(self) -> None:
        """Draw the lines again if they have changed."""
        from rich.console import Group

        size = self._console.size
        if size != self._size:
            # The terminal has moved the old lines to an unknown place.
            self._console.clear()
            self._size, self._lines = size, None
        spare = _SPARE_LINES if size.height > 4 * _SPARE_LINES else 1
        lines = self._draw(size.width, max(size.height - spare, 1), self._ascii_only)
        if lines != self._lines:
            self._lines = lines
            self._live.update(Group(*lines), refresh=True)
