"""The state of a watch: what it knows about the runs of a space, and the saved form.

`Known` is updated by events only, and an event is applied when the caller receives it. So the state never
contains a change that the caller has not seen.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from unpod_async._common import (
    check_replaceable,
    is_fault_of_disk,
    is_terminal,
    os_error_advice,
    os_error_reason,
    replace_file,
    run_has_ended,
    shorten,
)
from unpod_async.errors import ConfigurationError
from unpod_async.events import (
    CallEnded,
    Event,
    RunRemoved,
    RunSeen,
    RunSettled,
    RunStatusChanged,
    TaskRemoved,
    TaskSeen,
    TaskStatusChanged,
)

__all__ = [
    "STATE_VERSION",
    "Known",
    "ReportedRun",
    "WatchState",
    "check_state_file",
    "restore_known",
    "save_known",
]

STATE_VERSION: Final = 2
"""Version of the format of `WatchState`."""


class ReportedRun(msgspec.Struct):
    """A run that has been reported.

    Times are seconds on the monotonic clock of the watch.

    Attributes:
        status: the status reported last.
        previous_status: the status reported before that.
        tasks: the status of each of its tasks, by task id.
        settled: the run has ended, this is known to the caller, and nothing has changed since.
        backfilling: the run existed when the watch started and its tasks have not all been read. A task that
            has ended may have ended long ago, so no `CallEnded` is reported for it.
        tasks_read: all its tasks were read once. A task that is not known yet is newer.
        pending_ended: tasks whose terminal status was reported, but not yet their `CallEnded`.
        depth: how many older runs there were when the run was last listed; None if unknown.
        active: the run is new, or a change in it was seen.
        changed_at: when something in it was last seen to change.
        due_at: when to read it again.
        failures: how many times in a row its tasks could not be read.
    """

    status: str | None
    previous_status: str | None = None
    tasks: dict[str, str | None] = msgspec.field(default_factory=dict[str, str | None])
    settled: bool = False
    backfilling: bool = False
    tasks_read: bool = False
    pending_ended: set[str] = msgspec.field(default_factory=set[str])
    depth: int | None = None
    active: bool = False
    changed_at: float = 0.0
    due_at: float = 0.0
    failures: int = 0

    def has_ended(self) -> bool:
        """Return whether the run has ended. Call this only if all its tasks have been read."""
        return run_has_ended(self.status, self.tasks.values(), all_tasks_read=True)

    def mark_changed(self, now: float) -> None:
        """Record that something in the run changed, so that the next poll reads it."""
        self.settled, self.active = False, True
        self.changed_at = self.due_at = now


class Known:
    """The runs of one space that have been reported.

    Attributes:
        runs: the runs by id.
        last_resync: when the last complete resync started, in Unix seconds. None until the first one is
            complete: not every existing run has been reported yet.
        unverified: runs reported since the newest runs were last read without a gap. There may be unreported
            runs behind them.
    """

    def __init__(self) -> None:
        self.runs: dict[str, ReportedRun] = {}
        self.last_resync: float | None = None
        self.unverified: set[str] = set()

    def apply(self, event: Event, now: float) -> None:
        """Record an event that the caller received at `now` on the monotonic clock of the watch."""
        match event:
            case RunSeen():
                self.runs[event.run_id] = ReportedRun(
                    event.new, backfilling=event.existing, active=not event.existing, changed_at=now
                )
                self.unverified.add(event.run_id)
            case RunRemoved():
                self.runs.pop(event.run_id, None)
                self.unverified.discard(event.run_id)
            case RunSettled():
                self.runs[event.run_id].settled = True
            case RunStatusChanged():
                run = self.runs[event.run_id]
                run.previous_status, run.status = run.status, event.new
                run.mark_changed(now)
            case TaskSeen() if event.existing:
                self.runs[event.run_id].tasks[event.task_id] = event.new
            case TaskSeen() | TaskStatusChanged():
                run = self.runs[event.run_id]
                run.tasks[event.task_id] = event.new
                if is_terminal(event.new):
                    run.pending_ended.add(event.task_id)
                else:
                    run.pending_ended.discard(event.task_id)
                run.mark_changed(now)
            case CallEnded():
                self.runs[event.run_id].pending_ended.discard(event.task_id)
            case TaskRemoved():
                run = self.runs[event.run_id]
                run.tasks.pop(event.task_id, None)
                run.pending_ended.discard(event.task_id)
                run.mark_changed(now)
            case _:
                pass


class SavedRun(msgspec.Struct, array_like=True, gc=False):
    """The saved form of a `ReportedRun`. `tasks` has task ids by status; an empty status means none."""

    status: str | None
    tasks: dict[str, list[str]]
    settled: bool
    backfilling: bool
    tasks_read: bool
    active: bool
    depth: int | None
    previous_status: str | None
    pending_ended: list[str]


class SavedSpace(msgspec.Struct, gc=False):
    """The saved form of a `Known`."""

    # The defaults let states of other versions decode, so that `runs.watch` can refuse them by version.
    last_resync: float | None = None
    runs: dict[str, SavedRun] = {}
    unverified: list[str] = []


class WatchState(msgspec.Struct, gc=False):
    """The state of a watch: everything reported so far.

    `runs.watch(..., state=state)` resumes from it in any process. Save it with `events.state.save(path)` and
    load it with `WatchState.load(path)`. In other places, such as a database, store
    `msgspec.json.encode(events.state)` and load it with `msgspec.json.decode(data, type=WatchState)`. It
    contains ids and statuses and no personal data, about 40 bytes for each task. Each access to
    `events.state` copies everything: with 10,000 runs, save it after events that must not be reported twice,
    not after every event.

    Attributes:
        tasks: whether tasks were watched.
        spaces: what was reported, by space token.
        run_ids: the runs that were watched; None if all were.
        version: the version of this format. Other versions are refused.
    """

    tasks: bool
    spaces: dict[str, SavedSpace]
    run_ids: list[str] | None = None
    version: int = STATE_VERSION

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WatchState | None:
        """Return the state that `save` wrote to a file, or None if there is no file or it is empty.

        Raises:
            ConfigurationError: the file cannot be read, or is not the state of a watch.
        """
        try:
            content = _read_file(path)
        except (OSError, ValueError) as fault:
            raise _file_error("read", path, fault) from None
        if not content:
            return None
        try:
            return msgspec.json.decode(content, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ConfigurationError(
                f"{_shown(path)} is not the state of a watch", hint="use another file, or remove this one"
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file that only its owner can read.

        The file is replaced completely or not at all, even if the process is killed or the power fails. If
        it is a symbolic link, the file that the link points to is replaced.

        This blocks until the disk has the data. In an event loop that must not wait for the disk, use
        `await asyncio.to_thread(events.state.save, path)`.

        Raises:
            ConfigurationError: the file cannot be written. It is unchanged.
        """
        try:
            _check_regular(path)
            replace_file(path, msgspec.json.encode(self))
        except (OSError, ValueError) as fault:
            raise _file_error("write", path, fault) from None

    def covers(self, run_ids: frozenset[str] | None, *, tasks: bool) -> bool:
        """Return whether the earlier watch covered everything that a watch of `run_ids` covers."""
        all_runs = self.run_ids is None or (run_ids is not None and run_ids <= set(self.run_ids))
        return all_runs and (self.tasks or not tasks)


