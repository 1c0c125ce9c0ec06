"""`reconcile` searches by the server's clock, and is never sure of what it could not read."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raw_server import RawConnection, RawServer, json_response
from tests.tables import each_row
from unpod_async import CreateRequest, OutcomeUnknown, UnpodClient, UnpodError, UpstreamError
from unpod_async._create import Instant, SentAt, ServerClock
from unpod_async.errors import ConfigurationError, TransportError
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

ANN = {"name": "Ann Example", "contact_number": "+490000001", "id": "doc-1"}
BEN = {"name": "Ben Example", "contact_number": "+490000002", "id": "doc-2"}
REQUEST = CreateRequest(pilot="agent", documents=[ANN, BEN], context="Call.")
LOST = Fault(method="POST", status=502)
LOST_AND_QUEUED = Fault(method="POST", status=502, processed=True)


@asynccontextmanager
async def serving(ahead: timedelta = timedelta()) -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    """Serve a sandbox whose clock is ahead of this machine's."""
    async with (
        Sandbox(runs=2, tasks_per_run=2, now=lambda: datetime.now(UTC) + ahead) as sandbox,
        UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url, retry=None) as unpod,
    ):
        yield sandbox, unpod


async def lose(sandbox: Sandbox, unpod: UnpodClient, fault: Fault = LOST) -> OutcomeUnknown:
    """Send a create and return the error of its lost response."""
    sandbox.script(fault)
    with pytest.raises(OutcomeUnknown) as caught:
        await unpod.tasks.create(sandbox.space_token, pilot="agent", documents=[ANN, BEN], context="Call.")
    return caught.value


def posts(sandbox: Sandbox) -> int:
    return sum(request.method == "POST" for request in sandbox.log)


# --- rows that cannot be read ------------------------------------------------------------------------------


async def run_of_somebody_else(sandbox: Sandbox, unpod: UnpodClient) -> str:
    documents = [{"name": "Eva", "contact_number": "+490000003"} for _ in range(3)]
    created = await unpod.tasks.create(
        sandbox.space_token, pilot="agent", documents=documents, context="Call."
    )
    return str(created.run_id)


def task_that_cannot_be_sent(sandbox: Sandbox, run: str) -> None:
    sandbox.poison(sandbox.task_ids(run)[1])


def task_that_is_rejected(sandbox: Sandbox, run: str) -> None:
    sandbox.malform(sandbox.task_ids(run)[0], b'{"task_id": "T1", "status": []}')


def task_of_another_run(sandbox: Sandbox, run: str) -> None:
    sandbox.malform(sandbox.task_ids(run)[0], b'{"task_id": "T1", "run_id": "another"}')


def task_without_an_id(sandbox: Sandbox, run: str) -> None:
    row = {"run_id": run, "ref_id": "doc-1"}
    sandbox.malform(sandbox.task_ids(run)[0], json.dumps(row).encode())


def run_that_cannot_be_sent(sandbox: Sandbox, run: str) -> None:
    sandbox.poison(run)


def count_that_is_too_high(sandbox: Sandbox, run: str) -> None:
    body = json.dumps({"count": 5, "status_code": 200, "data": list(sandbox.task_rows(run))}).encode()
    sandbox.script(Fault(body=body, path=f"/{run}/tasks/", times=50))


def run_without_an_id(sandbox: Sandbox, run: str) -> None:
    runs = [one | {"run_id": None} if one["run_id"] == run else one for one in sandbox.run_rows()]
    body = json.dumps({"count": len(runs), "status_code": 200, "data": runs}).encode()
    sandbox.script(Fault(body=body, path="/runs/"))


def run_with_an_id_that_cannot_be_requested(sandbox: Sandbox, run: str) -> None:
    runs = [one | {"run_id": "../x"} if one["run_id"] == run else one for one in sandbox.run_rows()]
    body = json.dumps({"count": len(runs), "status_code": 200, "data": runs}).encode()
    sandbox.script(Fault(body=body, path="/runs/"))


def run_that_is_no_object(sandbox: Sandbox, run: str) -> None:
    runs = [5 if one["run_id"] == run else one for one in sandbox.run_rows()]
    body = json.dumps({"count": len(runs), "status_code": 200, "data": runs}).encode()
    sandbox.script(Fault(body=body, path="/runs/"))


def count_that_is_missing_on_a_later_page(sandbox: Sandbox, run: str) -> None:
    """The listing begins with rows of two other runs, and its second page has no count."""
    rows = list(sandbox.run_rows())
    first = {"count": len(rows) + 98, "status_code": 200, "data": [rows[0]] * 100}
    sandbox.script(Fault(body=json.dumps(first).encode(), path="/runs/", page=1))
    second = {"count": None, "status_code": 200, "data": rows[1:]}
    sandbox.script(Fault(body=json.dumps(second).encode(), path="/runs/", page=2))


