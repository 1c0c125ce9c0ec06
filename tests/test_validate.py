"""The checks of arguments: what is accepted, what is refused, and that the error names the argument."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import pytest

from unpod_async import Run
from unpod_async._http import (
    MAX_INTEGER,
    check_aware_datetime,
    check_bool,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    check_run_id,
    check_run_ids,
    check_seconds,
    check_str,
    check_str_or_list,
)
from unpod_async.errors import ConfigurationError, InvalidArgument

INF, NAN = float("inf"), float("nan")
NAIVE, AWARE = datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=UTC)  # noqa: DTZ001
Check = Callable[[str, Any], object]


class Number(IntEnum):
    SEVEN = 7


def any_size(name: str, value: object) -> int:
    return check_integer(name, value, minimum=0, maximum=None)


def any_seconds(name: str, value: object) -> float:
    return check_seconds(name, value, finite=False)


def letter(name: str, value: object) -> str | None:
    return check_choice(name, value, ("a", "b", None))


def run(name: str, value: object) -> Run:
    return check_instance(name, value, Run)


ACCEPTED: list[tuple[Check, object, object]] = [
    (check_integer, 1, 1),
    (check_integer, MAX_INTEGER, MAX_INTEGER),
    (check_integer, Number.SEVEN, 7),
    (any_size, 0, 0),
    (any_size, 10**30, 10**30),
    (check_number, 0.1, 0.1),
    (check_number, 5, 5.0),
    (check_seconds, 1e300, 1e300),
    (any_seconds, 0, 0.0),
    (any_seconds, INF, INF),
    (any_seconds, 10**400, INF),
    (check_bool, False, False),
    (check_str, "", ""),
    (letter, "b", "b"),
    (letter, None, None),
    (check_str_or_list, "ab", ["ab"]),
    (check_str_or_list, ("a", "b"), ["a", "b"]),
    (check_str_or_list, iter(["a"]), ["a"]),
    (check_aware_datetime, AWARE, AWARE),
    (check_run_id, Run(run_id="R1"), "R1"),
    (check_run_id, "R1", "R1"),
    (check_run_ids, "R1", ["R1"]),
    (check_run_ids, Run(run_id="R1"), ["R1"]),
    (check_run_ids, ["R2", Run(run_id="R1")], ["R2", "R1"]),
]

SECONDS = "a finite number of seconds greater than 0"
REFUSED: list[tuple[Check, object, str]] = [
    (check_integer, 0, f"must be an integer from 1 to {MAX_INTEGER}, not 0"),
    (check_integer, 2**31, f"must be an integer from 1 to {MAX_INTEGER}, not 2147483648"),
    (check_integer, 10**5000, f"must be an integer from 1 to {MAX_INTEGER}, not int"),
    (check_integer, True, f"must be an integer from 1 to {MAX_INTEGER}, not bool"),
    (check_integer, "secret", f"must be an integer from 1 to {MAX_INTEGER}, not str"),
    (any_size, -1, "must be an integer of at least 0, not -1"),
    (any_size, None, "must be an integer of at least 0, not None"),
    (check_number, 0, "must be a finite number greater than 0, not 0"),
    (check_number, 10**400, "must be a finite number greater than 0, not inf"),
    (check_seconds, -(10**400), f"must be {SECONDS}, not -inf"),
    (check_seconds, INF, f"must be {SECONDS}, not inf"),
    (check_seconds, NAN, f"must be {SECONDS}, not nan"),
    (check_seconds, "5", f"must be {SECONDS}, not str"),
    (any_seconds, -0.5, "must be a number of seconds of at least 0, not -0.5"),
    (any_seconds, NAN, "must be a number of seconds of at least 0, not nan"),
    (any_seconds, True, "must be a number of seconds of at least 0, not bool"),
    (check_bool, 1, "must be True or False, not int"),
    (check_str, b"secret", "must be a str, not bytes"),
    (letter, "secret", "must be 'a', 'b' or None"),
    (letter, ["a"], "must be 'a', 'b' or None"),
    (run, "secret", "must be a Run, not str"),
    (check_str_or_list, b"ab", "must be a str or a list of str, not bytes"),
    (check_str_or_list, 5, "must be a str or a list of str, not int"),
    (check_aware_datetime, NAIVE, "must be a timezone-aware datetime, not a naive one"),
    (check_aware_datetime, "2030-01-01", "must be a timezone-aware datetime, not str"),
    (check_run_id, Run(), "contains a Run without a run_id"),
    (check_run_id, 5, "must be a str, not int"),
    (check_run_ids, [], "must contain at least one run id"),
    (check_run_ids, ["R1", "../x"], "'../x' is not a valid id"),
]


def test_accepted_values_are_returned() -> None:
    for check, value, expected in ACCEPTED:
        found = check("argument", value)
        assert found == expected, (check, value)
        assert isinstance(found, type(expected)), (check, value)


def test_a_refusal_begins_with_the_argument_and_never_shows_a_misplaced_secret() -> None:
    for check, value, message in REFUSED:
        with pytest.raises(InvalidArgument, match=f"^argument {re.escape(message)}") as caught:
            check("argument", value)
        assert caught.value.argument == "argument"
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("check", [check_integer, check_number, check_seconds, check_bool, check_str])
def test_client_settings_raise_their_own_class(check: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^setting must be ") as caught:
        check("setting", None, error=ConfigurationError)
    assert caught.value.argument == "setting"


def test_advice_is_passed_on() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_seconds("deadline", None, hint="a wait needs an end")
    assert caught.value.hint == "a wait needs an end"
    assert "deadline" not in caught.value.hint
