"""Results on stdout, talk on stderr."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import IO, TYPE_CHECKING, Final

from unpod_async._common import printable
from unpod_async.cli._status import Stop

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "is_terminal", "moves", "put", "put_line", "say", "wants_json"]

_USUAL_COLUMNS: Final = 80
_USUAL_LINES: Final = 25


def wants_json(asked: bool | None) -> bool:
    """`--json` or `--table` where one was given; else lines of JSON unless a terminal is looking."""
    return not is_terminal(sys.stdout) if asked is None else asked


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether people look at the stream."""
    return stream is not None and stream.isatty()


def moves(stream: IO[str] | None) -> bool:
    """Whether lines of the stream can be overwritten."""
    return is_terminal(stream) and os.environ.get("TERM", "") not in {"dumb", "unknown"}


def say(text: str, *, indent: str = "", whole: bool = False) -> None:
    """A line of talk; on a terminal folded between words, unless it is to be copied as a `whole`."""
    line = indent + printable(text)
    if is_terminal(sys.stderr) and not whole:
        line = textwrap.fill(
            line,
            _columns(sys.stderr),
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def put_line(line: bytes) -> None:
    """A line of a result as it is; at once, for somebody may be reading along.

    Raises:
        BrokenPipeError: nobody reads any more.
        Stop: it cannot be written.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as fault:
        raise Stop(f"cannot write to stdout: {fault.strerror}") from None


def put(text: str) -> None:
    """Lines of a result for people; raises as `put_line`."""
    put_line(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def _columns(stream: IO[str]) -> int:
    stated = os.environ.get("COLUMNS", "")
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS
    except (OSError, ValueError):
        return _USUAL_COLUMNS


def console(stream: IO[str]) -> Console:
    """A console of rich that changes nothing in what it is given, and takes no colour against NO_COLOR."""
    from rich.console import Console

    can_move = moves(stream)
    return Console(
        file=stream,
        color_system="auto" if can_move and not os.environ.get("NO_COLOR") else None,
        # Of a terminal that cannot move rich does not ask how wide it is.
        width=None if can_move else _columns(stream),
        height=None if can_move else _USUAL_LINES,
        highlight=False,
        markup=False,
        emoji=False,
    )
