"""Helpers without network access and without knowledge of the API.

Modules: `text` (text that is safe to display), `json_text` (JSON that is not decoded), `times`, `files`
(fsync, atomic replacement, locks, digests), `concurrency` (workers, cancellation), `statuses` (when a task or
a run has ended), `streams` (text that is written to the end), `user_tokens` (tokens in rows), `async_only`
(errors for synchronous use), `call_site` (the line that called the package), `lazy_imports` (modules that are
imported on first use) and `os_errors` (errors of the system in words).
"""

from __future__ import annotations

from unpod_async._common.async_only import AsyncOnly
from unpod_async._common.call_site import call_site
from unpod_async._common.concurrency import (
    CallerContext,
    Stopped,
    TimeLimit,
    caller_context,
    cancel_and_wait,
    ignore_error,
    join_shielded,
    run_stoppable,
    run_workers,
)
from unpod_async._common.files import (
    O_BINARY,
    FileLock,
    FlockLock,
    RegionLock,
    check_replaceable,
    close_locked,
    find_write_error,
    lock,
    locked,
    path_text,
    replace_file,
    sha256_of,
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
from unpod_async._common.lazy_imports import import_on_use
from unpod_async._common.os_errors import is_fault_of_disk, os_error_advice, os_error_reason
from unpod_async._common.statuses import (
    RunStatus,
    TaskStatus,
    count_active,
    is_terminal,
    is_terminal_run,
    run_has_ended,
)
from unpod_async._common.streams import buffered
from unpod_async._common.text import (
    counted,
    html_table,
    looks_like_markup,
    printable,
    shorten,
    summarise_body,
)
from unpod_async._common.times import (
    clock,
    is_before,
    local_time,
    parse_time,
    time_text,
    usual_time_texts,
    zone_name,
)
from unpod_async._common.user_tokens import replace_user_tokens, search_rows

__all__ = [
    "MAX_DEPTH",
    "O_BINARY",
    "STRING",
    "AsyncOnly",
    "CallerContext",
    "FileLock",
    "FlockLock",
    "RegionLock",
    "RunStatus",
    "Stopped",
    "TaskStatus",
    "TimeLimit",
    "array_items",
    "buffered",
    "call_site",
    "caller_context",
    "cancel_and_wait",
    "check_replaceable",
    "clock",
    "close_locked",
    "count_active",
    "counted",
    "cut_at_depth",
    "end_of_value",
    "find_write_error",
    "has_few_brackets",
    "html_table",
    "ignore_error",
    "import_on_use",
    "is_before",
    "is_fault_of_disk",
    "is_terminal",
    "is_terminal_run",
    "is_too_deep",
    "is_value_too_deep",
    "join_shielded",
    "local_time",
    "lock",
    "locked",
    "looks_like_markup",
    "object_members",
    "os_error_advice",
    "os_error_reason",
    "parse_time",
    "path_text",
    "printable",
    "replace_file",
    "replace_user_tokens",
    "run_has_ended",
    "run_stoppable",
    "run_workers",
    "search_rows",
    "sha256_of",
    "shorten",
    "string_value",
    "summarise_body",
    "sync_file",
    "sync_folder",
    "time_text",
    "usual_time_texts",
    "write_all",
    "zone_name",
]
