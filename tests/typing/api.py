"""Uses of the whole public API, for mypy --strict and pyright strict; checked, never run.

What must not type-check carries an ignore comment of each checker, and either complains about one that is not
needed. tests/test_exports.py checks that no public name is missing here.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import ssl
from asyncio import wait_for
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal, TypedDict, assert_type

import aiohttp
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

import unpod_async
from unpod_async import (
    Agent,
    AgentExecution,
    APIError,
    Attempt,
    AttemptEvent,
    AuthenticationError,
    BadRow,
    BatchResult,
    Call,
    CallEnded,
    CallLog,
    ConfigurationError,
    CreatedRun,
    CreateRequest,
    DecodeError,
    Disconnected,
    Document,
    ExportError,
    ExportPlan,
    ExportProgress,
    ExportSpec,
    ExportSummary,
    Failed,
    FailedRun,
    IncompleteListing,
    InvalidArgument,
    InvalidRequestError,
    ListingIterator,
    NotFoundError,
    Ok,
    OpenTelemetry,
    Organization,
    OutcomeUnknown,
    Page,
    Pager,
    PermissionDeniedError,
    RateLimitedError,
    RateLimiter,
    RawResponse,
    Reconciliation,
    Reconnected,
    RecordingError,
    RefusedError,
    RejectedRow,
    RequestEvent,
    RetryPolicy,
    Run,
    RunNotFound,
    RunRemoved,
    RunSeen,
    RunSettled,
    RunStatusChanged,
    ScheduleAuto,
    ScheduleCustom,
    ScheduleNow,
    ServerError,
    Settings,
    Space,
    StalledListing,
    Stats,
    Stream,
    StreamIterator,
    TargetLockedError,
    Task,
    TaskRemoved,
    TaskSeen,
    TaskStatusChanged,
    TranscriptMessage,
    TransportError,
    UnpodClient,
    UnpodError,
    UpstreamError,
    UserInfo,
    WaitEvent,
    WaitTimeout,
    Watch,
    WatchedRun,
    WatchState,
    merge_shards,
)
from unpod_async.events import Event
from unpod_async.testing import CreatedCall, Fault, ManualClock, Oddities, Received, Sandbox, faults

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


async def new_token() -> str:
    return "…"


assert_type(unpod_async.__version__, str)


async def client(session: aiohttp.ClientSession, tls: ssl.SSLContext) -> None:
    async with UnpodClient() as from_environment:
        assert_type(from_environment, UnpodClient)
        assert_type(from_environment.settings, Settings)
        assert_type(from_environment.settings.base_url, str)
        assert_type(from_environment.settings.org_handle, str | None)
    unpod = UnpodClient(
        token="…",
        org_handle="acme.example",
        base_url="https://unpod.ai",
        auth_scheme="JWT",
        page_size=50,
        max_concurrency=4,
        allow_http=False,
        session=session,
        retry=RetryPolicy(attempts=5, base=1, cap=10.5, max_retry_after=30, budget=100),
        timeout=20,
        deadline=60.5,
        rate_limit=10,
        token_provider=new_token,
        max_response_bytes=2**20,
        proxy="http://proxy.example:3128",
        ssl_context=tls,
        product_id="P1",
        app_name="billing/1.2",
        headers={"X-Team": "billing"},
    )
    await unpod.aclose()
    UnpodClient(retry=None, deadline=None, rate_limit=None, token_provider=None, proxy=None, ssl_context=None)

    class SharedLimit:
        async def reserve(self) -> float:
            return 0.5

        def pause(self, seconds: float) -> None:
            assert_type(seconds, float)

    limiter: RateLimiter = SharedLimit()
    UnpodClient(rate_limit=limiter)
    UnpodClient(rate_limit=SharedLimit())
    UnpodClient(rate_limit="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    UnpodClient("…", "acme.example", "unpod.ai")
    with UnpodClient():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    await UnpodClient()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    for _ in UnpodClient().runs:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    UnpodClient("…", None, None, "JWT")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    UnpodClient(retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    UnpodClient(retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    UnpodClient(token_provider=lambda: "…")  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    UnpodClient(ssl_context=False)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryPolicy(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def observe(unpod: UnpodClient, tracers: TracerProvider, meters: MeterProvider) -> None:
    requests: list[RequestEvent] = []
    attempts: list[AttemptEvent] = []

    def on_wait(event: WaitEvent) -> None:
        assert_type(event.reason, Literal["retry", "server_delay", "rate_limit", "concurrency", "token"])
        assert_type((event.method, event.endpoint, event.error), tuple[str, str, str | None])
        assert_type((event.attempt, event.status, event.seconds), tuple[int, int | None, float])

    UnpodClient(on_request=requests.append, on_attempt=attempts.append, on_wait=on_wait)
    UnpodClient(on_request=None, on_attempt=None, on_wait=None, opentelemetry=False)
    UnpodClient(opentelemetry=OpenTelemetry(tracer_provider=tracers, meter_provider=meters))
    assert_type(unpod.with_options(on_request=None, on_attempt=attempts.append, on_wait=on_wait), UnpodClient)
    assert_type((requests[0].attempts, requests[0].waited, requests[0].bytes), tuple[int, float, int | None])
    assert_type((attempts[0].attempt, attempts[0].timed_out), tuple[int, bool])

    async def is_async(event: WaitEvent) -> None: ...

    UnpodClient(on_wait=is_async)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    UnpodClient(on_request=on_wait)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    UnpodClient(opentelemetry=tracers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    requests[0].status = 200  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def options(unpod: UnpodClient) -> None:
    assert_type(unpod.with_options(), UnpodClient)
    view = unpod.with_options(
        retry=None, timeout=5, deadline=None, page_size=10, max_concurrency=1, headers={"X-A": "b"}
    )
    assert_type(view.runs.list("S"), Pager[Run])
    unpod.with_options(retry=RetryPolicy(), deadline=2.5)
    assert_type(view.stats, Stats)
    assert_type(view.stats.requests, int)
    assert_type(view.stats.attempts, int)
    assert_type(view.stats.retries, Counter[str])
    assert_type(view.stats.bytes, int)
    assert_type(view.stats.waited, float)
    assert_type(view.stats.rows, int)
    assert_type(RetryPolicy().attempts, int)
    assert_type(RetryPolicy().max_retry_after, float)

    unpod.with_options(timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unpod.with_options(token="…")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    unpod.stats = Stats()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def listings(unpod: UnpodClient) -> None:
    assert_type(unpod.organizations.list(), Pager[Organization])
    assert_type(unpod.spaces.list(on_bad_row="skip"), Pager[Space])
    assert_type(await unpod.spaces.get("S"), Space)
    assert_type(unpod.agents.list(start_page=2, page_size=10), Pager[Agent])
    assert_type(unpod.agents.tasks("agent", status="completed"), Pager[Task])
    # Editors suggest the known statuses, and every other str is accepted.
    other = str(datetime.now(UTC))
    unpod.agents.tasks("agent", status=["completed", "a new status", other])
    unpod.runs.list("S", status="a new status")
    unpod.runs.list("S", status=(other, "partially_completed"))
    unpod.tasks.list("S", status=other, call_type="inbound")
    unpod.tasks.list("S", status=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unpod.runs.list("S", status=["completed", None])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    unpod.tasks.list("S", call_type="outgoing")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(unpod.runs.list("S", status=["pending", "in_progress"]), Pager[Run])
    assert_type(unpod.runs.tasks("S", "R"), Pager[Task])
    tasks = unpod.tasks.list(
        "S",
        search="a.*b",
        outcome=["Interested", "Call Back"],
        call_type="outbound",
        created_from=MOMENT,
        created_to=MOMENT,
        status="failed",
        limit=100,
        start_page=3,
        page_size=20,
        on_bad_row="raise",
    )
    assert_type(tasks, Pager[Task])

    assert_type(unpod.runs.list("S", limit=None), Pager[Run])
    assert_type(unpod.spaces.list(limit=1), Pager[Space])
    unpod.runs.list("S", limit="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unpod.runs.list("S", on_bad_row="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unpod.tasks.list("S", call_type="web")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unpod.tasks.list("S", created_from="2026")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    unpod.runs.tasks("S")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Widget(TypedDict):
    name: str


def key_of(widget: Widget) -> str:
    return widget["name"]


async def any_endpoint(unpod: UnpodClient) -> None:
    assert_type(await unpod.request("GET", "widgets/", params={"a": 1, "b": True, "c": None}), Any)
    assert_type(await unpod.request("POST", "widgets/", json={"a": [1]}, model=Widget), Widget)
    assert_type(await unpod.request("GET", "widgets/", model=list[Widget]), list[Widget])
    answer = await unpod.request("DELETE", "widgets/1/", headers={"X-A": "b"}, response=True)
    assert_type(answer, RawResponse)
    assert_type((answer.status, answer.body), tuple[int, bytes])
    assert_type(answer.headers, Mapping[str, str])
    await unpod.request("GET", "widgets/", model=Widget, response=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(unpod.paginate("widgets/"), Pager[dict[str, Any]])
    assert_type(unpod.paginate("widgets/", key=lambda row: row["id"]), Pager[dict[str, Any]])
    assert_type(unpod.paginate("widgets/", key=key_of, model=Widget, limit=5), Pager[Widget])
    assert_type(unpod.paginate("call-logs/", key="id", model=CallLog, page_size=5), Pager[CallLog])
    calls = unpod.call_logs.list(
        created_from=MOMENT, call_type="inbound", call_status="missed", product_id="P"
    )
    assert_type(calls, Pager[CallLog])
    async for call in calls:
        assert_type(call.duration, float | None)
        assert_type(call.created_at, datetime | None)
        assert_type(call.start_time_at, datetime | None)
    executions = unpod.agents.executions("agent", limit=3)
    assert_type(executions, Pager[AgentExecution])
    unpod.call_logs.list(call_type="sideways")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def pager(runs: Pager[Run]) -> None:
    async for run in runs:
        assert_type(run, Run)
    async for page in runs.pages():
        assert_type(page, Page[Run])
        assert_type(page.items, list[Run])
        assert_type(page.number, int)
        assert_type(page.page_size, int)
        assert_type(page.count, int | None)
        assert_type(page.rejected, list[RejectedRow])
        assert_type(page.rejected[0].raw, bytes)
        assert_type(page.rejected[0].path, str)
        assert_type(page.rejected[0].reason, str)
        assert_type(page.unreadable, list[int])
        assert_type(page.headers, Mapping[str, str])
    async for raw in runs.raw():
        assert_type(raw, bytes)
    assert_type(aiter(runs), ListingIterator[Run])
    assert_type(runs.pages(), ListingIterator[Page[Run]])
    assert_type(runs.raw(), ListingIterator[bytes])
    rows: AsyncIterator[Run] = aiter(runs)
    assert_type(await anext(rows), Run)
    async with aclosing(runs.pages()) as pages:
        assert_type(await wait_for(anext(pages), 5), Page[Run])
    assert_type(await runs.collect(), list[Run])
    assert_type(await runs.collect(limit=10), list[Run])
    assert_type(await runs.first(), Run | None)
    assert_type(await runs.count(), int)
    assert_type(runs.prefetch(4), Stream[Run])
    await runs.to_arrow()
    await runs.to_polars()
    await runs.to_pandas()

    for _ in runs:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    list(runs)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    runs[0]  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    await runs  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    with runs:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    async with runs:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    async with runs.prefetch(4) as stream:
        assert_type(stream, Stream[Run])
        assert_type(aiter(stream), StreamIterator[Run])
        await aiter(stream).aclose()
        async for run in stream:
            assert_type(run, Run)

    iter(runs)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def many_runs(unpod: UnpodClient, later: AsyncIterator[Run | str]) -> None:
    assert_type(unpod.runs.tasks_for("S"), Stream[Task])
    assert_type(unpod.runs.tasks_for("S", ["R1", "R2"], errors="raise"), Stream[Task])
    assert_type(unpod.runs.tasks_for("S", (Run(run_id=name) for name in "ab"), ordered=True), Stream[Task])
    assert_type(unpod.runs.tasks_for("S", unpod.runs.list("S"), concurrency=2), Stream[Task])
    results = unpod.runs.tasks_for(
        "S", later, errors="yield", status="failed", page_size=10, on_bad_row="skip"
    )
    assert_type(results, Stream[Ok | Failed])
    async with unpod.runs.tasks_for("S") as tasks:
        async for task in tasks:
            assert_type(task, Task)
    async with results as stream:
        async for result in stream:
            match result:
                case Ok(run_id, task):
                    assert_type(run_id, str)
                    assert_type(task, Task)
                case Failed(run_id, error):
                    assert_type(run_id, str)
                    assert_type(error, UnpodError)

    unpod.runs.tasks_for("S", errors="skip")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    unpod.runs.tasks_for("S", [1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def watch(unpod: UnpodClient, run: Run, state: WatchState) -> None:
    changes = unpod.runs.watch(["S", "T"], interval=5, resync=600, tasks=True, runs=None, state=state)
    assert_type(changes, Watch)
    unpod.runs.watch("S", runs=[run, "R2"])
    unpod.runs.watch("S", runs=run)
    async with changes as events:
        assert_type(events.state, WatchState)
        assert_type(events.polls, int)
        assert_type(events.resyncs, int)
        async for event in events:
            assert_type(event, Event)
            assert_type(event.seen_at, datetime)
            assert_type(event.old, str | None)
            assert_type(event.to_json(keep_user_tokens=False), str)
            match event:
                case RunSeen() | RunStatusChanged():
                    assert_type(event.run, Run)
                case RunSettled():
                    assert_type(event.tasks, dict[str, int])
                case RunRemoved():
                    assert_type(event.run_id, str)
                case CallEnded():
                    assert_type(event.call, Call | None)
                case TaskSeen() | TaskStatusChanged():
                    assert_type(event.task, Task)
                case TaskRemoved():
                    assert_type(event.task_id, str)
                case Disconnected():
                    assert_type(event.reason, str)
                case Reconnected():
                    assert_type(event.after, float)
                case _:
                    pass
    assert_type(state.tasks, bool)
    assert_type(WatchState.load(Path("state.json")), WatchState | None)
    state.save("state.json")


async def wait(unpod: UnpodClient, run: Run) -> None:
    assert_type(await unpod.runs.find("S", "R1"), Run | None)
    assert_type(await unpod.runs.wait("S", "R1"), WatchedRun)
    assert_type(await unpod.runs.wait("S", run, "settled", deadline=60), WatchedRun)
    several = await unpod.runs.wait("S", ["R1", run], lambda seen: bool(seen.open_tasks), interval=1)
    assert_type(several, list[WatchedRun])
    assert_type(several[0].run, Run)
    assert_type(several[0].tasks, list[Task])
    assert_type(several[0].settled, bool)
    assert_type(several[0].unreadable, int)
    try:
        await unpod.runs.wait("S", "R1", deadline=None)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    except RunNotFound as error:
        assert_type(error.run_ids, tuple[str, ...])
        assert_type(error.space_token, str)
    except WaitTimeout as late:
        assert_type(late.runs, tuple[Any, ...])
        assert_type(late.holding, tuple[Any, ...])


async def create(unpod: UnpodClient) -> None:
    documents: list[dict[str, str]] = [{"name": "A", "contact_number": "+1"}]
    created = await unpod.tasks.create("S", pilot="agent", documents=documents, context="why")
    assert_type(created, CreatedRun)
    assert_type(created.run_id, str | None)
    assert_type(created.task_ids, list[str] | None)
    assert_type(created.status, str | dict[str, str] | None)
    assert_type(created.created_at, datetime | None)
    for schedule in (
        ScheduleNow(),
        ScheduleAuto(),
        ScheduleCustom("2030-01-01", "10:00"),
        ScheduleCustom(date(2030, 1, 1), time(10)),
        ScheduleCustom.at(MOMENT),
    ):
        await unpod.tasks.create("S", pilot="a", documents=documents, context="w", schedule=schedule)
    await unpod.tasks.create("S", pilot="a", documents=documents, context="w", schedule="auto")
    dry = await unpod.tasks.create("S", pilot="a", documents=documents, context="w", dry_run=True)
    assert_type(dry, bytes)
    wet = await unpod.tasks.create("S", pilot="a", documents=documents, context="w", dry_run=False)
    assert_type(wet, CreatedRun)

    await unpod.tasks.create("S", pilot="a", documents=documents)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await unpod.tasks.create("S", pilot="a", documents=documents, context="w", schedule="soon")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


class Lead(Document):
    """A document with a key of the user's own."""

    age: int


