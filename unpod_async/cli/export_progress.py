"""The progress of an export: redrawn lines on a terminal, or lines of a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from unpod_async._export import ExportProgress
from unpod_async.cli.output import can_redraw, console, counted, echo_err

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["ProgressLines", "progress_display"]

_TITLES: Final = {
    "listing": "Listing runs",
    "fetching": "Fetching tasks",
    "recordings": "Downloading recordings",
    "writing": "Writing files",
    "uploading": "Uploading files",
    "done": "Done",
}
_SHOWN_WAIT: Final = 2.0
"""Seconds without a response of the service after which the display says so."""
_HEARTBEAT: Final = 30.0
"""Maximum number of seconds between two lines of a log."""


class ProgressDisplay(Protocol):
    """Shows progress events inside a `with` block."""

    def __call__(self, event: ExportProgress) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def progress_display(*, logged: bool = False) -> ProgressDisplay:
    """Return the display that suits stderr.

    Args:
        logged: the log is on stderr too. It has lines about the start and the end of an outage.
    """
    return ProgressScreen(logged=logged) if can_redraw(sys.stderr) else ProgressLines(logged=logged)


def _headline(event: ExportProgress) -> str:
    title = _TITLES[event.phase]
    if event.phase == "uploading":
        return f"{title}: {event.uploads:,} of {counted(event.uploads_total or 0, 'file')}"
    if event.phase == "recordings":
        return f"{title}: {event.recordings_done:,} of {counted(event.recordings_total or 0, 'recording')}"
    if event.runs_total is None:
        return f"{title}: {counted(event.runs_seen, 'run')} found"
    return f"{title}: {event.runs_done:,} of {counted(max(event.runs_total, event.runs_done), 'run')}"


def _figures(event: ExportProgress) -> str:
    """Return tasks, bytes, rate, remaining time, retries and failures."""
    parts = [counted(event.rows, "task"), f"{event.bytes / 1e6:,.1f} MB"]
    if event.phase == "fetching" and event.rate > 0:
        parts.append(f"{event.rate:,.0f} tasks/s")
    if event.phase == "done":
        parts.append(f"in {_duration(event.seconds)}")
    elif event.phase not in {"writing", "uploading"} and event.remaining is not None:
        parts.append(f"{_duration(event.remaining)} left")
    if event.retries:
        parts.append(f"{event.retries:,} {'retry' if event.retries == 1 else 'retries'}")
    failed = event.recordings_failed if event.phase == "recordings" else event.runs_failed
    if failed:
        parts.append(f"{failed:,} failed")
    return ", ".join(parts)


def _outage(event: ExportProgress) -> str:
    if event.waiting < _SHOWN_WAIT or event.outage is None:
        return ""
    return f"{event.outage} ({event.waiting:.0f} s so far)"


def _news(before: ExportProgress, event: ExportProgress, *, logged: bool) -> list[str]:
    """Return lines about what has happened since the event before."""
    lines: list[str] = []
    if event.resumed is not None and event.resumed != before.resumed:
        lines.append(f"resuming: {event.resumed} are stored")
    if event.outage is None and _outage(before) and not logged:
        lines.append(f"the service responds again after {before.waiting:.0f} s")
    return lines


def _share_done(event: ExportProgress) -> float | None:
    if event.phase == "uploading":
        return min(event.uploads / event.uploads_total, 1.0) if event.uploads_total else None
    if event.phase == "recordings":
        finished = event.recordings_done + event.recordings_failed
        return min(finished / event.recordings_total, 1.0) if event.recordings_total else None
    if not event.runs_total:
        return None
    return min(event.runs_done / event.runs_total, 1.0)


def _duration(seconds: float) -> str:
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02} h" if hours else f"{minutes}:{whole % 60:02} min"


class ProgressScreen:
    """Two or three lines of a terminal that are redrawn eight times a second."""

    def __init__(self, *, logged: bool = False) -> None:
        from rich.live import Live

        self._logged = logged
        self._event = ExportProgress(phase="listing")
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
        for line in _news(self._event, event, logged=self._logged):
            echo_err(line)
        self._event = event

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        event, share = self._event, _share_done(self._event)
        lines: list[RenderableType] = [_one_line(Text(_headline(event), "bold"))]
        if share is not None:
            bar = Table.grid(padding=(0, 1, 0, 0))
            bar.add_row(
                ProgressBar(1.0, share, width=30, complete_style="cyan", finished_style="green"),
                Text(f"{share:4.0%}"),
            )
            lines.append(bar)
        lines.append(_one_line(Text(_figures(event))))
        if outage := _outage(event):
            lines.append(Text(outage, "yellow"))
        return Group(*lines)


def _one_line(text: Any) -> Any:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


class ProgressLines:
    """A line when an export resumes, when a phase starts, for each tenth of a phase, and about outages.

    Between these it writes at most one line per second. It writes at least one every 30 seconds even if
    nothing changes, so that the log of a job shows that it still runs.
    """

    def __init__(
        self,
        write: Callable[[str], None] = echo_err,
        clock: Callable[[], float] = time.monotonic,
        *,
        logged: bool = False,
    ) -> None:
        self._write = write
        self._clock = clock
        self._logged = logged
        self._phase = ""
        self._tenth = 0
        self._written_at = -1e9
        self._in_outage = False
        self._event = ExportProgress(phase="listing")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def __call__(self, event: ExportProgress) -> None:
        for line in _news(self._event, event, logged=self._logged):
            self._write(line)
        self._event = event
        now, outage = self._clock(), _outage(event)
        tenth = int((_share_done(event) or 0.0) * 10)
        elapsed = now - self._written_at
        if not (
            event.phase != self._phase
            or (tenth > self._tenth and elapsed >= 1)
            or (outage and not self._in_outage and not self._logged)
            or elapsed >= _HEARTBEAT
        ):
            return
        self._phase, self._tenth, self._written_at, self._in_outage = event.phase, tenth, now, bool(outage)
        self._write("; ".join(part for part in (_headline(event), _figures(event), outage) if part))
