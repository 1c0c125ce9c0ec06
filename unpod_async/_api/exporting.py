"""`UnpodClient.export`, and exports in shards."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from unpod_async.errors import InvalidArgument

if TYPE_CHECKING:
    from typing import Unpack

    from unpod_async._export import (
        ExportOptions,
        ExportPlan,
        ExportProgress,
        ExportSpec,
        ExportSummary,
        StoreAddress,
    )
    from unpod_async._http import Deadline
    from unpod_async._paging import ClientContext

__all__ = ["Exporting"]


class Exporting:
    """The part of `UnpodClient` that exports."""

    _context: ClientContext

    async def export(
        self,
        spaces: str | Iterable[str] | ExportSpec,
        target: str | os.PathLike[str],
        *,
        on_progress: Callable[[ExportProgress], object] | None = None,
        **options: Unpack[ExportOptions],
    ) -> ExportSummary:
        """Export every run and every task of one or more spaces into files, in a directory or object store.

        The tasks are in the files of `tasks/` and the runs in `runs/`, each row once. `_manifest.json` is
        written last. It lists the options, the files, and what is missing.

        An export can be killed at any moment. Call it again with the same target: it resumes, and rows that
        are already on the disk are not fetched again. If the earlier export reached its end, only new runs,
        runs that are not settled, and what was missing are fetched.

        Example:
            ```python
            summary = await unpod.export("SPACE", "data", format="parquet")
            ```

        Args:
            spaces: Token of a space, several tokens, or an `ExportSpec` that holds the options as well.
            target: Directory of the data set. It is created if it does not exist. Or a URL such as
                `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`, which needs the extra
                `store`. One export can write to a target at a time.
            on_progress: Called with an `ExportProgress` about five times a second. An exception that it
                raises is logged and does not stop the export.
            options: The other fields of `ExportSpec`, such as `format`, `since`, `redact` and `recordings`.
                See `help(ExportSpec)` for all of them.

        Returns:
            A summary. Its `complete` is False if anything is missing. A run that cannot be read does not stop
            the export: the rows that were received are kept, the summary names the run, and the next export
            reads it again.

        Raises:
            InvalidArgument: An option is not accepted. Nothing was sent.
            TargetLockedError: Another export is writing to the target.
            ExportError: The target was made with different options, or cannot be written. An object store
                denies access, has no such bucket, or others changed the manifest meanwhile.
            AuthenticationError, RefusedError: The service denies access.
            TransportError, APIError: The service did not recover in time. An export waits out outages and
                rate limits until the client's `deadline` ends, or for an hour if there is none. The deadline
                starts with this call, and includes opening the target.
            ConfigurationError: A package that the format or the object store needs is not installed.
        """
        deadline = await self._begin_export()
        from unpod_async._export import ExportSpec, run_export

        place = _place(target)
        if isinstance(spaces, ExportSpec):
            if options:
                name = next(iter(options))
                raise InvalidArgument(
                    f"{name} cannot be combined with an ExportSpec",
                    argument=name,
                    hint="set the field of the ExportSpec instead",
                )
            spec = spaces
        else:
            # The spec converts the wider types that callers may pass.
            spec = ExportSpec(spaces=cast("Any", spaces), **cast("Any", options))
        _check_callback(on_progress)
        return await run_export(self._context, spec, place, deadline, on_progress)

    async def plan_export(
        self, spaces: str | Iterable[str], *, shards: int, **options: Unpack[ExportOptions]
    ) -> ExportPlan:
        """List the runs of one or more spaces and divide them into shards, which can run on many machines.

        Example:
            ```python
            plan = await unpod.plan_export("SPACE", shards=16, format="parquet")
            plan.save("plan.json")
            ```

        Args:
            spaces: Token of a space, or several tokens.
            shards: Number of shards, at most 10,000. Each has about the same number of runs.
            options: The fields of `ExportSpec` that decide which rows the data set has, such as `format`,
                `since` and `redact`. With `redact="hash"`, give `redact_key` here and to every shard.

        Raises:
            InvalidArgument: An option is not accepted. Nothing was sent.
            IncompleteListing: The runs could not all be listed.
            TransportError, APIError: The service did not recover in time; see `export`.
        """
        deadline = await self._begin_export()
        from unpod_async._export import ExportSpec, make_plan

        spec = ExportSpec(spaces=cast("Any", spaces), **cast("Any", options))
        return await make_plan(self._context, spec, shards, deadline)

    async def extend_plan(self, plan: ExportPlan, *, shards: int | None = None) -> ExportPlan:
        """List the runs again and return a plan that has the new ones too, in new shards.

        The other shards stay as they are, so shards that have been exported need not be exported again.

        Example:
            ```python
            plan = await unpod.extend_plan(ExportPlan.load("plan.json"), shards=2)
            plan.save("plan.json")
            ```

        Args:
            plan: A plan for the same server.
            shards: Maximum number of new shards. By default as many as the plan began with.

        Returns:
            The extended plan; the same plan if there are no new runs.

        Raises:
            ExportError: The plan was made with another server.
            InvalidArgument, IncompleteListing, TransportError, APIError: As for `plan_export`.
        """
        deadline = await self._begin_export()
        from unpod_async._export import check_plan, extend_plan

        return await extend_plan(self._context, check_plan(plan), shards, deadline)

    async def export_shard(
        self,
        plan: ExportPlan,
        shard: int,
        target: str | os.PathLike[str],
        *,
        on_progress: Callable[[ExportProgress], object] | None = None,
        **options: Unpack[ExportOptions],
    ) -> ExportSummary:
        """Export the runs of one shard of a plan. `merge_shards` makes one data set of all shards.

        A shard that was killed resumes, as `export` does, on any machine that sees the same directory. In an
        object store it resumes on the same machine, and on another one from what it has uploaded before. A
        shard that has ended is brought up to date.

        Args:
            plan: The plan, the same for every shard.
            shard: Number of the shard, from 0.
            target: Directory or URL of the whole data set, the same for every shard. See `export`.
            on_progress: As for `export`.
            options: Fields of `ExportSpec` that the plan does not decide, such as `concurrency`, and
                `redact_key`. Shards on one machine may have the same `state_dir`.

        Returns:
            A summary of this shard.

        Raises:
            InvalidArgument: The plan has no such shard, it decides the option, or the option does not fit the
                target.
            TargetLockedError: The shard is being exported.
            ExportError: The target belongs to another plan, has another data set, or cannot be written.
            AuthenticationError, RefusedError, TransportError, APIError, ConfigurationError: As for `export`.
        """
        deadline = await self._begin_export()
        from unpod_async._export import check_plan, export_shard

        place = _place(target)
        _check_callback(on_progress)
        return await export_shard(
            self._context, check_plan(plan), shard, place, deadline, on_progress, options
        )

    async def _begin_export(self) -> Deadline:
        """Start the deadline and import the export code."""
        deadline = self._context.executor.deadline()
        deadline.start()
        # Imported here because programs that export nothing need no database. In a thread, because the import
        # takes 0.2 s and would block the event loop. While another call is importing the module, it is in
        # `sys.modules` without its functions. An import here would block the event loop until that one ends.
        if not hasattr(sys.modules.get(_EXPORTER), "run_export"):
            await deadline.run_in_thread(
                lambda: importlib.import_module(_EXPORTER),
                "while the export code was being imported",
                sent=False,
            )
        return deadline


_EXPORTER: Final = "unpod_async._export.job"


def _place(target: str | os.PathLike[str]) -> Path | StoreAddress:
    """Return the directory or the address in an object store that a target names."""
    from unpod_async._export import check_directory

    path = check_directory("target", target)
    if ":" not in path:
        return Path(path)  # without an import
    from unpod_async._export import StoreAddress

    return StoreAddress.parse(target) or Path(path)


def _check_callback(on_progress: object) -> None:
    if on_progress is not None and not callable(on_progress):
        raise InvalidArgument(
            "on_progress must be a function that takes an ExportProgress", argument="on_progress"
        )
