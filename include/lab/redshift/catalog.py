"""Installs in a database of PostgreSQL what makes it look like Redshift: notes, functions, system views."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psycopg2
from dbops_lab.redshift.statements import PARAMETERS
from psycopg2 import sql

HERE = Path(__file__).parent
FILES = ("tables.sql", "journal.sql", "functions.sql", "internals.sql")
VIEWS = "views"
DATABASE_SETTINGS = {
    "default_transaction_isolation": "repeatable read",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "on",
    "timezone": "UTC",
    **{f"rs.{name}": value for name, value in PARAMETERS.items()},
}


def scripts() -> list[str]:
    """The scripts, in the order they run."""
    views = sorted((HERE / VIEWS).glob("*.sql"))
    return [(HERE / name).read_text() for name in FILES] + [path.read_text() for path in views]


def install(connection: psycopg2.extensions.connection, database: str) -> None:
    """Install it, unless the database has this version of it already; an older one is replaced."""
    texts = scripts()
    version = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    with connection.cursor() as cursor:
        cursor.execute("SELECT obj_description(to_regnamespace('rs'), 'pg_namespace')")
        found = cursor.fetchone()
        if found and found[0] == version:
            return
        if found and found[0]:
            raise RuntimeError(f"database {database} holds another version of the Redshift stand-in: make the lab anew")
        # Synchronous: the lab's PostgreSQL may lose the last moment when it is killed, and this is made only once.
        cursor.execute("SET synchronous_commit = on; SET allow_system_table_mods = on; SET check_function_bodies = off")
        cursor.execute("BEGIN")
        for text in texts:
            cursor.execute(text)
        cursor.execute(sql.SQL("COMMENT ON SCHEMA rs IS {}").format(sql.Literal(version)))
        cursor.execute("COMMIT")
        for name, value in DATABASE_SETTINGS.items():
            statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
            parts = sql.SQL(".").join(map(sql.Identifier, name.split(".")))
            cursor.execute(statement.format(sql.Identifier(database), parts, sql.Literal(value)))
