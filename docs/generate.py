"""Write the reference pages from the docstrings, the commands and the columns of the package.

`python docs/generate.py` writes docs/reference/. With `--check`, it fails if a page there would change.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import griffe
from griffe2md import ConfigDict, render_object_docs

DOCS: Final = Path(__file__).parent
ROOT: Final = DOCS.parent
REFERENCE: Final = DOCS / "reference"
NOTE: Final = "<!-- Written by docs/generate.py: change the docstring, not this page. -->\n"

PAGES: Final = {
    "client": (
        "The client",
        """UnpodClient RawResponse Settings RetryPolicy RateLimiter Stats RequestEvent AttemptEvent
        WaitEvent OpenTelemetry""",
    ),
    "calls": ("Calls of the API", "Runs Tasks CallLogs Agents Spaces Organizations Recordings"),
    "listings": (
        "Listings and streams",
        "Pager ListingIterator Page RejectedRow Stream StreamIterator Ok Failed",
    ),
    "models": (
        "Rows",
        "Run Task Call TranscriptMessage UserInfo CallLog Agent AgentExecution Space Organization",
    ),
    "create": (
        "Placing calls",
        (
            "CreateRequest Document ScheduleNow ScheduleAuto ScheduleCustom CreatedRun BatchResult "
            "Reconciliation"
        ),
    ),
    "export": ("Export", "ExportSpec ExportPlan ExportProgress ExportSummary merge_shards FailedRun BadRow"),
    "events": (
        "Watching",
        """Watch WatchState WatchedRun Event RunSeen RunStatusChanged RunSettled RunRemoved TaskSeen
        TaskStatusChanged CallEnded TaskRemoved Disconnected Reconnected""",
    ),
    "errors": (
        "Errors",
        """UnpodError ConfigurationError InvalidArgument TransportError APIError RefusedError
        InvalidRequestError UpstreamError AuthenticationError PermissionDeniedError NotFoundError
        RateLimitedError ServerError DecodeError IncompleteListing StalledListing OutcomeUnknown
        RunNotFound WaitTimeout ExportError TargetLockedError RecordingError Attempt""",
    ),
    "blocking": (
        "The client for synchronous programs",
        "BlockingClient BlockingPager BlockingIterator BlockingStream BlockingWatch",
    ),
    "distributed": ("Exports on a Dask cluster", "distributed.cluster.export"),
    "testing": ("Sandbox and faults", "Sandbox ManualClock Oddities Fault"),
}
"""Title and names of each page that is written from docstrings."""

CONFIG: Final = ConfigDict(
    docstring_style="table",
    heading_level=2,
    show_root_full_path=False,
    show_root_members_full_path=False,
    show_object_full_path=False,
    members_order="source",
    summary=False,
    signature_crossrefs=False,
    annotations_path="brief",
    load_external_modules=False,
)


def main() -> None:
    """Write or check the pages."""
    pages = {REFERENCE / f"{name}.md": text for name, text in rendered().items()}
    if "--check" in sys.argv[1:]:
        stale = [page.name for page, text in pages.items() if not page.exists() or page.read_text() != text]
        if stale:
            sys.exit(
                f"the reference pages are older than the docstrings: {', '.join(stale)}\n"
                "hint: run `python docs/generate.py` (it needs griffe2md and the extra `cli`), and commit"
            )
        return
    REFERENCE.mkdir(exist_ok=True)
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")


def rendered() -> dict[str, str]:
    """Return the text of each page."""
    package = griffe.load(
        "unpod_async",
        search_paths=[ROOT],
        docstring_parser="google",
        # A text of several lines is one result.
        docstring_options={"returns_multiple_items": False, "returns_named_value": False},
    )
    # A private object may have the name of a public one.
    found = sorted(_objects(package), key=lambda one: "._" not in one.path)
    objects = {one.name: one for one in found}
    texts = {}
    for name, (title, names) in PAGES.items():
        parts = [_object(objects[each] if each in objects else package[each]) for each in names.split()]
        texts[name] = f"{NOTE}\n# {title}\n\n" + "\n".join(parts)
    texts["testing"] += _faults(package["testing.faults"])
    return {**texts, "cli": _command_line(), "columns": _columns(), "exit-statuses": _exit_statuses()}


def _faults(module: griffe.Module) -> str:
    rows = []
    for found in module.members.values():
        if isinstance(found, griffe.Function) and not found.name.startswith("_") and found.docstring:
            text = " ".join(found.docstring.value.partition("\n\n")[0].split())
            text = re.sub(r"^Rows? \d+(?: to \d+)?: ", "", text)
            rows.append(f"| `{found.name}` | {text[0].upper()}{text[1:]} |\n")
    introduction = (
        "The functions of `unpod_async.testing.faults`. Most return a `Fault` for `Sandbox.script` and\n"
        "take the keywords that select its requests: `path`, `method`, `page` and `times`. Those that\n"
        "change rows or pages take the sandbox instead.\n"
    )
    return f"\n## Faults by name\n\n{introduction}\n| Function | What happens |\n|---|---|\n{''.join(rows)}"


def _objects(module: griffe.Module) -> list[griffe.Class | griffe.Function]:
    """Return the classes and functions of a module and of the modules in it."""
    found: list[griffe.Class | griffe.Function] = []
    for member in module.members.values():
        if isinstance(member, griffe.Class | griffe.Function):
            found.append(member)
        elif isinstance(member, griffe.Module):
            found += _objects(member)
    return found


def _object(found: griffe.Class | griffe.Function) -> str:
    # All rows, calls and events have these methods; one row shows them.
    hidden = [] if found.name == "Run" else ["!^to_(dict|json)$"]
    text = render_object_docs(found, ConfigDict(**CONFIG, filters=["!^_", *hidden]))
    # Names are shown as users import them, and types as plain code.
    text = re.sub(r"<code>(.*?)</code>", lambda code: f"`{_plain(code[1])}`", text, flags=re.DOTALL)
    text = re.sub(r"`unpod_async\.(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r"\[([^\]]*)\]\(#[^)]*\)", r"\1", text)  # links to members of the same page
    # Base classes that only the package uses.
    text = re.sub(r"`_Facade\[[^`]*`, ", "", text)
    text = re.sub(
        r"^Bases: (?!.*(?:Error|Exception|IncompleteListing|Stream)).*\n\n", "", text, flags=re.MULTILINE
    )
    text = text.replace("Bases: `AsyncOnly`, ", "Bases: ")
    text = re.sub(r"^```python\n(.*)\n```$", lambda code: _signature(code[1]), text, flags=re.MULTILINE)
    # A method that follows another one.
    text = re.sub(
        r"^```python\n\w+: Final = _\w+\((\w+)(?:\[T\])?\.(\w+)\)\n```",
        r"Same as `\1.\2`.",
        text,
        flags=re.MULTILINE,
    )
    # A table of reStructuredText, which Markdown would run together.
    text = re.sub(
        r"^((?:=+  )+=+\n.*?^(?:=+  )+=+\n)(?=\n)", r"```text\n\1```\n", text, flags=re.MULTILINE | re.DOTALL
    )
    # One line of a docstring about several attributes or errors, of which griffe makes a name and a type.
    text = re.sub(r"^- \*\*(\w+),\*\* \(`\(?([\w, ]+)\)?`\)", _attributes, text, flags=re.MULTILINE)
    text = re.sub(r"^- `\(([\w, ]+)\)`", lambda names: f"- {_codes(names[1])}", text, flags=re.MULTILINE)
    text = re.sub(r"\[(\d)\]_", r"(\1) ", text)  # footnotes
    text = re.sub(r"^\.\. \[(\d)\] ", r"(\1) ", text, flags=re.MULTILINE)
    return text.strip() + "\n"


def _attributes(line: re.Match[str]) -> str:
    names = [line[1], *line[2].split(", ")]
    return "- " + ", ".join(f"**{name}**" for name in names)


def _codes(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _signature(code: str) -> str:
    """Return the block of a signature: an option with its description as text, and long lines wrapped."""
    option = re.fullmatch(
        r"(\w+): Annotated\[(.*?)(?:, _\w+)?, msgspec\.Meta\(.*?description=(.*)\)\](.*)", code
    )
    if option:
        name, kind, description, default = option.groups()
        return f"```python\n{name}: {kind}{default}\n```\n\n{ast.literal_eval(description)}"
    if len(code) > 88 and code.endswith(")") and (opening := code.find("(")) > 0:
        arguments = re.split(r", (?![^\[({]*[\])}])", code[opening + 1 : -1])
        code = f"{code[: opening + 1]}\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"
    return f"```python\n{code}\n```"


def _plain(html: str) -> str:
    return re.sub(r"\[([^\]]*)\]\(#[^)]*\)", r"\1", html).replace("\\|", "|").replace("&#124;", "|")


def _help(*arguments: str) -> str:
    env = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "unpod_async", *arguments, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout  # noqa: S603


def _command_line() -> str:
    overview = _help()
    commands = re.findall(r"^  ([a-z][a-z-]*) +[A-Z]", overview, re.MULTILINE)
    parts = [f"{NOTE}\n# Command line\n\n```text\n{overview.strip()}\n```\n"]
    parts += [f"## {command}\n\n```text\n{_help(command).strip()}\n```\n" for command in commands]
    return "\n".join(parts)


def _exit_statuses() -> str:
    from unpod_async.cli.errors import EXIT_STATUSES

    rows = re.findall(r"^ +(\d+)  (.*)$", EXIT_STATUSES, re.MULTILINE)
    table = "\n".join(f"| {status} | {meaning} |" for status, meaning in rows)
    return f"{NOTE}\n# Exit statuses\n\n| Status | Meaning |\n|---|---|\n{table}\n"


def _columns() -> str:
    from unpod_async._tables import COLUMNS, describe

    parts = [f"{NOTE}\n# Columns of CSV and Parquet exports\n"]
    for kind in COLUMNS:
        table = "\n".join(f"| `{name}` | {type_} | {meaning} |" for name, type_, meaning in describe(kind))
        parts.append(f"## {kind}\n\n| Column | Type | Meaning |\n|---|---|---|\n{table}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
