"""`create`: what is shown, confirmed and refused, and that nothing is sent twice."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import Result, run_cli, settings
from unpod_async.testing import Fault, Sandbox, faults

PERSON = ("--name", "A. Example", "--number", "9000000001")
ABOUT = ("--context", "Ask whether Tuesday suits.")


def posts(sandbox: Sandbox) -> int:
    return sum(received.method == "POST" for received in sandbox.log)


async def create(sandbox: Sandbox, *argv: str, **more: str | None) -> Result:
    agent = () if "--agent" in argv else ("--agent", sandbox.agent_handle)
    return await run_cli(settings(sandbox, **more), "create", sandbox.space_token, *agent, *ABOUT, *argv)


async def test_it_shows_the_calls_and_reports_the_run() -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await create(sandbox, *PERSON, "--yes")

        assert result.status == 0
        created = json.loads(result.out)
        (call,) = sandbox.ledger
        assert (created["run_id"], created["task_ids"]) == (call.run_id, [call.task_id])
        for shown in (f"1 call in space {sandbox.space_token}", "9000000001  A. Example", "Tuesday", "now"):
            assert shown in result.err


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
async def test_a_file_without_an_end_is_refused(tmp_path: Path) -> None:
    for suffix in ("json", "jsonl", "csv"):
        file = tmp_path / f"calls.{suffix}"
        file.symlink_to("/dev/zero")
        result = await run_cli({}, "create", "S", "--agent", "a", *ABOUT, "--documents", str(file))
        assert result.status == 2
        assert "is larger than 64 MiB\n" in result.err


async def test_it_warns_of_numbers_that_are_called_twice(tmp_path: Path) -> None:
    file = tmp_path / "calls.csv"
    numbers = ["+1 555-0100", "15550100", "(155) 50100", "15550101", "1.5550.101", "15550102"]
    file.write_text("name,contact_number\n" + "".join(f"A,{number}\n" for number in numbers))
    warning = "WARNING: 3 documents with a number that is also in an earlier document\n"
    async with Sandbox(runs=1) as sandbox:
        repeated = await create(sandbox, "--documents", str(file), "--yes")
        single = await create(sandbox, *PERSON, "--yes")

    assert (repeated.status, single.status) == (0, 0)
    assert warning in repeated.err
    assert "WARNING" not in single.err


async def test_without_a_terminal_it_needs_yes() -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await create(sandbox, *PERSON)

        assert (result.status, result.out) == (2, "")
        assert "nothing was sent" in result.err
        assert "--yes" in result.err
        assert sandbox.requests == 0


async def test_a_dry_run_needs_no_token_and_sends_nothing() -> None:
    async with Sandbox(runs=1) as sandbox:
        at = "2030-01-31T10:00+05:30"
        result = await create(
            sandbox, *PERSON, "--dry-run", "--schedule", at, UNPOD_PLATFORM_TOKEN=None, UNPOD_ORG_HANDLE=None
        )

        assert (result.status, result.err) == (0, "")
        body = json.loads(result.out)
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
        (
            "calls.csv",
            "ID;NAME;Contact_Number;city\nlead-1;Ä. Example;+919000000001;\n;B, Example;9000000002;X\n;;;",
        ),
        (
            "calls.tsv",
            "id,name,contact_number,city\nlead-1,Ä. Example,+919000000001,\n,B; Example,9000000002,X".replace(
                ",", "\t"
            ).replace(";", ","),
        ),
        (
            "calls.csv",
            """sep=;
id; Name ;contact_number;city
lead-1;Ä. Example;+919000000001;
;B, Example;9000000002;X

