"""Find text in everything an exception shows: messages, arguments, pickles, and locals of all frames."""

from __future__ import annotations

import pickle
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import unpod_async

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SANDBOX_SECRETS", "leaks", "shown"]

SANDBOX_SECRETS = re.compile(r"\b(?:a11ce|b0b|ca401|dade|b1ac)0{30,}|<jwt-\w+>|\bSYN[A-Z]{3,}0+")
"""Matches the keys, JWTs and user tokens of the sandbox's accounts."""

_TESTS = str(Path(__file__).parent)
_PACKAGE = str(Path(unpod_async.__file__).parent)


def shown(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield (location, text) for everything visible of an exception, its causes and its context.

    Frames of tests are left out, and what they called that is not ours: they hold secrets, as a caller's may.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        name = type(one).__name__
        yield f"str({name})", str(one)
        yield f"repr({name})", repr(one)
        yield f"args of {name}", repr(one.args)
        yield f"attributes of {name}", repr(getattr(one, "__dict__", {}))
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            yield f"pickle {protocol} of {name}", pickle.dumps(one, protocol).decode("latin-1")
        ours = False
        for frame, line in traceback.walk_tb(one.__traceback__):
            file = frame.f_code.co_filename
            ours = ours or file.startswith(_PACKAGE)
            if ours and not file.startswith(_TESTS):
                for local, value in frame.f_locals.items():
                    yield f"{file}:{line} {frame.f_code.co_name}: {local}", _repr(value)


def _repr(value: object) -> str:
    if _is_deep(value):
        # Since Python 3.14, repr() of 100,000 levels raises no RecursionError; it takes minutes.
        return "nested too deeply"
    try:
        return repr(value)
    except Exception as fault:  # noqa: BLE001 - the object is incomplete
        return type(fault).__name__


def _is_deep(value: object, most: int = 900) -> bool:
    """Return whether the first items of dicts and lists lead deeper than `most` levels."""
    for _ in range(most):
        if isinstance(value, dict):
            value = next(iter(value.values()), None)
        elif isinstance(value, (list, tuple)):
            value = value[0] if value else None
        else:
            return False
    return True


def leaks(error: BaseException, secret: re.Pattern[str] = SANDBOX_SECRETS) -> list[str]:
    """Return the locations where a secret is visible."""
    return sorted({where for where, text in shown(error) if secret.search(text)})
