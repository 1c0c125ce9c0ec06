"""An export in a process of its own, which kills itself right before call number `kill_at` that matters.

    python victim.py '{"base_url": ..., "kill_at": 17, "export": {...}}'

What matters is what changes the disk, and what asks the service: a kill anywhere else is one of these, a
little earlier. Prints how many such calls there were when it comes to its end.
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

MATTERS = {"write", "fsync", "replace", "rename", "unlink", "execute", "executemany", "open", "send", "mkdir"}
calls = itertools.count(1)
last = 0


def main(asked: dict[str, object]) -> None:
    kill_at = asked["kill_at"]

    def look(frame: FrameType, event: str, what: object) -> None:
        global last
        if event == "c_call" and getattr(what, "__name__", "") in MATTERS:
            last = next(calls)
            if last == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    async def export() -> None:
        async with UnpodClient(
            str(asked["token"]), base_url=str(asked["base_url"]), retry=RetryPolicy(base=0.01)
        ) as unpod:
            await unpod.export(str(asked["space"]), str(asked["target"]), **asked["export"])  # type: ignore[arg-type]

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
