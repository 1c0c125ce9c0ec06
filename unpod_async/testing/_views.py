"""The endpoints: routing, access and the answer of each. No I/O here: a request in, an answer out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from unpod_async.testing import _world as world
from unpod_async.testing._answers import HTML, Answer, Refusal, html, json_answer, refused, upstream_failed
from unpod_async.testing._auth import authenticate, is_blacklisted, organization
from unpod_async.testing._create import CreatedCall, create
from unpod_async.testing._faults import Oddities
from unpod_async.testing._filters import bad_search, filtered, owned
from unpod_async.testing._paging import agent_order, counted, window
from unpod_async.testing._rows import PoisonedPage, Rows

__all__ = ["Call", "Service"]

_ROOT = "/api/v2/platform/"
_RUNS_FAILED = "Runs Fetch Failed"
_TASKS_FAILED = "Tasks Fetch Failed"
_NO_ACCESS = "You Don't have Access to this Space"
_NO_OPERATION = f"{_NO_ACCESS}, You can't do any operation to this Space"
_ROLE_TOO_LOW = "You Don't have Access to do operation to this Space"


@dataclass(frozen=True, slots=True)
class Call:
    """A request; `path` and `raw_query` as on the wire, `query` decoded, header names in lower case."""

    method: str
    path: str
    raw_query: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)  # with the secret
    body: bytes
    number: int
    now: datetime


_View = Callable[["Service", Call, world.Account, list[str]], Answer]


@dataclass(frozen=True, slots=True)
class _Route:
    pattern: re.Pattern[str]
    view: _View
    allow: str = "GET, HEAD, OPTIONS"
    keys: bool = True


class Service:
    """Answers requests from the data set."""

    def __init__(self, rows: Rows, odd: Oddities, *, shuffle_ties: bool) -> None:
        self.rows = rows
        self.store = rows.store
        self.odd = odd
        self.shuffle_ties = shuffle_ties
        self.ledger: list[CreatedCall] = []

    def answer(self, call: Call) -> Answer:
        """The answer to a request."""
        if is_blacklisted(call.headers):
            # A middleware answers, before any route is looked for.
            return json_answer(401, {"message": "Unauthorized Access", "error": "Expired Auth Token"})
        path = unquote(call.path)  # before routing, as Django does: an encoded slash makes another path
        for route in _ROUTES:
            found = route.pattern.fullmatch(path)
            if found is not None:
                answer = self._dispatch(call, route, [str(part) for part in found.groups()])
                if answer.content_type == HTML:
                    return answer  # made behind the view's back
                return replace(answer, headers={"Allow": route.allow, **answer.headers})
            if route.pattern.fullmatch(f"{path}/") is not None:
                query = f"?{call.raw_query}" if call.raw_query else ""
                return Answer(301, b"", HTML, {"Location": f"{call.path}/{query}"})
        return html(404)

    def _dispatch(self, call: Call, route: _Route, parts: list[str]) -> Answer:
        if call.query.get("format", "json") != "json":
            return json_answer(404, {"message": "Not found.", "status_code": 404})
        if not _accepts_json(call.headers.get("accept", "*/*")):
            message = "Could not satisfy the request Accept header."
            return json_answer(406, {"message": message, "status_code": 406})
        try:
            account = authenticate(call.headers, keys=route.keys)
            if call.method not in route.allow.split(", "):
                message = f'Method "{call.method}" not allowed.'
                return json_answer(405, {"message": message, "status_code": 405})
            if call.method == "OPTIONS":
                return json_answer(200, {"renders": ["application/json"], "parses": ["application/json"]})
            return route.view(self, call, account, parts)
        except Refusal as refusal:
            return refusal.answer

    # -- listings that are paged --------------------------------------------------------------------------

    def runs(self, call: Call, account: world.Account, parts: list[str]) -> Answer:
        """Runs of a space."""
        space = _space(parts[0])
        _may_operate(space, account)
        runs = self.store.runs_of_space(space.token)
        return self._page(call, runs, self.rows.runs, "Runs Fetched Successfully", _RUNS_FAILED)

    def run_tasks(self, call: Call, account: world.Account, parts: list[str]) -> Answer:
        """Tasks of a run; none for an unknown run."""
        space = _space(parts[0])
        _may_operate(space, account)
        if parts[1] == "..":
            return upstream_failed(_RUNS_FAILED, '{"detail":"Not Found"}')
        run = self.store.find_run(parts[1])
        tasks: Sequence[int] = ()
        if run is not None and self.store.space_of(run) == space.token:
            tasks = owned(self.rows, self.store.tasks_of_run(run), call.query)
        return self._page(call, tasks, self.rows.tasks, "Tasks Fetched Successfully", _RUNS_FAILED)

    def space_tasks(self, call: Call, account: world.Account, parts: list[str]) -> Answer:
        """Tasks of a space, or a create."""
        space = _space(parts[0])
        if call.method == "POST":
            _may_operate(space, account)
            answer, calls = create(self.store, account, space, call.headers, call.body, call.now)
            self.ledger.extend(calls)
            return answer
        if space.role_of(account) is None and space.privacy == "private":
            return refused(_NO_ACCESS)
        problem = bad_search(call.query)
        if problem is not None:
            return upstream_failed(_TASKS_FAILED, problem)
        tasks = filtered(self.rows, self.store.tasks_of_space(space.token), call.query)
        return self._page(call, tasks, self.rows.tasks, "Tasks Fetched Successfully", _TASKS_FAILED)

    def agent_tasks(self, call: Call, account: world.Account, parts: list[str]) -> Answer:
        """Tasks of an agent."""
        agent = world.AGENTS.get(parts[0])
        if agent is None:
            return json_answer(404, {"message": "Agent not found"})
        if agent.space is not None and world.SPACES[agent.space].role_of(account) is None:
            return refused("You Don't have Access to this Agent's Space")
        total = len(self.store.tasks_of_agent(agent.handle))
        part = window(call.query, total, self.odd, failed=None)
        shuffle = f"{self.store.seed}:{call.number}" if self.shuffle_ties else None
        try:
            data = self.rows.tasks(agent_order(self.store, agent.handle, part, shuffle), agent=True)
        except PoisonedPage:
            return html(500)
        return self._listed(total, "Tasks Fetched Successfully", data)

    def _page(
        self,
        call: Call,
        ordinals: Sequence[int],
        make: Callable[[Sequence[int]], list[Any]],
        done: str,
        failed: str,
    ) -> Answer:
        total = len(ordinals)
        part = window(call.query, total, self.odd, failed=failed)
        try:
            data = make(ordinals[total - part.stop : total - part.start][::-1])
        except PoisonedPage:
            return upstream_failed(failed, "Internal Server Error")
        return self._listed(total, done, data)

    def _listed(self, total: int, message: str, data: list[Any]) -> Answer:
        count = counted(total, len(data), self.odd)
        return json_answer(200, {**count, "status_code": 200, "message": message, "data": data})

    # -- listings that are not ----------------------------------------------------------------------------

    def agents(self, call: Call, account: world.Account, parts: list[str]) -> Answer:
        """Agents of an organization."""
        org = organization(call.headers)
        rows = [agent.row() for agent in world.AGENTS.values() if agent.org == org.handle]
        return _whole("Agents fetched successfully", rows)

    def spaces(self, call: Call, account: world.Account, parts: list[str]) -> Answer:
        """Spaces of an organization, newest first."""
        org = organization(call.headers)
        rows = [space.row() for space in reversed(world.SPACES.values()) if space.org == org.handle]
        return _whole("Spaces fetched successfully", rows)

    def space(self, call: Call, account: world.Account, parts: list[str]) -> Answer:
        """One space."""
        org = organization(call.headers)
        space = world.SPACES.get(parts[0])
        if space is None or space.org != org.handle:
            return json_answer(404, {"message": "Space not found"})
        payload = {"status_code": 200, "message": "Space fetched successfully", "data": space.detail()}
        return json_answer(200, payload)

    def organizations(self, call: Call, account: world.Account, parts: list[str]) -> Answer:
        """Organizations of the account."""
        return _whole("Organizations fetched successfully", [world.ORGS[account.org].row(account.role)])


def _whole(message: str, rows: list[dict[str, Any]]) -> Answer:
    return json_answer(200, {"count": len(rows), "status_code": 200, "message": message, "data": rows})


def _space(token: str) -> world.Space:
    space = world.SPACES.get(token)
    if space is None:
        raise Refusal(refused("Invalid Space Token"))
    return space


def _may_operate(space: world.Space, account: world.Account) -> None:
    role = space.role_of(account)
    if role is None:
        raise Refusal(refused(_NO_OPERATION))
    if role == "viewer":
        raise Refusal(refused(_ROLE_TOO_LOW))


def _accepts_json(accept: str) -> bool:
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return not kinds.isdisjoint({"application/json", "application/*", "*/*"})


def _route(pattern: str, view: _View, *, allow: str = "GET, HEAD, OPTIONS", keys: bool = True) -> _Route:
    return _Route(re.compile(_ROOT + pattern), view, allow, keys)


_ROUTES = (
    _route(r"spaces/([^/]+)/runs/", Service.runs),
    _route(r"spaces/([^/]+)/runs/([^/]+)/tasks/", Service.run_tasks),
    _route(r"spaces/([^/]+)/tasks/", Service.space_tasks, allow="GET, POST, HEAD, OPTIONS"),
    _route(r"agents/([^/]+)/tasks/", Service.agent_tasks),
    _route(r"agents/", Service.agents),
    _route(r"spaces/", Service.spaces, keys=False),
    _route(r"spaces/([^/]+)/", Service.space, keys=False),
    _route(r"organizations/", Service.organizations, keys=False),
)