def check_state_file(path: str | os.PathLike[str]) -> None:
    """Check that `WatchState.save` works, without changing the file or creating it.

    Raises:
        ConfigurationError: as `save`.
    """
    try:
        _check_regular(path)
        check_replaceable(path)
    except (OSError, ValueError) as fault:
        raise _file_error("write", path, fault) from None


def _read_file(path: str | os.PathLike[str]) -> bytes | None:
    return Path(path).read_bytes() if _check_regular(path) else None


def _check_regular(path: str | os.PathLike[str]) -> bool:
    """Return whether a file exists.

    Raises:
        ConfigurationError: it is a directory, a device or a pipe.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise ConfigurationError(
            f"{_shown(path)} is not a regular file",
            hint="pass the path of a regular file; it is created if it does not exist",
        )
    return True


def _file_error(verb: str, path: str | os.PathLike[str], fault: Exception) -> ConfigurationError:
    hint = f"choose a file that this process can {verb}"
    if is_fault_of_disk(fault):
        hint = f"{os_error_advice(fault, 'check the disk')} or choose another file"
    if isinstance(fault, OSError) and fault.errno == errno.EBUSY:
        hint = (
            "the file cannot be replaced, because it is a mount point, as in a container: mount its folder "
            "instead"
        )
    return ConfigurationError(f"cannot {verb} {_shown(path)}: {os_error_reason(fault)}", hint=hint)


def _shown(path: str | os.PathLike[str]) -> str:
    return shorten(os.fspath(path))


def save_known(spaces: Mapping[str, Known], run_ids: frozenset[str] | None, *, tasks: bool) -> WatchState:
    """Return a copy of what is known now, by space token."""
    saved = {
        token: SavedSpace(
            known.last_resync,
            {name: _save_run(run) for name, run in known.runs.items()},
            sorted(known.unverified),
        )
        for token, known in spaces.items()
    }
    return WatchState(tasks, saved, None if run_ids is None else sorted(run_ids))


def _save_run(run: ReportedRun) -> SavedRun:
    tasks: dict[str, list[str]] = {}
    for name, status in run.tasks.items():
        tasks.setdefault(status or "", []).append(name)
    return SavedRun(
        run.status,
        tasks,
        settled=run.settled,
        backfilling=run.backfilling,
        tasks_read=run.tasks_read,
        active=run.active,
        depth=run.depth,
        previous_status=run.previous_status,
        pending_ended=sorted(run.pending_ended),
    )


def restore_known(
    state: WatchState, space_token: str, run_ids: frozenset[str] | None, *, tasks: bool, now: float
) -> Known:
    """Return what a saved state knows about a space.

    Runs and tasks that the earlier watch did not cover will be reported with `existing=True`.

    Args:
        run_ids: the runs to watch now; None for all.
        tasks: whether tasks are watched now.
        now: the time on the monotonic clock of the watch.
    """
    known = Known()
    saved = state.spaces.get(space_token)
    if saved is None:
        return known
    if state.covers(run_ids, tasks=tasks):
        known.last_resync = saved.last_resync
    tasks_covered = state.tasks or not tasks
    for name, run in saved.runs.items():
        if run_ids is not None and name not in run_ids:
            continue
        statuses = {task: status or None for status, names in run.tasks.items() for task in names}
        known.runs[name] = ReportedRun(
            run.status,
            run.previous_status,
            statuses if tasks else {},
            settled=run.settled and tasks_covered,
            backfilling=run.backfilling or not tasks_covered,
            tasks_read=run.tasks_read and state.tasks,
            pending_ended=set(run.pending_ended) if tasks else set(),
            depth=run.depth,
            active=run.active,
            changed_at=now,
        )
    known.unverified = {name for name in saved.unverified if name in known.runs}
    return known
