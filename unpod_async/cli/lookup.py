"""Find runs and tasks by their ids or by the first characters of their ids.

The service has no endpoint for a single run or task, so the listings of a space are searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from unpod_async._common import shorten
from unpod_async.cli.errors import USAGE, CliError
from unpod_async.errors import DecodeError, IncompleteListing, UnpodError

if TYPE_CHECKING:
    from unpod_async import Pager, UnpodClient

__all__ = ["PAGE_SIZE", "Found", "find_run", "find_run_ids", "find_task", "plain_id"]

PAGE_SIZE: Final = 500
"""Rows per request of commands that read whole listings."""
_LEAST: Final = 4
"""Minimum number of characters of an id."""
_SHOWN: Final = 3


class Found(NamedTuple):
    """A row that was found: its id, and the JSON that the service sent, without user tokens."""

    id: str
    line: bytes


class _Ids(msgspec.Struct):
    run_id: Any = None
    task_id: Any = None


def plain_id(text: str) -> str:
    """Return an id without the mark that tables append to a shortened id."""
    return text.strip().rstrip("…~.")


async def find_run(client: UnpodClient, space: str, run: str) -> Found:
    """Return the run of a space with this id, or the only one whose id starts with it.

    Raises:
        CliError: there is none, or several.
        UnpodError: the listing could not be read, or the run was not found and rows may be missing.
    """
    found = await _find_runs(client, space, [run])
    return found[run]


async def find_run_ids(client: UnpodClient, space: str, runs: Sequence[str]) -> dict[str, str]:
    """Return for each text the id of the run of a space that has this id, or whose id starts with it.

    Reads the listing once. If rows may be missing, a text that was not found is treated as a whole id.

    Raises:
        CliError: one of them is not the id of a run, or several ids start with it.
        UnpodError: the listing could not be read.
    """
    found = await _find_runs(client, space, runs, keep=True)
    return {text: one.id for text, one in found.items()}


async def _find_runs(
    client: UnpodClient, space: str, runs: Sequence[str], *, keep: bool = False
) -> dict[str, Found]:
    pager = client.runs.list(space, page_size=PAGE_SIZE)
    hint = f"`unpod-async runs {shorten(space, 40)}` lists the runs"
    return await _find(pager, "run", runs, f"space {shorten(space, 80)}", hint, keep=keep)


async def find_task(client: UnpodClient, space: str, task: str, *, run: str | None = None) -> Found:
    """Return the task of a space with this id, or the only one whose id starts with it.

    Args:
        run: search only the tasks of this run, which takes fewer requests.

    Raises:
        CliError: there is none, or several.
        UnpodError: the listing could not be read, or the task was not found and rows may be missing.
    """
    hint = f"`unpod-async tasks {shorten(space, 40)}` lists the tasks"
    if run is None:
        pager = client.tasks.list(space, page_size=PAGE_SIZE)
        place = f"space {shorten(space, 80)}"
    else:
        pager = client.runs.tasks(space, run, page_size=PAGE_SIZE)
        place = f"run {shorten(run, 80)}"
    found = await _find(pager, "task", [task], place, hint)
    return found[task]


async def _find(
    pager: Pager[Any], noun: str, texts: Sequence[str], place: str, hint: str, *, keep: bool = False
) -> dict[str, Found]:
    """Return the row for each text.

    Args:
        keep: if rows may be missing, treat a text that was not found as a whole id instead of raising.
    """
    wanted = {text: _check(text, noun) for text in texts}
    found: dict[str, dict[str, Found]] = {text: {} for text in wanted.values()}
    failure: UnpodError | None = None
    try:
        await _search(pager, noun, found)
    except UnpodError as error:
        failure = error
    for text, matches in found.items():
        if len(matches) > 1:
            listed = _listed(sorted(shorten(one, 40) for one in matches))
            raise CliError(
                f"the ids of {len(matches):,} {noun}s of {place} start with {text}",
                hint=f"give more characters of the id: {listed}",
                status=USAGE,
            )
    missing = [text for text, matches in found.items() if not matches]
    if (
        missing
        and failure is not None
        and not (keep and isinstance(failure, DecodeError | IncompleteListing))
    ):
        raise failure
    if missing and failure is None:
        nouns = noun if len(missing) == 1 else f"{noun}s"
        raise CliError(f"{place} has no {nouns} {_listed([shorten(one, 80) for one in missing])}", hint=hint)
    return {text: next(iter(found[one].values()), Found(one, b"")) for text, one in wanted.items()}


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else ""
    return f"{', '.join(texts[:_SHOWN])}{more}"


def _check(text: str, noun: str) -> str:
    wanted = plain_id(text)
    if len(wanted) < _LEAST:
        raise CliError(
            f"{shorten(text, 80)!r} is too short for the id of a {noun}",
            hint=f"give at least its first {_LEAST} characters",
            status=USAGE,
        )
    return wanted


async def _search(pager: Pager[Any], noun: str, found: dict[str, dict[str, Found]]) -> None:
    """Add to `found` the rows whose ids start with its keys. A row with exactly this id is the only one."""
    from unpod_async._export import InvalidRow, row_line

    field = f"{noun}_id"
    remaining = set(found)
    lengths = sorted({len(text) for text in remaining})
    async for row in pager.raw():
        one = _id_of(row, field)
        for text in remaining.intersection(one[:length] for length in lengths):
            try:
                match = Found(one, row_line(row, keep_user_token=False))
            except InvalidRow as error:
                raise CliError(
                    f"{noun} {shorten(one, 80)} cannot be read: {error.reason}",
                    hint="report this row to the support of the service",
                ) from None
            if one == text:
                found[text] = {one: match}
                remaining.discard(text)
            else:
                found[text][one] = match
        if not remaining:
            return


def _id_of(row: bytes, field: str) -> str:
    try:
        value = getattr(msgspec.json.decode(row, type=_Ids), field)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""
