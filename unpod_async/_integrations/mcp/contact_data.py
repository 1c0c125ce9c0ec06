"""Contact data in the results: redacted, unless the server was started to show it."""

from __future__ import annotations

import msgspec

from unpod_async._export import Redactor, mask_contact
from unpod_async.models import Task

__all__ = ["ContactData"]


class ContactData:
    """Removes contact data from everything that a tool returns, in the same way as a redacted export.

    Args:
        shown: return everything unchanged.
    """

    def __init__(self, *, shown: bool) -> None:
        self._redact = None if shown else Redactor("drop")

    def task(self, task: Task) -> Task:
        """Return a task without contact data.

        Raises:
            DecodeError: the task is nested too deeply.
        """
        if self._redact is None:
            return task
        return msgspec.json.decode(self._redact(task.to_json().encode()), type=Task)

    def text(self, text: str) -> str:
        """Return a text that is not part of a row, with its phone numbers and addresses masked."""
        return text if self._redact is None else mask_contact(text)
