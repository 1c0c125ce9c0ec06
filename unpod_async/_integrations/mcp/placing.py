"""The tool that places calls: a dry run first, then one request that is never sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from unpod_async._common import counted, shorten
from unpod_async._integrations.mcp.confirmations import CallRequest, Confirmations, count_repeated
from unpod_async._integrations.mcp.problems import ToolProblem
from unpod_async._integrations.mcp.schemas import Create, CreateResult
from unpod_async.create import Schedule, ScheduleCustom
from unpod_async.errors import OutcomeUnknown, UnpodError

if TYPE_CHECKING:
    from unpod_async import UnpodClient

__all__ = ["CreateTool"]

_SHOWN_AGENTS: Final = 10


class CreateTool:
    """Places calls after a dry run.

    Args:
        report: shows a line to the person who runs the server.
    """

    def __init__(
        self, client: UnpodClient, confirmations: Confirmations, report: Callable[[str], None]
    ) -> None:
        self._client = client
        self._confirmations = confirmations
        self._report = report

    async def create(self, wanted: Create) -> CreateResult:
        """Make a dry run, or place the calls of a dry run.

        Raises:
            ToolProblem, UnpodError: nothing was sent, or the service refused the calls. No call is queued.
        """
        schedule = _schedule(wanted.schedule)
        request = CallRequest(
            space=wanted.space,
            agent=wanted.agent,
            context=wanted.context,
            documents=wanted.documents,
            schedule=wanted.schedule,
        )
        await self._client.tasks.create(
            wanted.space,
            pilot=wanted.agent,
            documents=wanted.documents,
            context=wanted.context,
            schedule=schedule,
            dry_run=True,
        )
        if wanted.confirmation is None:
            return await self._dry_run(request)
        self._confirmations.begin(wanted.confirmation, request)
        return await self._send(wanted.confirmation, request, schedule)

    async def _dry_run(self, request: CallRequest) -> CreateResult:
        self._confirmations.check(request)
        notes = [await self._check_agent(request.agent)]
        repeated = count_repeated(request.documents)
        if repeated:
            notes.append(
                f"WARNING: {counted(repeated, 'document')} with a number that is also in an earlier document."
            )
        if self._confirmations.created_before(request):
            notes.append(
                "WARNING: exactly these calls were placed before; they would be placed a second time."
            )
        count = len(request.documents)
        notes.append(
            "Nothing was sent. Show the user what would be sent. If the user agrees, call create with the "
            f"same arguments and this confirmation, to place {counted(count, 'real phone call')}."
        )
        return CreateResult(
            state="dry_run",
            message=" ".join(filter(None, notes)),
            calls=count,
            confirmation=self._confirmations.propose(request),
        )

    async def _check_agent(self, agent: str) -> str:
        """Check that the agent exists, because the service does not. Return a warning if that is impossible.

        Raises:
            ToolProblem: the agent does not exist.
        """
        organization = self._client.settings.org_handle
        if organization is None:
            return (
                "WARNING: the agent was not checked, because the server was started without an organization."
            )
        handles = [one.handle for one in await self._client.agents.list().collect() if one.handle]
        if agent in handles:
            return ""
        listed = ", ".join(handles[:_SHOWN_AGENTS])
        more = ", …" if len(handles) > _SHOWN_AGENTS else ""
        raise ToolProblem(
            f"nothing was sent: organization {organization} has no agent {shorten(agent, 80)}",
            f"use one of its agents: {listed}{more}" if listed else "it has no agents",
        )

    async def _send(self, confirmation: str, request: CallRequest, schedule: Schedule) -> CreateResult:
        count = len(request.documents)
        try:
            created = await self._client.tasks.create(
                request.space,
                pilot=request.agent,
                documents=request.documents,
                context=request.context,
                schedule=schedule,
            )
        except OutcomeUnknown as error:
            return await self._look_for_calls(error, request)
        except UnpodError:
            self._confirmations.refused(confirmation, request)
            raise
        except asyncio.CancelledError:
            self._report(
                f"a create of {counted(count, 'call')} in space {request.space} was cancelled; the calls "
                "may be queued"
            )
            raise
        self._confirmations.created(request)
        queued = count if created.task_ids is None else len(created.task_ids)
        return CreateResult(
            state="created",
            message=f"{counted(queued, 'call')} queued. Do not send them again.",
            calls=count,
            run=created.run_id,
            found_calls=queued,
        )

    async def _look_for_calls(self, error: OutcomeUnknown, request: CallRequest) -> CreateResult:
        """Report whether the calls of a create without a response are queued. They are never sent again."""
        count = len(request.documents)
        never = "Nothing was sent again, and these calls must not be sent again. Tell the user what happened."
        try:
            found = await self._client.tasks.reconcile(error)
        except UnpodError:
            return CreateResult(
                state="unknown",
                message="The request was sent, but its response was lost, and the search for the calls "
                f"failed. {never}",
                calls=count,
            )
        if found.state == "created":
            self._confirmations.created(request)
            return CreateResult(
                state="created",
                message=f"The response was lost, but the search found all {counted(count, 'call')}. Do not "
                "send them again.",
                calls=count,
                run=found.run_id,
                found_calls=count,
            )
        number = len(found.task_ids)
        return CreateResult(
            state=found.state,
            message="The request was sent, but its response was lost. The search found "
            f"{number:,} of {counted(count, 'call')}; the service may still be storing the others. {never}",
            calls=count,
            run=found.run_id,
            found_calls=number,
        )


def _schedule(text: str) -> Schedule:
    if text == "now":
        return "now"
    if text == "auto":
        return "auto"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise ToolProblem(
            "nothing was sent: schedule must be now, auto, or a time with a UTC offset",
            "write a time as 2030-01-31T10:00:00+05:30",
        )
    return ScheduleCustom.at(moment)
