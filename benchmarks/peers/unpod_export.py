"""unpod_async: `export` in the format of the job, run by run or from the space-wide listing.

Which of the two is the export's own choice; of a space without a space-wide listing (`r2000n`) it goes run by
run.
"""

from __future__ import annotations

from typing import Any, cast

from peers.harness import TOKEN, Job, Written, main
from unpod_async import ExportProgress, UnpodClient
from unpod_async._export import run_export  # noqa: F401 - what export imports when it is called

__all__ = ["run"]


async def run(job: Job) -> Written:
    events: list[ExportProgress] = []
    # In the mode "flat" the pages are of the size that the export thinks best; "pages" sets it.
    size = None if job.mode == "flat" else job.page_size
    async with UnpodClient(TOKEN, "example.org", job.origin, max_concurrency=job.ahead) as unpod:
        summary = await unpod.export(
            job.space,
            job.folder / "out",
            concurrency=job.ahead,
            page_size=size,
            format=cast("Any", job.format),
            redact="hash" if job.redact else None,
            on_progress=events.append,
        )
    if not summary.complete or not events:
        raise RuntimeError(f"the export is not complete: {summary}")
    return Written(sorted((job.folder / "out").glob("tasks/*")))


if __name__ == "__main__":
    main(run)