async def documents(unpod: UnpodClient) -> None:
    one: Document = {"name": "A", "contact_number": "+1", "email": None, "labels": ["new"]}
    lead: Lead = {"name": "A", "contact_number": "+1", "age": 7}
    assert_type(one["name"], str)
    mapping: Mapping[str, object] = lead
    await unpod.tasks.create("S", pilot="a", documents=[one, lead, mapping, {"name": "A"}], context="w")
    await unpod.tasks.create("S", pilot="a", documents=iter([lead]), context="w")
    many: list[Document] = [one, lead]
    CreateRequest(pilot="a", documents=many, context="w")
    CreateRequest(pilot="a", documents=[{"name": "A", "contact_number": "+1", "age": 7}, one], context="w")
    bad: Document = {"name": "A"}  # type: ignore[typeddict-item]  # pyright: ignore[reportAssignmentType]
    wrong: Document = {"name": "A", "contact_number": 1}  # type: ignore[typeddict-item]  # pyright: ignore[reportAssignmentType]
    await unpod.tasks.create("S", pilot="a", documents=[bad, wrong], context="w")
    await unpod.tasks.create("S", pilot="a", documents=["+1"], context="w")  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def requests() -> Iterator[CreateRequest]:
    yield CreateRequest(pilot="a", documents=[{"name": "A", "contact_number": "+1", "age": 7}], context="w")
    yield CreateRequest(pilot="a", documents=({"name": "A"},), context="w", schedule=ScheduleAuto())
    CreateRequest(pilot="a", documents=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def create_many(unpod: UnpodClient, error: OutcomeUnknown) -> None:
    results = await unpod.tasks.create_many("S", requests(), journal="calls.journal")
    assert_type(results, Sequence[BatchResult])
    assert_type(results[0].number, int)
    assert_type(results[0].state, Literal["created", "partial", "not_found", "unclear"])
    assert_type(results[0].run_id, str | None)
    assert_type(results[0].document_ids, tuple[str, ...])
    assert_type(results[0].task_ids, Mapping[str, str])
    await unpod.tasks.create_many("S", [*requests()], journal=Path("j"), resend_unknown=True)
    found = await unpod.tasks.reconcile(error)
    assert_type(found, Reconciliation)
    assert_type(found.state, Literal["created", "partial", "not_found", "unclear"])
    assert_type(found.run_id, str | None)
    assert_type(found.task_ids, Mapping[str, str])
    assert_type(found.missing, tuple[str, ...])

    await unpod.tasks.create_many("S", requests())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def rows(task: Task, run: Run, space: Space, agent: Agent, organization: Organization) -> None:
    assert_type(task.id, str | None)
    assert_type(task.task_id, str | None)
    assert_type(task.input, dict[str, Any] | None)
    assert_type(task.user_info, UserInfo | None)
    assert_type(task.failure_count, int | None)
    assert_type(task.created, str | None)
    assert_type(task.created_at, datetime | None)
    assert_type(task.modified_at, datetime | None)
    assert_type(task.last_status_change_at, datetime | None)
    assert_type(task.scheduled_timestamp_at, datetime | None)
    assert_type(task.call, Call | None)
    if (call := task.call) is not None:
        assert_type(call.call_id, str | None)
        assert_type(call.direction, str | None)
        assert_type(call.started_at, datetime | None)
        assert_type(call.ended_at, datetime | None)
        assert_type(call.duration, float | None)
        assert_type(call.messages, list[TranscriptMessage])
        assert_type(call.messages[0].text, str | None)
        assert_type(call.messages[0].timestamp_at, datetime | None)
        assert_type(call.transcript, str | None)
        assert_type(call.labels, list[str])
        assert_type(call.cost, float | None)
    assert_type(task.to_dict(), dict[str, Any])
    assert_type(run.to_dict(keep_user_tokens=True), dict[str, Any])
    assert_type(agent.to_json(), str)
    assert_type(run.batch_count, int | None)
    assert_type(run.created_at, datetime | None)
    assert_type(space.organization, Organization | None)
    assert_type(space.agents, list[Agent] | None)
    assert_type(agent.handle, str | None)
    assert_type(organization.domain_handle, str | None)

    task.status = "completed"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    task.duration  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] # noqa: B018