UNREADABLE = [
    task_that_cannot_be_sent,
    task_that_is_rejected,
    task_of_another_run,
    task_without_an_id,
    run_that_cannot_be_sent,
    count_that_is_too_high,
    run_without_an_id,
    run_with_an_id_that_cannot_be_requested,
    run_that_is_no_object,
]


@each_row("break_a_row", UNREADABLE)
async def test_what_cannot_be_read_may_be_the_call(break_a_row: Any) -> None:
    async with serving() as (sandbox, unpod):
        error = await lose(sandbox, unpod)
        run = await run_of_somebody_else(sandbox, unpod)
        assert (await unpod.tasks.reconcile(error)).state == "not_found"
        break_a_row(sandbox, run)
        found = await unpod.tasks.reconcile(error)
        assert (found.state, found.run_id, found.task_ids) == ("unclear", None, {})
        assert found.missing == error.document_ids


async def test_a_rejected_run_is_searched_by_what_it_shows() -> None:
    async with serving() as (sandbox, unpod):
        for fault, state in ((LOST, "not_found"), (LOST_AND_QUEUED, "created")):
            error = await lose(sandbox, unpod, fault)
            runs = [one | {"status": {}} for one in sandbox.run_rows()]
            body = json.dumps({"count": len(runs), "status_code": 200, "data": runs}).encode()
            sandbox.script(Fault(body=body, path="/runs/"))
            assert (await unpod.tasks.reconcile(error)).state == state


@each_row("break_a_row", UNREADABLE)
async def test_an_unclear_batch_is_never_sent_again(break_a_row: Any, tmp_path: Path) -> None:
    async with serving() as (sandbox, unpod):
        journal = tmp_path / break_a_row.__name__
        sandbox.script(LOST)
        with pytest.raises(OutcomeUnknown):
            await unpod.tasks.create_many(sandbox.space_token, [REQUEST], journal=journal)
        run = await run_of_somebody_else(sandbox, unpod)
        for resend in (True, False, True):
            break_a_row(sandbox, run)
            (result,) = await unpod.tasks.create_many(
                sandbox.space_token, [REQUEST], journal=journal, resend_unknown=resend
            )
            assert result.state == "unclear"
        assert posts(sandbox) == 2
        assert len(sandbox.ledger) == 3


@each_row("queued", [True, False])
async def test_a_batch_that_was_unclear_is_searched_again(queued: bool, tmp_path: Path) -> None:
    """Once all rows can be read, the calls are found, or sent again if that is asked for."""
    async with serving() as (sandbox, unpod):
        journal = tmp_path / str(queued)
        sandbox.script(LOST_AND_QUEUED if queued else LOST)
        with pytest.raises(OutcomeUnknown):
            await unpod.tasks.create_many(sandbox.space_token, [REQUEST], journal=journal)
        run = sandbox.run_ids()[0] if queued else await run_of_somebody_else(sandbox, unpod)
        empty = Fault(body=b'{"count": 9, "status_code": 200, "data": []}', path=f"/{run}/tasks/", times=2)
        sandbox.script(empty)
        states: list[str] = []
        while "created" not in states and len(states) < 9:
            (result,) = await unpod.tasks.create_many(
                sandbox.space_token, [REQUEST], journal=journal, resend_unknown=True
            )
            states.append(result.state)
        assert set(states[:-1]) == {"unclear"}
        assert states[-1] == "created"
        assert [call.document["id"] for call in sandbox.ledger if "id" in call.document] == ["doc-1", "doc-2"]


async def test_a_task_without_an_id_hides_no_other_task() -> None:
    async with serving() as (sandbox, unpod):
        error = await lose(sandbox, unpod, LOST_AND_QUEUED)
        first, second = sandbox.ledger
        newest, other = sandbox.task_ids(first.run_id)
        ids = {first.task_id: "doc-1", second.task_id: "doc-2"}
        row = {"run_id": first.run_id, "ref_id": ids[newest]}
        sandbox.malform(newest, json.dumps(row).encode())
        found = await unpod.tasks.reconcile(error)
        assert (found.state, found.task_ids) == ("unclear", {ids[other]: other})


@each_row("key", ["id", "document_id"])
async def test_a_task_without_a_ref_id_is_known_by_the_id_of_its_document(key: str) -> None:
    async with serving() as (sandbox, unpod):
        error = await lose(sandbox, unpod, LOST_AND_QUEUED)
        for call, name in zip(sandbox.ledger, ("doc-1", "doc-2"), strict=True):
            row = {"run_id": call.run_id, "task_id": call.task_id, "input": {key: name}}
            sandbox.malform(call.task_id, json.dumps(row).encode())
        assert (await unpod.tasks.reconcile(error)).state == "created"


