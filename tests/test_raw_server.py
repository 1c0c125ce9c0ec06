"""The raw server sends exact bytes, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import aiohttp
import pytest

from tests.raw_server import RawConnection, RawServer, http_response, json_response


async def echo(connection: RawConnection) -> None:
    while (request := await connection.read_request()) is not None:
        await connection.send(http_response(request))


async def stall(connection: RawConnection) -> None:
    await asyncio.Event().wait()


def open_sockets() -> set[socket.socket]:
    return {item for item in gc.get_objects() if type(item) is socket.socket and item.fileno() != -1}


async def test_requests_are_counted_and_kept() -> None:
    async with RawServer(echo) as server, aiohttp.ClientSession(server.base_url) as session:
        for body in (b"one", b"two"):
            async with session.post("/x?y=1", data=body) as response:
                received = await response.read()
            assert received.startswith(b"POST /x?y=1 HTTP/1.1\r\n")
            assert received.endswith(b"\r\n\r\n" + body)
            assert server.requests[-1] == received
    assert (server.connections, len(server.requests)) == (1, 2)
    assert server.base_url == f"http://127.0.0.1:{server.port}"


async def test_json_of_objects_and_of_bytes() -> None:
    async def answer(connection: RawConnection) -> None:
        assert connection.number == 1
        await connection.read_request()
        await connection.send(json_response({"a": [1]}, 404, [("X-A", "b")]))
        await connection.read_request()
        await connection.send(json_response(b'{"a"', headers=[("content-type", "text/plain")]))

    async with RawServer(answer) as server, aiohttp.ClientSession(server.base_url) as session:
        async with session.get("/") as response:
            assert (response.status, response.reason, response.headers["X-A"]) == (404, "Not Found", "b")
            assert await response.json() == {"a": [1]}
        async with session.get("/") as response:
            assert await response.text() == '{"a"'
            assert response.content_type == "text/plain"


def test_a_length_that_lies_and_a_status_nobody_knows() -> None:
    assert http_response(b"ab", 299, [("content-length", "9")]) == (
        b"HTTP/1.1 299 Unknown\r\ncontent-length: 9\r\n\r\nab"
    )


async def test_a_reset_is_a_reset() -> None:
    async def reset(connection: RawConnection) -> None:
        await connection.read_request()
        connection.reset()

    async with RawServer(reset) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_close_is_an_end_of_file() -> None:
    async def close(connection: RawConnection) -> None:
        await connection.send(b"bye")
        connection.close()
        await asyncio.Event().wait()

    async with RawServer(close) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b"bye"
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc"])
async def test_half_a_request_is_none(sent: bytes) -> None:
    async with RawServer(echo) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    assert (server.connections, server.requests) == (1, [])


async def test_what_a_handler_raises_comes_out() -> None:
    async def wrong(connection: RawConnection) -> None:
        raise AssertionError("not what was agreed")

    async def connect(server: RawServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b""
        writer.close()

    with pytest.raises(AssertionError, match="not what was agreed"):
        async with RawServer(wrong) as server:
            await connect(server)
    with pytest.raises(KeyError) as caught:  # noqa: PT012
        async with RawServer(wrong) as server:
            await connect(server)
            raise KeyError("the test's own")
    assert "not what was agreed" in caught.value.__notes__[0]


async def flood(connection: RawConnection) -> None:
    await connection.send(b"x" * 20_000_000)  # nobody reads it


async def stubborn(connection: RawConnection) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


@pytest.mark.parametrize("handler", [stall, flood, stubborn, echo])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_end_leaves_no_task_and_no_socket(handler: object, cancelled: bool) -> None:
    before, sockets = asyncio.all_tasks(), open_sockets()
    writers: list[asyncio.StreamWriter] = []
    connected = asyncio.Event()

    async def use() -> None:
        async with RawServer(handler) as server:  # type: ignore[arg-type]
            for _ in range(3):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writers.append(writer)
            while server.connections < 3:  # noqa: ASYNC110 - turns of the loop, no time
                await asyncio.sleep(0)
            connected.set()
            if cancelled:
                await asyncio.Event().wait()

    task = asyncio.create_task(use())
    if cancelled:
        await connected.wait()
        task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled() is cancelled
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)
    assert task.done()
    assert asyncio.all_tasks() == before
    assert open_sockets() == sockets


async def test_a_connection_made_as_the_block_ends() -> None:
    async with RawServer(stall) as server:
        peer = socket.create_connection(("127.0.0.1", server.port))  # noqa: ASYNC210, RUF100
    peer.settimeout(5)
    # Never accepted, or accepted and dropped: it is closed in both cases.
    with peer, contextlib.suppress(ConnectionResetError):
        assert peer.recv(1) == b""
