"""The progress of an export, for eyes on a terminal and for the lines of a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from unpod_async._export import ExportProgress
from unpod_async.cli._output import console, moves, say

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Display", "Lines", "display", "figures", "headline"]

_TITLES: Final = {
    "listing": "Listing runs",
    "fetching": "Fetching",
    "recordings": "Recordings",
    "writing": "Writing files",
    "done": "Done",
}
_WAITED: Final = 2.0
"""Seconds of waiting for the service from which on it is told."""


class Shown(Protocol):
    """Shows events, between entering and leaving it."""

    def __call__(self, event: ExportProgress) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display() -> Shown:
    """What suits stderr."""
    return Display() if moves(sys.stderr) else Lines()


def headline(event: ExportProgress) -> str:
    """What is under way, and how far it is."""
    title = _TITLES[event.phase]
    if event.runs_total is None:
        return f"{title}: {event.runs_seen:,} runs seen"
    return f"{title}: {event.runs_done:,}/{event.runs_total:,} runs"


def figures(event: ExportProgress) -> str:
    """Tasks, bytes, rate, time left, and what is out of the ordinary."""
    told = [f"{event.rows:,} tasks", f"{event.bytes / 1e6:,.1f} MB"]
    if event.phase in {"fetching", "recordings"} and event.rate > 0:
        told.append(f"{event.rate:,.0f}/s")
    if event.phase == "done":
        told.append(f"in {_clock(event.seconds)}")
    elif event.phase != "writing" and event.remaining is not None:
        told.append(f"{_clock(event.remaining)} left")
    if event.retries:
        told.append(f"{event.retries:,} {'retry' if event.retries == 1 else 'retries'}")
    if event.runs_failed:
        told.append(f"{event.runs_failed:,} failed")
    return ", ".join(told)


def _waiting(event: ExportProgress) -> str:
    return f"waiting for the service, {event.waiting:.0f} s" if event.waiting >= _WAITED else ""


def _share(event: ExportProgress) -> float | None:
    if not event.runs_total:
        return None
    return min(event.runs_done / event.runs_total, 1.0)


def _clock(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02} h" if hours else f"{minutes}:{whole % 60:02} min"


class Display:
    """Two or three lines of a terminal, which are overwritten."""

    def __init__(self) -> None:
        from rich.live import Live

        self._event = ExportProgress(phase="listing")
        self._met_at = time.monotonic()
        self._live = Live(
            get_renderable=self._draw, console=console(sys.stderr), refresh_per_second=8, transient=False
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def __call__(self, event: ExportProgress) -> None:
        self._event = event
        self._met_at = time.monotonic()

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        event, share = self._event, _share(self._event)
        lines: list[RenderableType] = [_one_line(Text(headline(event), "bold"))]
        if share is not None:
            bar = Table.grid(padding=(0, 1, 0, 0))
            bar.add_row(ProgressBar(1.0, share, width=30), Text(f"{share:4.0%}"))
            lines.append(bar)
        lines.append(_one_line(Text(figures(event))))
        if waiting := _waiting(event):
            lines.append(_one_line(Text(waiting, "yellow")))
        return Group(*lines)


def _one_line(text: Any) -> Any:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


class Lines:
    """A line when a phase begins, for each further tenth of the runs, and at least now and then.

    Not oftener than each second, and every half minute also when nothing moves, so that whoever reads the log
    of a job sees that it is alive.
    """

    def __init__(
        self, tell: Callable[[str], None] = say, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._phase = ""
        self._tenth = 0
        self._told_at = -1e9
        self._waited = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def __call__(self, event: ExportProgress) -> None:
        now, waiting = self._clock(), _waiting(event)
        tenth = int((_share(event) or 0.0) * 10)
        passed = now - self._told_at
        if not (
            event.phase != self._phase
            or (tenth > self._tenth and passed >= 1)
            or (waiting and not self._waited)
            or passed >= 30
        ):
            return
        self._phase, self._tenth, self._told_at, self._waited = event.phase, tenth, now, bool(waiting)
        self._tell("; ".join(part for part in (headline(event), figures(event), waiting) if part))
