"""What notebooks show of rows, pages and summaries: escaped, and nothing that `repr` does not show."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from unpod_async import ExportSummary, Page, Run, Task, UserInfo
from unpod_async.models import Agent
from unpod_async.testing import Sandbox


class Cells(HTMLParser):
    """The texts of the cells of a table, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags = set[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td"}


def test_a_row_is_a_table_of_what_its_repr_shows() -> None:
    private = {"name": "Asha", "contact_number": "+15550100"}
    row = Task(task_id="T1", status="failed", input=private, user_info=UserInfo(user_token="s3cret"))
    shown = Cells(row._repr_html_())
    assert shown.texts == ["Task", "task_id", "run_id", "status", "created", "T1", "failed"]
    assert shown.tags == TAGS
    hostile = Cells(Run(run_id="<script>alert(1)</script>", status="a\u202eb\x1b&amp;")._repr_html_())
    assert hostile.tags == TAGS
    assert hostile.texts[4:] == ["<script>alert(1)</script>", "a\\u202eb\\x1b&amp;"]
    assert Cells(Agent(handle="a", name="<b>")._repr_html_()).tags == TAGS


async def test_a_page_is_a_table_of_its_rows() -> None:
    async with Sandbox(runs=1, tasks_per_run=60) as sandbox, sandbox.client() as unpod:
        page = await anext(unpod.tasks.list(sandbox.space_token, page_size=60).pages())
        rows = [*sandbox.task_rows()]
    html = page._repr_html_()
    shown = Cells(html)
    assert shown.texts[:5] == [
        "Page(number=1, 60 items), of which 50 are shown",
        "task_id",
        "run_id",
        "status",
        "created",
    ]
    assert [text for text in shown.texts if text.startswith("T")] == sandbox.task_ids()[:50]
    for row in rows:
        for private in (row["user_info"]["user_token"], row["input"]["contact_number"], row["input"]["name"]):
            assert private not in html


def test_pages_of_other_items_and_without_items_are_tables_too() -> None:
    raw: Page[bytes] = Page([b"<x>"], 1, 100, 1, [], [], {})
    assert Cells(raw._repr_html_()).texts == ["Page(number=1, 1 items), of which 0 are shown"]
    empty: Page[Run] = Page([], 1, 100, 0, [], [], {})
    assert Cells(empty._repr_html_()).texts == ["Page(number=1, 0 items)"]


async def test_an_export_summary_is_a_table_of_its_figures(tmp_path: Path) -> None:
    async with Sandbox(runs=2, tasks_per_run=3) as sandbox, sandbox.client() as unpod:
        summary = await unpod.export(sandbox.space_token, tmp_path / "data")
    names = [name for name in ExportSummary.__struct_fields__ if name not in ("failed", "bad")]
    shown = Cells(summary._repr_html_())
    assert shown.tags == TAGS
    assert [text for text in shown.texts if text in names] == names
    figures = dict(zip(shown.texts[3::2], shown.texts[4::2], strict=False))
    assert (figures["runs"], figures["tasks"], figures["complete"]) == ("2", "6", "True")


def test_the_reasons_of_a_summary_are_escaped() -> None:
    summary = ExportSummary(
        target="<b>",
        complete=False,
        runs=0,
        tasks=0,
        files=0,
        bytes=0,
        fetched_runs=0,
        fetched_tasks=0,
        unchanged_runs=0,
        gone_runs=0,
        failed_runs=1,
        reasons=("<script>", "two"),
    )
    shown = Cells(summary._repr_html_())
    assert shown.tags == TAGS
    assert {"<b>", "<script>; two"} <= set(shown.texts)
