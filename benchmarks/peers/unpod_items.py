"""unpod_async: microseconds per yielded item beyond decoding, of a listing and of a stream.

Of a listing: its iteration against that of its pages, which decodes the same; of a stream: batches of 100
rows handed through it, against a plain loop over them. The ways take turns; the best turn of each counts.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence

from peers.harness import TOKEN, Job, Told, main
from unpod_async import Stream, UnpodClient

__all__ = ["run"]

_TURNS = 15


async def run(job: Job) -> Told:
    async with UnpodClient(TOKEN, "example.org", job.origin, page_size=job.page_size) as unpod:
        listing = unpod.tasks.list(job.space)
        rows = await listing.collect()
        batches = [rows[start : start + 100] for start in range(0, len(rows), 100)]

        async def by_item() -> None:
            async for _ in listing:
                pass

        async def by_page() -> None:
            async for page in listing.pages():
                for _ in page.items:
                    pass

        async def produce(put: Callable[[Sequence[object]], Awaitable[None]]) -> None:
            for batch in batches:
                await put(batch)

        async def by_stream() -> None:
            async with Stream("batches", produce) as stream:
                await _drain(stream)

        async def by_loop() -> None:
            for batch in batches:
                for _ in batch:
                    pass

        best: dict[str, float] = {}
        for _ in range(_TURNS):
            for way in (by_item, by_page, by_stream, by_loop):
                busy = time.process_time()
                await way()
                busy = time.process_time() - busy
                best[way.__name__] = min(best.get(way.__name__, busy), busy)
    return Told({
        "listing_us": (best["by_item"] - best["by_page"]) / len(rows) * 1e6,
        "stream_us": (best["by_stream"] - best["by_loop"]) / len(rows) * 1e6,
    })


async def _drain(rows: AsyncIterable[object]) -> None:
    async for _ in rows:
        pass


if __name__ == "__main__":
    main(run)