async def test_two_unreadable_runs_around_an_older_one_may_be_newer() -> None:
    """Rows that cannot be read are not certainly in the order of the others."""
    async with serving() as (sandbox, unpod):
        error = await lose(sandbox, unpod)
        assert len(sandbox.run_ids()) == 2
        await run_of_somebody_else(sandbox, unpod)
        newest, _, oldest = sandbox.run_ids()
        sandbox.poison(newest)
        sandbox.poison(oldest)
        assert (await unpod.tasks.reconcile(error)).state == "unclear"


async def test_what_was_found_is_reported_though_other_rows_cannot_be_read() -> None:
    async with serving() as (sandbox, unpod):
        error = await lose(sandbox, unpod, LOST_AND_QUEUED)
        first, second = sandbox.ledger
        sandbox.poison(second.task_id)
        found = await unpod.tasks.reconcile(error)
        assert (found.state, found.run_id) == ("unclear", first.run_id)
        assert (found.task_ids, found.missing) == ({"doc-1": first.task_id}, ("doc-2",))


@pytest.mark.parametrize("is_newer", [False, True])
@each_row("break_a_row", [each for each in UNREADABLE if each is not task_without_an_id])
async def test_all_found_is_created_whatever_else_cannot_be_read(break_a_row: Any, is_newer: bool) -> None:
    """The other run is listed after the one of the create, or before it."""
    async with serving() as (sandbox, unpod):
        if is_newer:
            error = await lose(sandbox, unpod, LOST_AND_QUEUED)
            run = await run_of_somebody_else(sandbox, unpod)
        else:
            run = await run_of_somebody_else(sandbox, unpod)
            error = await lose(sandbox, unpod, LOST_AND_QUEUED)
        break_a_row(sandbox, run)
        found = await unpod.tasks.reconcile(error)
        assert (found.state, found.missing) == ("created", ())


async def test_an_unreadable_run_that_is_older_does_not_matter() -> None:
    async with serving() as (sandbox, unpod):
        sandbox.poison(sandbox.run_ids()[1])
        error = await lose(sandbox, unpod)
        assert (await unpod.tasks.reconcile(error)).state == "not_found"


async def test_an_unreadable_run_after_an_older_one_on_a_short_last_page_does_not_matter() -> None:
    async with (
        Sandbox(runs=4, tasks_per_run=1) as sandbox,
        UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url, retry=None, page_size=3) as unpod,
    ):
        sandbox.poison(sandbox.run_ids()[-1])
        error = await lose(sandbox, unpod)
        # With this run, the first page is not the last one that is read.
        await run_of_somebody_else(sandbox, unpod)
        assert (await unpod.tasks.reconcile(error)).state == "not_found"


async def test_a_call_is_found_behind_an_older_run() -> None:
    """The first page ends with an older run, but has a newer one too, so the search goes on."""
    old = [(f"{datetime.now(UTC) - n * HOUR:%Y-%m-%dT%H:%M:%S}", ["doc-1", "doc-2"]) for n in (1, 2)]
    service = Service()
    async with service.serving(page_size=2) as unpod:
        error = await lost(unpod)
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        service.runs = [(now, ["doc-9"]), old[0], (now, ["doc-1", "doc-2"]), old[1]]
        found = await unpod.tasks.reconcile(error)
        assert (found.state, found.run_id) == ("created", "R2")


@each_row(
    ("fault", "others", "state", "pages"),
    [
        (LOST, 0, "not_found", {"runs": 1}),
        (LOST, 1, "not_found", {"runs": 2, "tasks": 1}),
        # No run of the first page is older, so the whole listing is read: seven pages, and its end.
        (LOST, 3, "not_found", {"runs": 8, "tasks": 3}),
        (LOST_AND_QUEUED, 0, "created", {"runs": 1, "tasks": 1}),
        (LOST_AND_QUEUED, 4, "created", {"runs": 2, "tasks": 5}),
    ],
)
async def test_a_search_requests_no_more_pages_than_it_needs(
    fault: Fault, others: int, state: str, pages: dict[str, int]
) -> None:
    async with (
        Sandbox(runs=17, tasks_per_run=2) as sandbox,
        sandbox.client(retry=None, page_size=3) as unpod,
    ):
        error = await lose(sandbox, unpod, fault)
        for number in range(others):
            documents = [{"name": "Eva", "contact_number": f"+4900000{number}"}]
            await unpod.tasks.create(sandbox.space_token, pilot="p", documents=documents, context="Call.")
        before = len(sandbox.log)
        assert (await unpod.tasks.reconcile(error)).state == state
        requested = [request.path.rstrip("/").rpartition("/")[2] for request in sandbox.log[before:]]
        assert Counter(requested) == pages


