"""What an export waits for, what it reports, and what it leaves behind when it is stopped."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.cancel import cancel_everywhere
from tests.export.dataset import assert_holds, assert_manifest, found_rows, spelled_rows
from tests.export.model_space import SPACE, model_space, run_id
from tests.leaks import SANDBOX_SECRETS
from unpod_async import (
    AuthenticationError,
    ExportError,
    ExportProgress,
    InvalidArgument,
    RateLimitedError,
    RefusedError,
    RetryPolicy,
    TransportError,
    UnpodClient,
    UnpodError,
)
from unpod_async.testing import Fault, Oddities, Sandbox, faults

FAST = RetryPolicy(attempts=2, base=0.001, cap=0.002)


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": FAST, **options})


def without_the_space_wide_listing(sandbox: Sandbox) -> None:
    sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=10_000))


async def fails(unpod: UnpodClient, sandbox: Sandbox, run_id: str) -> bool:
    try:
        await unpod.with_options(retry=None).runs.tasks(sandbox.space_token, run_id).collect()
    except UnpodError:
        return True
    return False


def of_run(run_id: str) -> str:
    return f"/{run_id}/tasks/"


# -- outages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [4, None])
@pytest.mark.parametrize("down", ["reset", "408", "503", "206"])
async def test_an_outage_is_waited_out(tmp_path: Path, page_size: int | None, down: str) -> None:
    make = {
        "reset": faults.reset_before_status,
        "408": lambda **which: Fault(status=408, **which),
        "503": lambda **which: faults.server_error(503, **which),
        "206": faults.upstream_error,
    }[down]
    async with Sandbox(runs=12, tasks_per_run=(1, 4)) as sandbox, client(sandbox) as unpod:
        sandbox.script(make(page=1, path="/tasks/", times=6), make(times=4))
        summary = await unpod.export(sandbox.space_token, tmp_path, page_size=page_size)
        assert (summary.complete, summary.failed_runs) == (True, 0)
        assert_holds(tmp_path, sandbox)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of the client, with the durations that vary replaced by N."""
    found = [one for one in caplog.records if one.name == "unpod_async" and one.levelno >= logging.WARNING]
    return [re.sub(r"after \d+ s", "after N s", one.getMessage()) for one in found]


@pytest.mark.parametrize(("deadline", "longest"), [(None, "60 min"), (600, "10 min")])
async def test_an_outage_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, deadline: float | None, longest: str
) -> None:
    events: list[ExportProgress] = []
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox, deadline=deadline) as unpod:
        sandbox.script(faults.server_error(503, path="/runs/", times=4))
        summary = await unpod.export(sandbox.space_token, tmp_path, on_progress=events.append)
    assert summary.complete
    text = f"the service answers 503; retrying for up to {longest}"
    assert warnings_of(caplog) == [text, "the service responds again after N s"]
    assert {event.outage for event in events} == {None, text}
    assert all((event.waiting > 0) == (event.outage is not None) for event in events)
    assert any(str(event).endswith(f"; {text}") for event in events)


async def test_an_outage_without_a_connection_names_the_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, refusing_port: int
) -> None:
    async with Sandbox(runs=1) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path / "first")  # imports what exports need
    address = f"127.0.0.1:{refusing_port}"
    async with UnpodClient("t0ken", base_url=f"http://{address}", deadline=2, retry=FAST) as unpod:
        # The deadline may also end while an attempt waits for a busy machine.
        with pytest.raises(
            TransportError,
            match=rf"no connection to {address} \(refused\); nothing was sent|the deadline of 2 s ended",
        ):
            await unpod.export("SPACE", tmp_path / "set")
    (warning,) = warnings_of(caplog)
    assert re.fullmatch(rf"no connection to {address} \(refused\); retrying for up to [12] s", warning)


async def test_a_retry_after_beyond_the_retry_policy_is_waited_out(tmp_path: Path) -> None:
    policy = RetryPolicy(base=0.001, max_retry_after=0.5)
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox, retry=policy) as unpod:
        sandbox.script(faults.rate_limited(1, path="/tasks/"))
        began = time.monotonic()
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert summary.complete
        assert time.monotonic() - began >= 1
        sandbox.script(faults.rate_limited(1))
        with pytest.raises(RateLimitedError):  # other calls do not wait that long
            await unpod.runs.list(sandbox.space_token).first()


