"""Errors that say what to write, for asynchronous objects that are used like synchronous ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

__all__ = ["AsyncOnly"]


class AsyncOnly:
    """Base class of objects that are used with `async for`, `async with` or calls that are awaited.

    `for`, `list()`, an index, `await` and `with` raise a TypeError that says what to write. Type checkers do
    not see these methods, so they report such code too.
    """

    _instead_of_for: ClassVar[str] = ""
    _instead_of_await: ClassVar[str] = ""
    _instead_of_with: ClassVar[str] = ""

    if not TYPE_CHECKING:
        # `for` and `list()` call __getitem__ on an object without __iter__. An object with __iter__ would be
        # a `collections.abc.Iterable`.
        def __getitem__(self, index: object) -> NoReturn:
            raise self._not_iterable()

        def _not_iterable(self) -> TypeError:
            return TypeError(f"'{type(self).__name__}' object is not iterable: {self._instead_of_for}")

        def __await__(self) -> NoReturn:
            raise TypeError(f"'{type(self).__name__}' object cannot be awaited: {self._instead_of_await}")

        def __enter__(self) -> NoReturn:
            raise TypeError(
                f"'{type(self).__name__}' object does not support `with`: {self._instead_of_with}"
            )

        # Python looks this method up before it calls __enter__.
        def __exit__(self, *exception: Any) -> None:
            """Do nothing: `__enter__` always raises."""
