"""Compressed responses: the codings a client asks for, and the libraries that decompress."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codings import CODINGS, compress
from tests.raw_server import RawConnection, RawServer, answering_in_turn, http_response
from unpod_async import RetryPolicy, UnpodClient, UnpodError
from unpod_async.testing import Sandbox

ROOT = str(Path(__file__).parents[1])
BODY = b'{"count": 1, "data": [{"domain_handle": "acme.example", "name": "Acme"}]}'


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_page_is_read_like_a_plain_one(coding: str) -> None:
    answer = http_response(
        compress(coding, [BODY]), headers=[("Content-Type", "application/json"), ("Content-Encoding", coding)]
    )

    async def handle(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(answer)

    async with RawServer(handle) as server, UnpodClient("k3y", base_url=server.base_url) as unpod:
        (organization,) = await unpod.organizations.list().collect()
        assert organization.domain_handle == "acme.example"
        (request,) = server.requests
    (asked,) = [line for line in request.split(b"\r\n") if line.startswith(b"Accept-Encoding: ")]
    assert coding in asked.decode().removeprefix("Accept-Encoding: ").split(", ")


@pytest.mark.parametrize("coding", [*CODINGS, "x-gzip"])
async def test_a_compressed_page_that_is_cut_short_is_requested_again(coding: str) -> None:
    body = compress(coding.removeprefix("x-"), [BODY])
    headers = [("Content-Type", "application/json"), ("Content-Encoding", coding)]
    for length in (*range(1, 12), len(body) // 2, len(body) - 10):
        answers = [http_response(piece, headers=headers) for piece in (body[:length], body)]
        async with (
            RawServer(answering_in_turn(*answers, get=answers[1], post=b"")) as server,
            UnpodClient("k3y", base_url=server.base_url, retry=RetryPolicy(base=0.001)) as unpod,
        ):
            assert len(await unpod.organizations.list().collect()) == 1
            assert len(server.requests) == 2
        async with (
            RawServer(answering_in_turn(get=answers[0], post=b"")) as server,
            UnpodClient("k3y", base_url=server.base_url, retry=None) as unpod,
        ):
            with pytest.raises(UnpodError, match=r"was cut short or damaged|data was truncated"):
                await unpod.organizations.list().collect()


HEADER = """
import sys, types
{before}
import asyncio
from unpod_async import UnpodClient

async def main():
    async with UnpodClient("k3y", base_url=sys.argv[1]) as unpod:
        await unpod.organizations.list().collect()

asyncio.run(main())
"""
NO_LIBRARIES = """
for name in ("brotli", "brotlicffi", "backports.zstd", "compression.zstd"):
    sys.modules[name] = None
"""
OLD_BROTLI = (
    NO_LIBRARIES
    + """
class Decompressor:
    def process(self, data):
        return b""

sys.modules["brotli"] = types.ModuleType("brotli")
sys.modules["brotli"].Decompressor = Decompressor
"""
)


@pytest.mark.parametrize("before", [NO_LIBRARIES, OLD_BROTLI], ids=["no libraries", "old Brotli"])
async def test_a_coding_is_asked_for_only_if_it_can_be_decoded_up_to_a_length(before: str) -> None:
    async def handle(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(http_response(BODY, headers=[("Content-Type", "application/json")]))

    async with RawServer(handle) as server:
        await run(HEADER.format(before=before), server.base_url)
        (request,) = server.requests
    assert b"\r\nAccept-Encoding: gzip, deflate\r\n" in request


@pytest.mark.parametrize(("coding", "package"), [("br", "Brotli"), ("zstd", "backports.zstd")])
async def test_a_response_with_a_coding_that_was_not_asked_for_is_explained(
    coding: str, package: str
) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Encoding", coding)]

    async def handle(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(http_response(b"not decoded", headers=headers))

    script = HEADER.format(before=NO_LIBRARIES).replace(
        "asyncio.run(main())", "try:\n    asyncio.run(main())\nexcept Exception as error:\n    print(error)"
    )
    async with RawServer(handle) as server:
        printed = await run(script, server.base_url)
        assert len(server.requests) == 1
    assert f"the response has the Content-Encoding {coding}, which cannot be decoded here" in printed
    assert f"hint: install {package}, or " in printed


LIBRARY = """
import asyncio, sys
from aiohttp.compression_utils import ZLibBackend
from unpod_async import UnpodClient

async def main():
    async with UnpodClient(sys.argv[1], base_url=sys.argv[2]) as unpod:
        await unpod.runs.list(sys.argv[3]).collect()

asyncio.run(main())
print(ZLibBackend.name)
"""
PROGRAM = """
import sys
from aiohttp.compression_utils import ZLibBackend
from unpod_async.cli import main

token, url, space = sys.argv[1:]
sys.argv[1:] = ["--base-url", url, "runs", space]
assert main() == 0
print(ZLibBackend.name)
"""


@pytest.mark.parametrize(("script", "backend"), [(LIBRARY, "zlib"), (PROGRAM, "isal.isal_zlib")])
async def test_only_the_command_line_decompresses_with_isal(script: str, backend: str) -> None:
    """aiohttp has one setting for the whole process, which a library must not change."""
    pytest.importorskip("isal")
    pytest.importorskip("typer")
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        printed = await run(script, sandbox.token, sandbox.base_url, sandbox.space_token)
    assert printed.split()[-1] == backend


async def run(script: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *arguments),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT, "UNPOD_PLATFORM_TOKEN": arguments[0]},
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()
