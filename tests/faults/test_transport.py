"""Rows 1 to 23: the connection and the transport."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp.compression_utils import HAS_BROTLI, HAS_ZSTD

from tests.clock import pass_time
from tests.codings import compress
from tests.faults.harness import (
    CREATED,
    ORGS,
    Row,
    always,
    client_for,
    create,
    each_in_turn,
    envelope,
    orgs,
    walk_runs,
    watch,
)
from tests.raw_server import RawConnection, RawServer, http_response, json_response
from unpod_async import APIError, DecodeError, OutcomeUnknown, RetryPolicy, ServerError, TransportError

SMALL = json_response(envelope([{"domain_handle": "a"}]))
ROOT = str(Path(__file__).parents[2])
HEAD = SMALL.index(b"\r\n\r\n") + 4
BODY = SMALL[HEAD:]


async def lost(row: Row, *acts: bytes | str, sends: int = 3, **options: Any) -> None:
    """What a lost answer comes to: a read is repeated, a create is not."""
    async with RawServer(always(*acts)) as server:
        outcome = await row.check(orgs, server, TransportError, sends, **options)
        assert len(outcome.error.attempts) == sends  # type: ignore[union-attr]
        await row.check(create, server, OutcomeUnknown, 1, **options)


async def unreadable(row: Row, *acts: bytes | str) -> None:
    async with RawServer(always(*acts)) as server:
        await row.check(orgs, server, DecodeError, 2)
        await row.check(create, server, OutcomeUnknown, 1)


# --- no connection -----------------------------------------------------------------------------------------


async def test_row_01_refused(row: Row, refusing_port: int) -> None:
    async with RawServer(always(ORGS)) as server:
        for call in (orgs, create):
            outcome = await row.check(
                call, server, TransportError, 0, base_url=f"http://127.0.0.1:{refusing_port}"
            )
            assert outcome.error.sent is False  # type: ignore[union-attr]
            assert len(outcome.error.attempts) == 3  # type: ignore[union-attr]


async def test_row_01_a_create_that_was_refused_first_is_made_once(row: Row) -> None:
    # A socket that is bound and does not listen refuses connections, and keeps the port.
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))

    async def serve() -> None:
        await asyncio.sleep(0.05)
        async with asyncio.timeout(50):
            server = await asyncio.start_server(answer, sock=listener)
            async with server:
                await asked.wait()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b'"context"')
        writer.write(CREATED)
        await writer.drain()
        writer.close()
        requests.append(1)
        asked.set()

    requests: list[int] = []
    asked = asyncio.Event()
    serving = asyncio.ensure_future(serve())
    policy = RetryPolicy(attempts=50, base=0.01, cap=0.02)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    await row.check(create, None, None, 0, base_url=url, retry=policy, note=False)
    await serving
    assert len(requests) == 1


# --- the connection breaks ---------------------------------------------------------------------------------


async def test_row_02_reset_before_the_status_line(row: Row) -> None:
    await lost(row, "reset")


async def test_row_03_closed_before_the_status_line(row: Row) -> None:
    await lost(row, "close")


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_row_04_inside_the_head(row: Row, how: str) -> None:
    part = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Internal: db-passw0rd-of-the-server"
    async with RawServer(always(part, how)) as server:
        for call, expect, sends in ((orgs, TransportError, 3), (create, OutcomeUnknown, 1)):
            outcome = await row.check(call, server, expect, sends)
            assert "passw0rd" not in str(outcome.error) + repr(outcome.error)


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_row_05_reset_inside_the_body_at_every_byte(row: Row, how: str) -> None:
    """Every byte of the head and of the body, and a Content-Length that promises more than comes."""
    cut = [0]

    async def handle(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(SMALL[: cut[0]])
            if how == "reset":
                connection.reset()
            return

    async with RawServer(handle) as server:
        policy = RetryPolicy(attempts=2, base=0.001, cap=0.002, budget=10**6)
        async with client_for(server.base_url, retry=policy) as unpod:
            for cut[0] in range(len(SMALL)):
                for call, expect, sends in ((orgs, TransportError, 2), (create, OutcomeUnknown, 1)):
                    before = len(server.requests)
                    outcome = await watch(call(unpod))
                    assert type(outcome.error) is expect, (cut[0], outcome.error)
                    assert len(server.requests) - before == sends, cut[0]
                    kind = "create" if call is create else "read"
                    row.note(f"{kind}, {how} at each of {len(SMALL)} bytes: {outcome.name}", sends)


async def test_row_06_chunked_and_cut(row: Row) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    half, rest = BODY[:40], BODY[40:]
    chunk = b"%x\r\n%s\r\n"
    for sent in (
        b"",
        b"2",
        chunk % (40, half),  # between chunks
        chunk % (40, half) + b"%x\r\n%s" % (len(rest), rest[:5]),  # inside one
        chunk % (40, half) + chunk % (len(rest), rest),  # all but the last
    ):
        for how in ("reset", "close"):
            await lost(row, head + sent, how)


async def test_row_07_no_length_and_closed_early(row: Row) -> None:
    await unreadable(row, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY[:-3], "close")


def packed(body: bytes, encoding: str = "gzip") -> bytes:
    return http_response(body, headers=[("Content-Type", "application/json"), ("Content-Encoding", encoding)])


async def test_row_08_gzip_cut_and_framing_whole(row: Row) -> None:
    whole = gzip.compress(BODY)
    await unreadable(row, packed(whole[:-20]))
    await unreadable(row, packed(whole[:15]))


async def test_row_09_gzip_damaged(row: Row) -> None:
    whole = gzip.compress(BODY)
    wrong_crc = whole[:-8] + bytes(byte ^ 0xFF for byte in whole[-8:-4]) + whole[-4:]
    bodies = [wrong_crc, BODY, whole + b"trailing bytes"]
    if aiohttp.__version__ != "3.14.3":  # the lowest version allowed reads any number of members
        bodies.append(gzip.compress(b"") * 1100 + whole)
    for body in bodies:
        await lost(row, packed(body))


async def test_row_10_codings_that_cannot_be_decoded(row: Row) -> None:
    codings = ["compress", "gzip, gzip", "x" * 300]
    for coding, asked in (("br", HAS_BROTLI), ("zstd", HAS_ZSTD)):
        if not asked:
            codings.append(coding)
    for coding in codings:
        async with RawServer(always(packed(b"\x1b\x00\x00", coding))) as server:
            outcome = await row.check(orgs, server, TransportError, 1)
            assert outcome.error.permanent  # type: ignore[union-attr]
            assert f"the Content-Encoding {coding[:60]}" in str(outcome.error)
            assert "400" not in str(outcome.error)
            assert "Accept-Encoding" in str(outcome.error.hint)  # type: ignore[union-attr]
            await row.check(create, server, OutcomeUnknown, 1)


async def test_row_10_an_error_whose_text_cannot_be_decoded_keeps_its_status(row: Row) -> None:
    answer = http_response(b"\x1b\x00\x00", 503, [("Content-Encoding", "compress")])
    async with RawServer(always(answer)) as server:
        await row.check(orgs, server, ServerError, 3)


NOT_HTTP = {
    "garbage": b"\x00\x01\x02 what is this\r\n\r\n",
    "an SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a bad chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "length, chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("what", NOT_HTTP)
async def test_row_11_not_http(row: Row, what: str) -> None:
    async with RawServer(always(NOT_HTTP[what], "close")) as server:
        outcome = await row.check(orgs, server, TransportError, 3)
        assert "not valid HTTP" in str(outcome.error)
        await row.check(create, server, OutcomeUnknown, 1)


TOO_LONG = {
    "a header of 70 KB": b"X-Long: " + b"a" * 70_000,
    "500 headers": b"X-Many: 1\r\n" * 499 + b"X-Many: 1",
}


@pytest.mark.parametrize("what", TOO_LONG)
async def test_row_11_too_long_a_head(row: Row, what: str) -> None:
    """It is permanent for a read, and does not matter for a create."""
    status = b"HTTP/1.1 200 OK\r\n"
    answers = [status + TOO_LONG[what] + b"\r\n" + whole.removeprefix(status) for whole in (ORGS, CREATED)]
    async with RawServer(each_in_turn([answers[0]], [answers[1]])) as server:
        outcome = await row.check(orgs, server, TransportError, 1)
        assert outcome.error.permanent  # type: ignore[union-attr] - row.check saw its class
        assert "'X-" in str(outcome.error)
        assert "aaaa" not in str(outcome.error)
        await row.check(create, server, None, 1)


async def test_row_12_one_byte_at_a_time(row: Row) -> None:
    async def drip(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            for byte in SMALL:
                await connection.send(bytes([byte]))
                pass_time(1)  # less than the limit of a silence
                await asyncio.sleep(0)

    async with RawServer(drip) as server:
        for call, expect, sends in ((orgs, TransportError, 3), (create, OutcomeUnknown, 1)):
            outcome = await row.check(call, server, expect, sends, timeout=20)
        assert outcome.records


@pytest.mark.parametrize("place", [0, HEAD + 10])
async def test_row_13_stall(row: Row, place: int) -> None:
    async with RawServer(always(SMALL[:place], 20.0, "stall")) as server:
        outcome = await row.check(orgs, server, TransportError, 3, timeout=20)
        assert outcome.error.timed_out  # type: ignore[union-attr]
        await row.check(create, server, OutcomeUnknown, 1, timeout=20)
    async with RawServer(always(SMALL[:place], "stall")) as server:
        # A deadline that ends once bytes may have left is no other case.
        await row.check(create, server, OutcomeUnknown, 1, deadline=2, note=False)


async def test_row_14_tls_never_answered(row: Row) -> None:
    async def say_nothing(connection: RawConnection) -> None:
        pass_time(5)  # less than the limit of connecting
        await connection.read_request()

    async with RawServer(say_nothing) as server:
        url = server.base_url.replace("http:", "https:")
        for call in (orgs, create):
            before = server.connections
            outcome = await row.check(call, server, TransportError, 0, base_url=url, timeout=5)
            assert server.connections - before == 3
            assert outcome.error.timed_out  # type: ignore[union-attr]
            assert outcome.error.sent is False  # type: ignore[union-attr]


async def test_row_14_connect_black_hole(row: Row) -> None:
    """A queue of connections that is full: the kernel drops further SYNs."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        full = [socket.socket() for _ in range(4)]
        try:
            for one in full:
                one.setblocking(False)
                one.connect_ex(listening.getsockname())
            await asyncio.sleep(0.02)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            for call in (orgs, create):
                outcome = await row.check(call, None, TransportError, 0, base_url=url, timeout=0.1)
                assert len(outcome.error.attempts) == 3  # type: ignore[union-attr]
                assert outcome.error.sent is False  # type: ignore[union-attr]
            outcome = await row.check(create, None, TransportError, 0, base_url=url, deadline=0.1, note=False)
            assert outcome.error.sent is False  # type: ignore[union-attr]
        finally:
            for one in full:
                one.close()


