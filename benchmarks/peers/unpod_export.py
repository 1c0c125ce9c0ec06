"""unpod_async: `export` to lines of JSON with everything on, run by run or from the space-wide listing.

Which of the two is the export's own choice; of a space without a space-wide listing (`r2000n`) it goes run by
run.
"""

from __future__ import annotations

from peers.harness import TOKEN, Job, Written, main
from unpod_async import ExportProgress, UnpodClient
from unpod_async._export import run_export  # noqa: F401 - what export imports when it is called

__all__ = ["run"]


async def run(job: Job) -> Written:
    events: list[ExportProgress] = []
    # In the mode "flat" the pages are of the size that the export thinks best.
    size = job.page_size if job.mode == "runs" else None
    async with UnpodClient(TOKEN, "example.org", job.origin, max_concurrency=job.ahead) as unpod:
        summary = await unpod.export(
            job.space,
            job.folder / "out",
            concurrency=job.ahead,
            page_size=size,
            on_progress=events.append,
        )
    if not summary.complete or not events:
        raise RuntimeError(f"the export is not complete: {summary}")
    return Written(sorted((job.folder / "out").glob("tasks/*.jsonl")))


if __name__ == "__main__":
    main(run)
