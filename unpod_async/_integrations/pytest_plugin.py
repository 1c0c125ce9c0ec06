"""Fixtures for pytest, which finds them through the entry point `pytest11` of the installed package.

pytest imports this module in every test run of the environment, so it imports nothing of the package before
one of its fixtures is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from unpod_async import UnpodClient
    from unpod_async.testing import Sandbox

__all__ = ["unpod_client", "unpod_no_retries", "unpod_sandbox"]

_MARKER: Final = (
    "unpod_sandbox(...): the arguments of `unpod_async.testing.Sandbox` for the fixture unpod_sandbox"
)

_UNSET: Final = ("UNPOD_PLATFORM_BASE_URL", "UNPOD_PROXY")
"""Variables that would lead a client elsewhere."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def unpod_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A running `unpod_async.testing.Sandbox`, and the environment variables of a client of it.

    It runs in a thread of its own, so it serves synchronous tests and async tests of every plugin. The marker
    `unpod_sandbox` has its arguments: `@pytest.mark.unpod_sandbox(runs=3)`.
    """
    from unpod_async.testing import Sandbox

    marker = request.node.get_closest_marker("unpod_sandbox")
    box = Sandbox() if marker is None else Sandbox(*marker.args, **marker.kwargs)
    with box as sandbox, pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNPOD_PLATFORM_TOKEN", sandbox.token)
        environment.setenv("UNPOD_ORG_HANDLE", sandbox.org_handle)
        environment.setenv("UNPOD_BASE_URL", sandbox.base_url)
        # An empty variable counts as unset.
        environment.setenv("UNPOD_PRODUCT_ID", sandbox.product_id or "")
        for name in _UNSET:
            environment.delenv(name, raising=False)
        yield sandbox


@pytest.fixture
def unpod_client(request: pytest.FixtureRequest, unpod_sandbox: Sandbox) -> Iterator[UnpodClient]:
    """An `unpod_async.UnpodClient` of the fixture `unpod_sandbox`. It is closed after the test."""
    if "anyio_backend" in request.fixturenames:
        if request.getfixturevalue("anyio_backend_name") != "asyncio":
            pytest.fail(
                'unpod_client needs asyncio\nhint: let the fixture anyio_backend return "asyncio"',
                pytrace=False,
            )
        request.getfixturevalue("_unpod_event_loop")
    client = unpod_sandbox.client()
    yield client

    from anyio.from_thread import start_blocking_portal

    # This fixture is not async, because each plugin for async tests has its own async fixtures. `aclose` can
    # be awaited in any event loop: connections are closed in the loop of the test, which is not running now.
    with start_blocking_portal("asyncio") as portal:
        portal.call(client.aclose, 0)


@pytest.fixture
async def _unpod_event_loop(anyio_backend: object) -> AsyncIterator[None]:
    """Keep the event loop of an anyio test open until its client is closed."""
    yield  # noqa: PT022 - a generator keeps the loop


@pytest.fixture
def unpod_no_retries() -> Iterator[None]:
    """Let all clients fail at once, as with retry=None. No export waits for an outage to end."""
    from unpod_async._http import without_retries

    with without_retries():
        yield
