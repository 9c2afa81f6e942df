"""Whole batches of rows in one statement: each batch travels as one JSON parameter, on SQLite and PostgreSQL alike.

Django's bulk_create and bulk_update build one placeholder a value; at our rates that costs more than the database does. Tables
and columns still come from the models. This file knows no table by name; transactions are the caller's.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from django.db import connection, models

Row = Sequence[Any]


def json_text(value: Any) -> str:
    """Serialise a value for a JSON column or a stream field; instants become ISO 8601."""
    return orjson.dumps(value).decode()


def instant(value: Any) -> Any:
    """Read an instant from a raw row: SQLite gives text or a naive datetime, both in UTC without saying so."""
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    return None


def _sqlite_instant(value: Any) -> str:
    if isinstance(value, datetime):  # as Django's SQLite backend stores it
        return str(value.astimezone(UTC).replace(tzinfo=None))
    raise TypeError(f"{type(value).__name__} can't be stored in a bulk row")


def _parameter(rows: Sequence[Row]) -> str:
    if connection.vendor == "sqlite":
        return orjson.dumps(rows, default=_sqlite_instant, option=orjson.OPT_PASSTHROUGH_DATETIME).decode()
    return orjson.dumps(rows).decode()


@lru_cache(maxsize=512)
def _select(model: type[models.Model], columns: tuple[str, ...], vendor: str) -> tuple[str, list[str]]:
    """Give `SELECT … FROM the JSON parameter` with one output per column, and the columns' quoted names."""
    fields = [model._meta.get_field(name) for name in columns]
    names = [connection.ops.quote_name(str(field.column)) for field in fields]  # type: ignore[union-attr]
    if vendor == "sqlite":
        parts = [f"json_extract(value, '$[{i}]') AS {name}" for i, name in enumerate(names)]
        return f"SELECT {', '.join(parts)} FROM json_each(%s)", names  # noqa: S608 - names come from the models
    types = [field.rel_db_type(connection) if field.is_relation else field.db_type(connection) for field in fields]  # type: ignore[union-attr]
    types = [str(kind).split(" GENERATED")[0] for kind in types]
    parts = [f"(value->>{i})::{kind} AS {name}" for i, (name, kind) in enumerate(zip(names, types, strict=True))]
    return f"SELECT {', '.join(parts)} FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS e(value, n)", names  # noqa: S608


def insert(
    model: type[models.Model],
    columns: tuple[str, ...],
    rows: Sequence[Row],
    *,
    returning: str = "",
    on_conflict: str = "",
    conflict_values: Sequence[Any] = (),
) -> list[tuple[Any, ...]]:
    """Insert rows in order, each a sequence of plain values (JSON columns as text) in the order of `columns`.

    `on_conflict` is the clause after ON CONFLICT, e.g. `DO NOTHING`, with its parameters in `conflict_values`; `returning`
    names columns to give back for each row that was inserted or updated.
    """
    if not rows:
        return []
    select, names = _select(model, columns, connection.vendor)
    order = " ORDER BY n" if connection.vendor == "postgresql" else " WHERE true"
    sql = f"INSERT INTO {model._meta.db_table} ({', '.join(names)}) {select}{order}"  # noqa: S608
    if on_conflict:
        sql += f" ON CONFLICT {on_conflict}"
    return _run(sql, rows, returning, conflict_values)


def update(
    model: type[models.Model],
    keys: tuple[str, ...],
    columns: tuple[str, ...],
    rows: Sequence[Row],
    *,
    given: tuple[str, ...] = (),
    extra_set: str = "",
    where: str = "",
    returning: str = "",
) -> list[tuple[Any, ...]]:
    """Update rows found by `keys`, each row holding the values of `keys`, `columns` and `given`, in this order.

    `extra_set` and `where` may speak of the stored row as `t` and of the given one as `r`, whose columns `given` are for them
    alone. Rows that don't match are left alone: compare what `returning` gives back with what was asked.
    """
    if not rows:
        return []
    select, names = _select(model, keys + columns + given, connection.vendor)
    match = " AND ".join(f"t.{name} = r.{name}" for name in names[: len(keys)])
    sets = [f"{name} = r.{name}" for name in names[len(keys) : len(keys) + len(columns)]]
    if extra_set:
        sets.append(extra_set)
    sql = f"UPDATE {model._meta.db_table} AS t SET {', '.join(sets)} FROM ({select}) AS r WHERE {match}"  # noqa: S608
    if where:
        sql += f" AND ({where})"
    if connection.vendor == "sqlite":
        returning = returning.replace("t.", "")  # it knows no alias there, PostgreSQL can't do without
    return _run(sql, rows, returning)


def _run(sql: str, rows: Sequence[Row], returning: str, more: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    if returning:
        sql += f" RETURNING {returning}"
    with connection.cursor() as cursor:
        cursor.execute(sql, [_parameter(rows), *more])
        return list(cursor.fetchall()) if returning else []


def membership(column: str, *, integers: bool = False) -> str:
    """Give the condition `column is one of the JSON list given as parameter`, whatever the list's length."""
    if connection.vendor == "sqlite":
        return f"{column} IN (SELECT value FROM json_each(%s))"  # noqa: S608 - a column's name
    cast = "::bigint" if integers else ""
    return f"{column} IN (SELECT value{cast} FROM jsonb_array_elements_text(%s::jsonb))"  # noqa: S608