""",
        ),
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
        result = await create(sandbox, "--documents", str(file), "--dry-run")

    assert result.status == 0
    first, second = json.loads(result.out)["documents"]
    assert first == DOCUMENTS[0]
    assert second.pop("document_id")
    assert second == DOCUMENTS[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("calls.json", b'{"name": "secret-name"}', "must be a list"),
        ("calls.json", b"[]", "contains no documents"),
        ("calls.json", b"[1]", "item 1: it must be an object"),
        *(
            (
                "calls.json",
                b'[{"name": "secret-name", "contact_number": %b}]' % value,
                (
                    f"calls.json, item 1: contact_number must be a string in quotes, not {kind}\n"
                    "hint: correct the file and run the command again; nothing was sent\n"
                ),
            )
            for value, kind in (
                (b"9", "a number"),
                (b"9.0", "a number"),
                (b"null", "null"),
                (b"true", "true or false"),
                (b"[1]", "a list"),
                (b"{}", "an object"),
            )
        ),
        (
            "calls.json",
            b'[{"name": "secret-name"}]',
            "calls.json, item 1: must have 'contact_number', a non-empty string\n",
        ),
        ("calls.jsonl", b'{"a": 1}\n{secret-name\n', "line 2: it is not valid JSON"),
        (
            "calls.csv",
            b"name,contact_number\nsecret-name\n",
            "calls.csv, line 2: it has 1 value for the 2 columns of the first line",
        ),
        (
            "calls.csv",
            b"name,contact_number\nsecret-name,\n",
            (
                "calls.csv, line 2: the column contact_number is empty\n"
                "hint: correct the file and run the command again; nothing was sent\n"
            ),
        ),
        ("calls.csv", b"Name,contact_number\n,9000000001\n", "calls.csv, line 2: the column name is empty\n"),
        ("calls.csv", b'name,contact_number\n" ",9000000001\n', "line 2: name must not be only whitespace\n"),
        (
            "calls.csv",
            b"name,number\nsecret-name,9000000001\n",
            (
                "calls.csv, line 1: it has no column contact_number\n"
                "hint: the first line must have the names of the columns, with name and contact_number\n"
            ),
        ),
        ("calls.csv", b"secret-name,9000000001\n", "line 1: it has no column name\n"),
        ("calls.json", b"[\xff]", "is not UTF-8"),
        # The last of two values would be called, without a word.
        (
            "calls.csv",
            b"name,contact_number,contact_number\nsecret-name,9000000001,9000000002\n",
            "calls.csv, line 1: it has the column contact_number twice",
        ),
        ("calls.csv", b"name,secret-name,secret-name,contact_number\na,,,9000000001\n", "has a column twice"),
        (
            "calls.csv",
            b"name,contact_number,,\na,9000000001,,x\n",
            "line 2: it has a value in a column without",
        ),
        (
            "calls.json",
            b'[{"name": "a"}, {"contact_number": "secret-name", "contact_number": "9000000002"}]',
            "item 2: it has the key contact_number twice",
        ),
        (
            "calls.jsonl",
            b'\n{"name": "a", "x": [{"secret-name": 1, "secret-name": 2}]}',
            "line 2: it has a key twice",
        ),
        ("calls.jsonl", b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested "),
        ("calls.csv", b"Name,contact_number,NAME\na,9000000001,b\n", "line 1: it has the column name twice"),
        ("calls.csv", b'name,contact_number\n"a,9000000001\n', "calls.csv, line 2: it is not valid CSV"),
        ("calls.csv", b"name,contact_number\n,\n", "contains no documents"),
        ("calls.txt", b"secret-name", "is not a .json, .jsonl or .csv file"),
        ("missing.json", None, "No such file"),
    ],
)
async def test_an_error_about_a_file_contains_none_of_its_data(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    async with Sandbox(runs=1) as sandbox:
        result = await create(sandbox, "--documents", str(file), "--yes")

        assert (result.status, result.out) == (2, "")
        assert message in result.err
        assert "secret-name" not in result.err
        assert sandbox.requests == 0


BAD_FILES = {
    "calls.csv": (
        """name,contact_number,city
A,9000000001,
"B secret-name

of two lines",9.19E+11,