async def test_row_15_name_not_found(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def fails(host: object, *rest: object, **more: object) -> object:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    for call in (orgs, create):
        outcome = await row.check(call, None, TransportError, 0, base_url="https://api.example.com")
        assert outcome.error.sent is False  # type: ignore[union-attr]
        assert len(outcome.error.attempts) == 3  # type: ignore[union-attr]
    assert asked
    assert set(asked) <= {"api.example.com", b"api.example.com"}


async def test_row_15_name_server_stalls(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    def stalls(host: object, *rest: object, **more: object) -> object:
        time.sleep(0.3)  # in a thread of the loop's
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", stalls)
    for call in (orgs, create):
        url = "https://api.example.com"
        outcome = await row.check(call, None, TransportError, 0, base_url=url, timeout=0.05)
        assert len(outcome.error.attempts) == 3  # type: ignore[union-attr]
        assert outcome.error.sent is False  # type: ignore[union-attr]


# --- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_side(cert: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    return context


def client_side(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("bad", ["unknown CA", "another host", "expired"])
async def test_row_16_certificates(row: Row, authority: trustme.CA, bad: str) -> None:
    match bad:
        case "unknown CA":
            cert, reason = trustme.CA().issue_cert("127.0.0.1"), "unable to get local issuer certificate"
        case "another host":
            cert, reason = authority.issue_cert("elsewhere.example"), "IP address mismatch"
        case _:
            past = datetime.now(UTC) - timedelta(days=2)
            cert = authority.issue_cert("127.0.0.1", not_after=past)
            reason = "certificate has expired"
    async with RawServer(always(ORGS), server_side(cert)) as server:
        for call in (orgs, create):
            before = server.connections
            outcome = await row.check(call, server, TransportError, 0, ssl_context=client_side(authority))
            assert outcome.error.permanent  # type: ignore[union-attr]
            assert outcome.error.sent is False  # type: ignore[union-attr]
            assert server.connections - before <= 1  # the server may not see it as one at all
            assert len(outcome.error.attempts) == 1  # type: ignore[union-attr]
            text = str(outcome.error)
            assert "127.0.0.1" in text
            assert reason in text
            assert "verif" not in text.replace("certificate verify failed", "")


async def test_row_16_a_good_certificate_of_a_private_ca(row: Row, authority: trustme.CA) -> None:
    context = server_side(authority.issue_cert("127.0.0.1"))
    async with RawServer(each_in_turn([ORGS], [CREATED]), context) as server:
        await row.check(orgs, server, None, 1, ssl_context=client_side(authority))
        await row.check(create, server, None, 1, ssl_context=client_side(authority))


async def test_row_17_plain_to_a_tls_port(row: Row, authority: trustme.CA) -> None:
    context = server_side(authority.issue_cert("127.0.0.1"))
    async with RawServer(always(ORGS), context) as server:
        url = server.base_url.replace("https:", "http:")
        outcome = await row.check(orgs, server, TransportError, 0, base_url=url)
        assert len(outcome.error.attempts) == 3  # type: ignore[union-attr]
        assert "https" in str(outcome.error)
        await row.check(create, server, OutcomeUnknown, 0, base_url=url)


# --- connections that are kept -----------------------------------------------------------------------------


async def test_row_18_server_drops_the_connection_it_kept(row: Row) -> None:
    """It answers one request per connection, and resets the connection when a second one comes."""

    async def once(connection: RawConnection) -> None:
        request = await connection.read_request()
        if request is not None:
            await connection.send(CREATED if request.startswith(b"POST") else ORGS)
            if await connection.read_request() is not None:
                connection.reset()

    async with RawServer(once) as server, client_for(server.base_url) as unpod:
        for _ in range(5):
            assert (await watch(orgs(unpod))).error is None
        reads = len(server.requests)
        assert 5 <= reads <= 10
        for _ in range(5):
            assert (await watch(create(unpod))).error is None
        assert len(server.requests) - reads == 5
        row.note("5 reads: ok", "5 to 10")
        row.note("5 creates: ok", 5)


async def test_row_18_creates_around_the_idle_limit(row: Row) -> None:
    idle = 0.02

    async def closes_when_idle(connection: RawConnection) -> None:
        limit = None  # until the first request, which a busy machine may send late
        while True:
            try:
                async with asyncio.timeout(limit):
                    request = await connection.read_request()
            except TimeoutError:
                return
            if request is None:
                return
            await connection.send(CREATED)
            limit = idle

    async with RawServer(closes_when_idle) as server, client_for(server.base_url) as unpod:
        for step in range(20):
            assert (await watch(create(unpod))).error is None
            await asyncio.sleep(idle + (step - 10) * 0.0001)
        assert len(server.requests) == 20
        row.note("20 creates around the idle limit: ok", 20)


@pytest.mark.parametrize("told", [True, False])
async def test_row_19_closed_after_each_answer(row: Row, told: bool) -> None:
    pages = 30
    headers = [("Content-Type", "application/json"), *([("Connection", "close")] if told else [])]

    async def handle(connection: RawConnection) -> None:
        request = await connection.read_request()
        if request is None:
            return
        if request.startswith(b"POST"):
            await connection.send(CREATED)
            return
        page = int(request.split(b"page=")[1].split(b"&")[0].split(b" ")[0])
        rows = [{"run_id": f"R{page}"}] if page <= pages else []
        await connection.send(
            http_response(json.dumps(envelope(rows, count=pages)).encode(), headers=headers)
        )

    async with RawServer(handle) as server, client_for(server.base_url, page_size=1) as unpod:
        outcome = await watch(walk_runs(unpod))
        assert outcome.error is None
        assert outcome.value == [f"R{page}" for page in range(1, pages + 1)]
        for _ in range(25):
            assert (await watch(create(unpod))).error is None
        posts = sum(request.startswith(b"POST") for request in server.requests)
        assert posts == 25
        row.note("a walk of 30 pages: ok", "≥ 31")
        row.note("25 creates: ok", posts)


# --- where it leads, how long it is ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_row_20_redirects(row: Row, status: int) -> None:
    async with RawServer(always(ORGS)) as other:
        for target in (
            "/api/v2/platform/elsewhere/",
            f"{other.base_url}/api/v2/platform/organizations/",
            f"http://user:pa55word@127.0.0.1:{other.port}/x/?signature=abc#part",
            "https://evil.example/",
            "javascript:alert(1)",
            "//evil.example/x",
            "http://[::1",
        ):
            answer = http_response(b"", status, headers=[("Location", target)])
            async with RawServer(always(answer)) as server:
                for call in (orgs, create):
                    outcome = await row.check(call, server, APIError, 1)
                    assert outcome.error.status == status  # type: ignore[union-attr]
                    text = str(outcome.error)
                    assert "redirect" in text
                    assert not any(part in text for part in ("pa55word", "signature", "abc", "#part"))
        assert other.requests == []
        assert other.connections == 0


BOMB = """
import asyncio, resource, sys
from unpod_async import UnpodClient, TransportError, RetryPolicy

limit = 16 * 2**20

async def main():
    async with UnpodClient("t0ken", base_url=sys.argv[1], max_response_bytes=limit, timeout=20) as unpod:
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        try:
            before = peak()
            await unpod.organizations.list().collect()
        except TransportError as error:
            print(error.permanent, len(error.attempts), "page_size" in str(error), peak() - before)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["gzip", "br", "zstd", "long"])
async def test_row_21_memory_stays_flat(row: Row, how: str, tmp_path: Path) -> None:
    size = 60 * 2**20 if how == "long" else 200 * 2**20
    million = b" " * 2**20
    bomb = b"" if how == "long" else compress(how, [million] * (size // len(million)))

    async def handle(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            kind = f"Content-Encoding: {how}\r\n" if bomb else ""
            await connection.send(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{kind}\r\n".encode())
            if bomb:
                await connection.send(bomb)
            else:
                for _ in range(size // len(million)):
                    await connection.send(million)
            return

    script = tmp_path / "client.py"
    script.write_text(BOMB)
    async with RawServer(handle) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            script,
            server.base_url,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        printed, _ = await process.communicate()
        permanent, attempts, hint, grown = printed.decode().split()
        assert (permanent, attempts, hint) == ("True", "1", "True")
        assert len(server.requests) == 1
        assert int(grown) < 1.2 * 16 * 2**20 + 4 * 2**20, f"{int(grown) / 2**20:.1f} MiB more"
        row.note(f"read, {how}: TransportError (permanent), memory below 1.2 × the limit", 1)


async def test_row_21_too_long(row: Row) -> None:
    bodies = {"plain": http_response(b" " * 300_000), "gzip": packed(gzip.compress(b" " * 10_000_000))}
    for answer in bodies.values():
        async with RawServer(always(answer)) as server:
            outcome = await row.check(orgs, server, TransportError, 1, max_response_bytes=100_000)
            assert outcome.error.permanent  # type: ignore[union-attr]
            await row.check(create, server, OutcomeUnknown, 1, max_response_bytes=100_000)
        async with RawServer(always(ORGS)) as server:
            await row.check(orgs, server, None, 1, max_response_bytes=len(ORGS), note=False)


async def test_row_22_extra_bytes_after_the_body(row: Row) -> None:
    evil = json_response(envelope([{"domain_handle": "evil.example"}]))
    for extra in (evil, b"garbage", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n"):
        answers = each_in_turn([ORGS + extra], [ORGS])
        async with RawServer(answers) as server, client_for(server.base_url) as unpod:
            for _ in range(4):
                outcome = await watch(orgs(unpod))
                assert outcome.error is None, outcome.error
                assert [one.domain_handle for one in outcome.value] == ["acme.example"]
            assert 4 <= len(server.requests) <= 5
        async with RawServer(always(ORGS + extra)) as server, client_for(server.base_url) as unpod:
            for _ in range(4):
                outcome = await watch(orgs(unpod))
                assert isinstance(outcome.error, TransportError | None)
                assert outcome.error or outcome.value[0].domain_handle == "acme.example"
        answers = always(CREATED + extra)
        async with RawServer(answers) as server, client_for(server.base_url) as unpod:
            outcome = await watch(create(unpod))
            assert isinstance(outcome.error, OutcomeUnknown | None)
            assert len(server.requests) == 1
    row.note("4 reads: ok", "4 or 5")
    row.note("create: ok or OutcomeUnknown", 1)


async def test_row_23_proxies_and_netrc_are_not_read(
    row: Row, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin somebody\npassword pa55word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with RawServer(always(ORGS)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.base_url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with RawServer(each_in_turn([ORGS], [CREATED])) as server:
            await row.check(orgs, server, None, 1)
            await row.check(create, server, None, 1)
            assert all(b"\r\nAuthorization: Token " in request for request in server.requests)
        assert proxy.connections == 0


async def test_row_23_a_proxy_that_is_named_is_used(row: Row) -> None:
    async with RawServer(each_in_turn([ORGS], [CREATED])) as proxy:
        url = "http://api.example.com"
        await row.check(orgs, proxy, None, 1, base_url=url, proxy=proxy.base_url, allow_http=True, note=False)
        await row.check(
            create, proxy, None, 1, base_url=url, proxy=proxy.base_url, allow_http=True, note=False
        )
        assert proxy.requests[0].startswith(b"GET http://api.example.com/")


async def test_row_23_the_password_of_a_proxy_is_not_shown(row: Row) -> None:
    denied = http_response(b"", 407, reason="Proxy Authentication Required")
    async with RawServer(always(denied)) as proxy:
        url = proxy.base_url.replace("//", "//user:pr0xy-passw0rd@")
        for base in ("http://api.example.com", "https://api.example.com"):
            async with client_for(base, proxy=url, allow_http=True) as unpod:
                for call in (orgs, create):
                    outcome = await watch(call(unpod))
                    assert outcome.error is not None
                    assert "407" in str(outcome.error)
                    assert getattr(outcome.error, "sent", False) is False
                    assert "passw0rd" not in str(outcome.error) + repr(outcome.error)
