"""`unpod-async demo`: what it exports and prints, and that it always cleans up."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import Result, run_cli
from unpod_async.testing import Sandbox
from unpod_async.testing.demos.export import Resumption, compare, prepare_target, remove_target
from unpod_async.testing.demos.export_process import (
    StagedRowCounter,
    task_ids_on_disk,
    task_ids_on_pages,
    task_pages,
)
from unpod_async.testing.demos.sandbox_process import SandboxProcess, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO = [sys.executable, "-m", "unpod_async", "demo"]


def start(*options: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603
        [*DEMO, *(str(option) for option in options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def without_token(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows as an export has them."""
    found = list(rows)
    for row in found:
        if isinstance(info := row.get("user_info"), dict):
            info["user_token"] = None
    return in_order(found)


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    return in_order([
        json.loads(line) for path in (out / kind).iterdir() for line in path.read_bytes().splitlines()
    ])


@pytest.mark.slow
def test_an_export_that_was_killed_half_way_and_run_again_has_every_row(tmp_path: Path) -> None:
    # 62 pages of tasks, four at a time, take 5 s; the rows are saved every second.
    out = tmp_path / "deep" / "set"
    process = start(
        *("--runs", "100", "--tasks-per-run", "1..4", "--page-size", "4", "--latency", "0.3"),
        *("--out", out),
    )
    out_text, err_text = process.communicate()

    assert process.returncode == 0, out_text + err_text
    sandbox = Sandbox(runs=100, tasks_per_run=(1, 4))
    assert lines(out, "tasks") == without_token(sandbox.task_rows())
    assert lines(out, "runs") == without_token(sandbox.run_rows())

    assert (
        out_text.count(f"$ unpod-async export {sandbox.space_token} \\\n    --page-size 4 \\\n    {out}\n")
        == 2
    )
    assert f"of {sandbox.task_count:,} tasks on disk.\n" in out_text
    numbers = r"the kill: +(\d+)\nSaved by the last checkpoint: +(\d+)\nFetched again by the second: +(\d+)\n"
    kept, saved, again = map(int, re.findall(numbers, out_text)[0])
    assert f"KILLED with {kept} of" in out_text
    assert sandbox.task_count / 2 <= kept < sandbox.task_count
    assert 0 < saved == kept - again
    assert "Rows up to the last checkpoint are not fetched again.\n" in out_text
    assert re.search(r"^First export:  \d+\.\d s, \d+ requests, killed$", out_text, re.MULTILINE)
    assert re.search(r"^Second export: \d+\.\d s, \d+ requests, ran to its end$", out_text, re.MULTILINE)
    assert out_text.endswith(f"The files have each row of the data set once:\n{out}\n")
    own = [line for line in out_text.splitlines() if not line.startswith("{") and str(out) not in line]
    assert max(map(len, own)) <= 60
    assert err_text.count("Listing runs") == 2
    assert "Traceback" not in err_text
    assert sandbox.token not in out_text + err_text


@pytest.mark.slow
def test_a_wrong_file_gives_status_1_and_the_next_demo_replaces_it(tmp_path: Path) -> None:
    out = tmp_path / "set"
    small = ("--runs", "5", "--tasks-per-run", "4", "--latency", "0", "--out", out)
    process = start("--truncate", *small)
    out_text, err_text = process.communicate()

    assert process.returncode == 1, out_text + err_text
    assert "WRONG: rows of the files differ from the data set.\n" in out_text
    assert out_text.endswith(f"tasks: missing 1, foreign 0, repeated 0\n{out}\n")
    assert len(lines(out, "tasks")) == 19

    process = start(*small)
    out_text, err_text = process.communicate()
    assert process.returncode == 0, out_text + err_text
    assert len(lines(out, "tasks")) == 20
    # It may end before it can be killed. The output says which.
    assert ("KILLED" in out_text) != ("It ended before it could be killed" in out_text)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "The demo has stopped. Its files are removed."), (signal.SIGKILL, -9, "")],
)
def test_the_server_and_the_export_end_with_the_demo(
    tmp_path: Path, number: int, status: int, word: str
) -> None:
    out = tmp_path / "deep" / "set"
    process = start("--runs", "500", "--tasks-per-run", "20", "--latency", "0.5", "--out", out)
    assert process.stderr is not None
    assert "Listing runs" in process.stderr.readline()
    process.send_signal(number)
    # All three processes have stderr open, so it ends when they have ended.
    _, err_text = process.communicate()

    assert process.returncode == status
    assert "Traceback" not in err_text
    assert "ended at once" not in err_text
    assert word in err_text
    assert "To resume" not in err_text
    assert out.exists() == (number == signal.SIGKILL)
    assert out.parent.exists() == (number == signal.SIGKILL)


