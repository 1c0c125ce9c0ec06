"""`Sandbox`: the data, the server, and the methods with which a test controls both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from unpod_async.testing import accounts
from unpod_async.testing.create import CreatedCall
from unpod_async.testing.rows import RowBuilder
from unpod_async.testing.script import Fault, Oddities
from unpod_async.testing.server import Received, Server
from unpod_async.testing.store import FIRST_RUN, AddedTask, DataStore
from unpod_async.testing.views import FakeApi

__all__ = ["Sandbox"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Sandbox:
    """The Unpod platform API on a local socket, with synthetic data. It places no calls.

    Use it as an async context manager, under asyncio. Its data is kept when it is entered again::

        async with Sandbox(runs=20, tasks_per_run=5) as sandbox:
            ...  # send requests to sandbox.base_url with sandbox.token

    Args:
        runs: the number of runs in the main space. Default: 20.
        tasks_per_run: the number of tasks of each run, or a range (lowest, highest). Default: 5.
        seed: the same seed gives the same data, ids and order.
        latency: seconds to wait before a request is handled. Default: 0.
        host: the address to listen on.
        port: the port to listen on. 0 (default) means any free port.
        oddities: how paging differs from that of the service.
        shuffle_ties: whether agent tasks with equal `created` change their order between requests.
        idle_close: seconds after which an idle connection is closed. Default: 6, as the service does.
        now: the clock for schedules, for `created` of new calls and for the `Date` header. Default: the
            machine's clock, in UTC.

    Attributes:
        log: the requests received so far, oldest first.
    """

    org_handle = accounts.MAIN_SPACE.org
    space_token = accounts.MAIN_SPACE.token
    agent_handle = accounts.MAIN_AGENT.handle

    def __init__(
        self,
        *,
        runs: int = 20,
        tasks_per_run: int | tuple[int, int] = 5,
        seed: int = 0,
        latency: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
        oddities: Oddities | None = None,
        shuffle_ties: bool = False,
        idle_close: float = 6.0,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._store = DataStore(runs, tasks_per_run, seed)
        self._rows = RowBuilder(self._store)
        self._service = FakeApi(self._rows, oddities or Oddities(), shuffle_ties=shuffle_ties)
        self._host = host
        self._server = Server(
            self._service, now, latency=latency, host=host, port=port, idle_close=idle_close
        )
        self.log: list[Received] = self._server.log
        self._furnish()

    def _furnish(self) -> None:
        """Add some rows to the other spaces, so that access and denied access give different responses."""
        alice, carol = accounts.ACCOUNTS[0], accounts.ACCOUNTS[2]
        newest = self._store.newest
        for space, agent, account, runs in (
            (accounts.POISON_SPACE, accounts.POISON_AGENT, alice, 3),
            (accounts.FOREIGN_SPACE, accounts.FOREIGN_AGENT, carol, 1),
        ):
            for number in range(runs):
                run = self._store.insert_run(space.token)
                added = AddedTask(run, FIRST_RUN + number, agent.handle, account)
                task = self._store.insert_task(added, None)
                if space is accounts.POISON_SPACE and number == runs - 2:
                    self._rows.poisoned_tasks.add(task)
                elif space is accounts.POISON_SPACE and number == runs - 1:
                    self._rows.poisoned_agent_tasks.add(task)
        self._store.newest = newest

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()

    def __repr__(self) -> str:
        return f"<Sandbox on port {self._server.port or None}, {self.task_count} tasks>"

    # -- address and credentials ----------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """`http://host:port`, without a trailing slash. Raises RuntimeError before the sandbox is entered."""
        if not self._server.port:
            raise RuntimeError("the sandbox is not running: use `async with Sandbox() as sandbox`")
        return f"http://{self._host}:{self._server.port}"

    @property
    def token(self) -> str:
        """An API key for the scheme Token."""
        return accounts.ACCOUNTS[0].key

    @property
    def jwt(self) -> str:
        """A credential for the schemes JWT and Bearer, for the same account as `token`."""
        return accounts.ACCOUNTS[0].jwt or ""

    # -- content ------------------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """The number of requests received."""
        return len(self.log)

    async def arrived(self, count: int) -> None:
        """Wait until `count` requests have arrived since the sandbox was created. There is no timeout."""
        await self._server.arrived(count)

    @property
    def ledger(self) -> list[CreatedCall]:
        """The calls that POST requests queued, oldest first."""
        return self._service.ledger

    @property
    def task_count(self) -> int:
        """The number of tasks in the main space."""
        return len(self._store.tasks_of_space(self.space_token))

    def run_ids(self) -> list[str]:
        """Return the ids of the runs of the main space, newest first."""
        return [self._store.ids.make("R", run) for run in reversed(self._runs())]

    def task_ids(self, run_id: str | None = None) -> list[str]:
        """Return the ids of the tasks of the main space or of one run, newest first.

        Raises:
            KeyError: the run does not exist.
        """
        return [self._store.ids.make("T", task) for task in reversed(self._tasks(run_id))]

    def run_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the runs listing of the main space, newest first, without poisoned ones."""
        for run in reversed(self._runs()):
            if run not in self._rows.poisoned_runs:
                yield _served(self._rows.run(run))

    def task_rows(self, run_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the task rows of the main space or of one run, as the run and space task listings have them.

        The newest come first; poisoned and malformed ones are left out.
        """
        for task in reversed(self._tasks(run_id)):
            if task not in self._rows.poisoned_tasks and task not in self._rows.malformed:
                yield _served(self._rows.task(task))

    def _runs(self) -> list[int]:
        return list(self._store.runs_of_space(self.space_token))

    def _tasks(self, run_id: str | None) -> list[int]:
        if run_id is None:
            return list(self._store.tasks_of_space(self.space_token))
        return list(self._store.tasks_of_run(self._run(run_id)))

    def _run(self, run_id: str) -> int:
        run = self._store.find_run(run_id)
        if run is None:
            raise KeyError(run_id)
        return run

    def _task(self, task_id: str) -> int:
        task = self._store.find_task(task_id)
        if task is None:
            raise KeyError(task_id)
        return task

    # -- changes: ids that do not exist raise KeyError -----------------------------------------

    def insert_run(self, tasks: int = 3) -> str:
        """Add a run with this number of pending tasks at the start of the listings; return its id."""
        run = self._store.insert_run(self.space_token)
        added = AddedTask(run, self._store.newest, self.agent_handle, accounts.ACCOUNTS[0])
        for _ in range(tasks):
            self._store.insert_task(added)
        return self._store.ids.make("R", run)

    def insert_task(self, run_id: str) -> str:
        """Add a pending task to a run, at the start of the task listings; return its id."""
        added = AddedTask(self._run(run_id), self._store.tick(), self.agent_handle, accounts.ACCOUNTS[0])
        return self._store.ids.make("T", self._store.insert_task(added))

    def delete_run(self, run_id: str) -> None:
        """Remove a run and its tasks."""
        self._store.delete_run(self._run(run_id))

    def delete_task(self, task_id: str) -> None:
        """Remove a task. A run that loses its last task keeps its status."""
        self._store.delete_task(self._task(task_id))

    def advance(self, steps: int = 1) -> None:
        """Advance the statuses: from pending to in_progress, then to completed or failed.

        Each step advances every task once that has not ended. Some failed tasks go back to pending; tasks
        that are scheduled or on hold stay as they are. The status of a run follows from those of its tasks.
        """
        for _ in range(steps):
            self._store.advance()

    def set_status(self, task_id: str, status: str) -> None:
        """Set the status of a task, as after a redial. The status of its run follows."""
        self._store.set_status(self._task(task_id), status)

    # -- faults -------------------------------------------------------------------------------------

    def poison(self, row_id: str, *, listing: Literal["every", "space", "agent"] = "every") -> None:
        """Make every page with this task or run fail, always: with 206, or with 500 HTML on agent tasks.

        Args:
            row_id: the id of a task or a run.
            listing: which listings of a task fail. "space": those of its space and run; the listing of its
                agent shows the task without an `execution_type`. "agent": that of its agent. "every": all of
                them. On the service, a row has one fault or the other, not both.
        """
        if row_id.startswith("R"):
            self._rows.poisoned_runs.add(self._run(row_id))
            return
        task = self._task(row_id)
        if listing != "agent":
            self._rows.poisoned_tasks.add(task)
        if listing != "space":
            self._rows.poisoned_agent_tasks.add(task)

    def mend(self, row_id: str) -> None:
        """Undo `poison` and `malform`: the task or run is served again."""
        if row_id.startswith("R"):
            self._rows.poisoned_runs.discard(self._run(row_id))
        else:
            task = self._task(row_id)
            self._rows.poisoned_tasks.discard(task)
            self._rows.poisoned_agent_tasks.discard(task)
            self._rows.malformed.pop(task, None)

    def malform(self, task_id: str, row: bytes) -> None:
        """Serve these bytes in place of the row of a task. They may be of the wrong type, or not JSON."""
        self._rows.malformed[self._task(task_id)] = row

    def page_oddly(self, oddities: Oddities) -> None:
        """Change how listings are paged, from the next request on."""
        self._service.oddities = oddities

    def script(self, *faults: Fault) -> None:
        """Answer the next matching requests with these faults, in order."""
        self._server.script.add(faults)


def _served(row: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the row, as a client decodes it."""
    copy: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(row))
    return copy
