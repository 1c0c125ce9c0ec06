"""The sandbox answers as the service did: every recorded request is sent to it, the answers are compared.

What is compared: status, media type, the headers that mean something, the shape of the body, and the whole
body of an error. Rows differ, because their data do; of them only the keys are compared.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

EXCHANGES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "exchanges.json").read_text(encoding="utf-8")
)

# Exchanges that the sandbox does not support, by the beginning of their name.
NOT_EXPRESSIBLE = {
    "create: ipinfo.io unreachable": "the sandbox looks no address up",
    "DEBUG=True": "the sandbox has no debug mode",
    "upstream down": "the sandbox has no upstream; tests script the answer",
    "upstream stub": "the sandbox has no upstream; tests script the answer",
    "mongo down": "the sandbox has no database; tests script the answer",
    "size:": "the limits of gunicorn's parser, and a body that was not recorded",
}
COMPARED = [
    pytest.param(exchange, id=exchange["name"])
    for exchange in EXCHANGES
    if not exchange["name"].startswith(tuple(NOT_EXPRESSIBLE))
]

# The clock of the recordings that name a time of day.
RECORDED = datetime(2026, 11, 22, 7, 30, 9, tzinfo=UTC)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(runs=30, now=lambda: RECORDED) as sandbox:
        yield sandbox


def kind_of(body: object) -> str:
    """What a decoded body is."""
    if not isinstance(body, dict):
        return "not JSON"
    if isinstance(body.get("data"), list):
        return "listing"
    if "errors" in body:
        return f"errors: {type(body['errors']).__name__}"
    return "refusal" if body.get("data") == {} else "object"


def payload(exchange: dict[str, Any]) -> bytes | None:
    body = exchange["request_body"]
    if body is None:
        return None
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def test_at_least_180_recorded_exchanges_are_compared() -> None:
    assert len(EXCHANGES) == 237
    assert len(COMPARED) >= 180
    unused = [name for name in NOT_EXPRESSIBLE if not any(e["name"].startswith(name) for e in EXCHANGES)]
    assert unused == []


@pytest.mark.parametrize("exchange", COMPARED)
async def test_the_response_equals_the_recorded_one(sandbox: Sandbox, exchange: dict[str, Any]) -> None:
    query = f"?{exchange['query']}" if exchange["query"] else ""
    url = URL(f"{sandbox.base_url}{exchange['path']}{query}", encoded=True)
    async with (
        aiohttp.ClientSession(skip_auto_headers=("Content-Type",)) as session,
        session.request(
            exchange["method"],
            url,
            headers={
                name: value.replace("<jwt-alice>", sandbox.jwt)
                for name, value in exchange["request_headers"].items()
            },
            data=payload(exchange),
            allow_redirects=False,
        ) as response,
    ):
        raw = await response.read()

    assert response.status == exchange["status"]
    assert response.headers["Content-Type"] == exchange["headers"]["Content-Type"]
    for name in ("Allow", "WWW-Authenticate", "Location"):
        assert response.headers.get(name) == exchange["headers"].get(name), name

    recorded = exchange["body"]
    if not isinstance(recorded, dict):
        title = recorded.partition("<title>")[2].partition("</title>")[0]
        assert f"<title>{title}</title>" in raw.decode() if title else raw == recorded.encode()
        return
    body = json.loads(raw)
    assert list(body) == list(recorded)
    assert kind_of(body) == kind_of(recorded)
    if kind_of(recorded) == "listing":
        assert type(body["count"]) is int
        assert body["message"] == recorded["message"]
        if body["data"] and recorded["data"]:
            assert list(body["data"][0]) == list(recorded["data"][0])
    elif response.status == 200:
        assert body["message"] == recorded["message"]
        assert set(body["data"]) == set(recorded["data"])
    else:
        assert body == recorded
