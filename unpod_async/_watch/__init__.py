"""Watching runs and tasks for changes, and waiting for them; imports go down only::

    _watch      Watch: one worker per space, an outage told once, the state to restart from
    _wait       runs.wait and runs.find, which ask by themselves
    _space      one poll of one space: what is asked, in which order
    _line       whether it can be reached
    _rows       rows of runs: the newest, and those of unsettled runs further back
    _together   tasks of many runs at once
    _resync      the whole space read again, some pages at a time
    _questions  the walks of one space, and the handing on of what their answers tell
    _compare    what an answer tells that was not known; no I/O
    _known      what has been told so far; no I/O
    _state      the same as something to keep
    _schedule _clock   when what is due, the clock passed in; no I/O
    _blame      whether an error is that of one run; no I/O

A poll reads the runs from the newest on until it meets what it knows, the rows of unsettled runs behind, and
the tasks of unsettled runs; how often depends on how long ago something changed in them. A resync reads all.
Nothing is noted as known before the event that tells of it has been handed out."""

from __future__ import annotations

from unpod_async._watch.clock import Clock
from unpod_async._watch.known import Known
from unpod_async._watch.schedule import Schedule
from unpod_async._watch.state import STATE_VERSION, WatchState, known_of
from unpod_async._watch.wait import Until, WatchedRun, find_run, wait_for_runs
from unpod_async._watch.watch import Watch

__all__ = [
    "STATE_VERSION",
    "Clock",
    "Known",
    "Schedule",
    "Until",
    "Watch",
    "WatchState",
    "WatchedRun",
    "find_run",
    "known_of",
    "wait_for_runs",
]
