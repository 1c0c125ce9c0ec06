"""Time bounds against a server that stores and filters fractions of seconds, and cuts them in its rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.export.model_space import SPACE, model_space, run_id, written
from tests.tables import each_row
from unpod_async import InvalidArgument, UnpodClient
from unpod_async._common import is_before

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
BERLIN = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
STORED = [NOON + timedelta(milliseconds=100 * step) for step in range(35)]


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@asynccontextmanager
async def cutting_server() -> AsyncIterator[UnpodClient]:
    async def tasks(request: web.Request) -> web.Response:
        query = request.query
        start, end = float(query.get("from_ts", "0")), float(query.get("to_ts", "inf"))
        rows = [
            {"task_id": f"T{number}", "created": f"{created:%Y-%m-%dT%H:%M:%S}"}
            for number, created in enumerate(STORED)
            if start <= created.timestamp() <= end
        ]
        page, size = int(query["page"]), int(query["page_size"])
        shown = rows[::-1][(page - 1) * size : page * size]
        return web.json_response({"count": len(rows), "status_code": 200, "data": shown})

    app = web.Application()
    app.router.add_get("/{path:.*}", tasks)
    async with (
        TestServer(app) as server,
        UnpodClient("k" * 40, base_url=str(server.make_url("/"))) as unpod,
    ):
        yield unpod


@each_row(
    ("since", "until"),
    [(0, 3), (1, 1), (1, 2), (0.5, 2.5), (1.999, 2.001), (0.3, None), (2.75, None), (None, 2), (None, 1.05)],
)
async def test_no_task_of_the_window_is_missing(since: float | None, until: float | None) -> None:
    first = None if since is None else at(since)
    last = None if until is None else at(until)
    async with cutting_server() as unpod:
        found = await unpod.tasks.list("S", created_from=first, created_to=last).collect()
    in_window = {
        f"T{number}"
        for number, created in enumerate(STORED)
        if (first is None or first <= created) and (last is None or created <= last)
    }
    assert in_window <= {task.task_id for task in found}
    # By the times that the rows show, whole seconds are in or out, and the last bound is exact.
    shown = {task.created_at for task in found}
    assert first is None or min(filter(None, shown)) == first.replace(microsecond=0)
    assert last is None or max(filter(None, shown)) == last.replace(microsecond=0)


@each_row(
    ("created", "bound", "expected"),
    [
        (at(1), at(1), False),
        (at(1), at(1.999), False),
        (at(1), at(2), True),
        (at(0.999999), at(1), True),
        (at(1.25), at(1.5), True),  # it has its fraction
        (at(1.5), at(1.5), False),
    ],
)
def test_is_before(created: datetime, bound: datetime, expected: bool) -> None:
    assert is_before(created, bound) is expected


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (at(5), None, {5, 6, 7, 8, 9}),  # the time that a row shows
        (at(5.4), None, {5, 6, 7, 8, 9}),  # the time that the server stores
        (None, at(5), {0, 1, 2, 3, 4, 5}),
        (None, at(5.4), {0, 1, 2, 3, 4, 5}),
        (at(5), at(5), {5}),
        (at(2.9), at(4.1), {2, 3, 4}),
    ],
)
async def test_an_export_has_every_run_of_its_window(
    tmp_path: Path, since: datetime | None, until: datetime | None, expected: set[int]
) -> None:
    async with model_space() as space, space.client() as unpod:
        for number in range(10):
            space.add_run(number, 1, created=f"{at(number):%Y-%m-%dT%H:%M:%S}")
        for _ in range(2):
            summary = await unpod.export(SPACE, tmp_path, since=since, until=until)
            assert summary.complete
            assert written(tmp_path, "runs").keys() == {run_id(number) for number in expected}


@each_row(
    "options",
    [
        {"since": "2030-01-31"},
        {"since": 5},
        {"since": NOON.replace(tzinfo=None)},
        {"since": at(0.6), "until": at(0.5)},
        {"since": NOON, "until": at(-1)},
        # 02:30 comes twice that night.
        {"since": BERLIN.replace(fold=1), "until": BERLIN},
    ],
)
async def test_an_error_of_since_names_since(tmp_path: Path, options: dict[str, Any]) -> None:
    async with UnpodClient("k" * 40) as unpod:
        with pytest.raises(InvalidArgument, match="since") as raised:
            await unpod.export(SPACE, tmp_path / "set", **options)
    assert raised.value.argument == "since"
    assert "created_from" not in str(raised.value)


@pytest.mark.parametrize("east", [14, -14])
async def test_the_ends_of_the_calendar_are_bounds(tmp_path: Path, east: int) -> None:
    zone = timezone(timedelta(hours=east))
    options = {"since": datetime.min.replace(tzinfo=zone), "until": datetime.max.replace(tzinfo=zone)}
    async with model_space() as space, space.client() as unpod:
        space.add_run(1, 1)
        for _ in range(2):
            assert (await unpod.export(SPACE, tmp_path, **options)).runs == 1
