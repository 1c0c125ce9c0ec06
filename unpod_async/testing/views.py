"""The routes of the service, and the view that answers each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from unpod_async.testing import accounts
from unpod_async.testing.accounts import FakeAccount, FakeSpace, authenticate, is_blacklisted, organization
from unpod_async.testing.answers import (
    HTML,
    ApiResponse,
    ImmediateResponse,
    access_refused,
    html_page,
    json_response,
    language_of,
    translate,
    upstream_failure,
)
from unpod_async.testing.create import CreatedCall, create
from unpod_async.testing.paging import (
    agent_order,
    bad_search,
    call_logs_of,
    count_field,
    executions_of,
    filtered,
    page_window,
    runs_of,
    tasks_of,
    tasks_of_run,
)
from unpod_async.testing.rows import PoisonedPage, RowBuilder
from unpod_async.testing.script import Oddities
from unpod_async.testing.store import DataStore

__all__ = ["ApiRequest", "FakeApi"]

_ROOT = "/api/v2/platform/"
_RUNS_FAILED = "Runs Fetch Failed"
_TASKS_FAILED = "Tasks Fetch Failed"
_NO_ACCESS = "You Don't have Access to this Space"
_NO_OPERATION = f"{_NO_ACCESS}, You can't do any operation to this Space"
_PARSED = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"]
_ROLE_TOO_LOW = "You Don't have Access to do operation to this Space"


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request. `path` and `raw_query` are as received, `query` is decoded, header names are lower-case."""

    method: str
    path: str
    raw_query: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)  # with the secret
    body: bytes
    number: int
    now: datetime


_View = Callable[["FakeApi", ApiRequest, FakeAccount, list[str]], ApiResponse]


@dataclass(frozen=True, slots=True)
class _Route:
    pattern: re.Pattern[str]
    view: _View
    allow: str = "GET, HEAD, OPTIONS"
    keys: bool = True


