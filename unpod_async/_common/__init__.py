"""Helpers without network access and without knowledge of the API.

Modules: `text` (text that is safe to display), `json_text` (JSON that is not decoded), `times`, `files`
(fsync, locks), `concurrency` (workers, cancellation) and `statuses` (when a task or a run has ended).
"""

from __future__ import annotations

from unpod_async._common.concurrency import cancel_and_wait, ignore_error, join_shielded, run_workers
from unpod_async._common.files import (
    O_BINARY,
    FileLock,
    FlockLock,
    RegionLock,
    close_locked,
    lock,
    path_text,
    sync_file,
    sync_folder,
    write_all,
)
from unpod_async._common.json_text import (
    MAX_DEPTH,
    STRING,
    array_items,
    cut_at_depth,
    end_of_value,
    has_few_brackets,
    is_too_deep,
    is_value_too_deep,
    object_members,
    string_value,
)
from unpod_async._common.statuses import count_active, is_terminal, is_terminal_run, run_has_ended
from unpod_async._common.text import looks_like_markup, printable, shorten, summarise_body
from unpod_async._common.times import is_before, parse_time

__all__ = [
    "MAX_DEPTH",
    "O_BINARY",
    "STRING",
    "FileLock",
    "FlockLock",
    "RegionLock",
    "array_items",
    "cancel_and_wait",
    "close_locked",
    "count_active",
    "cut_at_depth",
    "end_of_value",
    "has_few_brackets",
    "ignore_error",
    "is_before",
    "is_terminal",
    "is_terminal_run",
    "is_too_deep",
    "is_value_too_deep",
    "join_shielded",
    "lock",
    "looks_like_markup",
    "object_members",
    "parse_time",
    "path_text",
    "printable",
    "run_has_ended",
    "run_workers",
    "shorten",
    "string_value",
    "summarise_body",
    "sync_file",
    "sync_folder",
    "write_all",
]