async def demo(*options: str | Path) -> Result:
    return await run_cli({}, "demo", *(str(option) for option in options))


async def test_a_directory_that_is_not_of_a_demo_is_kept(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / ".unpod-export").mkdir(parents=True)
    result = await demo("--runs", "1", "--out", theirs)
    assert (result.status, result.out) == (1, "")
    assert f"{theirs} was not created by a demo" in result.err
    assert "hint: choose another directory with --out" in result.err
    assert (theirs / ".unpod-export").is_dir()
    assert len(list(theirs.iterdir())) == 1


def test_the_directory_of_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    prepare_target(ours)
    (ours / "tasks").mkdir()
    (ours / "tasks" / "part-00001.jsonl").touch()
    prepare_target(ours)
    assert not (ours / "tasks").exists()


def test_only_what_the_demo_created_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "set"
    (tmp_path / "a").mkdir()
    created = prepare_target(target)
    remove_target(target, created)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]

    created = prepare_target(target)
    (tmp_path / "a" / "b" / "other").touch()
    remove_target(target, created)
    assert sorted(tmp_path.rglob("*")) == [
        tmp_path / "a",
        tmp_path / "a" / "b",
        tmp_path / "a" / "b" / "other",
    ]

    target.mkdir()
    remove_target(target, prepare_target(target))
    assert list(target.iterdir()) == []


async def test_an_error_is_printed_and_gives_status_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = await demo("--runs", "1", "--out", tmp_path / "file" / "set")
    assert result.status == 1
    assert result.err.startswith("unpod-async: cannot write to ")


@pytest.mark.slow
def test_an_export_that_fails_fails_the_demo(tmp_path: Path) -> None:
    # One row above the limit of the client.
    process = start("--runs", "1", "--page-size", "2147483648", "--out", tmp_path / "deep" / "set")
    _, err_text = process.communicate()
    assert process.returncode == 1
    assert err_text.endswith("unpod-async: the export ended with status 2\nhint: see its output above\n")
    assert "--page-size" in err_text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        *(f"--tasks-per-run={text}" for text in ("", "x", "5..", "..5", "9..1", "-1")),
        *("--runs=-1", "--runs=x", "--page-size=1", "--latency=-1", "--latency=nan", "--latency=x"),
    ],
)
async def test_invalid_options_are_refused_before_anything_starts(option: str, tmp_path: Path) -> None:
    result = await demo(option, "--out", tmp_path / "set")
    assert (result.status, result.out) == (2, "")
    assert option.partition("=")[0] in result.err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("numbers", "is_consistent"),
    [((9, 9, 0), True), ((9, 4, 5), True), ((9, 4, 4), False), ((9, 5, 5), False)],
)
def test_numbers_that_do_not_add_up_are_wrong(numbers: tuple[int, int, int], is_consistent: bool) -> None:
    resumption = Resumption(*numbers)
    assert resumption.is_consistent == is_consistent
    assert ("WRONG" in "".join(resumption.lines())) == (not is_consistent)
    assert max(map(len, resumption.lines())) <= 60


def test_the_tasks_on_disk_are_those_in_whole_lines(tmp_path: Path) -> None:
    (tmp_path / ".unpod-export").mkdir()
    (tmp_path / "tasks").mkdir()
    (tmp_path / ".unpod-export" / "rows-000001").write_bytes(b'{"task_id":"a"}\n{"task_id":"b"}\n{"task_')
    (tmp_path / "tasks" / "part-00001.jsonl").write_bytes(b'{"task_id":"b"}\n{"task_id":"c"}\n')
    assert task_ids_on_disk(tmp_path) == {"a", "b", "c"}


