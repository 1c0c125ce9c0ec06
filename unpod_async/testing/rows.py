"""Build the rows of responses from the data set, on request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from unpod_async.testing import accounts
from unpod_async.testing.data import (
    SECOND,
    agent_row,
    call_log_row,
    failure_reason,
    iso,
    mix,
    output_for,
    run_row,
    task_row,
)
from unpod_async.testing.store import AddedTask, DataStore

__all__ = ["PoisonedPage", "RowBuilder"]

Row = dict[str, Any]

_ENDED = 300 * SECOND
_EXECUTION_STATUSES = {
    "completed": "completed",
    "partially_completed": "completed",
    "failed": "failed",
    "pending": "pending",
    "scheduled": "pending",
}
"""The status of an execution for that of its run; "running" for others."""
_DAY = 86_400  # seconds


class PoisonedPage(Exception):
    """The page contains a stored row that the service cannot serve."""


class RowBuilder:
    """Builds rows, and knows which ones are poisoned and which are served malformed."""

    def __init__(self, store: DataStore) -> None:
        self.store: DataStore = store
        self.poisoned_runs: set[int] = set()
        # The tasks that fail in listings of spaces and runs, and those that fail in listings of agents.
        self.poisoned_tasks: set[int] = set()
        self.poisoned_agent_tasks: set[int] = set()
        self.malformed: dict[int, bytes] = {}
        self._alice = accounts.ACCOUNTS[0]
        self._alice_info = self._alice.user_info
        self._task: Row = {"objective": "Call the lead"}

    # -- pages of rows ------------------------------------------------------------------------------------

    def runs(self, ordinals: Iterable[int]) -> list[Any]:
        """Return rows of the runs listing. Raises PoisonedPage."""
        ordinals = list(ordinals)
        if self.poisoned_runs and not self.poisoned_runs.isdisjoint(ordinals):
            raise PoisonedPage
        return [self.run(run) for run in ordinals]

    def tasks(self, ordinals: Iterable[int], *, agent: bool = False) -> list[Any]:
        """Return rows of a task listing, malformed ones as `msgspec.Raw`. Raises PoisonedPage."""
        ordinals = list(ordinals)
        poisoned = self.poisoned_agent_tasks if agent else self.poisoned_tasks
        if poisoned and not poisoned.isdisjoint(ordinals):
            raise PoisonedPage
        make = self.agent_task if agent else self.task
        if not self.malformed:
            return [make(task) for task in ordinals]
        return [
            msgspec.Raw(self.malformed[task]) if task in self.malformed else make(task) for task in ordinals
        ]

    # -- one row ------------------------------------------------------------------------------------------

    def run(self, run: int) -> Row:
        """Return a row of the runs listing."""
        store = self.store
        space = accounts.SPACES[store.space_of(run)]
        status = store.status_of_run(run)
        created = store.run_created(run)
        ended = status in {"completed", "failed", "partially_completed"}
        moved = store.run_moved(run)
        times = (created, moved or (created + _ENDED if ended else created))
        user, name = self.run_account(run), store.ids.make("R", run)
        return run_row(space.number, user.number, name, space.token, status, store.batch_count(run), times)

    def task(self, task: int) -> Row:
        """Return a row of the run and space task listings."""
        created = self.store.task_created(task)
        status = self.store.status_of(task)
        return task_row(self._common(task, status, created), status, self._times(task, status, created))

    def agent_task(self, task: int) -> Row:
        """Return a row of the agent task listing."""
        store = self.store
        created = store.task_created(task)
        status = store.status_of(task)
        state = store.state_of(task)
        added = store.added.get(task)
        failures = state.failures if state is not None else int(status == "failed")
        moved = state.modified if state is not None else None
        scheduled = added.scheduled if added is not None else None
        if scheduled is None and status == "scheduled":
            scheduled = created // SECOND + _DAY
        bookkeeping = {
            "failure_count": failures,
            "last_failure_reason": failure_reason(mix(store.seed, task)) if failures else None,
            "provider": None,
            "retry_attempt": state.retries if state is not None else 0,
            "last_status_change": None if moved is None else iso(moved),
            "scheduled_timestamp": scheduled,
        }
        times = self._times(task, status, created)
        return agent_row(self._common(task, status, created), status, times, task, bookkeeping)

    def input(self, task: int) -> Row:
        """Return the `input` of a task: the document of the caller, and the fields that the service adds."""
        store = self.store
        added = store.added.get(task)
        token = accounts.MAIN_SPACE.token if added is None else store.space_of(added.run)
        if added is not None and added.document is not None:
            quality = "high" if added.assignee in accounts.AGENTS else None
            return {**added.document, "token": added.document.get("token", token), "quality": quality}
        number = store.number_of(task)
        return {
            "name": f"Person {number:04d}",
            "contact_number": f"90000{number % 100_000:05d}",
            "document_id": f"doc{number:06d}",
            "token": token,
            "quality": "high",
        }

    def output(self, task: int) -> Row:
        """Return the `output` of a task."""
        status = self.store.status_of(task)
        return self._output(task, status, self.store.task_created(task), self.input(task))

    def call_ended(self, task: int) -> int | None:
        """Return when the call of a task ended, in microseconds, or None if it has not."""
        status = self.store.status_of(task)
        if status not in {"completed", "failed"}:
            return None
        return self._times(task, status, self.store.task_created(task))[1]

    def call_log(self, task: int, ended: int) -> Row:
        """Return the row of the call logs for a task whose call has ended."""
        store = self.store
        added = store.added.get(task)
        space = accounts.SPACES[store.space_of(store.run_of(task))]
        handle = accounts.MAIN_AGENT.handle if added is None else added.assignee
        agent = accounts.AGENTS.get(handle)
        names = {
            "agent": None if agent is None else {"id": agent.handle, "name": agent.name},
            "space": {"id": space.number, "name": space.name},
            "bridge": None,
        }
        values = self.input(task)
        return call_log_row(
            mix(store.seed, task),
            ended,
            store.number_of(task),
            is_completed=store.status_of(task) == "completed",
            phone=str(values.get("contact_number", "")),
            names=names,
        )

    def execution(self, run: int, tasks: Sequence[int]) -> Row:
        """Return a row of the executions of an agent, with its tasks of a run."""
        store = self.store
        return {
            "run_id": store.ids.make("R", run),
            "status": _EXECUTION_STATUSES.get(store.status_of_run(run), "running"),
            "total_tasks": len(tasks),
            "completed_tasks": sum(store.status_of(task) == "completed" for task in tasks),
            "created": f"{iso(store.run_created(run))}Z",
        }

    def account(self, task: int) -> accounts.FakeAccount:
        """Return the account that owns a task."""
        added = self.store.added.get(task)
        return self._alice if added is None else added.account

    def run_account(self, run: int) -> accounts.FakeAccount:
        """Return the account that owns a run."""
        tasks = self.store.tasks_of_run(run)
        return self.account(tasks[0]) if tasks else self._alice

    # -- parts --------------------------------------------------------------------------------------------

    def _output(self, task: int, status: str, created: int, values: Row) -> Row:
        if status not in {"completed", "failed"}:
            return {}
        name, phone = str(values.get("name", "")), str(values.get("contact_number", ""))
        call, number = self.store.call_of(task), self.store.number_of(task)
        start, end = (created + 60 * SECOND, None) if call is None else (call.answered, call.ended)
        return output_for(status, mix(self.store.seed, task), start, name, phone, number, ended=end)

    def _times(self, task: int, status: str, created: int) -> tuple[int, int]:
        state = self.store.state_of(task)
        if state is not None:
            return created, created if state.modified is None else state.modified
        return created, created + _ENDED if status in {"completed", "failed"} else created

    def _common(self, task: int, status: str, created: int) -> Row:
        store = self.store
        added: AddedTask | None = store.added.get(task) if task >= store.initial_tasks else None
        run = store.run_of(task)
        space = accounts.MAIN_SPACE if added is None else accounts.SPACES[store.space_of(run)]
        values = self.input(task)
        account = self._alice if added is None else added.account
        return {
            "space_id": space.number,
            "thread_id": None,
            "user": account.number,
            "user_org_id": "2" if account.org == "other.example" else "1",
            "user_info": self._alice_info if account is self._alice else account.user_info,
            "run_id": store.ids.make("R", run),
            "task_id": store.ids.make("T", task),
            "collection_ref": f"collection_data_{space.token}",
            "execution_type": None if task in self.poisoned_tasks else space.execution_type,
            "task": self._task if added is None else {"objective": added.objective},
            "input": values,
            "output": self._output(task, status, created, values),
            "attachments": [],
            "ref_id": values.get("id") or values.get("document_id"),
            "assignee": accounts.MAIN_AGENT.handle if added is None else added.assignee,
        }
