"""No id leads to another endpoint, and no time bound loses a row."""

from __future__ import annotations

import pickle
import string
from datetime import UTC, date, datetime, timedelta, timezone
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from tests.tables import each_row
from unpod_async._http import Endpoint, TimeWindow, check_id, unix_bounds
from unpod_async._http import endpoints as paths
from unpod_async.errors import InvalidArgument

ROOT = "https://unpod.ai/prefix/api/v2/platform/"
SAFE = "".join(c for c in string.printable if "!" <= c <= "~" and c not in r"/\?#%")
ids = st.text(SAFE, min_size=1, max_size=512).filter(lambda text: text.partition(";")[0] not in {".", ".."})
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001
moments = st.datetimes(timezones=st.timezones())


@each_row(
    ("endpoint", "expected"),
    [
        (paths.organizations(), Endpoint("organizations/", "organizations/", "organizations")),
        (paths.spaces(), Endpoint("spaces/", "spaces/", "spaces")),
        (paths.space("S"), Endpoint("spaces/S/", "spaces/{space_token}/", "space S")),
        (paths.agents(), Endpoint("agents/", "agents/", "agents")),
        (
            paths.agent_tasks("A"),
            Endpoint("agents/A/tasks/", "agents/{agent_handle}/tasks/", "tasks of agent A"),
        ),
        (paths.runs("S"), Endpoint("spaces/S/runs/", "spaces/{space_token}/runs/", "runs of space S")),
        (
            paths.run_tasks("S", "R"),
            Endpoint(
                "spaces/S/runs/R/tasks/",
                "spaces/{space_token}/runs/{run_id}/tasks/",
                "tasks of run R in space S",
            ),
        ),
        (
            paths.space_tasks("S"),
            Endpoint("spaces/S/tasks/", "spaces/{space_token}/tasks/", "tasks of space S"),
        ),
        (
            paths.agent_executions("A"),
            Endpoint("agents/A/executions/", "agents/{agent_handle}/executions/", "executions of agent A"),
        ),
        (paths.call_logs(), Endpoint("call-logs/", "call-logs/", "call logs")),
        (paths.custom("widgets/W1/"), Endpoint("widgets/W1/", "widgets/{id}/", "widgets/W1/")),
    ],
)
def test_every_endpoint_has_its_path_template_and_label(endpoint: Endpoint, expected: Endpoint) -> None:
    assert msgspec.structs.replace(endpoint, hints=()) == expected
    assert endpoint.path.endswith("/")
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint  # noqa: S301


def test_an_endpoint_is_frozen() -> None:
    with pytest.raises(AttributeError):
        paths.agents().path = "x/"  # type: ignore[misc]


@given(ids, ids)
def test_no_accepted_id_changes_the_segments_of_a_url(space_token: str, run_id: str) -> None:
    endpoint = paths.run_tasks(space_token, run_id)
    expected = ("/", "prefix", "api", "v2", "platform", "spaces", space_token, "runs", run_id, "tasks", "")
    for url in (
        URL(ROOT + endpoint.path),
        URL(ROOT + endpoint.path, encoded=True),
        URL(ROOT).join(URL(endpoint.path)),
        URL(ROOT) / endpoint.path.replace("%", "%25")
        if "%" not in endpoint.path
        else URL(ROOT + endpoint.path),
    ):
        assert url.parts == expected
        assert (url.host, url.query_string, url.fragment) == ("unpod.ai", "", "")
    assert URL(ROOT + endpoint.path).raw_path == URL(ROOT + endpoint.path, encoded=True).raw_path


@given(st.text(max_size=20))
def test_any_text_is_refused_or_one_segment(text: str) -> None:
    accepted = refused = ""
    try:
        accepted = check_id("space_token", text)
    except InvalidArgument as error:
        refused = error.summary
    if refused:
        assert refused.startswith("space_token ")
        assert refused.isprintable()
    else:
        assert accepted == text
        assert URL(ROOT + paths.space(text).path).parts[-2] == text


