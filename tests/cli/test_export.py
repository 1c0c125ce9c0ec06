"""export: the summary, what is missing, and the exit statuses."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

import unpod_async
from tests.cli.harness import here, settings, start, there
from unpod_async import ExportProgress, ExportSummary
from unpod_async.cli._export import Wishes
from unpod_async.cli._progress import Lines
from unpod_async.cli._status import Stop
from unpod_async.cli._summary import tell_summary
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from pathlib import Path


def rows_in(target: Path, kind: str) -> list[dict[str, Any]]:
    found = []
    for file in sorted(target.glob(f"{kind}*")):
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        found += [json.loads(line) for line in content.splitlines()]
    return found


async def test_the_summary_is_one_object_and_the_talk_is_plain_lines(tmp_path: Path) -> None:
    async with Sandbox(runs=25, tasks_per_run=4) as sandbox:
        ended = await there(settings(sandbox), "export", sandbox.space_token, str(tmp_path / "out"))

        assert ended.status == 0
        (line,) = ended.out.splitlines()
        summary = json.loads(line)
        assert summary["complete"] is True
        assert (summary["runs"], summary["tasks"]) == (25, 100)
        assert ended.err.splitlines()[-1].startswith("Done: 25/25 runs; 100 tasks, ")
        assert len(ended.err.splitlines()) <= 6
        assert sorted(row["task_id"] for row in rows_in(tmp_path / "out", "tasks")) == sorted(
            sandbox.task_ids()
        )


async def test_options_reach_the_export(tmp_path: Path) -> None:
    async with Sandbox(runs=6, tasks_per_run=2) as sandbox:
        target, chosen = tmp_path / "out", sandbox.run_ids()[1:3]
        runs = [f"--run={run_id}" for run_id in chosen]
        more = ("--format", "jsonl.gz", "--keep-user-token", "--table")
        ended = await here(settings(sandbox), "export", sandbox.space_token, str(target), *runs, *more)
        rows = rows_in(target, "tasks")

        assert ended.status == 0
        assert "Data set  2 runs, 4 tasks" in ended.out
        assert {row["run_id"] for row in rows} == set(chosen)
        assert all(row["user_info"]["user_token"] for row in rows)


async def test_several_spaces(tmp_path: Path) -> None:
    async with Sandbox(runs=2, tasks_per_run=2) as sandbox:
        argv = ("export", sandbox.space_token, str(tmp_path / "out"), "--space", "SPACEEMPTY00000000000005")
        ended = await here(settings(sandbox), *argv)

    assert ended.status == 0
    assert json.loads(ended.out)["runs"] == 2


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_a_row_that_cannot_be_read_is_named_and_ends_with_3(tmp_path: Path, form: str) -> None:
    async with Sandbox(runs=4, tasks_per_run=3) as sandbox:
        sandbox.poison(sandbox.task_ids()[4])
        argv = ("export", sandbox.space_token, str(tmp_path / "out"), form)
        ended = await here(settings(sandbox), *argv)

    assert ended.status == 3
    assert "left out: a row of run R" in ended.err
    assert "run the same again" in ended.err.lower()
    assert f"  unpod-async export {sandbox.space_token} {tmp_path / 'out'} {form}\n" in ended.err


async def test_a_second_export_on_the_same_target_is_refused(tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    async with Sandbox(runs=2) as sandbox:
        sandbox.script(Fault(stall=60))
        first = await start(settings(sandbox), "export", sandbox.space_token, target)
        await sandbox.arrived(1)
        second = await here(settings(sandbox), "export", sandbox.space_token, target)
        first.terminate()
        _, err = await first.communicate()

    assert (second.status, second.out) == (75, "")
    assert "unpod-async: " in second.err
    assert first.returncode == 143
    assert b"run the same again" in err


async def test_a_token_that_is_refused(tmp_path: Path) -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = settings(sandbox, UNPOD_PLATFORM_TOKEN="wrong")
        ended = await here(environment, "export", sandbox.space_token, str(tmp_path / "out"))

    assert ended.status == 4


async def test_a_deadline_ends_the_waiting_for_a_service_that_is_not_there(tmp_path: Path) -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = settings(sandbox)
    argv = ("export", sandbox.space_token, str(tmp_path / "out"), "--deadline", "0.2")
    ended = await here(environment, *argv)

    assert ended.status == 1
    assert "no connection" in ended.err
    assert "run the same again" in ended.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--since", "yesterday"), "--since"),
        (("--since", "2030-01-31T10:00"), "say the zone"),
        (("--settle-after", "soon"), "--settle-after"),
        (("--redact-key-file", "missing", "--redact", "hash"), "cannot read missing"),
        (("--format", "xml"), "--format"),
        (("--run", "R1", "--space", "OTHER"), "a single space"),
        (("--part-size", "-1"), "--part-size"),
        (("--part-size", "nan"), "--part-size"),
        (("--deadline", "-1"), "deadline"),
        (("--redact-key-file", "-", "--token-file", "-", "--redact", "hash"), "cannot both be stdin"),
    ],
)
async def test_what_cannot_be_asked_is_a_matter_of_usage(
    tmp_path: Path, argv: tuple[str, ...], said: str
) -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await here(
            settings(sandbox), "export", sandbox.space_token, str(tmp_path / "out"), *argv, typed=b"x" * 20
        )

        assert (ended.status, ended.out) == (2, "")
        assert said in ended.err
        assert sandbox.requests == 0
    assert not (tmp_path / "out").exists()


def wishes(**more: Any) -> dict[str, Any]:
    plain = Wishes(
        format="jsonl",
        runs=(),
        since=None,
        until=None,
        full=False,
        settle_after="7",
        concurrency=4,
        page_size=None,
        keep_user_token=False,
        csv_safe=False,
        redact=None,
        redact_key_file=None,
        recordings=False,
        recording_hosts=(),
        part_size=64,
    )
    return Wishes(**{**{name: getattr(plain, name) for name in plain.__slots__}, **more}).arguments()


@pytest.mark.parametrize(
    ("typed", "argument"),
    [
        ({"since": "2030-01-31"}, {"since": datetime(2030, 1, 31, tzinfo=UTC)}),
        (
            {"until": "2030-01-31T10:00+05:30"},
            {"until": datetime(2030, 1, 31, 10, tzinfo=timezone(timedelta(hours=5.5)))},
        ),
        ({"settle_after": "2"}, {"settle_after": timedelta(days=2)}),
        ({"settle_after": "12h"}, {"settle_after": timedelta(hours=12)}),
        ({"settle_after": "0"}, {"settle_after": timedelta(0)}),
        ({"part_size": 1.5}, {"part_bytes": 3 * 2**19}),
        ({"keep_user_token": True}, {"keep_user_tokens": True}),
        ({"runs": ["R1"]}, {"runs": ["R1"]}),
        ({}, {"runs": None, "keep_user_tokens": False, "part_bytes": 64 * 2**20, "redact_key": None}),
        ({"redact": "hash"}, {"redact_key": b"k" * 16}),
        ({"redact": "drop"}, {"redact_key": None}),
    ],
)
def test_options_as_arguments(
    monkeypatch: pytest.MonkeyPatch, typed: dict[str, Any], argument: dict[str, Any]
) -> None:
    monkeypatch.setenv("UNPOD_REDACT_KEY", "k" * 16)
    found = wishes(**typed)

    assert {name: found[name] for name in argument} == argument


def test_a_key_of_a_file_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNPOD_REDACT_KEY", "k" * 16)
    (tmp_path / "key").write_bytes(b"from-the-file\n")

    assert wishes(redact="hash", redact_key_file=str(tmp_path / "key"))["redact_key"] == b"from-the-file"


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(Stop, match="--until"):
        wishes(until="2030-13-01")


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_of_a_log_come_with_each_tenth_and_now_and_then() -> None:
    told: list[str] = []
    clock = Clock()
    lines = Lines(told.append, clock)

    def at(now: float, done: int, *, phase: Any = "fetching", waiting: float = 0.0) -> int:
        before, clock.now = len(told), now
        event = ExportProgress(phase=phase, runs_total=100, runs_done=done, waiting=waiting, rate=12.0)
        lines(event)
        return len(told) - before

    assert at(0, 0, phase="listing") == 1
    assert [at(1, 0), at(2, 9), at(3, 10), at(3.5, 20), at(4.5, 21)] == [1, 0, 1, 0, 1]
    assert [at(30, 25), at(34.5, 25), at(40, 25)] == [0, 1, 0]  # nothing moves
    assert [at(41, 25, waiting=5.0), at(43, 25, waiting=7.0), at(44, 26), at(71, 26)] == [1, 0, 0, 1]
    assert at(72, 100, phase="done") == 1
    assert told[1] == "Fetching: 0/100 runs; 0 tasks, 0.0 MB, 12/s"
    assert "waiting for the service, 5 s" in told[5]


def test_a_summary_names_a_few_and_counts_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    failed = tuple(
        {"space_token": "S", "run_id": f"R{number}", "reason": "answered 500"} for number in range(7)
    )
    bad = ({"space_token": "S", "run_id": None, "place": 3, "reason": "no \x1b row"},)
    summary = ExportSummary(
        target="out",
        complete=False,
        runs=10,
        tasks=20,
        files=2,
        bytes=3_000_000,
        fetched_runs=9,
        fetched_tasks=18,
        unchanged_runs=1,
        gone_runs=2,
        failed_runs=250,
        failed=tuple(_told(failed, "FailedRun")),
        bad_rows=1,
        bad=tuple(_told(bad, "BadRow")),
        recordings=4,
        failed_recordings=3,
        reasons=("the listing of runs ended early",),
        requests=1000,
        retries=5,
        seconds=12.3,
    )
    tell_summary(summary, as_json=False, again="unpod-async export S out")
    out, err = capsys.readouterr()

    assert "Complete    NO: see below" in out
    assert "Requests    1,000, 5 of them repeats, in 12.3 s" in out
    assert err.splitlines() == [
        *(f"failed: run R{number}: answered 500" for number in range(5)),
        "failed: 245 more runs",
        r"left out: a row of the listing of runs, place 3: no \x1b row",
        "incomplete: the listing of runs ended early",
        "incomplete: 3 recordings could not be downloaded",
        "Rows that are left out are damaged in the service: its makers have to mend them.",
        "All the rest is there. Run the same again to fetch just what is missing:",
        "  unpod-async export S out",
    ]


def _told(found: tuple[dict[str, Any], ...], name: str) -> list[Any]:
    return [getattr(unpod_async, name)(**one) for one in found]