@each_row(("fault", "requests"), [(LOST, ["runs", "POST"]), (LOST_AND_QUEUED, ["runs", "tasks"])])
async def test_a_journal_of_a_lost_create_needs_one_search(
    fault: Fault, requests: list[str], tmp_path: Path
) -> None:
    async with (
        Sandbox(runs=17, tasks_per_run=2) as sandbox,
        sandbox.client(retry=None, page_size=3) as unpod,
    ):
        journal = tmp_path / str(fault.processed)
        sandbox.script(fault)
        with pytest.raises(OutcomeUnknown):
            await unpod.tasks.create_many(sandbox.space_token, [REQUEST], journal=journal)
        before = len(sandbox.log)
        (result,) = await unpod.tasks.create_many(
            sandbox.space_token, [REQUEST], journal=journal, resend_unknown=True
        )
        assert result.state == "created"
        assert [
            "POST" if one.method == "POST" else one.path.rstrip("/").rpartition("/")[2]
            for one in sandbox.log[before:]
        ] == requests


async def test_calls_in_two_runs_are_found_and_the_newest_run_is_named() -> None:
    service = Service()
    async with service.serving() as unpod:
        error = await lost(unpod)
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        service.runs = [(now, ["doc-1"]), (now, ["doc-2"])]
        found = await unpod.tasks.reconcile(error)
        assert (found.state, found.run_id) == ("created", "R2")
        assert set(found.task_ids) == {"doc-1", "doc-2"}


@pytest.mark.parametrize("fault", [LOST, LOST_AND_QUEUED])
async def test_a_create_at_the_beginning_of_the_calendar_is_searched(fault: Fault) -> None:
    """The wall clock of the machine that sent it was wrong. The search cannot begin two minutes earlier."""
    beginning = datetime.min.replace(tzinfo=UTC)
    assert SentAt(beginning).search_start == beginning
    async with serving() as (sandbox, unpod):
        error = await lose(sandbox, unpod, fault)
        error = OutcomeUnknown(
            "lost",
            space_token=error.space_token,
            document_ids=error.document_ids,
            started_at=beginning,
            clocks=SentAt(beginning),
        )
        found = await unpod.tasks.reconcile(error)
        assert found.state == ("created" if fault is LOST_AND_QUEUED else "not_found")


async def test_one_deadline_holds_for_the_whole_search() -> None:
    async with serving() as (sandbox, unpod):
        error = await lose(sandbox, unpod)
        for _ in range(4):
            await run_of_somebody_else(sandbox, unpod)
        sandbox.script(Fault(path="/tasks/", stall=0.15, times=4))
        with pytest.raises(TransportError, match=r"deadline|in time"):
            await unpod.with_options(deadline=0.3).tasks.reconcile(error)


async def test_an_outage_during_the_search_is_raised() -> None:
    async with serving() as (sandbox, unpod):
        error = await lose(sandbox, unpod, LOST_AND_QUEUED)
        sandbox.script(Fault(status=206, body=b'{"errors": "down"}', path="/runs/", times=99))
        with pytest.raises(UpstreamError):
            await unpod.tasks.reconcile(error)


OTHER = CreateRequest(
    pilot="agent",
    documents=[{"name": f"N{n}", "contact_number": f"+49000001{n}"} for n in range(3)],
    context="Call.",
)
SENDING = [
    LOST,
    LOST_AND_QUEUED,
    Fault(method="POST", reset_at=0),
    Fault(method="POST", reset_at=0, status=599),
    Fault(method="POST", status=429, body=b"{}"),
    Fault(method="POST", status=400),
    Fault(method="POST"),
]
READING = [
    Fault(method="GET", status=503),
    Fault(method="GET", status=206, body=b'{"errors": "down"}'),
    Fault(method="GET", reset_at=60),
    Fault(method="GET", body=b'{"count": 7, "status_code": 200, "data": []}'),
]


async def test_resending_calls_nobody_twice_whatever_could_not_be_read(tmp_path: Path) -> None:
    """Rows that break after their calls were queued, failing listings, and clocks that differ."""
    rng = random.Random(5)
    seen: Counter[str] = Counter()
    for job in range(20):
        async with serving(timedelta(seconds=rng.choice([0, -90, 90, -9000, 9000, 90_000]))) as (
            sandbox,
            unpod,
        ):
            for _ in range(12):
                sandbox.script(rng.choice(SENDING), *rng.sample(READING, rng.randrange(2)))
                if sandbox.ledger and rng.random() < 0.3:
                    sandbox.poison(rng.choice(sandbox.ledger).task_id)
                if sandbox.ledger and rng.random() < 0.2:
                    sandbox.malform(rng.choice(sandbox.ledger).task_id, b'{"task_id": "T1", "status": 7}')
                try:
                    results = await unpod.tasks.create_many(
                        sandbox.space_token,
                        [REQUEST, OTHER],
                        journal=tmp_path / str(job),
                        resend_unknown=rng.random() < 0.7,
                    )
                except UnpodError as error:
                    seen[type(error).__name__] += 1
                    continue
                seen.update(result.state for result in results)
            numbers = Counter(call.document["contact_number"] for call in sandbox.ledger)
            assert max(numbers.values(), default=0) <= 1
    for state in ("created", "unclear", "not_found", "OutcomeUnknown", "ServerError", "InvalidRequestError"):
        assert seen[state], state


