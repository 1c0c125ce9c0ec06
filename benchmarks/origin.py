"""The service for the benchmarks: HTTP/1.1 with keep-alive over epoll, with cached responses.

    python benchmarks/origin.py --cpu 1        # prints the port, serves until its standard input is closed

It does as little as it can, so that it is never what is measured: `GET /_stats` tells how many requests it
has answered, how many bytes that were and how much processor time it took. Some spaces answer their requests
one after another, as the real service does (see `dataset`).
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import math
import os
import select
import socket
import sys
import time
from typing import NamedTuple
from urllib.parse import parse_qs

from dataset import REQUEST_TIME, data_set, space_of

_ROOT = "/api/v2/platform/spaces/"
_KEPT = 384 * 2**20
"""Largest size of the response cache, in bytes."""

# By this date all runs of the data sets are old enough for an export to settle them.
_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 01 Jun 2031 10:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nVary: Accept, Accept-Language\r\nAllow: GET, POST, HEAD, OPTIONS\r\n"
    b"X-Frame-Options: DENY\r\nX-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n"
)
_NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n"
    b'{"message":"Not found"}'
)


class Answer(NamedTuple):
    """A whole response. Times are in seconds.

    Attributes:
        latency: the delay before it is sent, at the same time as those of other responses.
        work: the time in which no other response is made.
    """

    response: bytes
    latency: float = 0.0
    work: float = 0.0


def answer(target: str) -> Answer:
    """Return the response to a GET of `target`."""
    path, _, query = target.partition("?")
    parts = path.removeprefix(_ROOT).split("/")
    space = space_of(parts[0])
    latency = space.latency / 1000
    data = data_set(space.runs, varied=space.varied)
    query_values = parse_qs(query)
    page, size = (
        int(query_values.get(name, [default])[0]) for name, default in (("page", "1"), ("page_size", "50"))
    )
    skip = (page - 1) * size
    match parts[1:]:
        case ["runs", ""]:
            total, first = data.runs, 0
        case ["runs", name, "tasks", ""]:
            run = data.number.get(name)
            total, first = (data.sizes[run], data.starts[run]) if run is not None else (0, 0)
        case ["tasks", ""] if not space.no_flat:
            total, first = data.tasks if space.tasks is None else min(space.tasks, data.tasks), 0
        case _:
            return Answer(_NOT_FOUND, latency)
    start, stop = min(skip, total), min(skip + size, total)
    rows = data.run_rows if parts[1:] == ["runs", ""] else data.task_rows
    body = b'{"count":%d,"status_code":200,"message":"Fetched Successfully","data":[%b]}' % (
        total,
        rows(first + start, first + stop),
    )
    work = (REQUEST_TIME + (stop - start) * space.row_time) / 1e6 if space.row_time else 0.0
    return Answer(_HEAD % len(body) + body, latency, work)


class Connection:
    """One connection, with the bytes received and the bytes to send."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.unsent = memoryview(b"")


class Origin:
    """Serves until `stop_on` is readable."""

    def __init__(self, listener: socket.socket, stop_on: int) -> None:
        self._listener = listener
        self._stop_on = stop_on
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._later: list[tuple[float, int, Connection, bytes]] = []
        self._free_at = 0.0  # when the work for the responses so far is done
        self._answers: dict[bytes, Answer] = {}
        self._kept = 0
        self._requests = self._bytes = 0
        self._work = 0.0

    def serve(self) -> None:
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._stop_on, select.EPOLLIN)
        while True:
            wait = max(0.0, self._later[0][0] - time.monotonic()) if self._later else -1
            # `poll` rounds up to milliseconds, so the last one is spent with polling.
            wait = math.floor(wait * 1000) / 1000
            for number, event in self._epoll.poll(wait):
                if number == self._stop_on:
                    return
                if number == self._listener.fileno():
                    self._accept()
                    continue
                connection = self._connections[number]
                try:
                    if event & select.EPOLLOUT:
                        self._send(connection, connection.unsent)
                    elif not self._read(connection):
                        self._drop(connection)
                except OSError:
                    self._drop(connection)
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                *_, connection, body = heapq.heappop(self._later)
                with contextlib.suppress(OSError):
                    self._send(connection, memoryview(body))

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections[sock.fileno()] = Connection(sock)
                self._epoll.register(sock, select.EPOLLIN)

    def _drop(self, connection: Connection) -> None:
        self._connections.pop(connection.sock.fileno(), None)
        connection.sock.close()

    def _read(self, connection: Connection) -> bool:
        piece = connection.sock.recv(65536)
        connection.received += piece
        while (end := connection.received.find(b"\r\n\r\n")) >= 0:
            line = connection.received[: connection.received.index(b"\r\n")]
            connection.received = connection.received[end + 4 :]
            found = self._answer(line.split(b" ")[1])
            due = now = time.monotonic()
            if found.work:
                due = self._free_at = max(self._free_at, now) + found.work
            due += found.latency
            if due > now:
                heapq.heappush(self._later, (due, self._requests, connection, found.response))
            else:
                self._send(connection, memoryview(found.response))
        return bool(piece)

    def _answer(self, target: bytes) -> Answer:
        if target == b"/_stats":
            counters = {
                "requests": self._requests,
                "bytes": self._bytes,
                "cpu": time.process_time(),
                "work": self._work,
            }
            body = json.dumps(counters).encode()
            return Answer(_HEAD % len(body) + body)
        found = self._answers.get(target)
        if found is None:
            found = answer(target.decode())
            if self._kept < _KEPT:
                self._answers[target] = found
                self._kept += len(found.response)
        self._requests += 1
        self._work += found.work
        self._bytes += len(found.response)
        return found

    def _send(self, connection: Connection, data: memoryview) -> None:
        waited = bool(connection.unsent)
        try:
            while data:
                data = data[connection.sock.send(data) :]
        except BlockingIOError:
            pass
        connection.unsent = data
        if waited != bool(data):
            self._epoll.modify(connection.sock, select.EPOLLOUT if data else select.EPOLLIN)


def main() -> None:
    parser = argparse.ArgumentParser(description="the service that the benchmarks talk to")
    parser.add_argument("--cpu", type=int, help="processor to stay on")
    options = parser.parse_args()
    if options.cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.cpu})
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    Origin(listener, sys.stdin.fileno()).serve()


if __name__ == "__main__":
    main()
