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

from tests.raw_server import RawConnection, RawServer, json_response
from tests.tables import each_row
from unpod_async import CreateRequest, OutcomeUnknown, UnpodClient, UnpodError, UpstreamError
from unpod_async.errors import ConfigurationError, TransportError
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from unpod_async import Reconciliation

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


UNREADABLE = [
    task_that_cannot_be_sent,
    task_that_is_rejected,
    task_of_another_run,
    task_without_an_id,
    run_that_cannot_be_sent,
    count_that_is_too_high,
    run_without_an_id,
    run_with_an_id_that_cannot_be_requested,
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


async def test_what_was_found_is_reported_though_other_rows_cannot_be_read() -> None:
    async with serving() as (sandbox, unpod):
        error = await lose(sandbox, unpod, LOST_AND_QUEUED)
        first, second = sandbox.ledger
        sandbox.poison(second.task_id)
        found = await unpod.tasks.reconcile(error)
        assert (found.state, found.run_id) == ("unclear", first.run_id)
        assert (found.task_ids, found.missing) == ({"doc-1": first.task_id}, ("doc-2",))


@each_row("break_a_row", UNREADABLE)
async def test_all_found_is_created_whatever_else_cannot_be_read(break_a_row: Any) -> None:
    async with serving() as (sandbox, unpod):
        run = await run_of_somebody_else(sandbox, unpod)
        error = await lose(sandbox, unpod, LOST_AND_QUEUED)
        if break_a_row is task_without_an_id:
            return  # that one is a second task of the same document
        break_a_row(sandbox, run)
        found = await unpod.tasks.reconcile(error)
        assert (found.state, found.missing) == ("created", ())


async def test_an_unreadable_run_that_is_older_does_not_matter() -> None:
    async with serving() as (sandbox, unpod):
        sandbox.poison(sandbox.run_ids()[1])
        error = await lose(sandbox, unpod)
        assert (await unpod.tasks.reconcile(error)).state == "not_found"


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
    """A service with one run, created `run_age` ago by the server's clock. The clock may show no `Date`."""

    def __init__(self, run_age: timedelta, *, ahead: timedelta = timedelta(), has_date: bool = True) -> None:
        self.now = datetime.now(UTC) + ahead
        self.created: str | None = (self.now - run_age).isoformat()
        self.has_date = has_date
        self.looked_into = 0
        self.posts = 0

    async def __call__(self, connection: RawConnection) -> None:
        while request := await connection.read_request():
            headers = [("Date", format_datetime(self.now, usegmt=True))] if self.has_date else []
            rows: list[dict[str, Any]] = []
            if request.startswith(b"POST"):
                self.posts += 1
                connection.reset()
                return
            if b"/tasks/" in request.split(b"\r\n")[0]:
                self.looked_into += 1
                rows = [{"task_id": f"T{n}", "run_id": "R1", "ref_id": f"doc-{n}"} for n in (1, 2)]
            else:
                rows = [{"run_id": "R1", "created": self.created}, {"run_id": "R0", "created": "2020-01-01"}]
            body = {"count": len(rows), "status_code": 200, "data": rows}
            await connection.send(json_response(body, headers=headers))

    async def search(self, sent_ago: timedelta = timedelta()) -> Reconciliation:
        """Search for a create that was sent some time ago by this machine's clock."""
        async with RawServer(self) as server, UnpodClient("t", "o", server.base_url, retry=None) as unpod:
            lost = OutcomeUnknown(
                "lost",
                space_token="S",
                document_ids=("doc-1", "doc-2"),
                started_at=datetime.now(UTC) - sent_ago,
            )
            return await unpod.tasks.reconcile(lost)


@each_row(
    ("ahead", "has_date", "run_age", "state"),
    [
        # The run is as old as the create, with up to two minutes between the two clocks of the server.
        *((ahead, True, 90 * SECOND, "created") for ahead in (-3 * HOUR, timedelta(), 3 * HOUR)),
        # An older run has the same ids: those of an earlier create.
        *((ahead, True, 3 * MINUTE, "not_found") for ahead in (-3 * HOUR, timedelta(), 3 * HOUR)),
        # Without a Date header, this machine's clock counts: the best there is.
        (-90 * SECOND, False, timedelta(), "created"),
        (timedelta(), False, 90 * SECOND, "created"),
        (timedelta(), False, 3 * MINUTE, "not_found"),
    ],
)
async def test_two_minutes_by_the_servers_clock(
    ahead: timedelta, has_date: bool, run_age: timedelta, state: str
) -> None:
    service = Service(run_age, ahead=ahead, has_date=has_date)
    assert (await service.search()).state == state
    assert service.looked_into == (1 if state == "created" else 0)


async def test_a_run_without_a_time_is_searched() -> None:
    service = Service(timedelta())
    service.created = None
    assert (await service.search()).state == "created"


async def test_a_clock_that_was_set_back_since_makes_it_unclear() -> None:
    assert (await Service(HOUR).search(sent_ago=-HOUR)).state == "unclear"
    assert (await Service(MINUTE).search(sent_ago=-HOUR)).state == "created"


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
        assert entries[-1]["state"] == "sending"
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
        entry = json.loads(journal.read_bytes()) | damage
        journal.write_text(json.dumps(entry) + "\n")
        with pytest.raises(ConfigurationError, match="journal is damaged"):
            await unpod.tasks.create_many(
                sandbox.space_token, [REQUEST], journal=journal, resend_unknown=True
            )
        assert posts(sandbox) == 1
