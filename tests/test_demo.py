"""`python -m unpod_async.testing.demos.export`: what it exports and prints, and that it always cleans up."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from unpod_async.testing import Sandbox
from unpod_async.testing.demos.export import StagedRowCounter, compare, main, make_room
from unpod_async.testing.demos.process import SandboxProcess, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO = [sys.executable, "-m", "unpod_async.testing.demos.export"]


def start(*options: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603
        [*DEMO, *(str(option) for option in options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def without_token(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as an export has them."""
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
def test_killed_half_way_and_run_again_the_files_hold_what_the_service_serves(tmp_path: Path) -> None:
    # 62 pages of tasks, four at a time: 5 s, while each second what has come goes to the disk.
    out = tmp_path / "deep" / "set"
    process = start(
        *("--runs", "100", "--tasks-per-run", "1..4", "--page-size", "4", "--latency", "0.3"),
        *("--out", out),
    )
    said, told = process.communicate()

    assert process.returncode == 0, said + told
    sandbox = Sandbox(runs=100, tasks_per_run=(1, 4))
    assert lines(out, "tasks") == without_token(sandbox.task_rows())
    assert lines(out, "runs") == without_token(sandbox.run_rows())

    assert (
        said.count(f"$ unpod-async export {sandbox.space_token} \\\n    --page-size 4 \\\n    {out}\n") == 2
    )
    assert f"of {sandbox.task_count:,} tasks on the disk.\n" in said
    kept = int(re.findall(r"KILLED, with (\d+) of", said)[0])
    assert sandbox.task_count / 2 <= kept < sandbox.task_count
    first, second = re.findall(r"Pages of tasks: (\d+) by the first, (\d+) by the second", said)[0]
    whole = -(-sandbox.task_count // 4)
    assert kept / 4 <= int(first) < whole
    assert int(second) <= whole - kept // 4
    assert "What was on the disk was not fetched again.\n" in said
    assert re.search(r"^First export:  \d+\.\d s, \d+ requests, killed$", said, re.MULTILINE)
    assert re.search(r"^Second export: \d+\.\d s, \d+ requests, ran to its end$", said, re.MULTILINE)
    assert said.endswith(f"The files equal the data set, each row once:\n{out}\n")
    own = [line for line in said.splitlines() if not line.startswith("{") and str(out) not in line]
    assert max(map(len, own)) <= 60
    assert told.count("Listing runs") == 2
    assert "Traceback" not in told
    assert sandbox.token not in said + told


@pytest.mark.slow
def test_files_that_are_not_the_data_set_end_with_1_and_a_next_demo_replaces_them(tmp_path: Path) -> None:
    out = tmp_path / "set"
    small = ("--runs", "5", "--tasks-per-run", "4", "--latency", "0", "--out", out)
    process = start("--spoil", *small)
    said, told = process.communicate()

    assert process.returncode == 1, said + told
    assert "WRONG: rows of the files differ from the data set.\n" in said
    assert said.endswith(f"tasks: missing 1, foreign 0, repeated 0\n{out}\n")
    assert len(lines(out, "tasks")) == 19

    process = start(*small)
    said, told = process.communicate()
    assert process.returncode == 0, said + told
    assert len(lines(out, "tasks")) == 20
    # Whether it could be killed in the little time it took, it says which.
    assert ("KILLED" in said) != ("It was done before it could be killed" in said)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGKILL, -9, "")]
)
def test_whatever_ends_it_the_server_and_the_export_go_too(
    tmp_path: Path, number: int, status: int, word: str
) -> None:
    out = tmp_path / "set"
    process = start("--runs", "500", "--tasks-per-run", "20", "--latency", "0.5", "--out", out)
    assert process.stderr is not None
    assert "Listing runs" in process.stderr.readline()
    process.send_signal(number)
    # All three processes hold stderr: it ends when they have ended.
    said, told = process.communicate()

    assert process.returncode == status
    assert "Traceback" not in told
    assert "ended at once" not in told
    assert word in said
    assert ("to go on from there" in told) == (number == signal.SIGINT)
    assert str(out) in said


def test_what_no_demo_has_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tmp_path / "theirs"
    (theirs / ".unpod-export").mkdir(parents=True)
    assert main(["--runs", "1", "--out", str(theirs)]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"FAILED: FileExistsError: no demo has made what is in\n{theirs}\n")
    assert (theirs / ".unpod-export").is_dir()
    assert len(list(theirs.iterdir())) == 1


