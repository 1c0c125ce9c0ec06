"""Replay every recorded exchange through the client.

What a caller of the public API can cause is replayed over HTTP: the client is called, a server checks that
it was asked what was asked then, and answers with the recorded status, headers and body. What no caller can
cause (page 0, a PUT, a path without its slash, a header that cannot be set) goes through the classifier and
the decoders as status, headers and body.

In the data the paths of the server's machine, in its pages for developers, are masked as PATH.

What has to come out is written down here (`KINDS`), by status and by what `errors` is, and read off the
recording, not off the package.
"""

from __future__ import annotations

import json
import re
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec
import pytest

from tests.raw_server import RawServer, http_response
from tests.tables import each_row
from unpod_async import (
    Agent,
    APIError,
    AuthenticationError,
    CreatedRun,
    InvalidRequestError,
    NotFoundError,
    Organization,
    OutcomeUnknown,
    Pager,
    PermissionDeniedError,
    RefusedError,
    Run,
    ScheduleCustom,
    ScheduleNow,
    ServerError,
    Space,
    Task,
    UnpodClient,
    UpstreamError,
)
from unpod_async._http import Request, Response, classify, classify_body
from unpod_async._http import endpoints as paths
from unpod_async._paging import Listing, decode_object, decode_raw, decode_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.raw_server import RawConnection
    from unpod_async import ListingIterator

PREFIX = "/api/v2/platform/"
EXCHANGES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "exchanges.json").read_text(encoding="utf-8")
)

# The class of a response, by its status and the type of its `errors`; None is success.
KINDS: dict[tuple[int, str], type[APIError] | None] = {
    (200, "none"): None,
    (206, "none"): RefusedError,
    (206, "object"): InvalidRequestError,
    (206, "text"): UpstreamError,
    (301, "no JSON"): APIError,
    (400, "none"): InvalidRequestError,
    (400, "object"): InvalidRequestError,
    (400, "no JSON"): InvalidRequestError,
    (401, "none"): AuthenticationError,
    (404, "none"): NotFoundError,
    (404, "no JSON"): NotFoundError,
    (405, "none"): APIError,
    (406, "none"): APIError,
    (415, "none"): APIError,
    (422, "object"): InvalidRequestError,
    (431, "no JSON"): APIError,
    (500, "text"): ServerError,
    (500, "no JSON"): ServerError,
}


def kind_of_errors(exchange: dict[str, Any]) -> str:
    body = exchange["body"]
    if not isinstance(body, dict):
        return "no JSON"
    return {dict: "object", str: "text", type(None): "none"}[type(body.get("errors"))]


def expected_kind(exchange: dict[str, Any]) -> type[APIError] | None:
    return KINDS[exchange["status"], kind_of_errors(exchange)]


# --- which exchanges a caller can cause --------------------------------------------------------------------

PAGING = frozenset({"page", "page_size"})
FILTERS = frozenset({"search", "status", "call_type", "from_ts", "to_ts"})
ID = r"(?!\.{1,2}/)([^/%]+)"


class Form(NamedTuple):
    """A call: the method of the client, its path, and the query names that it can send."""

    name: str
    path: str
    names: frozenset[str]
    default_size: int = 50  # the default of the server


FORMS = [
    Form("runs.tasks", rf"spaces/{ID}/runs/{ID}/tasks/", PAGING),
    Form("runs.list", rf"spaces/{ID}/runs/", PAGING),
    Form("tasks.list", rf"spaces/{ID}/tasks/", PAGING | FILTERS),
    Form("agents.tasks", rf"agents/{ID}/tasks/", PAGING, 20),
    # The server ignores paging here, and the client does not send it.
    Form("agents.list", r"agents/", PAGING),
    Form("spaces.get", rf"spaces/{ID}/", frozenset()),
    Form("spaces.list", r"spaces/", PAGING),
    Form("organizations.list", r"organizations/", PAGING),
]
UNPAGED = {"agents.list", "spaces.list", "organizations.list"}
NEEDS_ORG = {"agents.list", "spaces.list", "spaces.get"}

# Exceptions to the rules below.
NOT_CALLS = {
    "size:110 headers": "the client sends seven",
    "size:create body 17500000 bytes in one document": "the body was not recorded",
    "create:documents [{}]": "a document without name and number is refused before sending",
    "create:document id int": "an id that is no text is refused before sending",
    "space_tasks:call_type=outboundPhoneCall": "inbound and outbound are the only call types",
    "space_tasks:from_ts=ms": "no datetime is so far in the future",
}