# --- clocks ------------------------------------------------------------------------------------------------

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


@pytest.mark.parametrize("ahead", [-26 * HOUR, -90 * SECOND, timedelta(), 90 * SECOND, 26 * HOUR])
async def test_calls_are_found_whatever_the_servers_clock_says(ahead: timedelta) -> None:
    async with serving(ahead) as (sandbox, unpod):
        error = await lose(sandbox, unpod, LOST_AND_QUEUED)
        assert (await unpod.tasks.reconcile(error)).state == "created"


class Service:
    """A service with some runs, whose clock differs from ours. It loses the response of every create.

    Args:
        ahead: the time by which its clock is ahead.
        has_date: its responses have a `Date` header.
        ages: the ages of its runs, newest first.
        places: it places the calls of a create.
        answers: it responds to a create with 502; otherwise, the connection is reset.
    """

    def __init__(
        self,
        *,
        ahead: timedelta = timedelta(),
        has_date: bool = True,
        ages: Sequence[timedelta] = (),
        places: bool = False,
        answers: bool = False,
    ) -> None:
        self.ahead, self.has_date, self.places, self.answers = ahead, has_date, places, answers
        self.runs: list[tuple[str | None, list[str]]] = [(self._time(-age), []) for age in ages]
        self.posts = self.searched = 0
        self.after_page: Callable[[int], None] = lambda page: None
        self.counts_last = False  # the count of a page is taken after its rows and after `after_page`

    def _time(self, after: timedelta = timedelta()) -> str:
        return f"{datetime.now(UTC) + self.ahead + after:%Y-%m-%dT%H:%M:%S}"

    def pass_time(self, passed: timedelta) -> None:
        """Let time pass for the server only. `earlier` does the same for what this machine remembers."""
        self.ahead += passed

    async def __call__(self, connection: RawConnection) -> None:
        while request := await connection.read_request():
            head = request.split(b"\r\n")[0]
            date = format_datetime(datetime.now(UTC) + self.ahead, usegmt=True)
            headers = [("Date", date)] if self.has_date else []
            if request.startswith(b"POST"):
                self.posts += 1
                documents = json.loads(request.split(b"\r\n\r\n", 1)[1])["documents"]
                if self.places:
                    ids = [one.get("id") or one["document_id"] for one in documents]
                    self.runs.insert(0, (self._time(), ids))
                if self.answers:
                    await connection.send(json_response(b"{}", status=502, headers=headers))
                else:
                    connection.reset()
                return
            if b"/tasks/" in head:
                self.searched += 1
                number = int(head.split(b"/runs/R")[1].split(b"/")[0])
                ids = self.runs[-number][1] if number <= len(self.runs) else []
                rows = [{"task_id": f"T-{one}", "run_id": f"R{number}", "ref_id": one} for one in ids]
            else:
                numbers = range(len(self.runs), 0, -1)
                rows = [{"run_id": f"R{n}", "created": self.runs[-n][0]} for n in numbers]
            page, size = (
                int(head.split(b"page" + name)[1].split()[0].split(b"&")[0]) for name in (b"=", b"_size=")
            )
            count, is_of_runs = len(rows), b"/tasks/" not in head
            if is_of_runs and self.counts_last:
                self.after_page(page)
                count = len(self.runs)
            body = {"count": count, "status_code": 200, "data": rows[(page - 1) * size : page * size]}
            await connection.send(json_response(body, headers=headers))
            if is_of_runs and not self.counts_last:
                self.after_page(page)

    @asynccontextmanager
    async def serving(self, page_size: int = 100) -> AsyncIterator[UnpodClient]:
        async with (
            RawServer(self) as server,
            UnpodClient("t", "o", server.base_url, retry=None, page_size=page_size) as unpod,
        ):
            yield unpod


async def lost(unpod: UnpodClient) -> OutcomeUnknown:
    with pytest.raises(OutcomeUnknown) as caught:
        await unpod.tasks.create("S", pilot="agent", documents=[ANN, BEN], context="Call.")
    return caught.value


def earlier(
    error: OutcomeUnknown,
    passed: timedelta,
    set_forward: timedelta = timedelta(),
    *,
    same_boot: bool = True,
) -> OutcomeUnknown:
    """Return the error as if it were older, and this machine's wall clock had been set forward since."""
    sent = error.clocks
    assert isinstance(sent, SentAt)
    assert sent.uptime is not None
    wall = sent.wall - passed - set_forward
    clocks = sent._replace(wall=wall, uptime=sent.uptime - passed.total_seconds())
    if not same_boot:  # whose clock seems to show that no time has passed
        clocks = clocks._replace(uptime=sent.uptime, boot="another")
    return OutcomeUnknown(
        "lost",
        space_token=error.space_token,
        document_ids=error.document_ids,
        started_at=wall,
        clocks=clocks,
    )


