"""The limit: raw sockets that read the bytes of every answer and look at nothing but its length."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

from dataset import data_set, space_of

from peers.harness import HEADERS, Job, Received, main

__all__ = ["run"]

_HEAD = b"".join(f"{name}: {value}\r\n".encode() for name, value in HEADERS.items())


def targets(job: Job) -> Iterator[str]:
    """The requests that a walk would make; the data set says how many, so that no answer has to be read."""
    root, size = f"/api/v2/platform/spaces/{job.space}", job.page_size
    data = data_set(space_of(job.space).runs)
    if job.mode == "flat":
        for page in range(1, data.tasks // size + 2):
            yield f"{root}/tasks/?page={page}&page_size={size}"
        return
    for page in range(1, data.runs // size + 2):
        yield f"{root}/runs/?page={page}&page_size={size}"
    for name, run in data.number.items():
        for page in range(1, data.sizes[run] // size + 2):
            yield f"{root}/runs/{name}/tasks/?page={page}&page_size={size}"


def run(job: Job) -> Received:
    left = targets(job)
    epoll = select.epoll()
    buffer = memoryview(bytearray(2**20))
    open_: dict[int, socket.socket] = {}
    missing: dict[int, int] = {}
    total = 0

    def ask(sock: socket.socket) -> bool:
        target = next(left, None)
        if target is None:
            return False
        sock.send(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n" % (target.encode(), _HEAD))
        return True

    for _ in range(job.ahead):
        sock = socket.create_connection(("127.0.0.1", job.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not ask(sock):
            sock.close()
            break
        open_[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLIN)
    while open_:
        for number, _ in epoll.poll():
            sock = open_[number]
            got = sock.recv_into(buffer)
            if number not in missing:
                head = bytes(buffer[: min(got, 1024)])
                at = head.index(b"Content-Length: ") + 16
                length = int(head[at : head.index(b"\r", at)])
                missing[number] = length + head.index(b"\r\n\r\n") + 4
                total += length
            missing[number] -= got
            if not missing[number]:
                del missing[number]
                if not ask(sock):
                    del open_[number]
                    sock.close()
    return Received(total)


if __name__ == "__main__":
    main(run)
