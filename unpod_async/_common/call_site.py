"""The line of the caller's program that called this package."""

from __future__ import annotations

import sys
from types import FrameType

__all__ = ["call_site"]


def call_site() -> str:
    """Return the innermost source line outside this package, or "" if there is none."""
    package = __name__.partition(".")[0]
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == package:
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