async def errors(unpod: UnpodClient) -> None:
    try:
        await unpod.runs.list("S").first()
    except RateLimitedError as error:
        assert_type(error.retry_after, float | None)
    except (
        RefusedError,
        InvalidRequestError,
        UpstreamError,
        AuthenticationError,
        PermissionDeniedError,
        NotFoundError,
        ServerError,
    ) as error:
        assert_type(error.status, int)
    except APIError as error:
        assert_type(error.status, int)
        assert_type(error.message, str)
        assert_type(error.errors, object)
        assert_type(error.headers, Mapping[str, str])
        assert_type(error.body, bytes)
    except TransportError as error:
        assert_type(error.sent, bool)
        assert_type(error.timed_out, bool)
        assert_type(error.permanent, bool)
    except StalledListing as error:
        assert_type(error.expected, int | None)
    except IncompleteListing as error:
        assert_type(error.seen, int)
        assert_type(error.expected, int | None)
    except DecodeError as error:
        assert_type(error.unreadable, tuple[int, ...])
    except OutcomeUnknown as error:
        assert_type(error.document_ids, tuple[str, ...])
        assert_type(error.status, int | None)
    except (ConfigurationError, InvalidArgument) as error:
        value_error: ValueError | UnpodError = error
        del value_error
    except UnpodError as error:
        assert_type(error.listing, str | None)
        assert_type(error.page, int | None)
        for status, kind, wait in error.attempts:
            assert_type(Attempt(status, kind, wait).status, int | None)
            assert_type(Attempt(status, kind, wait).error, str)
            assert_type(Attempt(status, kind, wait).wait, float)


