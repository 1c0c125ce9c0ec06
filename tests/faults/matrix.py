"""The rows of the fault matrix: each fault, and the required result."""

from __future__ import annotations

__all__ = ["LATER", "ROWS"]

_RETRIED_OR_UNKNOWN = "read: retried, then TransportError; create: one send, OutcomeUnknown"

ROWS: dict[int, tuple[str, str]] = {
    1: ("connection refused", "read and create: retried, then TransportError(sent=False)"),
    2: ("reset before the status line", f"{_RETRIED_OR_UNKNOWN}; sends = attempts"),
    3: ("closed before the status line", f"{_RETRIED_OR_UNKNOWN}; sends = attempts"),
    4: ("reset or closed inside the head", f"{_RETRIED_OR_UNKNOWN}; the received part is not shown"),
    5: ("reset or closed inside the body, at every byte", _RETRIED_OR_UNKNOWN),
    6: ("chunked body truncated", _RETRIED_OR_UNKNOWN),
    7: ("no length, closed early", "read: retried once, then DecodeError; create: OutcomeUnknown"),
    8: ("gzip truncated, framing complete", "read: retried once, then DecodeError; create: OutcomeUnknown"),
    9: ("gzip damaged", _RETRIED_OR_UNKNOWN),
    10: (
        "a content coding that cannot be decoded",
        "read: one send, TransportError that names it; create: OutcomeUnknown",
    ),
    11: (
        "not HTTP",
        f"{_RETRIED_OR_UNKNOWN}; never a 400; over 64 KiB or 256 headers: a read fails at once",
    ),
    12: ("one byte at a time", f"{_RETRIED_OR_UNKNOWN}, ended by timeout="),
    13: ("stall before or inside the body", f"{_RETRIED_OR_UNKNOWN}, ended by timeout="),
    14: (
        "TLS without response, or connect black hole",
        "read and create: retried, then TransportError(sent=False)",
    ),
    15: (
        "name not found, or name server stalls",
        "read and create: retried, then TransportError(sent=False)",
    ),
    16: (
        "certificate of an unknown CA, for another host, expired",
        "one connection, TransportError, permanent",
    ),
    17: ("plain HTTP to a TLS port", "read: retried, then TransportError that suggests https"),
    18: (
        "the server closes an idle connection at that moment",
        "reads are retried; every create succeeds, sent once",
    ),
    19: ("connection closed after each answer", "no error"),
    20: ("redirects", "one send, APIError; nothing reaches the target"),
    21: (
        "100 MB page; bomb",
        "TransportError at max_response_bytes, one send; create: OutcomeUnknown; flat memory",
    ),
    22: ("extra bytes after the body", "they are no response; the next calls are right"),
    23: ("proxies and .netrc in the environment", "not used"),
    24: (
        "429 in all its forms",
        "all requests wait at least as long as requested, one log line; create: sent again",
    ),
    25: (
        "5xx with HTML or a traceback",
        "read: retried, then ServerError, body shortened and redacted; create: OutcomeUnknown",
    ),
    26: ("206 refusal", "one send, RefusedError"),
    27: (
        "206 with a string in errors",
        "read: at most 2 retries, then UpstreamError; create: OutcomeUnknown",
    ),
    28: (
        "one page always fails with 206",
        "the page is split; all other rows are read, the position is reported",
    ),
    29: ("4xx", "one send, the class of the status"),
    30: (
        "401 in the middle",
        "all workers stop with one AuthenticationError; a token_provider is called once",
    ),
    31: ("200 that is not JSON", "read: retried once, then DecodeError; create: OutcomeUnknown"),
    32: ("200 with an error body", "as that status"),
    33: ("invalid UTF-8", "the row is rejected, the page survives"),
    34: (
        "NaN, surrogates, huge numbers, deep nesting, duplicate keys",
        "the row is rejected or read; the page survives or is split",
    ),
    35: (
        "fields unknown, missing, of the wrong type; data null or {}",
        "row rejected, page survives; DecodeError if there is no listing",
    ),
    36: ("count null, 0, too low, too high, that of the page", "every row once, or IncompleteListing"),
    37: ("page or page_size ignored, clamped, repeated", "every row once, or StalledListing"),
    38: ("page_size 0, negative, beyond 2^31", "refused, nothing sent"),
    39: ("rows move while they are read", "every row that stayed, once"),
    40: ("rows of another run", "rejected"),
    41: ("cancelled at every await", "CancelledError, no task or socket left"),
    42: ("break or exception at every row", "the exception itself, no task or socket left"),
    43: ("second cancel, Ctrl-C, SIGTERM", "ends at once, no task or socket left"),
    44: ("used in another event loop", "ConfigurationError with this reason"),
    45: ("closed with calls in flight", "TransportError with this reason; create: OutcomeUnknown"),
    46: ("never closed", "one ResourceWarning with the line where the client was made"),
    47: ("forked", "ConfigurationError in the child; the parent continues"),
    48: ("kill -9 in an export", "the exact set after resuming"),
    49: ("power loss in an export", "the exact set after resuming"),
    50: ("disk full", "the last good checkpoint stays"),
    51: ("two exports to one target", "the second refuses"),
    52: ("target or options differ from the checkpoint", "refused"),
    53: ("the clock jumps", "no effect: waits, deadlines and limits are monotonic"),
    54: ("no free file descriptor", "retried, then TransportError(sent=False)"),
    55: ("the reader is slower than the network", "only the requested number of pages is in memory"),
    56: ("a progress callback raises", "the export continues"),
}

LATER: dict[int, str] = {}
"""Rows without a test, and the reason."""
