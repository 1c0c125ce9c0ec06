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
from unpod_async.testing.demos.export import StagedRowCounter, compare, main, prepare_target
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
    kept = int(re.findall(r"KILLED with (\d+) of", out_text)[0])
    assert sandbox.task_count / 2 <= kept < sandbox.task_count
    first, second = re.findall(r"Pages of tasks: (\d+) by the first, (\d+) by the second", out_text)[0]
    whole = -(-sandbox.task_count // 4)
    assert kept / 4 <= int(first) < whole
    assert int(second) <= whole - kept // 4
    assert "The rows on disk were not fetched again.\n" in out_text
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
    ("number", "status", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGKILL, -9, "")]
)
def test_the_server_and_the_export_end_with_the_demo(
    tmp_path: Path, number: int, status: int, word: str
) -> None:
    out = tmp_path / "set"
    process = start("--runs", "500", "--tasks-per-run", "20", "--latency", "0.5", "--out", out)
    assert process.stderr is not None
    assert "Listing runs" in process.stderr.readline()
    process.send_signal(number)
    # All three processes have stderr open, so it ends when they have ended.
    out_text, err_text = process.communicate()

    assert process.returncode == status
    assert "Traceback" not in err_text
    assert "ended at once" not in err_text
    assert word in out_text
    assert ("To resume" in err_text) == (number == signal.SIGINT)
    assert str(out) in out_text


def test_a_directory_that_is_not_of_a_demo_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs"
    (theirs / ".unpod-export").mkdir(parents=True)
    assert main(["--runs", "1", "--out", str(theirs)]) == 1
    out_text = capsys.readouterr().out
    message = f"this directory was not created by a demo:\n{theirs}\n"
    assert out_text.startswith(f"FAILED: FileExistsError: {message}")
    assert (theirs / ".unpod-export").is_dir()
    assert len(list(theirs.iterdir())) == 1


def test_the_directory_of_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    prepare_target(ours)
    (ours / "tasks").mkdir()
    (ours / "tasks" / "part-00001.jsonl").touch()
    prepare_target(ours)
    assert not (ours / "tasks").exists()


def test_an_error_is_printed_and_gives_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["--runs", "1", "--out", str(tmp_path / "file" / "set")]) == 1
    assert capsys.readouterr().out.startswith("FAILED: ")


def test_an_export_that_fails_fails_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # One row above the limit of the client.
    assert main(["--runs", "1", "--page-size", "2147483648", "--out", str(tmp_path / "set")]) == 1
    out_text, err_text = capfd.readouterr()
    assert out_text.endswith(
        "FAILED: RuntimeError: the export ended with status 2.\nhint: see its output above\n"
    )
    assert "--page-size" in err_text


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    assert main(["--out", str(tmp_path / "set")]) == 1
    out_text = capsys.readouterr().out
    assert "FAILED: not installed: typer" in out_text
    assert "pip install 'unpod-async[cli]'" in out_text
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "option",
    [
        *(f"--tasks-per-run={text}" for text in ("", "x", "5..", "..5", "9..1", "-1")),
        *("--runs=-1", "--runs=x", "--page-size=0", "--latency=-1", "--latency=nan", "--latency=x"),
    ],
)
def test_invalid_options_are_refused_before_anything_starts(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main([option])
    assert refusal.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err


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