async def export(unpod: UnpodClient, moment: datetime, runs: list[Run]) -> None:
    def show(event: ExportProgress) -> None:
        assert_type(event.runs_total, int | None)
        assert_type(event.remaining, float | None)
        assert_type(event.rate, float)

    try:
        summary = await unpod.export(
            "S", Path("data"), format="parquet", since=moment, settle_after=3600, on_progress=show
        )
    except TargetLockedError as error:
        export_error: ExportError = error
        del export_error
    else:
        assert_type(summary, ExportSummary)
        assert_type(summary.to_duckdb(), Any)
        assert_type(summary.complete, bool)
        assert_type(summary.failed, tuple[FailedRun, ...])
        assert_type(summary.bad, tuple[BadRow, ...])
    plan = await unpod.plan_export(["S"], shards=4, format="parquet")
    assert_type(plan, ExportPlan)
    assert_type(await unpod.extend_plan(plan, shards=2), ExportPlan)
    assert_type(
        await unpod.export_shard(ExportPlan.load("plan.json"), 0, "data", concurrency=2), ExportSummary
    )
    assert_type(await merge_shards(plan, Path("data")), ExportSummary)
    assert_type(
        await merge_shards(plan, "s3://bucket/prefix", deadline=60, state_dir=Path("state")), ExportSummary
    )
    await unpod.export(["S", "S2"], "data", full=True, redact="hash", redact_key=b"12345678", recordings=True)
    await unpod.export("S", "data", runs=runs, keep_user_tokens=True, csv_bom=True, format="csv")
    await unpod.export("S", "data", format="xml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await unpod.export("S", "data", formats="csv")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    spec = ExportSpec(
        spaces=("S",), runs=("R1",), since=moment, redact="hash", recordings=True, concurrency=8
    )
    assert_type(spec.spaces, tuple[str, ...])
    assert_type(spec.format, Literal["jsonl", "jsonl.gz", "csv", "parquet"])
    assert_type(spec.settle_after, timedelta)
    assert_type(await unpod.export(spec, "data", on_progress=show), ExportSummary)