def test_what_a_demo_has_made_makes_room(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    make_room(ours)
    (ours / "tasks").mkdir()
    (ours / "tasks" / "part-00001.jsonl").touch()
    make_room(ours)
    assert not (ours / "tasks").exists()


def test_an_error_is_told_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["--runs", "1", "--out", str(tmp_path / "file" / "set")]) == 1
    assert capsys.readouterr().out.startswith("FAILED: ")


@pytest.mark.slow
def test_an_export_that_fails_fails_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # One row more than the client asks for.
    assert main(["--runs", "1", "--page-size", "2147483648", "--out", str(tmp_path / "set")]) == 1
    said, told = capfd.readouterr()
    assert said.endswith("FAILED: RuntimeError: the export ended with status 2;\nwhat it said stands above\n")
    assert "--page-size" in told


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    assert main(["--out", str(tmp_path / "set")]) == 1
    said = capsys.readouterr().out
    assert "needs typer, not" in said
    assert "pip install 'unpod-async[cli]'" in said
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "option",
    [
        *(f"--tasks-per-run={text}" for text in ("", "x", "5..", "..5", "9..1", "-1")),
        *("--runs=-1", "--runs=x", "--page-size=0", "--latency=-1", "--latency=nan", "--latency=x"),
    ],
)
def test_odd_options_are_refused_before_anything_starts(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main([option])
    assert refusal.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_staged_rows_are_counted_as_they_come(tmp_path: Path) -> None:
    staged = StagedRowCounter(tmp_path)
    assert staged.look() == 0
    folder = tmp_path / ".unpod-export"
    folder.mkdir()
    (folder / "rows-1").write_bytes(b"{}\n{}\n{")
    (folder / "state").write_bytes(b"\n\n")
    assert staged.look() == 2
    with (folder / "rows-1").open("ab") as file:
        file.write(b"}\n")
    (folder / "rows-2").write_bytes(b"{}\n")
    assert staged.look() == 4
    (folder / "rows-1").unlink()
    assert staged.look() == 4


def test_the_comparison_sees_every_kind_of_difference(tmp_path: Path) -> None:
    rows = [{"task_id": f"T{number}", "input": {"name": "A", "none": None}} for number in range(4)]
    paths = [tmp_path / "part-1.jsonl", tmp_path / "part-2.jsonl"]
    changed = {**rows[2], "input": {"name": "B"}}
    paths[0].write_text("".join(json.dumps(line) + "\n" for line in (rows[0], rows[1])))
    second = [rows[1], changed, {**rows[3], "output": None}]
    paths[1].write_text("\n".join(json.dumps(line) for line in second) + "\nno JSON\n")
    assert compare(paths, {fingerprint(row) for row in rows}) == (1, 2, 1)


async def test_the_process_answers_until_its_block_is_left() -> None:
    async with SandboxProcess(runs=2, tasks_per_run=[1, 3]) as sandbox:
        assert await sandbox.requests() == 0
        assert await sandbox.targets() == []
        there = Sandbox(runs=2, tasks_per_run=(1, 3))
        tasks = {fingerprint(row) for row in without_token(there.task_rows())}
        assert await sandbox.fingerprints() == tasks
        assert tasks.isdisjoint(fingerprint(row) for row in there.task_rows())
        assert len(tasks) == sandbox.where.tasks
        runs = {fingerprint(row) for row in without_token(there.run_rows())}
        assert await sandbox.fingerprints("runs") == runs
        assert len(runs) == 2
    with pytest.raises(RuntimeError, match="not running"):
        await sandbox.requests()


async def test_a_process_that_is_taken_along_ends_with_the_sandbox() -> None:
    left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: ASYNC220
    async with SandboxProcess(runs=1) as sandbox:
        sandbox.take_along(left.pid)
        assert await sandbox.requests() == 0
        assert left.poll() is None
    assert left.wait() != 0
    assert left.stdin is not None
    left.stdin.close()


async def test_a_process_that_cannot_start_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="process ended"):
        async with SandboxProcess(runs=-1):
            pass
    assert "must not be negative" in capfd.readouterr().err
