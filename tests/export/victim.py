"""An export in its own process, which kills itself right before the counted call number `kill_at`.

    python victim.py '{"base_url": ..., "kill_at": 17, "export": {...}}'

It counts the calls that change the disk or send a request, or, with "counted", those of other functions. A
kill at any other moment has the effect of a kill before the next of these calls. At its end, it prints the
number of counted calls.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import threading
from types import FrameType

from unpod_async import RetryPolicy, UnpodClient

COUNTED = {"write", "fsync", "replace", "rename", "unlink", "execute", "executemany", "open", "send", "mkdir"}
calls = itertools.count(1)
last = 0


def main(job: dict[str, object]) -> None:
    kill_at = job["kill_at"]
    names = set(job["counted"] or COUNTED)  # type: ignore[call-overload]

    def look(frame: FrameType, event: str, what: object) -> None:
        global last
        if event == "c_call" and getattr(what, "__name__", "") in names:
            last = next(calls)
            if last == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    async def export() -> None:
        async with UnpodClient(
            str(job["token"]), base_url=str(job["base_url"]), retry=RetryPolicy(base=0.01)
        ) as unpod:
            await unpod.export(str(job["space"]), str(job["target"]), **job["export"])  # type: ignore[arg-type]

    async def counted() -> None:
        threading.setprofile(look)
        sys.setprofile(look)
        try:
            await export()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    asyncio.run(counted())
    sys.stdout.write(f"{last}\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
