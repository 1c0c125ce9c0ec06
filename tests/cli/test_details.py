"""`run`, `task` and `recordings`: lookups by the start of an id, output and exit statuses."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import run_cli, settings
from tests.raw_server import RawServer, http_response
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from tests.raw_server import RawConnection


async def test_a_run_is_found_by_its_id_or_the_start_of_it() -> None:
    async with Sandbox(runs=30, tasks_per_run=4) as sandbox:
        run_id = sandbox.run_ids()[7]
        row = next(row for row in sandbox.run_rows() if row["run_id"] == run_id)
        tasks = list(sandbox.task_rows(run_id))
        found = [
            await run_cli(settings(sandbox), "run", sandbox.space_token, text)
            for text in (run_id, run_id[:9], f"{run_id[:9]}…")
        ]
        table = await run_cli(
            settings(sandbox, TZ="UTC"), "run", sandbox.space_token, run_id, "--table", "--utc"
        )
        as_listed = await run_cli(settings(sandbox), "tasks", sandbox.space_token, "--run", run_id[:9])

    assert {one.status for one in found} == {0}
    for one in found:
        shown = json.loads(one.out)
        assert shown["run"] == row
        assert sum(shown["tasks"].values()) == len(tasks)
        assert shown["ended"] is all(task["status"] in {"completed", "failed"} for task in tasks)
    lines = dict(line.split(maxsplit=1) for line in table.out.splitlines())
    assert (lines["Run"], lines["Status"]) == (run_id, row["status"])
    assert lines["Tasks"].startswith("4: ")
    assert lines["Created"].endswith(" UTC")
    assert [json.loads(line)["task_id"] for line in as_listed.out.splitlines()] == [
        task["task_id"] for task in tasks
    ]


async def test_a_task_is_found_in_the_space_or_in_a_run() -> None:
    async with Sandbox(runs=12, tasks_per_run=5) as sandbox:
        run_id = sandbox.run_ids()[5]
        rows = list(sandbox.task_rows(run_id))
        row = next(one for one in rows if (one["output"] or {}).get("transcript"))
        task_id = row["task_id"]
        argv = ("task", sandbox.space_token, task_id[:12])
        found = await run_cli(settings(sandbox), *argv)
        asked = sandbox.requests
        in_run = await run_cli(settings(sandbox), *argv, "--run", run_id)
        few = sandbox.requests - asked
        table = await run_cli(settings(sandbox), *argv, "--table", "--transcript", "--utc")

    assert json.loads(found.out)["task_id"] == json.loads(in_run.out)["task_id"] == task_id
    assert "user_token" not in found.out or json.loads(found.out)["user_info"]["user_token"] is None
    assert few == 2  # the runs, and the tasks of the run
    assert table.out.splitlines()[0].split() == ["Task", task_id]
    assert f"Run         {run_id}" in table.out
    assert ": " in table.out.partition("\n\n")[2]  # the transcript
    assert "recording_url" not in table.out
    assert ".wav" not in table.out  # a URL may be signed


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (("run", "SPACEMAIN000000000000001", "Rnone"), 1, "has no run Rnone\nhint: `unpod-async runs "),
        (("task", "SPACEMAIN000000000000001", "Tnone"), 1, "has no task Tnone\nhint: `unpod-async tasks "),
        (("recordings", "SPACEMAIN000000000000001", "none"), 1, "has no run none, and no task with that id"),
        (("recordings", "SPACEMAIN000000000000001", "Tnone"), 1, "has no task Tnone"),
        (("tasks", "SPACEMAIN000000000000001", "--run", "Rnone"), 1, "has no run Rnone"),
        (("run", "SPACEMAIN000000000000001", "R"), 2, "'R' is too short for the id of a run"),
        (("task", "SPACEMAIN000000000000001", "T1", "--run", "Rnone"), 1, "has no run Rnone"),
        (("run", "NOSPACE", "R1234"), 4, "answered 206"),
        (("run", "SPACEMAIN000000000000001"), 2, "missing argument 'RUN'"),
    ],
)
async def test_what_is_not_found_is_an_error_of_two_lines(
    argv: tuple[str, ...], status: int, message: str
) -> None:
    async with Sandbox(runs=2) as sandbox:
        result = await run_cli(settings(sandbox), *argv)

    assert (result.status, result.out) == (status, "")
    assert message in result.err
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == ["unpod-async", "hint"]


@pytest.mark.parametrize(
    "argv",
    [
        ("run", "SPACEMAIN000000000000001"),
        ("wait", "SPACEMAIN000000000000001"),
        ("watch", "SPACEMAIN000000000000001", "--run"),
        ("export", "SPACEMAIN000000000000001", "out", "--run"),
    ],
)
async def test_the_start_of_several_ids_is_refused(
    argv: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with Sandbox(runs=3) as sandbox:
        row = next(iter(sandbox.run_rows()))
        body = {"count": 2, "status_code": 200, "message": "", "data": []}
        body["data"] = [{**row, "run_id": f"Rsame{number}"} for number in range(2)]
        sandbox.script(Fault(status=200, body=json.dumps(body).encode(), times=9))
        result = await run_cli(settings(sandbox), *argv, "Rsame")

        assert await asyncio.to_thread(os.listdir, tmp_path) == []
    assert (result.status, result.out) == (2, "")
    assert "the ids of 2 runs of space SPACEMAIN000000000000001 start with Rsame" in result.err
    assert "hint: give more characters of the id: Rsame0, Rsame1" in result.err


async def test_a_run_with_an_unreadable_task_is_shown_and_reported() -> None:
    async with Sandbox(runs=3, tasks_per_run=4) as sandbox:
        run_id = sandbox.run_ids()[1]
        sandbox.poison(sandbox.task_ids(run_id)[1])
        result = await run_cli(settings(sandbox), "run", sandbox.space_token, run_id)

    assert result.status == 3
    shown = json.loads(result.out)
    assert sum(shown["tasks"].values()) == 3
    assert shown["ended"] is False
    assert "position 2" in result.err


async def test_recordings_are_listed_without_their_urls_and_failures_are_reported(tmp_path: Path) -> None:
    async with Sandbox(runs=8, tasks_per_run=5) as sandbox:
        run_id = next(row["run_id"] for row in sandbox.run_rows() if row["status"] == "completed")
        rows = list(sandbox.task_rows(run_id))
        urls = {
            row["task_id"]: row["output"].get("recording_url") or row["output"].get("recordingUrl")
            for row in rows
        }
        recorded = [task for task, url in urls.items() if url]
        argv = ("recordings", sandbox.space_token, run_id)
        lines = await run_cli(settings(sandbox), *argv)
        table = await run_cli(settings(sandbox, COLUMNS="100"), *argv, "--table")
        one = await run_cli(settings(sandbox), "recordings", sandbox.space_token, recorded[0][:12])
        # Nothing is served at the addresses of the sandbox's recordings.
        failed = await run_cli(settings(sandbox), *argv, "--to", str(tmp_path / "out"))
        await asyncio.to_thread((tmp_path / "file").touch)
        unusable = await run_cli(settings(sandbox), *argv, "--to", str(tmp_path / "file" / "out"))

    found = [json.loads(line) for line in lines.out.splitlines()]
    assert {row["task"]: row["url"] for row in found} == {task: urls[task] for task in recorded}
    assert all(row["run"] == run_id and row["file"] is None for row in found)
    assert (lines.status, table.status, one.status, failed.status) == (0, 0, 0, 3)
    assert [line.split()[0] for line in table.out.splitlines()[1:]] == [f"{one[:9]}…" for one in recorded]
    assert "https://" not in table.out
    assert json.loads(one.out)["task"] == recorded[0]
    assert failed.err.count("unpod-async: the recording of task ") == len(recorded)
    assert all(failed.err.count(task) == 1 for task in recorded)
    assert failed.err.count("\nhint: ") == 1
    # One reason for all of them is one message.
    assert unusable.status == 3
    assert f"task {recorded[0]} and {len(recorded) - 1} more: cannot create or read the dir" in unusable.err
    assert "hint: correct the path and try again, or choose another directory" in unusable.err


@pytest.mark.parametrize(("status", "is_advised"), [(302, False), (410, False), (503, True)])
async def test_only_a_download_that_may_succeed_later_is_advised_again(
    tmp_path: Path, status: int, is_advised: bool
) -> None:
    async def answer(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(http_response(b"", status, [("Retry-After", "99999")]))

    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, RawServer(answer) as store:
        run_id, _ = set_recording(sandbox, f"{store.base_url}/1")
        host = f"127.0.0.1:{store.port}"
        argv = ("recordings", sandbox.space_token, run_id, "--recording-host", host)
        result = await run_cli(settings(sandbox), *argv, "--to", str(tmp_path / "out"))

    assert result.status == 3
    assert "was not downloaded" in result.err
    assert ("run the command again" in result.err) is is_advised


async def _serve_sound(connection: RawConnection) -> None:
    while await connection.read_request() is not None:
        await connection.send(http_response(b"RIFF....WAVE", headers=[("Content-Type", "audio/wav")]))


def set_recording(sandbox: Sandbox, url: str) -> tuple[str, str]:
    """Give the only task a recording. Returns the ids of its run and of the task."""
    (run_id,), (task,) = sandbox.run_ids(), sandbox.task_ids()
    row = {"task_id": task, "run_id": run_id, "status": "completed", "output": {"recording_url": url}}
    sandbox.malform(task, json.dumps(row).encode())
    return run_id, task


async def test_the_error_of_a_refused_store_says_which_option_permits_it(tmp_path: Path) -> None:
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, RawServer(_serve_sound) as store:
        run_id, task = set_recording(sandbox, f"{store.base_url}/a/1.wav?Signature=5ecret")
        argv = ("recordings", sandbox.space_token, run_id, "--to", str(tmp_path / "out"))
        refused = await run_cli(settings(sandbox), *argv)
        host = refused.err.partition("was not downloaded: ")[2].partition("/")[0]
        permitted = await run_cli(settings(sandbox), *argv, "--recording-host", host)

    assert (refused.status, permitted.status) == (3, 0)
    assert refused.err.splitlines() == [
        (
            f"unpod-async: the recording of task {task} was not downloaded: "
            f"127.0.0.1:{store.port}/…/1.wav: http is not accepted"
        ),
        "hint: use --recording-host HOST if the store is yours",
    ]


async def test_the_hint_of_a_recording_that_is_too_long_shows_no_python_code(tmp_path: Path) -> None:
    async def answer(connection: RawConnection) -> None:
        headers = [("Content-Type", "audio/wav"), ("Content-Length", "999999999")]
        while await connection.read_request() is not None:
            await connection.send(http_response(headers=headers))

    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, RawServer(answer) as store:
        run_id, _ = set_recording(sandbox, f"{store.base_url}/1")
        argv = ("recordings", sandbox.space_token, run_id, "--to", str(tmp_path / "out"))
        result = await run_cli(settings(sandbox), *argv, "--recording-host", f"127.0.0.1:{store.port}")

    assert result.status == 3
    assert "is longer than" in result.err
    assert "hint: the command line does not download longer recordings\n" in result.err


async def test_recordings_are_downloaded_once(tmp_path: Path) -> None:
    async def answer(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(http_response(b"sound", 200, [("Content-Type", "audio/wav")]))

    async with Sandbox(runs=1, tasks_per_run=2) as sandbox, RawServer(answer) as store:
        (run_id,) = sandbox.run_ids()
        first, second = sandbox.task_ids()
        for task, output in (
            (first, {"recording_url": f"{store.base_url}/1?Signature=5ecret"}),
            (second, {}),
        ):
            row = {"task_id": task, "run_id": run_id, "status": "completed", "output": output}
            sandbox.malform(task, json.dumps(row).encode())
        folder = str(tmp_path / "out")
        argv = ("recordings", sandbox.space_token, run_id, "--to", folder, "--table", "--wide")
        host = f"127.0.0.1:{store.port}"
        results = [await run_cli(settings(sandbox), *argv, "--recording-host", host) for _ in range(2)]

    for result in results:
        assert result.status == 0
        assert f"{first}.wav" in result.out
        assert result.err == "1 of 2 tasks have no recording.\n"
        assert "5ecret" not in result.out
    assert (tmp_path / "out" / f"{first}.wav").read_bytes() == b"sound"


HOST = "a-long-name-of-a-bucket.with-many-labels.recordings.s3.eu-central-1.amazonaws.com"


@pytest.mark.parametrize("columns", [60, 80, 120])
async def test_hosts_and_files_of_recordings_are_shown_whole(tmp_path: Path, columns: int) -> None:
    """A host is continued on the next line, after one of its dots or hyphens."""

    async def answer(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(http_response(b"sound", 200, [("Content-Type", "audio/wav")]))

    async with Sandbox(runs=1, tasks_per_run=3) as sandbox, RawServer(answer) as store:
        environment = settings(sandbox, COLUMNS=str(columns))
        (run_id,), space = sandbox.run_ids(), sandbox.space_token

        def record(host: str) -> None:
            for task in sandbox.task_ids():
                output = {"recording_url": f"{host}/1?Signature=5ecret"}
                row = {"task_id": task, "run_id": run_id, "status": "completed", "output": output}
                sandbox.malform(task, json.dumps(row).encode())

        record(f"https://{HOST}")
        hosts = await run_cli(environment, "recordings", space, run_id, "--table")
        task = await run_cli(environment, "task", space, sandbox.task_ids()[0], "--table")
        record(store.base_url)
        folder = tmp_path / ("recordings-" * 9)
        argv = ("--to", str(folder), "--recording-host", f"127.0.0.1:{store.port}", "--table")
        files = await run_cli(environment, "recordings", space, run_id, *argv)
        expected = [str(folder / f"{one}.wav") for one in sandbox.task_ids()]

    for result, title, values in ((hosts, "HOST", [HOST] * 3), (files, "FILE", expected)):
        assert result.status == 0
        heading, *lines = result.out.splitlines()
        assert max(map(len, (heading, *lines))) <= columns
        start = heading.index(title)
        pieces = [line[start:] for line in lines]
        assert "".join(pieces) == "".join(values)
        assert title == "FILE" or all(piece.endswith((".", "-", "com")) for piece in pieces)
        assert [bool(line[:start].strip()) for line in lines].count(True) == 3
    recording = task.out[task.out.index("Recording") :].splitlines()
    start = recording[0].index("a-long")
    assert "".join(line[start:] for line in recording) == HOST
    assert all(line.endswith((".", "-")) for line in recording[:-1])
    assert max(map(len, recording)) <= columns
