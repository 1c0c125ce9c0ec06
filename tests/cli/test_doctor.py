"""doctor: each thing that can stand in the way, by a service that really is so."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import here, settings
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

PAGE = b'{"count": 0, "status_code": 200, "message": "", "data": []}'


async def examine(environment: dict[str, str], *argv: str) -> tuple[int, dict[str, dict[str, Any]]]:
    ended = await here(environment, "doctor", *argv)
    assert ended.err == ""
    told = [json.loads(line) for line in ended.out.splitlines()]
    return ended.status, {one["check"]: one for one in told}


def problems(told: dict[str, dict[str, Any]]) -> list[str]:
    return [check for check, one in told.items() if one["state"] == "problem"]


async def test_all_is_well() -> None:
    async with Sandbox(runs=7) as sandbox:
        status, told = await examine(settings(sandbox), sandbox.space_token)
        bare, told_bare = await examine(settings(sandbox))

    assert (status, bare) == (0, 0)
    for check in ("token", "base URL", "service", "clock", "access", "org", "space"):
        assert told[check]["state"] == "ok"
    assert told["space"]["said"] == f"{sandbox.space_token}: 7 runs can be read"
    assert "space" not in told_bare


async def test_people_get_a_table() -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await here({**settings(sandbox), "COLUMNS": "60"}, "doctor", "--table")

    assert (ended.status, ended.err) == (0, "")
    assert "ok       access    the token is accepted" in ended.out
    assert max(len(line) for line in ended.out.splitlines()) <= 60


async def test_no_token() -> None:
    status, told = await examine({})

    assert (status, problems(told)) == (1, ["token"])


async def test_a_setting_that_cannot_work() -> None:
    status, told = await examine({"UNPOD_PLATFORM_TOKEN": "x", "UNPOD_BASE_URL": "http://example.com"})

    assert (status, problems(told)) == (1, ["settings"])
    assert "https://, or --allow-http" in told["settings"]["said"]


async def test_a_token_file_that_others_may_read(tmp_path: Path) -> None:
    async with Sandbox(runs=1) as sandbox:
        file = tmp_path / "token"
        file.write_text(sandbox.token)
        file.chmod(0o644)
        ended = await here(settings(sandbox), "doctor", "--token-file", str(file))

    assert ended.status == 0
    assert "others of this machine may read its file" in ended.out


@pytest.mark.parametrize("with_org", [True, False])
async def test_a_token_that_is_no_good(*, with_org: bool) -> None:
    async with Sandbox(runs=1) as sandbox:
        more = {} if with_org else {"UNPOD_ORG_HANDLE": None}
        status, told = await examine(settings(sandbox, UNPOD_PLATFORM_TOKEN="wrong", **more))

    assert (status, problems(told)) == (4, ["access"])
    assert "refused with each of Token, JWT, Bearer" in told["access"]["said"]
    assert "asks for Token" in told["access"]["said"]


async def test_a_token_with_the_wrong_scheme() -> None:
    async with Sandbox(runs=1) as sandbox:
        jwt, told_jwt = await examine(settings(sandbox, UNPOD_PLATFORM_TOKEN=sandbox.jwt))
        key, told_key = await examine(settings(sandbox), sandbox.space_token, "--auth-scheme", "Bearer")

    assert (jwt, key) == (4, 4)
    assert told_jwt["access"]["advice"].startswith("use --auth-scheme JWT")
    assert told_key["access"]["advice"].startswith("use --auth-scheme Token")


async def test_without_an_organization_it_says_how_to_find_it() -> None:
    async with Sandbox(runs=1) as sandbox:
        status, told = await examine(settings(sandbox, UNPOD_ORG_HANDLE=None))
        argv = ("--auth-scheme", "JWT")
        by_jwt = settings(sandbox, UNPOD_ORG_HANDLE=None, UNPOD_PLATFORM_TOKEN=sandbox.jwt)
        _, told_jwt = await examine(by_jwt, *argv)

    assert (status, problems(told)) == (0, [])
    assert told["access"]["state"] == "ok"  # although the key is refused where organizations are listed
    assert told["org"]["state"] == "note"
    assert "domain_handle" in told["org"]["advice"]
    assert told_jwt["org"]["advice"] == "yours: acme.example; set UNPOD_ORG_HANDLE to one"


async def test_an_organization_that_does_not_exist() -> None:
    async with Sandbox(runs=1) as sandbox:
        status, told = await examine(settings(sandbox, UNPOD_ORG_HANDLE="Acme.Example"))

    assert (status, problems(told)) == (1, ["org"])
    assert "small and capital letters" in told["org"]["advice"]


async def test_a_space_that_is_not_yours() -> None:
    async with Sandbox(runs=1) as sandbox:
        status, told = await examine(settings(sandbox), "SPACEFOREIGN000000000006")

    assert (status, problems(told)) == (1, ["space"])
    assert told["access"]["state"] == "ok"


async def test_a_token_that_may_not() -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(Fault(status=403, body=b'{"message": "No access."}'))
        status, told = await examine(settings(sandbox), sandbox.space_token)

    assert (status, problems(told)) == (4, ["access"])


async def test_nobody_there() -> None:
    async with Sandbox(runs=1) as sandbox:
        environment = settings(sandbox)
    status, told = await examine(environment)

    assert (status, problems(told)) == (1, ["service"])
    assert "no connection" in told["service"]["said"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Fault(status=404, body=b"<html><title>Not Found</title></html>", content_type="text/html"), "HTML"),
        (Fault(status=302, headers={"Location": "https://login.example/"}), "redirects"),
        (Fault(body=b"<html>Log in</html>", content_type="text/html"), "is no JSON"),
        (Fault(status=503), "answered 503"),
    ],
)
async def test_something_else_answers_or_is_in_trouble(answer: Fault, said: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(answer)
        status, told = await examine(settings(sandbox))

    assert (status, problems(told)) == (1, ["service"])
    assert said in told["service"]["said"]


@pytest.mark.parametrize(("hours", "said"), [(3, "behind"), (-3, "ahead of")])
async def test_a_clock_that_is_off(hours: int, said: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        theirs = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
        sandbox.script(Fault(body=PAGE, headers={"Date": theirs}))
        status, told = await examine(settings(sandbox), sandbox.space_token)

    assert (status, problems(told)) == (1, ["clock"])
    assert said in told["clock"]["said"]
