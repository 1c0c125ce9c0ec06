"""dlt's REST source: runs as a resource, their tasks as one that depends on it; JSONL or Parquet out.

Kinder to dlt than its defaults: nested fields stay in their row, nothing is compressed, telemetry is off. In
the mode "runs" it pages with its own paginator, which asks for pages until one is empty, one more of each run
than the others; in the mode "short" with one written for it, which ends with the first page that is short. In
the mode "flat" it reads the space-wide listing of tasks instead, page after page.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "CRITICAL",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
    "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "true",
}

import dlt
from dlt.destinations import filesystem
from dlt.sources.helpers.requests import Response
from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator
from dlt.sources.rest_api import rest_api_source

from peers.harness import HEADERS, Job, Written, main

__all__ = ["run"]


class UntilShort(PageNumberPaginator):
    """Ends with the first page that is not full."""

    def __init__(self, page_size: int) -> None:
        super().__init__(base_page=1, page_param="page", total_path=None)
        self._page_size = page_size

    def update_state(self, response: Response, data: list[Any] | None = None) -> None:
        super().update_state(response, data)
        if data is not None and len(data) < self._page_size:
            self._has_next_page = False


def run(job: Job) -> Written:
    os.environ["EXTRACT__WORKERS"] = str(job.ahead)
    os.environ["EXTRACT__MAX_PARALLEL_ITEMS"] = str(job.ahead)
    pages = (
        UntilShort(job.page_size)
        if job.mode == "short"
        else PageNumberPaginator(base_page=1, page_param="page", total_path=None)
    )

    def resource(name: str, path: str) -> Any:
        endpoint = {"path": path, "params": {"page_size": job.page_size}, "data_selector": "data"}
        return {"name": name, "parallelized": name == "tasks", "endpoint": endpoint}

    tasks = "tasks/" if job.mode == "flat" else "runs/{resources.runs.run_id}/tasks/"
    source = rest_api_source(
        {
            "client": {"base_url": f"{job.root}/", "headers": HEADERS, "paginator": pages},
            "resources": [resource("runs", "runs/"), resource("tasks", tasks)],
        },
        max_table_nesting=0,
    )
    pipeline = dlt.pipeline(
        pipeline_name=f"bench_{job.space}",
        pipelines_dir=str(job.folder / "pipelines"),
        destination=filesystem(bucket_url=(job.folder / "out").as_uri()),
        dataset_name="bench",
    )
    pipeline.run(source, loader_file_format=cast("Any", job.format))
    return Written(sorted(Path(job.folder, "out", "bench", "tasks").glob(f"*.{job.format}*")))


if __name__ == "__main__":
    main(run)