@each_row(
    "value",
    [
        "",
        ".",
        "..",
        "a/b",
        "../x",
        "a\\b",
        "..;",
        ".;x=1",
        "a?b",
        "a#b",
        "a%2Fb",
        "%2e%2e",
        "a b",
        " a",
        "a\n",
        "\ta",
        "a\x00",
        "a\x1b[31m",
        "a\x7f",
        "a\x85",
        "a\u00a0",
        "a\u2028",
        "a\u200b",
        "\u202ea",
        "é",
        "\ud800",
        "\U0001f600",
        "x" * 513,
    ],
)
def test_an_id_that_could_lead_elsewhere_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_id("run_id", value)
    text = caught.value.summary
    assert text.startswith("run_id ")
    assert caught.value.argument == "run_id"
    assert "printable ASCII" in (caught.value.hint or "")
    assert text.isascii() or "…" in text
    assert text.isprintable()
    assert len(text) < 300


@pytest.mark.parametrize("value", [None, 5, b"bytes", ["a"], object()])
def test_an_id_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="handle must be a str, not "):
        check_id("handle", value)


def test_the_refusal_names_the_argument_of_the_endpoint() -> None:
    with pytest.raises(InvalidArgument, match=r"^space_token "):
        paths.run_tasks("", "R")
    with pytest.raises(InvalidArgument, match=r"^run_id "):
        paths.run_tasks("S", "..")
    with pytest.raises(InvalidArgument, match=r"^agent_handle "):
        paths.agent_tasks("/")


@each_row("value", ["...", ".a", "{run_id}", "{", "a:b", "x" * 512, "space-agent-f1o3", "R~!$&'()*+,;=@"])
def test_unusual_but_harmless_ids_are_accepted(value: str) -> None:
    assert check_id("run_id", value) == value
    assert paths.runs(value).label == f"runs of space {value}"


def test_a_member_of_a_text_enumeration_counts_as_its_value() -> None:
    class Space(str, Enum):  # noqa: UP042 - the form whose format() gives the name
        MAIN = "S1"

    accepted = check_id("space_token", Space.MAIN)
    assert type(accepted) is str
    assert paths.space(Space.MAIN).path == "spaces/S1/"


def test_bounds_are_whole_seconds_around_the_window() -> None:
    start = datetime(2030, 1, 1, 10, 0, 0, 1, tzinfo=UTC)
    assert unix_bounds(start, start) == {"from_ts": "1893492000", "to_ts": "1893492001"}
    assert unix_bounds(start.replace(microsecond=0), None) == {"from_ts": "1893492000"}
    # The last second is included: its rows have fractions on the server.
    assert unix_bounds(None, start.replace(microsecond=0)) == {"to_ts": "1893492001"}
    assert unix_bounds(None, None) == {}


@given(moments, moments, st.datetimes(timezones=st.just(UTC)))
def test_every_row_of_the_window_is_within_the_bounds(one: datetime, two: datetime, row: datetime) -> None:
    try:
        window = TimeWindow(one, two)
    except InvalidArgument:
        assert one - datetime(1970, 1, 1, tzinfo=UTC) > two - datetime(1970, 1, 1, tzinfo=UTC)
        return
    bounds = {name: int(value) for name, value in unix_bounds(one, two).items()}
    second = (row - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)
    if window.contains(row) and second >= 0:
        assert bounds["from_ts"] <= second <= bounds["to_ts"]


def test_bounds_before_1970_are_sent_as_zero() -> None:
    # The server drops what it does not read as seconds, and would send every row.
    assert unix_bounds(
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), datetime(1960, 1, 1, tzinfo=UTC)
    ) == {
        "from_ts": "0",
        "to_ts": "0",
    }


@each_row("value", [NAIVE, date(2030, 1, 1), 1893492000, "2030-01-01T00:00:00Z"])
@each_row("name", ["created_from", "created_to"])
def test_a_bound_without_a_zone_or_of_another_type_is_refused(name: str, value: Any) -> None:
    arguments = {"created_from": None, "created_to": None, name: value}
    with pytest.raises(InvalidArgument, match=f"{name} must be a timezone-aware datetime"):
        unix_bounds(**arguments)
    with pytest.raises(InvalidArgument, match=f"{name} must be a timezone-aware datetime"):
        TimeWindow(**arguments)


