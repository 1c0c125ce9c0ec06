"""Collects the table of the fault matrix, README.md, from a run of the whole directory.

`python -m nox -s fault-table` writes it; `python -m nox -s fault-table -- check` fails if it would change. No
other run touches it.
"""

from __future__ import annotations

import os
import re
import sys
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

`python -m nox -s fault-table` writes this table from a run of the tests; `test_matrix.py` checks that no row
is missing. *Sends* are requests that reached the server, in the order of *seen*.

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
    mode = os.environ.get("UNPOD_FAULT_TABLE")
    if mode not in {"write", "check"}:
        return
    path = HERE / "README.md"
    if set(BOOK.verdicts) != set(ROWS) - set(LATER):
        problem = "not all rows of the matrix were tested"
    elif path.read_text(encoding="utf-8") == (text := _HEAD + "".join(map(_line, sorted(ROWS)))):
        return
    elif mode == "write":
        path.write_text(text, encoding="utf-8")
        return
    else:
        problem = "it is out of date: run `python -m nox -s fault-table`"
    sys.stderr.write(f"\n{path}: {problem}\n")
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _line(number: int) -> str:
    fault, expected = ROWS[number]
    if number in LATER:
        return f"| {number} | {fault} | {expected} | {LATER[number]} | – | – |\n"
    seen = BOOK.seen.get(number, {})
    passed = "yes" if all(BOOK.verdicts[number]) else "**no**"
    return (
        f"| {number} | {fault} | {expected} | {'; '.join(seen)} | {', '.join(seen.values())} | {passed} |\n"
    )
