"""The object stores of the tests, and a bucket in each of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.export.stores import Bucket, Server

SCHEMES = os.environ.get("UNPOD_TEST_STORES", "s3").split(",")
"""The stores that are tested."""


@pytest.fixture(scope="module", params=SCHEMES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    stores = pytest.importorskip("tests.export.stores", reason="obstore and moto are not installed")
    with stores.Server.run(request.param) as running:
        yield running


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bucket:
    """A new bucket. The environment leads exports to its server, and to a folder for their state."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return server.new_bucket()
