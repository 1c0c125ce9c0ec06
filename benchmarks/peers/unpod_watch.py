"""unpod_async: watching 100 spaces of settled runs, and what that takes of one core between the changes.

`--ahead` is how many spaces there are, `--slow` for how many seconds they are watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from peers.harness import TOKEN, Job, Told, main
from unpod_async import UnpodClient

__all__ = ["run"]

_INTERVAL = 10.0


async def run(job: Job) -> Told:
    spaces = [f"{job.space}s{number}" for number in range(job.ahead)]
    async with (
        UnpodClient(TOKEN, "example.org", job.origin) as unpod,
        unpod.runs.watch(spaces, interval=_INTERVAL) as events,
    ):
        seen = 0

        async def read() -> None:
            nonlocal seen
            async for _ in events:
                seen += 1

        reading = asyncio.create_task(read())
        before = -1
        while seen != before:  # what is there comes first, and is not what idling costs
            before = seen
            await asyncio.sleep(1.5)
        busy, began = time.process_time(), time.monotonic()
        await asyncio.sleep(job.slow or 30)
        busy, spent = time.process_time() - busy, time.monotonic() - began
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
    return Told({"idle_share": busy / spent, "events": seen})


if __name__ == "__main__":
    main(run)