@each_row(
    ("ahead", "has_date", "age", "state"),
    [
        # The run is as old as the create, with up to two minutes between the two clocks of the server.
        *((ahead, True, 90 * SECOND, "created") for ahead in (-3 * HOUR, timedelta(), 3 * HOUR)),
        # An older run has the same ids: those of an earlier create.
        *((ahead, True, 3 * MINUTE, "not_found") for ahead in (-3 * HOUR, timedelta(), 3 * HOUR)),
        (-90 * SECOND, False, timedelta(), "created"),
        (timedelta(), False, 90 * SECOND, "created"),
        # Without a Date header, the older run may be that of the create.
        (timedelta(), False, 3 * MINUTE, "unclear"),
        (-3 * HOUR, False, timedelta(), "unclear"),
    ],
)
async def test_two_minutes_by_the_servers_clock(
    ahead: timedelta, has_date: bool, age: timedelta, state: str
) -> None:
    service = Service(ahead=ahead, has_date=has_date, ages=[age, 9_000 * HOUR])
    service.runs[0][1].extend(["doc-1", "doc-2"])
    async with service.serving() as unpod:
        assert (await unpod.tasks.reconcile(await lost(unpod))).state == state
    assert service.searched == (0 if state == "not_found" else 1)


async def test_a_run_without_a_time_is_searched() -> None:
    service = Service()
    service.runs = [(None, ["doc-1", "doc-2"])]
    async with service.serving() as unpod:
        assert (await unpod.tasks.reconcile(await lost(unpod))).state == "created"


@each_row(
    ("sent_ago", "ages", "has_date", "state"),
    [
        (timedelta(), [HOUR], True, "unclear"),
        (timedelta(), [HOUR], False, "unclear"),
        (timedelta(), [], False, "not_found"),
        (timedelta(), [MINUTE], True, "not_found"),
        (-HOUR, [HOUR], True, "unclear"),
    ],
)
async def test_an_error_without_its_clocks_is_unclear_if_there_are_older_runs(
    sent_ago: timedelta, ages: list[timedelta], has_date: bool, state: str
) -> None:
    """It may come from a machine with another clock."""
    async with Service(has_date=has_date, ages=ages).serving() as unpod:
        error = OutcomeUnknown(
            "lost", space_token="S", document_ids=["doc-1"], started_at=datetime.now(UTC) - sent_ago
        )
        assert (await unpod.tasks.reconcile(error)).state == state


async def test_a_run_that_seems_to_be_created_in_the_future_proves_nothing() -> None:
    service = Service(ahead=-3 * HOUR, has_date=False, places=True)
    async with service.serving() as unpod:
        error = await lost(unpod)
        service.runs.insert(0, ("2099-01-01", []))
        assert (await unpod.tasks.reconcile(error)).state == "unclear"


@each_row(("places", "set_forward"), [(True, HOUR), (False, 3 * HOUR)])
async def test_if_the_clocks_of_this_machine_disagree_the_longer_time_counts(
    places: bool, set_forward: timedelta
) -> None:
    """Either the machine was paused, or its wall clock was set: a run from between may be the create's."""
    service = Service(ages=[] if places else [HOUR], places=places)
    async with service.serving() as unpod:
        error = earlier(await lost(unpod), timedelta(), set_forward)
        if places:  # the machine was paused
            service.pass_time(set_forward)
        else:
            service.runs[0][1].extend(["doc-1", "doc-2"])
        assert (await unpod.tasks.reconcile(error)).state == "unclear"


@each_row(("same_boot", "state"), [(True, "created"), (False, "unclear")])
async def test_a_wall_clock_that_was_set_back_hides_no_call(same_boot: bool, state: str) -> None:
    """After a restart, or on another machine, nothing else shows how much time has passed."""
    service = Service(places=True)
    async with service.serving() as unpod:
        error = earlier(await lost(unpod), HOUR, -HOUR, same_boot=same_boot)
        service.pass_time(HOUR)
        assert (await unpod.tasks.reconcile(error)).state == state


TIMES = st.sampled_from([0, 1, 60, 119, 121, 600, 3 * 3600, 90_000]).map(lambda n: timedelta(seconds=n))
CHANGES = st.tuples(TIMES, st.sampled_from([1, -1])).map(lambda pair: pair[0] * pair[1])
AGES = st.lists(TIMES.map(lambda age: age + 150 * SECOND), max_size=4).map(sorted)


