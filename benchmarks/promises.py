"""Measure the limits and deadlines that the documentation guarantees, over real sockets.

Each line is a number, its limit, and whether it was kept; the exit status is 1 when one was not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import NamedTuple

from unpod_async import RetryPolicy, UnpodClient, UnpodError

Answer = Callable[[int], Awaitable[bytes | None]]
"""Takes the number of a request, from 1, and returns its response in bytes; None drops the connection."""

SPACE = "SPACE"
WORKERS = 64


class Line(NamedTuple):
    """One guarantee: the measured value must not exceed the limit."""

    what: str
    measured: float
    limit: float
    unit: str = "requests"

    @property
    def kept(self) -> bool:
        return self.measured <= self.limit

    def __str__(self) -> str:
        verdict = "pass" if self.kept else "FAIL"
        return f"{verdict}  {self.what}: {self.measured:g} {self.unit} (limit {self.limit:g})"


def http(status: int, body: bytes = b"{}", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


EMPTY = http(200, b'{"count": 0, "data": []}')


class Wire:
    """A server with scripted responses that records when requests arrive."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.arrivals: list[float] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.arrivals.append(time.monotonic())
                answer = await self.answer(len(self.arrivals))
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()


@contextlib.asynccontextmanager
async def served(
    answer: Answer,
    *,
    retry: RetryPolicy | None,
    max_concurrency: int = WORKERS,
    timeout: float = 5,
) -> AsyncIterator[tuple[Wire, UnpodClient]]:
    wire = Wire(answer)
    handlers: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(wire.serve(reader, writer))
        handlers.add(task)

        def done(task: asyncio.Task[None]) -> None:
            writer.transport.abort()
            handlers.discard(task)

        task.add_done_callback(done)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    try:
        async with UnpodClient(
            "key",
            "org",
            f"http://127.0.0.1:{port}",
            retry=retry,
            timeout=timeout,
            max_concurrency=max_concurrency,
        ) as unpod:
            yield wire, unpod
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        if handlers:
            await asyncio.wait(handlers)
        await server.wait_closed()
        for _ in range(6):  # wait_closed() of Python 3.11 does not wait
            await asyncio.sleep(0)


async def hammer(unpod: UnpodClient, calls: int, workers: int = WORKERS) -> int:
    """Make `calls` calls with this many workers, and return how many succeeded."""
    left, succeeded = iter(range(calls)), 0

    async def work() -> None:
        nonlocal succeeded
        for _ in left:
            with contextlib.suppress(UnpodError):
                await unpod.runs.list(SPACE).collect()
                succeeded += 1

    await asyncio.gather(*(work() for _ in range(workers)))
    return succeeded


# --- an outage ---------------------------------------------------------------------------------------------


