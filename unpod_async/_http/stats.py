"""Counters of the requests of a client."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Stats"]


@dataclass(slots=True)
class Stats:
    """Counters of a client since its creation. Views from `with_options` add to the counters of their client.

    Attributes:
        requests: requested pages and objects, without retries.
        attempts: requests sent, including retries.
        retries: retries by cause: the HTTP status, or the name of the error class.
        bytes: bytes of response bodies, decompressed.
        waited: seconds spent in delays before retries and at the rate gate, summed over all calls.
        rows: rows that listings returned.
        rejected: received rows that did not fit their type.
        unreadable: rows that the server could not send.
        drift: number of values of a type other than documented, by model and field ("Run.batch_count").
            They are None in the rows; `raw()` has them as sent. A row is rejected if its id or status has
            another type.
        repeated: rows that were received again because the listing changed; they are not yielded twice.
        undated: call logs without a time, which a filter by time keeps.
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
    drift: Counter[str] = field(default_factory=Counter[str])
    undated: int = 0
