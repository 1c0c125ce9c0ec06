"""`Sandbox`: the data, the server, and the methods with which a test controls both."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, cast

import msgspec
from anyio.from_thread import start_blocking_portal

from unpod_async.testing import accounts
from unpod_async.testing.create import CreatedCall
from unpod_async.testing.live import utc_now
from unpod_async.testing.live_store import LiveStore
from unpod_async.testing.paging import call_logs_of, executions_of
from unpod_async.testing.rows import RowBuilder
from unpod_async.testing.script import Fault, Oddities
from unpod_async.testing.server import Received, RequestLimit, Server
from unpod_async.testing.store import AddedTask, DataStore
from unpod_async.testing.views import FakeApi

if TYPE_CHECKING:
    from unpod_async import UnpodClient

__all__ = ["Sandbox"]


P = ParamSpec("P")
R = TypeVar("R")

_LIVE_LOG = 10_000
"""The maximum number of requests in the log of a live sandbox."""


def _locked(method: Callable[Concatenate[Sandbox, P], R]) -> Callable[Concatenate[Sandbox, P], R]:
    """Make a method wait until no request reads the data. The server may run in another thread."""

    @functools.wraps(method)
    def locked(self: Sandbox, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._server.lock:  # pyright: ignore[reportPrivateUsage]
            return method(self, *args, **kwargs)

    return locked


class Sandbox:
    """The Unpod platform API on a local socket, with synthetic data. It places no calls.

    Use it with `async with`, under asyncio. Its data is kept when it is entered again::

        async with Sandbox(runs=20, tasks_per_run=5) as sandbox, sandbox.client() as unpod:
            runs = await unpod.runs.list(sandbox.space_token).collect()

    A client of your own takes `sandbox.token`, `sandbox.org_handle` and `sandbox.base_url`.

    With a plain `with`, the server runs in a thread of its own, and clients in every thread, event loop and
    process can use it. The methods can be called from every thread::

        with Sandbox() as sandbox:
            asyncio.run(program_under_test(sandbox.base_url))

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
        now: the clock for schedules, for `created` of new calls, for the `Date` header, and for all rows of a
            live sandbox. Default: the machine's clock, in UTC.
        live: whether new runs keep starting. Default: False, so that rows change only by requests and by
            the methods below. See "Live".
        speed: how many times faster than normal a live sandbox runs, at most 1000. Default: 1.0.
        product_id: the Product-Id header that call logs require, as on some servers. Default: None, which
            requires none. `client()` sends it.
        rate_limit: the number of requests per second that are answered. More get 429 with Retry-After.
            Default: None, which means no limit.
        burst: the number of requests that may exceed `rate_limit` at once. Default: 10.

    Attributes:
        product_id: as the argument.
        log: the requests received so far, oldest first. A live sandbox keeps the last 5,000 to 10,000.

    Live: the newest of the initial `runs` are in progress. At speed 1, another run starts every six seconds
    on average. Its calls start, ring and end within seconds. Some fail, and some of those are tried again. A
    few stay on hold, and some runs are scheduled for a few seconds later. Created calls run to their end in
    the same way, from their scheduled time on; `speed` does not change that time. Apart from what was created
    or changed, the data depends only on `seed`, `speed` and `now`, not on when requests arrive. After 500
    more runs than at the start, the oldest are removed. Tests pass a `ManualClock` and advance it::

        clock = ManualClock()
        async with Sandbox(live=True, now=clock) as sandbox:
            clock.advance(10)
    """

    org_handle: str = accounts.MAIN_SPACE.org
    space_token: str = accounts.MAIN_SPACE.token
    agent_handle: str = accounts.MAIN_AGENT.handle

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
        now: Callable[[], datetime] = utc_now,
        live: bool = False,
        speed: float = 1.0,
        product_id: str | None = None,
        rate_limit: float | None = None,
        burst: int = 10,
    ) -> None:
        self._thread = ExitStack()  # of the server, if `with` has started one
        self._clock = now
        self._last_time: datetime | None = None
        self._reads_clock = False
        self._data: DataStore
        if live:
            self._last_time = now()
            self._data = LiveStore(runs, tasks_per_run, seed, speed=speed, start=self._last_time)
        elif speed == 1:
            self._data = DataStore(runs, tasks_per_run, seed)
        else:
            raise ValueError("speed is for a live sandbox\nhint: pass live=True")
        self.product_id: str | None = product_id
        self._rows = RowBuilder(self._data)
        self._service = FakeApi(
            self._rows, oddities or Oddities(), shuffle_ties=shuffle_ties, product_id=product_id
        )
        self._host = host
        self._server = Server(
            self._service,
            self._now,
            latency=latency,
            host=host,
            port=port,
            idle_close=idle_close,
            log_limit=_LIVE_LOG if live else None,
            limit=None if rate_limit is None else RequestLimit(rate_limit, burst),
        )
        self.log: list[Received] = self._server.log
        self._fill_other_spaces(self._data)
        if isinstance(self._data, LiveStore):
            self._data.begin()

    def _now(self) -> datetime:
        """Return the time. If the clock itself uses the sandbox, to change rows, it sees its last time."""
        if self._reads_clock and self._last_time is not None:
            return self._last_time
        self._reads_clock = True
        try:
            self._last_time = self._clock()
        finally:
            self._reads_clock = False
        return self._last_time

    @property
    def _store(self) -> DataStore:
        """The data at this time."""
        if isinstance(self._data, LiveStore):  # the rows of others do not depend on the time
            self._data.sync(self._now())
        return self._data

    def _fill_other_spaces(self, store: DataStore) -> None:
        """Add some rows to the other spaces, so that access and denied access give different responses."""
        alice, carol = accounts.ACCOUNTS[0], accounts.ACCOUNTS[2]
        newest = store.newest
        for space, agent, account, runs in (
            (accounts.POISON_SPACE, accounts.POISON_AGENT, alice, 3),
            (accounts.FOREIGN_SPACE, accounts.FOREIGN_AGENT, carol, 1),
        ):
            for number in range(runs):
                run = store.insert_run(space.token)
                added = AddedTask(run, store.first + number, agent.handle, account)
                task = store.insert_task(added, None)
                if space is accounts.POISON_SPACE and number == runs - 2:
                    self._rows.poisoned_tasks.add(task)
                elif space is accounts.POISON_SPACE and number == runs - 1:
                    self._rows.poisoned_agent_tasks.add(task)
        store.newest = newest

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._thread = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.close()

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
            raise RuntimeError("the sandbox is not running: use `async with Sandbox() as sandbox`, or `with`")
        return f"http://{self._host}:{self._server.port}"

    @property
    def token(self) -> str:
        """An API key for the scheme Token."""
        return accounts.ACCOUNTS[0].key

    @property
    def jwt(self) -> str:
        """A credential for the schemes JWT and Bearer, for the same account as `token`."""
        return accounts.ACCOUNTS[0].jwt or ""

    def client(self, **options: Any) -> UnpodClient:
        """Return a client of this sandbox, to be used with `async with`.

        Args:
            options: the arguments of `UnpodClient`, by name. The defaults are those of `UnpodClient`, except
                `token`, `org_handle` and `base_url`. With an `auth_scheme` of "JWT" or "Bearer", the default
                of `token` is `jwt`.

        Raises:
            RuntimeError: the sandbox is not running.
            ConfigurationError: an option is not accepted.
        """
        from unpod_async import UnpodClient

        # No variable holds the token: a traceback would show it if an option is not accepted.
        return UnpodClient(
            **cast(
                "dict[str, Any]",
                {
                    "token": self.token if options.get("auth_scheme", "Token") == "Token" else self.jwt,
                    "org_handle": self.org_handle,
                    "base_url": self.base_url,
                    "product_id": self.product_id,
                    **options,
                },
            )
        )

    # -- content ------------------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """The number of requests received."""
        return self._server.requests

    async def arrived(self, count: int) -> None:
        """Wait until `count` requests have arrived since the sandbox was created. There is no timeout."""
        await self._server.arrived(count)

    @property
    def ledger(self) -> list[CreatedCall]:
        """The calls that POST requests queued, oldest first."""
        return self._service.ledger

    @property
    @_locked
    def task_count(self) -> int:
        """The number of tasks in the main space."""
        return len(self._store.tasks_of_space(self.space_token))

    @_locked
    def run_ids(self) -> list[str]:
        """Return the ids of the runs of the main space, newest first."""
        return [self._store.ids.make("R", run) for run in reversed(self._runs())]

    @_locked
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

    @_locked
    def call_log_rows(self) -> Iterator[dict[str, Any]]:
        """Return the rows of the call logs of the main organization, newest first."""
        _ = self._store  # updates a live sandbox
        return map(_served, call_logs_of(self._rows, self.org_handle, {}))

    @_locked
    def execution_rows(self) -> Iterator[dict[str, Any]]:
        """Return the rows of the executions of the main agent, newest first."""
        runs = executions_of(self._store, self.agent_handle)
        return iter([_served(self._rows.execution(run, tasks)) for run, tasks in runs.items()])

    @_locked
    def _runs(self) -> list[int]:
        return list(self._store.runs_of_space(self.space_token))

    @_locked
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

    @_locked
    def insert_run(self, tasks: int = 3) -> str:
        """Add a run with this number of pending tasks at the start of the listings; return its id.

        A live sandbox places their calls.
        """
        run = self._store.insert_run(self.space_token)
        added = AddedTask(run, self._store.newest, self.agent_handle, accounts.ACCOUNTS[0])
        for _ in range(tasks):
            self._store.insert_task(added)
        return self._store.ids.make("R", run)

    @_locked
    def insert_task(self, run_id: str) -> str:
        """Add a pending task to a run, at the start of the task listings; return its id."""
        added = AddedTask(self._run(run_id), self._store.tick(), self.agent_handle, accounts.ACCOUNTS[0])
        return self._store.ids.make("T", self._store.insert_task(added))

    @_locked
    def delete_run(self, run_id: str) -> None:
        """Remove a run and its tasks."""
        self._store.delete_run(self._run(run_id))

    @_locked
    def delete_task(self, task_id: str) -> None:
        """Remove a task. A run that loses its last task keeps its status."""
        self._store.delete_task(self._task(task_id))

    @_locked
    def advance(self, steps: int = 1) -> None:
        """Advance the statuses: from pending to in_progress, then to completed or failed.

        Each step gives every task that has not ended its next status. Some failed tasks go back to pending;
        tasks that are scheduled or on hold stay as they are. The status of a run follows from those of its
        tasks.

        Raises:
            RuntimeError: the sandbox is live. Advance its clock instead.
        """
        for _ in range(steps):
            self._store.advance()

    @_locked
    def set_status(self, task_id: str, status: str) -> None:
        """Set the status of a task, as after a redial. The status of its run follows.

        A live sandbox calls again if the status is pending, and keeps any other status.
        """
        self._store.set_status(self._task(task_id), status)

    # -- faults -------------------------------------------------------------------------------------

    @_locked
    def poison(self, row_id: str, *, listing: Literal["every", "space", "agent"] = "every") -> None:
        """Make every page that contains this task or run fail, always.

        The response is a 206, and in listings of an agent's tasks a 500 with an HTML page.

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

    @_locked
    def restore(self, row_id: str) -> None:
        """Undo `poison` and `malform`: the task or run is served again."""
        if row_id.startswith("R"):
            self._rows.poisoned_runs.discard(self._run(row_id))
        else:
            task = self._task(row_id)
            self._rows.poisoned_tasks.discard(task)
            self._rows.poisoned_agent_tasks.discard(task)
            self._rows.malformed.pop(task, None)

    @_locked
    def malform(self, task_id: str, row: bytes) -> None:
        """Serve these bytes in place of the row of a task. They may be of the wrong type, or not JSON."""
        self._rows.malformed[self._task(task_id)] = row

    @_locked
    def page_oddly(self, oddities: Oddities) -> None:
        """Change how listings are paged, from the next request on."""
        self._service.oddities = oddities

    @_locked
    def script(self, *faults: Fault) -> None:
        """Answer the next matching requests with these faults, in order."""
        self._server.script.add(faults)


def _served(row: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the row, as a client decodes it."""
    copy: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(row))
    return copy