async def recordings(unpod: UnpodClient, task: Task) -> None:
    try:
        assert_type(await unpod.recordings.download(task, "recordings", recording_hosts=["store"]), Path)
    except RecordingError as error:
        assert_type(error.permanent, bool)


async def sandbox() -> None:
    async with Sandbox(
        runs=2, tasks_per_run=(1, 3), seed=1, latency=0.1, oddities=Oddities(past_end="404")
    ) as service:
        assert_type(service, Sandbox)
        assert_type(service.client(retry=None), UnpodClient)
        assert_type(service.base_url, str)
        assert_type(service.token, str)
        assert_type(service.jwt, str)
        assert_type(service.org_handle, str)
        assert_type(service.space_token, str)
        assert_type(service.agent_handle, str)
        assert_type(service.requests, int)
        assert_type(service.log, list[Received])
        assert_type(service.ledger, list[CreatedCall])
        assert_type(service.task_ids(), list[str])
        assert_type(service.insert_run(tasks=2), str)
        assert_type(service.insert_task("R"), str)
        service.delete_task("T")
        service.delete_run("R")
        service.advance(steps=2)
        service.poison("T")
        service.malform("T", b"{}")
        service.script(Fault(status=503, times=2), Fault(stall=1.0), Fault(reset_at=0))
        service.script(faults.reset_in_body(method="POST"), faults.rate_limited(2, form="date", times=3))
        faults.play(service, 27, path="/runs/")
        assert_type(faults.server_error(503, processed=True), Fault)
        assert_type(faults.poisoned_row(service), str)
        await service.arrived(1)
    clock = ManualClock(MOMENT)
    assert_type(clock(), datetime)
    assert_type(clock.advance(2.5), datetime)
    Sandbox(live=True, speed=2, now=clock)
