"""The journal of `create_many` as a file: what is on the disk, and when."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.raw_server import RawConnection, RawServer
from unpod_async import ConfigurationError, CreateRequest, OutcomeUnknown, UnpodClient
from unpod_async._create import Journal, JournalEntry
from unpod_async.testing import Sandbox


def request(agent: str = "agent") -> CreateRequest:
    document = {"name": "Ann", "contact_number": "+15550101"}
    return CreateRequest(pilot=agent, documents=[document], context="Call.")


def entry(number: int) -> JournalEntry:
    return JournalEntry(
        number=number, state="sending", digest="d", document_ids=("a",), at=1.0, space="S" * 1_000
    )


# -- a closed journal ---------------------------------------------------------------------------------------


def test_a_late_write_after_the_end_goes_nowhere(tmp_path: Path) -> None:
    kept = os.dup(0)
    there = os.open(tmp_path / "there", os.O_RDWR | os.O_CREAT, 0o600)
    os.dup2(there, 0)
    try:
        with Journal(tmp_path / "journal") as journal:
            journal.write(entry(0))
        content = (tmp_path / "journal").read_bytes()
        with pytest.raises(ConfigurationError, match="closed"):
            journal.write(entry(1))
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(there)
    assert (tmp_path / "there").read_bytes() == b""
    assert (tmp_path / "journal").read_bytes() == content
    assert list(journal.entries) == [0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="limits of the size of a file are of POSIX")
def test_nothing_follows_a_line_that_is_perhaps_incomplete(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(tmp_path / "journal") as journal:
        journal.write(entry(0))
        complete = (tmp_path / "journal").read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(complete) + 10, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                journal.write(entry(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with pytest.raises(ConfigurationError, match="closed"):
            journal.write(entry(2))
    assert len((tmp_path / "journal").read_bytes()) == len(complete) + 10
    with Journal(tmp_path / "journal") as journal:
        assert list(journal.entries) == [0]
        journal.write(entry(1))
    with Journal(tmp_path / "journal") as journal:
        assert list(journal.entries) == [0, 1]


@pytest.mark.parametrize("rest", [b"\0" * 40, b'{"num\0\0', b'{"number":1,"sta\0\0'])
def test_a_last_line_that_power_loss_left_incomplete_is_dropped(tmp_path: Path, rest: bytes) -> None:
    with Journal(tmp_path / "journal") as journal:
        journal.write(entry(0))
    complete = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(complete + rest)
    with Journal(tmp_path / "journal") as journal:
        assert list(journal.entries) == [0]
    assert (tmp_path / "journal").read_bytes() == complete


# -- its folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["new", "killed before the sync", "link"])
async def test_the_folder_of_the_journal_is_synced_before_the_first_request(
    tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut takes the whole journal, and the job calls everybody again."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "journal"
    if given == "killed before the sync":
        path.touch()
    if given == "link":
        path = tmp_path / "link"
        path.symlink_to(folder / "journal")
    synced: list[bool] = []
    fsync = os.fsync

    def note(file: int) -> None:
        fsync(file)
        if os.fstat(file).st_ino == folder.stat().st_ino:
            synced.append((folder / "journal").exists())

    monkeypatch.setattr(os, "fsync", note)
    seen: list[list[bool]] = []

    async def look(connection: RawConnection) -> None:
        await connection.read_request()
        seen.append(list(synced))
        connection.reset()

    async with RawServer(look) as server, UnpodClient("t", "o", server.base_url) as unpod:
        with pytest.raises(OutcomeUnknown):
            await unpod.tasks.create_many("S", [request()], journal=path)
    assert seen == [[True]]


# -- files that cannot be a journal -------------------------------------------------------------------------


async def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """`/dev/null` would forget what was sent, and a named pipe would never end."""
    places = [Path(os.devnull)]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        places.append(tmp_path / "pipe")
    async with Sandbox(runs=1) as sandbox, UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod:
        for place in places:
            with pytest.raises(ConfigurationError, match="not a regular file") as caught:
                await unpod.tasks.create_many(sandbox.space_token, [request()], journal=place)
            assert caught.value.hint
            assert caught.value.argument == "journal"
        assert sandbox.requests == 0
