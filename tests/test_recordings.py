"""Recordings: the requests, the accepted responses, and the files on disk."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import logging
import os
import re
import resource
import socket
import ssl
import stat
import tracemalloc
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import msgspec
import pytest
import trustme

from tests.cancel import cancel_everywhere
from tests.clock import pass_time
from tests.leaks import leaks
from tests.raw_server import RawConnection, RawServer, http_response
from tests.tables import each_row
from unpod_async import (
    ConfigurationError,
    ExportError,
    InvalidArgument,
    RecordingError,
    RetryPolicy,
    Task,
    TransportError,
    UnpodClient,
)
from unpod_async._http import Deadline
from unpod_async._recordings import (
    DownloadFailed,
    RecordingHosts,
    RecordingLoader,
    Recordings,
    ThroughputCheck,
    check_complete,
    new_session,
    public_socket,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

TOKEN = "5ecret-t0ken"
ORG = "acme-org"
SIGNED = "X-Amz-Signature=5ecret-signature&X-Amz-Credential=A%2F2026%3as3+b"
SECRET = re.compile(r"5ecret")
FAST = RetryPolicy(base=0.001, cap=0.001)

SOUND = bytes(range(256)) * 20
WAV = [("Content-Type", "audio/wav")]
GOOD = http_response(SOUND, 200, WAV)


def task(url: str | None, task_id: str | None = "T1") -> Task:
    output = {} if url is None else {"recording_url": url, "call_id": "c"}
    return msgspec.json.decode(msgspec.json.encode({"task_id": task_id, "output": output}), type=Task)


def signed(server: RawServer, path: str = "/account/rec.wav") -> str:
    return f"{server.base_url}{path}?{SIGNED}"


def named(*servers: RawServer) -> list[str]:
    return [f"127.0.0.1:{server.port}" for server in servers]


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[UnpodClient]:
    async with UnpodClient(TOKEN, ORG, "http://127.0.0.1:9", **{"retry": FAST, **options}) as unpod:
        yield unpod


async def load(url: str | None, directory: Path, *servers: RawServer, **options: Any) -> Path:
    """Download with a client of these options; options of the download itself are passed on to it."""
    own = {name: options.pop(name) for name in ("max_bytes", "recording_hosts") if name in options}
    own.setdefault("recording_hosts", named(*servers))
    context = options.pop("store_context", None)
    async with client(**options) as unpod:
        recordings = Recordings(unpod._context)
        return await recordings.download(task(url), directory, ssl_context=context, **own)


def saying(*answers: bytes) -> Callable[[RawConnection], Awaitable[None]]:
    """Send these responses in turn and repeat the last one; keep the connection open."""
    left = list(answers)

    async def answer(connection: RawConnection) -> None:
        while await connection.read_request():
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    return answer


def hanging_up(*answers: bytes) -> Callable[[RawConnection], Awaitable[None]]:
    """The same, but close the connection after each response."""
    left = list(answers)

    async def answer(connection: RawConnection) -> None:
        if await connection.read_request():
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    return answer


def redirect(location: str, status: int = 302) -> bytes:
    return http_response(b"moved", status, [("Location", location), ("Set-Cookie", "session=5ecret")])


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")[1:]
    found = dict(line.split(": ", 1) for line in lines)
    assert len(found) == len(lines)
    return found


def assert_bare(request: bytes, server: RawServer) -> None:
    """Check that a request contains no credentials of the client."""
    headers = headers_of(request)
    assert headers.pop("User-Agent").startswith("unpod-async/")
    assert headers == {"Host": f"127.0.0.1:{server.port}", "Accept": "*/*", "Accept-Encoding": "identity"}
    for name in (TOKEN, ORG, "cookie", "referer", "authorization", "org-handle"):
        assert name.lower().encode() not in request.lower()


async def turns_until(is_so: Callable[[], object]) -> None:
    """Run the event loop until a condition is true for which there is no event."""
    while not is_so():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0)


def make(directory: Path) -> None:
    directory.mkdir()


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.exists() else []


async def refused(url: str, directory: Path, *servers: RawServer, **options: Any) -> RecordingError:
    """Return the error of a download, after checking that it left no file and shows no secret."""
    with pytest.raises(RecordingError) as caught:
        await load(url, directory, *servers, **options)
    assert leaks(caught.value, SECRET) == []
    assert str(caught.value).startswith("the recording of task T1 was not downloaded: ")
    assert files(directory) == []
    return caught.value


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "recordings"


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    for name in ("", "unpod_async", "aiohttp", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    yield caplog
    for record in caplog.records:
        assert SECRET.search(record.getMessage() + repr(record.__dict__)) is None, record


# --- requests -----------------------------------------------------------------------------------------


class TestRequests:
    async def test_every_byte(self, directory: Path) -> None:
        async with RawServer(saying(GOOD)) as server:
            await load(signed(server), directory, server)
        (request,) = server.requests
        assert request.startswith(f"GET /account/rec.wav?{SIGNED} HTTP/1.1\r\n".encode())
        assert_bare(request, server)

    async def test_a_url_with_a_blank_and_other_letters(self, directory: Path) -> None:
        """The signature stays as it is, byte for byte."""
        async with RawServer(saying(GOOD)) as server:
            url = f"{server.base_url}/a b/ü%2f%7E.wav?{SIGNED}&x=%2b+%c3"
            assert (await load(url, directory, server)).read_bytes() == SOUND
        line = server.requests[0].partition(b"\r\n")[0].decode()
        assert line == f"GET /a%20b/%C3%BC%2f%7E.wav?{SIGNED}&x=%2b+%c3 HTTP/1.1"

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_after_redirects(self, directory: Path, status: int) -> None:
        async with RawServer(saying(GOOD)) as second:
            hops = saying(redirect("/b?5ecret", status), redirect(signed(second, "/store/uuid"), status))
            async with RawServer(hops) as first:
                path = await load(signed(first), directory, first, second)
        assert path.read_bytes() == SOUND
        assert [request.split(b" ")[1] for request in first.requests] == [
            f"/account/rec.wav?{SIGNED}".encode(),
            b"/b?5ecret",
        ]
        for server in (first, second):
            for request in server.requests:
                assert_bare(request, server)

    async def test_cookies_are_not_kept(self, directory: Path) -> None:
        # By host name, because a normal cookie jar stores no cookies of IP addresses.
        async with RawServer(saying(redirect("/b"), GOOD)) as server:
            url = f"http://localhost:{server.port}/a?{SIGNED}"
            await load(url, directory, recording_hosts=["localhost"])
        assert len(server.requests) == 2
        for request in server.requests:
            assert b"cookie" not in request.lower()

    async def test_the_environment_does_not_matter(
        self, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine 127.0.0.1 login me password {TOKEN}\n", encoding="utf-8")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        async with RawServer(saying(GOOD)) as proxy, RawServer(saying(GOOD)) as server:
            for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.base_url)
            # The client's own proxy is not used either: behind it, the connected address cannot be checked.
            await load(signed(server), directory, server, proxy=proxy.base_url)
        assert proxy.connections == 0
        assert_bare(server.requests[0], server)

    async def test_a_certificate_of_a_private_ca(self, directory: Path) -> None:
        authority = trustme.CA()
        context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(trusting)
        async with RawServer(saying(GOOD), context) as server:
            # The client's own context is not used, because it may contain a client certificate.
            error = await refused(signed(server), directory, server, ssl_context=trusting)
            assert error.permanent
            assert server.requests == []
            assert "is refused: unable to get local issuer certificate" in str(error)
            assert len(error.attempts) == 1
            path = await load(signed(server), directory, server, store_context=trusting)
        assert path.read_bytes() == SOUND

    async def test_downloads_are_counted_in_the_stats(self, directory: Path) -> None:
        async with RawServer(saying(http_response(b"", 500), GOOD)) as server, client() as unpod:
            await Recordings(unpod._context).download(
                task(signed(server)), directory, recording_hosts=named(server)
            )
            stats = unpod.stats
            assert (stats.requests, stats.attempts, stats.bytes) == (1, 2, len(SOUND))
            assert dict(stats.retries) == {"500": 1}


# --- addresses ----------------------------------------------------------------------------------------------

FORMS = [
    "127.0.0.1",
    "localhost",
    "0x7f000001",
    "2130706433",
    "127.1",
    "[::ffff:127.0.0.1]",
    "0.0.0.0",  # noqa: S104 - requested, not served
    "[::1]",
    "[::]",
    "[64:ff9b::127.0.0.1]",
]


# Newer aiohttp refuses these itself.
LEGACY = {"2130706433", "127.1"}
NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.InvalidURL)


class TestAddresses:
    @pytest.mark.parametrize("form", FORMS)
    async def test_private_addresses_are_refused(self, directory: Path, form: str) -> None:
        error = await refused(f"https://{form}/rec.wav?{SIGNED}", directory)
        if form not in LEGACY:
            assert "the host has no public address" in error.summary
            assert "add the host to recording_hosts=" in str(error.hint)
        assert error.permanent
        assert len(error.attempts) == 1

    @pytest.mark.parametrize("form", FORMS)
    async def test_private_addresses_are_not_connected_to(self, form: str) -> None:
        # On the port of a real server, with the same sockets that downloads use.
        async with RawServer(saying(GOOD)) as server, new_session(public_socket) as session:
            with pytest.raises(NOT_CONNECTED, match=r"not a public address|not a canonical IPv4 address"):
                await session.get(f"http://{form}:{server.port}/")
            assert server.connections == 0
            async with (
                new_session(None) as unguarded,
                unguarded.get(f"http://127.0.0.1:{server.port}/") as answer,
            ):
                assert answer.status == 200

    async def test_the_connected_address_is_checked_and_not_the_name(self) -> None:
        listed = {info[4][0] for info in socket.getaddrinfo("localhost", 443, type=socket.SOCK_STREAM)}
        assert listed <= {"127.0.0.1", "::1"}
        for where in listed:
            with pytest.raises(OSError, match="not a public address"):
                public_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (where, 443)))
        # A public address gets a socket; nothing is connected here.
        public_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", 443))).close()

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_other_ports_and_http_are_refused(self, directory: Path, scheme: str) -> None:
        async with RawServer(saying(GOOD)) as server:
            error = await refused(f"{scheme}://127.0.0.1:{server.port}/rec.wav?{SIGNED}", directory)
        assert error.permanent
        assert server.connections == 0
        assert error.attempts == ()

    async def test_a_named_port_allows_no_other_port(self, directory: Path) -> None:
        async with RawServer(saying(GOOD)) as server, RawServer(saying(GOOD)) as other:
            await refused(signed(other), directory, server)
        assert other.connections == 0

    @pytest.mark.parametrize(
        ("location", "why"),
        [
            ("http://127.0.0.1:{port}/?5ecret", "http is not accepted"),
            ("https://127.0.0.1:{port}/?5ecret", "only port 443"),
            ("//127.0.0.1:{port}/?5ecret", "http is not accepted"),
            ("https://127.0.0.1/?5ecret", "no public address"),
            ("https://localhost/?5ecret", "no public address"),
            ("https://[::ffff:127.0.0.1]/?5ecret", "no public address"),
            ("https://me:5ecret@127.0.0.1:{port}/", "a user name or password"),
            ("file:///etc/5ecret", "not an https URL"),
            ("javascript:5ecret", "not an https URL"),
            ("https://[::1", "the URL is not valid"),
            ("", "a redirect without a target"),
        ],
    )
    async def test_each_redirect_is_checked(self, directory: Path, location: str, why: str) -> None:
        async with RawServer(saying(GOOD)) as second:
            async with RawServer(saying(redirect(location.format(port=second.port)))) as first:
                error = await refused(signed(first), directory, first)
            assert why in str(error)
            assert error.permanent
            assert len(first.requests) == 1
        assert second.connections == 0

    async def test_a_redirect_without_a_target(self, directory: Path) -> None:
        async with RawServer(saying(http_response(b"", 302))) as server:
            assert "redirect without a target" in str(await refused(signed(server), directory, server))

    async def test_at_most_three_redirects_are_followed(self, directory: Path) -> None:
        three = [redirect(f"/{number}") for number in range(3)]
        async with RawServer(saying(*three, GOOD)) as server:
            assert (await load(signed(server), directory, server)).read_bytes() == SOUND
        (directory / "T1.wav").unlink()
        async with RawServer(saying(redirect("/again"))) as server:
            error = await refused(signed(server), directory, server)
        assert "more than 3 redirects" in str(error)
        assert error.permanent
        assert len(server.requests) == 4


# --- the file ----------------------------------------------------------------------------------------------


class TestFiles:
    async def test_the_file_has_the_name_of_its_task_and_is_private(self, directory: Path) -> None:
        lying = [("Content-Type", "audio/mpeg"), ("Content-Disposition", 'attachment; filename="../../x.sh"')]
        before = os.umask(0)
        try:
            async with RawServer(saying(http_response(SOUND, 200, lying))) as server:
                path = await load(signed(server, "/a/../../x.exe"), directory, server)
        finally:
            os.umask(before)
        assert path == directory / "T1.mp3"
        assert files(directory) == [path]
        assert path.read_bytes() == SOUND
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.parametrize("task_id", ["../../etc/passwd", "/etc/passwd", "a\0b", "con", "t1", "x" * 300])
    async def test_hostile_ids_stay_in_the_directory(self, directory: Path, task_id: str) -> None:
        async with RawServer(saying(GOOD)) as server, client() as unpod:
            path = await Recordings(unpod._context).download(
                task(signed(server), task_id), str(directory), recording_hosts=named(server)
            )
        assert files(directory) == [path]
        assert re.fullmatch(r"x-[0-9a-f]{32}\.wav", path.name)

    @pytest.mark.parametrize(
        ("content_type", "path", "expected"),
        [
            ("audio/ogg; codecs=opus", "/rec.wav", ".ogg"),
            ("AUDIO/WAV", "/rec", ".wav"),
            ("video/mp4", "/rec", ".mp4"),
            ("application/octet-stream", "/rec.flac", ".flac"),
            ("binary/octet-stream", "/rec.sh", ".bin"),
            (None, "/rec.opus", ".opus"),
            (None, "/rec", ".bin"),
        ],
    )
    async def test_extensions(
        self, directory: Path, content_type: str | None, path: str, expected: str
    ) -> None:
        headers = [] if content_type is None else [("Content-Type", content_type)]
        async with RawServer(saying(http_response(SOUND, 200, headers))) as server:
            assert (await load(signed(server, path), directory, server)).name == f"T1{expected}"

    @pytest.mark.parametrize("name", ["T1.wav", "T1.mp3", "T1.bin"])
    async def test_an_existing_recording_is_not_requested(self, directory: Path, name: str) -> None:
        make(directory)
        (directory / name).write_bytes(b"old")
        async with RawServer(saying(GOOD)) as server:
            assert await load(signed(server), directory, server) == directory / name
            # The URL is not checked either: a signed URL may have expired.
            assert await load("http://nowhere.example/", directory) == directory / name
        assert server.connections == 0
        assert (directory / name).read_bytes() == b"old"

    async def test_a_long_recording_is_written_in_chunks(self, directory: Path) -> None:
        piece = b"x" * 2**20
        head = http_response(b"", 200, [*WAV, ("Content-Length", str(32 * len(piece)))])

        async def answer(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(head)
            for _ in range(32):
                await connection.send(piece)
            await connection.read_request()  # until the client closes the connection

        async with RawServer(answer) as server:
            tracemalloc.start()
            try:
                path = await load(signed(server), directory, server)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert path.stat().st_size == 32 * 2**20
        assert peak < 16 * 2**20

    async def test_leftovers_of_this_recording_are_removed_and_others_stay(self, directory: Path) -> None:
        make(directory)
        left = [directory / f".T1.{digit * 16}.part" for digit in "0a"]
        kept = [
            directory / f".T2.{'0' * 16}.part",
            directory / ".T1.part",
            directory / f"T1.{'0' * 16}.part",
            directory / f".T1.{'1' * 16}.part",
        ]
        for path in (*left, *kept):
            path.write_bytes(b"half")
        # Another process is writing the last one and holds its lock.
        with kept[-1].open("rb") as written:
            fcntl.flock(written, fcntl.LOCK_EX)
            async with RawServer(saying(GOOD)) as server:
                path = await load(signed(server), directory, server)
        assert files(directory) == sorted([path, *kept])

    async def test_two_downloads_of_one_recording_do_not_interfere(self, directory: Path) -> None:
        go_on = anyio.Event()

        async def answer(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(http_response(b"", 200, [*WAV, ("Content-Length", str(3 * 2**20))]))
            await connection.send(b"x" * (2 * 2**20))
            await go_on.wait()
            await connection.send(b"x" * 2**20)
            await connection.read_request()

        async with RawServer(answer) as server:
            first = asyncio.ensure_future(load(signed(server), directory, server))
            # The second download searches for leftovers while the first is half written.
            await turns_until(lambda: files(directory))
            second = asyncio.ensure_future(load(signed(server), directory, server))
            await turns_until(lambda: len(files(directory)) == 2)
            go_on.set()
            path = await first
            assert await second == path
        assert files(directory) == [path]
        assert path.stat().st_size == 3 * 2**20

    async def test_it_is_synced_before_it_is_renamed(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[tuple[str, bool]] = []
        sync = os.fsync

        def note_and_sync(file: int) -> None:
            status = os.fstat(file)
            what = "a directory" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes"
            synced.append((what, (directory / "T1.wav").exists()))
            sync(file)

        monkeypatch.setattr(os, "fsync", note_and_sync)
        async with RawServer(saying(GOOD)) as server:
            await load(signed(server), directory, server)
        assert synced == [("a directory", False), (f"{len(SOUND)} bytes", False), ("a directory", True)]

    async def test_a_link_at_the_hidden_file_is_not_followed(
        self, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(directory)
        victim = tmp_path / "victim"
        victim.write_bytes(b"mine")
        (directory / f".T1.{'0' * 16}.part").symlink_to(victim)
        monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
        async with RawServer(saying(GOOD)) as server:
            with pytest.raises(ExportError, match=r"cannot write the recording T1 in .*: File exists"):
                await load(signed(server), directory, server)
        assert victim.read_bytes() == b"mine"

    async def test_a_link_at_the_file_is_replaced(self, directory: Path, tmp_path: Path) -> None:
        make(directory)
        (directory / "T1.wav").symlink_to(tmp_path / "missing")
        async with RawServer(saying(GOOD)) as server:
            path = await load(signed(server), directory, server)
        assert not path.is_symlink()
        assert not (tmp_path / "missing").exists()


class TestDisk:
    async def test_a_directory_that_cannot_be_created(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        async with RawServer(saying(GOOD)) as server:
            for path in (tmp_path / "file", tmp_path / "file" / "below"):
                with pytest.raises(
                    ExportError, match=r"cannot create or read the directory .*file"
                ) as caught:
                    await load(signed(server), path, server)
                assert leaks(caught.value, SECRET) == []
        assert server.connections == 0

    async def test_the_name_is_taken_by_a_directory(self, directory: Path) -> None:
        (directory / "T1.wav").mkdir(parents=True)
        async with RawServer(saying(GOOD)) as server:
            with pytest.raises(ExportError, match="cannot write the recording T1 in ") as caught:
                await load(signed(server), directory, server)
        assert leaks(caught.value, SECRET) == []
        assert files(directory) == [directory / "T1.wav"]
        assert len(server.requests) == 1  # no retry: the disk failed, not the store

    @pytest.mark.parametrize("size", [2**20, 3 * 2**20])
    async def test_a_full_disk(self, directory: Path, size: int) -> None:
        body = http_response(b"x" * size, 200, WAV)
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        async with RawServer(saying(body)) as server:
            resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, old[1]))
            try:
                with pytest.raises(ExportError, match=r"cannot write .*: File too large") as caught:
                    await load(signed(server), directory, server)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, old)
            assert leaks(caught.value, SECRET) == []
            assert files(directory) == []
            assert len(server.requests) == 1
            assert (await load(signed(server), directory, server)).stat().st_size == size


# --- responses --------------------------------------------------------------------------------------


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return http_response(body + end, 200, [*WAV, ("Transfer-Encoding", "chunked")])


class TestAnswers:
    async def test_a_complete_chunked_body(self, directory: Path) -> None:
        async with RawServer(hanging_up(chunked(SOUND, SOUND))) as server:
            assert (await load(signed(server), directory, server)).read_bytes() == SOUND * 2

    @pytest.mark.parametrize("end", [b"", b"0\r\n", b"5\r\nab"])
    async def test_an_incomplete_chunked_body(self, directory: Path, end: bytes) -> None:
        async with RawServer(hanging_up(chunked(SOUND, end=end))) as server:
            error = await refused(signed(server), directory, server)
        assert "cut short or damaged" in str(error)
        assert not error.permanent
        assert len(error.attempts) == len(server.requests) == FAST.attempts

    @pytest.mark.parametrize("kind", ["length", "chunks"])
    async def test_a_response_cut_at_every_byte(self, directory: Path, kind: str) -> None:
        whole = http_response(b"sound", 200, WAV) if kind == "length" else chunked(b"so", b"und")
        left = iter(range(len(whole)))

        async def answer(connection: RawConnection) -> None:
            if await connection.read_request():
                await connection.send(whole[: next(left, None)])

        async with RawServer(answer) as server:
            for _ in range(len(whole)):
                await refused(signed(server), directory, server, retry=None)
            assert (await load(signed(server), directory, server)).read_bytes() == b"sound"
        assert len(server.requests) == len(whole) + 1

    @pytest.mark.parametrize(
        ("length", "expected", "is_whole"), [(5, 5, True), (5, None, True), (4, 5, False)]
    )
    def test_the_length_is_also_compared_by_the_loader(
        self, length: int, expected: int | None, is_whole: bool
    ) -> None:
        # aiohttp checks it too, but the loader does not depend on that.
        url = RecordingHosts(()).check("https://store.example/rec.wav")
        with nullcontext() if is_whole else pytest.raises(DownloadFailed) as caught:
            check_complete(url, length, expected)
        if caught is not None:
            assert str(caught.value.error) == "store.example/rec.wav: only 4 of 5 bytes arrived"

    async def test_an_incomplete_recording_is_requested_again(self, directory: Path) -> None:
        async with RawServer(hanging_up(GOOD[:-1], GOOD)) as server:
            assert (await load(signed(server), directory, server)).read_bytes() == SOUND
        assert len(server.requests) == 2

    @pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
    async def test_a_body_that_ends_with_the_connection(self, directory: Path, version: bytes) -> None:
        answer = version + b" 200 OK\r\nContent-Type: audio/wav\r\nConnection: close\r\n\r\n" + SOUND
        async with RawServer(hanging_up(answer)) as server:
            error = await refused(signed(server), directory, server)
        assert "the response has no length, so a missing part could not be detected" in str(error)
        assert error.permanent
        assert len(server.requests) == 1

    async def test_bytes_after_the_body_are_ignored(self, directory: Path) -> None:
        async with RawServer(hanging_up(GOOD + b"HTTP/1.1 200 OK\r\n")) as server:
            assert (await load(signed(server), directory, server)).read_bytes() == SOUND

    @pytest.mark.parametrize(
        "headers",
        [
            [("Content-Length", "5"), ("Content-Length", "6")],
            [("Content-Length", "-5")],
            [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
            [("Transfer-Encoding", "gzip, chunked")],
            [("Transfer-Encoding", "gzip")],
        ],
    )
    async def test_contradicting_lengths(self, directory: Path, headers: list[tuple[str, str]]) -> None:
        answer = http_response(b"5\r\nsound\r\n0\r\n\r\n", 200, [*WAV, *headers])
        async with RawServer(hanging_up(answer)) as server:
            await refused(signed(server), directory, server)

    @pytest.mark.parametrize("empty", [http_response(b"", 200, WAV), chunked()])
    async def test_nothing(self, directory: Path, empty: bytes) -> None:
        async with RawServer(saying(empty, GOOD)) as server:
            assert (await load(signed(server), directory, server)).read_bytes() == SOUND
        (directory / "T1.wav").unlink()
        async with RawServer(saying(empty)) as server:
            assert "the response is empty" in str(await refused(signed(server), directory, server))

    @pytest.mark.parametrize("coding", ["gzip", "br", "x", "gzip, identity", "aws-chunked, gzip"])
    async def test_compressed(self, directory: Path, coding: str) -> None:
        answer = http_response(SOUND, 200, [*WAV, ("Content-Encoding", coding)])
        async with RawServer(saying(answer)) as server:
            error = await refused(signed(server), directory, server)
        assert f"the response is compressed ({coding!r})" in str(error)
        assert error.permanent
        assert len(server.requests) == 1

    async def test_compressed_by_a_second_header(self, directory: Path) -> None:
        headers = [*WAV, ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
        async with RawServer(saying(http_response(SOUND, 200, headers))) as server:
            error = await refused(signed(server), directory, server)
        assert "the response is compressed ('identity, gzip')" in str(error)

    @pytest.mark.parametrize("coding", ["identity", "aws-chunked", "", "AWS-Chunked, identity", ","])
    async def test_compressed_in_name_only(self, directory: Path, coding: str) -> None:
        """A store keeps the header of an upload, although nothing is encoded when the file is sent."""
        answer = http_response(SOUND, 200, [*WAV, ("Content-Encoding", coding)])
        async with RawServer(saying(answer)) as server:
            assert (await load(signed(server), directory, server)).read_bytes() == SOUND

    async def test_a_long_header(self, directory: Path) -> None:
        answer = http_response(SOUND, 200, [*WAV, ("X-Amz-Meta-Note", "5ecret" * 400_000)])
        async with RawServer(hanging_up(answer)) as server:
            error = await refused(signed(server), directory, server)
        assert "than the session accepts" in str(error)
        assert error.permanent
        assert len(server.requests) == 1
        answer = http_response(SOUND, 200, [*WAV, ("X-Amz-Meta-Note", "a" * 20_000)])
        async with RawServer(saying(answer)) as server:
            assert (await load(signed(server), directory, server)).read_bytes() == SOUND

    @pytest.mark.parametrize(
        "kind",
        ["text/html; charset=utf-8", "application/xml", "application/json", "audio/", "x", "audio/a/b"],
    )
    async def test_no_recording(self, directory: Path, kind: str) -> None:
        answer = http_response(b"<html>5ecret expired</html>", 200, [("Content-Type", kind)])
        async with RawServer(saying(answer)) as server:
            error = await refused(signed(server), directory, server)
        assert f"not a recording but {kind.partition(';')[0]!r}" in str(error)
        assert "list the task again" in str(error)
        assert error.permanent
        assert len(server.requests) == 1

    async def test_too_long_by_its_announced_length(self, directory: Path) -> None:
        # Only the head arrives, so waiting for the body would never end.
        head = http_response(b"", 200, [*WAV, ("Content-Length", str(len(SOUND)))])
        async with RawServer(saying(head)) as server:
            error = await refused(signed(server), directory, server, max_bytes=len(SOUND) - 1)
        assert f"longer than {len(SOUND) - 1} bytes" in str(error)
        assert error.permanent

    async def test_too_long_while_it_arrives(self, directory: Path) -> None:
        async def answer(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(chunked(SOUND, end=b""))
            while True:  # until the client closes the connection
                await connection.send(b"%x\r\n%s\r\n" % (len(SOUND), SOUND))

        async with RawServer(answer) as server:
            error = await refused(signed(server), directory, server, max_bytes=3 * 2**20)
        assert "longer than 3145728 bytes" in str(error)
        assert error.permanent
        assert server.connections == 1

    @pytest.mark.parametrize("answer", [GOOD, chunked(SOUND)])
    async def test_exactly_the_maximum_length(self, directory: Path, answer: bytes) -> None:
        async with RawServer(saying(answer)) as server:
            path = await load(signed(server), directory, server, max_bytes=len(SOUND))
        assert path.read_bytes() == SOUND


# --- retries --------------------------------------------------------------------------------------


class TestRepeats:
    async def test_not_found(self, directory: Path) -> None:
        async with RawServer(saying(http_response(b"5ecret", 404))) as server:
            error = await refused(signed(server), directory, server)
        assert "the server answered 404: the recording is not ready yet or was deleted" in str(error)
        assert "list the task again to get a fresh URL" in str(error)
        assert error.permanent
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [401, 403, 410])
    async def test_gone(self, directory: Path, status: int) -> None:
        async with RawServer(saying(http_response(b"5ecret", status))) as server:
            error = await refused(signed(server), directory, server)
        assert f"the server answered {status}: the recording is gone or its signed URL has expired" in str(
            error
        )
        assert "list the task again to get a fresh URL" in str(error)
        assert error.permanent
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 400, 405, 418])
    async def test_other_statuses_are_final(self, directory: Path, status: int) -> None:
        async with RawServer(saying(http_response(b"", status, [*WAV, ("Content-Length", "0")]))) as server:
            error = await refused(signed(server), directory, server)
        assert f"the server answered {status}" in str(error)
        assert error.permanent
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    async def test_temporary_errors_are_retried(
        self, directory: Path, status: int, log: pytest.LogCaptureFixture
    ) -> None:
        trouble = http_response(b"5ecret", status, [("Retry-After", "0")])
        async with RawServer(saying(trouble, trouble, trouble, GOOD)) as server:
            assert (await load(signed(server), directory, server)).read_bytes() == SOUND
        assert len(server.requests) == 4
        warned = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
        assert len(warned) == 3
        assert re.fullmatch(
            rf"the recording of task T1: attempt 1 failed: {status}; next attempt in 0\.00 s", warned[0]
        )

    @pytest.mark.parametrize("status", [429, 503])
    async def test_temporary_errors_that_last(self, directory: Path, status: int) -> None:
        async with RawServer(saying(http_response(b"", status))) as server:
            error = await refused(signed(server), directory, server)
        assert [attempt.status for attempt in error.attempts] == [status] * 4
        assert [attempt.wait > 0 for attempt in error.attempts][-1] is False
        assert not error.permanent
        assert "[4 attempts]" in str(error)
        assert len(server.requests) == 4

    async def test_without_a_policy_there_is_one_attempt(self, directory: Path) -> None:
        async with RawServer(saying(http_response(b"", 503))) as server:
            await refused(signed(server), directory, server, retry=None)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(("requested", "deadline"), [("61", None), ("30", 5)])
    async def test_a_requested_delay_that_is_too_long(
        self, directory: Path, requested: str, deadline: float | None
    ) -> None:
        trouble = http_response(b"", 429, [("Retry-After", requested)])
        async with RawServer(saying(trouble)) as server:
            error = await refused(signed(server), directory, server, deadline=deadline)
        assert not error.permanent
        assert len(server.requests) == 1

    async def test_a_requested_delay_is_respected(
        self, directory: Path, log: pytest.LogCaptureFixture
    ) -> None:
        trouble = http_response(b"", 503, [("Retry-After", "30")])
        async with RawServer(saying(trouble)) as server:
            running = asyncio.ensure_future(load(signed(server), directory, server))
            await turns_until(lambda: "next attempt in 3" in log.text)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert re.search(r"attempt 1 failed: 503; next attempt in 3[0-3]\.\d\d s", log.text)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("sent", "why"),
        [
            (b"", "the connection was lost"),
            (b"HTTP/1.1 200 OK\r\nContent-", "the connection was lost"),
            (b"SSH-2.0-5ecret\r\n\r\n", "not valid HTTP"),
            (chunked(SOUND, end=b"zz\r\n"), "not valid HTTP"),
        ],
    )
    async def test_transport_errors(self, directory: Path, sent: bytes, why: str) -> None:
        async with RawServer(hanging_up(sent)) as server:
            error = await refused(signed(server), directory, server)
        assert why in str(error)
        assert not error.permanent
        # One request for each attempt: by itself, aiohttp sends the first kind twice.
        assert len(server.requests) == server.connections == len(error.attempts) == 4

    async def test_resets(self, directory: Path) -> None:
        async def answer(connection: RawConnection) -> None:
            await connection.read_request()
            if connection.number < 3:
                await connection.send(GOOD[:100])
                connection.reset()
            else:
                await connection.send(GOOD)

        async with RawServer(answer) as server:
            assert (await load(signed(server), directory, server)).read_bytes() == SOUND
        assert server.connections == 3

    async def test_a_refused_connection(self, directory: Path, refusing_port: int) -> None:
        host = f"127.0.0.1:{refusing_port}"
        error = await refused(f"http://{host}/1.wav?{SIGNED}", directory, recording_hosts=[host])
        assert "no connection" in str(error)
        assert len(error.attempts) == 4

    async def test_an_unknown_host_name(self, directory: Path) -> None:
        error = await refused(f"https://rec.example.invalid/1.wav?{SIGNED}", directory)
        assert "the host name rec.example.invalid cannot be resolved" in str(error)
        assert "rec.example.invalid/1.wav" in str(error)
        assert not error.permanent


class TestTime:
    async def test_a_head_that_does_not_arrive(self, directory: Path) -> None:
        async def answer(connection: RawConnection) -> None:
            while await connection.read_request():
                await connection.send(b"HTTP/1.1 200 OK\r\n")
                pass_time(20)

        async with RawServer(answer) as server:
            error = await refused(signed(server), directory, server, timeout=20)
        assert "no response in time" in str(error)
        assert not error.permanent
        assert len(server.requests) == 4

    async def test_the_attempt_timeout_does_not_limit_the_body(self, directory: Path) -> None:
        # The timers of the loop fire in order, so the last byte is sent after that time.
        over = anyio.Event()

        async def answer(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(GOOD[:-1])
            asyncio.get_running_loop().call_later(2.1, over.set)
            await over.wait()
            await connection.send(GOOD[-1:])

        async with RawServer(answer) as server:
            assert (await load(signed(server), directory, server, timeout=2)).read_bytes() == SOUND
        assert len(server.requests) == 1

    async def test_the_deadline_limits_all_attempts(self, directory: Path) -> None:
        head = http_response(b"", 200, [*WAV, ("Content-Length", str(5 * 2**20))]) + b"x" * (2 * 2**20)
        async with RawServer(saying(head)) as server:
            with pytest.raises(
                TransportError, match=r"the deadline of 2 s ended while the recording"
            ) as caught:
                await load(signed(server), directory, server, deadline=2)
        assert caught.value.timed_out
        assert leaks(caught.value, SECRET) == []
        assert files(directory) == []
        assert len(server.requests) == 1

    async def test_a_body_that_arrives_too_slowly(self, directory: Path) -> None:
        # The clock advances by 6 s with each reading, so each byte takes 6 s.
        async def answer(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(chunked(end=b""))
            while True:
                await connection.send(b"1\r\nx\r\n")
                await asyncio.sleep(0)

        clock = itertools.count(0.0, 6.0)
        async with RawServer(answer) as server, client() as unpod:
            loader = RecordingLoader(
                unpod._context.executor, recording_hosts=named(server), clock=lambda: next(clock)
            )
            async with loader:
                with pytest.raises(RecordingError, match="less than 1024 bytes per second arrived") as caught:
                    await loader.fetch("T1", signed(server), directory, Deadline(None))
        assert not caught.value.permanent
        assert server.connections == 4
        assert next(clock) <= 4 * 6 * 2 * 3
        assert files(directory) == []

    @each_row(
        ("pieces", "slow"),
        [
            ([(1, 0.05)] * 199, False),  # not 10 s yet
            ([(1, 0.05)] * 201, True),
            ([(1, 9.9)], False),
            ([(1, 10.0)], True),
            ([(10_239, 10.0)], True),
            ([(10_240, 10.0)], False),
            ([(64 * 1024, 25.0)], False),
            ([(10**6, 0.0), (1, 9.0), (1, 2.0), (1, 9.9)], False),  # each check starts a new span
            ([(10**6, 0.0), (1, 11.0), (1, 10.0)], True),
            ([(1, 0.0)] * 10**4, False),
        ],
    )
    def test_too_slow(self, pieces: list[tuple[int, float]], slow: bool) -> None:
        pace = ThroughputCheck()
        assert any(pace.is_too_slow(*piece) for piece in pieces) is slow


# --- arguments, loaders, cancellation ----------------------------------------------------------------------


class TestArguments:
    @pytest.mark.parametrize(
        ("changed", "why"),
        [
            ({"task": None}, "task must be a Task, not None"),
            ({"task": "T1"}, "task must be a Task"),
            ({"task": task("https://store.example/", None)}, "must have a task_id"),
            ({"task": task("https://store.example/", "")}, "must have a task_id"),
            ({"directory": None}, "directory must be"),
            ({"directory": ""}, "directory must be"),
            ({"directory": b"x"}, "directory must be"),
            ({"directory": "a\0b"}, "directory must be"),
            ({"max_bytes": 0}, "max_bytes must be"),
            ({"max_bytes": 1.5}, "max_bytes must be"),
            ({"max_bytes": True}, "max_bytes must be"),
            ({"recording_hosts": "store.example"}, "recording_hosts must be"),
            ({"recording_hosts": ["https://store.example"]}, "recording_hosts: "),
            ({"ssl_context": False}, "ssl_context must be"),
        ],
    )
    async def test_invalid_arguments(self, directory: Path, changed: dict[str, Any], why: str) -> None:
        arguments = {"task": task("https://store.example/"), "directory": directory, **changed}
        async with client() as unpod:
            with pytest.raises(InvalidArgument, match=why):
                await Recordings(unpod._context).download(**arguments)
        assert files(directory.parent) == []

    @pytest.mark.parametrize("output", [b"{}", b"null", b'{"recording_url": "N/A"}', b'{"call_id": "c"}'])
    async def test_no_recording(self, directory: Path, output: bytes) -> None:
        row = msgspec.json.decode(b'{"task_id": "T1", "output": %s}' % output, type=Task)
        async with client() as unpod:
            with pytest.raises(RecordingError, match="task T1 has no recording") as caught:
                await Recordings(unpod._context).download(row, directory)
        assert caught.value.permanent
        assert files(directory.parent) == []


class TestLoader:
    async def test_many_downloads_at_once(self, directory: Path) -> None:
        async def answer(connection: RawConnection) -> None:
            while request := await connection.read_request():
                name = request.split(b"?")[0].rpartition(b"/")[2]
                await connection.send(http_response(name, 200, WAV))

        async with RawServer(answer) as server, client() as unpod:
            async with RecordingLoader(unpod._context.executor, recording_hosts=named(server)) as loader:
                deadline = Deadline(None)
                for start in (0, 20):
                    await asyncio.gather(
                        *(
                            loader.fetch(f"T{n}", signed(server, f"/{n}"), directory, deadline)
                            for n in range(start, start + 20)
                        )
                    )
            assert len(server.requests) == 40
            assert server.connections <= 20  # the second twenty reused the connections of the first
            with pytest.raises(ConfigurationError, match="closed"):
                await loader.fetch("T99", signed(server, "/99"), directory, deadline)
        assert {path.name: path.read_bytes() for path in files(directory)} == {
            f"T{n}.wav": str(n).encode() for n in range(40)
        }

    async def test_one_deadline_for_all(self, directory: Path) -> None:
        now = [0.0]
        async with RawServer(saying(GOOD)) as server, client() as unpod:
            deadline = Deadline(100, clock=lambda: now[0])
            async with RecordingLoader(unpod._context.executor, recording_hosts=named(server)) as loader:
                await loader.fetch("T1", signed(server), directory, deadline)
                now[0] = 101.0
                with pytest.raises(TransportError, match="the deadline of 100 s ended"):
                    await loader.fetch("T2", signed(server), directory, deadline)
                # An existing file needs no time.
                assert await loader.fetch("T1", signed(server), directory, deadline) == directory / "T1.wav"


class TestCancellation:
    @pytest.mark.parametrize("late", [False, True])
    async def test_everywhere(self, directory: Path, late: bool) -> None:
        body = b"x" * (2 * 2**20)
        answers = [
            redirect("/next"),
            http_response(b"", 500),
            redirect("/next"),
            http_response(body, 200, WAV),
        ]

        async def answer(connection: RawConnection) -> None:
            for each in itertools.count():
                if not await connection.read_request():
                    return
                await connection.send(answers[min(each, 3)])

        final = directory / "T1.wav"

        def check(point: int) -> None:
            left = files(directory)
            assert left in ([], [final]), point
            if left:
                assert final.stat().st_size == len(body)
                final.unlink()

        async with RawServer(answer) as server:
            points = await cancel_everywhere(
                lambda: load(signed(server), directory, server), late=late, after_each=check
            )
        assert points > 10
        assert final.read_bytes() == body

    async def test_nothing_secret_is_shown(self, directory: Path) -> None:
        head = http_response(b"", 200, [*WAV, ("Content-Length", "5000")])
        for sent in (b"", head + b"x"):
            requested = anyio.Event()

            async def answer(
                connection: RawConnection, sent: bytes = sent, requested: anyio.Event = requested
            ) -> None:
                await connection.read_request()
                await connection.send(sent)
                requested.set()
                await connection.read_request()

            async with RawServer(answer) as server:
                running = asyncio.ensure_future(load(signed(server), directory, server))
                await requested.wait()
                for _ in range(50):
                    await asyncio.sleep(0)
                running.cancel()
                with pytest.raises(asyncio.CancelledError) as caught:
                    await running
                assert leaks(caught.value, SECRET) == []
                assert files(directory) == []

    async def test_a_killed_scope(self, directory: Path) -> None:
        head = http_response(b"", 200, [*WAV, ("Content-Length", str(5 * 2**20))]) + b"x" * (3 * 2**20)
        async with RawServer(saying(head)) as server:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(load, signed(server), directory, server)
                    await turns_until(lambda: files(directory))
                    scope.cancel()
            assert files(directory) == []
