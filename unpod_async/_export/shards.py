"""List the runs of a plan, and export one of its shards.

The directory of a plan has `_plan.json`, which says whose shards it has, and a directory of its own for each
shard: a usual target, which can be resumed and has a manifest.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from unpod_async._common import path_text, replace_file, sync_folder
from unpod_async._export.job import run_export
from unpod_async._export.manifest import MANIFEST, PLAN, WORK
from unpod_async._export.outage import OutageRetrier, probe_service
from unpod_async._export.plan import (
    MAX_SHARDS,
    ExportPlan,
    listing_spec,
    new_plan,
    plan_digests,
    shard_spec,
    with_new_runs,
)
from unpod_async._export.results import ExportProgress, ExportSummary
from unpod_async._export.rows import Row, RowPages, row_decoder
from unpod_async._export.run_sync import PAGE_SIZE
from unpod_async._export.spec import ExportSpec
from unpod_async._export.storage import Disk, is_resumable
from unpod_async._http import Deadline, check_integer
from unpod_async._paging import ClientContext, Page, Walk, space_runs
from unpod_async.errors import ExportError, InvalidArgument

__all__ = ["export_shard", "extend_plan", "make_plan"]

SHARDS: Final = "_shards"
"""The folder of the shards. Tools that read a directory skip names with an underscore."""

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
            )
        found = {token: list(spec.runs) for token in spec.spaces}
    return found, unreadable


def _check_platform(client: ClientContext, plan: ExportPlan) -> None:
    if plan.platform != client.settings.base_url:
        raise ExportError(
            "the plan was made with another server",
            hint="use a client with the base_url of the client that made the plan",
        )


# -- a shard ------------------------------------------------------------------------------------------------


async def export_shard(
    client: ClientContext,
    plan: ExportPlan,
    number: int,
    target: Path,
    deadline: Deadline,
    on_progress: Callable[[ExportProgress], object] | None,
    options: Mapping[str, Any],
) -> ExportSummary:
    """Export a shard; see `UnpodClient.export_shard`."""
    shard = plan.shard(number)
    spec = shard_spec(plan, options)
    _check_platform(client, plan)
    directory = shard_directory(target, number)
    io = Disk(target, functools.partial(is_resumable, directory))
    try:
        await io.run_within(deadline, claim_target, target, plan)
    finally:
        io.close()
    return await run_export(client, spec, directory, deadline, on_progress, shard=shard)


def shard_directory(target: Path, number: int) -> Path:
    """Return the directory of a shard."""
    return target / SHARDS / f"{number:05}"


# -- the directory of a plan --------------------------------------------------------------------------------


class _Claim(msgspec.Struct, frozen=True):
    """The content of `_plan.json`.

    Attributes:
        digests: The digests of the plan and of the plans that it extends; see `plan_digests`.
    """

    digests: list[str]
    version: int = 1


def claim_target(target: Path, plan: ExportPlan) -> None:
    """Note in a directory that it belongs to a plan. Blocks.

    Raises:
        ExportError: it belongs to another plan, or contains something else.
        OSError: it cannot be written.
    """
    digests = plan_digests(plan)
    stored = read_claim(target)
    if stored is None:
        _refuse_other_files(target)
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        (target / SHARDS).mkdir(mode=0o700, exist_ok=True)
        stored = _write_first_claim(target, digests)
    common = min(len(stored), len(digests))
    if stored[:common] != digests[:common]:
        raise ExportError(
            f"{path_text(target)} belongs to another plan",
            hint="use the plan that its other shards were exported with, or another directory",
        )
    if len(digests) > len(stored):
        replace_file(target / PLAN, msgspec.json.encode(_Claim(digests)))


def read_claim(target: Path) -> list[str] | None:
    """Return the digests in `_plan.json`; None without the file. Blocks.

    Raises:
        ExportError: the file was changed.
        OSError: the file cannot be read.
    """
    try:
        return msgspec.json.decode((target / PLAN).read_bytes(), type=_Claim).digests
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise ExportError(
        f"{path_text(target / PLAN)} is damaged or has been changed",
        hint="export the shards to another directory",
    )


def _write_first_claim(target: Path, digests: list[str]) -> list[str]:
    """Write `_plan.json`. Return the digests in it, which are others if another worker was faster."""
    temporary = target / f".{PLAN}-{os.getpid()}-{os.urandom(4).hex()}"
    replace_file(temporary, msgspec.json.encode(_Claim(digests)))
    try:
        os.link(temporary, target / PLAN)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        temporary.replace(target / PLAN)
    temporary.unlink(missing_ok=True)
    sync_folder(target)
    return read_claim(target) or []


def _refuse_other_files(target: Path) -> None:
    hint = "export the shards to a directory that is empty or does not exist"
    if target.exists() and not target.is_dir():
        raise ExportError(f"{path_text(target)} is not a directory", hint=hint)
    for name in (WORK, MANIFEST, SHARDS, "tasks", "runs", "recordings"):
        if (target / name).exists() and not (name == SHARDS and not any((target / name).iterdir())):
            raise ExportError(f"{path_text(target)} contains {name}, but no {PLAN}", hint=hint)
