"""`@each_row`: one test for all rows of a table, where `parametrize` of pytest would make a test of each."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["each_row"]


def each_row(
    names: str | Sequence[str],
    rows: Iterable[Any],
    *,
    ids: Callable[[Any], Any] | Sequence[str] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a test for each row of a table, and report every row that fails.

    It takes the arguments of `pytest.mark.parametrize`, and can be stacked like it for all combinations.
    Fixtures are set up once for all rows, so use it for tests that leave their fixtures as they were.

    Args:
        names: the arguments that a row gives, as a sequence or separated by commas.
        rows: a tuple for each row, or single values if there is one name. `pytest.param` with an id works.
        ids: names for the rows in a failure, or a function that returns the name for a value.

    Raises:
        BaseExceptionGroup: at least one row failed; it holds the failure of each, which names its row.
    """
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    cases = [_case(row, keys) for row in rows]
    assert cases, "a table needs rows"
    labels = [_label(number, values, given, ids) for number, (values, given) in enumerate(cases)]

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        def report(failures: list[BaseException]) -> None:
            if failures:
                text = f"{len(failures)} of {len(cases)} rows failed"
                raise BaseExceptionGroup(text, failures)

        if inspect.iscoroutinefunction(test):

            @functools.wraps(test)
            async def run(*args: Any, **fixtures: Any) -> None:
                failures: list[BaseException] = []
                for label, (values, _) in zip(labels, cases, strict=True):
                    try:
                        await test(*args, **fixtures, **values)
                    except FAILURES as error:
                        error.add_note(f"row {label}")
                        failures.append(error)
                report(failures)

        else:

            @functools.wraps(test)
            def run(*args: Any, **fixtures: Any) -> None:
                failures: list[BaseException] = []
                for label, (values, _) in zip(labels, cases, strict=True):
                    try:
                        test(*args, **fixtures, **values)
                    except FAILURES as error:
                        error.add_note(f"row {label}")
                        failures.append(error)
                report(failures)

        signature = inspect.signature(test)
        left = [each for name, each in signature.parameters.items() if name not in keys]
        assert len(left) == len(signature.parameters) - len(keys), f"the test does not take all of {keys}"
        run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return run

    return decorate


FAILURES = (Exception, pytest.fail.Exception, BaseExceptionGroup)
"""What fails a row. A skip, an interrupt or a cancellation ends the whole test."""


def _case(row: Any, keys: list[str]) -> tuple[dict[str, Any], str | None]:
    given = None
    if isinstance(row, type(pytest.param())):
        assert not row.marks, "a row of a table has no marks"
        given = None if row.id is None else str(row.id)
        values: Sequence[Any] = row.values
    else:
        values = (row,) if len(keys) == 1 else row
    return dict(zip(keys, values, strict=True)), given


def _label(number: int, values: dict[str, Any], given: str | None, ids: Any) -> str:
    if given is None and callable(ids):
        given = "-".join(str(ids(value)) for value in values.values())
    elif given is None and ids is not None:
        given = str(ids[number])
    text = ", ".join(f"{name}={value!r}" for name, value in values.items())
    text = text if len(text) <= 300 else f"{text[:300]}..."
    return f"{number} ({text})" if given is None else f"{number} ({given}: {text})"
