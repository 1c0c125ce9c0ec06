"""The documents of `create`: read from a file, and where the refused ones are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec

from unpod_async._common import os_error_reason, shorten
from unpod_async.cli.errors import USAGE, CliError
from unpod_async.cli.output import counted

__all__ = ["Documents", "read_documents"]

_MAX_FILE_BYTES: Final = 64 * 2**20
"""A larger file is no list of documents: all of them are kept in memory."""


class _Row(NamedTuple):
    """A document of a file and its position, such as "line 3" or "item 3"."""

    position: str
    document: dict[str, Any]


class _UnreadableRow(NamedTuple):
    """A row of a file that is not a document, and why."""

    position: str
    problem: str


class Documents:
    """The documents and their source.

    Args:
        rows: the documents.
        file: the name of the file as shown in messages, or None for --name and --number.
        positions: the position of each document in the file.
        unreadable: rows of the file that are not documents.

    Attributes:
        rows: the documents.
        unreadable: as given.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        file: str | None = None,
        positions: Sequence[str] = (),
        unreadable: Sequence[_UnreadableRow] = (),
    ) -> None:
        self.rows = rows
        self.unreadable = unreadable
        self._file = file
        self._positions = positions

    def refusal(self, refused: Sequence[str], hint: str) -> CliError:
        """Return the error for refused documents and unreadable rows.

        It names the options, or the file and its lines.

        Args:
            refused: the problems of `InvalidArgument`.
        """
        if self._file is None:
            (problem,) = refused
            return CliError(_OPTION.sub(_option_name, problem), hint=hint, status=USAGE)
        problems = [self._add_position(problem) for problem in refused]
        problems += [f"{row.position}: {row.problem}" for row in self.unreadable]
        problems.sort(key=_line_number)
        hint = hint or "correct the file and run the command again; nothing was sent"
        if len(problems) == 1:
            return CliError(f"--documents: {self._file}, {problems[0]}", hint=hint, status=USAGE)
        total = len(self.rows) + len(self.unreadable)
        return CliError(
            f"--documents: {len(problems):,} of {counted(total, 'document')} in {self._file} cannot be sent:",
            details=problems,
            hint=hint,
            status=USAGE,
        )

    def _add_position(self, problem: str) -> str:
        """Replace "documents[1]." by the position in the file, and the names of Python's types by words."""
        problem = _NOT_A_STR.sub(_describe_type, problem)
        found = _INDEXED.match(problem)
        start = "" if found is None else f"{self._position(found)}: "
        rest = problem if found is None else problem[found.end() :].lstrip(". ")
        return start + _INDEXED.sub(self._position, rest)

    def _position(self, found: re.Match[str]) -> str:
        return self._positions[int(found[1])]


def _line_number(problem: str) -> int:
    found = _NUMBERED.match(problem)
    return 0 if found is None else int(found[1])


_NUMBERED: Final = re.compile(r"(?:line|item) ([0-9]+)")
_INDEXED: Final = re.compile(r"documents\[([0-9]+)\]")
_NOT_A_STR: Final = re.compile(r"must be a str, not ([A-Za-z]+)$")
_TYPES: Final = {
    "NoneType": "null",
    "bool": "true or false",
    "dict": "an object",
    "float": "a number",
    "int": "a number",
    "list": "a list",
}
"""The types of JSON values."""
_OPTION: Final = re.compile(r"^documents\[0\]\.(name|contact_number)\b")
_NEEDED_COLUMNS: Final = ("name", "contact_number")
_KNOWN_COLUMNS: Final = frozenset({*_NEEDED_COLUMNS, "id", "document_id"})
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


def _describe_type(found: re.Match[str]) -> str:
    return f"must be a string in quotes, not {_TYPES.get(found[1], found[1])}"


def _option_name(found: re.Match[str]) -> str:
    return "--name" if found[1] == "name" else "--number"


def _documents_error(message: str, *, hint: str = "") -> CliError:
    return CliError(f"--documents: {message}", hint=hint, status=USAGE)


def read_documents(name: str) -> Documents:
    """Return one mapping per call: the objects of a .json list or of .jsonl lines, or the rows of a .csv.

    The first line of a CSV file has the names of the columns, and shows whether values are separated by
    commas, semicolons or tabs. All values are strings. Empty values and empty rows are left out.

    Raises:
        CliError: the file cannot be read, contains other data, or has a repeated column. The message shows no
            value of the file.
    """
    path, shown_path = Path(name), shorten(name, 80)
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_csv}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise _documents_error(f"{shown_path} is not a .json, .jsonl or .csv file")
    shown_name = shorten(path.name, 80)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise _documents_error(f"{shown_path} is larger than {_MAX_FILE_BYTES // 2**20} MiB")
        found = list(read(content.decode("utf-8-sig")))
    except UnicodeDecodeError:
        raise _documents_error(
            f"{shown_path} is not UTF-8", hint='in Excel, save it as "CSV UTF-8 (Comma delimited)"'
        ) from None
    except (OSError, ValueError) as error:
        raise _documents_error(
            f"cannot read {shown_path}: {os_error_reason(error)}", hint="check the path and the permissions"
        ) from None
    except _BadRow as error:
        raise _documents_error(f"{shown_name}, {error}", hint=error.hint) from None
    if not found:
        raise _documents_error(f"{shown_path} contains no documents")
    rows = [row for row in found if isinstance(row, _Row)]
    return Documents(
        [row.document for row in rows],
        shown_name,
        [row.position for row in rows],
        [row for row in found if isinstance(row, _UnreadableRow)],
    )


