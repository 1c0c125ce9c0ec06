"""The numbers, the plots and the escaping of a report, without files."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.parsing import parse
from tests.tables import each_row
from unpod_async._common import printable
from unpod_async._export import Manifest
from unpod_async._integrations.report import (
    Figures,
    Groups,
    Markup,
    PlotColumn,
    PlotRow,
    Tally,
    aggregate,
    build_page,
    column_plot,
    element,
    group_days,
    percentile,
    row_plot,
    scale,
    top_groups,
)

START = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)  # a Monday


def manifest() -> Manifest:
    content = {
        "complete": True,
        "finished": "2026-05-01T02:19:31Z",
        "options": {"format": "jsonl", "spaces": ["S"]},
        "versions": {"columns": 1, "manifest": 1},
        "parts": [],
        "failed_runs": {"count": 0, "examples": []},
        "unreadable_rows": {"count": 0, "examples": []},
        "failed_recordings": 0,
        "reasons": [],
    }
    return msgspec.convert(content, Manifest)


def task(**cells: Any) -> tuple[Any, ...]:
    """Return the cells of a task, in the order of TASK_COLUMNS."""
    names = ("run_id", "agent", "status", "created", "started", "seconds", "dollars", "outcome", "error")
    assert cells.keys() <= set(names)
    return tuple(cells.get(name) for name in names)


def figures_of(*tasks: tuple[Any, ...]) -> Figures:
    return aggregate([], [list(zip(*tasks, strict=True))] if tasks else [], UTC)


# -- numbers ------------------------------------------------------------------------------------------------


def test_sums_do_not_depend_on_the_order() -> None:
    tasks = [task(dollars=cost, seconds=cost * 3) for cost in (0.1, 0.2, 1e6, 1e-9, 0.3, 33.333)]
    assert figures_of(*tasks).total == figures_of(*reversed(tasks)).total
    assert figures_of(*tasks).total.cost == 1_000_033_933_000_001


def test_the_start_of_a_call_decides_and_then_the_creation_of_the_task() -> None:
    figures = figures_of(
        task(created=START, started=START + timedelta(days=1)), task(created=START), task(started=None)
    )
    assert {day: tally.calls for day, tally in figures.days.items()} == {
        date(2026, 1, 5): 1,
        date(2026, 1, 6): 1,
    }
    assert (figures.first, figures.last, figures.undated) == (START, START + timedelta(days=1), 1)


@each_row("seconds, is_counted", [(0, True), (86_400, True), (86_401, False), (-0.1, False), (1e300, False)])
def test_durations_of_at_most_a_day_are_counted(seconds: float, is_counted: bool) -> None:
    figures = figures_of(task(seconds=seconds))
    assert (figures.total.timed, figures.odd_durations) == ((1, 0) if is_counted else (0, 1))


@each_row("dollars, is_counted", [(0, True), (1e6, True), (1_000_001, False), (-0.1, False)])
def test_costs_of_at_most_a_million_are_counted(dollars: float, is_counted: bool) -> None:
    figures = figures_of(task(dollars=dollars))
    assert (figures.total.priced, figures.odd_costs) == ((1, 0) if is_counted else (0, 1))


def test_the_newest_failed_runs_have_their_calls() -> None:
    hours = [(number * 7) % 40 for number in range(40)]
    runs = [
        (f"R{hour:02}", "failed" if hour % 2 else "completed", 3, START + timedelta(hours=hour))
        for hour in hours
    ]
    runs.append(("Rnever", "partially_completed", 1, None))
    tasks = [
        task(run_id=f"R{hour:02}", status=status) for hour in hours for status in ("failed", "completed")
    ]
    figures = aggregate([list(zip(*runs, strict=True))], [list(zip(*tasks, strict=True))], UTC)
    assert [run.run_id for run in figures.failed_runs] == [f"R{hour:02}" for hour in range(39, 0, -2)]
    assert {(run.tally.failed, run.tally.completed) for run in figures.failed_runs} == {(1, 1)}


def test_failed_runs_without_a_time_come_last() -> None:
    runs = [("R1", "failed", 1, None), ("R2", "failed", 1, START), ("R3", "failed", 1, None)]
    figures = aggregate([list(zip(*runs, strict=True))], [], UTC)
    assert [run.run_id for run in figures.failed_runs] == ["R2", "R1", "R3"]


def rows_of_values(number: int) -> Iterator[Any]:
    """Yield batches in which every outcome, agent and error differs, and one agent is frequent."""
    for first in range(0, number, 100):
        rows = [
            task(
                run_id=f"R{index}",
                agent="the agent" if index % 3 else f"agent {index}",
                status=("failed", "completed", f"status {index}")[index % 3],
                created=START + timedelta(seconds=index % 86_000),
                seconds=index % 5000 + 0.5,
                outcome=f"outcome {index}",
                error=f"error {index}",
            )
            for index in range(first, first + 100)
        ]
        yield list(zip(*rows, strict=True))


def test_memory_does_not_depend_on_the_number_of_values() -> None:
    def peak(number: int) -> int:
        tracemalloc.start()
        figures = aggregate([], rows_of_values(number), UTC)
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert figures.total.calls == number
        for groups in (figures.agents, figures.outcomes):
            assert sum(group.tally.calls for group in groups) + groups.rest.calls == number
        shown, others, _ = top_groups(figures.agents, 3)
        assert shown[0].label == "the agent"
        assert shown[0].tally.calls == sum(1 for index in range(number) if index % 3)
        assert sum(group.tally.calls for group in shown) + others.calls == number
        assert sum(figures.statuses.values()) == number
        return high

    peak(1_000)  # caches
    # The least of several, because a thread of another test may allocate too.
    few, many = (min(peak(number) for _ in range(3)) for number in (12_000, 24_000))
    assert many < few + 300_000


def test_the_rarest_values_are_merged() -> None:
    groups = Groups(4)
    for label, calls in (("a", 5), ("b", 1), (None, 4), ("c", 2), ("d", 1), ("b", 1)):
        for _ in range(calls):
            groups.tally_of(label).add("completed", None, None)
    assert {group.label: group.tally.calls for group in groups} == {"a": 5, None: 4, "d": 1, "b": 1}
    assert groups.rest.calls == 3


def test_a_single_other_value_has_a_row_of_its_own() -> None:
    groups = Groups()
    for number in range(12):
        groups.tally_of(f"{number:02}").add("failed", None, None)
    shown, others, number = top_groups(groups, 11)
    assert ([group.label for group in shown][-1], others.calls, number) == ("11", 0, 0)
    shown, others, number = top_groups(groups, 10)
    assert (len(shown), others.calls, number) == (10, 2, 2)


def test_percentiles() -> None:
    seconds = {10: 5, 60: 4, 600: 1}
    assert [percentile(seconds, share) for share in (0.1, 0.5, 0.9, 1.0)] == [10, 10, 60, 600]
    assert percentile({}, 0.5) is None


# -- days ---------------------------------------------------------------------------------------------------


def days_of(*days: date) -> dict[date, Tally]:
    tallies = {day: Tally() for day in days}
    for tally in tallies.values():
        tally.add("completed", 1.0, 5)
    return tallies


@each_row(
    "length, unit, periods",
    [
        (1, "day", 1),
        (2, "day", 2),
        (92, "day", 92),
        (93, "week", 14),
        (731, "week", 105),
        (763, "week", 109),
        (764, "month", 26),
        (2160, "month", 71),
        (2161, "year", 6),
        (36_000, "year", 99),
    ],
)
def test_periods_are_as_long_as_a_plot_needs(length: int, unit: str, periods: int) -> None:
    first = date(2001, 1, 1)  # a Monday
    last = first + timedelta(days=length - 1)
    found, grouped = group_days(days_of(first, last))
    assert (found, len(grouped)) == (unit, periods)
    assert grouped[0].start <= first
    assert sum(period.tally.calls for period in grouped) == len({first, last})
    assert [period.start for period in grouped] == sorted({period.start for period in grouped})


def test_no_days_give_no_periods() -> None:
    assert group_days({}) == ("day", [])


def test_weeks_begin_on_monday() -> None:
    first = date(2026, 1, 7)
    _, periods = group_days(days_of(first, date(2026, 1, 11), date(2026, 1, 12), first + timedelta(days=200)))
    assert [(str(period.start), period.tally.calls) for period in periods[:3]] == [
        ("2026-01-05", 2),
        ("2026-01-12", 1),
        ("2026-01-19", 0),
    ]


@pytest.mark.parametrize("length", [1, 92, 731, 3000, 9000])
def test_a_page_has_a_column_for_each_period(length: int) -> None:
    figures = figures_of(
        task(created=START, status="completed", dollars=1.5, seconds=30),
        task(created=START + timedelta(days=length - 1), status="failed"),
    )
    unit, periods = group_days(figures.days)
    page = parse(build_page(manifest(), figures, UTC))
    section = page.sections[f"Calls per {unit}"]
    assert len(section.hints) == len(section.tables[0]) - 1 == len(periods) <= 110
    assert len(page.sections[f"Cost per {unit}"].tables[0]) == len(periods) + 1


def test_many_agents_give_ten_rows_and_the_others() -> None:
    tasks = [
        task(agent=f"agent {number:03}", status="completed")
        for number in range(300)
        for _ in range(301 - number)
    ]
    page = parse(build_page(manifest(), figures_of(*tasks), UTC))
    _, *rows = page.sections["Agents"].tables[0]
    assert [row[0] for row in rows] == [f"agent {number:03}" for number in range(10)] + ["(290 others)"]
    assert sum(int(row[1].replace(",", "")) for row in rows) == len(tasks)
    assert page.sections["Agents"].text.startswith("300 agents.")


@each_row(
    "dollars, shown",
    [(0.0, "$0.00"), (0.004, "$0.00"), (1234.5, "$1,234.50"), (12_345.67, "$12,346"), (9e5, "$900,000")],
)
def test_costs_are_in_dollars(dollars: float, shown: str) -> None:
    page = parse(build_page(manifest(), figures_of(task(created=START, dollars=dollars)), UTC))
    assert page.tiles["Cost"][0] == shown
    assert "Costs are in US dollars" in "".join(page.texts)


@each_row(
    "part, whole, shown", [(0, 9, "0%"), (1, 999, "1%"), (998, 999, "99%"), (999, 999, "100%"), (1, 2, "50%")]
)
def test_only_nothing_is_0_and_only_everything_is_100_per_cent(part: int, whole: int, shown: str) -> None:
    tasks = [task(status="completed")] * part + [task(status="failed")] * (whole - part)
    page = parse(build_page(manifest(), figures_of(*tasks), UTC))
    assert page.tiles["Completed"][1] == shown


# -- plots --------------------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e15))
def test_a_scale_has_a_few_round_lines_up_to_the_maximum(maximum: float) -> None:
    lines = scale(maximum, is_whole=False)
    assert 3 <= len(lines) <= 6
    assert lines[0] == 0
    assert lines[-2] < maximum * 1.000001
    assert lines[-1] >= maximum * 0.999999
    assert math.isclose(lines[1] * 2, lines[2])


@given(st.integers(1, 10**12))
def test_a_scale_of_counts_has_whole_lines(maximum: int) -> None:
    lines = scale(maximum)
    assert all(line == int(line) for line in lines)
    assert lines[-1] >= maximum
    assert len(lines) <= 6


def test_a_scale_without_values_has_two_lines() -> None:
    assert scale(0) == [0.0, 1.0]


class Shapes(HTMLParser):
    """Collects the rectangles of a plot that have a series, with their numbers."""

    def __init__(self, svg: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, float]]] = []
        self.feed(svg)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        kind = str(values.get("class"))
        if tag == "rect" and kind in {"s0", "s1", "s2"}:
            self.found.append((
                kind,
                {name: float(str(values[name]).rstrip("%")) for name in ("x", "y", "width", "height")},
            ))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=110))
def test_columns_lie_inside_the_plot_and_do_not_overlap(values: list[tuple[int, int]]) -> None:
    columns = [PlotColumn(str(number), pair, "") for number, pair in enumerate(values)]
    shapes = Shapes(column_plot(columns, "calls")).found
    assert len(shapes) == sum(value > 0 for pair in values for value in pair)
    for _, shape in shapes:
        assert shape["x"] >= 0
        assert shape["x"] + shape["width"] <= 100.01
        assert shape["height"] >= 1
        assert shape["y"] >= 8  # a value of one pixel may stand on a full column
    lefts = sorted({shape["x"] for _, shape in shapes})
    width = shapes[0][1]["width"] if shapes else 0
    assert all(after - before >= width for before, after in itertools.pairwise(lefts))


def test_the_height_of_a_column_is_its_share_of_the_scale() -> None:
    shapes = Shapes(column_plot([PlotColumn("a", (30, 10), ""), PlotColumn("b", (20, 0), "")], "calls")).found
    assert [(kind, shape["height"]) for kind, shape in shapes] == [("s0", 142.5), ("s1", 47.5), ("s0", 95)]
    assert shapes[0][1]["y"] == shapes[1][1]["y"] + 47.5


def test_the_width_of_a_bar_is_its_share_of_the_longest() -> None:
    rows = [
        PlotRow("a", (30, 10), "40", ""),
        PlotRow("b", (0, 10), "10", ""),
        PlotRow("c", (1,), "1", "", True),
    ]
    shapes = Shapes(row_plot(rows, "calls")).found
    assert [(kind, shape["x"], shape["width"]) for kind, shape in shapes] == [
        ("s0", 0, 75),
        ("s1", 75, 25),
        ("s1", 0, 25),
        ("s2", 0, 2.5),
    ]


def test_plots_without_values_are_drawn() -> None:
    assert "<svg" in column_plot([], "nothing")
    assert "<svg" in column_plot([PlotColumn("a", (0, 0), "")], "nothing")
    assert "<svg" in row_plot([PlotRow("a", (0,), "0", "")], "nothing")


# -- escaping -----------------------------------------------------------------------------------------------

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(list("<>&\"'/=\n\t\0\u202e")), max_size=60
)


class Read(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(TEXTS, TEXTS)
def test_texts_and_attributes_are_escaped(text: str, attribute: str) -> None:
    read = Read(element("p", text, Markup("<b>!</b>"), None, aria_label=attribute, class_=None))
    assert read.tags == [("p", {"aria-label": printable(attribute)}), ("b", {})]
    assert read.text == printable(text) + "!"


@given(st.lists(TEXTS, min_size=4, max_size=4))
def test_no_value_changes_the_elements_of_a_page(values: list[str]) -> None:
    def page_with(agent: str, outcome: str, error: str, status: str) -> str:
        figures = aggregate(
            [[["R1"], ["failed"], [1], [START]]],
            [
                list(
                    zip(
                        task(agent=agent, status="completed", created=START, outcome=outcome, dollars=0.1),
                        task(agent="same", status="failed", created=START, error=error),
                        task(agent="same", status=status, created=START),
                        strict=True,
                    )
                )
            ],
            UTC,
        )
        return build_page(manifest(), figures, UTC)

    kind = "completed" if values[3] == "completed" else "failed" if values[3] == "failed" else "x"
    found, plain = Read(page_with(*values)), Read(page_with("a", "b", "c", kind))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    assert [set(attributes) for _, attributes in found.tags] == [
        set(attributes) for _, attributes in plain.tags
    ]
