"""Tables of pyarrow, Polars and pandas with the columns of a Parquet export."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from unpod_async._tables.columns import COLUMNS, RowKind, arrow_schema, split_into_cells
from unpod_async.errors import ConfigurationError

__all__ = ["TableBuilder", "import_package"]


def import_package(name: str, purpose: str, hint: str) -> Any:
    """Import an optional package.

    Args:
        purpose: what needs the package, as the first word of a sentence.
        hint: how to install the package.

    Raises:
        ConfigurationError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = str(error)
    raise ConfigurationError(
        f"{purpose} needs {name.partition('.')[0]}, which cannot be imported: {reason}", hint=hint
    )


class TableBuilder:
    """Collects rows, column by column, and makes a table of them."""

    def __init__(self, kind: RowKind) -> None:
        self._kind: RowKind = kind
        self._values: list[list[Any]] = [[] for _ in COLUMNS[kind]]

    def add(self, rows: Iterable[bytes]) -> None:
        """Append rows, each as one JSON object."""
        for row in rows:
            for values, cell in zip(self._values, split_into_cells(self._kind, row), strict=True):
                values.append(cell)

    def to_arrow(self, arrow: Any) -> Any:
        """Return a `pyarrow.Table`, with the schema of a Parquet export."""
        schema = arrow_schema(arrow, self._kind)
        arrays = [arrow.array(values, field.type) for values, field in zip(self._values, schema, strict=True)]
        return arrow.Table.from_arrays(arrays, schema=schema)

    def to_polars(self, polars: Any) -> Any:
        """Return a `polars.DataFrame`."""
        types = {
            "text": polars.String,
            "json": polars.String,
            "integer": polars.Int64,
            "number": polars.Float64,
            "timestamp": polars.Datetime("us", "UTC"),
        }
        columns = zip(COLUMNS[self._kind], self._values, strict=True)
        return polars.DataFrame([
            polars.Series(column.name, values, types[column.kind]) for column, values in columns
        ])

    def to_pandas(self, pandas: Any) -> Any:
        """Return a `pandas.DataFrame`. Its types can all hold a missing value."""
        types = {
            "text": "string",
            "json": "string",
            "integer": "Int64",
            "number": "Float64",
            "timestamp": "datetime64[us, UTC]",
        }
        columns = zip(COLUMNS[self._kind], self._values, strict=True)
        return pandas.DataFrame({
            column.name: pandas.Series(values, dtype=types[column.kind]) for column, values in columns
        })
