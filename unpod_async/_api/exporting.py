"""`UnpodClient.export`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from unpod_async.errors import InvalidArgument

if TYPE_CHECKING:
    from unpod_async._export import ExportFormat, ExportProgress, ExportSummary, Redaction
    from unpod_async._paging import Core
    from unpod_async.models import Run

__all__ = ["Exporting"]

_WEEK = timedelta(days=7)


class Exporting:
    """The part of a client that exports."""

    _core: Core

    async def export(
        self,
        space_token: str | Iterable[str],
        target: str | os.PathLike[str],
        *,
        format: ExportFormat = "jsonl",  # noqa: A002 - the field's word
        runs: Iterable[str | Run] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        full: bool = False,
        settle_after: timedelta | float = _WEEK,
        concurrency: int = 4,
        page_size: int | None = None,
        user_token: Literal["null", "keep"] = "null",  # noqa: S107 - a choice, no password
        csv_safe: bool = False,
        redact: Redaction | None = None,
        redact_key: str | bytes | None = None,
        recordings: bool = False,
        recording_hosts: Sequence[str] = (),
        part_bytes: int = 64 * 2**20,
        on_progress: Callable[[ExportProgress], object] | None = None,
    ) -> ExportSummary:
        """Export every run and every task of a space into a directory: `runs-*`, `tasks-*`, `manifest.json`.

        Killed or interrupted at any moment, call it again: it goes on, and what is on the disk is not fetched
        again. Called again later, it fetches what is new or may have changed. The rows are those of all files
        `tasks*` together, each once; `manifest.json`, written last, says what was asked and what is missing.

        Args:
            space_token: one space, or several.
            target: a directory; made when it is not there. One export at a time.
            format: "jsonl" (each row as the server sent it), "jsonl.gz", "csv" or "parquet" (flat columns and
                the open parts as JSON text; needs the extra `parquet`).
            runs: only these, of one space; ids or `Run`s.
            since, until: only runs created then; aware datetimes, both inclusive.
            full: read everything again.
            settle_after: a run is settled, and not asked for again, when it and all its tasks are completed
                or failed and it is older than this; a timedelta or seconds, by default 7 days.
            concurrency: runs read at a time.
            page_size: rows per page of every listing; by default a size that suits each.
            user_token: "null" puts null in place of `user_info.user_token`; "keep" leaves it.
            csv_safe: in CSV, put `'` before what a spreadsheet would take for a formula.
            redact: "drop" or "hash" names, phone numbers and e-mail addresses.
            redact_key: key of the hashes, 8 bytes or more; by default one of the target's own.
            recordings: download recordings, into `recordings/`.
            recording_hosts: hosts that recordings may be fetched from though they are not public or not
                https, as "host" or "host:port".
            part_bytes: size of a part, in bytes of its rows as JSON.
            on_progress: called with an `ExportProgress` some times a second; what it raises is logged.

        The client's `deadline` bounds it all; any outage and any Retry-After is waited out within it, and an
        hour of outage where there is none. A run that cannot be read costs that run: the summary names it,
        and the next export asks for it again.

        Raises:
            InvalidArgument: an argument is not accepted.
            TargetLockedError: another export is writing to the target.
            ExportError: the target was made with other questions, or cannot be written.
            AuthenticationError, RefusedError: the service does not let us in.
            TransportError, APIError: the service could not be waited for any longer.
            ConfigurationError: what the format needs is not installed.
        """
        # The machinery is imported when it is used: other programs need no database.
        from unpod_async._export import Job, asked_of, key_of, options_of

        asked = asked_of(
            self._core.settings.base_url,
            space_token,
            form=format,
            runs=runs,
            since=since,
            until=until,
            user_token=user_token,
            csv_safe=csv_safe,
            redact=redact,
            redact_key=key_of(redact_key),
            recordings=recordings,
        )
        options = options_of(
            full=full,
            settle_after=settle_after,
            concurrency=concurrency,
            page_size=page_size,
            redact_key=redact_key,
            recording_hosts=recording_hosts,
            part_bytes=part_bytes,
            on_progress=on_progress,
        )
        return await Job(self._core, asked, options, _path(target)).run()


def _path(target: object) -> Path:
    if not isinstance(target, str | os.PathLike) or not target:
        raise InvalidArgument("target must be the path of a directory")
    return Path(cast("str | os.PathLike[str]", target))