def test_the_tasks_on_a_page_follow_from_its_path_and_query() -> None:
    tasks = [("r2", "e"), ("r2", "d"), ("r1", "c"), ("r1", "b"), ("r1", "a")]
    assert task_ids_on_pages(["/spaces/s/tasks/?page=2&page_size=2"], tasks) == {"c", "b"}
    assert task_ids_on_pages(["/spaces/s/runs/r1/tasks/?page=2&page_size=2"], tasks) == {"a"}
    assert task_ids_on_pages([], tasks) == set()


@pytest.mark.parametrize(
    ("page_size", "targets", "expected"),
    [
        (
            None,
            ["/runs/?page=1&page_size=9", "/tasks/?page=1&page_size=10", "/tasks/?page=3&page_size=500"],
            [2],
        ),
        (4, ["/tasks/?page=1&page_size=10", "/tasks/?page=1&page_size=1", "/tasks/?page=3&page_size=4"], [2]),
        (10, ["/tasks/?page=1&page_size=10", "/runs/r1/tasks/?page=1&page_size=10"], [1]),
        (None, ["/tasks/?page=1&page_size=10", "/runs/r1/tasks/?page=1&page_size=5"], [1]),
        (None, [], []),
    ],
)
def test_requests_that_only_look_at_the_first_rows_are_no_pages(
    page_size: int | None, targets: list[str], expected: list[int]
) -> None:
    assert task_pages(targets, page_size) == [targets[place] for place in expected]


def test_rows_on_disk_are_counted_as_they_are_written(tmp_path: Path) -> None:
    staged = StagedRowCounter(tmp_path)
    assert staged.count() == 0
    folder = tmp_path / ".unpod-export"
    folder.mkdir()
    (folder / "rows-1").write_bytes(b"{}\n{}\n{")
    (folder / "state").write_bytes(b"\n\n")
    assert staged.count() == 2
    with (folder / "rows-1").open("ab") as file:
        file.write(b"}\n")
    (folder / "rows-2").write_bytes(b"{}\n")
    assert staged.count() == 4
    (folder / "rows-1").unlink()
    assert staged.count() == 4


def test_the_comparison_finds_every_kind_of_difference(tmp_path: Path) -> None:
    rows = [{"task_id": f"T{number}", "input": {"name": "A", "none": None}} for number in range(4)]
    paths = [tmp_path / "part-1.jsonl", tmp_path / "part-2.jsonl"]
    changed = {**rows[2], "input": {"name": "B"}}
    paths[0].write_text("".join(json.dumps(line) + "\n" for line in (rows[0], rows[1])))
    second = [rows[1], changed, {**rows[3], "output": None}]
    paths[1].write_text("\n".join(json.dumps(line) for line in second) + "\nno JSON\n")
    assert compare(paths, {fingerprint(row) for row in rows}) == (1, 2, 1)


async def test_the_process_replies_until_the_block_is_left() -> None:
    async with SandboxProcess(runs=2, tasks_per_run=[1, 3]) as sandbox:
        assert await sandbox.requests() == 0
        assert await sandbox.targets() == []
        there = Sandbox(runs=2, tasks_per_run=(1, 3))
        tasks = {fingerprint(row) for row in without_token(there.task_rows())}
        assert await sandbox.fingerprints() == tasks
        assert tasks.isdisjoint(fingerprint(row) for row in there.task_rows())
        assert len(tasks) == sandbox.info.tasks
        runs = {fingerprint(row) for row in without_token(there.run_rows())}
        assert await sandbox.fingerprints("runs") == runs
        assert len(runs) == 2
    with pytest.raises(RuntimeError, match="not running"):
        await sandbox.requests()


async def test_a_process_to_kill_at_exit_ends_with_the_sandbox() -> None:
    left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: ASYNC220
    async with SandboxProcess(runs=1) as sandbox:
        sandbox.kill_at_exit(left.pid)
        assert await sandbox.requests() == 0
        assert left.poll() is None
    assert left.wait() != 0
    assert left.stdin is not None
    left.stdin.close()


async def test_a_process_that_cannot_start_raises(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="the process of the sandbox ended"):
        async with SandboxProcess(runs=-1):
            pass
    assert "must be 0 or more" in capfd.readouterr().err