def form_of(exchange: dict[str, Any]) -> tuple[Form, tuple[str, ...]]:
    """Return the call with this path, and its ids."""
    for form in FORMS:
        found = re.fullmatch(PREFIX + form.path, exchange["path"])
        if found is not None:
            return form, found.groups()
    raise LookupError(exchange["path"])


def header(exchange: dict[str, Any], name: str) -> str | None:
    found = (value for key, value in exchange["request_headers"].items() if key.lower() == name)
    return next(found, None)


def why_no_call(exchange: dict[str, Any]) -> str | None:
    """Return why no call of the public API leads to this exchange, or None if one does."""
    if exchange["name"] in NOT_CALLS:
        return NOT_CALLS[exchange["name"]]
    try:
        form, _ = form_of(exchange)
    except LookupError:
        return "the client has no such path"
    if exchange["method"] == "POST":
        unsaid = why_no_create(exchange) if form.name == "tasks.list" else "nothing else is created"
    elif exchange["method"] == "GET":
        unsaid = why_no_query(form, exchange["query"])
    else:
        unsaid = "the client gets and posts"
    return unsaid or why_not_these_headers(form, exchange)


def why_no_query(form: Form, query: str) -> str | None:
    names = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
    if len(set(names)) < len(names) or not form.names.issuperset(names):
        return "the client sends no such query"
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in {"page", "page_size", "from_ts"} and not re.fullmatch(r"[1-9][0-9]{0,9}", value):
            return f"{name} is a whole number above 0 here"
    return None


def why_no_create(exchange: dict[str, Any]) -> str | None:
    body = exchange["request_body"]
    if not isinstance(body, dict):
        return "the body of a create is an object"
    if not (body.get("pilot") and body.get("documents")):
        return "refused before sending"
    context, schedule = body.get("context"), body.get("schedule", {"type": "now"})
    if not isinstance(context, str) or not context.strip() or "\0" in context:
        return "refused before sending"
    if not isinstance(schedule, dict) or (schedule["type"] == "custom" and "calling_date" not in schedule):
        return "such a schedule cannot be written"
    return None


def why_not_these_headers(form: Form, exchange: dict[str, Any]) -> str | None:
    names = {name.lower() for name in exchange["request_headers"]}
    if not names <= {"accept", "user-agent", "authorization", "org-handle", "content-type"}:
        return "the client sends no such header"
    if header(exchange, "accept") != "application/json":
        return "the client accepts JSON"
    if exchange["method"] == "POST" and header(exchange, "content-type") != "application/json":
        return "the client sends JSON"
    if not re.fullmatch(r"[A-Za-z-]+ \S+", header(exchange, "authorization") or ""):
        return "the client sends one scheme and one token"
    if form.name in NEEDS_ORG and not header(exchange, "org-handle"):
        return "refused before sending without Org-Handle"
    return None


CALLS = [exchange for exchange in EXCHANGES if why_no_call(exchange) is None]
OTHERS = [exchange for exchange in EXCHANGES if why_no_call(exchange) is not None]


def named(exchanges: Sequence[dict[str, Any]]) -> list[Any]:
    return [pytest.param(exchange, id=exchange["name"]) for exchange in exchanges]


def test_the_two_groups_are_all_recordings() -> None:
    assert len({exchange["name"] for exchange in EXCHANGES}) == 237
    assert (len(CALLS), len(OTHERS)) == (136, 101)
    assert {exchange["name"] for exchange in EXCHANGES} >= set(NOT_CALLS)
    # The table contains exactly what was recorded.
    assert set(KINDS) == {(exchange["status"], kind_of_errors(exchange)) for exchange in EXCHANGES}
    # Each class of response and each call is replayed.
    assert {form_of(exchange)[0] for exchange in CALLS} == set(FORMS)
    never_called = {(301, "no JSON"), (405, "none"), (406, "none"), (415, "none"), (431, "no JSON")}
    never_called |= {(206, "object"), (422, "object"), (400, "none"), (400, "no JSON"), (404, "no JSON")}
    assert {(exchange["status"], kind_of_errors(exchange)) for exchange in CALLS} == set(KINDS) - never_called


# --- the replay --------------------------------------------------------------------------------------------


def recorded_body(exchange: dict[str, Any]) -> bytes:
    body = exchange["body"]
    if isinstance(body, str):
        return body.encode()
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def recorded_response(exchange: dict[str, Any]) -> bytes:
    # The length of the stored body: some bodies were truncated for the file.
    headers = [(name, value) for name, value in exchange["headers"].items() if name != "Content-Length"]
    return http_response(recorded_body(exchange), exchange["status"], headers)


