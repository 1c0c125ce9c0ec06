"""The promises that `python -m nox -s promises` measures, on a small scale."""

from __future__ import annotations

from benchmarks.promises import Line, deadlines, outage, pause


def check(lines: list[Line]) -> None:
    assert lines
    assert [str(line) for line in lines if not line.kept] == []


async def test_an_outage_costs_little_more_than_one_request_per_call() -> None:
    check(await outage(400))


async def test_nothing_is_sent_while_the_server_asks_for_a_pause_and_then_one_request_goes_first() -> None:
    check(await pause())


async def test_no_deadline_is_overrun() -> None:
    # `nox -s promises` measures milliseconds. Here a deadline that is ignored is overrun by seconds.
    check(await deadlines(1, limit=2000))
