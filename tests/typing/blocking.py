"""Uses of `unpod_async.blocking`, for mypy --strict and pyright strict; checked, never run. See api.py."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

from unpod_async import (
    Agent,
    AgentExecution,
    BatchResult,
    CallLog,
    CreatedRun,
    CreateRequest,
    ExportSummary,
    Failed,
    Ok,
    Organization,
    OutcomeUnknown,
    Page,
    RawResponse,
    Reconciliation,
    Run,
    Settings,
    Space,
    Stats,
    Task,
    UnpodClient,
    WatchedRun,
    WatchState,
)
from unpod_async.blocking import (
    BlockingClient,
    BlockingIterator,
    BlockingPager,
    BlockingStream,
    BlockingWatch,
)
from unpod_async.events import Event


def client() -> None:
    with BlockingClient() as unpod:
        assert_type(unpod, BlockingClient)
        assert_type(unpod.settings, Settings)
        assert_type(unpod.stats, Stats)
    unpod = BlockingClient(UnpodClient(deadline=60))
    assert_type(unpod.with_options(retry=None, timeout=5), BlockingClient)
    unpod.close(grace=1.5)

    BlockingClient(deadline=60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    BlockingClient("…")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unpod.with_options(token="…")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def listings(unpod: BlockingClient) -> None:
    assert_type(unpod.organizations.list(), BlockingPager[Organization])
    assert_type(unpod.spaces.list(), BlockingPager[Space])
    assert_type(unpod.spaces.get("S"), Space)
    assert_type(unpod.agents.list(limit=1), BlockingPager[Agent])
    assert_type(unpod.agents.tasks("A", status="completed"), BlockingPager[Task])
    assert_type(unpod.agents.executions("A"), BlockingPager[AgentExecution])
    assert_type(unpod.call_logs.list(), BlockingPager[CallLog])
    assert_type(unpod.tasks.list("S", outcome=["Interested"]), BlockingPager[Task])
    assert_type(unpod.paginate("call-logs/", model=CallLog), BlockingPager[CallLog])
    assert_type(unpod.request("GET", "agents/", model=Agent), Agent)
    assert_type(unpod.request("GET", "agents/", response=True), RawResponse)
    assert_type(unpod.runs.tasks("S", "R"), BlockingPager[Task])
    runs = unpod.runs.list("S", status=["pending"], page_size=10)
    assert_type(runs, BlockingPager[Run])
    for run in runs:
        assert_type(run, Run)
    assert_type(iter(runs), BlockingIterator[Run])
    assert_type(next(iter(runs)), Run)
    assert_type(runs.pages(), BlockingIterator[Page[Run]])
    assert_type(runs.raw(), BlockingIterator[bytes])
    assert_type(runs.collect(limit=3), list[Run])
    assert_type(runs.first(), Run | None)
    assert_type(runs.count(), int)
    assert_type(runs.prefetch(2), BlockingStream[Run])
    assert_type(runs.to_polars(), Any)

    unpod.runs.list("S", state="pending")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    unpod.runs.list(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    runs.collect("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def streams(unpod: BlockingClient, state: WatchState) -> None:
    with unpod.runs.tasks_for("S", ["R"], concurrency=2) as tasks:
        assert_type(tasks, BlockingStream[Task])
        for task in tasks:
            assert_type(task, Task)
    with unpod.runs.tasks_for("S", unpod.runs.list("S"), errors="yield") as results:
        for result in results:
            assert_type(result, Ok | Failed)
    with unpod.runs.watch(["S", "T"], interval=5, state=state) as events:
        assert_type(events, BlockingWatch)
        assert_type(events.state, WatchState)
        assert_type(events.polls, int)
        for event in events:
            assert_type(event, Event)


def calls(unpod: BlockingClient, error: OutcomeUnknown, task: Task) -> None:
    assert_type(unpod.runs.find("S", "R"), Run | None)
    assert_type(unpod.runs.wait("S", "R", deadline=60), WatchedRun)
    assert_type(unpod.runs.wait("S", ["R"], lambda run: len(run.tasks) > 1), list[WatchedRun])
    documents = [{"name": "A", "contact_number": "+15550100"}]
    assert_type(unpod.tasks.create("S", pilot="a", documents=documents, context="c"), CreatedRun)
    assert_type(unpod.tasks.create("S", pilot="a", documents=documents, context="c", dry_run=True), bytes)
    request = CreateRequest(pilot="a", documents=documents, context="c")
    assert_type(unpod.tasks.create_many("S", [request], journal="j"), Sequence[BatchResult])
    assert_type(unpod.tasks.reconcile(error), Reconciliation)
    assert_type(unpod.recordings.download(task, Path("r")), Path)
    target: os.PathLike[str] = Path("data")
    assert_type(
        unpod.export("S", target, format="parquet", settle_after=timedelta(days=1), on_progress=print),
        ExportSummary,
    )

    unpod.export("S", "data", format="xml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unpod.tasks.create("S", pilot="a", documents=documents)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
