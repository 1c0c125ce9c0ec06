"""`unpod-async doctor`: check the setup step by step, and suggest fixes."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
import typer

from unpod_async._common import looks_like_markup, printable
from unpod_async._version import install_command
from unpod_async.cli.errors import AUTHENTICATION, ERROR, SUCCESS, CliError, hint_of, message_of
from unpod_async.cli.options import GlobalOptions, JsonLines
from unpod_async.cli.output import console, counted, echo, echo_line, wants_json
from unpod_async.cli.runner import InterruptibleRunner
from unpod_async.cli.session import PROXY_VARIABLE, TOKEN_VARIABLE, find_token, make_client
from unpod_async.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    ServerError,
    TransportError,
    UnpodError,
    UpstreamError,
)

if TYPE_CHECKING:
    from unpod_async import Pager, UnpodClient

__all__ = ["doctor"]

_MISSING_SPACE: Final = "unpod-async-doctor"
"""A token that no space has. The service checks the caller's token first, so if it refuses this space, the
caller's token is valid."""

_SCHEMES: Final = ("Token", "JWT", "Bearer")
_TIMEOUT: Final = 15.0  # seconds for a response
_MAX_CLOCK_OFFSET: Final = 60.0  # seconds

_MAX_CHECKED_ORGANIZATIONS: Final = 5
"""Maximum number of organizations to try. Only those that work are recommended."""


def doctor(
    context: typer.Context,
    space: Annotated[
        str | None,
        typer.Argument(metavar="SPACE", show_default=False, help="Token of a space that you want to read."),
    ] = None,
    json_lines: JsonLines = None,
) -> int:
    """Check token, settings, service, clock and access, and suggest fixes.

    Exit status 0 if there is no problem, 4 if the token is rejected or has no access, otherwise 1.
    """
    options: GlobalOptions = context.obj
    report = _Report(as_json=wants_json(json_lines))
    _check_install(report)
    token = _check_token(options, report)
    if token is not None and (client := _check_settings(options, token, report)) is not None:
        with InterruptibleRunner() as runner:
            try:
                runner.run(_check_service(options, token, client, space, report))
            finally:
                runner.run_cleanup(client.aclose())
    if not report.problems:
        return SUCCESS
    return AUTHENTICATION if report.is_authentication else ERROR


# -- findings -----------------------------------------------------------------------------------------------

_State = Literal["ok", "note", "problem"]
_STYLES: Final = {"ok": "green", "note": "yellow", "problem": "bold red"}


