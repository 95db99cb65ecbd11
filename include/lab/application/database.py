"""The application's PostgreSQL database: made, filled by COPY, emptied."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from decimal import Decimal
from importlib import resources
from typing import Any

import psycopg2
from dbops.connections import ConnectionInfo
from dbops_lab.application.world import Row, World, json_text
from psycopg2 import sql

CONN_ID = "dbops_app"
CHUNK = 4 << 20

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "accounts": ("id", "name", "status", "country", "currency", "timezone", "credit_limit", "settings",
                 "created_at", "updated_at"),
    "campaigns": ("id", "account_id", "name", "status", "currency", "budget_total", "budget_daily", "starts_at",
                  "ends_at", "is_test", "frequency_cap", "labels", "notes", "version", "created_at", "updated_at"),
    "line_items": ("id", "campaign_id", "name", "status", "max_bid", "budget_daily", "pacing", "win_rate_goal",
                   "priority", "segments", "targeting", "is_guaranteed", "starts_at", "ends_at", "created_at",
                   "updated_at"),
    "creatives": ("id", "line_item_id", "name", "status", "kind", "width", "height", "landing_url", "markup",
                  "duration_seconds", "metadata", "is_approved", "created_at", "updated_at"),
    "targeting_rules": ("line_item_id", "kind", "is_exclusion", "value", "created_at"),
    "spend_tracking": ("line_item_id", "day", "campaign_id", "spent", "budget", "impressions", "clicks", "pacing",
                       "keep_until", "updated_at"),
    "audit_log": ("at", "actor", "action", "entity", "entity_id", "before", "after", "address"),
    "user_sessions": ("id", "account_id", "email", "token_hash", "address", "user_agent", "started_at",
                      "last_seen_at", "expires_at"),
    "api_access_log": ("at", "session_id", "method", "path", "status", "duration_ms", "response_bytes"),
}  # fmt: skip
"""The columns that the world fills, in the order in which tables refer to each other."""

SYNCED = ("campaigns", "line_items", "creatives", "spend_tracking")


@dataclass(frozen=True)
class Database:
    """The database behind a connection; each call of `connect` is a session of its own."""

    info: ConnectionInfo

    def connect(self, application: str = "lab") -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host=self.info.host, port=self.info.port, user=self.info.login, password=self.info.password,
            dbname=self.info.schema, connect_timeout=5, application_name=application, options="-c timezone=UTC",
        )  # fmt: skip

    def create(self) -> None:
        """Make the tables, unless they are there."""
        with self.session() as cursor:
            cursor.execute("select to_regclass('public.goose_db_version')")
            if cursor.fetchone() == (None,):
                cursor.execute(resources.files("dbops_lab.application").joinpath("schema.sql").read_text())

    def seed(self, world: World) -> dict[str, int]:
        """Replace all rows by those of the world, in one transaction; how many rows each table got.

        Nothing is noted for the syncer: `publish.publish_all` puts the records where they belong.
        """
        done = {}
        with self.session() as cursor:
            names = sql.SQL(", ").join(map(sql.Identifier, (*COLUMNS, "sync_outbox", "sync_status")))
            cursor.execute(sql.SQL("truncate {} restart identity").format(names))
            for table, columns in COLUMNS.items():
                name = sql.Identifier(table)
                cursor.execute(sql.SQL("alter table {} disable trigger user").format(name))
                copy = sql.SQL("copy {} ({}) from stdin").format(name, sql.SQL(", ").join(map(sql.Identifier, columns)))
                cursor.copy_expert(copy, _Stream(copy_text(world.rows(table))))
                done[table] = cursor.rowcount
                cursor.execute(sql.SQL("alter table {} enable trigger user").format(name))
            cursor.execute("delete from lab_world")
            names = [one.name for one in fields(world)]
            insert = sql.SQL("insert into lab_world ({}) values %s").format(
                sql.SQL(", ").join(map(sql.Identifier, names))
            )
            cursor.execute(insert, [tuple(getattr(world, name) for name in names)])
            for table in SYNCED:
                cursor.execute("insert into sync_status (table_name, sync_status) values (%s, 'new')", [table])
        with self.connect() as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("analyze")
        connection.close()
        return done

    def world(self) -> World:
        """The world that the rows were made from.

        :raises LookupError: there is none yet.
        """
        with self.session() as cursor:
            cursor.execute("select * from lab_world")
            row = cursor.fetchone()
            if row is None:
                raise LookupError(f"{self.info.conn_id}: nothing was seeded")
            return World(**dict(zip([column.name for column in cursor.description or ()], row, strict=True)))

    def session(self) -> _Session:
        """A transaction in a session of its own: `with database.session() as cursor`."""
        return _Session(self)


class _Session:
    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> psycopg2.extensions.cursor:
        self._connection = self._database.connect()
        return self._connection.cursor()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._connection.rollback() if kind else self._connection.commit()
        finally:
            self._connection.close()


class _Stream(io.RawIOBase):
    """Chunks of text as the file that psycopg2 reads from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _escaped(text: str) -> str:
    return text if text.isprintable() and "\\" not in text else text.translate(_ESCAPES)


def _array(values: list[Any]) -> str:
    """An array's literal, every text of it quoted."""
    parts = (str(v) if isinstance(v, int) else '"' + re.sub(r'(["\\])', r"\\\1", v) + '"' for v in values)
    return _escaped("{" + ",".join(parts) + "}")


_WRITERS: Mapping[type, Callable[[Any], str]] = {
    str: _escaped,
    bool: lambda value: "t" if value else "f",
    int: str,
    float: repr,
    Decimal: lambda value: format(value, "f"),
    datetime: lambda value: value.isoformat(" "),
    date: date.isoformat,
    dict: lambda value: _escaped(json_text(value)),
    list: _array,
    bytes: lambda value: "\\\\x" + value.hex(),
    type(None): lambda value: "\\N",
}
"""Values in the text format of COPY. Every list is an array: jsonb holds objects here."""


def copy_text(rows: Iterator[Row]) -> Iterator[bytes]:
    """Rows in the text format of COPY, in chunks."""
    parts: list[str] = []
    size = 0
    for row in rows:
        line = "\t".join([_WRITERS[type(value)](value) for value in row])
        parts.append(line)
        size += len(line)
        if size > CHUNK:
            yield ("\n".join(parts) + "\n").encode()
            parts, size = [], 0
    if parts:
        yield ("\n".join(parts) + "\n").encode()
