"""Tables of rows and columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from typing_extensions import override

from upshot.sdk.connection import say_once
from upshot.sdk.media.media_file import AddFile, Media, encode, media_path, to_plain
from upshot.sdk.sdk_errors import InvalidArgument

_MAX_ROWS = 10_000
_DEFAULT_COLUMNS = ("Input", "Output", "Expected")  # W&B's


class Table(Media):
    """
    A table. It is kept as data, up to 10,000 rows.

    Args:
        columns: Names of the columns. By default, `Input`, `Output` and `Expected`.
        data: The rows, an array with two dimensions, or a DataFrame.
        rows: The rows: an older name.
        dataframe: A DataFrame of pandas, in place of `columns` and `data`.
        dtype: Has no effect.
        optional: Has no effect.
        allow_mixed_types: Has no effect: columns may have values of different types.
        log_mode: Has no effect: a table is kept as it is when it is logged.

    Raises:
        ValueError: A row has another length than the columns.
    """

    def __init__(
        self,
        columns: Sequence[str | int] | None = None,
        data: Any = None,
        rows: Sequence[Sequence[Any]] | None = None,
        dataframe: Any = None,
        dtype: Any = None,
        optional: bool | list[bool] = True,
        allow_mixed_types: bool = False,
        log_mode: str | None = "IMMUTABLE",
    ) -> None:
        if dataframe is None and _is_dataframe(data):
            dataframe = data
        self.columns: list[Any]
        self.data: list[list[Any]] = []
        found: Any
        if dataframe is not None:
            if not _is_dataframe(dataframe):
                raise InvalidArgument(f"Table: dataframe= takes a DataFrame, not a {type(dataframe).__name__}")
            self.columns = list(dataframe.columns)
            found = dataframe.values.tolist()
        else:
            self.columns = list(_DEFAULT_COLUMNS if columns is None else columns)
            found = data if data is not None else list(rows or ())
            found = found.tolist() if callable(getattr(found, "tolist", None)) else found
        if any(not isinstance(column, str | int) for column in self.columns):
            raise InvalidArgument(f"Table: columns are texts or numbers, not {self.columns!r}")
        for row in found:
            self.add_data(*row)

    def __repr__(self) -> str:
        return f"<Table {self.columns} with {len(self.data)} rows>"

    def __len__(self) -> int:
        return len(self.data)

    def add_data(self, *data: Any) -> None:
        """
        Add a row.

        Raises:
            ValueError: It has another length than the columns.
        """
        if len(data) != len(self.columns):
            raise InvalidArgument(
                f"Table: this row has {len(data)} values, and the table has {len(self.columns)} columns: "
                f"{', '.join(map(str, self.columns))}"
            )
        self.data.append(list(data))

    def add_row(self, *row: Any) -> None:
        """Add a row, as `add_data`."""
        self.add_data(*row)

    def add_column(self, name: str, data: Any, optional: bool = False) -> None:
        """
        Add a column.

        Args:
            name: Its name, which no other column has.
            data: A value for each row: a list or an array.
            optional: Has no effect.

        Raises:
            ValueError: The name is used, or there are more or fewer values than rows.
        """
        if name in self.columns:
            raise InvalidArgument(f"Table: there is a column {name!r} already; use another name")
        values = list(data)
        if not self.columns:
            self.data = [[] for _ in values]
        if len(values) != len(self.data):
            raise InvalidArgument(f"Table: {name!r} has {len(values)} values, and the table has {len(self.data)} rows")
        self.columns.append(name)
        for row, value in zip(self.data, values, strict=True):
            row.append(value)

    def get_column(self, name: str | int, convert_to: str | None = None) -> Any:
        """
        Return the values of a column.

        Args:
            name: Its name.
            convert_to: `numpy` for an array of NumPy.

        Raises:
            ValueError: There is no such column.
        """
        if name not in self.columns:
            raise InvalidArgument(f"Table: no column {name!r}; there are {', '.join(map(str, self.columns))}")
        if convert_to not in (None, "numpy"):
            raise InvalidArgument(f"Table: convert_to={convert_to!r}: write 'numpy', or leave it out")
        index = self.columns.index(name)
        values = [row[index] for row in self.data]
        if convert_to == "numpy":
            from importlib import import_module

            return import_module("numpy").array(values)
        return values

    def get_dataframe(self) -> Any:
        """Return a DataFrame. pandas must be installed."""
        from importlib import import_module

        return import_module("pandas").DataFrame.from_records(self.data, columns=self.columns)

    def iterrows(self) -> Iterator[tuple[int, list[Any]]]:
        """Yield the rows with their index."""
        yield from enumerate(self.data)

    @override
    def store(self, key: str, step: int, add_file: AddFile) -> dict[str, Any]:
        if len(self.data) > _MAX_ROWS:
            say_once(f"table {key!r}: {len(self.data):,} rows, of which the first {_MAX_ROWS:,} are kept")

        def cell(value: Any, column: Any) -> Any:
            if isinstance(value, Media):
                return value.store(key, step, add_file)
            try:
                return to_plain(value)
            except TypeError as error:
                raise TypeError(f"{key}: column {column!r}: {error}; write numbers, texts or images") from error

        rows = [
            [cell(value, column) for value, column in zip(row, self.columns, strict=True)]
            for row in self.data[:_MAX_ROWS]
        ]
        content = encode({"columns": self.columns, "data": rows})
        path, digest = media_path("table", key, step, content, ".table.json")
        add_file(path, content)
        return {
            "_type": "table",
            "path": path,
            "digest": digest,
            "size": len(content),
            "rows": len(rows),
            "columns": len(self.columns),
        }


def _is_dataframe(value: Any) -> bool:
    """Return whether this is a DataFrame. pandas is not imported."""
    return hasattr(value, "columns") and hasattr(value, "values") and hasattr(value, "iloc")
