"""create: what is shown, asked and refused, and that nothing is ever sent twice."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import Ended, here, settings
from unpod_async.testing import Fault, Sandbox, faults

if TYPE_CHECKING:
    from pathlib import Path

PERSON = ("--name", "A. Example", "--number", "9000000001")
ABOUT = ("--context", "Ask whether Tuesday suits.")


def posts(sandbox: Sandbox) -> int:
    return sum(received.method == "POST" for received in sandbox.log)


async def create(sandbox: Sandbox, *argv: str, **more: str | None) -> Ended:
    agent = () if "--agent" in argv else ("--agent", sandbox.agent_handle)
    return await here(settings(sandbox, **more), "create", sandbox.space_token, *agent, *ABOUT, *argv)


async def test_it_shows_what_it_dials_and_tells_the_run() -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await create(sandbox, *PERSON, "--yes")

        assert ended.status == 0
        created = json.loads(ended.out)
        (call,) = sandbox.ledger
        assert (created["run_id"], created["task_ids"]) == (call.run_id, [call.task_id])
        for shown in (f"1 call in space {sandbox.space_token}", "9000000001 A. Example", "Tuesday", "now"):
            assert shown in ended.err


async def test_without_a_terminal_it_takes_a_yes() -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await create(sandbox, *PERSON)

        assert (ended.status, ended.out) == (2, "")
        assert "nothing was sent" in ended.err
        assert "--yes" in ended.err
        assert sandbox.requests == 0


async def test_a_dry_run_needs_no_token_and_sends_nothing() -> None:
    async with Sandbox(runs=1) as sandbox:
        at = "2030-01-31T10:00+05:30"
        ended = await create(
            sandbox, *PERSON, "--dry-run", "--schedule", at, UNPOD_PLATFORM_TOKEN=None, UNPOD_ORG_HANDLE=None
        )

        assert (ended.status, ended.err) == (0, "")
        body = json.loads(ended.out)
        (document,) = body["documents"]
        assert document.pop("document_id")
        assert document == {"name": "A. Example", "contact_number": "9000000001"}
        assert body["schedule"] == {
            "type": "custom",
            "calling_date": "2030-01-31",
            "calling_time": "10:00+05:30",
        }
        assert sandbox.requests == 0


DOCUMENTS = [
    {"id": "lead-1", "name": "Ä. Example", "contact_number": "+919000000001"},
    {"name": "B, Example", "contact_number": "9000000002", "city": "X"},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("calls.json", json.dumps(DOCUMENTS)),
        ("calls.jsonl", "\n".join(json.dumps(one) for one in DOCUMENTS) + "\n\n"),
        (
            "calls.CSV",
            """\ufeffid,name,contact_number,city
lead-1,Ä. Example,+919000000001,
,"B, Example",9000000002,X
""".replace("\n", "\r\n"),
        ),
    ],
)
async def test_documents_come_from_files(tmp_path: Path, name: str, content: str) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8", newline="")
    async with Sandbox(runs=1) as sandbox:
        ended = await create(sandbox, "--documents", str(file), "--dry-run")

    assert ended.status == 0
    first, second = json.loads(ended.out)["documents"]
    assert first == DOCUMENTS[0]
    assert second.pop("document_id")
    assert second == DOCUMENTS[1]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("calls.json", b'{"name": "secret-name"}', "must be a list"),
        ("calls.json", b"[]", "holds no document"),
        ("calls.json", b"[1]", "item 1 must be an object"),
        ("calls.json", b'[{"name": "secret-name", "contact_number": 9}]', "contact_number must be a str"),
        ("calls.jsonl", b'{"a": 1}\n{secret-name\n', "line 2 is no JSON"),
        ("calls.csv", b"name,contact_number\nsecret-name\n", "line 2 has not as many values"),
        ("calls.csv", b"name,contact_number\nsecret-name,\n", "must have 'contact_number'"),
        ("calls.json", b"[\xff]", "it is not UTF-8"),
        ("calls.txt", b"secret-name", "is no .json, .jsonl or .csv"),
        ("missing.json", None, "No such file"),
    ],
)
async def test_what_is_wrong_with_a_file_is_said_without_its_data(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    async with Sandbox(runs=1) as sandbox:
        ended = await create(sandbox, "--documents", str(file), "--yes")

        assert (ended.status, ended.out) == (2, "")
        assert said in ended.err
        assert "secret-name" not in ended.err
        assert sandbox.requests == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "--documents FILE, or --name and --number"),
        (("--name", "x"), "--documents FILE, or --name and --number"),
        ((*PERSON, "--documents", "x.json"), "and not both"),
        ((*PERSON, "--schedule", "tomorrow"), "--schedule"),
        ((*PERSON, "--schedule", "2030-01-31"), "no time such as"),
        ((*PERSON, "--schedule", "2030-01-31T10:00"), "say the zone"),
        ((*PERSON, "--agent", "../x"), "pilot"),
    ],
)
async def test_what_cannot_be_sent_is_refused_first(argv: tuple[str, ...], said: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await create(sandbox, *argv, "--yes")

        assert ended.status == 2
        assert said in ended.err
        assert sandbox.requests == 0


async def test_an_agent_that_does_not_exist_is_not_called_with() -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await create(sandbox, *PERSON, "--agent", "nobody", "--yes")

        assert ended.status == 2
        assert f"has no agent nobody; it has {sandbox.agent_handle}" in ended.err
        assert (sandbox.ledger, posts(sandbox)) == ([], 0)


async def test_without_an_organization_the_agent_is_not_known_and_that_is_said() -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await create(sandbox, *PERSON, "--yes", UNPOD_ORG_HANDLE=None)

        assert ended.status == 0
        assert "WARNING: not known whether there is such an agent" in ended.err
        assert len(sandbox.ledger) == 1


async def test_a_lost_answer_is_looked_for_and_found() -> None:
    async with Sandbox(runs=1, now=lambda: datetime.now(UTC)) as sandbox:
        sandbox.script(faults.reset_in_body(method="POST"))
        ended = await create(sandbox, *PERSON, "--yes")

        assert ended.status == 0
        (call,) = sandbox.ledger
        found: dict[str, Any] = json.loads(ended.out)
        assert (found["state"], found["run_id"]) == ("created", call.run_id)
        assert "calls may be queued" in ended.err
        assert "Found: all 1 were queued" in ended.err
        assert posts(sandbox) == 1


async def test_a_create_that_is_not_seen_is_not_sent_again() -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(Fault(status=502, method="POST"))
        ended = await create(sandbox, *PERSON, "--yes", "--table")

        assert (ended.status, ended.out) == (1, "")
        assert "Not seen, which is not the same as not queued" in ended.err
        assert (sandbox.ledger, posts(sandbox)) == ([], 1)


async def test_a_create_that_cannot_be_looked_for_is_not_sent_again() -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(faults.reset_in_body(method="POST"), Fault(status=401, path="/runs/"))
        ended = await create(sandbox, *PERSON, "--yes")

        assert (ended.status, ended.out) == (1, "")
        assert "it could not be looked for" in ended.err
        assert "Not sent again" in ended.err
        assert (len(sandbox.ledger), posts(sandbox)) == (1, 1)


async def test_a_refusal_queues_nothing_and_is_told() -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await create(sandbox, *PERSON, "--yes", "--schedule", "2001-01-31T10:00Z")

        assert (ended.status, ended.out) == (1, "")
        assert "answered 400" in ended.err
        assert sandbox.ledger == []
