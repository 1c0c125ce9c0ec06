"""Run a command: its coroutines, signals, errors, and a pipe whose reader exits."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import FrameType, TracebackType
from typing import IO, Any, Final, NoReturn, Self, TypeVar

from unpod_async._common import printable
from unpod_async.cli.errors import (
    BROKEN_PIPE,
    INTERRUPTED,
    USAGE,
    CliError,
    exit_status,
    hint_of,
    message_of,
)
from unpod_async.cli.output import (
    can_redraw,
    echo_err,
    echo_error,
    local_time,
    stdout_error,
    write_err,
    zone_name,
)
from unpod_async.errors import UnpodError

__all__ = [
    "Interrupted",
    "InterruptibleRunner",
    "log_to_stderr",
    "reader_exit",
    "report_error",
    "report_interruption",
    "run_command",
    "shut_down",
]

T = TypeVar("T")

_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_SHOW_CURSOR: Final = b"\x1b[?25h"


class Interrupted(Exception):
    """A signal ended the coroutine of a command.

    Attributes:
        status: the exit status.
        notes: what the coroutine says about its end, such as that calls may be queued.
        hint: what the user can do next, or "".
    """

    def __init__(self, signal_number: int, notes: Sequence[str] = ()) -> None:
        super().__init__(signal_number)
        self.status: int = 128 + signal_number
        self.notes = notes
        self.hint = ""


class InterruptibleRunner:
    """An event loop for the coroutines of a command, which run one after another in a `with` block.

    The first Ctrl-C (or SIGTERM, SIGHUP) cancels the coroutine that runs, so that it can clean up. The second
    one ends the process at once. Between two coroutines Ctrl-C raises KeyboardInterrupt as usual.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[Any] | None = None
        self._signal = 0

    def __enter__(self) -> Self:
        if not gc.isenabled():
            # What was imported stays until the process ends, so that the collector need not look at it.
            gc.freeze()
            gc.enable()
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, trace)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result.

        Raises:
            Interrupted: a signal cancelled it. It has the notes of the CancelledError.
        """
        previous = self._install_handlers()
        try:
            return self._runner.run(self._as_task(coroutine))
        except asyncio.CancelledError as cancelled:
            if not self._signal:
                raise
            notes: list[str] = getattr(cancelled, "__notes__", [])
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if sys.stderr.isatty():
            write_err("\n")  # after the ^C that the terminal shows
        raise Interrupted(self._signal, notes)

    def run_cleanup(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a short coroutine that closes something, even after an interruption."""
        self._runner.run(coroutine)

    async def _as_task(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._task = asyncio.current_task()
        if self._signal and self._task is not None:
            self._task.cancel()
        return await coroutine

    def _install_handlers(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        # A program that was started with a signal ignored (nohup, a background job) keeps ignoring it.
        handled = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        return {number: signal.signal(number, self._on_signal) for number in handled}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            _exit_now(number)
        self._signal = number
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)


def _exit_now(number: int) -> NoReturn:
    with suppress(OSError):
        if can_redraw(sys.stderr):
            os.write(2, _SHOW_CURSOR)
        os.write(2, b"\nunpod-async: ended at once\n")
    os._exit(128 + number)


def run_command(command: Callable[[], int | None], *, verbose: int = 0, usage_hint: str = "") -> int:
    """Run a command and return its exit status. Expected errors become messages on stderr.

    Args:
        verbose: from 2 on, tracebacks are shown.
        usage_hint: the hint of errors with status 2 that have none.
    """
    try:
        return command() or 0
    except CliError as error:
        hint = error.hint or (usage_hint if error.status == USAGE else "")
        echo_error(error.message, hint, details=error.details)
        return error.status
    except UnpodError as error:
        return report_error(error, verbose=verbose)
    except Interrupted as interrupted:
        message, *details = interrupted.notes or ["interrupted"]
        echo_error(message, interrupted.hint, details=details)
        return interrupted.status
    except KeyboardInterrupt:
        return report_interruption()
    except BrokenPipeError:
        return BROKEN_PIPE


def report_interruption() -> int:
    """Write to stderr that Ctrl-C ended the command, and return the exit status."""
    if sys.stderr.isatty():
        write_err("\n")  # after the ^C that the terminal shows
    echo_error("interrupted")
    return INTERRUPTED


def report_error(error: UnpodError, *, verbose: int) -> int:
    """Write an error of the library to stderr and return its exit status."""
    if verbose > 1:
        # Without the local variables, which contain rows and the token.
        for line in "".join(traceback.format_exception(error)).splitlines():
            text = line.lstrip()
            write_err(" " * (len(line) - len(text)) + printable(text) + "\n")
    echo_error(message_of(error), hint_of(error))
    return exit_status(error)


def shut_down(status: int) -> int:
    """Flush stdout and return the exit status, changed if that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = BROKEN_PIPE
    except OSError as error:
        if not status:  # else the command has reported an error already
            failure = stdout_error(error)
            echo_error(failure.message, failure.hint)
            status = failure.status
    else:
        if status != BROKEN_PIPE:
            return status
    # The interpreter flushes again when it exits, and would fail with status 120.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


async def reader_exit(stream: IO[str]) -> NoReturn:
    """Wait until the reader of a pipe exits, even if nothing is written.

    Waits forever if `stream` is not a pipe, or the platform does not report this.

    Raises:
        BrokenPipeError: the reader has exited.
    """
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    pipe: int | None = None
    # Not a file, or Windows, whose event loop cannot do that: the next write fails instead.
    with suppress(OSError, ValueError, NotImplementedError):
        if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            # The writing end of a pipe never has data to read: it becomes readable when the other end closes.
            loop.add_reader(stream.fileno(), closed.set)
            pipe = stream.fileno()
    try:
        await closed.wait()
    finally:
        if pipe is not None:
            loop.remove_reader(pipe)
    raise BrokenPipeError


class _StderrHandler(logging.Handler):
    """Looks sys.stderr up for each record, because a progress display may have replaced it."""

    def emit(self, record: logging.LogRecord) -> None:
        at = local_time(datetime.fromtimestamp(record.created, UTC), None)
        echo_err(f"{at:%H:%M:%S} {zone_name(at)} {record.levelname} {self.format(record)}")


@contextmanager
def log_to_stderr(verbose: int) -> Generator[None]:
    """Show the library's log on stderr: nothing for 0, INFO for 1, DEBUG from 2 on."""
    if not verbose:
        yield
        return
    logger = logging.getLogger("unpod_async")
    handler, level = _StderrHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
