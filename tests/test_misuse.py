"""Synchronous use of asynchronous objects, their repr, and the version of the package."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import unpod_async
from unpod_async import InvalidArgument, UnpodClient

SPACE = "SPACE"

# Each object, and what its errors tell the reader to write after `for`, `await` and `with`.
OBJECTS: dict[str, tuple[Callable[[UnpodClient], Any], tuple[str, str, str]]] = {
    "Pager": (
        lambda unpod: unpod.runs.list(SPACE),
        ("async for row in pager", "await pager.collect()", "async for row in pager"),
    ),
    "ListingIterator": (
        lambda unpod: unpod.runs.list(SPACE).pages(),
        ("async for", "await anext(iterator)", "async for"),
    ),
    "Stream": (lambda unpod: unpod.runs.tasks_for(SPACE), ("async with ... as stream",) * 3),
    "Watch": (lambda unpod: unpod.runs.watch(SPACE), ("async with ... as stream",) * 3),
    "UnpodClient": (
        lambda unpod: unpod,
        (
            "async for run in unpod.runs.list(space_token)",
            "async with UnpodClient() as unpod",
            "async with UnpodClient() as unpod",
        ),
    ),
    "Organizations": (lambda unpod: unpod.organizations, (".list(...)",) * 3),
    "Spaces": (lambda unpod: unpod.spaces, ("`.list(...)` or `.get(...)`",) * 3),
    "Agents": (lambda unpod: unpod.agents, (".list(...)",) * 3),
    "Runs": (lambda unpod: unpod.runs, (".list(...)",) * 3),
    "Tasks": (lambda unpod: unpod.tasks, (".create_many(...)",) * 3),
    "CallLogs": (lambda unpod: unpod.call_logs, (".list(...)",) * 3),
    "Recordings": (lambda unpod: unpod.recordings, (".download(...)",) * 3),
}


def with_block(value: Any) -> None:
    with value:
        pass


async def awaited(value: Any) -> None:
    await value


def loop(value: Any) -> None:
    for _ in value:
        pass


@pytest.mark.parametrize("name", OBJECTS)
async def test_synchronous_use_says_what_to_write(name: str) -> None:
    make, (for_hint, await_hint, with_hint) = OBJECTS[name]
    value = make(UnpodClient("t0ken", "acme", "http://127.0.0.1:9"))
    assert type(value).__name__ == name

    uses = (loop, list, tuple, sorted, enumerate_all, lambda value: value[0], lambda value: [*value])
    for use in uses:
        with pytest.raises(TypeError, match="is not iterable") as caught:
            use(value)
        assert for_hint in str(caught.value)
    with pytest.raises(TypeError, match="cannot be awaited") as caught:
        await awaited(value)
    assert await_hint in str(caught.value)
    with pytest.raises(TypeError, match="does not support `with`") as caught:
        with_block(value)
    assert with_hint in str(caught.value)
    # Code that tells iterables by their type must not take it for one.
    assert not isinstance(value, Iterable)
    assert bool(value)


def enumerate_all(value: Any) -> list[Any]:
    return list(enumerate(value))


async def test_len_of_a_pager_says_what_to_write() -> None:
    pager: Any = UnpodClient("t0ken", "acme", "http://127.0.0.1:9").runs.list(SPACE)
    with pytest.raises(TypeError, match=r"has no len\(\).*await pager\.count\(\)"):
        len(pager)
    assert bool(pager)


async def test_a_pager_needs_no_async_with() -> None:
    pager: Any = UnpodClient("t0ken", "acme", "http://127.0.0.1:9").runs.list(SPACE)
    with pytest.raises(TypeError, match=r"async for row in pager.*prefetch"):
        async with pager:
            pass


async def test_the_iterator_of_a_stream_explains_itself_too() -> None:
    unpod = UnpodClient("t0ken", "acme", "http://127.0.0.1:9")
    async with unpod, unpod.runs.tasks_for(SPACE, []) as stream:
        rows: Any = aiter(stream)
        with pytest.raises(TypeError, match="async for"):
            list(rows)
        with pytest.raises(TypeError, match=r"anext\(iterator\)"):
            await rows
        assert [row async for row in rows] == []


async def test_groups_of_calls_show_their_server_and_no_secret() -> None:
    unpod = UnpodClient("t0ken-t0ken", "acme", "http://127.0.0.1:9")
    groups = ("organizations", "spaces", "agents", "runs", "tasks", "recordings")
    shown = [repr(getattr(unpod, name)) for name in groups]
    assert shown == [repr(unpod).replace("UnpodClient", name.capitalize()) for name in groups]
    assert "http://127.0.0.1:9" in shown[0]
    assert "t0ken" not in "".join(shown)


@pytest.mark.parametrize(
    "name", ["Organizations", "Spaces", "Agents", "Runs", "Tasks", "CallLogs", "Recordings"]
)
async def test_async_for_over_a_group_of_calls_says_what_to_write(name: str) -> None:
    make, (hint, _, _) = OBJECTS[name]
    group = make(UnpodClient("t0ken", "acme", "http://127.0.0.1:9"))
    with pytest.raises(TypeError, match=f"'{name}' object is not iterable") as caught:
        async for _ in group:
            pass
    assert hint in str(caught.value)


async def test_a_group_of_calls_is_no_list_of_runs() -> None:
    unpod = UnpodClient("t0ken", "acme", "http://127.0.0.1:9")
    async with unpod:
        with pytest.raises(InvalidArgument, match="runs must be"):
            unpod.runs.tasks_for(SPACE, unpod.runs)  # type: ignore[call-overload]


def test_the_version_is_that_of_the_installed_package() -> None:
    assert unpod_async.__version__ == importlib.metadata.version("unpod-async")
    assert not inspect.ismodule(unpod_async.__version__)


def test_the_version_is_available_without_importing_the_client() -> None:
    code = "import sys, unpod_async; print(unpod_async.__version__, 'aiohttp' in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert result.stdout.split() == [unpod_async.__version__, "False"]
