"""How a walk says that rows may be missing."""

from __future__ import annotations

from unpod_async.errors import IncompleteListing, StalledListing

__all__ = ["incomplete", "stalled"]


def incomplete(seen: int, expected: int | None, reason: str) -> IncompleteListing:
    told = "the server does not count them" if expected is None else f"the server counts {expected}"
    return IncompleteListing(
        f"rows may be missing: {seen} distinct rows seen, {told}; {reason}. What came was yielded; "
        "walk the listing again when it changes less",
        seen=seen,
        expected=expected,
    )


def stalled(seen: int, expected: int | None, reason: str) -> StalledListing:
    of = "" if expected is None else f" of {expected}"
    return StalledListing(
        f"the listing stalls: {reason}; {seen} rows{of} can be reached. The server ignores `page`: "
        "ask for larger pages, or check what stands between you and it",
        seen=seen,
        expected=expected,
    )
