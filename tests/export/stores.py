"""Object stores for tests, each in a process of its own: moto's S3 server, Azurite, and a small one for `gs://`.

`StoreProxy` stands between an export and a server, and changes or holds requests.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import urllib.parse
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from tests.raw_server import RawConnection, RawServer, http_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import pytest

    Rule = Callable[[str, str, bytes], Awaitable[bytes | None]]

__all__ = [
    "LOCK",
    "MANIFEST",
    "SECRET",
    "Bucket",
    "Server",
    "between",
    "copies",
    "denied",
    "forward",
    "inherited",
    "lock",
    "store_proxy",
    "writes",
]

LOCK = ".unpod-export/lock.json"
MANIFEST = "_manifest.json"
SECRET = base64.b64encode(b"a secret of the tests, 32 bytes.").decode()
_AZURITE = os.environ.get("AZURITE", "azurite-blob")

_MOTO = """
import sys, warnings
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("listens on http://127.0.0.1:%d" % server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
_GCS = """
import hashlib, http.server, itertools, threading, urllib.parse
from email.utils import formatdate
from xml.sax.saxutils import escape

buckets, generations, lock = {}, itertools.count(1000), threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status, code):
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def handle_object(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        bucket, _, name = urllib.parse.unquote(url.path)[1:].partition("/")
        with lock:
            if self.command == "PUT" and not name:
                buckets[bucket] = {}
                return self.answer(200)
            if (objects := buckets.get(bucket)) is None:
                return self.fail(404, "NoSuchBucket")
            if self.command == "GET" and not name:
                return self.list_objects(objects, urllib.parse.parse_qs(url.query).get("prefix", [""])[0])
            found = objects.get(name)
            expected = self.headers.get("x-goog-if-generation-match")
            if expected is not None and int(expected) != (found[0] if found else 0):
                return self.fail(412, "PreconditionFailed")
            if self.command == "PUT" and (source := self.headers.get("x-goog-copy-source")) is not None:
                bucket, _, source = urllib.parse.unquote(source).partition("/")
                if (copied := buckets[bucket].get(source)) is None:
                    return self.fail(404, "NoSuchKey")
                body = copied[1]
            if self.command == "PUT":
                found = objects[name] = (next(generations), body, formatdate(usegmt=True))
                return self.answer(200, ETag=self.etag(found), x_goog_generation=found[0])
            if found is None:
                return self.fail(404, "NoSuchKey")
            if self.command == "DELETE":
                del objects[name]
                return self.answer(204)
            generation, content, modified = found
            self.answer(
                200, content, ETag=self.etag(found), Last_Modified=modified, x_goog_generation=generation
            )

    do_GET = do_PUT = do_DELETE = handle_object

    def etag(self, found):
        return '"' + hashlib.md5(found[1]).hexdigest() + '"'

    def list_objects(self, objects, prefix):
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2030-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(self.etag(found))}</ETag><Size>{len(found[1])}</Size></Contents>"
            for name, found in sorted(objects.items()) if name.startswith(prefix)
        )
        self.answer(200, f"<ListBucketResult>{rows}</ListBucketResult>".encode())


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("listens on http://127.0.0.1:%d" % server.server_port, flush=True)
server.serve_forever()
"""
"""The XML API of Google Cloud Storage, as far as exports use it: with generations, conditions and errors."""

_numbers = itertools.count(1)


class Server:
    """A server of one scheme.

    Attributes:
        port: Its port on 127.0.0.1.
    """

    def __init__(self, scheme: str, port: int) -> None:
        self.scheme = scheme
        self.port = port

    @classmethod
    @contextlib.contextmanager
    def run(cls, scheme: str) -> Iterator[Server]:
        """Start the server, and stop it at the end of the block."""
        if scheme in {"s3", "gs"}:
            command = [sys.executable, "-c", _MOTO if scheme == "s3" else _GCS]
        else:
            options = ["--blobHost=127.0.0.1", "--blobPort=0", "--inMemoryPersistence"]
            command = [_AZURITE, *options, "--skipApiVersionCheck", "--disableTelemetry"]
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "AZURITE_ACCOUNTS": f"account:{SECRET}"},
        )
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if (found := re.search(r"listens on http://127\.0\.0\.1:(\d+)", line)) is not None:
                    break
            else:
                raise AssertionError("the server did not start")
            try:
                yield cls(scheme, int(found[1]))
            finally:
                process.terminate()

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return the variables that lead an export to the server, or to a proxy at another port."""
        endpoint = f"http://127.0.0.1:{port or self.port}"
        if self.scheme == "s3":
            return {
                "AWS_ACCESS_KEY_ID": "tests",
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ALLOW_HTTP": "true",
            }
        if self.scheme == "gs":
            account = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": "", "private_key": ""}
            key = json.dumps(account | {"private_key_id": SECRET})
            return {"GOOGLE_SERVICE_ACCOUNT_KEY": key, "GOOGLE_ALLOW_HTTP": "true"}
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_STORAGE_ACCOUNT_KEY": SECRET,
            "AZURE_STORAGE_ENDPOINT": f"{endpoint}/account",
            "AZURE_ALLOW_HTTP": "true",
        }

    def new_bucket(self) -> Bucket:
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        self.request("PUT", name)
        return Bucket(self, name)

    def request(self, method: str, bucket: str) -> None:
        """Create or delete a bucket."""
        path, headers = f"/{bucket}", {"Content-Length": "0"}
        if self.scheme == "az":
            path = f"/account/{bucket}?restype=container"
            headers |= _azure_headers(method, bucket)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            assert answer.status in {200, 201, 202, 204}, answer.read()


def _azure_headers(method: str, container: str) -> dict[str, str]:
    """Return the headers of a signed request; see "Authorize with Shared Key" in Azure's documentation."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    lines = [method, *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
    text = "\n".join([*lines, f"/account/account/{container}", "restype:container"])
    signature = hmac.new(base64.b64decode(SECRET), text.encode(), hashlib.sha256).digest()
    return headers | {"Authorization": f"SharedKey account:{base64.b64encode(signature).decode()}"}


