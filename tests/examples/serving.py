"""The example applications under the servers that people run them with, in the loop of a test."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import uvicorn
from aiohttp import web

from tests.examples import aiohttp_app, fastapi_app, litestar_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["APPS", "Answer", "Browser", "Open", "serving"]

APPS = ("fastapi_app", "aiohttp_app", "litestar_app")
NO_LIMIT = 3600


class Running:
    """A server that runs. `stop` returns when it has ended, which it does when all its requests have.

    It raises TimeoutError where they do not.
    """

    def __init__(self, port: int, stop: asyncio.Event, ended: asyncio.Future[None]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._stop, self._ended = stop, ended

    async def stop(self) -> None:
        self._stop.set()
        async with asyncio.timeout(200):
            await self._ended


@asynccontextmanager
async def serving(name: str, *, grace: int = NO_LIMIT) -> AsyncIterator[Running]:
    """An application by the name of its module, on a free port; it is stopped at the end.

    Args:
        grace: whole seconds that open requests are given when the server stops; then it cancels them.
    """
    # It listens from here on, so that no test has to wait until the server is ready.
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        stop = asyncio.Event()
        serve = (
            _aiohttp(listener, stop, grace) if name == "aiohttp_app" else _asgi(name, listener, stop, grace)
        )
        ended = asyncio.ensure_future(serve)
        running = Running(listener.getsockname()[1], stop, ended)
        try:
            yield running
        finally:
            if not ended.done():
                await running.stop()


async def _aiohttp(listener: socket.socket, stop: asyncio.Event, grace: int) -> None:
    # As web.run_app does it, which wants a loop of its own.
    runner = web.AppRunner(aiohttp_app.make_app(), handler_cancellation=True, shutdown_timeout=grace)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        await stop.wait()
    finally:
        await runner.cleanup()


async def _asgi(name: str, listener: socket.socket, stop: asyncio.Event, grace: int) -> None:
    app: Any = {"fastapi_app": fastapi_app.app, "litestar_app": litestar_app.app}[name]
    config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=grace)
    server = uvicorn.Server(config)

    async def tell() -> None:
        await stop.wait()
        server.should_exit = True

    telling = asyncio.ensure_future(tell())
    await server.serve(sockets=[listener])
    stop.set()
    await telling


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


class Open:
    """A response that is still being received."""

    def __init__(self, response: aiohttp.ClientResponse, seen: list[bytes]) -> None:
        self._response, self._seen = response, seen

    async def line(self) -> Any:
        return json.loads(self._note(await self._response.content.readline()))

    async def rest(self) -> list[Any]:
        """All further lines; raises aiohttp.ClientError when the answer is cut short."""
        async with self._response:
            return [json.loads(line) for line in self._note(await self._response.content.read()).splitlines()]

    def leave(self) -> None:
        """Close the connection, like a browser whose tab is closed."""
        self._response.close()

    def _note(self, body: bytes) -> bytes:
        self._seen.append(body)
        return body


class Browser:
    """Sends requests to an application, and keeps every byte of its responses."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.seen: list[bytes] = []

    async def get(self, path: str) -> Answer:
        async with self._session.get(path) as response:
            answer = Answer(response.status, dict(response.headers), await response.read())
        self.seen += [answer.body, repr(answer.headers).encode()]
        return answer

    async def open(self, path: str) -> Open:
        response = await self._session.get(path)
        self.seen.append(repr(response.headers).encode())
        return Open(response, self.seen)
