"""`prefetch` and `tasks_for` yield the rows of a sequential walk, hold few pages, and leave nothing open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from unpod_async import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    Failed,
    InvalidArgument,
    Ok,
    PermissionDeniedError,
    Run,
    ServerError,
    Stream,
    Task,
    UnpodClient,
    UnpodError,
)
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


@asynccontextmanager
async def serving(*, page_size: int = 2, **arguments: Any) -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    arguments = {"runs": 6, "tasks_per_run": 3} | arguments
    async with (
        Sandbox(**arguments) as sandbox,
        UnpodClient(
            sandbox.token, sandbox.org_handle, sandbox.base_url, page_size=page_size, retry=None
        ) as unpod,
    ):
        yield sandbox, unpod


async def settle() -> None:
    """Run the event loop until nothing else can continue without the test; no time has to pass."""
    for _ in range(150):
        await asyncio.sleep(0)


def in_use(unpod: UnpodClient) -> int:
    session = unpod._context.executor.transport.sessions.reads
    return 0 if session is None or session.connector is None else len(session.connector._acquired)


def tasks_of_client() -> set[asyncio.Task[Any]]:
    """Return all tasks except those in which asyncio and aiohttp serve the sandbox."""
    of_server = ("RequestHandler.", "BaseSelectorEventLoop._accept")
    return {
        task
        for task in asyncio.all_tasks()
        if not getattr(task.get_coro(), "__qualname__", "").startswith(of_server)
    }


def run_of(task: Task) -> str:
    assert task.run_id is not None
    return task.run_id


async def read(
    stream: Stream[Any],
    into: list[Any] | None = None,
    pause: Callable[[], Awaitable[None]] | None = None,
) -> list[Any]:
    """Enter a stream and read it to its end; call `pause` after the first row."""
    rows = [] if into is None else into
    async with stream:
        async for row in stream:
            if pause is not None and not rows:
                await pause()
            rows.append(row)
    return rows


# --- rows --------------------------------------------------------------------------------------------------


class TestPrefetch:
    @pytest.mark.parametrize("n", [1, 2, 3, 50])
    async def test_it_yields_what_the_sequential_walk_yields(self, n: int) -> None:
        async with serving(runs=11) as (sandbox, unpod):
            space = sandbox.space_token
            for pager in (
                unpod.runs.list(space),
                unpod.runs.list(space, start_page=3),
                unpod.runs.list(space, status="completed"),
                unpod.tasks.list(space, page_size=5),
                unpod.runs.tasks(space, sandbox.run_ids()[0]),
                unpod.agents.tasks(sandbox.agent_handle, page_size=7),
                unpod.agents.list(),
            ):
                assert await read(pager.prefetch(n)) == await pager.collect()

    async def test_it_requests_n_pages_at_a_time(self) -> None:
        async with serving(runs=40, tasks_per_run=0) as (sandbox, unpod):
            pages_read = 0
            async with unpod.runs.list(sandbox.space_token).prefetch(3) as stream:
                async for run in stream:
                    place = sandbox.run_ids().index(str(run.run_id))
                    if place % 2 == 0:  # the first of a page
                        await settle()
                        pages_read = place // 2 + 1
                        ahead = {int(one.query["page"]) for one in sandbox.log}
                        assert max(ahead) <= pages_read + 2
                        if 1 < pages_read < 18:
                            assert max(ahead) == pages_read + 2
            assert pages_read == 20

    async def test_it_requests_as_many_pages_at_a_time_as_the_limit_has(self) -> None:
        async with serving(runs=40, tasks_per_run=0) as (sandbox, unpod):
            async with unpod.runs.list(sandbox.space_token, limit=5).prefetch(9) as stream:
                names = []
                async for run in stream:
                    names.append(run.run_id)
                    if len(names) == 3:  # the first of page 2
                        await settle()
                        # Page 1 is read, and three pages are ahead.
                        assert {one.query["page"] for one in sandbox.log} == {"1", "2", "3", "4"}
            assert names == sandbox.run_ids()[:5]

    async def test_the_page_after_a_full_last_page_is_prefetched(self) -> None:
        async with serving(runs=40, tasks_per_run=0) as (sandbox, unpod):
            async with unpod.runs.list(sandbox.space_token).prefetch(3) as stream:
                async for run in stream:
                    if sandbox.run_ids().index(str(run.run_id)) == 36:  # the first of page 19
                        await settle()
                        ahead = [int(one.query["page"]) for one in sandbox.log]
                        assert sorted(ahead) == list(range(1, 22))
            assert [int(one.query["page"]) for one in sandbox.log[21:]] == [1]

    async def test_a_reader_that_never_reads_leaves_one_page_unread(self) -> None:
        async with (
            serving(runs=40, tasks_per_run=0) as (sandbox, unpod),
            unpod.runs.list(sandbox.space_token).prefetch(5),
        ):
            await settle()
            assert sandbox.requests == 1

    async def test_the_client_may_have_fewer_slots_than_pages_ahead(self) -> None:
        async with (
            Sandbox(runs=9) as sandbox,
            UnpodClient(
                sandbox.token, None, sandbox.base_url, page_size=1, max_concurrency=1, retry=None
            ) as unpod,
        ):
            runs = await read(unpod.runs.list(sandbox.space_token).prefetch(6))
            assert [run.run_id for run in runs] == sandbox.run_ids()


class TestTasksFor:
    @pytest.mark.parametrize("concurrency", [1, 2, 4, 20])
    async def test_it_yields_every_task_of_every_run(self, concurrency: int) -> None:
        async with serving(tasks_per_run=(0, 5)) as (sandbox, unpod):
            space = sandbox.space_token
            rows = await read(unpod.runs.tasks_for(space, concurrency=concurrency))
            assert sorted(task.task_id for task in rows) == sorted(sandbox.task_ids())
            for run_id in sandbox.run_ids():
                of_run = [task.task_id for task in rows if task.run_id == run_id]
                assert of_run == sandbox.task_ids(run_id)

    @pytest.mark.parametrize("concurrency", [1, 2, 4, 20])
    async def test_ordered_keeps_the_order_of_the_runs(self, concurrency: int) -> None:
        async with serving(tasks_per_run=(0, 5)) as (sandbox, unpod):
            space, ids = sandbox.space_token, sandbox.run_ids()
            # The first run is the slowest: its response arrives after the others.
            sandbox.script(Fault(path=ids[0], stall=0.05))
            rows = await read(unpod.runs.tasks_for(space, concurrency=concurrency, ordered=True))
            assert [task.task_id for task in rows] == sandbox.task_ids()
            backwards = await read(
                unpod.runs.tasks_for(space, ids[::-1], concurrency=concurrency, ordered=True)
            )
            assert [run_of(task) for task in backwards] == [
                run_id for run_id in ids[::-1] for _ in sandbox.task_ids(run_id)
            ]

    async def test_ordered_has_the_pages_of_all_workers_ready_for_the_reader(self) -> None:
        async with serving(runs=5, tasks_per_run=2, page_size=50) as (sandbox, unpod):
            stream = unpod.runs.tasks_for(sandbox.space_token, concurrency=3, ordered=True)
            async with stream:
                rows = aiter(stream)
                found = [await anext(rows)]
                await settle()
                while len(found) < 3 * 2:
                    step = anext(rows)
                    with pytest.raises(StopIteration) as ready:  # otherwise it waits for something
                        step.send(None)
                    found.append(ready.value.value)
                assert [task.task_id for task in found] == sandbox.task_ids()[:6]

    async def test_a_run_named_twice_is_read_twice(self) -> None:
        async with serving() as (sandbox, unpod):
            run_id = sandbox.run_ids()[0]
            rows = await read(unpod.runs.tasks_for(sandbox.space_token, [run_id, run_id]))
            assert sorted(str(task.task_id) for task in rows) == sorted(sandbox.task_ids(run_id) * 2)

    @pytest.mark.parametrize("ordered", [False, True])
    @pytest.mark.parametrize(
        "source", ["none", "ids", "runs", "tuple", "dict", "generator", "async", "aiter", "pager", "raw ids"]
    )
    async def test_runs_can_be_any_iterable_or_async_iterable(self, source: str, ordered: bool) -> None:
        async with serving() as (sandbox, unpod):
            space, ids = sandbox.space_token, sandbox.run_ids()
            runs = await unpod.runs.list(space).collect()

            def generator() -> Iterator[str | Run]:
                yield from [ids[0], *runs[1:]]

            async def agenerator() -> AsyncIterator[str | Run]:
                for one in generator():
                    await asyncio.sleep(0)
                    yield one

            class Ids:
                def __aiter__(self) -> AsyncIterator[str | Run]:
                    return agenerator()

            given: Any = {
                "none": None,
                "ids": ids,
                "runs": runs,
                "tuple": tuple(ids),
                "dict": dict.fromkeys(ids),
                "generator": generator(),
                "async": agenerator(),
                "aiter": Ids(),
                "pager": unpod.runs.list(space),
                "raw ids": (run_id for run_id in ids),
            }[source]
            rows = await read(unpod.runs.tasks_for(space, given, concurrency=3, ordered=ordered))
            found = [str(task.task_id) for task in rows]
            assert (found if ordered else sorted(found)) == (
                sandbox.task_ids() if ordered else sorted(sandbox.task_ids())
            )

    @pytest.mark.parametrize("last", [StopAsyncIteration, UnpodError("broken")])
    async def test_no_run_is_asked_for_after_the_end_or_an_error(
        self, last: BaseException | type[BaseException]
    ) -> None:
        """An iterator that is no generator may wait for ever, or start again, after its end."""
        async with serving() as (sandbox, unpod):
            ids, steps = sandbox.run_ids(), []

            class Runs:
                def __aiter__(self) -> Runs:
                    return self

                async def __anext__(self) -> str:
                    steps.append(1)
                    if len(steps) > 2:
                        raise last
                    return ids[len(steps)]

            stream = unpod.runs.tasks_for(sandbox.space_token, Runs(), concurrency=4)
            with contextlib.nullcontext() if last is StopAsyncIteration else pytest.raises(UnpodError):
                await read(stream)
            assert len(steps) == 3

    async def test_an_async_generator_of_the_caller_is_not_closed(self) -> None:
        async with serving() as (sandbox, unpod):
            ids = iter(sandbox.run_ids())

            async def given() -> AsyncIterator[str]:
                for run_id in ids:
                    yield run_id

            source = given()
            async with unpod.runs.tasks_for(sandbox.space_token, source, concurrency=1) as stream:
                async for _ in stream:
                    break
            assert await anext(source) == sandbox.run_ids()[1]
            await source.aclose()  # type: ignore[attr-defined]

    @pytest.mark.parametrize("ordered", [False, True])
    @pytest.mark.parametrize("n", [1, 2, 4])
    async def test_at_most_n_pages_are_read_while_the_reader_pauses(self, n: int, ordered: bool) -> None:
        async with serving(runs=30, page_size=50) as (sandbox, unpod):
            stream = unpod.runs.tasks_for(sandbox.space_token, concurrency=n, ordered=ordered)
            async with stream:
                assert sandbox.requests == 0
                async for _ in stream:
                    await settle()
                    assert sandbox.requests == n + 1
                    break
            before = sandbox.requests
            await settle()
            assert sandbox.requests == before

    async def test_runs_are_taken_from_their_iterator_only_when_a_worker_is_free(self) -> None:
        async with serving(runs=30, page_size=50) as (sandbox, unpod):
            taken, before = 0, len(tasks_of_client())

            def given() -> Iterator[str]:
                nonlocal taken
                for run_id in sandbox.run_ids():
                    taken += 1
                    yield run_id

            async with unpod.runs.tasks_for(sandbox.space_token, given(), concurrency=3) as stream:
                async for _ in stream:
                    await settle()
                    assert taken == 3
                    assert len(tasks_of_client()) <= before + 1 + 3
                    break

    async def test_the_next_page_of_runs_is_requested_while_the_runs_of_one_page_are_read(self) -> None:
        async with serving(runs=30, page_size=10) as (sandbox, unpod):
            before = len(tasks_of_client())
            async with unpod.runs.tasks_for(sandbox.space_token, concurrency=1) as stream:
                async for _ in stream:
                    await settle()
                    asked = [one.query["page"] for one in sandbox.log if one.path.endswith("/runs/")]
                    assert asked == ["1", "2"]
                    break
            assert len(tasks_of_client()) == before

    async def test_a_page_of_runs_that_failed_and_is_not_needed_leaves_no_warning(self) -> None:
        async with serving(runs=30, page_size=10) as (sandbox, unpod):
            sandbox.script(Fault(path="/runs/", page=2, status=403))
            async with unpod.runs.tasks_for(sandbox.space_token, concurrency=1) as stream:
                async for _ in stream:
                    await settle()
                    break
            gc.collect()  # asyncio now reports tasks whose exception was never retrieved

    async def test_status_page_size_and_on_bad_row_work_as_in_tasks(self) -> None:
        async with serving(runs=12, page_size=50) as (sandbox, unpod):
            space = sandbox.space_token
            rows = await read(unpod.runs.tasks_for(space, status=["completed"], page_size=2))
            assert sorted(str(task.task_id) for task in rows) == sorted(
                row["task_id"] for row in sandbox.task_rows() if row["status"] == "completed"
            )
            # Includes the closing check of each run's three tasks.
            assert {one.query["page_size"] for one in sandbox.log if "/tasks/" in one.path} == {"2", "4"}
            bad = sandbox.task_ids()[4]
            sandbox.malform(bad, b"17")
            good = sorted(name for name in sandbox.task_ids() if name != bad)
            rows = await read(unpod.runs.tasks_for(space, on_bad_row="skip"))
            assert sorted(str(task.task_id) for task in rows) == good
            rows = []
            with pytest.raises(DecodeError):
                await read(unpod.runs.tasks_for(space, concurrency=1), rows)
            assert len(rows) == 5

    async def test_bad_rows_of_the_runs_listing_follow_the_same_keyword(self) -> None:
        async with serving() as (sandbox, unpod):
            space, ids = sandbox.space_token, sandbox.run_ids()
            sandbox.poison(ids[1])
            good = [name for run_id in ids if run_id != ids[1] for name in sandbox.task_ids(run_id)]
            rows = await read(unpod.runs.tasks_for(space, ordered=True, on_bad_row="skip"))
            assert [task.task_id for task in rows] == good
            rows = []
            with pytest.raises(DecodeError) as caught:
                await read(unpod.runs.tasks_for(space, ordered=True), rows)
            assert caught.value.unreadable == (2,)
            assert [task.task_id for task in rows] == good

    @pytest.mark.parametrize(
        "arguments",
        [
            {"concurrency": 0},
            {"concurrency": True},
            {"concurrency": 1.5},
            {"errors": "ignore"},
            {"runs": "R1"},
            {"runs": 17},
            {"runs": Run(run_id="R1")},
            {"on_bad_row": "ignore"},
            {"status": []},
            {"page_size": 0},
        ],
    )
    async def test_arguments_are_checked_before_anything_is_sent(self, arguments: dict[str, Any]) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(InvalidArgument):
                unpod.runs.tasks_for(sandbox.space_token, **arguments)
            with pytest.raises(InvalidArgument):
                unpod.runs.tasks_for("a/b")


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
class TestErrors:
    async def test_raise_ends_with_the_unwrapped_error_of_the_run(self, ordered: bool) -> None:
        async with serving(page_size=50) as (sandbox, unpod):
            bad = sandbox.run_ids()[3]
            sandbox.script(Fault(path=bad, status=403, times=9))
            with pytest.raises(UnpodError) as caught:
                await read(unpod.runs.tasks_for(sandbox.space_token, concurrency=3, ordered=ordered))
            assert type(caught.value) is PermissionDeniedError
            assert caught.value.listing == f"tasks of run {bad} in space {sandbox.space_token}"
            assert caught.value.page == 1

    async def test_yield_reports_failed_runs_and_continues(self, ordered: bool) -> None:
        async with serving() as (sandbox, unpod):
            ids = sandbox.run_ids()
            sandbox.script(
                Fault(path=ids[1], status=500, times=99),
                Fault(path=ids[2], reset_at=0, times=99),
                Fault(path=ids[3], page=2, status=403, times=99),
            )
            runs = [*ids[:4], "a/b", "..", Run(), *ids[4:]]
            rows = await read(
                unpod.runs.tasks_for(
                    sandbox.space_token, runs, concurrency=3, ordered=ordered, errors="yield"
                )
            )
            failed = {row.run_id: row.error for row in rows if isinstance(row, Failed)}
            fine = [row for row in rows if isinstance(row, Ok)]
            assert {name: type(error).__name__ for name, error in failed.items()} == {
                ids[1]: "ServerError",
                ids[2]: "TransportError",
                ids[3]: "PermissionDeniedError",
                "a/b": "InvalidArgument",
                "..": "InvalidArgument",
                "": "InvalidArgument",
            }
            assert failed[ids[3]].page == 2
            expected = [
                (run_id, name)
                for run_id in ids
                for name in sandbox.task_ids(run_id)[: 2 if run_id == ids[3] else 9]
                if run_id not in ids[1:3]
            ]
            found = [(row.run_id, row.task.task_id) for row in fine]
            assert sorted(found) == sorted(expected)
            assert all(row.task.run_id == row.run_id for row in fine)
            if ordered:
                assert found == expected
                # A Failed is at the position of its run, after the Oks of the run.
                order = list(dict.fromkeys(row.run_id for row in rows))
                assert order == [*ids[:4], "a/b", "..", "", *ids[4:]]
                of_run = [type(row) for row in rows if row.run_id == ids[3]]
                assert of_run == [Ok, Ok, Failed]

    async def test_bad_rows_are_reported_at_the_position_of_their_run(self, ordered: bool) -> None:
        async with serving(tasks_per_run=3) as (sandbox, unpod):
            space, ids = sandbox.space_token, sandbox.run_ids()
            sandbox.malform(sandbox.task_ids(ids[1])[2], b"17")
            stream = unpod.runs.tasks_for(space, concurrency=4, ordered=ordered, errors="yield")
            rows = await read(stream)
            of_run = [type(row) for row in rows if row.run_id == ids[1]]
            assert of_run == [Ok, Ok, Failed]
            if ordered:
                assert list(dict.fromkeys(row.run_id for row in rows)) == ids
                assert [row.run_id for row in rows] == sorted((row.run_id for row in rows), key=ids.index)

    async def test_a_401_ends_the_job_even_if_errors_are_yielded(self, ordered: bool) -> None:
        async with serving() as (sandbox, unpod):
            sandbox.script(Fault(path=sandbox.run_ids()[2], status=401))
            with pytest.raises(UnpodError) as caught:
                await read(
                    unpod.runs.tasks_for(
                        sandbox.space_token, sandbox.run_ids(), ordered=ordered, errors="yield"
                    )
                )
            assert type(caught.value) is AuthenticationError

    async def test_a_closed_client_ends_the_job_even_if_errors_are_yielded(self, ordered: bool) -> None:
        async with serving() as (sandbox, unpod):
            await unpod.aclose()
            with pytest.raises(ConfigurationError, match="closed"):
                await read(
                    unpod.runs.tasks_for(
                        sandbox.space_token, sandbox.run_ids(), ordered=ordered, errors="yield"
                    )
                )

    @pytest.mark.parametrize("errors", ["raise", "yield"])
    async def test_runs_already_handed_out_are_finished_when_listing_them_fails(
        self, ordered: bool, errors: Any
    ) -> None:
        async with serving(tasks_per_run=1) as (sandbox, unpod):
            space, ids = sandbox.space_token, sandbox.run_ids()
            for runs in (None, unpod.runs.list(space, page_size=2)):
                sandbox.script(Fault(path=f"{space}/runs/", page=2, status=503))
                stream = unpod.runs.tasks_for(
                    space, runs, concurrency=4, ordered=ordered, errors=errors, page_size=2
                )
                rows: list[Any] = []
                with pytest.raises(ServerError) as caught:
                    await read(stream, rows, pause=settle)  # the listing fails long before the rows are read
                assert caught.value.listing == f"runs of space {space}"
                assert caught.value.page == 2
                tasks = [row.task if isinstance(row, Ok) else row for row in rows]
                assert sorted(task.task_id for task in tasks) == sorted(
                    name for run_id in ids[:2] for name in sandbox.task_ids(run_id)
                )

    async def test_an_exception_of_the_callers_iterator_is_raised_unchanged(self, ordered: bool) -> None:
        async with serving() as (sandbox, unpod):
            mine = ValueError("mine")

            def given() -> Iterator[str]:
                yield sandbox.run_ids()[0]
                raise mine

            with pytest.raises(ValueError, match="mine") as caught:
                await read(unpod.runs.tasks_for(sandbox.space_token, given(), ordered=ordered))
            assert caught.value is mine

    async def test_an_invalid_run_is_refused(self, ordered: bool) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(InvalidArgument, match="run ids or Run"):
                await read(unpod.runs.tasks_for(sandbox.space_token, [17], ordered=ordered))  # type: ignore[list-item]

    async def test_iterating_again_after_an_error_raises_it_again(self, ordered: bool) -> None:
        async with serving() as (sandbox, unpod):
            sandbox.script(Fault(path=sandbox.run_ids()[0], status=403, times=9))
            async with unpod.runs.tasks_for(sandbox.space_token, ordered=ordered) as stream:
                for _ in range(2):
                    with pytest.raises(PermissionDeniedError):
                        async for _ in stream:
                            pass


# --- entering and leaving ----------------------------------------------------------------------------------

KINDS = ["prefetch", "tasks_for", "tasks_for ordered", "tasks_for yield"]


def make(kind: str, sandbox: Sandbox, unpod: UnpodClient) -> Stream[Any]:
    if kind == "prefetch":
        return unpod.tasks.list(sandbox.space_token).prefetch(3)
    return unpod.runs.tasks_for(
        sandbox.space_token,
        concurrency=3,
        ordered=kind.endswith("ordered"),
        errors="yield" if kind.endswith("yield") else "raise",  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("kind", KINDS)
class TestEntering:
    async def test_iterating_without_async_with_raises_an_error_with_a_hint(self, kind: str) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(ConfigurationError, match="async with"):
                async for _ in make(kind, sandbox, unpod):
                    pass
            assert sandbox.requests == 0

    async def test_it_can_be_entered_once(self, kind: str) -> None:
        async with serving() as (sandbox, unpod):
            stream = make(kind, sandbox, unpod)
            async with stream:
                with pytest.raises(ConfigurationError, match="entered before"):
                    async with stream:
                        pass
                assert [row async for row in stream]
                assert [row async for row in stream] == []
            with pytest.raises(ConfigurationError, match="entered before"):
                async with stream:
                    pass
            with pytest.raises(ConfigurationError, match="async with"):
                async for _ in stream:
                    pass

    async def test_an_iterator_cannot_continue_after_the_block(self, kind: str) -> None:
        async with serving() as (sandbox, unpod):
            async with make(kind, sandbox, unpod) as stream:
                rows = aiter(stream)
                await anext(rows)
                await anext(rows)
            with pytest.raises(ConfigurationError):
                async for _ in rows:
                    pass

    async def test_leaving_without_being_entered_does_nothing(self, kind: str) -> None:
        async with serving() as (sandbox, unpod):
            await make(kind, sandbox, unpod).__aexit__(None, None, None)


class Mine(Exception):
    pass


MINE = Mine()


async def by_break(stream: Stream[Any], sandbox: Sandbox) -> None:
    async with stream:
        async for _ in stream:
            break


async def by_break_with_requests_under_way(stream: Stream[Any], sandbox: Sandbox) -> None:
    sandbox.script(Fault(page=3, stall=3600, times=99))
    async with stream:
        async for _ in stream:
            await settle()
            if any(one.status is None for one in sandbox.log):
                break


async def by_never_reading(stream: Stream[Any], sandbox: Sandbox) -> None:
    async with stream:
        pass


async def by_exception(stream: Stream[Any], sandbox: Sandbox) -> None:
    async with stream:
        async for _ in stream:
            raise MINE


async def by_failure_of_a_child(stream: Stream[Any], sandbox: Sandbox) -> None:
    async with stream:
        async for _ in stream:
            sandbox.script(Fault(status=401, times=99))


async def by_exception_after_a_child_failed(stream: Stream[Any], sandbox: Sandbox) -> None:
    sandbox.script(Fault(page=2, status=401, times=99))
    async with stream:
        async for _ in stream:
            await settle()
            raise MINE


async def by_asyncio_timeout(stream: Stream[Any], sandbox: Sandbox) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as deadline, stream:
        async for _ in stream:
            deadline.reschedule(loop.time())
            await anyio.sleep_forever()


async def by_asyncio_timeout_while_waiting_for_a_row(stream: Stream[Any], sandbox: Sandbox) -> None:
    loop = asyncio.get_running_loop()
    sandbox.script(Fault(stall=30, times=99))
    async with asyncio.timeout(None) as deadline, stream:
        await sandbox.arrived(1)
        loop.call_soon(deadline.reschedule, loop.time())
        async for _ in stream:
            pass


async def by_fail_after(stream: Stream[Any], sandbox: Sandbox) -> None:
    with anyio.fail_after(3600) as scope:
        async with stream:
            async for _ in stream:
                scope.deadline = anyio.current_time()
                await anyio.sleep_forever()


async def by_move_on(stream: Stream[Any], sandbox: Sandbox) -> None:
    with anyio.CancelScope() as scope:
        async with stream:
            async for _ in stream:
                scope.cancel()
                await anyio.sleep_forever()
    assert scope.cancelled_caught


async def by_cancellation(stream: Stream[Any], sandbox: Sandbox) -> None:
    task = asyncio.current_task()
    assert task is not None
    async with stream:
        async for _ in stream:
            task.cancel()
            await anyio.sleep_forever()


async def by_exception_while_cancelled(stream: Stream[Any], sandbox: Sandbox) -> None:
    task = asyncio.current_task()
    assert task is not None
    async with stream:
        async for _ in stream:
            task.cancel()
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                task.uncancel()
                raise MINE from None


LEAVE: list[tuple[Callable[[Stream[Any], Sandbox], Awaitable[None]], type[BaseException] | None]] = [
    (by_break, None),
    (by_break_with_requests_under_way, None),
    (by_never_reading, None),
    (by_exception, Mine),
    (by_exception_after_a_child_failed, Mine),
    (by_failure_of_a_child, AuthenticationError),
    (by_asyncio_timeout, TimeoutError),
    (by_asyncio_timeout_while_waiting_for_a_row, TimeoutError),
    (by_fail_after, TimeoutError),
    (by_move_on, None),
    (by_cancellation, asyncio.CancelledError),
    (by_exception_while_cancelled, Mine),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("leave", "kind_of_error"), LEAVE, ids=[leave.__name__ for leave, _ in LEAVE])
async def test_leaving_leaves_nothing_behind(
    leave: Callable[[Stream[Any], Sandbox], Awaitable[None]],
    kind_of_error: type[BaseException] | None,
    kind: str,
) -> None:
    async with serving(runs=20) as (sandbox, unpod):
        before = tasks_of_client()
        task = asyncio.ensure_future(leave(make(kind, sandbox, unpod), sandbox))
        await asyncio.wait({task})

        assert tasks_of_client() == before
        assert in_use(unpod) == 0
        if kind_of_error is asyncio.CancelledError:
            assert task.cancelled()
        else:
            error = task.exception()
            assert type(error) is (type(None) if kind_of_error is None else kind_of_error)
            if kind_of_error is Mine:
                assert error is MINE
        await settle()
        arrived = sandbox.requests
        await settle()
        assert sandbox.requests == arrived
        # The client still works.
        sandbox._server.script._left.clear()
        assert len(await unpod.runs.list(sandbox.space_token).collect()) == 20


async def test_the_error_of_a_background_task_is_raised_at_the_next_row() -> None:
    async with serving(page_size=1) as (sandbox, unpod):
        seen: list[Any] = []
        sandbox.script(Fault(page=2, status=403, times=9))
        async with unpod.runs.list(sandbox.space_token).prefetch(2) as stream:
            async for run in stream:
                await settle()
                seen.append(run)
                break
        assert len(seen) == 1
        with pytest.raises(APIError):
            await read(unpod.runs.list(sandbox.space_token).prefetch(2))


@pytest.mark.parametrize("how", ["prefetch", "tasks_for"])
async def test_a_second_loop_continues_where_the_first_ended(how: str) -> None:
    async with serving() as (sandbox, unpod):
        stream: Any = unpod.tasks.list(sandbox.space_token, page_size=4).prefetch(2)
        if how == "tasks_for":
            stream = unpod.runs.tasks_for(sandbox.space_token)
        async with stream as tasks:
            found = []
            async for task in tasks:
                found.append(task.task_id)
                break
            async for task in tasks:
                found.append(task.task_id)  # noqa: PERF401
        assert sorted(found) == sorted(sandbox.task_ids())


async def test_two_readers_share_the_rows_and_one_may_leave() -> None:
    async with serving(runs=12) as (sandbox, unpod):
        got: list[str | None] = []
        async with unpod.runs.tasks_for(sandbox.space_token, concurrency=4) as stream:

            async def read(most: int) -> None:
                async for task in stream:
                    got.append(task.task_id)
                    most -= 1
                    if not most:
                        break
                    await asyncio.sleep(0)

            async with asyncio.timeout(200), asyncio.TaskGroup() as tasks:
                tasks.create_task(read(2))
                tasks.create_task(read(1_000))
        assert sorted(got, key=str) == sorted(sandbox.task_ids())
