"""`unpod-async report`: the numbers of real exports in every format, the texts, and what is refused."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from tests.cli.harness import Result, run_cli, run_process, settings
from tests.report.dataset import SPACE, call, invented_rows, run, write_dataset
from tests.report.parsing import Page, parse
from tests.tables import each_row
from unpod_async import Task
from unpod_async.testing import Sandbox

ROOT = Path(__file__).parents[2]
FORMS = ("jsonl", "jsonl.gz", "csv", "parquet")


async def report(directory: Path, *options: str, status: int = 0) -> Page:
    """Run the command, check its output, and return the page."""
    result = await run_cli({}, "report", str(directory), "--utc", *options)
    assert result.status == status, result.err
    assert result.out == f"{directory / 'report.html'}\n"
    return parse((directory / "report.html").read_text(encoding="utf-8"))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def number(text: str) -> int:
    return int(text.replace(",", ""))


def column(page: Page, section: str, name: str, table: int = 0) -> dict[str, str]:
    """Return a column of a table of a section, by the first column."""
    head, *rows = page.sections[section].tables[table]
    return {row[0]: row[head.index(name)] for row in rows}


def counts(page: Page, section: str, name: str = "Calls") -> dict[str, int]:
    return {key: number(text) for key, text in column(page, section, name).items() if text != "0"}


# -- the numbers --------------------------------------------------------------------------------------------


def check_numbers(page: Page, rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """Compare a page with the rows, through the public model of a task."""
    tasks = [msgspec.json.decode(msgspec.json.encode(row), type=Task) for row in rows]
    calls = [task.call for task in tasks]
    statuses = Counter(task.status for task in tasks)
    ended = statuses["completed"] + statuses["failed"]
    tiles = {name: texts[0] for name, texts in page.tiles.items()}
    assert [number(tiles[name]) for name in ("Calls", "Completed", "Failed", "Not ended")] == [
        len(tasks),
        statuses["completed"],
        statuses["failed"],
        len(tasks) - ended,
    ]
    costs = [one.cost for one in calls if one is not None and one.cost is not None]
    assert tiles["Cost"] == f"${sum(costs):,.2f}"
    assert page.tiles["Cost"][1] == f"${sum(costs) / len(costs):.3f} each"

    times = [(one and one.started_at) or task.created_at for task, one in zip(tasks, calls, strict=True)]
    assert counts(page, "Calls per day") == Counter(f"{at:%Y-%m-%d}" for at in times if at)
    assert counts(page, "Hours of the day") == Counter(
        f"{at.hour:02}:00–{(at.hour + 1) % 24:02}:00" for at in times if at
    )
    assert counts(page, "Agents") == Counter(task.assignee for task in tasks)
    outcomes = Counter(
        one.outcome if one else None
        for task, one in zip(tasks, calls, strict=True)
        if task.status == "completed"
    )
    assert counts(page, "Outcomes") == {name or "No outcome": count for name, count in outcomes.items()}
    durations = [one.duration for one in calls if one is not None and one.duration is not None]
    assert sum(counts(page, "Durations").values()) == len(durations)
    assert counts(page, "Durations").get("1 to 2 min", 0) == sum(60 <= seconds < 120 for seconds in durations)
    ordered = sorted(int(seconds) for seconds in durations)
    median = ordered[(len(ordered) + 1) // 2 - 1]
    assert f"median {median // 60}:{median % 60:02}" in page.sections["Durations"].text
    reasons = Counter(
        one.error if one else None for task, one in zip(tasks, calls, strict=True) if task.status == "failed"
    )
    assert counts(page, "Failed calls") == reasons
    assert counts(page, "Runs", "Runs") == Counter(row["status"] for row in runs)


@pytest.mark.parametrize("form", FORMS)
async def test_the_numbers_are_those_of_the_rows(tmp_path: Path, form: str) -> None:
    async with Sandbox(runs=60, tasks_per_run=(1, 20)) as sandbox, sandbox.client() as unpod:
        await unpod.export(sandbox.space_token, tmp_path, format=form, part_bytes=100_000)  # type: ignore[arg-type] # a format
        page = await report(tmp_path)
        check_numbers(page, list(sandbox.task_rows()), list(sandbox.run_rows()))
        failed = [row for row in sandbox.run_rows() if row["status"] in {"failed", "partially_completed"}][
            :20
        ]
        assert list(column(page, "Runs", "Created", 1).items()) == [
            (row["run_id"], row["created"].replace("T", " ")[:16] + " UTC") for row in failed
        ]
        for row in failed:
            tasks = list(sandbox.task_rows(row["run_id"]))
            assert number(column(page, "Runs", "Calls", 1)[row["run_id"]]) == len(tasks)
            assert number(column(page, "Runs", "Failed", 1)[row["run_id"]]) == sum(
                task["status"] == "failed" for task in tasks
            )


async def test_every_format_gives_the_same_page(tmp_path: Path) -> None:
    pages = set()
    for form in FORMS:
        write_dataset(tmp_path / form, *invented_rows(20), form, part_rows=150)
        result = await run_cli({}, "report", str(tmp_path / form), "--utc", "--output", "-")
        pages.add(result.out)
    assert len(pages) == 1


async def test_rows_of_odd_values_are_counted(tmp_path: Path) -> None:
    """What the service may send one day, and what it sends today."""
    async with Sandbox(runs=10, tasks_per_run=3) as sandbox, sandbox.client() as unpod:
        template = next(row for row in sandbox.task_rows() if row["status"] == "completed")
        outputs: list[Any] = [
            None,
            [],
            "text",
            {"cost": "0.25", "duration": "61"},
            {"cost": "a lot", "duration": "NULL"},
            {"cost": -1, "duration": -5},
            {"cost": 1e300, "duration": 1e300},
            {"metadata": {"cost": 0.5}, "duration": 0},
            {"post_call_data": {"summary": {"status": "A new outcome"}}, "cost": 1e-7},
            {"post_call_data": {"summary": {"status": ["no", "text"]}}},
        ]
        changed = sandbox.task_ids()[: len(outputs) + 4]
        rows = [
            {**template, "task_id": one, "output": output}
            for one, output in zip(changed, outputs, strict=False)
        ]
        odd: list[dict[str, Any]] = [
            {"status": None, "created": None},
            {"status": "teleported", "created": "N/A"},
            {"created": "0001-01-01T00:00:00"},
            {"assignee": None, "created": "9999-12-31T23:59:59"},
        ]
        rows += [
            {**template, "output": {}, **more, "task_id": one}
            for one, more in zip(changed[len(outputs) :], odd, strict=True)
        ]
        for one, row in zip(changed, rows, strict=True):
            sandbox.malform(one, json.dumps(row).encode())
        for row_id in sandbox.task_ids()[len(changed) :]:
            sandbox.malform(row_id, json.dumps({**template, "task_id": row_id, "output": {}}).encode())
        await unpod.export(sandbox.space_token, tmp_path, format="parquet")

    page = await report(tmp_path)
    assert number(page.tiles["Calls"][0]) == 30
    assert page.tiles["Cost"] == ["$0.75", "$0.250 each"]
    assert counts(page, "Outcomes") == {"No outcome": 27, "A new outcome": 1}
    assert counts(page, "Durations") == {"0 to 10 s": 1, "1 to 2 min": 1}
    assert counts(page, "Agents") == {template["assignee"]: 29, "No agent": 1}
    assert page.tiles["Not ended"] == ["2", "7%"]
    assert sum(counts(page, "Calls per day").values()) == 26
    notes = "\n".join(page.notes)
    assert "4 calls without a usable time" in notes
    assert "Not counted: 2 durations below zero" in notes
    assert "Not counted: 2 costs below zero" in notes


async def test_the_day_and_the_hour_are_those_of_the_chosen_zone(tmp_path: Path) -> None:
    at = datetime(2026, 3, 28, 21, 40, tzinfo=UTC)
    later = datetime(2026, 3, 29, 21, 40, tzinfo=UTC)  # after the change to summer time
    write_dataset(tmp_path, [run(0, at)], [call(0, at), call(1, later)])
    utc = await report(tmp_path)
    assert counts(utc, "Calls per day") == {"2026-03-28": 1, "2026-03-29": 1}
    assert counts(utc, "Hours of the day") == {"21:00–22:00": 2}
    assert "Times are in UTC." in "".join(utc.texts)

    environment = {"TZ": "CET-1CEST,M3.5.0,M10.5.0/3", "PYTHONPATH": str(ROOT)}
    result = await run_process(environment, "report", str(tmp_path), "--output", "-")
    local = parse(result.out)
    assert counts(local, "Calls per day") == {"2026-03-28": 1, "2026-03-29": 1}
    assert counts(local, "Hours of the day") == {"22:00–23:00": 1, "23:00–00:00": 1}
    assert "Times are in CEST and CET." in "".join(local.texts)


# -- what the page says -------------------------------------------------------------------------------------


async def test_an_incomplete_export_is_said_to_be_incomplete(tmp_path: Path) -> None:
    async with Sandbox(runs=8, tasks_per_run=4) as sandbox:
        bad = sandbox.task_ids()[4]
        sandbox.poison(bad)
        export = await run_cli(settings(sandbox), "export", sandbox.space_token, str(tmp_path))
        assert export.status == 3
        result = await run_cli({}, "report", str(tmp_path), "--utc")
    assert result.status == 3
    assert result.out == f"{tmp_path / 'report.html'}\n"
    assert "incomplete: the page lists what is missing" in result.err
    assert "hint: run the export again" in result.err
    page = parse((tmp_path / "report.html").read_text("utf-8"))
    assert page.notes[1] == (
        "This export is incomplete, and so are the figures. The next export tries to fetch what is missing."
    )
    assert ("a", {"href": "#missing"}) in page.elements
    assert any(attributes.get("id") == "missing" for _, attributes in page.elements)
    head, row = page.sections["Missing data"].tables[0]
    assert head == ["Row", "Position", "Why it was left out"]
    assert re.fullmatch(r"a task of run R\w+", row[0])
    assert number(page.tiles["Calls"][0]) == 31


async def test_failed_runs_of_the_export_are_listed(tmp_path: Path) -> None:
    examples = [{"space_token": SPACE, "run_id": f"R{one}", "reason": f"<{one}>"} for one in range(30)]
    write_dataset(
        tmp_path,
        *invented_rows(2),
        complete=False,
        failed_runs={"count": 45, "examples": examples},
        reasons=["runs may be missing from the list of SPACE & co"],
        failed_recordings=7,
    )
    page = await report(tmp_path, status=3)
    section = page.sections["Missing data"]
    assert column(page, "Missing data", "Why it could not be read") == {
        f"R{one}": f"<{one}>" for one in range(20)
    }
    assert "lists more of them" in section.text
    text = "".join(page.texts)
    for words in ("45 runs could not be read", "7 recordings not downloaded", "list of SPACE & co"):
        assert words in text


async def test_figures_are_not_called_incomplete_if_only_recordings_are_missing(tmp_path: Path) -> None:
    write_dataset(
        tmp_path,
        *invented_rows(1),
        complete=False,
        failed_recordings=2,
        failed_downloads=[{"count": 2, "problem": "a.example: <too big>", "task_id": "T1", "hint": ""}],
    )
    page = await report(tmp_path, status=3)
    assert "a.example: <too big> (and 1 more)" in "".join(page.texts)
    assert (
        "This export has all runs and calls, but not all recordings. "
        "The next export tries to fetch what is missing."
    ) in page.notes


async def test_a_redacted_export_is_said_to_be_redacted(tmp_path: Path) -> None:
    async with Sandbox(runs=20, tasks_per_run=4) as sandbox:
        for how, words in (("drop", "were removed"), ("hash", "are replaced by hashes")):
            target = tmp_path / how
            export = ("export", sandbox.space_token, str(target), "--redact", how, "--format", "csv")
            assert (await run_cli(settings(sandbox), *export)).status == 0
            page = await report(target)
            assert [note for note in page.notes if words in note]
            check_numbers(page, list(sandbox.task_rows()), list(sandbox.run_rows()))


async def test_a_selection_is_named(tmp_path: Path) -> None:
    async with Sandbox(runs=6, tasks_per_run=2) as sandbox:
        one = sandbox.run_ids()[2]
        await run_cli(settings(sandbox), "export", sandbox.space_token, str(tmp_path / "run"), "--run", one)
        times = ("--since", "2026-01-15T10:01+01:00", "--until", "2026-01-15T10:02Z")
        await run_cli(settings(sandbox), "export", sandbox.space_token, str(tmp_path / "times"), *times)
    page = await report(tmp_path / "run")
    assert "The export is limited to 1 selected run." in page.notes
    page = await report(tmp_path / "times")
    assert "limited to runs created from 2026-01-15 09:01 UTC until 2026-01-15 10:02 UTC." in "".join(
        page.notes
    )


@pytest.mark.parametrize("form", FORMS)
async def test_an_empty_export_gives_a_page(tmp_path: Path, form: str) -> None:
    async with Sandbox(runs=0) as sandbox, sandbox.client() as unpod:
        await unpod.export(sandbox.space_token, tmp_path, format=form)  # type: ignore[arg-type] # a format
    page = await report(tmp_path)
    assert "This export has no calls." in page.notes
    assert page.title == "Calls"
    assert not page.tiles
    assert list(page.sections) == [""]


async def test_runs_without_calls_give_a_page(tmp_path: Path) -> None:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    write_dataset(tmp_path, [run(0, at, "failed"), run(1, at, None)], [])  # type: ignore[arg-type] # as services do
    page = await report(tmp_path)
    assert list(page.sections) == ["", "Runs"]
    assert counts(page, "Runs", "Runs") == {"failed": 1, "No status": 1}


async def test_calls_without_times_durations_costs_and_outcomes_give_a_page(tmp_path: Path) -> None:
    write_dataset(tmp_path, [], [{"task_id": "T1"}, {"task_id": "T2", "status": "completed"}])
    page = await report(tmp_path)
    assert list(page.sections) == ["", "Outcomes", "Durations", "Agents"]
    assert page.sections["Durations"].text == "No call has a duration."
    assert counts(page, "Outcomes") == {"No outcome": 1}
    write_dataset(tmp_path / "pending", [], [call(1, datetime(2026, 1, 5, tzinfo=UTC), "pending")])
    page = await report(tmp_path / "pending")
    assert page.sections["Outcomes"].text == "No call has an outcome."
    assert page.sections["Cost per day"].text == "No call has a cost."


# -- privacy and safety -------------------------------------------------------------------------------------

LOADING = re.compile(r"url\(|@import|@font-face|https?:|//|data:|javascript:|expression\(", re.IGNORECASE)


async def check_self_contained(html: str) -> None:
    page = parse(html)
    allowed = {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer"),
        *("h1", "h2", "h3", "p", "a", "ul", "li", "i", "dl", "div", "dt", "dd", "figure"),
        *("svg", "g", "rect", "line", "text", "table", "thead", "tbody", "tr", "th", "td"),
    }
    assert {name for name, _ in page.elements} <= allowed
    for name, attributes in page.elements:
        assert not {"src", "srcset", "style", "data", "action", "xlink:href"} & attributes.keys(), name
        assert not [key for key in attributes if key.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    assert not LOADING.search(page.style)
    policy = next(attributes["content"] for name, attributes in page.elements if attributes.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


async def test_the_page_loads_nothing_and_has_no_contact_data(tmp_path: Path) -> None:
    async with Sandbox(runs=20, tasks_per_run=(1, 20)) as sandbox, sandbox.client() as unpod:
        await unpod.export(sandbox.space_token, tmp_path)
        rows = list(sandbox.task_rows())
    await report(tmp_path)
    html = (tmp_path / "report.html").read_text("utf-8")
    await check_self_contained(html)
    for row in rows:
        assert row["task_id"] not in html
        for secret in (row["input"]["name"], row["input"]["contact_number"], row["input"]["document_id"]):
            assert secret not in html
        output = row["output"]
        for key in ("call_id", "summary", "call_summary", "recording_url", "recordingUrl", "id"):
            assert not output.get(key) or output[key] not in html
    for text in ("Grüß Gott", "Good morning", "rec.example", sandbox.base_url, str(tmp_path)):
        assert text not in html


async def test_numbers_and_addresses_in_outcomes_and_errors_are_masked(tmp_path: Path) -> None:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    failed = call(1, at, "failed", {"error": "cannot dial +91 98765 43210 for ann@example.com"})
    outcome = {"post_call_data": {"outcome": "Call 9876543210 at 10:30"}}
    write_dataset(tmp_path, [], [failed, call(2, at, "completed", outcome, assignee="sales-9876543210")])
    page = await report(tmp_path)
    assert counts(page, "Failed calls") == {"cannot dial ••• for •••": 1}
    assert counts(page, "Outcomes") == {"Call ••• at 10:30": 1}
    assert counts(page, "Agents") == {"agent": 1, "sales-•••": 1}


async def test_markup_in_values_is_text(tmp_path: Path) -> None:
    hostile = "</td></text></svg>\"'&amp;<img src=x onerror=y></section><b onclick=z>\u202e</b> and so on"
    shown = hostile.replace("\u202e", "\\u202e")
    at = datetime(2026, 1, 5, tzinfo=UTC)
    output = {"post_call_data": {"outcome": hostile}}
    tasks = [
        call(0, at, "completed", output, assignee=hostile),
        call(1, at, "failed", {"error": hostile}),
        call(2, at, hostile),
    ]
    write_dataset(
        tmp_path,
        [run(0, at, hostile), run(1, at, "failed", run_id=hostile)],
        tasks,
        complete=False,
        spaces=[hostile, "</style></title><script>alert(1)</script>"],
        reasons=[hostile],
        failed_runs={"count": 1, "examples": [{"space_token": "", "run_id": hostile, "reason": hostile}]},
        unreadable_rows={
            "count": 1,
            "examples": [{"space_token": "", "run_id": hostile, "place": 1, "reason": hostile}],
        },
    )
    page = await report(tmp_path, status=3)
    await check_self_contained((tmp_path / "report.html").read_text("utf-8"))
    cut = f"{shown[:80]}…"
    assert counts(page, "Outcomes") == {cut: 1}
    assert counts(page, "Failed calls") == {cut: 1}
    assert cut in counts(page, "Agents")
    assert cut in counts(page, "Runs", "Runs")
    assert page.sections["Missing data"].tables[0][1] == [shown, shown]
    assert "".join(page.texts).count(shown) == 6


# -- the file -----------------------------------------------------------------------------------------------


async def test_the_file_is_replaced_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    write_dataset(tmp_path, *invented_rows(2))
    await report(tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    await report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o600
    assert names_in(tmp_path) == ["_manifest.json", "report.html", "runs", "tasks"]


async def test_later_exports_ignore_the_page(tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        argv = ("export", sandbox.space_token, str(tmp_path))
        for _ in range(2):
            assert (await run_cli(settings(sandbox), *argv)).status == 0
            page = await report(tmp_path)
        assert number(page.tiles["Calls"][0]) == 10


async def test_output_to_a_file_and_to_stdout(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", *invented_rows(2))
    file = tmp_path / "calls.html"
    written = await run_cli({}, "report", str(tmp_path / "set"), "--utc", "--output", str(file))
    assert (written.status, written.out) == (0, f"{file}\n")
    shown = await run_cli({}, "report", str(tmp_path / "set"), "--utc", "--output", "-")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out == file.read_text("utf-8")
    assert not (tmp_path / "set" / "report.html").exists()


async def refused(*argv: str, status: int = 1) -> Result:
    result = await run_cli({}, "report", *argv)
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith("unpod-async: ")
    assert "\nhint: " in result.err
    return result


@each_row(
    "name",
    [
        "tasks/part-00002.jsonl",
        "runs/x.html",
        ".unpod-export/x",
        "recordings/x",
        "_manifest.json",
        "link/tasks/x",
    ],
)
async def test_files_of_the_export_are_not_overwritten(tmp_path: Path, name: str) -> None:
    target = tmp_path / name.replace("/", "-")
    write_dataset(target, *invented_rows(2))
    (target / "link").symlink_to(target)
    before = (target / "_manifest.json").read_bytes()
    result = await refused(str(target), "--output", str(target / name), status=2)
    assert "is reserved for files of the export" in result.err
    assert (target / "_manifest.json").read_bytes() == before


@each_row(
    "name, words",
    [(".", "Is a directory"), ("no/x.html", "No such file or directory"), ("pipe", "not a regular")],
)
async def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path, name: str, words: str) -> None:
    target = tmp_path / f"set-{len(words)}"
    write_dataset(target, *invented_rows(2))
    os.mkfifo(target / "pipe")
    result = await refused(str(target), "--output", str(target / name))
    assert words in result.err


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
from unpod_async.cli import main
sys.exit(main())
"""


