"""The colours of statuses and outcomes.

Statuses and outcomes are strings from the service, which may add others. Unknown ones have no colour.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["outcome_style", "status_style"]

_GOOD: Final = "green"
_PARTIAL: Final = "yellow"
"""The call did not reach the person, or a run is completed in part."""
_BAD: Final = "red"
_ACTIVE: Final = "cyan"
_WAITING: Final = "blue"
"""A call is planned for later."""
_HELD: Final = "magenta"
"""The call is not placed until someone acts."""

_STATUSES: Final = {
    "completed": _GOOD,
    "partially_completed": _PARTIAL,
    "failed": _BAD,
    "in_progress": _ACTIVE,
    "processing": _ACTIVE,
    "running": _ACTIVE,
    "pending": _WAITING,
    "scheduled": _WAITING,
    "hold": _HELD,
}

# A call that ended with "Not Interested" is neither a success nor a failure, so it has no colour.
_OUTCOMES: Final = (
    (re.compile(r"fail|error|wrong number|invalid|do not call|dnd"), _BAD),
    (
        re.compile(
            r"no.?answer|not answered|unanswered|no response|voice ?mail|busy|reachable|not reached"
            r"|switched off|missed|hung up|disconnected|dropped|abandoned|cancell?ed|unknown"
        ),
        _PARTIAL,
    ),
    (re.compile(r"call.?back|follow.?up|re.?scheduled?|later|pending"), _WAITING),
    (re.compile(r"\b(not|no|un\w+|declined|rejected|refused)\b"), ""),
    (
        re.compile(
            r"interested|qualified|confirmed|booked|appointment|accepted|agreed|success|completed|converted"
            r"|\bsold\b"
        ),
        _GOOD,
    ),
)
"""The first pattern that is found in an outcome decides."""


def status_style(status: object) -> str:
    """Return the colour of a status of a run or task, or "" for an unknown one."""
    return _STATUSES.get(status, "") if isinstance(status, str) else ""


def outcome_style(outcome: object) -> str:
    """Return the colour of the outcome of a call, or "" for an unknown or neutral one."""
    if not isinstance(outcome, str):
        return ""
    words = re.sub(r"[\s_-]+", " ", outcome[:200]).casefold()
    return next((style for pattern, style in _OUTCOMES if pattern.search(words)), "")
