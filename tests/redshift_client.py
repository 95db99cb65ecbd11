"""What tests of the Redshift stand-in share."""

from __future__ import annotations

from typing import Any


def rows(connection: Any, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return [tuple(row) for row in cursor.fetchall()]


def run(connection: Any, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def table_info(connection: Any, table: str) -> dict[str, Any]:
    """The table's row of svv_table_info."""
    with connection.cursor() as cursor:
        cursor.execute('SELECT * FROM svv_table_info WHERE schema = %s AND "table" = %s', (connection.schema, table))
        found = cursor.fetchone()
        return dict(zip([column[0] for column in cursor.description], found, strict=True)) if found else {}
