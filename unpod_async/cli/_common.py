"""The options that all commands share; they may stand before the command or after it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any, Concatenate, Final, ParamSpec

import typer

from unpod_async.cli._log import log_to_stderr
from unpod_async.cli._running import guarded

__all__ = ["Common", "command", "main_options"]

P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """How the platform is reached, as far as the command line says; None is for the environment to say.

    Attributes:
        token_file: a path, or "-" for stdin.
        timeout: seconds for one attempt.
        verbose: 1 shows the log, 2 all of it and tracebacks.
        argv: the whole command line, to be shown; there is no secret in it.
    """

    token_file: str | None = None
    base_url: str | None = None
    org_handle: str | None = None
    auth_scheme: str | None = None
    allow_http: bool = False
    timeout: float | None = None
    verbose: int = 0
    argv: tuple[str, ...] = ()

    def over(self, before: Common) -> Common:
        """What stood after the command wins over what stood before it."""
        return Common(
            token_file=self.token_file or before.token_file,
            base_url=self.base_url or before.base_url,
            org_handle=self.org_handle or before.org_handle,
            auth_scheme=self.auth_scheme or before.auth_scheme,
            allow_http=self.allow_http or before.allow_http,
            timeout=before.timeout if self.timeout is None else self.timeout,
            verbose=self.verbose + before.verbose,
            argv=before.argv,
        )


def _refuse(value: str | None) -> None:
    if value is not None:
        raise typer.BadParameter(
            "a token is not taken as an argument, which other users of this machine can read and the shell "
            "keeps: set UNPOD_PLATFORM_TOKEN, or use --token-file (it may be - for stdin)"
        )


def options(*, hidden: bool) -> list[inspect.Parameter]:
    """The parameters of the shared options, as typer reads them."""

    def option(name: str, kind: Any, default: Any, *flags: str, text: str, **more: Any) -> inspect.Parameter:
        shown: dict[str, Any] = {"hidden": hidden, "help": text, "show_default": False, **more}
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, typer.Option(*flags, **shown)],
        )

    return [
        option(
            "token_file",
            str | None,
            None,
            "--token-file",
            metavar="FILE",
            text="Read the token from FILE (- for stdin) instead of UNPOD_PLATFORM_TOKEN.",
        ),
        option(
            "org_handle",
            str | None,
            None,
            "--org-handle",
            metavar="HANDLE",
            text="Organization; else UNPOD_ORG_HANDLE. Agents and spaces need it.",
        ),
        option(
            "base_url",
            str | None,
            None,
            "--base-url",
            metavar="URL",
            text="The service; else UNPOD_PLATFORM_BASE_URL, UNPOD_BASE_URL, https://unpod.ai.",
        ),
        option(
            "auth_scheme",
            str | None,
            None,
            "--auth-scheme",
            metavar="WORD",
            text="Token (the default, for API keys), JWT or Bearer.",
        ),
        option(
            "allow_http",
            bool,
            False,
            "--allow-http",
            text="Let http:// go beyond this machine, with the token unencrypted.",
        ),
        option(
            "timeout",
            float | None,
            None,
            "--timeout",
            metavar="SECONDS",
            text="For one attempt; 60 unless given.",
        ),
        option(
            "verbose",
            int,
            0,
            "-v",
            "--verbose",
            count=True,
            metavar="",
            text="Show the log on stderr; -vv all of it, and tracebacks.",
        ),
        option(
            "token",
            str | None,
            None,
            "--token",
            "--api-key",
            hidden=True,
            callback=_refuse,
            text="Refused.",
        ),
    ]


_NAMES: Final = frozenset(Common.__dataclass_fields__) - {"argv"}


def _take(arguments: dict[str, Any]) -> Common:
    """The shared options, taken out of the arguments of a command."""
    del arguments["token"]
    return Common(**{name: arguments.pop(name) for name in _NAMES})


def main_options(function: Callable[..., None]) -> Callable[..., None]:
    """A callback for typer, out of one that has options of its own only, with the shared ones before it."""

    def started(**arguments: Any) -> None:
        context: typer.Context = arguments.pop("typer_context")
        context.obj = replace(_take(arguments), argv=tuple(context.obj or ()))
        function(**arguments)

    return _with_options(started, function, _own(function), hidden=False)


def command(function: Callable[Concatenate[Common, P], int]) -> Callable[..., None]:
    """A command for typer out of a function that takes the shared options first and gives an exit status."""

    def started(**arguments: Any) -> None:
        context: typer.Context = arguments.pop("typer_context")
        common = _take(arguments).over(context.obj)
        raise typer.Exit(guarded(lambda: _logged(common, function, arguments), verbose=common.verbose))

    return _with_options(started, function, _own(function)[1:], hidden=True)


def _own(function: Callable[..., object]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def _with_options(
    started: Callable[..., None],
    function: Callable[..., object],
    own: list[inspect.Parameter],
    *,
    hidden: bool,
) -> Callable[..., None]:
    """`started`, as typer is to see it: with the parameters of `function` and the shared ones."""
    context = inspect.Parameter("typer_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    started.__name__, started.__doc__ = function.__name__, function.__doc__
    # Its own annotations are not those of the parameters.
    started.__annotations__ = {}
    signature = inspect.Signature([context, *keywords, *options(hidden=hidden)])
    started.__signature__ = signature  # type: ignore[attr-defined]
    return started


def _logged(common: Common, function: Callable[..., int], arguments: dict[str, Any]) -> int:
    with log_to_stderr(common.verbose) if common.verbose else nullcontext():
        return function(common, **arguments)