C\u2028secret-name,9000000003.0,
D,9000000004,
E,,
F,9000000006
G,9000000007,X,secret-name
""",
        ["line 3", "line 7", "line 9", "line 10", "line 11"],
    ),
    "calls.jsonl": (
        """{"name": "A", "contact_number": "9000000001"}
{"name": "B", "contact_number": "9.19E+11"}

{"name": "C", "contact_number": "9000000003.0"}
{"name": "D"}
["secret-name"]
{"name": "secret-name"
""",
        ["line 2", "line 4", "line 5", "line 6", "line 7"],
    ),
    "calls.json": (
        """[{"name": "A", "contact_number": "9000000001"},
{"name": "B", "contact_number": "9.19E+11"}, {"name": "C", "contact_number": "9000000003.0"},
{"name": "D"}]""",
        ["item 2", "item 3", "item 4"],
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("mode", ["--dry-run", "--yes"])
async def test_every_bad_document_of_a_file_is_listed_with_its_line(
    tmp_path: Path, name: str, mode: str
) -> None:
    content, positions = BAD_FILES[name]
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    async with Sandbox(runs=1) as sandbox:
        result = await create(sandbox, "--documents", str(file), mode)

        assert (result.status, result.out) == (2, "")
        heading, *lines, hint = result.err.splitlines()
        count = len(positions)
        assert heading.startswith(f"unpod-async: --documents: {count} of ")
        assert heading.endswith(f" documents in {name} cannot be sent:")
        assert [line.partition(": ")[0].strip() for line in lines] == positions
        assert lines[0] == (
            f"  {positions[0]}: contact_number is not a phone number: it is in scientific notation, as "
            "spreadsheets write long numbers"
        )
        assert lines[1].startswith(f"  {positions[1]}: contact_number is not a phone number: it ends in a ")
        problem = (
            "the column contact_number is empty" if name == "calls.csv" else "must have 'contact_number'"
        )
        assert lines[2].startswith(f"  {positions[2]}: {problem}")
        assert hint.startswith("hint: use 3 to 20 ASCII digits, ")
        assert "secret-name" not in result.err
        assert sandbox.requests == 0


async def test_one_bad_document_is_named_on_one_line(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    one = {"id": "lead-1", "name": "A", "contact_number": "9000000001"}
    async with Sandbox(runs=1) as sandbox:
        for other, message in (
            ({"contact_number": "N/A"}, "line 2: contact_number is not a phone number: it contains a letter"),
            ({"x": {"": 2**63}}, "line 2: x.<key 0> must fit into a signed 64-bit integer"),
            ({"id": "lead-1"}, "line 2: has the same id as line 1"),
        ):
            second = one | {"id": "lead-2"} | other
            file.write_text(f"{json.dumps(one)}\n{json.dumps(second)}\n")
            result = await create(sandbox, "--documents", str(file), "--yes")
            assert result.status == 2
            assert f"calls.jsonl, {message}\n" in result.err
        assert sandbox.requests == 0


async def test_a_column_without_a_name_may_be_empty(tmp_path: Path) -> None:
    """Spreadsheets end each line with the empty columns that were once in use."""
    file = tmp_path / "calls.csv"
    file.write_text("name,contact_number,,\nA,9000000001,,\n")
    async with Sandbox(runs=1) as sandbox:
        result = await create(sandbox, "--documents", str(file), "--yes")

        assert result.status == 0
        (call,) = sandbox.ledger
        assert {"name", "contact_number"} == set(call.document) - {"document_id"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--name", "A", "--number", "9000000001.0"),
            "unpod-async: --number is not a phone number: it ends in a decimal point",
        ),
        (
            ("--name", "A", "--number", "'9000000001"),
            "--number is not a phone number: it contains an apostrophe",
        ),
        (
            ("--name", "A", "--number", ""),
            "--number must not be empty\nhint: see `unpod-async create --help`",
        ),
        (("--name", " ", "--number", "9000000001"), "--name must not be only whitespace"),
        ((), "--documents FILE, or --name and --number"),
        (("--name", "x"), "--documents FILE, or --name and --number"),
        ((*PERSON, "--documents", "x.json"), "cannot be combined"),
        ((*PERSON, "--schedule", "tomorrow"), "--schedule"),
        ((*PERSON, "--schedule", "2030-01-31"), "or a time such as"),
        ((*PERSON, "--schedule", "2030-01-31T10:00"), "has no time zone"),
        ((*PERSON, "--agent", "../x"), "--agent"),
    ],
)
async def test_an_invalid_request_is_refused_before_it_is_sent(argv: tuple[str, ...], message: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await create(sandbox, *argv, "--yes")

        assert result.status == 2
        assert message in result.err
        assert sandbox.requests == 0


async def test_an_unknown_agent_is_refused() -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await create(sandbox, *PERSON, "--agent", "nobody", "--yes")

        assert result.status == 2
        assert f"has no agent nobody\nhint: use one of its agents: {sandbox.agent_handle}" in result.err
        assert (sandbox.ledger, posts(sandbox)) == ([], 0)


async def test_without_an_organization_the_agent_is_not_checked() -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await create(sandbox, *PERSON, "--yes", UNPOD_ORG_HANDLE=None)

        assert result.status == 0
        assert "WARNING: the service does not check whether the agent exists" in result.err
        assert len(sandbox.ledger) == 1


async def test_calls_are_found_after_a_lost_response() -> None:
    async with Sandbox(runs=1, now=lambda: datetime.now(UTC)) as sandbox:
        sandbox.script(faults.reset_in_body(method="POST"))
        result = await create(sandbox, *PERSON, "--yes")

        assert result.status == 0
        (call,) = sandbox.ledger
        found: dict[str, Any] = json.loads(result.out)
        assert (found["state"], found["run_id"]) == ("created", call.run_id)
        assert "calls may be queued" in result.err
        assert "Found: all 1 call were queued" in result.err
        assert posts(sandbox) == 1


async def test_a_create_that_is_not_found_is_not_sent_again() -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(Fault(status=502, method="POST"))
        result = await create(sandbox, *PERSON, "--yes", "--table")

        assert (result.status, result.out) == (1, "")
        assert "Not found. The calls may still have been queued, with ref_id " in result.err
        assert f"hint: `unpod-async tasks {sandbox.space_token} --from 20" in result.err
        assert (sandbox.ledger, posts(sandbox)) == ([], 1)


async def test_a_create_is_unclear_if_a_task_cannot_be_read() -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(faults.reset_in_body(method="POST"), Fault(path="/agents/"))
        environment = settings(sandbox)
        argv = ("create", sandbox.space_token, "--agent", sandbox.agent_handle, *ABOUT, *PERSON, "--yes")
        sandbox.script(
            Fault(body=b'{"count": 9, "status_code": 200, "data": []}', path="/tasks/", method="GET", times=9)
        )
        result = await run_cli(environment, *argv)

        assert result.status == 1
        assert json.loads(result.out)["state"] == "unclear"
        assert "Not found. The calls may still have been queued, with ref_id " in result.err
        assert "A run or task that may belong to these calls could not be checked.\n" in result.err
        assert posts(sandbox) == 1


async def test_a_create_that_cannot_be_looked_up_is_not_sent_again() -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(faults.reset_in_body(method="POST"), Fault(status=401, path="/runs/"))
        result = await create(sandbox, *PERSON, "--yes")

        assert (result.status, result.out) == (1, "")
        assert "cannot look for the calls" in result.err
        assert "Nothing was sent again" in result.err
        assert (len(sandbox.ledger), posts(sandbox)) == (1, 1)


async def test_a_refused_create_queues_nothing() -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await create(sandbox, *PERSON, "--yes", "--schedule", "2001-01-31T10:00Z")

        assert (result.status, result.out) == (1, "")
        assert "answered 400" in result.err
        assert sandbox.ledger == []
