"""`doctor`: each problem it can find, with a service that really has it."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.cli.harness import run_cli, run_process, settings
from tests.raw_server import RawServer, json_response
from tests.tables import each_row
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from tests.raw_server import RawConnection

PAGE = b'{"count": 0, "status_code": 200, "message": "", "data": []}'


async def run_doctor(environment: dict[str, str], *argv: str) -> tuple[int, dict[str, dict[str, Any]]]:
    result = await run_cli(environment, "doctor", *argv)
    assert result.err == ""
    findings = [json.loads(line) for line in result.out.splitlines()]
    assert all(len(finding["advice"] or "") <= 80 for finding in findings)
    return result.status, {finding["check"]: finding for finding in findings}


def problems(findings: dict[str, dict[str, Any]]) -> list[str]:
    return [check for check, finding in findings.items() if finding["state"] == "problem"]


async def test_a_working_setup() -> None:
    async with Sandbox(runs=7) as sandbox:
        status, findings = await run_doctor(settings(sandbox), sandbox.space_token)
        bare, bare_findings = await run_doctor(settings(sandbox))

    assert (status, bare) == (0, 0)
    for check in ("token", "base URL", "service", "clock", "access", "org", "space"):
        assert findings[check]["state"] == "ok"
    assert findings["space"]["message"] == f"{sandbox.space_token}: 7 runs can be read"
    assert "space" not in bare_findings


async def test_the_table_fits() -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli({**settings(sandbox), "COLUMNS": "60"}, "doctor", "--table")

    assert (result.status, result.err) == (0, "")
    assert "ok       access    the token is accepted" in result.out
    assert max(len(line) for line in result.out.splitlines()) <= 60


async def test_the_proxy_is_shown_without_its_password_and_others_are_named() -> None:
    async with Sandbox(runs=1) as sandbox:
        # The sandbox answers a request that names the whole URL, as a proxy is asked.
        proxy = sandbox.base_url.replace("://", "://user:5ecret@")
        _, used = await run_doctor(settings(sandbox, UNPOD_PROXY=proxy, HTTPS_PROXY="http://127.0.0.1:9"))
        _, given = await run_doctor(settings(sandbox), "--proxy", sandbox.base_url)
        _, ignored = await run_doctor(settings(sandbox, https_proxy="http://127.0.0.1:9"))
        _, none = await run_doctor(settings(sandbox))

    address = sandbox.base_url.removeprefix("http://")
    assert used["proxy"]["message"] == f"{address}, from the environment variable UNPOD_PROXY"
    assert given["proxy"]["message"] == f"{address}, from --proxy"
    assert (ignored["proxy"]["state"], ignored["proxy"]["message"].split()[0]) == ("note", "https_proxy")
    assert "UNPOD_PROXY" in ignored["proxy"]["advice"]
    assert "proxy" not in none


async def test_there_is_no_token() -> None:
    status, findings = await run_doctor({})

    assert (status, problems(findings)) == (1, ["token"])


async def test_an_invalid_setting() -> None:
    status, findings = await run_doctor({"UNPOD_PLATFORM_TOKEN": "x", "UNPOD_BASE_URL": "http://example.com"})

    assert (status, problems(findings)) == (1, ["settings"])
    assert "--allow-http" in findings["settings"]["advice"]


async def test_a_token_file_that_other_users_can_read(tmp_path: Path) -> None:
    async with Sandbox(runs=1) as sandbox:
        file = tmp_path / "token"
        file.write_text(sandbox.token)
        file.chmod(0o644)
        result = await run_cli(settings(sandbox), "doctor", "--token-file", str(file))

    assert result.status == 0
    assert "other users of this machine can read its file" in result.out


@pytest.mark.parametrize("with_org", [True, False])
async def test_an_invalid_token(*, with_org: bool) -> None:
    async with Sandbox(runs=1) as sandbox:
        more = {} if with_org else {"UNPOD_ORG_HANDLE": None}
        status, findings = await run_doctor(settings(sandbox, UNPOD_PLATFORM_TOKEN="wrong", **more))

    assert (status, problems(findings)) == (4, ["access"])
    assert findings["access"]["message"] == "the token is rejected with each of Token, JWT, Bearer"
    assert findings["access"]["advice"].startswith("check that the key is complete")


async def test_a_token_with_the_wrong_scheme() -> None:
    async with Sandbox(runs=1) as sandbox:
        jwt, jwt_findings = await run_doctor(settings(sandbox, UNPOD_PLATFORM_TOKEN=sandbox.jwt))
        key, key_findings = await run_doctor(
            settings(sandbox), sandbox.space_token, "--auth-scheme", "Bearer"
        )

    assert (jwt, key) == (4, 4)
    assert jwt_findings["access"]["advice"].startswith("use --auth-scheme JWT")
    assert key_findings["access"]["advice"].startswith("use --auth-scheme Token")


async def test_without_an_organization_it_explains_how_to_find_it() -> None:
    async with Sandbox(runs=1) as sandbox:
        status, findings = await run_doctor(settings(sandbox, UNPOD_ORG_HANDLE=None))
        argv = ("--auth-scheme", "JWT")
        by_jwt = settings(sandbox, UNPOD_ORG_HANDLE=None, UNPOD_PLATFORM_TOKEN=sandbox.jwt)
        _, jwt_findings = await run_doctor(by_jwt, *argv)

    assert (status, problems(findings)) == (0, [])
    assert findings["access"]["state"] == "ok"  # although the listing of organizations rejects the key
    assert findings["org"]["state"] == "note"
    assert "domain_handle" in findings["org"]["advice"]
    assert jwt_findings["org"]["advice"] == "set UNPOD_ORG_HANDLE to one of your handles: acme.example"


async def test_an_unknown_organization() -> None:
    async with Sandbox(runs=1) as sandbox:
        status, findings = await run_doctor(settings(sandbox, UNPOD_ORG_HANDLE="Acme.Example"))

    assert (status, problems(findings)) == (1, ["org"])
    assert "the case of the handle" in findings["org"]["advice"]


async def test_a_space_of_another_account() -> None:
    async with Sandbox(runs=1) as sandbox:
        status, findings = await run_doctor(settings(sandbox), "SPACEFOREIGN000000000006")

    assert (status, problems(findings)) == (4, ["space"])
    assert findings["access"]["state"] == "ok"
    # An API key may not list spaces, so the command is not recommended.
    assert "ask an administrator" in findings["space"]["advice"]
    assert "unpod-async spaces" not in findings["space"]["advice"]


async def test_it_recommends_the_list_of_spaces_if_that_works() -> None:
    async with Sandbox(runs=1) as sandbox:
        environment = settings(sandbox, UNPOD_PLATFORM_TOKEN=sandbox.jwt)
        argv = ("SPACEFOREIGN000000000006", "--auth-scheme", "JWT")
        status, findings = await run_doctor(environment, *argv)
        listed = await run_cli(environment, "spaces", "--auth-scheme", "JWT")

    assert (status, problems(findings)) == (4, ["space"])
    assert "`unpod-async spaces` lists your spaces" in findings["space"]["advice"]
    assert listed.status == 0


async def test_a_handle_is_recommended_only_if_it_works() -> None:
    async with Sandbox(runs=1) as sandbox:
        environment = settings(sandbox, UNPOD_ORG_HANDLE="Acme.Example", UNPOD_PLATFORM_TOKEN=sandbox.jwt)
        status, findings = await run_doctor(environment, "--auth-scheme", "JWT")
        assert (status, problems(findings)) == (1, ["org"])
        assert "use one of your handles: acme.example" in findings["org"]["advice"]

        for handle in (None, "Acme.Example"):
            environment = settings(sandbox, UNPOD_ORG_HANDLE=handle, UNPOD_PLATFORM_TOKEN=sandbox.jwt)
            sandbox.script(*[Fault(status=404, body=b'{"message": "gone"}', path="/agents/", times=2)])
            _, findings = await run_doctor(environment, "--auth-scheme", "JWT")
            sandbox.script(Fault(path="/agents/"))
            assert "acme.example" not in findings["org"]["advice"]
            assert "ask an administrator" in findings["org"]["advice"]
            await run_doctor(settings(sandbox))  # uses up what is left of the script


async def test_a_certificate_of_a_private_authority(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def answer(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(json_response(PAGE))

    async with RawServer(answer, context) as server:
        environment = {"UNPOD_PLATFORM_TOKEN": "x" * 40, "UNPOD_BASE_URL": server.base_url}
        _, findings = await run_doctor(environment, "SPACE")
        trusted = {**environment, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        listing = await run_process(trusted, "runs", "SPACE")

    assert problems(findings) == ["service"]
    assert "certificate of 127.0.0.1 is refused" in findings["service"]["message"]
    assert findings["service"]["advice"].endswith("for a private certificate authority, set SSL_CERT_FILE")
    assert (listing.status, listing.err) == (0, "There are no runs in the space.\n")


async def test_a_port_without_tls() -> None:
    async with Sandbox(runs=1) as sandbox:
        url = sandbox.base_url.replace("http:", "https:")
        _, findings = await run_doctor(settings(sandbox, UNPOD_BASE_URL=url))

    assert problems(findings) == ["service"]
    assert findings["service"]["advice"].startswith("check the port in --base-url; without TLS, use http://")


async def test_a_token_without_permission() -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(Fault(status=403, body=b'{"message": "No access."}'))
        status, findings = await run_doctor(settings(sandbox), sandbox.space_token)

    assert (status, problems(findings)) == (4, ["access"])
    # The service documents 403 for an expired token, too.
    assert "renew the token, or ask an administrator for a role" in findings["access"]["advice"]


GATEWAYS = [
    Fault(status=400, body=b'{"message": "Bad request"}', times=9),
    Fault(status=402, body=b'{"message": "Pay first"}', times=9),
    Fault(status=404, body=b'{"message": "no Route matched with those values"}', times=9),
    Fault(status=405, body=b'{"message": "Method not allowed"}', times=9),
    Fault(status=409, times=9),
    Fault(status=418, body=b'{"detail": "teapot"}', times=9),
    Fault(status=206, body=b'{"errors": {"a": ["b"]}}', times=9),
    Fault(body=b'{"status_code": 400, "message": "no"}', times=9),
    Fault(body=PAGE, path="/runs/", times=9),
]
"""Answers of something that has not looked at the token."""


@pytest.mark.parametrize("with_org", [True, False])
@each_row("answer", GATEWAYS)
async def test_a_token_is_accepted_only_on_evidence(answer: Fault, *, with_org: bool) -> None:
    if answer.body == PAGE and with_org:
        return  # the agents of an organization were listed
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(answer)
        more = {} if with_org else {"UNPOD_ORG_HANDLE": None}
        status, findings = await run_doctor(settings(sandbox, **more))

    assert (status, problems(findings)) == (1, ["access"])
    assert findings["access"]["message"].startswith("it is not known whether the token is accepted: ")
    assert "accepted with" not in json.dumps(findings)


@each_row("answer", [answer for answer in GATEWAYS if answer.path is None])
async def test_a_scheme_is_recommended_only_on_evidence(answer: Fault) -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(Fault(status=401, body=b'{"message": "no"}'), answer)
        status, findings = await run_doctor(settings(sandbox))

    assert (status, problems(findings)) == (4, ["access"])
    assert "--auth-scheme" not in findings["access"]["advice"]
    assert findings["access"]["message"] == "the token is rejected with Token"


async def test_a_gateway_that_answers_once_does_not_matter() -> None:
    async with Sandbox(runs=1) as sandbox:
        for answer in GATEWAYS[:-1]:
            once = Fault(status=answer.status, body=answer.body, path="/runs/")
            sandbox.script(once)
            _, findings = await run_doctor(settings(sandbox), sandbox.space_token)
            assert findings["access"]["state"] == "ok"
            assert findings["space"]["state"] == "problem"


async def test_an_unreachable_service(refusing_port: int) -> None:
    async with Sandbox(runs=1) as sandbox:
        environment = {**settings(sandbox), "UNPOD_BASE_URL": f"http://127.0.0.1:{refusing_port}"}
        status, findings = await run_doctor(environment)

    assert (status, problems(findings)) == (1, ["service"])
    assert "no connection" in findings["service"]["message"]
    assert findings["service"]["advice"] == "check --base-url and the network"


async def test_a_proxy_that_does_not_run(refusing_port: int) -> None:
    async with Sandbox(runs=1) as sandbox:
        proxy = f"http://127.0.0.1:{refusing_port}"
        status, findings = await run_doctor(settings(sandbox, UNPOD_PROXY=proxy))

    assert (status, problems(findings)) == (1, ["service"])
    assert "no connection to the proxy" in findings["service"]["message"]
    assert findings["service"]["advice"] == "check --proxy or UNPOD_PROXY, and that the proxy runs"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Fault(status=404, body=b"<html><title>Not Found</title></html>", content_type="text/html"), "HTML"),
        (Fault(status=302, headers={"Location": "https://login.example/"}), "answered 302"),
        (Fault(body=b"<html>Log in</html>", content_type="text/html"), "is not a JSON listing"),
        (Fault(status=503), "answered 503"),
    ],
)
async def test_another_server_or_a_failing_service(answer: Fault, message: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(answer)
        status, findings = await run_doctor(settings(sandbox))

    assert (status, problems(findings)) == (1, ["service"])
    assert message in findings["service"]["message"]


@pytest.mark.parametrize(("hours", "message"), [(3, "behind"), (-3, "ahead of")])
async def test_a_wrong_clock(hours: int, message: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        server_time = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
        sandbox.script(Fault(body=PAGE, headers={"Date": server_time}))
        status, findings = await run_doctor(settings(sandbox), sandbox.space_token)

    assert (status, problems(findings)) == (1, ["clock"])
    assert message in findings["clock"]["message"]
