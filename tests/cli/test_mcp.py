"""`unpod-async mcp`: its tools, used by the client of the package `mcp` over stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client

from tests.cli.harness import PROGRAM, Terminal, clean_environment, run_cli, run_process, settings
from tests.leaks import SANDBOX_SECRETS
from unpod_async._integrations.mcp import make_server, serve_lines
from unpod_async.testing import Fault, Sandbox

READ_TOOLS = ["list_spaces", "list_runs", "run_summary", "find_calls", "transcript", "wait_for_run"]


class Server:
    """A running server, as its client sees it."""

    def __init__(self, client: Client, log: Path) -> None:
        self.client = client
        self._log = log

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that has to succeed. The client checks the result against the output schema."""
        done = await self.client.call_tool(tool, arguments)
        (content,) = done.content
        assert content.type == "text"
        assert not done.is_error, content.text
        assert not SANDBOX_SECRETS.search(content.text)
        found: dict[str, Any] = done.structured_content
        assert json.loads(content.text) == found
        return found

    async def error(self, tool: str, **arguments: Any) -> str:
        """Call a tool that has to fail. Returns its message and hint."""
        done = await self.client.call_tool(tool, arguments)
        (content,) = done.content
        assert content.type == "text"
        assert done.is_error, content.text
        assert done.structured_content is None
        assert not SANDBOX_SECRETS.search(content.text)
        assert "Traceback" not in content.text
        return content.text

    def log(self) -> str:
        """Return what the server has written to stderr."""
        return self._log.read_text(encoding="utf-8")


