"""`@each_row` runs every row and names every row that failed."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from tests.tables import each_row


def notes(group: BaseExceptionGroup[BaseException]) -> list[list[str]]:
    return [error.__notes__ for error in group.exceptions]


def test_every_row_runs_and_every_failure_names_its_row() -> None:
    seen: list[tuple[int, str]] = []

    @each_row("number, word", [(1, "a"), pytest.param(2, "b", id="second"), (3, "c")])
    def check(number: int, word: str) -> None:
        seen.append((number, word))
        assert number == 1
        with pytest.raises(ValueError, match="never"):
            pass

    with pytest.raises(BaseExceptionGroup, match="3 of 3 rows failed") as caught:
        check()
    assert seen == [(1, "a"), (2, "b"), (3, "c")]
    assert notes(caught.value) == [
        ["row 0 (number=1, word='a')"],
        ["row 1 (second: number=2, word='b')"],
        ["row 2 (number=3, word='c')"],
    ]


def test_stacked_tables_give_all_combinations_and_leave_the_fixtures() -> None:
    seen: list[tuple[int, int]] = []

    @each_row("one", [1, 2])
    @each_row("two", [3, 4], ids=str)
    def check(one: int, fixture: object, two: int) -> None:
        seen.append((one, two))

    assert list(inspect.signature(check).parameters) == ["fixture"]
    check(fixture=None)
    assert seen == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_an_async_test_stays_async() -> None:
    @each_row("number", [1, 2], ids=["one", "two"])
    async def check(number: int) -> None:
        await asyncio.sleep(0)
        assert number == 1

    assert inspect.iscoroutinefunction(check)
    with pytest.raises(BaseExceptionGroup, match="1 of 2 rows failed") as caught:
        asyncio.run(check())
    assert notes(caught.value) == [["row 1 (two: number=2)"]]


def test_a_skip_or_an_interrupt_ends_the_test() -> None:
    @each_row("kind", [KeyboardInterrupt, ValueError])
    def check(kind: type[BaseException]) -> None:
        raise kind

    with pytest.raises(KeyboardInterrupt):
        check()


def test_a_name_that_the_test_does_not_take_is_an_error() -> None:
    with pytest.raises(AssertionError, match="does not take"):
        each_row("other", [1])(lambda number: None)