@settings(max_examples=100)
@given(
    ahead=CHANGES,
    passed=TIMES,
    set_forward=CHANGES,
    ages=AGES,
    flags=st.tuples(*[st.booleans()] * 4),
)
async def test_what_was_placed_is_never_not_found(
    ahead: timedelta,
    passed: timedelta,
    set_forward: timedelta,
    ages: list[timedelta],
    flags: tuple[bool, bool, bool, bool],
) -> None:
    """Whatever the clocks say and however they are set between the create and the search."""
    has_date, places, answers, same_boot = flags
    service = Service(ahead=ahead, has_date=has_date, ages=ages, places=places, answers=answers)
    async with service.serving() as unpod:
        error = await lost(unpod)
        error = earlier(error, passed, set_forward, same_boot=same_boot)
        service.pass_time(passed)
        state = (await unpod.tasks.reconcile(error)).state
        server_is_known = has_date and (answers or same_boot)
        if places:
            assert state in ({"created"} if server_is_known else {"created", "unclear"})
            return
        assert state in ({"not_found"} if server_is_known or same_boot else {"not_found", "unclear"})
        if server_is_known and (answers or set_forward <= timedelta()):
            # The runs from before the create are not searched.
            assert service.searched == 0


@settings(max_examples=60)
@given(
    ahead=CHANGES,
    passed=TIMES,
    set_forward=CHANGES,
    ages=AGES,
    flags=st.tuples(*[st.booleans()] * 4),
)
async def test_a_job_never_places_a_call_twice_whatever_the_clocks_say(
    tmp_path_factory: pytest.TempPathFactory,
    ahead: timedelta,
    passed: timedelta,
    set_forward: timedelta,
    ages: list[timedelta],
    flags: tuple[bool, bool, bool, bool],
) -> None:
    has_date, places, answers, same_boot = flags
    journal = tmp_path_factory.mktemp("job") / "j"
    service = Service(ahead=ahead, has_date=has_date, ages=ages, places=places, answers=answers)
    async with service.serving() as unpod:
        with pytest.raises(OutcomeUnknown):
            await unpod.tasks.create_many("S", [REQUEST], journal=journal)
        entry = json.loads(journal.read_bytes().splitlines()[-1])
        changes = {"at": entry["at"] - (passed + set_forward).total_seconds()}
        changes["uptime"] = entry["uptime"] - passed.total_seconds() * same_boot
        if "clock_offset" in entry:
            # The server's time at the create is a fact, whatever this machine's clock said.
            assert has_date
            assert answers
            changes["clock_offset"] = entry["clock_offset"] + set_forward.total_seconds()
        if not same_boot:
            changes["boot"] = "another"
        journal.write_text(json.dumps(entry | changes) + "\n")
        service.pass_time(passed)
        service.places = True
        for _ in range(2):
            try:
                (result,) = await unpod.tasks.create_many(
                    "S", [REQUEST], journal=journal, resend_unknown=True
                )
            except OutcomeUnknown:
                continue
            assert result.state in ("created", "unclear")
    placed = Counter(one for _, ids in service.runs for one in ids)
    assert set(placed.values()) <= {1}
    if places:
        assert service.posts == 1
    elif same_boot or (has_date and answers):
        assert service.posts == 2
        assert set(placed) == {"doc-1", "doc-2"}


@pytest.mark.parametrize("page_size", [1, 2, 3])
@pytest.mark.parametrize("deleted", [1, 2])
@pytest.mark.parametrize("counts_last", [False, True])
async def test_a_run_that_moves_to_an_earlier_page_is_found(
    page_size: int, deleted: int, counts_last: bool
) -> None:
    """Newer runs are deleted while the listing is read."""
    service = Service(ages=[HOUR + n * MINUTE for n in range(9)], places=True)
    service.counts_last = counts_last

    def delete(page: int) -> None:
        if page == 1:
            service.after_page = lambda page: None
            del service.runs[:deleted]

    async with service.serving(page_size) as unpod:
        error = await lost(unpod)
        service.runs[:0] = [(service.runs[0][0], [])] * max(page_size, deleted)
        service.after_page = delete
        found = await unpod.tasks.reconcile(error)
        assert found.state == "created"


async def test_calls_of_the_first_attempt_are_found_after_a_second_one(tmp_path: Path) -> None:
    """The service stored them late, with the time of the first attempt."""
    journal = tmp_path / "j"
    service = Service()
    async with service.serving() as unpod:
        with pytest.raises(OutcomeUnknown):
            await unpod.tasks.create_many("S", [REQUEST], journal=journal)
        entry = json.loads(journal.read_bytes().splitlines()[-1])
        entry |= {"at": entry["at"] - 3600, "uptime": entry["uptime"] - 3600}
        journal.write_text(json.dumps(entry) + "\n")
        with pytest.raises(OutcomeUnknown):
            await unpod.tasks.create_many("S", [REQUEST], journal=journal, resend_unknown=True)
        assert service.posts == 2
        service.runs = [(f"{datetime.now(UTC) - HOUR:%Y-%m-%dT%H:%M:%S}", ["doc-1", "doc-2"])]
        (result,) = await unpod.tasks.create_many("S", [REQUEST], journal=journal, resend_unknown=True)
        assert (result.state, service.posts) == ("created", 2)


