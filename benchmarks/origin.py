"""The service for the benchmarks: HTTP/1.1 with keep-alive over epoll, with cached responses.

    python benchmarks/origin.py --cpu 1        # prints the port, serves until its standard input is closed

It does as little as it can, so that it is never what is measured: `GET /_stats` tells how many requests it
has answered, how many bytes that were and how much processor time it took.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import select
import socket
import sys
import time
from urllib.parse import parse_qs

from dataset import data_set, space_of

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


def answer(target: str) -> tuple[bytes, float]:
    """Return the whole response to a GET of `target`, and the delay before it is sent, in seconds."""
    path, _, query = target.partition("?")
    parts = path.removeprefix(_ROOT).split("/")
    space = space_of(parts[0])
    latency = space.latency / 1000
    data = data_set(space.runs)
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
            return _NOT_FOUND, latency
    start, stop = min(skip, total), min(skip + size, total)
    rows = data.run_rows if parts[1:] == ["runs", ""] else data.task_rows
    body = b'{"count":%d,"status_code":200,"message":"Fetched Successfully","data":[%b]}' % (
        total,
        rows(first + start, first + stop),
    )
    return _HEAD % len(body) + body, latency


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
        self._answers: dict[bytes, tuple[bytes, float]] = {}
        self._kept = 0
        self._requests = self._bytes = 0

    def serve(self) -> None:
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._stop_on, select.EPOLLIN)
        while True:
            wait = max(0.0, self._later[0][0] - time.monotonic()) if self._later else -1
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
            body, latency = self._answer(line.split(b" ")[1])
            if latency:
                heapq.heappush(self._later, (time.monotonic() + latency, self._requests, connection, body))
            else:
                self._send(connection, memoryview(body))
        return bool(piece)

    def _answer(self, target: bytes) -> tuple[bytes, float]:
        if target == b"/_stats":
            counters = {"requests": self._requests, "bytes": self._bytes, "cpu": time.process_time()}
            body = json.dumps(counters).encode()
            return _HEAD % len(body) + body, 0.0
        found = self._answers.get(target)
        if found is None:
            found = answer(target.decode())
            if self._kept < _KEPT:
                self._answers[target] = found
                self._kept += len(found[0])
        self._requests += 1
        self._bytes += len(found[0])
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