async def test_a_full_disk_leaves_the_old_page(tmp_path: Path) -> None:
    write_dataset(tmp_path, *invented_rows(2))
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    result = await run_process(
        {"PYTHONPATH": str(ROOT)}, "report", str(tmp_path), program=(sys.executable, "-c", LIMITED)
    )
    assert (result.status, result.out) == (1, "")
    assert f"cannot write {tmp_path / 'report.html'}: File too large\nhint: " in result.err
    assert (tmp_path / "report.html").read_text("utf-8") == "old"
    assert names_in(tmp_path) == ["_manifest.json", "report.html", "runs", "tasks"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
async def test_a_stdout_that_is_full_is_an_error(tmp_path: Path) -> None:
    write_dataset(tmp_path, *invented_rows(2))
    shell = ("bash", "-c", f'exec "{sys.executable}" -m unpod_async "$@" > /dev/full', "-")
    argv = ("report", str(tmp_path), "--output", "-")
    result = await run_process({"PYTHONPATH": str(ROOT)}, *argv, program=shell)
    assert result.status == 1
    assert "cannot write to stdout: no space is left on the disk" in result.err


async def test_a_directory_that_is_no_export_is_an_error(tmp_path: Path) -> None:
    result = await refused(str(tmp_path))
    assert "is not the directory of an export" in result.err
    assert not names_in(tmp_path)
    result = await refused(str(tmp_path / "none"))
    assert "does not exist" in result.err


async def test_a_damaged_export_is_an_error_and_the_old_page_stays(tmp_path: Path) -> None:
    write_dataset(tmp_path, *invented_rows(2))
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    (tmp_path / "tasks" / "part-00001.jsonl").unlink()
    result = await refused(str(tmp_path))
    assert "tasks/part-00001.jsonl is missing" in result.err
    assert (tmp_path / "report.html").read_text("utf-8") == "old"


async def test_parquet_without_pyarrow_is_explained(tmp_path: Path) -> None:
    write_dataset(tmp_path, *invented_rows(2), "parquet")
    code = "import sys; sys.modules['pyarrow'] = None; from unpod_async.cli import main; sys.exit(main())"
    result = await run_process(
        {"PYTHONPATH": str(ROOT)}, "report", str(tmp_path), program=(sys.executable, "-c", code)
    )
    assert result.status == 2
    assert "Parquet needs pyarrow" in result.err
    assert "parquet]" in result.err
    assert not (tmp_path / "report.html").exists()


def test_invented_rows_are_the_same_every_time() -> None:
    assert cast("Any", invented_rows(5)) == invented_rows(5)