def test_the_time_since_a_create_is_known_within_one_boot() -> None:
    wall = datetime(2026, 1, 1, tzinfo=UTC)
    now = Instant(wall, 10.0**10, "boot")
    assert SentAt(wall, 10.0**10 - 60, "boot").elapsed(now) == MINUTE
    assert SentAt(wall, 1.0, "boot").elapsed(now) == (10.0**10 - 1) * SECOND
    assert SentAt(wall, 10.0**10 - 60, "another").elapsed(now) is None
    assert SentAt(wall, None, "boot").elapsed(now) is None
    assert SentAt(wall, 10.0**10 + 1, "boot").elapsed(now) is None
    assert SentAt(wall, 0.0, "boot").elapsed(now) is None  # longer than any machine runs


def test_the_servers_clock_survives_changes_of_ours() -> None:
    """The estimate is a lower bound, and as good as the better one of this machine's two clocks."""
    noted = Instant(datetime(2026, 1, 1, tzinfo=UTC), 1_000.0, "boot")
    clock = ServerClock()
    assert clock.at(noted) is None
    clock.update("Thu, 01 Jan 2026 03:00:00 GMT", noted)
    three = datetime(2026, 1, 1, 3, tzinfo=UTC)
    for wall, uptime, expected in (
        (60, 60, 60),
        (3_600, 60, 60),  # the wall clock was set forward
        (-3_600, 60, 0),  # or back
        (60, 0, 0),  # the machine slept
        (-60, -60, -60),  # a moment before the response
        (-60, -3_660, -3_660),
        (-3_660, -60, -3_660),
        (3_600, -60, -60),
    ):
        moment = Instant(noted.wall + wall * SECOND, 1_000.0 + uptime, "boot")
        assert clock.at(moment) == three + expected * SECOND, (wall, uptime)
    for year in (1, 9_999):
        clock.update(f"Mon, 01 Jan {year:04} 00:00:00 GMT", noted)
        for sign in (1, -1):
            at = clock.at(Instant(noted.wall + sign * 9_000 * HOUR, sign * 10.0**9, "boot"))
            assert at is not None
            assert at.tzinfo == UTC


async def test_a_job_records_the_servers_clock_with_what_it_sends(tmp_path: Path) -> None:
    """The clock of the machine changes between two runs of a job: the calls are found all the same."""
    first = CreateRequest(pilot="agent", documents=[ANN | {"id": "doc-0"}], context="Call.")
    journal = tmp_path / "j"
    ahead = [3 * HOUR]
    async with (
        Sandbox(runs=2, tasks_per_run=2, now=lambda: datetime.now(UTC) + ahead[0]) as sandbox,
        UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url, retry=None) as unpod,
    ):
        sandbox.script(Fault(method="POST"), Fault(method="POST", reset_at=0))
        with pytest.raises(OutcomeUnknown):
            await unpod.tasks.create_many(sandbox.space_token, [first, REQUEST], journal=journal)
        entries = [json.loads(line) for line in journal.read_bytes().splitlines()]
        assert "clock_offset" not in entries[0]
        # The clock was known when the second request was recorded, so it is not recorded again.
        assert [entry["state"] for entry in entries] == ["sending", "created", "sending"]
        assert abs(entries[-1]["clock_offset"] - 3 * 3600) < 30
        # This machine was three hours and is now a day behind: the offset of now would find nothing.
        ahead[0] = 24 * HOUR
        _, found = await unpod.tasks.create_many(sandbox.space_token, [first, REQUEST], journal=journal)
        assert found.state == "created"
        assert posts(sandbox) == 2


@pytest.mark.parametrize("damage", [{"at": 1e300}, {"at": -1e17}, {"clock_offset": 1e300}])
async def test_an_impossible_time_in_a_journal_is_an_error_of_ours(
    damage: dict[str, float], tmp_path: Path
) -> None:
    journal = tmp_path / "j"
    async with serving() as (sandbox, unpod):
        sandbox.script(LOST)
        with pytest.raises(OutcomeUnknown):
            await unpod.tasks.create_many(sandbox.space_token, [REQUEST], journal=journal)
        entry = json.loads(journal.read_bytes().splitlines()[-1]) | damage
        journal.write_text(json.dumps(entry) + "\n")
        with pytest.raises(ConfigurationError, match="journal is damaged"):
            await unpod.tasks.create_many(
                sandbox.space_token, [REQUEST], journal=journal, resend_unknown=True
            )
        assert posts(sandbox) == 1