async def test_a_429_that_names_no_delay_is_waited_out(tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        sandbox.script(Fault(status=429, path="/tasks/", times=3))
        assert (await unpod.export(sandbox.space_token, tmp_path)).complete
        assert_holds(tmp_path, sandbox)


async def test_outages_do_not_count_as_attempts_to_read_a_run(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        space.has_space_tasks = False
        for number in range(3):
            space.add_run(number, 2)
        failures, is_down = 0, False

        def before(request: web.Request) -> web.Response | None:
            nonlocal failures, is_down
            if request.path.endswith(of_run(run_id(1))) and failures < 6:
                failures += 1
                is_down = failures % 2 == 0  # the service goes down three times
            elif is_down and request.query["page_size"] == "1":  # to find out whether it is back
                is_down = False
            else:
                return None
            return web.json_response({"message": "No"}, status=503)

        space.before = before
        summary = await unpod.export(SPACE, tmp_path)
        assert failures == 6
        assert (summary.complete, summary.failed_runs) == (True, 0)


async def test_the_service_responds_if_only_its_newest_run_and_pages_past_the_end_fail(
    tmp_path: Path,
) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        without_the_space_wide_listing(sandbox)
        sandbox.page_oddly(Oddities(past_end="404"))
        newest, busy = sandbox.run_ids()[:2]
        sandbox.poison(newest)
        sandbox.script(faults.server_error(503, path=of_run(busy), times=2))
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert (summary.failed_runs, summary.bad_rows) == (0, 1)
        assert summary.fetched_runs >= 4


@pytest.mark.parametrize(("failures", "failed"), [(4, 0), (6, 1)])
async def test_a_run_that_fails_while_others_can_be_read_has_three_rounds_of_attempts(
    tmp_path: Path, failures: int, failed: int
) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        without_the_space_wide_listing(sandbox)
        sandbox.script(faults.server_error(503, path=of_run(sandbox.run_ids()[1]), times=failures))
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert summary.failed_runs == failed


async def test_only_the_retries_of_the_export_are_counted(tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.server_error(503))
        await unpod.runs.list(sandbox.space_token).first()
        sandbox.script(faults.server_error(503))
        events: list[ExportProgress] = []
        summary = await unpod.export(sandbox.space_token, tmp_path, on_progress=events.append)
        assert summary.retries == events[-1].retries == 1


async def test_an_empty_retry_budget_fails_no_run(tmp_path: Path) -> None:
    policy = RetryPolicy(attempts=2, base=0.001, budget=0)
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox, retry=policy) as unpod:
        without_the_space_wide_listing(sandbox)
        sandbox.script(*(faults.reset_before_status(path=of_run(run)) for run in sandbox.run_ids()[::2]))
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert (summary.complete, summary.failed_runs) == (True, 0)


async def test_the_deadline_limits_the_waiting(tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.reset_before_status(path="/tasks/", times=10_000))
        began = time.monotonic()
        with pytest.raises(UnpodError):
            await unpod.with_options(deadline=1).export(sandbox.space_token, tmp_path / "set")
        assert time.monotonic() - began < 30
        assert not (tmp_path / "set" / "_manifest.json").exists()


async def test_a_deadline_may_end_while_the_target_is_opened(tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path / "first")  # imports what exports need
        with pytest.raises(TransportError, match="while the target was being opened"):
            await unpod.with_options(deadline=1e-6).export(sandbox.space_token, tmp_path / "set")


async def test_a_token_that_is_refused_during_an_outage_ends_the_export(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        space.has_space_tasks = False
        space.add_run(1, 2)
        is_refused = False

        def before(request: web.Request) -> web.Response | None:
            nonlocal is_refused
            if request.path.endswith(of_run(run_id(1))) and space.requests(of_run(run_id(1))) <= 2:
                return web.json_response({"message": "No"}, status=503)
            if request.query["page_size"] == "1" and not is_refused:  # to find out whether it responds
                is_refused = True
                return web.json_response({"message": "No"}, status=401)
            return None

        space.before = before
        with pytest.raises(AuthenticationError):
            await unpod.export(SPACE, tmp_path)
        assert is_refused


async def test_a_client_without_retries_waits_for_nothing(tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox, retry=None) as unpod:
        sandbox.script(faults.server_error(503))
        with pytest.raises(UnpodError):
            await unpod.export(sandbox.space_token, tmp_path)


# -- permanent failures ------------------------------------------------------------------------------------


async def test_a_failed_run_does_not_stop_the_others_and_is_read_again(tmp_path: Path) -> None:
    async with Sandbox(runs=30, tasks_per_run=(1, 3)) as sandbox, client(sandbox) as unpod:
        bad = sandbox.run_ids()[7]
        without_the_space_wide_listing(sandbox)
        sandbox.script(faults.server_error(500, path=of_run(bad), times=200))
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert (summary.complete, summary.failed_runs, summary.runs) == (False, 1, 30)
        assert (summary.failed[0].run_id, summary.fetched_runs) == (bad, 29)
        assert "500" in summary.failed[0].reason
        manifest = assert_manifest(tmp_path)
        assert manifest["complete"] is False
        assert manifest["failed_runs"]["examples"][0]["run_id"] == bad
        while await fails(unpod, sandbox, bad):  # until the scripted faults are used up
            pass
        before = sandbox.requests
        summary = await unpod.export(sandbox.space_token, tmp_path)
        requested = [received.path for received in sandbox.log[before:] if "/runs/R" in received.path]
        assert (summary.complete, summary.fetched_runs) == (True, len(requested))
        assert sum(of_run(bad) in path for path in requested) == 1
        assert_holds(tmp_path, sandbox)
        again = await unpod.export(sandbox.space_token, tmp_path)
        assert again.fetched_runs == summary.fetched_runs - 1  # those that have not settled


async def test_a_refused_token_stops_the_export_which_can_resume(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        without_the_space_wide_listing(sandbox)
        sandbox.script(faults.token_revoked(path=of_run(sandbox.run_ids()[5]), times=1))
        with pytest.raises(AuthenticationError):
            await unpod.export(sandbox.space_token, tmp_path / "set")
        assert (await unpod.export(sandbox.space_token, tmp_path / "set")).complete
        with pytest.raises(RefusedError):
            await unpod.export("SPACEUNKNOWN", tmp_path / "other")


async def test_a_bad_row_does_not_affect_others(tmp_path: Path) -> None:
    async with Sandbox(runs=6, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        gone, text, odd = (sandbox.task_ids(run)[1] for run in sandbox.run_ids()[:3])
        sandbox.poison(gone)
        sandbox.malform(text, b'"no object"')
        sandbox.malform(odd, b'{"task_id": 5, "input": []}')
        summary = await unpod.export(sandbox.space_token, tmp_path, page_size=50)
        assert (summary.complete, summary.bad_rows, summary.tasks) == (False, 2, 22)
        assert {bad.run_id for bad in summary.bad} == set(sandbox.run_ids()[:2])
        assert json.dumps({"input": [], "task_id": 5}) in found_rows(tmp_path, "jsonl", "tasks")


@pytest.mark.parametrize("levels", [500, 501, 950, 5_000])
async def test_a_row_of_more_than_500_levels_is_left_out_alone(tmp_path: Path, levels: int) -> None:
    async with Sandbox(runs=4, tasks_per_run=3) as sandbox, client(sandbox) as unpod:
        run = sandbox.run_ids()[-1]
        task = sandbox.task_ids(run)[1]
        around = f'{{"task_id":"{task}","run_id":"{run}","status":"completed","new":%s}}'
        # Members after the nested value, so that no brackets close one after the other.
        row = around % ('{"a":' * (levels - 1) + "1" + ',"b":2}' * (levels - 1))
        sandbox.malform(task, row.encode())
        summary = await unpod.export(sandbox.space_token, tmp_path, page_size=50)
        requests = sandbox.requests
        is_fine = levels == 500
        assert (summary.complete, summary.bad_rows, summary.tasks) == (is_fine, not is_fine, 11 + is_fine)
        if is_fine:
            assert row in (tmp_path / "tasks" / "part-00001.jsonl").read_text().splitlines()
        else:
            assert [(bad.run_id, bad.reason) for bad in summary.bad] == [
                (run, "the row is nested too deeply")
            ]
        # The pages arrive whole: it takes no more requests than without such a row.
        sandbox.malform(task, (around % "1").encode())
        assert (await unpod.export(sandbox.space_token, tmp_path / "x", page_size=50)).complete
        assert sandbox.requests == 2 * requests


# -- what is written ----------------------------------------------------------------------------------------


async def test_files_are_private_and_contain_no_user_tokens_by_default(tmp_path: Path) -> None:
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path / "set")
        for path in (tmp_path / "set").rglob("*"):
            if path.is_file():
                assert not SANDBOX_SECRETS.search(path.read_bytes().decode("latin-1")), path.name
                assert path.stat().st_mode & 0o077 == 0, path.name
        await unpod.export(sandbox.space_token, tmp_path / "kept", keep_user_tokens=True)
        assert any(SANDBOX_SECRETS.search(row) for row in found_rows(tmp_path / "kept", "jsonl", "tasks"))


async def test_redacted_rows_contain_no_contact_data(tmp_path: Path) -> None:
    async with Sandbox(runs=4, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        people = [row["input"] for row in sandbox.task_rows()]
        for mode in ("drop", "hash"):
            await unpod.export(sandbox.space_token, tmp_path / mode, redact=mode)  # type: ignore[arg-type]
            rows = found_rows(tmp_path / mode, "jsonl", "tasks")
            assert len(rows) == len(people)
            text = "\n".join(rows)
            assert not [one for one in people if one["name"] in text or one["contact_number"] in text]


async def test_jsonl_rows_have_the_bytes_of_the_server(tmp_path: Path) -> None:
    async with Sandbox(runs=1, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        row = b'{ "task_id":\n"T1",\r\n "new" : 1.50, "user_info": {"user_token": "secret"}, "created": "" }'
        sandbox.malform(sandbox.task_ids()[0], row)
        await unpod.export(sandbox.space_token, tmp_path)
        written = (tmp_path / "tasks" / "part-00001.jsonl").read_bytes().splitlines()
        assert row.replace(b"\r", b" ").replace(b"\n", b" ").replace(b'"secret"', b"null") in written


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl", "jsonl.gz"])
async def test_rows_longer_than_a_block_of_the_spool_are_exact(tmp_path: Path, form: Any) -> None:
    sizes = [700_000, 3, 1_500_000, 400_000, 10, 2_100_000, 900_000]
    async with model_space() as space, space.client() as unpod:
        for number in range(2):
            run = space.add_run(number, len(sizes))
            for task, size in zip(space.tasks[run], sizes, strict=True):
                task["last_failure_reason"] = "x" * size
        summary = await unpod.export(SPACE, tmp_path, format=form)
        assert summary.complete
        rows = [task for tasks in space.tasks.values() for task in tasks]
    assert found_rows(tmp_path, form, "tasks") == spelled_rows(rows, form, "tasks")


async def test_an_empty_space_makes_files_without_rows(tmp_path: Path) -> None:
    async with Sandbox(runs=0) as sandbox, client(sandbox) as unpod:
        for form in ("jsonl", "jsonl.gz", "csv", "parquet"):
            summary = await unpod.export(sandbox.space_token, tmp_path / form, format=form)  # type: ignore[arg-type]
            assert (summary.complete, summary.files, summary.tasks) == (True, 2, 0)
            assert_holds(tmp_path / form, sandbox, form)


# -- progress and cancellation ------------------------------------------------------------------------------


async def test_progress_is_reported_from_the_listing_to_the_end(tmp_path: Path) -> None:
    events: list[ExportProgress] = []
    async with Sandbox(runs=20, tasks_per_run=2, latency=0.05) as sandbox, client(sandbox) as unpod:
        summary = await unpod.export(sandbox.space_token, tmp_path, page_size=15, on_progress=events.append)
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases == ["listing", "fetching", "writing", "done"]
    last = events[-1]
    assert (last.runs_seen, last.runs_total, last.runs_done, last.rows) == (20, 20, 20, 40)
    assert (last.requests, last.remaining) == (summary.requests, 0)
    assert [event.rows for event in events] == sorted(event.rows for event in events)


async def test_a_cancelled_export_leaves_no_task_behind_and_resumes(tmp_path: Path) -> None:
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        number = 0

        async def export() -> None:
            nonlocal number
            number += 1
            await unpod.export(sandbox.space_token, tmp_path / f"set{number % 3}", page_size=3, concurrency=1)

        await cancel_everywhere(export)
        for left in range(3):
            assert (await unpod.export(sandbox.space_token, tmp_path / f"set{left}", page_size=3)).complete
            assert_holds(tmp_path / f"set{left}", sandbox)


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "xml"},
        {"runs": []},
        {"since": 5},
        {"settle_after": -1},
        {"concurrency": 0},
        {"page_size": 0},
        {"keep_user_tokens": "drop"},
        {"redact": "all"},
        {"redact_key": "12345678"},
        {"redact": "hash", "redact_key": "short"},
        {"part_bytes": 0},
        {"on_progress": 5},
        {"full": "yes"},
        {"csv_safe": 1},
    ],
)
async def test_invalid_arguments_are_refused_before_anything_is_created(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    async with UnpodClient("key") as unpod:
        with pytest.raises(InvalidArgument):
            await unpod.export("S", tmp_path / "set", **wrong)
        with pytest.raises(InvalidArgument):
            await unpod.export([], tmp_path / "set")
    assert not (tmp_path / "set").exists()


async def test_a_target_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with UnpodClient("key") as unpod:
        with pytest.raises(ExportError, match="not a directory"):
            await unpod.export("S", tmp_path / "file")
        with pytest.raises(ExportError, match="cannot be written: Not a directory") as caught:
            await unpod.export("S", tmp_path / "file" / "set")
    assert caught.value.hint == "fix the cause and run the same export again"  # there is nothing to resume


async def test_contacts_have_the_same_hash_in_targets_with_the_same_key(tmp_path: Path) -> None:
    found: dict[str, set[str]] = {}
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        for name, key in (("one", b"k" * 16), ("again", b"k" * 16), ("other", b"x" * 16)):
            await unpod.export(sandbox.space_token, tmp_path / name, redact="hash", redact_key=key)
            found[name] = {*found_rows(tmp_path / name, "jsonl", "tasks")}
    assert found["one"] == found["again"]
    assert found["one"].isdisjoint(found["other"])
