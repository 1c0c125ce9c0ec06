"""Which calls may be sent: those of a dry run, once, and never after an unknown outcome. No I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from unpod_async._integrations.mcp.problems import ToolProblem

__all__ = ["CallRequest", "Confirmations", "count_repeated"]

_MAX_PENDING: Final = 100
"""Dry runs that are remembered; the oldest are forgotten."""
_DIGITS_OF_NUMBER: Final = 10
"""The last digits of a phone number, so that the country prefix does not matter."""


class CallRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides which calls are placed."""

    space: str
    agent: str
    context: str
    documents: list[dict[str, Any]]
    schedule: str

    def digest(self) -> str:
        """Return a value that is equal for equal requests only."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    def people(self) -> frozenset[tuple[str, str]]:
        """Return the space and number of each person that is called."""
        return frozenset((self.space, _number_key(document)) for document in self.documents)


class Confirmations:
    """Remembers the dry runs of one server, and the calls whose outcome is unknown.

    Args:
        make_value: returns a new confirmation, which nobody can guess.
    """

    def __init__(self, make_value: Callable[[], str]) -> None:
        self._make_value = make_value
        self._pending: dict[str, str] = {}
        self._created: set[str] = set()
        self._unknown: set[tuple[str, str]] = set()

    def check(self, request: CallRequest) -> None:
        """Check that the request calls no person whose earlier call has an unknown outcome.

        Raises:
            ToolProblem: it does.
        """
        again = len(request.people() & self._unknown)
        if again:
            raise ToolProblem(
                f"nothing was sent: {again:,} of these calls may be queued already, by an earlier create "
                "whose outcome is unknown",
                "do not send them again; ask the user to look for the calls, and then to restart the server",
            )

    def propose(self, request: CallRequest) -> str:
        """Return the confirmation with which this request can be sent, once.

        Raises:
            ToolProblem: as for `check`.
        """
        self.check(request)
        while len(self._pending) >= _MAX_PENDING:
            self._pending.pop(next(iter(self._pending)))
        value = self._make_value()
        self._pending[value] = request.digest()
        return value

    def created_before(self, request: CallRequest) -> bool:
        """Return whether an equal request has been sent, and its calls are queued."""
        return request.digest() in self._created

    def begin(self, confirmation: str, request: CallRequest) -> None:
        """Use a confirmation. Until the outcome is reported, the calls count as unknown.

        Raises:
            ToolProblem: there was no such dry run, it was used already, or it was for another request; or
                as for `check`.
        """
        self.check(request)
        digest = self._pending.get(confirmation)
        if digest is None:
            raise ToolProblem(
                "nothing was sent: the confirmation is unknown or was used already",
                "make a new dry run: call create without a confirmation",
            )
        if digest != request.digest():
            raise ToolProblem(
                "nothing was sent: the arguments differ from those of the dry run",
                "repeat the arguments of the dry run exactly, or make a new dry run without a confirmation",
            )
        del self._pending[confirmation]
        self._unknown |= request.people()

    def refused(self, confirmation: str, request: CallRequest) -> None:
        """Record that certainly no call was queued. The confirmation can be used again."""
        self._unknown -= request.people()
        self._pending[confirmation] = request.digest()

    def created(self, request: CallRequest) -> None:
        """Record that all calls are queued."""
        self._unknown -= request.people()
        self._created.add(request.digest())


def count_repeated(documents: Iterable[dict[str, Any]]) -> int:
    """Return how many documents have a number that is also in an earlier document."""
    numbers = [_number_key(document) for document in documents]
    return len(numbers) - len(set(numbers))


def _number_key(document: dict[str, Any]) -> str:
    return re.sub(r"[^0-9]", "", str(document.get("contact_number")))[-_DIGITS_OF_NUMBER:]
