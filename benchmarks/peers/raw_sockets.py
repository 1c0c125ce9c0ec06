"""Raw sockets doing what the reference does: pages cut up with msgspec.Raw, rows written as lines."""

from __future__ import annotations

import select
import socket
from collections import deque

import msgspec

from peers.harness import HEADERS, Job, Written, main

__all__ = ["run"]

_HEAD = b"".join(f"{name}: {value}\r\n".encode() for name, value in HEADERS.items())


class RunHead(msgspec.Struct, gc=False):
    run_id: str


class Runs(msgspec.Struct, gc=False):
    data: list[RunHead]


class Tasks(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


def run(job: Job) -> Written:
    root, size = f"/api/v2/platform/spaces/{job.space}", job.page_size
    runs, tasks = msgspec.json.Decoder(Runs), msgspec.json.Decoder(Tasks)
    wanted: deque[tuple[str, int]] = deque([(f"{root}/runs/", 1)])
    idle: list[socket.socket] = []
    under_way: dict[int, tuple[socket.socket, str, int, bytearray, int]] = {}
    epoll = select.epoll()
    buffer = memoryview(bytearray(2**20))
    path = job.folder / "tasks.jsonl"
    for _ in range(job.ahead):
        sock = socket.create_connection(("127.0.0.1", job.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        epoll.register(sock, select.EPOLLIN)
        idle.append(sock)
    with path.open("wb", buffering=0) as file:
        while wanted or under_way:
            while wanted and idle:
                sock = idle.pop()
                target, page = wanted.popleft()
                query = f"{target}?page={page}&page_size={size}".encode()
                sock.send(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n" % (query, _HEAD))
                under_way[sock.fileno()] = sock, target, page, bytearray(), -1
            for number, _ in epoll.poll():
                sock, target, page, held, whole = under_way[number]
                held += buffer[: sock.recv_into(buffer)]
                if whole < 0:
                    end = held.index(b"\r\n\r\n") + 4
                    if not held.startswith(b"HTTP/1.1 200"):
                        raise OSError(held[:end].decode())
                    at = held.index(b"Content-Length: ") + 16
                    whole = int(held[at : held.index(b"\r", at)])
                    del held[:end]
                    under_way[number] = sock, target, page, held, whole
                if len(held) < whole:
                    continue
                del under_way[number]
                idle.append(sock)
                if target.endswith("/runs/"):
                    found = runs.decode(held).data
                    wanted.extend((f"{root}/runs/{one.run_id}/tasks/", 1) for one in found)
                    if len(found) == size:
                        wanted.appendleft((target, page + 1))
                else:
                    rows = tasks.decode(held).data
                    if rows:
                        rows.append(msgspec.Raw(b""))
                        file.write(b"\n".join(rows))
                    if len(rows) > size:
                        wanted.appendleft((target, page + 1))
    for sock in idle:
        sock.close()
    return Written([path])


if __name__ == "__main__":
    main(run)
