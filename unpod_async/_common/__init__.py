"""Helpers without network access and without knowledge of the API.

Modules: `text` (text that is safe to display), `times`, `files` (fsync, locks), `concurrency` (workers,
cancellation) and `statuses` (when a task or a run has ended).
"""

from __future__ import annotations

from unpod_async._common.concurrency import cancel_and_wait, join_shielded, run_workers
from unpod_async._common.files import (
    O_BINARY,
    FileLock,
    FlockLock,
    RegionLock,
    close_locked,
    lock,
    sync_file,
    sync_folder,
    write_all,
)
from unpod_async._common.statuses import count_active, is_terminal, is_terminal_run, run_has_ended
from unpod_async._common.text import looks_like_markup, printable, shorten, summarise_body
from unpod_async._common.times import is_before, parse_time

__all__ = [
    "O_BINARY",
    "FileLock",
    "FlockLock",
    "RegionLock",
    "cancel_and_wait",
    "close_locked",
    "count_active",
    "is_before",
    "is_terminal",
    "is_terminal_run",
    "join_shielded",
    "lock",
    "looks_like_markup",
    "parse_time",
    "printable",
    "run_has_ended",
    "run_workers",
    "shorten",
    "summarise_body",
    "sync_file",
    "sync_folder",
    "write_all",
]