class FakeApi:
    """Answers requests with the rows of the data set."""

    def __init__(
        self, rows: RowBuilder, oddities: Oddities, *, shuffle_ties: bool, product_id: str | None = None
    ) -> None:
        self.rows = rows
        self.store: DataStore = rows.store
        self.oddities = oddities
        self.shuffle_ties = shuffle_ties
        self.product_id = product_id
        self.ledger: list[CreatedCall] = []

    def response(self, request: ApiRequest) -> ApiResponse:
        """Return the response to a request."""
        self.store.sync(request.now)
        if is_blacklisted(request.headers):
            # The service does this in a middleware, before it matches routes.
            return json_response(401, {"message": "Unauthorized Access", "error": "Expired Auth Token"})
        path = unquote(request.path)  # before routing, as Django does: an encoded slash gives another path
        for route in _ROUTES:
            found = route.pattern.fullmatch(path)
            if found is not None:
                response = self._dispatch(request, route, [str(part) for part in found.groups()])
                if response.content_type == HTML:
                    return response  # made outside of the view
                return replace(response, headers={"Allow": route.allow, **response.headers})
            if route.pattern.fullmatch(f"{path}/") is not None:
                query = f"?{request.raw_query}" if request.raw_query else ""
                return ApiResponse(301, b"", HTML, {"Location": f"{request.path}/{query}"})
        return html_page(404)

    def _dispatch(self, request: ApiRequest, route: _Route, parts: list[str]) -> ApiResponse:
        language = language_of(request.headers.get("accept-language", ""))
        if request.query.get("format", "json") not in {"json", ""}:
            return json_response(404, {"message": translate(language, "Not found."), "status_code": 404})
        if not _accepts_json(request.headers.get("accept", "*/*")):
            message = translate(language, "Could not satisfy the request Accept header.")
            return json_response(406, {"message": message, "status_code": 406})
        try:
            account = authenticate(request.headers, language, keys=route.keys)
            if request.method not in route.allow.split(", "):
                message = translate(language, 'Method "{}" not allowed.', request.method)
                return json_response(405, {"message": message, "status_code": 405})
            if request.method == "OPTIONS":
                data = {"renders": ["application/json"], "parses": _PARSED}
                return json_response(200, {"status_code": 200, "message": "Success", "data": data})
            return route.view(self, request, account, parts)
        except ImmediateResponse as refusal:
            return refusal.response

    # -- paged listings --------------------------------------------------------------------------

    def runs(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """List the runs of a space."""
        space = _space(parts[0])
        _may_operate(space, account)
        runs = runs_of(self.rows, space, request.query)
        return self._page(request, runs, self.rows.runs, "Runs Fetched Successfully", _RUNS_FAILED)

    def run_tasks(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """List the tasks of a run; an unknown run has none."""
        space = _space(parts[0])
        _may_operate(space, account)
        if parts[1] == "..":
            return upstream_failure(_RUNS_FAILED, '{"detail":"Not Found"}')
        tasks = tasks_of_run(self.rows, space, parts[1], request.query)
        return self._page(request, tasks, self.rows.tasks, "Tasks Fetched Successfully", _RUNS_FAILED)

    def space_tasks(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """List the tasks of a space, or create some."""
        space = _space(parts[0])
        if request.method == "POST":
            _may_operate(space, account)
            response, calls = create(self.store, account, space, request.headers, request.body, request.now)
            self.ledger.extend(calls)
            return response
        _may_operate(space, account, _NO_ACCESS)
        problem = bad_search(request.query)
        if problem is not None:
            return upstream_failure(_TASKS_FAILED, problem)
        tasks = filtered(self.rows, tasks_of(self.rows, space, request.query), request.query)
        return self._page(request, tasks, self.rows.tasks, "Tasks Fetched Successfully", _TASKS_FAILED)

    def agent_tasks(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """List the tasks of an agent."""
        agent = accounts.AGENTS.get(parts[0])
        if agent is None:
            return json_response(404, {"message": "Agent not found"})
        if agent.space is not None and accounts.SPACES[agent.space].role_of(account) is None:
            return access_refused("You Don't have Access to this Agent's Space")
        total = len(self.store.tasks_of_agent(agent.handle))
        part = page_window(request.query, total, self.oddities, failed=None)
        shuffle = f"{self.store.seed}:{request.number}" if self.shuffle_ties else None
        try:
            data = self.rows.tasks(agent_order(self.store, agent.handle, part, shuffle), agent=True)
        except PoisonedPage:
            return html_page(500)
        return self._listed(total, "Tasks Fetched Successfully", data)

    def executions(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """List the executions of an agent."""
        org = organization(request.headers)
        agent = accounts.AGENTS.get(parts[0])
        if agent is None or agent.org != org.handle:
            return json_response(404, {"message": "Agent not found"})
        runs = executions_of(self.store, agent.handle)
        part = page_window(request.query, len(runs), self.oddities, failed=None)
        rows = [self.rows.execution(run, tasks) for run, tasks in [*runs.items()][part.start : part.stop]]
        return self._listed(len(runs), "Executions fetched successfully", rows)

    def call_logs(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """List the call logs of an organization."""
        org = organization(request.headers)
        if self.product_id not in (None, request.headers.get("product-id")):
            message = "Product-Id header is required"
            return json_response(400, {"status_code": 400, "message": message, "data": {}})
        logs = call_logs_of(self.rows, org.handle, request.query)
        part = page_window(request.query, len(logs), self.oddities, failed=None)
        return self._listed(len(logs), "Call logs fetched successfully", logs[part.start : part.stop])

    def _page(
        self,
        request: ApiRequest,
        ordinals: Sequence[int],
        make: Callable[[Sequence[int]], list[Any]],
        done: str,
        failed: str,
    ) -> ApiResponse:
        total = len(ordinals)
        part = page_window(request.query, total, self.oddities, failed=failed)
        try:
            data = make(ordinals[total - part.stop : total - part.start][::-1])
        except PoisonedPage:
            return upstream_failure(failed, "Internal Server Error")
        return self._listed(total, done, data)

    def _listed(self, total: int, message: str, data: list[Any]) -> ApiResponse:
        count = count_field(total, len(data), self.oddities)
        return json_response(200, {**count, "status_code": 200, "message": message, "data": data})

    # -- listings in one response ----------------------------------------------------------------------------

    def agents(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """List the agents of an organization."""
        org = organization(request.headers)
        rows = [agent.row() for agent in accounts.AGENTS.values() if agent.org == org.handle]
        return _whole("Agents fetched successfully", rows)

    def spaces(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """List the spaces of an organization, newest first."""
        org = organization(request.headers)
        rows = [space.row() for space in reversed(accounts.SPACES.values()) if space.org == org.handle]
        return _whole("Spaces fetched successfully", rows)

    def space(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """Return one space."""
        org = organization(request.headers)
        space = accounts.SPACES.get(parts[0])
        if space is None or space.org != org.handle:
            return json_response(404, {"message": "Space not found"})
        payload = {"status_code": 200, "message": "Space fetched successfully", "data": space.detail()}
        return json_response(200, payload)

    def organizations(self, request: ApiRequest, account: FakeAccount, parts: list[str]) -> ApiResponse:
        """List the organizations of the account."""
        return _whole("Organizations fetched successfully", [accounts.ORGS[account.org].row(account.role)])


def _whole(message: str, rows: list[dict[str, Any]]) -> ApiResponse:
    return json_response(200, {"count": len(rows), "status_code": 200, "message": message, "data": rows})


def _space(token: str) -> FakeSpace:
    space = accounts.SPACES.get(token)
    if space is None:
        raise ImmediateResponse(access_refused("Invalid Space Token"))
    return space


def _may_operate(space: FakeSpace, account: FakeAccount, no_role: str = _NO_OPERATION) -> None:
    role = space.role_of(account)
    if role is None:
        raise ImmediateResponse(access_refused(no_role))
    if role == "viewer":
        raise ImmediateResponse(access_refused(_ROLE_TOO_LOW))


def _accepts_json(accept: str) -> bool:
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return not kinds.isdisjoint({"application/json", "application/*", "*/*"})


def _route(pattern: str, view: _View, *, allow: str = "GET, HEAD, OPTIONS", keys: bool = True) -> _Route:
    return _Route(re.compile(_ROOT + pattern), view, allow, keys)


_ROUTES = (
    _route(r"spaces/([^/]+)/runs/", FakeApi.runs),
    _route(r"spaces/([^/]+)/runs/([^/]+)/tasks/", FakeApi.run_tasks),
    _route(r"spaces/([^/]+)/tasks/", FakeApi.space_tasks, allow="GET, POST, HEAD, OPTIONS"),
    _route(r"agents/([^/]+)/tasks/", FakeApi.agent_tasks),
    _route(r"agents/([^/]+)/executions/", FakeApi.executions),
    _route(r"agents/", FakeApi.agents),
    _route(r"call-logs/", FakeApi.call_logs),
    _route(r"spaces/", FakeApi.spaces, keys=False),
    _route(r"spaces/([^/]+)/", FakeApi.space, keys=False),
    _route(r"organizations/", FakeApi.organizations, keys=False),
)
