"""`export`: the options, the progress, the summary, what is missing, and the exit statuses."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

import unpod_async
from tests.cli.harness import Result, run_cli, run_process, settings, start_process
from tests.export.model_space import SPACE, model_space, run_id
from tests.tables import each_row
from unpod_async import ExportProgress, ExportSpec, ExportSummary
from unpod_async.cli.app import run
from unpod_async.cli.commands.export import build_spec, report_missing, write_summary
from unpod_async.cli.errors import CliError
from unpod_async.cli.export_progress import ProgressLines
from unpod_async.cli.options import parse_age
from unpod_async.testing import Fault, Sandbox, faults

if TYPE_CHECKING:
    from pathlib import Path


def rows_in(target: Path, kind: str) -> list[dict[str, Any]]:
    found = []
    for file in sorted((target / kind).iterdir()):
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        found += [json.loads(line) for line in content.splitlines()]
    return found


async def test_the_summary_is_one_object_and_the_progress_is_plain_lines(tmp_path: Path) -> None:
    async with Sandbox(runs=25, tasks_per_run=4) as sandbox:
        result = await run_process(settings(sandbox), "export", sandbox.space_token, str(tmp_path / "out"))

        assert result.status == 0
        (line,) = result.out.splitlines()
        summary = json.loads(line)
        assert summary["complete"] is True
        assert (summary["runs"], summary["tasks"]) == (25, 100)
        assert result.err.splitlines()[-1].startswith("Done: 25 of 25 runs; 100 tasks, ")
        assert len(result.err.splitlines()) <= 6
        assert sorted(row["task_id"] for row in rows_in(tmp_path / "out", "tasks")) == sorted(
            sandbox.task_ids()
        )


async def test_options_reach_the_export(tmp_path: Path) -> None:
    async with Sandbox(runs=6, tasks_per_run=2) as sandbox:
        target, chosen = tmp_path / "out", sandbox.run_ids()[1:3]
        runs = [f"--run={chosen[0]}", f"--run={chosen[1][:9]}"]
        more = ("--format", "jsonl.gz", "--keep-user-tokens", "--table")
        result = await run_cli(settings(sandbox), "export", sandbox.space_token, str(target), *runs, *more)
        rows = rows_in(target, "tasks")

        assert result.status == 0
        assert "Data set  2 runs, 4 tasks" in result.out
        assert {row["run_id"] for row in rows} == set(chosen)
        assert all(row["user_info"]["user_token"] for row in rows)


async def test_a_target_with_rows_of_another_service_is_refused(tmp_path: Path) -> None:
    async with Sandbox(runs=2) as first, Sandbox(runs=2) as second:
        argv = ("export", first.space_token, str(tmp_path / "out"))
        assert (await run_cli(settings(first), *argv)).status == 0
        result = await run_cli(settings(second), *argv)

    assert (result.status, result.out) == (1, "")
    assert f"the target has rows of another service: {first.base_url}/" in result.err
    assert f"hint: export from that service, or export {second.base_url}/" in result.err


async def test_an_unknown_run_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    async with Sandbox(runs=3) as sandbox:
        argv = ("export", sandbox.space_token, str(tmp_path / "out"), "--run")
        whole = sandbox.run_ids()[0]
        unknown = await run_cli(settings(sandbox), *argv, whole, "--run", "Rnone")
        too_short = await run_cli(settings(sandbox), *argv, "R")

    assert (unknown.status, unknown.out) == (1, "")
    assert f"space {sandbox.space_token} has no run Rnone\nhint: `unpod-async runs " in unknown.err
    assert (too_short.status, too_short.out) == (2, "")
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_several_spaces(tmp_path: Path) -> None:
    async with Sandbox(runs=2, tasks_per_run=2) as sandbox:
        argv = ("export", sandbox.space_token, str(tmp_path / "out"), "--space", "SPACEEMPTY00000000000005")
        result = await run_cli(settings(sandbox), *argv)

    assert result.status == 0
    assert json.loads(result.out)["runs"] == 2


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_an_unreadable_row_is_reported_and_gives_status_3(tmp_path: Path, form: str) -> None:
    async with Sandbox(runs=4, tasks_per_run=3) as sandbox:
        sandbox.poison(sandbox.task_ids()[4])
        argv = ("export", sandbox.space_token, str(tmp_path / "out"), form)
        result = await run_cli(settings(sandbox), *argv)

    assert result.status == 3
    assert "left out: a row of run R" in result.err
    assert "run the same command again" in result.err
    assert f"  unpod-async export {sandbox.space_token} {tmp_path / 'out'} {form}\n" in result.err


async def test_a_count_that_is_too_high_gives_status_3_until_it_is_right(tmp_path: Path) -> None:
    async with model_space() as space:
        for number in range(8):
            space.add_run(number, 5)
        space.has_space_tasks = False  # each run is read on its own
        environment = {"UNPOD_PLATFORM_TOKEN": "k" * 40, "UNPOD_BASE_URL": space.url}
        run = run_id(2)

        async def export(target: str) -> Result:
            space.log.clear()
            return await run_cli(environment, "export", SPACE, str(tmp_path / target), "--settle-after", "0")

        def others() -> list[str]:
            return sorted(path for path in space.log if run not in path)

        quiet = await export("quiet")
        assert (quiet.status, json.loads(quiet.out)["complete"]) == (0, True)
        assert space.requests(run) == 1
        undisturbed = others()

        space.surplus[run] = 3
        short = await export("out")
        assert (short.status, json.loads(short.out)["complete"], json.loads(short.out)["tasks"]) == (
            3,
            False,
            40,
        )
        assert f"failed: run {run}: 5 of 8 rows were written" in short.err
        # Only this run took more requests: another pass may find what is missing.
        assert others() == undisturbed
        assert space.requests(run) > 1

        space.surplus.clear()
        again = await export("out")
        assert (again.status, json.loads(again.out)["complete"], json.loads(again.out)["tasks"]) == (
            0,
            True,
            40,
        )
        assert space.requests(run) == 1
        assert all(path in undisturbed and "/tasks/" not in path for path in others())


async def test_a_second_export_on_the_same_target_is_refused(tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    async with Sandbox(runs=2) as sandbox:
        sandbox.script(Fault(stall=60))
        first = await start_process(settings(sandbox), "export", sandbox.space_token, target)
        await sandbox.arrived(1)
        second = await run_cli(settings(sandbox), "export", sandbox.space_token, target)
        first.terminate()
        _, err = await first.communicate()

    assert (second.status, second.out) == (75, "")
    assert "unpod-async: " in second.err
    assert first.returncode == 143
    assert b"run the same command again" in err


@each_row(
    "space, token, kept",
    [("right", "wrong", False), ("SPACEUNKNOWN000000000001", "right", False), ("right", "wrong", True)],
)
async def test_an_error_that_stays_asks_for_a_correction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str, token: str, kept: bool
) -> None:
    """The same command would fail again, and an export that has fetched nothing leaves nothing."""
    monkeypatch.chdir(tmp_path)
    async with Sandbox(runs=2) as sandbox:
        if kept:
            assert (await run_cli(settings(sandbox), "export", sandbox.space_token, "out")).status == 0
        wrong = {} if token == "right" else {"UNPOD_PLATFORM_TOKEN": token}
        argv = ("export", sandbox.space_token if space == "right" else space, "out")
        result = await run_cli(settings(sandbox, **wrong), *argv)

    assert result.status == 4
    assert result.err.splitlines()[-1] == (
        "What was fetched is kept in out, except for about the last second. "
        "Correct the cause and run the command again: it resumes."
        if kept
        else "Nothing was saved. Correct the cause and run the command again."
    )
    assert (tmp_path / "out").exists() == kept


async def test_the_command_that_resumes_names_the_right_folder(tmp_path: Path) -> None:
    target = tmp_path / "two  spaces"
    async with Sandbox(runs=2) as sandbox:
        sandbox.script(Fault(stall=60))
        process = await start_process(settings(sandbox), "export", sandbox.space_token, str(target))
        await sandbox.arrived(1)
        process.terminate()
        _, err = await process.communicate()

    assert f"  unpod-async export {sandbox.space_token} '{target}'\n" in err.decode()


@pytest.mark.parametrize("makes_folder", [False, True])
async def test_a_failed_first_export_leaves_a_folder_as_it_was(tmp_path: Path, makes_folder: bool) -> None:
    target = tmp_path / "new" / "out"
    if makes_folder:
        target.mkdir(parents=True)
        (target / "notes.txt").write_text("mine")
    async with Sandbox(runs=2) as sandbox:
        environment = settings(sandbox, UNPOD_PLATFORM_TOKEN="wrong")
        assert (await run_cli(environment, "export", sandbox.space_token, str(target))).status == 4
        left = sorted(file.name for file in target.iterdir()) if target.exists() else None
        assert left == (["notes.txt"] if makes_folder else None)
        assert (await run_cli(settings(sandbox), "export", sandbox.space_token, str(target))).status == 0


async def test_a_resumed_export_says_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unpod_async._export.storage.checkpoint._INTERVAL", 0.0)
    async with Sandbox(runs=20, tasks_per_run=2) as sandbox:
        sandbox.script(
            faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000),
            faults.token_revoked(path=f"/{sandbox.run_ids()[10]}/tasks/", times=1),
        )
        argv = ("export", sandbox.space_token, str(tmp_path / "out"), "--concurrency", "1")
        results = [await run_cli(settings(sandbox), *argv) for _ in range(3)]

    assert [result.status for result in results] == [4, 0, 0]
    assert [result.err.count("resuming: ") for result in results] == [0, 1, 0]
    assert re.search(r"\nresuming: [1-9]\d? of 20 runs are stored\nFetching tasks: ", results[1].err)


async def test_a_deadline_ends_the_retries_of_an_unreachable_service(tmp_path: Path) -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = settings(sandbox)
    argv = ("export", sandbox.space_token, str(tmp_path / "out"), "--deadline", "6")
    result = await run_cli(environment, *argv)

    assert result.status == 1
    assert "no connection" in result.err
    assert "Nothing was saved. To try again, run the same command again:" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("goes_first", [True, False])
async def test_a_rate_limit_spaces_the_requests(tmp_path: Path, goes_first: bool) -> None:
    limit = ("--rate-limit", "50")
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
        export = ("export", sandbox.space_token, str(tmp_path / "out"), "--page-size", "1")
        began = time.monotonic()
        result = await run_cli(settings(sandbox), *((*limit, *export) if goes_first else (*export, *limit)))
        seconds = time.monotonic() - began

    assert result.status == 0
    assert sandbox.requests > 8
    assert seconds >= (sandbox.requests - 1) / 50


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--since", "yesterday"), "--since"),
        (("--since", "2030-01-31T10:00"), "has no time zone"),
        (("--since", "2030-02-01", "--until", "2030-01-31"), "unpod-async: --since is after --until\n"),
        (("--settle-after", "soon"), "--settle-after"),
        (("--redact-key-file", "missing", "--redact", "hash"), "cannot read missing"),
        (("--format", "xml"), "--format"),
        (("--run", "R1", "--space", "OTHER"), "a single space"),
        (("--part-size", "-1"), "--part-size"),
        (("--part-size", "nan"), "--part-size"),
        (("--deadline", "-1"), "--deadline"),
        (("--redact-key-file", "-", "--token-file", "-", "--redact", "hash"), "cannot both be stdin"),
    ],
)
async def test_an_invalid_option_is_a_usage_error(
    tmp_path: Path, argv: tuple[str, ...], message: str
) -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(
            settings(sandbox), "export", sandbox.space_token, str(tmp_path / "out"), *argv, typed=b"x" * 20
        )

        assert (result.status, result.out) == (2, "")
        assert message in result.err
        assert sandbox.requests == 0
    assert not (tmp_path / "out").exists()


def spec_of(**options: Any) -> ExportSpec:
    return build_spec(["S"], {"redact": None, "redact_key": None, **options})


def test_each_field_of_the_spec_has_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command passes each option, parsed, to the field of the spec. A new field needs an example here."""
    (tmp_path / "key").write_bytes(b"k" * 16 + b"\n")
    options: dict[str, tuple[str, object]] = {
        "runs": ("--run=R2 --run=R1", ("R1", "R2")),
        "since": ("--since=2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
        "until": (
            "--until=2030-01-31T10:00+05:30",
            datetime(2030, 1, 31, 10, tzinfo=timezone(timedelta(hours=5.5))),
        ),
        "format": ("--format=jsonl.gz", "jsonl.gz"),
        "keep_user_tokens": ("--keep-user-tokens", True),
        "csv_safe": ("--csv-safe", True),
        "csv_bom": ("--csv-bom", True),
        "redact": ("--redact=hash", "hash"),
        "redact_key": (f"--redact-key-file={tmp_path / 'key'}", b"k" * 16),
        "recordings": ("--recordings", True),
        "recording_hosts": (
            "--recording-host=a.example --recording-host=b.example",
            ("a.example", "b.example"),
        ),
        "full": ("--full", True),
        "settle_after": ("--settle-after=12h", timedelta(hours=12)),
        "concurrency": ("--concurrency=7", 7),
        "page_size": ("--page-size=9", 9),
        "part_bytes": ("--part-size=1.5", 3 * 2**19),
        "state_dir": ("--state-dir=here", "here"),
    }
    specs: list[ExportSpec] = []

    def keep(spaces: list[str], fields: dict[str, Any]) -> ExportSpec:
        specs.append(build_spec(spaces, fields))
        raise CliError("the spec is built")

    monkeypatch.setattr("unpod_async.cli.commands.export.build_spec", keep)
    assert run(["export", "S", "out", *" ".join(text for text, _ in options.values()).split()]) == 1
    assert run(["export", "S", "out"]) == 1
    chosen, default = specs

    assert chosen.spaces == ("S",)
    assert {name: getattr(chosen, name) for name in ExportSpec.__struct_fields__ if name != "spaces"} == {
        name: value for name, (_, value) in options.items()
    }
    assert default == ExportSpec(spaces=("S",))


@pytest.mark.parametrize(
    ("text", "age"), [("2", timedelta(days=2)), ("0", timedelta(0)), ("90m", timedelta(hours=1.5))]
)
def test_an_age_is_in_days_or_has_a_unit(text: str, age: timedelta) -> None:
    assert parse_age(text) == age


def test_the_redaction_key_of_the_environment_is_used_for_hashes_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNPOD_REDACT_KEY", "k" * 16)

    assert spec_of(redact="hash").redact_key == b"k" * 16
    assert spec_of(redact="drop").redact_key is None
    assert spec_of().redact_key is None


def test_the_key_file_overrides_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNPOD_REDACT_KEY", "k" * 16)
    (tmp_path / "key").write_bytes(b"from-the-file\n")

    assert spec_of(redact="hash", redact_key=str(tmp_path / "key")).redact_key == b"from-the-file"


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


OUTAGE = "the service answers 503; retrying for up to 60 min"


def test_a_log_has_a_line_for_each_tenth_and_each_half_minute() -> None:
    written: list[str] = []
    clock = Clock()
    progress = ProgressLines(written.append, clock)

    def at(now: float, done: int, *, phase: Any = "fetching", waiting: float = 0.0) -> int:
        before, clock.now = len(written), now
        event = ExportProgress(
            phase=phase,
            runs_total=100,
            runs_done=done,
            waiting=waiting,
            outage=OUTAGE if waiting else None,
            rate=12.0,
        )
        progress(event)
        return len(written) - before

    assert at(0, 0, phase="listing") == 1
    assert [at(1, 0), at(2, 9), at(3, 10), at(3.5, 20), at(4.5, 21)] == [1, 0, 1, 0, 1]
    assert [at(30, 25), at(34.5, 25), at(40, 25)] == [0, 1, 0]  # nothing changes
    assert [at(40.5, 25, waiting=1.0), at(41, 25)] == [0, 0]  # a short outage
    assert [at(41, 25, waiting=5.0), at(43, 25, waiting=7.0), at(44, 26), at(74, 26)] == [1, 0, 1, 1]
    assert at(75, 100, phase="done") == 1
    assert written[1] == "Fetching tasks: 0 of 100 runs; 0 tasks, 0.0 MB, 12 tasks/s"
    assert written[5].endswith(f"; {OUTAGE} (5 s so far)")
    assert written[6] == "the service responds again after 7 s"


def test_beside_the_log_the_progress_does_not_report_an_outage_again() -> None:
    written: list[str] = []
    progress = ProgressLines(written.append, Clock(), logged=True)

    for waiting in (0.0, 5.0, 7.0, 0.0):
        outage = OUTAGE if waiting else None
        progress(ExportProgress(phase="fetching", runs_total=100, waiting=waiting, outage=outage))

    assert written == ["Fetching tasks: 0 of 100 runs; 0 tasks, 0.0 MB"]


@pytest.mark.slow
@pytest.mark.parametrize("verbose", [(), ("-v",)])
async def test_an_outage_is_reported_once_with_and_without_the_log(
    tmp_path: Path, verbose: tuple[str, ...]
) -> None:
    async with Sandbox(runs=4, tasks_per_run=1) as sandbox:
        sandbox.script(faults.server_error(503, path="/runs/", times=8))
        result = await run_process(
            settings(sandbox), *verbose, "export", sandbox.space_token, str(tmp_path / "out")
        )

    assert result.status == 0
    for report in ("retrying for up to 60 min", "the service responds again after"):
        assert result.err.count(report) == 1, result.err


@each_row(
    "event, line, text",
    [
        ({"runs_seen": 1}, "Listing runs: 1 run found; 0 tasks, 0.0 MB", "listing: 1 run found"),
        (
            {"phase": "fetching", "runs_done": 63, "runs_total": 61, "rows": 1200},
            "Fetching tasks: 63 of 63 runs; 1,200 tasks, 0.0 MB",
            None,
        ),
        (
            {"phase": "fetching", "runs_done": 0, "runs_total": 1},
            "Fetching tasks: 0 of 1 run; 0 tasks, 0.0 MB",
            "fetching: 0 of 1 run, 0 tasks",
        ),
        (
            {
                "phase": "recordings",
                "runs_done": 29,
                "runs_total": 29,
                "rows": 258,
                "rate": 38.0,
                "recordings_done": 20,
                "recordings_failed": 1,
                "recordings_total": 61,
                "remaining": 9.0,
            },
            "Downloading recordings: 20 of 61 recordings; 258 tasks, 0.0 MB, 9 s left, 1 failed",
            "recordings: 20 of 61 recordings",
        ),
    ],
)
def test_progress_is_never_of_none_or_more_than_everything(
    event: dict[str, Any], line: str, text: str | None
) -> None:
    written: list[str] = []
    progress = ExportProgress(**{"phase": "listing", **event})
    ProgressLines(written.append)(progress)
    assert written == [line]
    assert text is None or str(progress) == text


def test_lines_are_written_for_each_tenth_of_the_recordings() -> None:
    written: list[str] = []
    clock = Clock()
    progress = ProgressLines(written.append, clock)
    for number in range(21):
        clock.now += 1
        event = {"runs_total": 5, "runs_done": 5, "recordings_done": number, "recordings_total": 20}
        progress(ExportProgress(phase="recordings", **event))
    assert [line.partition(";")[0] for line in written] == [
        f"Downloading recordings: {number} of 20 recordings" for number in range(0, 21, 2)
    ]


def test_a_summary_shows_a_few_problems_and_counts_the_others(capsys: pytest.CaptureFixture[str]) -> None:
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
        failed=tuple(_structs(failed, "FailedRun")),
        bad_rows=1,
        bad=tuple(_structs(bad, "BadRow")),
        recordings=4,
        failed_recordings=3,
        reasons=("the listing of runs ended early",),
        requests=1000,
        retries=5,
        seconds=12.3,
    )
    write_summary(summary, as_json=False)
    report_missing(summary, ["unpod-async", "export", "S", "out"])
    out, err = capsys.readouterr()

    assert "Complete    NO, see below" in out
    assert "Requests    1,000, 5 of them retries, in 12.3 s" in out
    assert err.splitlines() == [
        *(f"failed: run R{number}: answered 500" for number in range(5)),
        "failed: 245 more runs",
        r"left out: a row of the listing of runs, position 3: no \x1b row",
        "incomplete: the listing of runs ended early",
        "incomplete: 3 recordings could not be downloaded",
        "hint: the service cannot deliver the rows that were left out; report them to its support",
        "hint: everything else was exported; run the same command again to fetch what is missing:",
        "  unpod-async export S out",
    ]


