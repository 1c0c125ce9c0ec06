"""Export the shards of a plan on the workers of a Dask cluster. Needs the extra `dask`.

    from dask.distributed import Client

    from unpod_async import ExportPlan
    from unpod_async.distributed import export

    async with Client("tcp://scheduler:8786", asynchronous=True) as dask:
        summary = await export(ExportPlan.load("plan.json"), "/shared/data", dask, rate_limit=20)

Modules: `rate` (the one limit of all workers), `scheduler` (what runs in the scheduler), `worker` (what runs
in the workers) and `cluster` (`export`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unpod_async._version import install_command
from unpod_async.errors import ConfigurationError

if TYPE_CHECKING:
    from unpod_async.distributed.cluster import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from unpod_async.distributed.cluster import export
    except ImportError as error:
        raise ConfigurationError(
            f"this needs dask.distributed, which cannot be imported: {error}", hint=install_command("dask")
        ) from None
    return export
