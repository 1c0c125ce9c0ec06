"""What a client has done so far, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Stats"]


@dataclass(slots=True)
class Stats:
    """Counters of one client since it was made; views from `with_options` count into the same ones.

    Attributes:
        requests: calls for one page or object; repeats are not counted.
        attempts: requests really sent, repeats included.
        retries: repeats by cause: the HTTP status, or the name of the error class.
        bytes: bodies received, decompressed.
        waited: seconds slept between attempts and at the gate, added up over all calls.
        rows: rows that listings handed on.
        rejected: rows that came and did not fit.
        unreadable: rows the server could not send.
        repeated: rows met again because the listing moved, and left out.
    """

    requests: int = 0
    attempts: int = 0
    retries: Counter[str] = field(default_factory=Counter[str])
    bytes: int = 0
    waited: float = 0.0
    rows: int = 0
    rejected: int = 0
    unreadable: int = 0
    repeated: int = 0