class _BadRow(Exception):
    """A row, or the whole file, is invalid. The message begins with the position."""

    def __init__(self, position: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{position}: {problem}")
        self.hint = hint
        self.row = _UnreadableRow(position, problem)


def _read_json(text: str) -> Iterator[_Row | _UnreadableRow]:
    if not isinstance(_decode(text, "the file"), list):
        raise _BadRow("the file", "it must be a list of objects, one per call")
    for number, item in enumerate(msgspec.json.decode(text, type=list[msgspec.Raw]), 1):
        yield _row_or_problem(bytes(item).decode(), f"item {number}")


def _read_jsonl(text: str) -> Iterator[_Row | _UnreadableRow]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _row_or_problem(line, f"line {number}")


def _row_or_problem(text: str, position: str) -> _Row | _UnreadableRow:
    try:
        return _row(text, position)
    except _BadRow as error:
        return error.row


def _read_csv(text: str) -> Iterator[_Row | _UnreadableRow]:
    import csv
    import io

    # Excel writes and reads a first line such as "sep=;".
    if named := re.match(r"sep=([,;\t])\r?\n", text):
        text = "\n" + text[named.end() :]
    # Not str.splitlines(), which also ends a line at characters that a name may contain.
    reader = csv.reader(
        io.StringIO(text, newline=""), strict=True, delimiter=named[1] if named else _delimiter(text)
    )
    columns: list[str] | None = None
    try:
        while True:
            position = f"line {reader.line_num + 1}"
            row = next(reader, None)
            if row is None:
                return
            if not any(value.strip() for value in row):
                continue
            if columns is None:
                columns = _check_columns(row, position)
            elif len(row) != len(columns):
                yield _UnreadableRow(
                    position,
                    f"it has {counted(len(row), 'value')} for the {counted(len(columns), 'column')} of the "
                    "first line",
                )
            elif any(value for column, value in zip(columns, row, strict=True) if not column):
                yield _UnreadableRow(position, "it has a value in a column without a name")
            elif empty := _empty_column(columns, row):
                yield _UnreadableRow(position, f"the column {empty} is empty")
            else:
                values = zip(columns, row, strict=True)
                yield _Row(position, {column: value for column, value in values if value})
    except csv.Error as error:
        raise _BadRow(f"line {reader.line_num}", f"it is not valid CSV: {error}") from None


def _delimiter(text: str) -> str:
    """Return the character that separates the names in the first line: a comma, a semicolon or a tab."""
    import csv

    heading = next((line for line in re.split(r"[\r\n]", text) if line.strip()), "")

    def columns(delimiter: str) -> int:
        try:
            return len(next(csv.reader([heading], delimiter=delimiter), list[str]()))
        except csv.Error:
            return 0

    return max(",;\t", key=columns)


def _check_columns(names: list[str], position: str) -> list[str]:
    """Return the names of the columns, and those that the service knows in its spelling.

    A repeated name is an error: only one of the columns could be sent. So is a missing one that each document
    needs.
    """
    columns = [name.strip() for name in names]
    columns = [name.lower() if name.lower() in _KNOWN_COLUMNS else name for name in columns]
    repeated = next((column for column in columns if column and columns.count(column) > 1), None)
    if repeated is not None:
        raise _BadRow(position, f"it has {_describe_name('column', repeated)} twice")
    missing = next((column for column in _NEEDED_COLUMNS if column not in columns), None)
    if missing is not None:
        raise _BadRow(
            position,
            f"it has no column {missing}",
            "the first line must have the names of the columns, with name and contact_number",
        )
    return columns


def _empty_column(columns: Sequence[str], row: Sequence[str]) -> str | None:
    """Return the first column that each document needs and that is empty in a row."""
    values = dict(zip(columns, row, strict=True))
    return next((column for column in _NEEDED_COLUMNS if not values[column]), None)


def _describe_name(kind: str, name: str) -> str:
    """Name a column or a key. Only what looks like a field name is shown: others may be personal data."""
    return f"the {kind} {name}" if _FIELD.fullmatch(name) else f"a {kind}"


def _row(text: str, position: str) -> _Row:
    """Return a document from JSON."""
    import json

    value = _decode(text, position)
    if not isinstance(value, dict):
        raise _BadRow(position, "it must be an object with name and contact_number")

    def check_keys(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _BadRow(position, f"it has {_describe_name('key', key)} twice")
            seen.add(key)

    # msgspec silently keeps the last value of a repeated key.
    try:
        json.loads(text, object_pairs_hook=check_keys, parse_int=str)
    except RecursionError:
        raise _BadRow(position, "it is nested too deeply") from None
    return _Row(position, cast("dict[str, Any]", value))


def _decode(text: str, position: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error) if isinstance(error, msgspec.DecodeError) else "it is nested too deeply"
        raise _BadRow(position, f"it is not valid JSON: {reason}") from None
