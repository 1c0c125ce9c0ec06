"""redaction"""

from __future__ import annotations

from unpod_async._export.redaction.patterns import kind_of_key
from unpod_async._export.redaction.redactor import Redactor

__all__ = [
    "Redactor",
    "kind_of_key",
]
