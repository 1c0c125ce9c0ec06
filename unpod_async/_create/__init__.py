"""Placing calls.

`payload` checks and encodes a request, and has the rule for phone numbers. `submit` sends it once.
`reconcile` searches for the calls of a request whose outcome is unknown; `server_clock` decides which runs it
must search. `batch` sends many requests and records each step in a `journal`.
"""

from __future__ import annotations

from unpod_async._create.batch import BatchResult, create_many, open_journal
from unpod_async._create.journal import Journal, JournalEntry
from unpod_async._create.payload import check_json, encode_create
from unpod_async._create.reconcile import Reconciliation, reconcile
from unpod_async._create.server_clock import Instant, SearchWindow, SentAt, ServerClock, search_window
from unpod_async._create.submit import send_create, sent_at, some_ids

__all__ = [
    "BatchResult",
    "Instant",
    "Journal",
    "JournalEntry",
    "Reconciliation",
    "SearchWindow",
    "SentAt",
    "ServerClock",
    "check_json",
    "create_many",
    "encode_create",
    "open_journal",
    "reconcile",
    "search_window",
    "send_create",
    "sent_at",
    "some_ids",
]