class _Report:
    """Writes each finding as soon as it is made.

    Attributes:
        problems: number of problems.
        is_authentication: whether the token was rejected, or lacks permission.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.problems = 0
        self.is_authentication = False

    def ok(self, check: str, message: str) -> None:
        self._write("ok", check, message, "")

    def note(self, check: str, message: str, advice: str = "") -> None:
        self._write("note", check, message, advice)

    def problem(self, check: str, message: str, advice: str, *, authentication: bool = False) -> None:
        self.problems += 1
        self.is_authentication |= authentication
        self._write("problem", check, message, advice)

    def _write(self, state: _State, check: str, message: str, advice: str) -> None:
        message, advice = printable(message), printable(advice)
        if self._as_json:
            finding = {"check": check, "state": state, "message": message, "advice": advice or None}
            echo_line(msgspec.json.encode(finding))
            return
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=7)
        grid.add_column(width=8)
        grid.add_column(overflow="fold")
        grid.add_row(Text(state, _STYLES[state]), check, Text(message))
        if advice:
            grid.add_row("", "", Text(f"hint: {advice}", "bold" if state == "problem" else ""))
        out = console(sys.stdout)
        with out.capture() as captured:
            out.print(grid)
        echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


# -- checks without a request -------------------------------------------------------------------------------


def _check_install(report: _Report) -> None:
    python = ".".join(str(part) for part in sys.version_info[:3])
    if find_spec("pyarrow") is None:
        report.note(
            "install", f"Python {python}, without pyarrow", f"for Parquet: {install_command('parquet')}"
        )
    else:
        report.ok("install", f"Python {python}, with pyarrow for Parquet")


def _check_token(options: GlobalOptions, report: _Report) -> str | None:
    try:
        token = find_token(options)
    except CliError as error:
        report.problem("token", error.message, error.hint or "the file must contain the API key alone")
        return None
    if options.token_file is None:
        source = "typed in" if token else f"from the environment variable {TOKEN_VARIABLE}"
    else:
        is_stdin = options.token_file == "-"  # noqa: S105
        source = f"from {'stdin' if is_stdin else f'the file {options.token_file}'}"
        if os.name == "posix" and not is_stdin:
            mode = Path(options.token_file).stat().st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                report.note("token", "other users of this machine can read its file", "chmod 600 the file")
    report.ok("token", source)
    return token or os.environ[TOKEN_VARIABLE]


def _check_settings(options: GlobalOptions, token: str, report: _Report) -> UnpodClient | None:
    try:
        client = _client(options, token)
    except ConfigurationError as error:
        report.problem("settings", message_of(error), hint_of(error) or "see `unpod-async --help`")
        return None
    report.ok("base URL", client.settings.base_url)
    _check_proxy(options, report)
    return client


def _check_proxy(options: GlobalOptions, report: _Report) -> None:
    from unpod_async._http import ignored_proxy_variable

    if options.proxy is not None or os.environ.get(PROXY_VARIABLE, "").strip():
        source = "--proxy" if options.proxy is not None else f"the environment variable {PROXY_VARIABLE}"
        url = options.proxy or os.environ[PROXY_VARIABLE].strip()
        # The part before the last @ is a user name and password.
        host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        report.ok("proxy", f"{host}, from {source}")
    elif (ignored := ignored_proxy_variable(os.environ)) is not None:
        report.note(
            "proxy",
            f"{ignored} is set but not read: requests do not use a proxy",
            f"if the network needs it, set {PROXY_VARIABLE} to the same URL, or use --proxy URL",
        )


def _client(options: GlobalOptions, token: str) -> UnpodClient:
    # A single attempt with a short timeout, because the user is waiting.
    timeout = _TIMEOUT if options.timeout is None else options.timeout
    return make_client(replace(options, timeout=timeout), token, retry=None)


# -- checks with a request ----------------------------------------------------------------------------------


class _CheckResult(Enum):
    """The conclusion from a response about the token and the service."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    REJECTED = "rejected"
    FORBIDDEN = "forbidden"
    UNREACHABLE = "unreachable"
    WRONG_SERVER = "wrong server"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class _Probe:
    """The first page of a listing, or the reason why there is none.

    Attributes:
        verdict: ACCEPTED even if the space is refused, because the token is checked first; UNKNOWN if the
            response does not show whether the token was checked.
        count: number of rows of the whole listing, if the server states it.
        rows: rows of the first page.
        error: the error, unless there is a page.
        clock_offset: seconds by which the clock of this machine is ahead of the server's; None if unknown.
    """

    verdict: _CheckResult
    count: int | None = None
    rows: tuple[Any, ...] = ()
    error: UnpodError | None = None
    clock_offset: float | None = None

    @property
    def message(self) -> str:
        return "" if self.error is None else message_of(self.error)


async def _probe(pager: Pager[Any]) -> _Probe:
    """Request the first page of a listing."""
    try:
        async for page in pager.pages():
            offset = _clock_offset(page.headers.get("date"))
            return _Probe(_CheckResult.ACCEPTED, page.count, tuple(page.items), None, offset)
    except APIError as error:
        return _Probe(_verdict(error), error=error, clock_offset=_clock_offset(error.headers.get("date")))
    except DecodeError as error:
        has_rows = error.rejected or error.unreadable
        return _Probe(_CheckResult.ACCEPTED if has_rows else _CheckResult.WRONG_SERVER, error=error)
    except TransportError as error:
        return _Probe(_CheckResult.UNREACHABLE, error=error)
    return _Probe(_CheckResult.ACCEPTED)


