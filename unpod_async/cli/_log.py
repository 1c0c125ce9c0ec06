"""The library's log on stderr."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from unpod_async.cli._output import say

__all__ = ["log_to_stderr"]


class _Talk(logging.Handler):
    """Says records; the stderr of the moment, for a display may have put itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextmanager
def log_to_stderr(verbose: int) -> Generator[None]:
    """Show the log of this package, from DEBUG on where `verbose` is more than 1, else from INFO on."""
    logger = logging.getLogger("unpod_async")
    handler, level = _Talk(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
