"""`unpod-async create --journal`: calls that a repeated command does not place again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from unpod_async._common import printable, shorten
from unpod_async.cli.errors import ERROR, SUCCESS, USAGE, CliError, message_of
from unpod_async.cli.output import counted, echo, echo_err, echo_error, echo_line
from unpod_async.cli.runner import Interrupted, InterruptibleRunner
from unpod_async.errors import ConfigurationError, InvalidArgument, OutcomeUnknown, UnpodError

if TYPE_CHECKING:
    from unpod_async import BatchResult, CreateRequest, UnpodClient
    from unpod_async._create import JournalEntry

__all__ = ["BATCH_SIZE", "JournaledCalls"]

BATCH_SIZE: Final = 100
"""Number of documents in a request. With another number, the journals of older versions are refused."""

_REPEAT: Final = "run the same command again, with the same journal: no call is placed twice"


class _Progress(NamedTuple):
    """The number of calls by what the journal says about them.

    Attributes:
        queued: calls with a task.
        unknown: calls that were sent, and whose task is not known. They are never sent again.
        left: calls that were not sent, or refused.
    """

    queued: int
    unknown: int
    left: int


class JournaledCalls:
    """Calls that are placed with a journal.

    Args:
        path: the journal.
        space: token of the space.
        requests: the requests, each with up to `BATCH_SIZE` documents.
    """

    def __init__(self, path: str, space: str, requests: Sequence[CreateRequest]) -> None:
        self._path = path
        self._name = shorten(Path(path).name, 80)
        self._space = space
        self._requests = requests
        self._total = sum(len(request.documents) for request in requests)

    def read_progress(self) -> _Progress:
        """Read the journal, without creating it.

        Raises:
            ConfigurationError: it is in use, is not a journal, or cannot be opened.
        """
        from unpod_async._create import open_journal

        entries: Mapping[int, JournalEntry] = {}
        if _may_exist(self._path):
            with open_journal(self._path) as journal:
                entries = dict(journal.entries)
        queued = unknown = left = 0
        for number, request in enumerate(self._requests):
            entry, count = entries.get(number), len(request.documents)
            if entry is None or entry.state == "refused":
                left += count
            elif entry.state == "created":
                queued += count
            else:
                found = min(len(entry.task_ids), count)
                queued, unknown = queued + found, unknown + count - found
        return _Progress(queued, unknown, left)

    def describe(self, progress: _Progress) -> str:
        """Return the name of the journal, and what it says about the calls."""
        if progress.left == self._total:
            return f"{self._name} (no call was queued before)"
        return f"{self._name} (queued before: {self._counts(progress)})"

    def send(self, runner: InterruptibleRunner, client: UnpodClient, *, as_json: bool) -> int:
        """Send the requests that the journal does not list, and return the exit status."""
        before = self.read_progress()
        try:
            results = runner.run(self._create_many(client))
        except InvalidArgument as error:
            if error.argument != "requests":
                raise
            raise CliError(
                f"nothing was sent: the calls differ from those in the journal {self._name}",
                hint="use the same documents, agent, context, schedule and space as before. "
                "With another journal, calls that were placed are placed again",
                status=USAGE,
            ) from None
        except OutcomeUnknown as error:
            self._report_progress()
            raise CliError(
                message_of(error),
                hint="run the same command again: it looks for these calls, and no call is placed twice",
            ) from error
        except UnpodError:
            self._report_progress()
            raise
        except Interrupted as interrupted:
            self._report_progress()
            interrupted.hint = _REPEAT
            raise
        return self._report(results, before, as_json=as_json)

    async def _create_many(self, client: UnpodClient) -> Sequence[BatchResult]:
        return await client.tasks.create_many(self._space, self._requests, journal=self._path)

    def _report_progress(self) -> None:
        """Write how many calls are queued when the job ends early."""
        try:
            progress = self.read_progress()
        except ConfigurationError:  # this is the error that is reported, or another command is running
            return
        echo_err(f"queued: {self._counts(progress)}; not sent: {progress.left:,}")

    def _counts(self, progress: _Progress) -> str:
        unknown = f"; outcome unknown: {progress.unknown:,}" if progress.unknown else ""
        return f"{progress.queued:,} of {counted(self._total, 'call')}{unknown}"

    def _report(self, results: Sequence[BatchResult], before: _Progress, *, as_json: bool) -> int:
        """Write the results of all requests, and return the exit status."""
        from unpod_async._create import some_ids

        for result in results:
            if as_json:
                echo_line(msgspec.json.encode(result))
            elif queued := _queued(result):
                echo(f"run {printable(result.run_id or '(without an id)')}: {counted(queued, 'call')} queued")
        queued = sum(map(_queued, results))
        if before.left != self._total:
            echo_err(
                f"queued: {queued:,} of {counted(self._total, 'call')}; sent now: {before.left:,}, "
                f"sent by an earlier command: {self._total - before.left:,}"
            )
        missing = tuple(
            one
            for result in results
            if result.state != "created"
            for one in result.document_ids
            if one not in result.task_ids
        )
        if not missing:
            return SUCCESS
        unclear = any(result.state == "unclear" for result in results)
        echo_error(
            f"{counted(len(missing), 'call')} of an earlier command may be queued, but "
            f"{'was' if len(missing) == 1 else 'were'} not found: {some_ids(missing)}",
            "nothing was sent again; run the same command again in a few minutes to look again",
            details=["A run or task that may belong to these calls could not be checked."] if unclear else [],
        )
        return ERROR


def _may_exist(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # opening it fails with a message
        return True


def _queued(result: BatchResult) -> int:
    """Return the number of calls of a request that are known to be queued."""
    return len(result.document_ids) if result.state == "created" else len(result.task_ids)
