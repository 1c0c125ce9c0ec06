"""What the demos that are programs of their own have in common: missing packages, Ctrl-C and errors."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import IO, Any

from unpod_async._version import install_command
from unpod_async.testing.demos.export_process import print_lines

__all__ = ["run_demo"]


def run_demo(
    demo: Callable[[IO[str]], Coroutine[Any, Any, int]], packages: Mapping[str, Sequence[str]]
) -> int:
    """Run a demo, and return its exit status: 1 after an error, 130 after Ctrl-C.

    Args:
        demo: writes to the stream, and returns the exit status.
        packages: names of the modules that it needs, by the extra that installs them.
    """
    for extra, names in packages.items():
        if missing := [name for name in names if not _is_installed(name)]:
            print_lines(
                sys.stdout,
                f"FAILED: not installed: {' and '.join(missing)}",
                f"hint: {install_command(extra)}",
            )
            return 1
    try:
        return asyncio.run(demo(sys.stdout))
    except KeyboardInterrupt:
        print_lines(sys.stdout, "Interrupted.")
        return 130
    except (OSError, RuntimeError) as error:
        print_lines(sys.stdout, f"FAILED: {type(error).__name__}: {error}")
        return 1


def _is_installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
