"""`unpod-async sandbox`: a service to try things against, with nobody behind it."""

from __future__ import annotations

import asyncio
import errno
import shlex
from contextlib import AsyncExitStack
from typing import Final

from unpod_async.cli._output import put, say
from unpod_async.cli._running import Interrupted, Loop
from unpod_async.cli._status import COMPLETE, Stop
from unpod_async.cli._values import between

__all__ = ["sandbox"]

_IN_USE: Final = (errno.EADDRINUSE, 10048)  # the second is what Windows says


def sandbox(*, runs: int, tasks_per_run: str, seed: int, latency: float, host: str, port: int) -> int:
    """Serve until Ctrl-C, which is how it ends and no error."""
    low, high = between("--tasks-per-run", tasks_per_run)
    with Loop() as loop:
        try:
            loop.run(_serve(runs, (low, high), seed, latency, host, port))
        except Interrupted:
            say("The sandbox has ended; what was in it is gone.")
    return COMPLETE


async def _serve(
    runs: int, tasks_per_run: tuple[int, int], seed: int, latency: float, host: str, port: int
) -> None:
    from unpod_async.testing import Sandbox

    world = Sandbox(runs=runs, tasks_per_run=tasks_per_run, seed=seed, latency=latency, host=host, port=port)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(world)
        except OSError as fault:
            raise _cannot_listen(fault, host, port) from None
        variables = {
            "UNPOD_PLATFORM_TOKEN": world.token,
            "UNPOD_ORG_HANDLE": world.org_handle,
            "UNPOD_BASE_URL": world.base_url,
            "SPACE": world.space_token,
            "AGENT": world.agent_handle,
        }
        put("\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()))
        say(
            f"A sandbox with {runs:,} runs and {world.task_count:,} tasks listens on {world.base_url}; "
            "all of it is made up and no phone rings."
        )
        say("Paste the lines above into another terminal to try against it; Ctrl-C ends it.")
        await asyncio.Event().wait()


def _cannot_listen(fault: OSError, host: str, port: int) -> Stop:
    if fault.errno in _IN_USE:
        return Stop(f"port {port} of {host} is in use: name another with --port (0 is any free one)")
    return Stop(f"cannot listen on {host}, port {port}: {fault.strerror or type(fault).__name__}")
