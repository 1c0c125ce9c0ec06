"""`unpod-async export`: the bulk export, with its progress and its end."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unpod_async.cli._common import Common
from unpod_async.cli._connect import client, read_secret_file
from unpod_async.cli._output import say, wants_json
from unpod_async.cli._progress import display
from unpod_async.cli._running import Interrupted
from unpod_async.cli._status import COMPLETE, INCOMPLETE, USAGE, Stop
from unpod_async.cli._summary import tell_summary
from unpod_async.cli._values import duration, moment
from unpod_async.errors import APIError, TransportError

if TYPE_CHECKING:
    from unpod_async import ExportSummary, UnpodClient

__all__ = ["Wishes", "export"]

KEY_VARIABLE: Final = "UNPOD_REDACT_KEY"
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of an export as they were typed; see `UnpodClient.export`."""

    format: str
    runs: Sequence[str]
    since: str | None
    until: str | None
    full: bool
    settle_after: str
    concurrency: int
    page_size: int | None
    keep_user_token: bool
    csv_safe: bool
    redact: str | None
    redact_key_file: str | None
    recordings: bool
    recording_hosts: Sequence[str]
    part_size: float

    def arguments(self) -> dict[str, Any]:
        """Arguments for `UnpodClient.export`.

        Raises:
            Stop: one cannot be read.
        """
        return {
            "format": self.format,
            "runs": list(self.runs) or None,
            "since": None if self.since is None else moment("--since", self.since),
            "until": None if self.until is None else moment("--until", self.until),
            "full": self.full,
            "settle_after": duration("--settle-after", self.settle_after),
            "concurrency": self.concurrency,
            "page_size": self.page_size,
            "keep_user_tokens": self.keep_user_token,
            "csv_safe": self.csv_safe,
            "redact": self.redact,
            "redact_key": self._key(),
            "recordings": self.recordings,
            "recording_hosts": tuple(self.recording_hosts),
            "part_bytes": self._part_bytes(),
        }

    def _part_bytes(self) -> int:
        if not 0 < self.part_size <= _MIB:
            raise Stop(f"--part-size must be a number of MiB above 0 and at most {_MIB}", USAGE)
        return math.ceil(self.part_size * _MIB)

    def _key(self) -> bytes | None:
        if self.redact_key_file is not None:
            return read_secret_file("--redact-key-file", self.redact_key_file).strip()
        # One that is set for good is for exports that ask for hashes.
        if self.redact != "hash":
            return None
        return os.environ.get(KEY_VARIABLE, "").encode("utf-8", "surrogateescape") or None


def export(
    common: Common,
    spaces: Sequence[str],
    target: str,
    wishes: Wishes,
    *,
    deadline: float | None,
    json_lines: bool | None,
) -> int:
    """Export; the exit status."""
    arguments = wishes.arguments()
    if [common.token_file, wishes.redact_key_file].count("-") > 1:
        raise Stop("--token-file and --redact-key-file cannot both be stdin", USAGE)
    again = shlex.join(["unpod-async", *common.argv])
    with client(common, deadline=deadline, max_concurrency=max(8, wishes.concurrency)) as (loop, unpod):
        try:
            summary = loop.run(_export(unpod, spaces, target, arguments))
        except Interrupted as interrupted:
            say("Interrupted.")
            _tell_to_go_on(target, again)
            interrupted.told = True
            raise
        except (APIError, TransportError):
            _tell_to_go_on(target, again)
            raise
    tell_summary(summary, as_json=wants_json(json_lines), again=again)
    return COMPLETE if summary.complete else INCOMPLETE


async def _export(
    unpod: UnpodClient, spaces: Sequence[str], target: str, arguments: dict[str, Any]
) -> ExportSummary:
    with display() as show:
        return await unpod.export(
            spaces[0] if len(spaces) == 1 else spaces, target, on_progress=show, **arguments
        )


def _tell_to_go_on(target: str, again: str) -> None:
    if Path(target).is_dir():
        say(f"What has been fetched is kept in {target}; to go on from there, run the same again:")
    else:
        say("Nothing was fetched yet. To begin again:")
    say(again, indent="  ", whole=True)
