"""List the runs of a plan, and export one of its shards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unpod_async._export.claim import claim_directory, shard_directory
from unpod_async._export.job import run_export
from unpod_async._export.outage import OutageRetrier, probe_service
from unpod_async._export.plan import (
    MAX_SHARDS,
    ExportPlan,
    listing_spec,
    new_plan,
    shard_spec,
    with_new_runs,
)
from unpod_async._export.results import ExportProgress, ExportSummary
from unpod_async._export.rows import Row, RowPages, row_decoder
from unpod_async._export.run_sync import PAGE_SIZE
from unpod_async._export.spec import ExportSpec, check_target
from unpod_async._export.storage import Disk, is_resumable
from unpod_async._http import Deadline, check_integer
from unpod_async._paging import ClientContext, Page, Walk, space_runs
from unpod_async.errors import ExportError, InvalidArgument

if TYPE_CHECKING:
    from unpod_async._export.object_store import StoreAddress

__all__ = ["export_shard", "extend_plan", "make_plan"]

_AHEAD: Final = 4
"""Number of pages of runs requested at a time."""


# -- planning -----------------------------------------------------------------------------------------------


async def make_plan(client: ClientContext, spec: ExportSpec, shards: int, deadline: Deadline) -> ExportPlan:
    """Make a plan; see `UnpodClient.plan_export`."""
    check_integer("shards", shards, maximum=MAX_SHARDS)
    platform = client.settings.base_url
    new_plan(spec, platform, shards, {}, 0)  # checks the options before anything is sent
    runs, unreadable = await _list_runs(client, spec, deadline)
    return new_plan(spec, platform, shards, runs, unreadable)


async def extend_plan(
    client: ClientContext, plan: ExportPlan, shards: int | None, deadline: Deadline
) -> ExportPlan:
    """Add the new runs to a plan; see `UnpodClient.extend_plan`."""
    most = plan.listings[0].shards if shards is None else check_integer("shards", shards, maximum=MAX_SHARDS)
    _check_platform(client, plan)
    runs, unreadable = await _list_runs(client, listing_spec(plan), deadline)
    return with_new_runs(plan, most, runs, unreadable)


async def _list_runs(
    client: ClientContext, spec: ExportSpec, deadline: Deadline
) -> tuple[dict[str, list[str]], int]:
    """Return the ids of the selected runs by space, and the number of rows that could not be read."""
    retrier = OutageRetrier(
        client.executor, lambda: probe_service(client.executor, spec.spaces[0], deadline), deadline
    )
    window, unreadable = spec.window, 0
    found: dict[str, list[str]] = {}
    for token in spec.spaces:
        ids = found[token] = []

        async def add(page: Page[Row], ids: list[str] = ids) -> None:
            nonlocal unreadable
            unreadable += len(page.unreadable) + len(page.rejected)
            for row in page.items:
                run_id = row.header.run_id
                if window is not None and not window.contains(row.header.created_at):
                    continue
                if isinstance(run_id, str) and run_id:
                    ids.append(run_id)
                else:
                    unreadable += 1

        page_size = spec.page_size or PAGE_SIZE
        pages = RowPages(retrier, space_runs(token), page_size, deadline, row_decoder(keep_user_token=True))
        await pages.prefetch(Walk(page_size=page_size, ahead=min(_AHEAD, spec.concurrency)), add)
    if spec.runs is not None:
        missing = sorted(set(spec.runs).difference(*found.values()))
        if missing:
            raise InvalidArgument(
                f"{len(missing):,} of the selected runs are not in the space, such as {missing[0]}",
                argument="runs",
                hint="correct these ids or leave them out",
            )
        found = {token: list(spec.runs) for token in spec.spaces}
    return found, unreadable


def _check_platform(client: ClientContext, plan: ExportPlan) -> None:
    if plan.platform != client.settings.base_url:
        raise ExportError(
            "the plan was made with another server",
            hint="use the base_url (UNPOD_BASE_URL) with which the plan was made",
        )


# -- a shard ------------------------------------------------------------------------------------------------


async def export_shard(
    client: ClientContext,
    plan: ExportPlan,
    number: int,
    target: Path | StoreAddress,
    deadline: Deadline,
    on_progress: Callable[[ExportProgress], object] | None,
    options: Mapping[str, Any],
) -> ExportSummary:
    """Export a shard; see `UnpodClient.export_shard`."""
    shard = plan.shard(number)
    spec = shard_spec(plan, options)
    check_target(spec, is_directory=isinstance(target, Path))  # before the target is claimed
    _check_platform(client, plan)
    if isinstance(target, Path):
        place: Path | StoreAddress = shard_directory(target, number)
        io = Disk(target, functools.partial(is_resumable, shard_directory(target, number)))
        try:
            await io.run_within(deadline, claim_directory, target, plan)
        finally:
            io.close()
    else:
        from unpod_async._export.object_store import begin_shard

        place, spec = await begin_shard(target, plan, number, spec, deadline)
    return await run_export(client, spec, place, deadline, on_progress, shard=shard)
