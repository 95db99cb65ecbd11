"""What the tests of the Redshift stand-in share: short ways to ask it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redshift_connector import InterfaceError, ProgrammingError


def rows(connection: Any, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return [tuple(row) for row in cursor.fetchall()]


def value(connection: Any, sql: str, *parameters: Any) -> Any:
    """The only value of the only row."""
    ((found,),) = rows(connection, sql, *parameters)
    return found


def run(connection: Any, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def named(connection: Any, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    """Rows by column name; texts of fixed length without their padding."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        names = [column[0] for column in cursor.description]
        return [
            {name: found.rstrip() if isinstance(found, str) else found for name, found in zip(names, row, strict=True)}
            for row in cursor.fetchall()
        ]


def table_info(connection: Any, table: str) -> dict[str, Any]:
    """The table's row of svv_table_info, empty when there is none."""
    found = named(
        connection, 'SELECT * FROM svv_table_info WHERE schema = %s AND "table" = %s', connection.schema, table
    )
    return found[0] if found else {}


def error(statement: Callable[[], Any]) -> dict[str, str]:
    """The fields of the error that it raises: C is the code, M the message, D the detail."""
    with pytest.raises(ProgrammingError) as raised:
        statement()
    found: dict[str, str] = raised.value.args[0]
    return found


def lost(connection: Any, *statements: str) -> None:
    """The connection ends when it runs these."""
    with pytest.raises(InterfaceError):
        run(connection, *statements)
    connection._usock.close()  # close() would ask the server


def refusal(connection: Any, sql: str, *parameters: Any) -> tuple[str, str]:
    """Code and message with which a statement is refused."""
    found = error(lambda: rows(connection, sql, *parameters))
    return found["C"], found["M"]
