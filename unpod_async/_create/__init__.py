"""Placing calls.

`payload` checks and encodes a request; `phone_numbers` has the rule for its numbers. `submit` sends it once.
`reconcile` searches for the calls of a request whose outcome is unknown, by the server's clock
(`server_clock`). `batch` sends many requests and records each step in a `journal`.
"""

from __future__ import annotations

from unpod_async._create.batch import BatchResult, create_many
from unpod_async._create.journal import Journal, JournalEntry
from unpod_async._create.payload import encode_create
from unpod_async._create.reconcile import Reconciliation, reconcile
from unpod_async._create.submit import send_create

__all__ = [
    "BatchResult",
    "Journal",
    "JournalEntry",
    "Reconciliation",
    "create_many",
    "encode_create",
    "reconcile",
    "send_create",
]
