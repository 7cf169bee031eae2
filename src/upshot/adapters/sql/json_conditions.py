"""Conditions on columns with JSON text, for both databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB


def json_contains(dialect: str, column: sa.Column[Any], item: str) -> sa.ColumnElement[bool]:
    """Build a condition: the JSON list in the column contains the text."""
    text = sa.type_coerce(column, sa.Text)
    if dialect == "postgresql":
        return sa.cast(text, JSONB).op("@>")(_jsonb([item]))
    items = sa.func.json_each(text).table_valued("value")
    return sa.exists(sa.select(sa.literal(1)).select_from(items).where(items.c.value == item))


def json_equals(dialect: str, column: sa.Column[Any], path: Sequence[str], value: Any) -> sa.ColumnElement[bool]:
    """
    Build a condition: the JSON object in the column has a value under nested keys.

    Args:
        dialect: Name of the database's dialect.
        column: Holds a JSON object as text.
        path: The keys, the outermost first.
        value: A JSON value that is not an object or a list.
    """
    text = sa.type_coerce(column, sa.Text)
    if dialect == "postgresql":
        found = sa.func.jsonb_extract_path(sa.cast(text, JSONB), *path)
        return found == _jsonb(value)
    json_path = "$" + "".join(f".{orjson.dumps(key).decode()}" for key in path)
    found_type, found = sa.func.json_type(text, json_path), sa.func.json_extract(text, json_path)
    if value is None or isinstance(value, bool):
        return found_type == orjson.dumps(value).decode()
    if isinstance(value, str):
        return sa.and_(found_type == "text", found == value)
    return sa.and_(found_type.in_(["integer", "real"]), found == value)


def _jsonb(value: Any) -> sa.ColumnElement[Any]:
    """Build a JSONB value. The text is not typed as JSON, which SQLAlchemy would serialize once more."""
    return sa.cast(sa.literal(orjson.dumps(value).decode(), sa.Text), JSONB)
