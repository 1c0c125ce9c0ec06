"""Remove contact data from the rows of an export.

Modules: `patterns` (what contact data looks like), `json_strings` (the strings of a row), `decoded_row` and
`messages` (the same, faster, for most rows), `matchers` (find the values of a row elsewhere in it),
`candidates` (the strings that need a closer look) and `redactor`, which replaces them.
"""

from __future__ import annotations

from unpod_async._export.redaction.json_strings import MEASURES
from unpod_async._export.redaction.patterns import kind_of_key, mask_contact
from unpod_async._export.redaction.redactor import Redactor

__all__ = [
    "MEASURES",
    "Redactor",
    "kind_of_key",
    "mask_contact",
]
