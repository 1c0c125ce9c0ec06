"""`create --journal`: a command that was killed or lost a response is repeated, and calls nobody twice."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.harness import Result, Terminal, run_process, settings, start_process
from unpod_async._create import Journal
from unpod_async.testing import Fault, Sandbox, faults

ONCE = dict.fromkeys((f"90000{number:05}" for number in range(250)), 1)
"""The numbers of `people.csv`: three requests, because each has 100 documents."""


def live() -> Sandbox:
    return Sandbox(runs=1, now=lambda: datetime.now(UTC))


def command(sandbox: Sandbox, folder: Path, *more: str, calls: int = 250) -> tuple[str, ...]:
    """Return the arguments of a command that places the calls of `people.csv`, which have no ids."""
    people = folder / "people.csv"
    people.write_text("name,contact_number\n" + "".join(f"A,{number}\n" for number in list(ONCE)[:calls]))
    return (
        *("create", sandbox.space_token, "--agent", sandbox.agent_handle, "--context", "Ask for the date."),
        *("--documents", str(people), "--journal", str(folder / "calls.journal"), *(more or ("--yes",))),
    )


async def create(sandbox: Sandbox, folder: Path, *more: str, calls: int = 250) -> Result:
    return await run_process(settings(sandbox), *command(sandbox, folder, *more, calls=calls))


def called(sandbox: Sandbox) -> Counter[str]:
    return Counter(call.document["contact_number"] for call in sandbox.ledger)


def posts(sandbox: Sandbox) -> int:
    return sum(received.method == "POST" for received in sandbox.log)


async def stored(sandbox: Sandbox, calls: int) -> None:
    """Wait until the sandbox has stored this number of calls."""
    while len(sandbox.ledger) < calls:  # noqa: ASYNC110 - the ledger has no event
        await asyncio.sleep(0)


def states(result: Result) -> list[str]:
    return [json.loads(line)["state"] for line in result.out.splitlines()]


async def test_a_killed_command_is_repeated_and_calls_nobody_twice(tmp_path: Path) -> None:
    async with live() as sandbox:
        sandbox.script(Fault(method="POST"), faults.stall(method="POST"))
        process = await start_process(settings(sandbox), *command(sandbox, tmp_path))
        await stored(sandbox, 200)  # the response to the second request does not come
        process.kill()
        await process.communicate()

        repeated = await create(sandbox, tmp_path)

        assert (repeated.status, states(repeated)) == (0, ["created"] * 3)
        listed = "journal:  calls.journal (queued before: 100 of 250 calls; outcome unknown: 100)\n"
        assert listed in repeated.err
        assert "queued: 250 of 250 calls; sent now: 50, sent by an earlier command: 200\n" in repeated.err
        assert called(sandbox) == ONCE
        assert {json.loads(line)["run_id"] for line in repeated.out.splitlines()} == {
            call.run_id for call in sandbox.ledger
        }

        sent = posts(sandbox)
        again = await create(sandbox, tmp_path)
        assert (again.status, again.out) == (0, repeated.out)
        assert "queued: 250 of 250 calls; sent now: 0, sent by an earlier command: 250\n" in again.err
        assert (posts(sandbox), called(sandbox)) == (sent, ONCE)


async def test_calls_that_are_not_found_after_a_kill_are_not_sent_again(tmp_path: Path) -> None:
    async with live() as sandbox:
        sandbox.script(Fault(method="POST"), faults.stall(method="POST", status=502))
        process = await start_process(settings(sandbox), *command(sandbox, tmp_path))
        await sandbox.arrived(3)  # the agents and two requests
        process.kill()
        await process.communicate()

        for sent in (3, 3):
            repeated = await create(sandbox, tmp_path, "--yes", "--table")
            assert repeated.status == 1
            assert [line.rpartition(": ")[2] for line in repeated.out.splitlines()] == [
                "100 calls queued",
                "50 calls queued",
            ]
            message, hint = repeated.err.splitlines()[-2:]
            start = "unpod-async: 100 calls of an earlier command may be queued, but were not found: "
            assert message.startswith(start)
            first_ids, _, others = message.removeprefix(start).partition(" and ")
            assert (first_ids.count(", "), others) == (2, "97 more")
            assert hint.startswith("hint: nothing was sent again; ")
            assert posts(sandbox) == sent
        assert called(sandbox) == dict.fromkeys([*list(ONCE)[:100], *list(ONCE)[200:]], 1)


async def test_calls_that_may_be_among_unreadable_rows_are_not_sent_again(tmp_path: Path) -> None:
    async with live() as sandbox:
        sandbox.script(faults.reset_in_body(method="POST"))
        await create(sandbox, tmp_path, calls=1)
        unreadable = b'{"count": 9, "status_code": 200, "data": []}'
        sandbox.script(Fault(body=unreadable, path="/tasks/", method="GET", times=9))
        repeated = await create(sandbox, tmp_path, calls=1)

        assert (repeated.status, states(repeated)) == (1, ["unclear"])
        message, detail, hint = repeated.err.splitlines()[-3:]
        assert message.startswith(
            "unpod-async: 1 call of an earlier command may be queued, but was not found: "
        )
        assert detail == "  A run or task that may belong to these calls could not be checked."
        assert hint.startswith("hint: nothing was sent again")
        assert posts(sandbox) == 1


async def test_after_a_lost_response_the_command_says_to_repeat_it(tmp_path: Path) -> None:
    async with live() as sandbox:
        sandbox.script(Fault(method="POST"), faults.reset_in_body(method="POST"))
        lost = await create(sandbox, tmp_path)

        assert (lost.status, lost.out, posts(sandbox)) == (1, "", 2)
        progress, message, hint = lost.err.splitlines()[-3:]
        assert progress == "queued: 100 of 250 calls; outcome unknown: 100; not sent: 50"
        assert message.startswith("unpod-async: the create was sent and calls may be queued: ")
        assert (
            hint == "hint: run the same command again: it looks for these calls, and no call is placed twice"
        )

        repeated = await create(sandbox, tmp_path)
        assert (repeated.status, states(repeated)) == (0, ["created"] * 3)
        assert (posts(sandbox), called(sandbox)) == (3, ONCE)


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals to test with")
async def test_it_asks_only_for_the_calls_that_are_left(tmp_path: Path) -> None:
    async with live() as sandbox:
        assert (await create(sandbox, tmp_path, calls=200)).status == 0
        argv = command(sandbox, tmp_path, "--table")
        async with Terminal(settings(sandbox), *argv, columns=100) as terminal:
            await terminal.until("Place these 50 calls? [y/N] ")
            terminal.type("y\n")
            assert await terminal.wait() == 0
        async with Terminal(settings(sandbox), *argv, columns=100) as terminal:
            assert await terminal.wait() == 0

        assert "[y/N]" not in terminal.shown
        assert sum(line.endswith(" queued") for line in terminal.lines()) == 3
        assert called(sandbox) == ONCE


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a process")
async def test_after_ctrl_c_the_command_says_to_repeat_it(tmp_path: Path) -> None:
    async with live() as sandbox:
        sandbox.script(Fault(method="POST"), faults.stall(method="POST"))
        process = await start_process(settings(sandbox), *command(sandbox, tmp_path))
        await stored(sandbox, 200)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

        assert (process.returncode, out) == (130, b"")
        assert b"queued: 100 of 250 calls; outcome unknown: 100; not sent: 50\n" in err
        assert err.endswith(
            b"hint: run the same command again, with the same journal: no call is placed twice\n"
        )
        assert (await create(sandbox, tmp_path)).status == 0
        assert called(sandbox) == ONCE


async def test_a_refused_request_is_sent_by_the_next_command(tmp_path: Path) -> None:
    async with live() as sandbox:
        sandbox.script(Fault(method="POST"), Fault(status=400, body=b'{"message": "No"}', method="POST"))
        refused = await create(sandbox, tmp_path)

        assert refused.status == 1
        assert "queued: 100 of 250 calls; not sent: 150\n" in refused.err
        assert (await create(sandbox, tmp_path)).status == 0
        assert called(sandbox) == ONCE


async def test_a_changed_request_is_refused_and_more_documents_are_new_requests(tmp_path: Path) -> None:
    async with live() as sandbox:
        assert (await create(sandbox, tmp_path, calls=200)).status == 0

        changed = await create(sandbox, tmp_path, calls=150)
        assert (changed.status, changed.out) == (2, "")
        message, hint = changed.err.splitlines()[-2:]
        assert message == (
            "unpod-async: nothing was sent: the calls differ from those in the journal calls.journal"
        )
        assert hint.endswith("With another journal, calls that were placed are placed again")
        assert posts(sandbox) == 2

        longer = await create(sandbox, tmp_path, calls=250)
        assert longer.status == 0
        assert called(sandbox) == ONCE


async def test_a_dry_run_sends_nothing_and_leaves_the_journal(tmp_path: Path) -> None:
    journal = tmp_path / "calls.journal"
    async with live() as sandbox:
        dry = await create(sandbox, tmp_path, "--dry-run")
        assert [len(json.loads(line)["documents"]) for line in dry.out.splitlines()] == [100, 100, 50]
        assert (dry.status, journal.exists(), sandbox.requests) == (0, False, 0)

        journal.write_bytes(b"anything")
        assert (await create(sandbox, tmp_path, "--dry-run")).status == 0
        assert (journal.read_bytes(), sandbox.requests) == (b"anything", 0)


async def test_a_bad_number_leaves_no_journal_and_nothing_is_sent(tmp_path: Path) -> None:
    journal, people = tmp_path / "calls.journal", tmp_path / "people.csv"
    async with live() as sandbox:
        argv = command(sandbox, tmp_path)
        good = people.read_text()

        async def refused(number: str, line: int) -> None:
            """Replace a number of the second request, or of a request that is new."""
            people.write_text(f"{good}A,9000000250\n".replace(f"{number}\n", f"{number}.0\n"))
            result = await run_process(settings(sandbox), *argv)
            assert (result.status, result.out) == (2, "")
            assert f"people.csv, line {line}: contact_number is not a phone number: " in result.err

        await refused("9000000150", 152)
        one = [argument for argument in argv if argument not in {"--documents", str(people)}]
        result = await run_process(settings(sandbox), *one, "--name", "A", "--number", "9000000001.0")
        assert (result.status, result.out) == (2, "")
        assert "--number is not a phone number: " in result.err
        assert (journal.exists(), sandbox.requests) == (False, 0)

        assert (await create(sandbox, tmp_path)).status == 0
        before, requests = journal.read_bytes(), sandbox.requests
        await refused("9000000250", 252)
        assert (journal.read_bytes(), sandbox.requests) == (before, requests)
        assert called(sandbox) == ONCE


async def test_a_file_that_cannot_be_the_journal_is_explained(tmp_path: Path) -> None:
    journal = tmp_path / "calls.journal"
    async with live() as sandbox:

        async def refused() -> list[str]:
            result = await create(sandbox, tmp_path)
            assert (result.status, result.out, posts(sandbox)) == (2, "", 0)
            return result.err.splitlines()[-2:]

        with Journal(journal):
            assert await refused() == [
                "unpod-async: the journal calls.journal is in use by another process",
                "hint: wait until the other job has ended. With another journal, its calls are placed again",
            ]
        journal.write_bytes(b'[{"name": "A", "contact_number": "9000000001"}]')
        message, hint = await refused()
        assert message == "unpod-async: line 1 of calls.journal is not a journal entry"
        assert hint.startswith("hint: pass the journal of this job")
        assert journal.read_bytes() == b'[{"name": "A", "contact_number": "9000000001"}]'
        journal.unlink()
        journal.mkdir()
        message, hint = await refused()
        assert message.startswith("unpod-async: --journal cannot be opened: ")
        assert hint.startswith("hint: pass a file that you can read and write")


async def test_a_journal_in_a_missing_folder_is_explained(tmp_path: Path) -> None:
    async with live() as sandbox:
        argv = command(sandbox, tmp_path, "--yes", "--journal", str(tmp_path / "missing" / "journal"))
        result = await run_process(settings(sandbox), *argv)

        assert (result.status, result.out, posts(sandbox)) == (2, "", 0)
        assert result.err.splitlines()[-2:] == [
            "unpod-async: --journal cannot be opened: No such file or directory; nothing was sent",
            "hint: pass a file that you can read and write, in an existing folder",
        ]
