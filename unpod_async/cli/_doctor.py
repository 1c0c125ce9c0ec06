"""`unpod-async doctor`: what stands in the way, step by step, and what to do about it."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unpod_async.cli._common import Common
from unpod_async.cli._connect import TOKEN_VARIABLE, client_of, token_of
from unpod_async.cli._findings import Report
from unpod_async.cli._output import wants_json
from unpod_async.cli._probe import Meaning, Probe, probe
from unpod_async.cli._running import Loop
from unpod_async.cli._status import AUTHENTICATION, COMPLETE, ERROR, Stop, text_of
from unpod_async.errors import APIError, ConfigurationError, UnpodError

if TYPE_CHECKING:
    from unpod_async import Pager, UnpodClient

__all__ = ["doctor"]

_NOBODYS_SPACE: Final = "unpod-async-doctor"
"""No token of a space; but the token of the caller is looked at first, so it tells whether that is good."""

_SCHEMES: Final = ("Token", "JWT", "Bearer")
_PATIENCE: Final = 15.0  # seconds for an answer
_MOST_SKEW: Final = 60.0  # seconds

_FIND_HANDLE: Final = (
    "agents, spaces and the check of an agent before a create need it. It is the domain_handle of the "
    "organization: `unpod-async organizations` lists it (some servers take only a JWT there), and the web "
    "application shows it. Then set UNPOD_ORG_HANDLE"
)


def doctor(common: Common, space: str | None, *, json_lines: bool | None) -> int:
    """Tell what is well and what is not; the exit status."""
    report = Report(json_lines=wants_json(json_lines))
    _extras(report)
    token = _token(common, report)
    if token is not None and (unpod := _settings(common, token, report)) is not None:
        with Loop() as loop:
            try:
                loop.run(_ask(common, token, unpod, space, report))
            finally:
                loop.run_always(unpod.aclose())
    if not report.problems:
        return COMPLETE
    return AUTHENTICATION if report.authentication else ERROR


def _extras(report: Report) -> None:
    python = ".".join(str(part) for part in sys.version_info[:3])
    if find_spec("pyarrow") is None:
        report.note(
            "install", f"Python {python}; no pyarrow", "Parquet needs it: pip install 'unpod-async[parquet]'"
        )
    else:
        report.ok("install", f"Python {python}, with pyarrow for Parquet")


def _token(common: Common, report: Report) -> str | None:
    try:
        typed = token_of(common)
    except Stop as stop:
        advice = "the web application shows API keys; set the variable, or put the key alone into a file"
        report.problem("token", str(stop), advice)
        return None
    if common.token_file is not None:
        where = f"from the file {common.token_file}"
        if os.name == "posix" and common.token_file != "-":  # noqa: S105
            mode = Path(common.token_file).stat().st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                report.note("token", "others of this machine may read its file", "chmod 600 the file")
    else:
        where = "typed in" if typed else f"from the environment variable {TOKEN_VARIABLE}"
    report.ok("token", where)
    return typed or os.environ[TOKEN_VARIABLE]


def _settings(common: Common, token: str, report: Report) -> UnpodClient | None:
    try:
        unpod = _client(common, token)
    except ConfigurationError as error:
        report.problem("settings", text_of(error), "see unpod-async --help for where each is taken from")
        return None
    report.ok("base URL", unpod.settings.base_url)
    return unpod


def _client(common: Common, token: str) -> UnpodClient:
    # Once and not for long: who calls the doctor is waiting.
    timeout = _PATIENCE if common.timeout is None else common.timeout
    return client_of(replace(common, timeout=timeout), token, retry=None)


async def _ask(common: Common, token: str, unpod: UnpodClient, space: str | None, report: Report) -> None:
    answer = await probe(_first(unpod, space))
    if not _is_reached(answer, report):
        return
    _clock(answer, report)
    if answer.meaning is Meaning.REFUSED:
        await _other_schemes(common, token, space, answer, report)
        return
    if answer.meaning is Meaning.FORBIDDEN:
        report.problem(
            "access", _said(answer), "the token is known: its account needs a role there", authentication=True
        )
        return
    report.ok("access", f"the token is accepted, with --auth-scheme {unpod.settings.auth_scheme}")
    await _organization(unpod, answer if space is None else None, report)
    if space is not None:
        _space(space, answer, report)


def _first(unpod: UnpodClient, space: str | None) -> Pager[Any]:
    """The listing that decides about the token: spaces and organizations refuse API keys that are good."""
    if space is None and unpod.settings.org_handle is not None:
        return unpod.agents.list()
    return unpod.runs.list(space or _NOBODYS_SPACE, page_size=1)


def _is_reached(answer: Probe, report: Report) -> bool:
    """Whether it was the service that answered, and in its senses."""
    if answer.meaning is Meaning.UNREACHED:
        advice = "check the base URL, the network, and whether a proxy or firewall stands between"
        report.problem("service", _said(answer), advice)
        return False
    if answer.meaning is Meaning.WRONG_PLACE:
        advice = "something answers, and not as the platform does: the base URL has a wrong host or path"
        report.problem("service", _said(answer), advice)
        return False
    if answer.meaning is Meaning.TROUBLE:
        report.problem("service", _said(answer), "the service is there and in trouble: try again later")
        return False
    report.ok("service", "it answers")
    return True


def _clock(answer: Probe, report: Report) -> None:
    if answer.skew is None:
        report.note("clock", "the service does not say what time it has")
    elif abs(answer.skew) > _MOST_SKEW:
        ahead = "ahead of" if answer.skew > 0 else "behind"
        said = f"this machine's is {abs(answer.skew):,.0f} s {ahead} the service's"
        report.problem("clock", said, "set it (NTP): schedules and lost creates go by it")
    else:
        report.ok("clock", "within a minute of the service's")


async def _other_schemes(
    common: Common, token: str, space: str | None, answer: Probe, report: Report
) -> None:
    used = common.auth_scheme or _SCHEMES[0]
    for scheme in _SCHEMES:
        if scheme.lower() == used.lower():
            continue
        other = _client(replace(common, auth_scheme=scheme), token)
        try:
            with_it = await probe(_first(other, space))
        finally:
            await other.aclose()
        if with_it.meaning in (Meaning.ACCEPTED, Meaning.FORBIDDEN):
            report.problem(
                "access",
                f"the token is refused with --auth-scheme {used} and accepted with {scheme}",
                f"use --auth-scheme {scheme} (in code, auth_scheme={scheme!r})",
                authentication=True,
            )
            return
    asks = answer.error.headers.get("www-authenticate") if isinstance(answer.error, APIError) else None
    wanted = f"; the service asks for {asks}" if asks else ""
    report.problem(
        "access",
        f"the token is refused with each of {', '.join(_SCHEMES)}{wanted}",
        "it is not whole, has expired, or belongs to another server: make a new key in the web application, "
        "and check the base URL",
        authentication=True,
    )


async def _organization(unpod: UnpodClient, answer: Probe | None, report: Report) -> None:
    handle = unpod.settings.org_handle
    if handle is None:
        found = await probe(unpod.organizations.list())
        yours = [one.domain_handle for one in found.rows if one.domain_handle]
        advice = f"yours: {', '.join(yours)}; set UNPOD_ORG_HANDLE to one" if yours else _FIND_HANDLE
        report.note("org", "no handle of an organization is set", advice)
        return
    answer = answer or await probe(unpod.agents.list())
    if answer.error is None:
        report.ok("org", f"{handle}, with {len(answer.rows)} agents")
        return
    report.problem(
        "org",
        f"{handle}: {_said(answer)}",
        "check the handle, small and capital letters too: `unpod-async organizations` lists yours",
        authentication=answer.meaning in (Meaning.REFUSED, Meaning.FORBIDDEN),
    )


def _space(space: str, answer: Probe, report: Report) -> None:
    if answer.error is None:
        report.ok("space", f"{space}: {answer.count if answer.count is not None else 'its'} runs can be read")
    elif isinstance(answer.error, APIError):
        advice = "no such space, another account's, or too low a role: `unpod-async spaces` lists yours"
        report.problem("space", f"{space}: {_said(answer)}", advice)
    else:
        report.note("space", f"{space}: {_said(answer)}", "its newest row cannot be read; the others may")


def _said(answer: Probe) -> str:
    error: UnpodError | None = answer.error
    return "" if error is None else text_of(error)