class Bucket:
    """A bucket of a server, and what other programs do with it. Names are below `prefix`.

    Attributes:
        url: The target of exports.
    """

    def __init__(self, server: Server, name: str, prefix: str = "data set") -> None:
        self.server = server
        self.name = name
        self.prefix = prefix
        self.url = f"{server.scheme}://{name}" + (f"/{prefix}" if prefix else "")
        environment = server.environment()
        options: dict[str, Any] = {"client_options": {"allow_http": True}, "prefix": prefix or None}
        self.store: Any
        if server.scheme == "s3":
            self.store = S3Store(
                name,
                access_key_id="tests",
                secret_access_key=SECRET,
                region="us-east-1",
                endpoint=environment["AWS_ENDPOINT_URL"],
                **options,
            )
        elif server.scheme == "gs":
            key = environment["GOOGLE_SERVICE_ACCOUNT_KEY"]
            self.store = GCSStore(name, service_account_key=key, **options)
        else:
            endpoint = environment["AZURE_STORAGE_ENDPOINT"]
            self.store = AzureStore(
                name, account_name="account", account_key=SECRET, endpoint=endpoint, **options
            )

    def at(self, prefix: str) -> Bucket:
        """Return another prefix of the same bucket."""
        return Bucket(self.server, self.name, prefix)

    def versions(self) -> dict[str, str]:
        """Return the ETag of every object but the locks, by its name."""
        found = (one for batch in obstore.list(self.store) for one in batch)
        return {one["path"]: str(one["e_tag"]) for one in found if not one["path"].endswith(LOCK)}

    def names(self) -> set[str]:
        return set(self.versions())

    def parts(self) -> set[str]:
        return {name for name in self.names() if name.startswith(("runs/", "tasks/"))}

    def read(self, name: str) -> bytes:
        return bytes(obstore.get(self.store, name).bytes())

    def write(self, name: str, content: bytes) -> None:
        obstore.put(self.store, name, content)

    def delete(self, *names: str) -> None:
        for name in names:
            obstore.delete(self.store, name)

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.read(MANIFEST))
        return found

    def download(self, directory: Path) -> Path:
        """Download the manifest and every part into a directory, as a reader of the data set does."""
        for name in (MANIFEST, *self.parts()):
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(name))
        return directory

    def is_tidy(self) -> bool:
        """Return whether there are no objects but those that the manifest names."""
        manifest = self.manifest()
        named = {part["name"] for part in manifest["parts"]} | {manifest["store"]["state"], MANIFEST}
        return self.names() == named


@contextlib.asynccontextmanager
async def store_proxy(server: Server, rule: Rule) -> AsyncIterator[RawServer]:
    """Run a proxy before a server.

    Args:
        rule: Gets the method, the path and the bytes of each request. Returns the request to forward, or an
            answer (which begins with HTTP/) to send instead, or None to close the connection.
    """

    async def handle(connection: RawConnection) -> None:
        request = await connection.read_request()
        if request is None:
            return
        method, path, _ = request.decode("latin-1").split(" ", 2)
        result = await rule(method, urllib.parse.unquote(path), request)
        if result is None:
            return
        await connection.send(result if result.startswith(b"HTTP/") else await forward(server, result))

    async with RawServer(handle) as proxy:
        yield proxy


async def forward(server: Server, request: bytes) -> bytes:
    """Send a request to the server and return the answer. Its connection is not kept."""
    head, separator, body = request.partition(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(head + b"\r\nConnection: close" + separator + body)
        await writer.drain()
        answer = await reader.read()
        if b"\r\nconnection: close" not in answer.partition(b"\r\n\r\n")[0].lower():
            status, _, rest = answer.partition(b"\r\n")
            answer = status + b"\r\nConnection: close\r\n" + rest  # the proxy does not keep its connection
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return answer


def inherited() -> dict[str, str]:
    """Return what a process of the tests needs of this environment."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}


@contextlib.asynccontextmanager
async def between(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, rule: Rule) -> AsyncIterator[RawServer]:
    """Lead the exports of the block through a proxy; see `store_proxy`."""
    async with store_proxy(bucket.server, rule) as proxy:
        with monkeypatch.context() as patch:
            for name, value in bucket.server.environment(proxy.port).items():
                patch.setenv(name, value)
            yield proxy


def writes(method: str, path: str, name: str) -> bool:
    """Return whether a request writes an object whose name has `name` in it."""
    return method == "PUT" and name in path and "comp=block&" not in path


def copies(request: bytes) -> bool:
    """Return whether a request lets the store copy an object."""
    return b"copy-source:" in request.partition(b"\r\n\r\n")[0].lower()


def denied(code: str = "AccessDenied", status: int = 403) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{SECRET}</Message></Error>"
    return http_response(
        body.encode(), status, [("Content-Type", "application/xml"), ("Connection", "close")]
    )


def lock(holder: str, seconds: object) -> bytes:
    """Return the content of a lock."""
    return json.dumps({"holder": holder, "token": "t", "seconds": seconds}).encode()