def replay(exchange: dict[str, Any]) -> RawServer:
    """A server that sends this response to every request."""

    async def serve(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(recorded_response(exchange))
            if exchange["headers"]["Connection"] == "close":
                return

    return RawServer(serve)


def client(exchange: dict[str, Any], server: RawServer) -> UnpodClient:
    scheme, _, token = exchange["request_headers"]["Authorization"].partition(" ")
    return UnpodClient(
        token=token,
        auth_scheme=scheme,
        org_handle=header(exchange, "org-handle"),
        base_url=server.base_url,
        retry=None,
    )


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNPOD_PLATFORM_TOKEN", "UNPOD_ORG_HANDLE", "UNPOD_PLATFORM_BASE_URL", "UNPOD_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def pager(unpod: UnpodClient, exchange: dict[str, Any]) -> Pager[Any]:
    """Make the call that causes the exchange."""
    form, ids = form_of(exchange)
    query = dict(parse_qsl(exchange["query"]))
    keywords: dict[str, Any] = {
        "start_page": int(query.pop("page", 1)),
        "page_size": int(query.pop("page_size", form.default_size)),
    }
    if "from_ts" in query:
        keywords["created_from"] = datetime.fromtimestamp(int(query.pop("from_ts")), UTC)
    if "status" in query:
        keywords["outcome"] = query.pop("status")
    group, _, method = form.name.partition(".")
    listing: Pager[Any] = getattr(getattr(unpod, group), method)(*ids, **keywords, **query)
    return listing


class Sent(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


def first_request(server: RawServer) -> Sent:
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    line, *rest = head.decode().split("\r\n")
    method, target, _ = line.split(" ")
    path, _, query = target.partition("?")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    return Sent(method, path, dict(parse_qsl(query, keep_blank_values=True)), headers, body)


def check_request(exchange: dict[str, Any], server: RawServer) -> Sent:
    form, _ = form_of(exchange)
    sent = first_request(server)
    assert (sent.method, sent.path) == (exchange["method"], exchange["path"])
    assert sent.headers["authorization"] == exchange["request_headers"]["Authorization"]
    assert sent.headers.get("org-handle") == header(exchange, "org-handle")
    query = dict(parse_qsl(exchange["query"]))
    if form.name in UNPAGED | {"spaces.get"} or sent.method == "POST":
        assert sent.query == {}
    else:
        assert sent.query == {"page": "1", "page_size": str(form.default_size)} | query
    return sent


def is_walked_whole(exchange: dict[str, Any]) -> bool:
    """Whether the recorded page is the whole listing."""
    form, _ = form_of(exchange)
    body, query = exchange["body"], dict(parse_qsl(exchange["query"]))
    size = int(query.get("page_size", form.default_size))
    one_page = form.name in UNPAGED or (query.get("page", "1") == "1" and len(body["data"]) < size)
    return one_page and body["count"] == len(body["data"])


# --- what must come out ------------------------------------------------------------------------------------


def check_row(row: Any, recorded: Mapping[str, Any]) -> None:
    """Check that every field has the recorded value and no attribute of the row raises."""
    for field in msgspec.structs.fields(row):
        value, sent = getattr(row, field.name), recorded.get(field.encode_name)
        if field.name == "output_json":
            continue
        if isinstance(value, msgspec.Struct):
            check_row(value, sent or {})
        elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
            for part, told in zip(value, sent or [], strict=True):
                check_row(part, told)
        else:
            assert value == sent, field.name
    for name in dir(type(row)):
        if name.endswith("_at"):
            time = getattr(row, name)
            assert time is None or time.utcoffset() is not None
            if isinstance(time, datetime):
                assert recorded.get(name.removesuffix("_at"))
    repr(row)
    if isinstance(row, Task):
        check_output(row, recorded)


def check_output(task: Task, recorded: Mapping[str, Any]) -> None:
    assert task.output == recorded["output"]
    assert (task.call is None) == (not recorded["output"])
    if task.call is not None:
        for field in msgspec.structs.fields(task.call):
            getattr(task.call, field.name)
        for message in task.call.messages:
            assert message.text is not None
            assert message.timestamp_at is None or message.timestamp_at.utcoffset() is not None


def check_created(created: CreatedRun, recorded: Mapping[str, Any]) -> None:
    assert created.run_id == recorded["run_id"]
    assert created.task_ids == recorded["task_ids"]
    assert created.status == recorded["status"]
    assert created.created_at is None


def flat(text: str) -> str:
    return " ".join(text.split())


def check_text(text: str) -> None:
    """Check that the text is readable and short, and quotes no page or internals of the server."""
    assert len(text) < 900
    message, _, hint = text.partition("\nhint: ")
    assert message.isprintable()
    assert all(line.isprintable() for line in hint.splitlines())
    for pasted in ("<", "Traceback", 'File "', "site-packages", "/usr/", "\\n"):
        assert pasted not in text, text


def check_error(error: APIError, exchange: dict[str, Any], asked_path: str | None = None) -> None:
    body = exchange["body"]
    told: dict[str, Any] = body if isinstance(body, dict) else {}
    assert type(error) is expected_kind(exchange)
    assert error.status == exchange["status"]
    assert error.message == told.get("message", "")
    assert error.body == recorded_body(exchange)[:4096]
    assert error.headers == {
        name.lower(): value for name, value in exchange["headers"].items() if name == "WWW-Authenticate"
    }
    data = told.get("data") or {}
    assert error.errors == (told.get("errors") or data.get("detail"))

    text = str(error)
    check_text(text)
    assert text.startswith(f"{exchange['method']} {asked_path or exchange['path']} answered ")
    assert f"answered {exchange['status']}: " in text
    assert flat(error.message) in text
    if isinstance(error.errors, str) and "<" not in error.errors:
        assert flat(error.errors)[:200] in text
    if isinstance(error.errors, dict):
        assert all(f'"{name}"' in text for name in error.errors)
    if not told:
        title = re.search("<title>(.*?)</title>", body, re.DOTALL)
        assert repr(flat(title[1])) in text if title is not None else body.split("\n")[0][:60] in text
    if exchange["status"] == 401:
        assert "auth_scheme='" in text
    if type(error) in {RefusedError, PermissionDeniedError, NotFoundError}:
        assert error.hint
    if exchange["status"] == 404:
        assert ("base_url" in text) == (not told)


# --- the calls ---------------------------------------------------------------------------------------------

CREATES = [exchange for exchange in CALLS if exchange["method"] == "POST"]
DETAILS = [e for e in CALLS if e["method"] == "GET" and form_of(e)[0].name == "spaces.get"]
LISTED = [exchange for exchange in CALLS if exchange not in CREATES and exchange not in DETAILS]
GOOD_LISTS = [exchange for exchange in LISTED if expected_kind(exchange) is None]
BAD_LISTS = [exchange for exchange in LISTED if expected_kind(exchange) is not None]


@each_row("exchange", named(GOOD_LISTS))
async def test_a_listing_decodes(exchange: dict[str, Any]) -> None:
    recorded = exchange["body"]["data"]
    async with replay(exchange) as server, client(exchange, server) as unpod:
        listing = pager(unpod, exchange)
        async with aclosing(listing.pages()) as pages:
            page = await anext(pages)
        check_request(exchange, server)
        raw: list[bytes] = []
        async with aclosing(listing.raw()) as rows:
            while len(raw) < len(recorded):
                raw.append(await anext(rows))
        everything = await listing.collect() if is_walked_whole(exchange) else None

    assert (page.count, page.rejected, page.unreadable) == (exchange["body"]["count"], [], [])
    assert page.headers == {}
    assert len(page.items) == len(recorded)
    for item, told in zip(page.items, recorded, strict=True):
        check_row(item, told)
    assert everything is None or everything == page.items
    assert [json.loads(row) for row in raw] == recorded
    assert all(row in recorded_body(exchange) for row in raw)


@each_row("exchange", named(BAD_LISTS))
@each_row("raw", [False, True], ids=["rows", "raw"])
async def test_a_failed_listing_raises_what_the_server_said(exchange: dict[str, Any], raw: bool) -> None:
    async with replay(exchange) as server, client(exchange, server) as unpod:
        listing = pager(unpod, exchange)
        walk: ListingIterator[Any] = listing.raw() if raw else listing.pages()
        with pytest.raises(APIError) as caught:
            await anext(walk)
        check_request(exchange, server)
    check_error(caught.value, exchange, asked_path(exchange))
    query = dict(parse_qsl(exchange["query"]))
    start = 1 if "page" not in query else int(query["page"])
    assert caught.value.page == start
    assert caught.value.listing is not None
    assert caught.value.listing in str(caught.value)


@pytest.mark.parametrize("exchange", named(DETAILS))
async def test_a_space(exchange: dict[str, Any]) -> None:
    async with replay(exchange) as server, client(exchange, server) as unpod:
        token = exchange["path"].split("/")[-2]
        if expected_kind(exchange) is None:
            check_row(await unpod.spaces.get(token), exchange["body"]["data"])
        else:
            with pytest.raises(APIError) as caught:
                await unpod.spaces.get(token)
            check_error(caught.value, exchange, asked_path(exchange))
        check_request(exchange, server)
        assert len(server.requests) == 1


@each_row("exchange", named(CREATES))
async def test_a_create(exchange: dict[str, Any]) -> None:
    body = exchange["request_body"]
    # Some probes omitted what the client always sends; the server ignores it.
    documents = [{"name": "Xyz", "contact_number": "9000009999"} | document for document in body["documents"]]
    told = body.get("schedule", {"type": "now"})
    if told["type"] == "custom":
        schedule: ScheduleNow | ScheduleCustom = ScheduleCustom(told["calling_date"], told["calling_time"])
    else:
        schedule = ScheduleNow()
    keywords = {
        "pilot": body["pilot"],
        "documents": documents,
        "context": body["context"],
        "schedule": schedule,
    }
    space = exchange["path"].split("/")[-3]

    async with replay(exchange) as server, client(exchange, server) as unpod:
        kind = expected_kind(exchange)
        if kind is None:
            check_created(await unpod.tasks.create(space, **keywords), exchange["body"]["data"])
        elif kind is ServerError:
            with pytest.raises(OutcomeUnknown) as unknown:
                await unpod.tasks.create(space, **keywords)
            check_unknown(unknown.value, exchange, [document.get("document_id") for document in documents])
        else:
            with pytest.raises(APIError) as caught:
                await unpod.tasks.create(space, **keywords)
            check_error(caught.value, exchange, asked_path(exchange))
        sent = check_request(exchange, server)
        assert len(server.requests) == 1
    assert json.loads(sent.body) == {**keywords, "schedule": told}


def check_unknown(error: OutcomeUnknown, exchange: dict[str, Any], ids: list[str]) -> None:
    told = exchange["body"] if isinstance(exchange["body"], dict) else {}
    text = str(error)
    check_text(text)
    assert error.status == exchange["status"]
    assert error.message == told.get("message", "")
    assert error.document_ids == tuple(ids)
    assert f"answered {error.status}: {error.message}" in text
    assert all(document in text for document in ids)


def asked_path(exchange: dict[str, Any]) -> str:
    """Return the path as error messages show it."""
    path: str = exchange["path"]
    return path.removeprefix(PREFIX.removesuffix("/"))


# --- the others --------------------------------------------------------------------------------------------


def decoded_by(exchange: dict[str, Any]) -> Listing[Any]:
    """Return the listing of this response, with what decoding needs."""
    path = exchange["path"].removeprefix(PREFIX)
    run = re.search("/runs/([^/]+)/", path)
    if path.endswith("/tasks/"):
        run_id = run[1] if run is not None else None
        return Listing(paths.organizations(), Task, ("task_id", "id"), tied="agents/" in path, run_id=run_id)
    if path.endswith("/runs/"):
        return Listing(paths.organizations(), Run, ("run_id",))
    model, key = {
        "agents/": (Agent, "handle"),
        "spaces/": (Space, "token"),
        "organizations/": (Organization, "domain_handle"),
    }[path]
    return Listing(paths.organizations(), model, (key,), paged=False)


@each_row("exchange", named(EXCHANGES))
def test_the_answer_is_what_it_is(exchange: dict[str, Any]) -> None:
    """Decode all exchanges, including those that were replayed."""
    request = Request(exchange["method"], exchange["path"], "Token")
    headers = {name.lower(): value for name, value in exchange["headers"].items()}
    response = Response(exchange["status"], headers, recorded_body(exchange))
    error = classify(request, response)
    if expected_kind(exchange) is not None:
        assert error is not None
        check_error(error, exchange)
        return

    assert error is None
    assert classify_body(request, response) is None
    recorded = exchange["body"]["data"]
    if isinstance(recorded, dict):
        if exchange["method"] == "POST":
            created, stated = decode_object(CreatedRun, response.body)
            check_created(created, recorded)
        else:
            space, stated = decode_object(Space, response.body)
            check_row(space, recorded)
        assert stated == 200
        return
    listing = decoded_by(exchange)
    rows = decode_rows(listing, response.body, 1, {})
    raw = decode_raw(listing, response.body, 1, {})
    for row, told in zip(rows.rows, recorded, strict=True):
        assert type(row) is listing.model
        check_row(row, told)
    assert [json.loads(row) for row in raw.rows] == recorded
    assert rows.count == raw.count == exchange["body"]["count"]
    assert rows.keys == raw.keys == [told[listing.identity[0]] for told in recorded]
    assert rows.created == raw.created
    assert rows.status_code == raw.status_code == 200
