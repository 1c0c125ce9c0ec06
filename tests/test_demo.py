"""`python -m unpod_async.testing.demo`: what it writes, what it says, and that it always cleans up."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from unpod_async.testing import Sandbox
from unpod_async.testing._process import SandboxProcess, fingerprint
from unpod_async.testing.demo import Progress, compare, main

if TYPE_CHECKING:
    from pathlib import Path

DEMO = [sys.executable, "-m", "unpod_async.testing.demo"]


def start(*options: str | Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603
        [*DEMO, *(str(option) for option in options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    )


def test_the_file_holds_what_the_service_serves_and_the_end_says_how_much(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "tasks.jsonl"
    process = start("--runs", "25", "--tasks-per-run", "0..12", "--page-size", "5", "--out", out)
    said, complaints = process.communicate()

    assert (process.returncode, complaints) == (0, "")
    rows = {row["task_id"]: row for row in Sandbox(runs=25, tasks_per_run=(0, 12)).task_rows()}
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert len(lines) == len(rows) > 100
    assert {line["task_id"] for line in lines} == rows.keys()
    for line in lines:
        served = rows[line["task_id"]]
        assert {name: line[name] for name in served} == served
        assert all(line[name] is None for name in line.keys() - served.keys())
    assert f"{len(rows)} tasks of " in said
    assert "rows/s" in said
    assert "MB/s" in said
    assert "requests" in said
    assert said.endswith(f"The file equals the data set, each task once:\n{out}\n")
    assert not out.with_name("tasks.jsonl.part").exists()


def test_a_file_that_is_not_the_data_set_ends_with_1_and_keeps_its_other_name(tmp_path: Path) -> None:
    out = tmp_path / "tasks.jsonl"
    process = start("--runs", "5", "--tasks-per-run", "4", "--spoil", "--out", out)
    said, complaints = process.communicate()

    assert (process.returncode, complaints) == (1, "")
    assert "WRONG: the lines differ from the 20 tasks of the data set:\n" in said
    assert f"missing 1, not in the data set 0, repeated 0\n{out}.part\n" in said
    assert not out.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGKILL, -9, "")]
)
def test_whatever_ends_it_the_server_goes_too(tmp_path: Path, number: int, status: int, word: str) -> None:
    process = start("--runs", "5", "--latency", "0.2", "--out", tmp_path / "tasks.jsonl")
    assert process.stdout is not None
    assert "listens on" in process.stdout.readline()
    process.send_signal(number)
    # Both processes hold stderr: it ends when both have ended.
    said, complaints = process.communicate()

    assert process.returncode == status
    assert complaints == ""
    assert word in said


def test_an_error_is_told_in_one_line_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["--runs", "1", "--out", str(tmp_path / "file" / "tasks.jsonl")]) == 1
    assert capsys.readouterr().out.startswith("FAILED: ")
    assert main(["--runs", "1", "--page-size", "0", "--out", str(tmp_path / "tasks.jsonl")]) == 1
    assert "FAILED: ConfigurationError: page_size" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "x", "5..", "..5", "9..1", "-1"])
def test_odd_options_are_refused_before_anything_starts(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main([f"--tasks-per-run={text}"])
    assert refusal.value.code == 2
    assert "--tasks-per-run" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_that_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    progress = Progress(out, tasks=21_334, runs=2_000)
    progress.show(10_667, 1_000)
    progress.show(21_334, 2_000)
    progress.end()
    before, *lines = out.getvalue().removesuffix("\n").split("\r")
    assert before == ""
    assert lines[0].startswith(" 50% | 10,667/21,334 tasks | 1,000/2,000 runs | ")
    assert lines[-1].startswith("100% | 21,334/21,334 tasks | 2,000/2,000 runs | ")
    assert [len(line) for line in lines] == [59, 59]


def test_without_a_terminal_there_is_a_line_for_each_tenth() -> None:
    out = io.StringIO()
    progress = Progress(out, tasks=100, runs=10)
    for row in range(1, 101):
        progress.show(row, row // 10)
    progress.end()
    lines = out.getvalue().splitlines()
    assert [line.split("%")[0] for line in lines] == [str(tenth) for tenth in range(10, 101, 10)]
    assert "\r" not in out.getvalue()


def test_the_comparison_sees_every_kind_of_difference(tmp_path: Path) -> None:
    rows = [{"task_id": f"T{number}", "input": {"name": "A", "none": None}} for number in range(4)]
    path = tmp_path / "tasks.jsonl"
    changed = {**rows[2], "input": {"name": "B"}}
    lines = [rows[0], rows[1], rows[1], changed, {**rows[3], "output": None}]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\nno JSON\n")
    assert compare(path, {fingerprint(row) for row in rows}) == (1, 2, 1)


async def test_the_process_answers_until_its_block_is_left() -> None:
    async with SandboxProcess(runs=2, tasks_per_run=[1, 3]) as sandbox:
        assert await sandbox.requests() == 0
        expected = {fingerprint(row) for row in Sandbox(runs=2, tasks_per_run=(1, 3)).task_rows()}
        assert await sandbox.fingerprints() == expected
        assert len(expected) == sandbox.where.tasks
    with pytest.raises(RuntimeError, match="not running"):
        await sandbox.requests()


async def test_a_process_that_cannot_start_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="process ended"):
        async with SandboxProcess(runs=-1):
            pass
    assert "must not be negative" in capfd.readouterr().err
