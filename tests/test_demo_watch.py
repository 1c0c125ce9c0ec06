"""`python -m unpod_async.testing.demos.watch`: its result, and the events that it expects."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter

import pytest

from unpod_async._version import install_command
from unpod_async.testing import Sandbox
from unpod_async.testing.demos.snapshots import (
    EventKey,
    Snapshot,
    change_events,
    initial_events,
    removals_with_runs,
)
from unpod_async.testing.demos.watch import main, verdict

DEMO = [sys.executable, "-m", "unpod_async.testing.demos.watch"]
SMALL = ("--runs", "5", "--rounds", "1")


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603
        [*DEMO, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_every_change_is_reported_once() -> None:
    process = start(*SMALL, "--seed", "7")
    out_text, err_text = process.communicate()

    assert process.returncode == 0, out_text + err_text
    assert out_text.endswith("\nEvery change was reported once.\n")
    assert err_text == ""
    expected, received, repeated = re.findall(r"^All events +(\d+) +(\d+) +(\d+)$", out_text, re.MULTILINE)[0]
    assert expected == received != "0"
    assert repeated == "0"
    assert re.search(r"^Disconnected +1 +1 +0$", out_text, re.MULTILINE)
    assert "THE WATCH IS KILLED (SIGKILL)" in out_text
    assert re.search(r"^Requests +\d+ in \d+\.\d s$", out_text, re.MULTILINE)
    own = [line for line in out_text.splitlines() if "state.json" not in line]
    assert max(map(len, own)) <= 60


def test_wrong_events_are_listed_and_give_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    seen, gone = EventKey("RunSeen", "R1", new="pending"), EventKey("RunRemoved", "R2", old="failed")
    expected = Counter({seen: 2, gone: 1})
    assert verdict(expected, expected.copy(), "3 in 1.0 s", sys.stdout) == 0
    assert capsys.readouterr().out.endswith("\nEvery change was reported once.\n")

    assert verdict(expected, Counter({seen: 3}), "3 in 1.0 s", sys.stdout) == 1
    out_text = capsys.readouterr().out
    assert re.search(r"^RunSeen +2 +3 +1$", out_text, re.MULTILINE)
    assert re.search(r"^RunRemoved +1 +0 +0$", out_text, re.MULTILINE)
    assert re.search(r"^All events +3 +3 +1$", out_text, re.MULTILINE)
    assert out_text.endswith(
        "WRONG: the reported events differ from the changes.\n"
        "missing: 1 x RunRemoved failed -> None\n    R2\n"
        "not expected: 1 x RunSeen None -> pending\n    R1\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_ends_the_demo_and_the_watch() -> None:
    process = start(*SMALL)
    assert process.stdout is not None
    while "Runs and tasks at the start" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    # Both processes have stderr open, so it ends when they have ended.
    out_text, err_text = process.communicate()

    assert process.returncode == 130
    assert out_text.endswith("Interrupted.\n")
    assert "Traceback" not in err_text


def test_the_expected_events_follow_from_the_rows() -> None:
    before = Snapshot(
        {"kept": "in_progress", "gone": "completed", "done": "failed"},
        {
            "kept": {"a": "in_progress", "b": "pending", "c": "completed"},
            "gone": {"d": "completed"},
            "done": {"e": "failed", "f": "failed"},
        },
    )
    after = Snapshot(
        {"kept": "partially_completed", "done": "failed", "new": "pending"},
        {"kept": {"a": "failed", "c": "completed"}, "done": {"e": "failed"}, "new": {"g": "pending"}},
    )
    events: Counter[EventKey] = change_events(before, after)
    assert events == Counter([
        EventKey("RunRemoved", "gone", old="completed"),
        EventKey("RunStatusChanged", "kept", old="in_progress", new="partially_completed"),
        EventKey("TaskStatusChanged", "kept", "a", "in_progress", "failed"),
        EventKey("CallEnded", "kept", "a", "in_progress", "failed"),
        EventKey("TaskRemoved", "kept", "b", old="pending"),
        EventKey("RunSettled", "kept", new="partially_completed"),
        EventKey("TaskRemoved", "done", "f", old="failed"),
        EventKey("RunSettled", "done", new="failed"),
        EventKey("RunSeen", "new", new="pending"),
        EventKey("TaskSeen", "new", "g", new="pending"),
    ])
    assert removals_with_runs(before, after) == {EventKey("TaskRemoved", "gone", "d", old="completed")}
    assert change_events(after, after) == Counter()
    assert removals_with_runs(after, after) == set()


def test_a_snapshot_has_all_rows_of_the_sandbox() -> None:
    sandbox = Sandbox(runs=3, tasks_per_run=2)
    now = Snapshot.of(sandbox)
    assert list(now.runs) == sandbox.run_ids()
    assert {task for tasks in now.tasks.values() for task in tasks} == set(sandbox.task_ids())
    assert initial_events(now).total() == 9


@pytest.mark.parametrize("option", ["--runs=0", "--runs=x", "--rounds=-1", "--seed=x"])
def test_invalid_options_are_refused_before_anything_starts(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main([option])
    assert refusal.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main([]) == 1
    assert f"FAILED: not installed: rich\nhint: {install_command('cli')}" in capsys.readouterr().out