async def test_an_export_says_why_recordings_failed_and_which_option_helps(tmp_path: Path) -> None:
    async with Sandbox(runs=1, tasks_per_run=2) as sandbox:
        for row in list(sandbox.task_rows()):
            output = {"call_id": "c", "recording_url": "http://127.0.0.1:9/a/1.wav?Signature=5ecret"}
            row |= {"output": output, "status": "completed"}
            sandbox.malform(row["task_id"], json.dumps(row).encode())
        argv = ("export", sandbox.space_token, str(tmp_path / "out"), "--recordings")
        result = await run_cli(settings(sandbox), *argv)

    hint = "use --recording-host HOST if the store is yours"
    why = "was not downloaded: 127.0.0.1:9: http is not accepted (and 1 more)"
    lines = result.err.splitlines()
    start = lines.index("incomplete: 2 recordings could not be downloaded")
    assert result.status == 3
    assert lines[start - 1].startswith("incomplete: the recording of task ")
    assert lines[start - 1].endswith(why)
    assert lines[start + 1] == f"hint: {hint}"
    summary = json.loads(result.out)
    assert summary["hints"] == [hint]
    assert summary["reasons"][0].endswith(why)
    assert "5ecret" not in result.out + result.err


def _structs(found: tuple[dict[str, Any], ...], name: str) -> list[Any]:
    return [getattr(unpod_async, name)(**one) for one in found]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not UTF-8")
@pytest.mark.parametrize("arguments", [(), ("--format", "csv")])
async def test_a_target_whose_name_is_not_utf_8(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Neither the summary, nor the error of other options or of a target that is a file, is a traceback."""
    target = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xff")
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox:
        first = await run_cli(settings(sandbox), "export", sandbox.space_token, target, *arguments)
        again = await run_cli(settings(sandbox), "export", sandbox.space_token, target, "--format=parquet")
        inside = f"{target}/_manifest.json"
        file = await run_cli(settings(sandbox), "export", sandbox.space_token, inside)
    assert first.status == 0
    assert json.loads(first.out)["target"].endswith("/caf\\xe9 \\xff")
    assert (again.status, file.status) == (1, 1)
    assert "different options" in again.err
    assert "\\xff/_manifest.json is not a directory" in " ".join(file.err.split())