async def outage(calls: int) -> list[Line]:
    """Count the requests while all fail, and the retries when some succeed again."""
    policy = RetryPolicy(base=0.01, cap=0.05, budget=calls // 4)
    down, succeeded, repeats = True, 0, -1

    async def answer_503(number: int) -> bytes | None:
        nonlocal succeeded, repeats
        if down or number % 2:
            return http(503)
        succeeded += 1
        if succeeded == 10:
            repeats = unpod.stats.retries.total() - repeats_before
        return EMPTY

    async def reset(_: int) -> None:
        return None

    async def silence(_: int) -> bytes:
        await asyncio.sleep(1)
        return EMPTY

    lines: list[Line] = []
    for name, answer, timeout in (("503", answer_503, 5), ("resets", reset, 5), ("silence", silence, 0.15)):
        async with served(answer, retry=policy, timeout=timeout) as (wire, unpod):
            await hammer(unpod, calls)
            sent = max(len(wire.arrivals), unpod.stats.attempts)
            lines.append(Line(f"total outage ({name}), {calls} calls, {WORKERS} workers", sent, 1.1 * calls))
            if answer is answer_503:
                down, repeats_before = False, unpod.stats.retries.total()
                await hammer(unpod, calls // 10)
                lines.append(Line("repeats sent before the tenth success after it", repeats, 5))
    return lines


# --- a pause -----------------------------------------------------------------------------------------------


async def pause() -> list[Line]:
    """Count the requests during a delay that the server asked for, and check that one probe follows it."""
    limited_at: list[float] = []
    probing, beside_probe = False, 0

    async def answer(number: int) -> bytes:
        nonlocal probing, beside_probe
        await asyncio.sleep(0.02)
        if number < 200:
            return EMPTY
        if number == 200:
            limited_at.append(time.monotonic())
            return http(429, headers="Retry-After: 1\r\n")
        if time.monotonic() - limited_at[0] > 0.5 and not probing and beside_probe == 0:
            probing = True
            arrived = len(wire.arrivals)
            await asyncio.sleep(0.1)
            beside_probe = len(wire.arrivals) - arrived + 1
            probing = False
        return EMPTY

    async with served(answer, retry=RetryPolicy(base=0.01)) as (wire, unpod):
        await hammer(unpod, 600)
        during = sum(limited_at[0] < arrival < limited_at[0] + 1 for arrival in wire.arrivals)
    return [
        Line(f"requests sent during a Retry-After of 1 s, {WORKERS} workers", during, WORKERS - 1),
        Line("requests at once when the pause is over, until the first is answered", beside_probe, 1),
    ]


# --- deadlines ---------------------------------------------------------------------------------------------

DEADLINE = 0.15


def page(number: int) -> bytes:
    rows = ", ".join(f'{{"run_id": "R{number}x{one}"}}' for one in range(5))
    return http(200, f'{{"count": 100000, "data": [{rows}]}}'.encode())


async def walk(unpod: UnpodClient, consumer: float = 0.0) -> float:
    """Walk until the deadline ends, and return the overrun, without the last sleep of the consumer."""
    began = woke = time.monotonic()
    try:
        async for _ in unpod.with_options(deadline=DEADLINE, page_size=5).runs.list(SPACE):
            await asyncio.sleep(consumer)
            woke = time.monotonic()
    except UnpodError:
        pass
    return time.monotonic() - max(woke if consumer else 0.0, began + DEADLINE)


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Yield a port that neither accepts nor refuses connections, because its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def deadlines(rounds: int, limit: float = 50) -> list[Line]:
    """Return the worst overrun of `rounds` times 8 walks, for each phase in which time can pass.

    Each overrun may be `limit` milliseconds.
    """

    async def nothing(_: int) -> bytes:
        await asyncio.sleep(5)
        return EMPTY

    async def pages(number: int) -> bytes:
        await asyncio.sleep(0.03)
        return page(number)

    async def half(number: int) -> bytes:
        return page(number)[:-30]

    async def broken(_: int) -> bytes:
        return http(503)

    async def limited(number: int) -> bytes:
        if number > 1:
            await asyncio.sleep(5)
        return http(429, headers="Retry-After: 0\r\n")

    lines: list[Line] = []

    async def measure(what: str, unpod: UnpodClient, consumer: float = 0.0) -> None:
        worst = -1.0
        for _ in range(rounds):
            worst = max(worst, *await asyncio.gather(*(walk(unpod, consumer) for _ in range(8))))
        lines.append(
            Line(f"worst overrun of {8 * rounds} deadlines, {what}", round(worst * 1000, 1), limit, "ms")
        )

    slow = RetryPolicy(base=10, cap=10)
    cases: list[tuple[str, Answer, RetryPolicy | None, int, float]] = [
        ("before the status", nothing, None, WORKERS, 0.0),
        ("in the body", half, None, WORKERS, 0.0),
        ("over many pages", pages, None, WORKERS, 0.0),
        ("in the consumer's own time", pages, None, WORKERS, 0.04),
        ("in repeats and their sleeps", broken, RetryPolicy(base=0.05, attempts=99), WORKERS, 0.0),
        ("at a sleep that does not fit", broken, slow, WORKERS, 0.0),
        ("at the gate", limited, RetryPolicy(base=0.01), WORKERS, 0.0),
        ("waiting for a place", nothing, None, 1, 0.0),
    ]
    for what, answer, retry, places, consumer in cases:
        async with served(answer, retry=retry, max_concurrency=places) as (_, unpod):
            await measure(what, unpod, consumer)
    with black_hole() as port:
        async with UnpodClient("key", "org", f"http://127.0.0.1:{port}", max_concurrency=WORKERS) as unpod:
            await measure("connecting", unpod)
    return lines


async def measure_all() -> list[Line]:
    return [*await outage(2000), *await pause(), *await deadlines(5)]


def main() -> int:
    lines = asyncio.run(measure_all())
    print(*lines, sep="\n")
    return 0 if all(line.kept for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
