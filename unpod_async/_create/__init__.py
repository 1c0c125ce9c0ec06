"""_create"""

from __future__ import annotations

from unpod_async._create.batch import BatchResult, CreateRequest, create_many
from unpod_async._create.reconcile import Reconciliation, reconcile
from unpod_async._create.submit import send_create

__all__ = [
    "BatchResult",
    "CreateRequest",
    "Reconciliation",
    "create_many",
    "reconcile",
    "send_create",
]
