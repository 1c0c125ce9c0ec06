"""`UnpodClient.export`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from unpod_async._common import ignore_error
from unpod_async.errors import InvalidArgument

if TYPE_CHECKING:
    from typing import Unpack

    from unpod_async._export import (
        ExportOptions,
        ExportProgress,
        ExportSpec,
        ExportSummary,
        StoreAddress,
    )
    from unpod_async._http import Deadline
    from unpod_async._paging import ClientContext

__all__ = ["Exporting"]


class Exporting:
    """The part of `UnpodClient` that has `export`."""

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
        deadline = self._context.executor.deadline()
        deadline.start()
        # Imported here because programs that export nothing need no database.
        if _EXPORTER not in sys.modules:
            await _import_exporter(deadline)
        from unpod_async._export import ExportSpec, run_export

        directory = _path(target)
        place = _store_address(target) or directory
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
        if on_progress is not None and not callable(on_progress):
            raise InvalidArgument(
                "on_progress must be a function that takes an ExportProgress", argument="on_progress"
            )
        if spec.state_dir is not None and isinstance(place, Path):
            raise InvalidArgument(
                "state_dir is only used if the target is in an object store",
                argument="state_dir",
                hint="leave it out: the state is in the directory of the export",
            )
        return await run_export(self._context, spec, place, deadline, on_progress)


_EXPORTER: Final = "unpod_async._export.job"


async def _import_exporter(deadline: Deadline) -> None:
    """Import the export code in a thread, because the import takes 0.2 s and would block the event loop.

    Raises:
        TransportError: the deadline ended first. The import continues.
    """
    importing = asyncio.get_running_loop().run_in_executor(None, importlib.import_module, _EXPORTER)
    importing.add_done_callback(ignore_error)  # this function may have ended before
    await asyncio.wait([importing], timeout=None if deadline.seconds is None else deadline.left())
    if not importing.done():
        raise deadline.error("while the export code was being imported", sent=False)
    importing.result()


def _store_address(target: str | os.PathLike[str]) -> StoreAddress | None:
    """Return the address in an object store that a target names, or None."""
    if ":" not in os.fsdecode(target):
        return None  # without an import
    from unpod_async._export import StoreAddress

    return StoreAddress.parse(target)


def _path(target: object) -> Path:
    if isinstance(target, str | os.PathLike) and target:
        with contextlib.suppress(UnicodeEncodeError):  # a surrogate that does not represent a byte
            path = os.fsencode(cast("str | os.PathLike[str]", target))
            if path and b"\0" not in path:
                return Path(os.fsdecode(path))
    raise InvalidArgument("target must be the path of a directory", argument="target")