@asynccontextmanager
async def serving(
    sandbox: Sandbox, log: Path, *options: str, **variables: str | None
) -> AsyncIterator[Server]:
    parameters = StdioServerParameters(
        command=PROGRAM[0],
        args=[*PROGRAM[1:], "mcp", *options],
        env={**clean_environment(), **settings(sandbox, **variables)},
    )
    with open(log, "w", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123 - a small local file
        async with Client(stdio_client(parameters, errlog=file)) as client:
            yield Server(client, log)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "stderr.log"


def ended_task(sandbox: Sandbox) -> dict[str, Any]:
    """Return a row with an outcome and a transcript."""
    return next(row for row in sandbox.task_rows() if "post_call_data" in (row.get("output") or {}))


# -- the tools ----------------------------------------------------------------------------------------------


async def test_the_tools_describe_themselves(log: Path) -> None:
    async with Sandbox(runs=1) as sandbox, serving(sandbox, log) as server:
        tools = {tool.name: tool for tool in (await server.client.list_tools()).tools}

    assert list(tools) == READ_TOOLS
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
        assert tool.output_schema is not None
        assert (tool.input_schema["type"], tool.output_schema["type"]) == ("object", "object")
        assert tool.input_schema["additionalProperties"] is False
        for name, argument in tool.input_schema["properties"].items():
            texts = [argument, *argument.get("anyOf", [])]
            assert any(text.get("description") for text in texts), (tool.name, name)
    assert server.log() == ""


async def test_a_run_from_its_space_to_a_transcript(log: Path) -> None:
    async with Sandbox(runs=6, tasks_per_run=4) as sandbox, serving(sandbox, log) as server:
        row = ended_task(sandbox)
        run_id = row["run_id"]
        runs = await server.call("list_runs", space=sandbox.space_token)
        assert [run["run"] for run in runs["runs"]] == sandbox.run_ids()
        assert (runs["next_cursor"], runs["warning"]) == (None, None)

        summary = await server.call("run_summary", space=sandbox.space_token, run=run_id)
        assert sum(summary["calls"].values()) == 4
        assert summary["duration_seconds"] > 0
        assert summary["cost_usd"] > 0

        calls = await server.call("find_calls", space=sandbox.space_token, run=run_id)
        assert [call["call"] for call in calls["calls"]] == sandbox.task_ids(run_id)
        (found,) = [call for call in calls["calls"] if call["call"] == row["task_id"]]
        assert found["has_transcript"]
        assert found["duration_seconds"] > 0

        where = {"space": sandbox.space_token, "call": row["task_id"]}
        transcript = await server.call("transcript", **where)
        assert transcript == await server.call("transcript", **where, run=run_id)
        assert len(transcript["messages"]) > 1
        later = await server.call("transcript", **where, first=1)
        assert later["messages"] == transcript["messages"][1:]


async def test_spaces(log: Path) -> None:
    async with Sandbox(runs=1) as sandbox:
        async with serving(sandbox, log) as server:
            assert "hint: the server asks for a JWT here" in await server.error("list_spaces")
        jwt = ("--auth-scheme", "JWT")
        async with serving(sandbox, log, *jwt, UNPOD_PLATFORM_TOKEN=sandbox.jwt) as server:
            found = []
            cursor = None
            while True:
                page = await server.call("list_spaces", limit=1, cursor=cursor)
                found += [space["space"] for space in page["spaces"]]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            assert sandbox.space_token in found
            assert len(found) == len(set(found))


async def test_pages_have_each_row_once_although_rows_are_added(log: Path) -> None:
    async with Sandbox(runs=7, tasks_per_run=2) as sandbox, serving(sandbox, log) as server:
        run_id = sandbox.run_ids()[0]
        for tool, key, arguments in (
            ("list_runs", "run", {}),
            ("find_calls", "call", {}),
            ("find_calls", "call", {"run": run_id}),
        ):
            listed = sandbox.run_ids() if key == "run" else sandbox.task_ids(arguments.get("run"))
            found: list[str] = []
            cursor = None
            while True:
                page = await server.call(
                    tool, space=sandbox.space_token, limit=1 if arguments else 3, cursor=cursor, **arguments
                )
                rows = page["runs" if key == "run" else "calls"]
                assert len(rows) <= 3
                found += [row[key] for row in rows]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
                if not arguments:
                    sandbox.insert_run(tasks=1)
            assert found == listed

        assert "start again without a cursor" in await server.error(
            "list_runs", space=sandbox.space_token, cursor="R0"
        )


async def test_filters(log: Path) -> None:
    async with Sandbox(runs=20, tasks_per_run=3) as sandbox, serving(sandbox, log) as server:
        space = sandbox.space_token
        one = ended_task(sandbox)
        calls = await server.call("find_calls", space=space, run=one["run_id"])
        outcome, created = next(
            (call["outcome"], call["created"]) for call in calls["calls"] if call["call"] == one["task_id"]
        )
        assert created.endswith("Z")

        failed = await server.call("list_runs", space=space, status=["failed"], limit=100)
        assert [run["run"] for run in failed["runs"]] == [
            row["run_id"] for row in sandbox.run_rows() if row["status"] == "failed"
        ]
        done = await server.call("find_calls", space=space, status=["completed"], limit=100)
        assert {call["status"] for call in done["calls"]} == {"completed"}
        for where in ({}, {"run": one["run_id"]}):
            same = await server.call("find_calls", space=space, outcome=[outcome], limit=100, **where)
            assert one["task_id"] in [call["call"] for call in same["calls"]]
            assert {call["outcome"] for call in same["calls"]} == {outcome}
            at = await server.call(
                "find_calls", space=space, created_from=created, created_to=created, limit=100, **where
            )
            assert one["task_id"] in [call["call"] for call in at["calls"]]
            assert {call["created"] for call in at["calls"]} == {created}
        found = await server.call("find_calls", space=space, search=one["input"]["name"], limit=100)
        assert one["task_id"] in [call["call"] for call in found["calls"]]


async def test_contact_data_is_redacted_unless_it_is_asked_for(log: Path) -> None:
    async with Sandbox(runs=6, tasks_per_run=4) as sandbox:
        row = ended_task(sandbox)
        name, number = row["input"]["name"], row["input"]["contact_number"]
        where = {"space": sandbox.space_token, "run": row["run_id"]}
        spoken = f"This is {name} at {number}, write to some.body@example.org"
        output = {**row["output"], "transcript": [{"role": "user", "content": spoken}]}
        sandbox.malform(
            row["task_id"], json.dumps({**row, "output": output, "ref_id": f"lead {number}"}).encode()
        )

        async with serving(sandbox, log) as server:
            calls = await server.call("find_calls", **where)
            transcript = await server.call("transcript", **where, call=row["task_id"])
            summary = await server.call("run_summary", **where)
            problem = await server.error("transcript", space=sandbox.space_token, call=number, run=number)
        redacted = json.dumps([calls, transcript, summary])
        assert name not in redacted
        assert number not in redacted + problem
        assert "@" not in redacted
        assert transcript["messages"] == [
            {"role": "user", "text": "This is [redacted] at [redacted], write to [redacted]"}
        ]

        async with serving(sandbox, log, "--show-contact-data") as server:
            (call,) = [
                call
                for call in (await server.call("find_calls", **where))["calls"]
                if call["call"] == row["task_id"]
            ]
            transcript = await server.call("transcript", **where, call=row["task_id"])
        assert (call["name"], call["ref_id"]) == (name, f"lead {number}")
        assert call["number"].endswith(number)
        assert transcript["messages"] == [{"role": "user", "text": spoken}]
        assert "user_info" not in json.dumps([call, transcript])


async def test_long_transcripts_come_in_pages(log: Path) -> None:
    async with Sandbox(runs=6, tasks_per_run=4) as sandbox, serving(sandbox, log) as server:
        row = ended_task(sandbox)
        said = [f"{number} " + "word " * 1000 for number in range(9)] + ["x " * 15_000]
        messages = [{"role": "user", "content": text} for text in said]
        sandbox.malform(
            row["task_id"], json.dumps({**row, "output": {**row["output"], "transcript": messages}}).encode()
        )
        found: list[str] = []
        first = 0
        while first is not None:
            page = await server.call(
                "transcript",
                space=sandbox.space_token,
                run=row["run_id"],
                call=row["task_id"],
                first=first,
            )
            assert sum(len(message["text"]) for message in page["messages"]) <= 20_001
            found += [message["text"] for message in page["messages"]]
            assert page["more_messages"] == len(said) - len(found)
            first = page["next_first"]
        assert found == [*said[:9], said[9][:20_000] + "…"]


async def test_waiting_for_a_run(log: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, serving(sandbox, log) as server:
        run_id = sandbox.run_ids()[0]
        where = {"space": sandbox.space_token, "run": run_id}
        held = sandbox.task_ids(run_id)[0]
        sandbox.set_status(held, "hold")
        seconds = 1
        waiting = await server.call("wait_for_run", **where, timeout_seconds=seconds)
        while waiting["warning"]:  # a busy machine: the run was not read in this time
            seconds *= 2
            waiting = await server.call("wait_for_run", **where, timeout_seconds=seconds)
        assert not waiting["ended"]
        assert {"call": held, "status": "hold"} in waiting["open_calls"]

        for task_id in sandbox.task_ids(run_id):
            sandbox.set_status(task_id, "completed")
        sandbox.advance(50)
        done = await server.call("wait_for_run", **where)
        assert (done["ended"], done["open_calls"]) == (True, [])
        assert sum(done["calls"].values()) == 2


async def test_bad_rows_do_not_hide_the_others(log: Path) -> None:
    async with Sandbox(runs=2, tasks_per_run=4) as sandbox, serving(sandbox, log) as server:
        run_id = sandbox.run_ids()[-1]
        sandbox.poison(sandbox.task_ids(run_id)[1])
        where = {"space": sandbox.space_token, "run": run_id}
        calls = await server.call("find_calls", **where)
        assert len(calls["calls"]) == 3
        assert calls["warning"].startswith("some rows are missing: ")
        summary = await server.call("run_summary", **where)
        assert sum(summary["calls"].values()) == 3
        assert not summary["ended"]
        assert summary["warning"].startswith("some calls are not counted: ")


# -- errors -------------------------------------------------------------------------------------------------


async def test_errors_say_what_happened_and_what_to_do(log: Path) -> None:
    async with Sandbox(runs=2) as sandbox, serving(sandbox, log) as server:
        space = sandbox.space_token
        for tool, arguments, message in (
            ("runs", {}, "there is no tool with this name\nhint: use one of: list_spaces, "),
            ("list_runs", {}, "the arguments are not accepted: Object missing required field `space`"),
            (
                "list_runs",
                {"space": space, "limit": 0},
                "the arguments are not accepted: Expected `int` >= 1",
            ),
            (
                "list_runs",
                {"space": space, "x": 1},
                "the arguments are not accepted: Object contains unknown",
            ),
            ("list_runs", {"space": "a/b"}, "space 'a/b' is not a valid id"),
            (
                "run_summary",
                {"space": space, "run": "R0"},
                "the space has no run with this id\nhint: list_runs ",
            ),
            ("wait_for_run", {"space": space, "run": "R0"}, "run R0"),
            ("transcript", {"space": space, "call": "T0"}, "the space has no call with this id\nhint: find_"),
            (
                "find_calls",
                {"space": space, "run": "R0", "search": "A"},
                "search cannot be combined with run",
            ),
            ("find_calls", {"space": space, "created_from": "2030-01-01T00:00:00"}, "the arguments are not "),
        ):
            text = await server.error(tool, **arguments)
            assert text.startswith(message), text
            assert "hint: " in text, text
        refused = await server.error("list_runs", space="NOSUCHSPACE")
        assert "NOSUCHSPACE" in refused
        assert "space_token" not in refused

    assert server.log() == ""


async def test_a_rejected_token_is_an_error_of_each_tool(log: Path) -> None:
    async with (
        Sandbox(runs=1) as sandbox,
        serving(sandbox, log, UNPOD_PLATFORM_TOKEN="a11ce" + "9" * 35) as server,
    ):
        text = await server.error("list_runs", space=sandbox.space_token)
        assert "401" in text
        assert "hint: " in text
        assert "a11ce" not in text + server.log()


# -- placing calls ------------------------------------------------------------------------------------------

PEOPLE = [
    {"name": "A Person", "contact_number": "+15550100"},
    {"name": "B Person", "contact_number": "+15550101"},
]


def a_create(sandbox: Sandbox, **changed: Any) -> dict[str, Any]:
    return {
        "space": sandbox.space_token,
        "agent": sandbox.agent_handle,
        "context": "Ask for the date",
        "documents": PEOPLE,
        **changed,
    }


async def test_create_is_not_offered_without_its_option(log: Path) -> None:
    async with Sandbox(runs=1) as sandbox, serving(sandbox, log) as server:
        text = await server.error("create", **a_create(sandbox))
        assert text.startswith("there is no tool with this name")
        assert sandbox.ledger == []


async def test_create_sends_what_its_dry_run_checked_and_only_once(log: Path) -> None:
    async with Sandbox(runs=1) as sandbox, serving(sandbox, log, "--allow-create") as server:
        tools = {tool.name: tool for tool in (await server.client.list_tools()).tools}
        assert list(tools) == [*READ_TOOLS, "create"]
        assert tools["create"].annotations is not None
        assert tools["create"].annotations.destructive_hint

        wanted = a_create(sandbox)
        checked = await server.call("create", **wanted)
        assert (checked["state"], checked["calls"], sandbox.ledger) == ("dry_run", 2, [])
        value = checked["confirmation"]

        other = {**wanted, "documents": [*PEOPLE, {"name": "C", "contact_number": "+15550102"}]}
        for changed, message in (
            ({**other, "confirmation": value}, "nothing was sent: the arguments differ"),
            (
                {**wanted, "context": "Another", "confirmation": value},
                "nothing was sent: the arguments differ",
            ),
            ({**wanted, "schedule": "auto", "confirmation": value}, "nothing was sent: the arguments differ"),
            ({**wanted, "confirmation": "yes"}, "nothing was sent: the confirmation is unknown"),
        ):
            assert (await server.error("create", **changed)).startswith(message)
        assert sandbox.ledger == []

        placed = await server.call("create", **wanted, confirmation=value)
        assert (placed["state"], placed["found_calls"]) == ("created", 2)
        assert {call.run_id for call in sandbox.ledger} == {placed["run"]}
        assert len(sandbox.ledger) == 2

        text = await server.error("create", **wanted, confirmation=value)
        assert text.startswith("nothing was sent: the confirmation is unknown or was used already")
        again = await server.call("create", **wanted)
        assert "WARNING: exactly these calls were placed before" in again["message"]
        assert len(sandbox.ledger) == 2


async def test_a_dry_run_finds_mistakes(log: Path) -> None:
    async with Sandbox(runs=1) as sandbox, serving(sandbox, log, "--allow-create") as server:
        for changed, message in (
            ({"agent": "no-such-agent"}, "nothing was sent: organization "),
            ({"documents": [{"name": "A", "contact_number": "none"}]}, "documents"),
            ({"documents": []}, "the arguments are not accepted: Expected `array` of length >= 1"),
            ({"schedule": "tomorrow"}, "nothing was sent: schedule must be now, auto, or a time"),
            ({"schedule": "2030-01-31T10:00:00"}, "nothing was sent: schedule must be now, auto, or"),
        ):
            text = await server.error("create", **a_create(sandbox, **changed))
            assert text.startswith(message), text
            assert "hint: " in text
        twice = await server.call("create", **a_create(sandbox, documents=[PEOPLE[0], PEOPLE[0]]))
        assert "WARNING: 1 document with a number that is also in an earlier document." in twice["message"]
        later = await server.call("create", **a_create(sandbox, schedule="2030-01-31T10:00:00+05:30"))
        assert later["state"] == "dry_run"
        assert sandbox.ledger == []


async def test_a_refused_create_can_be_confirmed_again(log: Path) -> None:
    async with Sandbox(runs=1) as sandbox, serving(sandbox, log, "--allow-create") as server:
        wanted = a_create(sandbox)
        value = (await server.call("create", **wanted))["confirmation"]
        sandbox.script(Fault(method="POST", status=400))
        assert "400" in await server.error("create", **wanted, confirmation=value)
        assert sandbox.ledger == []
        assert (await server.call("create", **wanted, confirmation=value))["state"] == "created"


async def test_a_lost_response_is_looked_up(log: Path) -> None:
    async with Sandbox(runs=1) as sandbox, serving(sandbox, log, "--allow-create") as server:
        wanted = a_create(sandbox)
        value = (await server.call("create", **wanted))["confirmation"]
        sandbox.script(Fault(method="POST", status=502, processed=True))
        placed = await server.call("create", **wanted, confirmation=value)
        assert (placed["state"], placed["found_calls"]) == ("created", 2)
        assert len(sandbox.ledger) == 2


async def test_calls_with_an_unknown_outcome_are_never_sent_again(log: Path) -> None:
    async with Sandbox(runs=1) as sandbox, serving(sandbox, log, "--allow-create") as server:
        wanted = a_create(sandbox)
        value, other = [(await server.call("create", **wanted))["confirmation"] for _ in range(2)]
        sandbox.script(Fault(method="POST", status=502))
        lost = await server.call("create", **wanted, confirmation=value)
        assert lost["state"] == "not_found"
        assert "must not be sent again" in lost["message"]
        assert lost["message"].endswith("Tell the user what happened.")

        for arguments in (
            {**wanted, "confirmation": value},
            {**wanted, "confirmation": other},
            wanted,
            {**wanted, "context": "Another", "documents": PEOPLE[1:]},
            {**wanted, "documents": [{"name": "Who", "contact_number": "1 555 0100"}]},
        ):
            text = await server.error("create", **arguments)
            assert "may be queued already, by an earlier create whose outcome is unknown" in text
        assert sandbox.ledger == []
        new = a_create(sandbox, documents=[{"name": "C Person", "contact_number": "+15550199"}])
        assert (await server.call("create", **new))["state"] == "dry_run"


# -- the process --------------------------------------------------------------------------------------------

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def a_call(number: int, tool: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


async def start(sandbox: Sandbox, *options: str) -> asyncio.subprocess.Process:
    """Start a server and greet it."""
    process = await asyncio.create_subprocess_exec(
        *(*PROGRAM, "mcp", *options),
        env={**clean_environment(), **settings(sandbox)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    send(process, HELLO)
    assert (await answer(process))["result"]["serverInfo"]["name"] == "unpod-async"
    send(process, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    return process


def send(process: asyncio.subprocess.Process, *messages: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


async def answer(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    return json.loads(await process.stdout.readline())


async def test_it_ends_when_stdin_is_closed() -> None:
    async with Sandbox(runs=1) as sandbox:
        process = await start(sandbox)
        assert await process.communicate(b"") == (b"", b"")
        assert process.returncode == 0


async def test_it_ends_when_stdin_is_closed_during_a_call() -> None:
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox:
        run_id = sandbox.run_ids()[0]
        sandbox.set_status(sandbox.task_ids(run_id)[0], "hold")
        process = await start(sandbox)
        send(process, a_call(2, "wait_for_run", space=sandbox.space_token, run=run_id, timeout_seconds=600))
        await sandbox.arrived(1)
        _, diagnostics = await process.communicate(b"")
        assert (process.returncode, diagnostics) == (0, b"")


async def test_a_line_that_is_not_json_does_not_end_it() -> None:
    async with Sandbox(runs=1) as sandbox:
        process = await start(sandbox)
        assert process.stdin is not None
        process.stdin.write(b"\n{\n")
        send(process, a_call(2, "list_runs", space=sandbox.space_token))
        while (found := await answer(process)).get("id") != 2:
            assert "result" not in found
        assert not found["result"]["isError"]
        await process.communicate(b"")
        assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("lines", [b"", b"{\n"])
async def test_a_signal_ends_it_although_stdin_is_open(number: signal.Signals, lines: bytes) -> None:
    """A line may arrive at the same moment."""
    async with Sandbox(runs=1) as sandbox:
        process = await start(sandbox)
        assert process.stdin is not None
        process.stdin.write(lines)
        process.send_signal(number)
        assert process.stderr is not None
        assert await process.stderr.read() == b"unpod-async: interrupted\n"
        assert await process.wait() == 128 + number


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancellation_while_it_handles_lines_is_a_cancellation(steps: int) -> None:
    """At any step of the event loop, and not the error of a writer in `mcp` whose reader ended first."""
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        server = make_server(
            unpod, show_contact_data=False, confirmations=None, hint_of=lambda error: "", report=print
        )
        lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        for line in (json.dumps(HELLO).encode(), *[b"{"] * 50):
            lines.put_nowait(line)
        answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        serving = asyncio.create_task(serve_lines(server, lines, answers))
        while answers.empty():  # noqa: ASYNC110 - the queue is one of threads
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


@pytest.mark.skipif(sys.platform == "win32", reason="needs the pipes of POSIX")
async def test_it_ends_when_nobody_reads_its_answers() -> None:
    async with Sandbox(runs=1) as sandbox:
        reading_end, writing_end = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *(*PROGRAM, "mcp"),
            env={**clean_environment(), **settings(sandbox)},
            stdin=asyncio.subprocess.PIPE,
            stdout=writing_end,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(writing_end)
        os.close(reading_end)
        send(process, HELLO)
        assert process.stderr is not None
        assert await process.stderr.read() == b""
        assert await process.wait() == 0
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_answers_that_do_not_fit_on_the_disk_are_an_error() -> None:
    async with Sandbox(runs=1) as sandbox:
        with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device
            process = await asyncio.create_subprocess_exec(
                *(*PROGRAM, "mcp"),
                env={**clean_environment(), **settings(sandbox)},
                stdin=asyncio.subprocess.PIPE,
                stdout=full,
                stderr=asyncio.subprocess.PIPE,
            )
        send(process, HELLO)
        assert process.stderr is not None
        diagnostics = await process.stderr.read()
        assert await process.wait() == 1
        assert process.stdin is not None
        process.stdin.close()
    assert diagnostics.startswith(
        b"unpod-async: cannot write to stdout: no space is left on the disk\nhint: "
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")
async def test_a_create_that_is_interrupted_says_that_calls_may_be_queued() -> None:
    async with Sandbox(runs=1) as sandbox:
        process = await start(sandbox, "--allow-create")
        send(process, a_call(2, "create", **a_create(sandbox)))
        value = (await answer(process))["result"]["structuredContent"]["confirmation"]
        seen = sandbox.requests
        sandbox.script(Fault(method="POST", stall=600))
        send(process, a_call(3, "create", **a_create(sandbox), confirmation=value))
        await sandbox.arrived(seen + 1)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        text = (await process.stderr.read()).decode()
        assert await process.wait() == 130
        assert (
            f"a create of 2 calls in space {sandbox.space_token} was cancelled; the calls may be queued"
            in text
        )
        assert "Traceback" not in text


@pytest.mark.skipif(sys.platform == "win32", reason="needs the terminals of POSIX")
async def test_on_a_terminal_it_says_that_it_waits() -> None:
    async with Sandbox(runs=1) as sandbox, Terminal(settings(sandbox), "mcp") as terminal:
        await terminal.until("Ctrl-C ends it.")
        terminal.type("\x03")
        assert await terminal.wait() == 130


async def test_the_token_is_not_read_from_stdin() -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(settings(sandbox), "mcp", "--token-file", "-")
        assert result == (
            2,
            "",
            (
                "unpod-async: --token-file: stdin carries the protocol\n"
                "hint: set UNPOD_PLATFORM_TOKEN or use --token-file FILE\n"
            ),
        )


async def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ImportError('No module named mcp')")
    async with Sandbox(runs=1) as sandbox:
        path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
        result = await run_process({**settings(sandbox), "PYTHONPATH": path}, "mcp")
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        "unpod-async: unpod-async mcp needs mcp, which cannot be imported: No module named mcp\n"
        "hint: pip install '.[mcp]' in a clone of the repository\n"
    )


async def test_no_other_command_imports_the_package() -> None:
    code = (
        "import sys; from unpod_async.cli.app import run; run(['runs', '--help']); "
        "sys.exit('mcp' in sys.modules or 'pydantic' in sys.modules)"
    )
    program = (sys.executable, "-c", code)
    assert (await run_process({}, program=program)).status == 0
