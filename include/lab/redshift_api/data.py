"""What a snapshot holds and a restored cluster serves: a dump of its PostgreSQL, and the stand-in's notes."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2
from dbops_lab.postgres import find_binaries
from dbops_lab.redshift import catalog
from dbops_lab.redshift.proxy import Proxy
from psycopg2 import sql
from psycopg2.extras import Json

LOOPBACK = "127.0.0.1"
NOTES = ("table_note", "table_key", "change", "principal", "privilege", "system_privilege")
"""Tables of schema `rs` whose rows belong to the data; the others are history, which no snapshot holds."""


@dataclass(frozen=True)
class Place:
    """Where the data of a cluster or workgroup is.

    :param port: of the stand-in that clients connect to.
    :param database: as clients name it.
    :param postgres_database: as PostgreSQL names it.
    """

    port: int
    database: str
    postgres_port: int
    postgres_database: str
    admin: tuple[str, str] = field(repr=False)
    owner: str = ""
    s3_endpoint: str = ""
    is_serverless: bool = False

    def connect(self, database: str | None = None) -> psycopg2.extensions.connection:
        user, password = self.admin
        return psycopg2.connect(
            host=LOOPBACK, port=self.postgres_port, user=user, password=password,
            dbname=database or self.postgres_database, application_name="rs",
        )  # fmt: skip


@dataclass(frozen=True)
class Dump:
    """A warehouse at one moment."""

    file: Path
    notes: dict[str, list[dict[str, Any]]]
    place: Place

    @property
    def megabytes(self) -> float:
        return round(self.file.stat().st_size / 1e6, 3)


class Warehouses:
    """The data of all clusters and workgroups, and of their snapshots."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.dumps: dict[str, Dump] = {}
        self._proxies: dict[str, Proxy] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="redshift-snapshots-")
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    # ------------------------------------------------------------------ snapshots

    def dump(self, source: str, snapshot: str) -> Dump:
        """Keep what a warehouse holds now; its sessions go on meanwhile."""
        place = self.places[source]
        file = Path(self._folder.name) / f"{next(self._numbers)}.dump"
        connection = place.connect()
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_export_snapshot()")
                found = cursor.fetchone()
                assert found is not None
                notes = {name: _notes(cursor, name) for name in NOTES}
                words = ["--format=custom", "--compress=0", f"--snapshot={found[0]}", "--exclude-schema=rs"]
                _run("pg_dump", place, [*words, f"--file={file}", place.postgres_database])
        finally:
            connection.close()
        made = self.dumps[snapshot] = Dump(file, notes, place)
        return made

    def forget(self, snapshot: str) -> None:
        dump = self.dumps.pop(snapshot, None)
        if dump is not None:
            dump.file.unlink(missing_ok=True)

    # ------------------------------------------------------------------ clusters

    def restore(self, dump: Dump, target: str) -> Place:
        """Serve the data of a snapshot at an address of its own."""
        database = f"restored_{secrets.token_hex(6)}"
        source = dump.place
        connection = source.connect("postgres")
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                made = "CREATE DATABASE {} OWNER {} TEMPLATE template0"
                cursor.execute(sql.SQL(made).format(sql.Identifier(database), sql.Identifier(source.owner)))
        finally:
            connection.close()
        connection = source.connect(database)
        connection.autocommit = True
        try:
            catalog.install(connection, database)
            _run("pg_restore", source, ["--exit-on-error", f"--dbname={database}", str(dump.file)])
            with connection.cursor() as cursor:
                for name, rows in dump.notes.items():
                    _take_notes(cursor, name, rows)
        finally:
            connection.close()
        proxy = Proxy(
            postgres_port=source.postgres_port, database=source.database, postgres_database=database,
            admin=source.admin, s3_endpoint=source.s3_endpoint, is_serverless=source.is_serverless,
        )  # fmt: skip
        place = replace(source, port=proxy.listen(0), postgres_database=database)
        with self._lock:
            self.places[target], self._proxies[target] = place, proxy
        return place

    def drop(self, target: str) -> None:
        """A deleted cluster's data is gone; that of the lab's own warehouse stays."""
        with self._lock:
            place, proxy = self.places.pop(target, None), self._proxies.pop(target, None)
        if place is not None and proxy is not None:
            threading.Thread(target=self._drop, args=(place, proxy), daemon=True).start()

    def _drop(self, place: Place, proxy: Proxy) -> None:
        proxy.close()
        connection = place.connect("postgres")
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            gone = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            cursor.execute(gone.format(sql.Identifier(place.postgres_database)))

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()
        self._folder.cleanup()


def _run(program: str, place: Place, words: list[str]) -> None:
    user, password = place.admin
    command = [str(find_binaries() / program), "-h", LOOPBACK, "-p", str(place.postgres_port), "-U", user, *words]
    done = subprocess.run(
        command, env=os.environ | {"PGPASSWORD": password}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{program} of {place.postgres_database} failed: {done.stderr.strip()[-500:]}")


def _notes(cursor: Any, table: str) -> list[dict[str, Any]]:
    """Rows of a table of notes. A table's number is another one in another database, so it goes by name there."""
    cursor.execute(sql.SQL("SELECT r.* FROM rs.{} r LIMIT 0").format(sql.Identifier(table)))
    query = "SELECT r.* FROM rs.{} r"
    if "relid" in [column.name for column in cursor.description]:
        query = (
            "SELECT r.*, format('%I.%I', n.nspname, c.relname) AS relid FROM rs.{} r "
            "JOIN pg_class c ON c.oid = r.relid JOIN pg_namespace n ON n.oid = c.relnamespace"
        )
    cursor.execute(sql.SQL(query).format(sql.Identifier(table)))
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]  # the second `relid` wins


def _take_notes(cursor: Any, table: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        statement = sql.SQL("INSERT INTO rs.{} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.SQL("%s::regclass") if name == "relid" else sql.Placeholder() for name in row),
        )
        cursor.execute(statement, [Json(value) if isinstance(value, dict) else value for value in row.values()])
