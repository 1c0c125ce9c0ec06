"""`unpod-async create`: says what will be dialled, asks, and sends it once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from unpod_async._common import printable
from unpod_async.cli._common import Common
from unpod_async.cli._connect import client, client_of
from unpod_async.cli._documents import documents_of
from unpod_async.cli._output import is_terminal, put, put_line, say, wants_json
from unpod_async.cli._running import Loop
from unpod_async.cli._status import COMPLETE, ERROR, USAGE, Stop, text_of
from unpod_async.cli._values import moment
from unpod_async.create import Schedule, ScheduleCustom
from unpod_async.errors import OutcomeUnknown, UnpodError

if TYPE_CHECKING:
    from unpod_async import CreatedRun, UnpodClient

__all__ = ["create"]

_SHOWN: Final = 5
"""Calls named before the question."""


@dataclass(frozen=True, slots=True)
class _Calls:
    """What is to be dialled."""

    space: str
    agent: str
    context: str
    documents: Sequence[Mapping[str, Any]]
    schedule: Schedule


def create(
    common: Common,
    space: str,
    *,
    agent: str,
    context: str,
    documents: str | None,
    name: str | None,
    number: str | None,
    schedule: str,
    yes: bool,
    dry_run: bool,
    json_lines: bool | None,
) -> int:
    """Place calls; the exit status."""
    calls = _Calls(space, agent, context, _documents(documents, name, number), _schedule(schedule))
    # Without a token, as nothing is sent: everything is checked before anybody is asked anything.
    body = _body(common, calls)
    if dry_run:
        put_line(body)
        return COMPLETE
    _tell(calls, schedule)
    may_ask = is_terminal(sys.stdin) and is_terminal(sys.stderr)
    if not yes and not may_ask:
        raise Stop("nothing was sent: without a terminal to ask on, calls are placed with --yes only", USAGE)
    with client(common) as (loop, unpod):
        loop.run(_check_agent(unpod, agent))
        if not yes and not _agreed(len(calls.documents)):
            raise Stop("nothing was sent", ERROR)
        return _place(loop, unpod, calls, as_json=wants_json(json_lines))


def _documents(file: str | None, name: str | None, number: str | None) -> list[dict[str, Any]]:
    if file is not None:
        if name is not None or number is not None:
            raise Stop("create: give --documents, or --name and --number, and not both", USAGE)
        return documents_of(file)
    if name is None or number is None:
        raise Stop("create: give --documents FILE, or --name and --number for one call", USAGE)
    return [{"name": name, "contact_number": number}]


def _schedule(text: str) -> Schedule:
    if text == "now":
        return "now"
    if text == "auto":
        return "auto"
    return ScheduleCustom.at(moment("--schedule", text, or_date=False))


def _body(common: Common, calls: _Calls) -> bytes:
    with Loop() as loop:

        async def checked() -> bytes:
            async with client_of(common, "nothing-is-sent") as unpod:
                return await unpod.tasks.create(
                    calls.space,
                    pilot=calls.agent,
                    documents=calls.documents,
                    context=calls.context,
                    schedule=calls.schedule,
                    dry_run=True,
                )

        return loop.run(checked())


def _tell(calls: _Calls, schedule: str) -> None:
    count = len(calls.documents)
    say(f"{count:,} {'call' if count == 1 else 'calls'} in space {calls.space}:")
    for document in calls.documents[:_SHOWN]:
        say(f"{_cut(document.get('contact_number'), 24)}  {_cut(document.get('name'), 40)}", indent="  ")
    if count > _SHOWN:
        say(f"and {count - _SHOWN:,} more", indent="  ")
    custom = calls.schedule
    when = f"{custom.calling_date} {custom.calling_time}" if isinstance(custom, ScheduleCustom) else schedule
    say(f"agent:    {calls.agent}")
    say(f"schedule: {when}")
    say(f"context:  {_cut(calls.context, 200)}")


def _cut(value: object, most: int) -> str:
    text = printable(str(value)[: 4 * most])
    return text if len(text) <= most else f"{text[: most - 1]}…"


async def _check_agent(unpod: UnpodClient, agent: str) -> None:
    """The service queues calls for an agent that does not exist, and nobody makes them."""
    if unpod.settings.org_handle is None:
        say(
            "WARNING: not known whether there is such an agent, and the service does not check it: with "
            "--org-handle or UNPOD_ORG_HANDLE it would be looked up here."
        )
        return
    handles = [one.handle for one in await unpod.agents.list().collect() if one.handle]
    if agent not in handles:
        some = ", ".join(handles[:_SHOWN]) or "none"
        more = ", …" if len(handles) > _SHOWN else ""
        raise Stop(
            f"nothing was sent: organization {unpod.settings.org_handle} has no agent {printable(agent)}; "
            f"it has {some}{more}",
            USAGE,
        )


def _agreed(count: int) -> bool:
    sys.stderr.write(f"Place {'this call' if count == 1 else f'these {count:,} calls'}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _place(loop: Loop, unpod: UnpodClient, calls: _Calls, *, as_json: bool) -> int:
    try:
        created = loop.run(_send(unpod, calls))
    except OutcomeUnknown as error:
        say(f"unpod-async: {text_of(error)}")
        return loop.run(_look(unpod, error, len(calls.documents), as_json=as_json))
    _tell_created(created, len(calls.documents), as_json=as_json)
    return COMPLETE


async def _send(unpod: UnpodClient, calls: _Calls) -> CreatedRun:
    return await unpod.tasks.create(
        calls.space,
        pilot=calls.agent,
        documents=calls.documents,
        context=calls.context,
        schedule=calls.schedule,
    )


def _tell_created(created: CreatedRun, count: int, *, as_json: bool) -> None:
    if as_json:
        put_line(msgspec.json.encode(created))
        return
    queued = count if created.task_ids is None else len(created.task_ids)
    put(f"run {printable(created.run_id or '(without an id)')}: {queued:,} queued")


async def _look(unpod: UnpodClient, error: OutcomeUnknown, count: int, *, as_json: bool) -> int:
    """What became of a create whose answer was lost. It is never sent again here."""
    say("Looking for its calls …")
    try:
        found = await unpod.tasks.reconcile(error)
    except UnpodError as fault:
        say(f"unpod-async: it could not be looked for: {text_of(fault)}")
        say("Not sent again. Look for it as said above before you do.")
        return ERROR
    if as_json:
        put_line(msgspec.json.encode(found))
    where = f"in run {printable(found.run_id or '?')}"
    if found.state == "created":
        say(f"Found: all {count:,} were queued, {where}.")
        if not as_json:
            put(f"run {printable(found.run_id or '(without an id)')}: {count:,} queued")
        return COMPLETE
    if found.state == "partial":
        say(
            f"Found: {len(found.task_ids):,} of {count:,} were queued, {where}; the service may still be "
            "storing the others. Not sent again; look once more before you place the missing ones."
        )
    else:
        say(
            "Not seen, which is not the same as not queued: the service may still be storing. Not sent "
            "again; look in some minutes, as said above, before you do."
        )
    return ERROR
