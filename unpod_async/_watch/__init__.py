"""Watching runs and tasks for changes, and waiting for runs.

`watch` runs one `poll` after the other for each space; `wait` polls on its own. A poll reads the newest and
the unsettled runs (`readers`), and from time to time everything (`resync`). It reads through `source`, which
compares each response with the known `state` (`diff`) and emits events. `schedule` decides what is due.
"""

from __future__ import annotations

from unpod_async._watch.schedule import Clock, PollDelays, PollSchedule
from unpod_async._watch.state import STATE_VERSION, Known, WatchState, check_state_file, restore_known
from unpod_async._watch.wait import Until, WatchedRun, find_run, wait_for_runs
from unpod_async._watch.watch import Watch

__all__ = [
    "STATE_VERSION",
    "Clock",
    "Known",
    "PollDelays",
    "PollSchedule",
    "Until",
    "Watch",
    "WatchState",
    "WatchedRun",
    "check_state_file",
    "find_run",
    "restore_known",
    "wait_for_runs",
]