def test_bounds_in_the_wrong_order_are_refused() -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidArgument, match="created_from is after created_to"):
        unix_bounds(start, start - timedelta(microseconds=1))


def test_the_hour_that_runs_twice_is_told_apart() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first, second = (datetime(2029, 10, 28, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1))
    window = TimeWindow(first, second)
    assert window.contains(first + timedelta(0))
    assert int(unix_bounds(first, second)["to_ts"]) - int(unix_bounds(first, second)["from_ts"]) == 3601
    with pytest.raises(InvalidArgument):
        TimeWindow(second, first)


def test_a_window_is_inclusive_and_exact() -> None:
    start, end = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)
    window = TimeWindow(start, end)
    tick = timedelta(microseconds=1)
    assert [window.contains(at) for at in (start - tick, start, end, end + tick)] == [
        False,
        True,
        True,
        False,
    ]
    assert TimeWindow(None, end).contains(start - tick)
    assert TimeWindow(start).contains(end + tick)
    assert TimeWindow().contains(start)


def test_a_row_without_a_readable_time_stays() -> None:
    assert TimeWindow(datetime(2030, 1, 1, tzinfo=UTC)).contains(None)


def test_a_row_time_without_a_zone_is_utc() -> None:
    window = TimeWindow(datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
    assert window.contains(NAIVE)


MIDNIGHT = datetime(2026, 1, 15, tzinfo=UTC)


@each_row(
    ("first", "last", "query"),
    [
        (None, None, {}),
        (
            MIDNIGHT,
            None,
            {"start_date": "2026-01-15T00:00:00Z", "start_time": "15-01-2026 00:00:00"},
        ),
        (
            None,
            MIDNIGHT,
            {"end_date": "2026-01-15T23:59:59Z", "end_time": "15-01-2026 23:59:59"},
        ),
        (
            datetime(2026, 1, 15, 3, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            datetime(2026, 1, 15, 23, 59, 59, 1, tzinfo=UTC),
            {
                "start_date": "2026-01-14T00:00:00Z",
                "start_time": "14-01-2026 00:00:00",
                # The last second of a day has fractions that 23:59:59 does not include.
                "end_date": "2026-01-16T23:59:59Z",
                "end_time": "16-01-2026 23:59:59",
            },
        ),
        (
            datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
            datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
            {
                "start_date": "0001-01-01T00:00:00Z",
                "start_time": "01-01-0001 00:00:00",
                "end_date": "9999-12-31T23:59:59Z",
                "end_time": "31-12-9999 23:59:59",
            },
        ),
    ],
)
def test_bounds_of_call_logs_are_whole_days_in_both_spellings(
    first: datetime | None, last: datetime | None, query: dict[str, str]
) -> None:
    assert paths.day_bounds(TimeWindow(first, last)) == query


@given(moments, moments)
def test_days_include_every_time_of_the_window(created: datetime, bound: datetime) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    day = (created - epoch) // timedelta(days=1)
    for window in (
        TimeWindow(created_from=bound, truncated=False),
        TimeWindow(created_to=bound, truncated=False),
    ):
        if not window.contains(created):
            continue
        query = paths.day_bounds(window)
        text = query.get("start_date") or query["end_date"]
        limit = date.fromisoformat(text.partition("T")[0]).toordinal() - epoch.toordinal()
        in_calendar = date.min.toordinal() <= day + epoch.toordinal() <= date.max.toordinal()
        assert (day >= limit if "start_date" in query else day <= limit) or not in_calendar


def test_a_window_without_truncation_is_exact() -> None:
    bound = datetime(2026, 1, 15, 10, 0, 0, 500_000, tzinfo=UTC)
    second = bound.replace(microsecond=0)
    assert TimeWindow(bound).contains(second)
    exact = TimeWindow(bound, bound, truncated=False)
    assert not exact.contains(second)
    assert exact.contains(bound)
    assert exact.contains(None)
    assert exact.contains(bound.astimezone(timezone(timedelta(hours=5))))
    assert not exact.contains(bound + timedelta(microseconds=1))
