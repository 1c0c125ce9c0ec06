"""A command run to its end: coroutines, Ctrl-C, errors, and readers that leave."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

from unpod_async._common import printable
from unpod_async.cli._output import is_terminal, say
from unpod_async.cli._status import ERROR, INTERRUPTED, PIPE_CLOSED, Stop, status_of, text_of
from unpod_async.errors import UnpodError

__all__ = ["Interrupted", "Loop", "finished", "guarded"]

T = TypeVar("T")

_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_SHOW_CURSOR: Final = b"\x1b[?25h"


class Interrupted(Exception):
    """Somebody asked for the end, and the coroutine has ended. `told`: what is to be said was said."""

    def __init__(self, signal_number: int, *, told: bool = False) -> None:
        super().__init__(signal_number)
        self.status = 128 + signal_number
        self.told = told


class Loop:
    """An event loop for the coroutines of one command, run one after another: `with Loop() as loop`.

    Ctrl-C (and SIGTERM, SIGHUP) while one runs cancels it, which lets it clear up; the second one ends the
    process there and then. Between two of them Ctrl-C is a KeyboardInterrupt as ever.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[Any] | None = None
        self._signal = 0

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, trace)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end.

        Raises:
            Interrupted: it was cancelled by a signal; the notes of its CancelledError have been said.
        """
        before = self._listen()
        try:
            return self._runner.run(self._named(coroutine))
        except asyncio.CancelledError as cancelled:
            if not self._signal:
                raise
            notes: list[str] = getattr(cancelled, "__notes__", [])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if is_terminal(sys.stderr):
            sys.stderr.write("\n")  # after the ^C that the terminal shows
        for note in notes:
            say(note)
        raise Interrupted(self._signal, told=bool(notes))

    def run_always(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run what closes things, also after an interruption; it is short."""
        self._runner.run(coroutine)

    async def _named(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._task = asyncio.current_task()
        if self._signal and self._task is not None:
            self._task.cancel()
        return await coroutine

    def _listen(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        # Who was started with a signal ignored (nohup, a job in the background) is to go on ignoring it.
        heard = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        return {number: signal.signal(number, self._interrupt) for number in heard}

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            _leave_now(number)
        self._signal = number
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)


def _leave_now(number: int) -> NoReturn:
    with suppress(OSError):
        if sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)
        os.write(2, b"\nunpod-async: ended at once\n")
    os._exit(128 + number)


def guarded(command: Callable[[], int | None], *, verbose: int) -> int:
    """The exit status of a command; what goes wrong is told in one line, what is a bug is raised."""
    try:
        return command() or 0
    except Stop as stop:
        say(f"unpod-async: {stop}")
        return stop.status
    except UnpodError as error:
        if verbose > 1:
            sys.stderr.write("".join(printable(line) + "\n" for line in _lines(error)))
        say(f"unpod-async: {text_of(error)}")
        return status_of(error)
    except Interrupted as interrupted:
        if not interrupted.told:
            say("unpod-async: interrupted")
        return interrupted.status
    except KeyboardInterrupt:
        if is_terminal(sys.stderr):
            sys.stderr.write("\n")
        say("unpod-async: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return PIPE_CLOSED


def _lines(error: UnpodError) -> list[str]:
    # Without locals: they hold what was read, and the token.
    return "".join(traceback.format_exception(error)).splitlines()


def finished(status: int) -> int:
    """The last bytes out; the status, or the one of what went wrong with that."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = PIPE_CLOSED
    except OSError as fault:
        say(f"unpod-async: cannot write to stdout: {fault.strerror}")
        status = ERROR
    if status == PIPE_CLOSED:
        # The interpreter flushes again when it ends, and would complain.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