def _verdict(error: APIError) -> _CheckResult:
    if isinstance(error, AuthenticationError):
        return _CheckResult.REJECTED
    if isinstance(error, PermissionDeniedError):
        return _CheckResult.FORBIDDEN
    if 300 <= error.status < 400 or (isinstance(error, NotFoundError) and looks_like_markup(error.body)):
        return _CheckResult.WRONG_SERVER
    if isinstance(error, RateLimitedError | ServerError | UpstreamError):
        return _CheckResult.FAILING
    # Any other status may come from a gateway in front of the service, which does not check tokens.
    return _CheckResult.ACCEPTED if isinstance(error, RefusedError) else _CheckResult.UNKNOWN


def _clock_offset(date: str | None) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        server = parsedate_to_datetime(date or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    server = server if server.tzinfo is not None else server.replace(tzinfo=UTC)
    return (datetime.now(UTC) - server).total_seconds()


async def _check_service(
    options: GlobalOptions, token: str, client: UnpodClient, space: str | None, report: _Report
) -> None:
    probe = await _probe(_access_listing(client, space))
    if not _check_reachable(probe, report):
        return
    _check_clock(probe, report)
    access = await _check_access(client, space, probe)
    if access.verdict is _CheckResult.REJECTED:
        await _try_other_schemes(options, token, space, report)
        return
    if access.verdict is _CheckResult.FORBIDDEN:
        report.problem(
            "access",
            access.message,
            "renew the token, or ask an administrator for a role",
            authentication=True,
        )
        return
    if access.verdict is not _CheckResult.ACCEPTED:
        report.problem(
            "access",
            f"it is not known whether the token is accepted: {access.message or _ACCESS_NOT_CHECKED}",
            _ADVICE.get(access.verdict, _ADVICE[_CheckResult.WRONG_SERVER]),
        )
        return
    report.ok("access", f"the token is accepted with --auth-scheme {client.settings.auth_scheme}")
    organizations = _Organizations(options, token, client)
    await _check_organization(organizations, probe if space is None else None, report)
    if space is not None:
        await _check_space(client, space, probe, report)


def _access_listing(client: UnpodClient, space: str | None) -> Pager[Any]:
    """Return the listing that shows whether the token is valid. Spaces and organizations reject API keys."""
    if space is None and client.settings.org_handle is not None:
        return client.agents.list()
    return client.runs.list(space or _MISSING_SPACE, page_size=1)


_ADVICE: Final = {
    _CheckResult.UNREACHABLE: "check the base URL, the network and any proxy",
    _CheckResult.WRONG_SERVER: "check the host and the path of the base URL",
    _CheckResult.FAILING: "the service has a problem: try again later",
}
_ACCESS_NOT_CHECKED: Final = "the service lists a space that does not exist"


async def _check_access(client: UnpodClient, space: str | None, probe: _Probe) -> _Probe:
    """Return a probe that shows whether the token is accepted. `probe` is the one of the first listing."""
    uses_missing_space = space is None and client.settings.org_handle is None
    if probe.verdict is _CheckResult.UNKNOWN and not uses_missing_space:
        uses_missing_space, probe = True, await _probe(client.runs.list(_MISSING_SPACE, page_size=1))
    if uses_missing_space and probe.verdict is _CheckResult.ACCEPTED and probe.error is None:
        return replace(probe, verdict=_CheckResult.UNKNOWN)
    return probe


def _check_reachable(probe: _Probe, report: _Report) -> bool:
    """Return True if the service responded and works."""
    advice = _ADVICE.get(probe.verdict)
    if isinstance(probe.error, TransportError) and probe.error.hint:
        advice = hint_of(probe.error)  # the cause is known, such as a proxy that does not run
    if advice is not None:
        report.problem("service", probe.message, advice)
        return False
    report.ok("service", "it responds")
    return True


def _check_clock(probe: _Probe, report: _Report) -> None:
    offset = probe.clock_offset
    if offset is None:
        report.note("clock", "the service does not send its time")
    elif abs(offset) > _MAX_CLOCK_OFFSET:
        ahead = "ahead of" if offset > 0 else "behind"
        report.problem(
            "clock",
            f"the clock of this machine is {abs(offset):,.0f} s {ahead} the service's",
            "synchronize it with NTP: schedules depend on it",
        )
    else:
        report.ok("clock", "less than a minute from the service's clock")


async def _try_other_schemes(options: GlobalOptions, token: str, space: str | None, report: _Report) -> None:
    used = options.auth_scheme or _SCHEMES[0]
    rejected = [used]
    for scheme in _SCHEMES:
        if scheme.lower() == used.lower():
            continue
        other = _client(replace(options, auth_scheme=scheme), token)
        try:
            found = await _check_access(other, space, await _probe(_access_listing(other, space)))
        finally:
            await other.aclose()
        if found.verdict is _CheckResult.ACCEPTED:
            report.problem(
                "access",
                f"the token is rejected with --auth-scheme {used} and accepted with {scheme}",
                f"use --auth-scheme {scheme} (in code, auth_scheme={scheme!r})",
                authentication=True,
            )
            return
        if found.verdict is _CheckResult.REJECTED:
            rejected.append(scheme)
    report.problem(
        "access",
        f"the token is rejected with {'each of ' if len(rejected) > 1 else ''}{', '.join(rejected)}",
        "check that the key is complete, not expired, and belongs to this base URL",
        authentication=True,
    )


class _Organizations:
    """The organizations of the account, and whether their handles work.

    Attributes:
        client: the client with the settings of the user.
    """

    def __init__(self, options: GlobalOptions, token: str, client: UnpodClient) -> None:
        self.client = client
        self._options = options
        self._token = token

    async def working_handles(self) -> list[str]:
        """Return handles whose agents the service lists. Some services list organizations only for a JWT."""
        found = await _probe(self.client.organizations.list())
        handles = [one.domain_handle for one in found.rows if one.domain_handle]
        return [
            handle for handle in handles[:_MAX_CHECKED_ORGANIZATIONS] if await self._can_list_agents(handle)
        ]

    async def _can_list_agents(self, handle: str) -> bool:
        try:
            client = _client(replace(self._options, org_handle=handle), self._token)
        except ConfigurationError:
            return False
        try:
            return (await _probe(client.agents.list())).error is None
        finally:
            await client.aclose()


async def _check_organization(organizations: _Organizations, probe: _Probe | None, report: _Report) -> None:
    """Check the handle of the organization. Recommend only handles that work."""
    client = organizations.client
    handle = client.settings.org_handle
    if handle is None:
        handles = await organizations.working_handles()
        report.note(
            "org",
            "no organization is set; agents and spaces need one",
            f"set UNPOD_ORG_HANDLE to one of your handles: {', '.join(handles)}"
            if handles
            else "set UNPOD_ORG_HANDLE to your domain_handle, or ask an administrator for it",
        )
        return
    probe = probe or await _probe(client.agents.list())
    if probe.error is None:
        report.ok("org", f"{handle}, with {counted(len(probe.rows), 'agent')}")
        return
    handles = await organizations.working_handles()
    advice = f"use one of your handles: {', '.join(handles)}" if handles else "or ask an administrator for it"
    report.problem(
        "org",
        f"{handle}: {probe.message}",
        f"check the case of the handle; {advice}",
        authentication=_has_no_access(probe),
    )


def _has_no_access(probe: _Probe) -> bool:
    """Return whether the service refused access: 401, 403, or 206 for a space."""
    return probe.verdict in (_CheckResult.REJECTED, _CheckResult.FORBIDDEN) or isinstance(
        probe.error, RefusedError
    )


async def _check_space(client: UnpodClient, space: str, probe: _Probe, report: _Report) -> None:
    if probe.error is None:
        runs = "its runs" if probe.count is None else counted(probe.count, "run")
        report.ok("space", f"{space}: {runs} can be read")
    elif isinstance(probe.error, APIError):
        # Some services list spaces only for a JWT.
        can_list = (
            client.settings.org_handle is not None and (await _probe(client.spaces.list())).error is None
        )
        advice = (
            "`unpod-async spaces` lists your spaces" if can_list else "or ask an administrator for the token"
        )
        report.problem(
            "space",
            f"{space}: {probe.message}",
            f"check its token and your role; {advice}",
            authentication=_has_no_access(probe),
        )
    else:
        report.note(
            "space", f"{space}: {probe.message}", "only its newest row cannot be read; try to list its runs"
        )
