"""Writes README.md, the table of the fault matrix, from a run of the whole directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import BOOK, Row
from tests.faults.matrix import LATER, ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
_ROW = re.compile(r"test_row_(\d\d)_")
_HEAD = """\
# Fault matrix

Written by the test run itself (`python -m pytest tests/faults`); `test_matrix.py` sees to it that no row is
missing. *Sends* are requests that really reached the server, in the order of *seen*.

| # | fault | expected | seen | sends | passed |
|---|---|---|---|---|---|
"""


def row_of(item: pytest.Item) -> int | None:
    found = _ROW.match(item.name)
    return int(found[1]) if found and HERE in item.path.parents else None


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """The row of the matrix that the test is named after."""
    number = row_of(request.node)
    assert number is not None, "a test that uses `row` is named test_row_NN_..."
    return Row(number)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    number = row_of(item)
    if number is not None and (report.when == "call" or report.failed):
        BOOK.verdicts.setdefault(number, []).append(report.passed)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if set(BOOK.verdicts) != set(ROWS) - set(LATER) or session.config.option.keyword:
        return  # not the whole directory
    collected = {row_of(item) for item in session.items} - {None}
    if collected != set(BOOK.verdicts):
        return
    path = HERE / "README.md"
    text = _HEAD + "".join(_line(number) for number in sorted(ROWS))
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _line(number: int) -> str:
    fault, expected = ROWS[number]
    if number in LATER:
        return f"| {number} | {fault} | {expected} | {LATER[number]} | – | – |\n"
    seen = BOOK.seen.get(number, {})
    passed = "yes" if all(BOOK.verdicts[number]) else "**no**"
    return (
        f"| {number} | {fault} | {expected} | {'; '.join(seen)} | {', '.join(seen.values())} | {passed} |\n"
    )
