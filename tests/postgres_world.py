"""Real PostgreSQL servers of several major versions, with a role for looking and one for maintaining."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
from dbops import sql
from dbops.connections import ConnectionInfo
from dbops.postgres.session import Session
from dbops_lab import connections
from dbops_lab.postgres import ADMIN, DATABASES, Postgres, find_binaries, launcher
from dbops_lab.postgres_versions import binaries
from dbops_lab.supervisor import Supervisor, free_port

TEMPLATE = "granted"
MONITOR, OWNER = "dbops_monitor", "dbops_owner"
WHEEL = 17
SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "max_replication_slots": "4",
    "max_prepared_transactions": "4",
    "autovacuum": "off",
    "max_connections": "60",
    "logging_collector": "on",
    "log_destination": "stderr,csvlog",
    "log_statement": "ddl",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
}


class World:
    """A running server. `monitor` and `owner` are connections as the platform file names them."""

    def __init__(self, server: Postgres, major: int) -> None:
        self.server, self.major, self.port = server, major, server.port
        self.passwords = {role: secrets.token_urlsafe(12) for role in (MONITOR, OWNER)}
        with self.admin() as cursor:
            for role, password in self.passwords.items():
                cursor.execute(f"create role {role} login password %s", [password])
            cursor.execute(f"create database {TEMPLATE}")
        for file in ("grants", "grants_log"):
            grant(server, TEMPLATE, MONITOR, file)

    def info(self, role: str, conn_id: str = "dbops_postgres", database: str = "postgres") -> ConnectionInfo:
        made = connections.info(conn_id, connections.postgres(self.port, role, self.passwords[role]))
        return replace(made, schema=database)

    @contextmanager
    def admin(self, database: str = ADMIN) -> Iterator[Any]:
        """A cursor of the superuser, in autocommit."""
        connection = self.server.connect(ADMIN, database)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def connect(self, database: str, role: str = OWNER) -> psycopg2.extensions.connection:
        info = self.info(role)
        return psycopg2.connect(
            host=info.host, port=info.port, user=role, password=info.password, dbname=database, connect_timeout=5
        )

    def new_database(self) -> str:
        """An empty database of OWNER's, which MONITOR may look at as grants.sql says."""
        name = f"db_{secrets.token_hex(5)}"
        with self.admin() as cursor:
            cursor.execute(f"create database {name} owner {OWNER} template {TEMPLATE}")
        return name

    def run(self, database: str, *statements: str, role: str = OWNER) -> list[tuple[Any, ...]]:
        """Statements in autocommit; rows of the last one."""
        connection = self.connect(database, role)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def settle(self, database: str, *, to_read: bool = True) -> None:
        """Wait until what sessions did is counted: as they end.

        :param to_read: in 14 a collector shows it to readers half a second later.
        """
        until = time.monotonic() + 10
        with self.admin() as cursor:
            while time.monotonic() < until:
                cursor.execute(
                    "select count(*) from pg_stat_activity where datname = %s and backend_type = 'client backend'",
                    [database],
                )
                if cursor.fetchall() == [(0,)]:
                    break
                time.sleep(0.02)
        time.sleep(0.7 if self.major == 14 and to_read else 0.05)

    def session(self, database: str, role: str = MONITOR, **options: Any) -> Session:
        return Session(self.info(role), database=database, **options)


def grant(server: Postgres, database: str, role: str, file: str = "grants") -> None:
    """grants.sql and its like, as their headers say: by psql, as the superuser."""
    command = [str(server.binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"monitor={role}", "-h",
               "127.0.0.1", "-p", str(server.port), "-U", ADMIN, "-d", database,
               "-f", str(sql.DIRECTORY / "postgres" / f"{file}.sql")]  # fmt: skip
    environment = os.environ | {"PGPASSWORD": server.passwords[ADMIN]}
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


def start_standby(supervisor: Supervisor, primary: World) -> Postgres:
    """A second server that streams from the first one."""
    state = supervisor.state / f"standby-{primary.major}"
    state.mkdir()
    of = primary.server
    standby = Postgres(state, free_port(), of.passwords, guarded=True, binaries=of.binaries, settings=SETTINGS)
    command = [*launcher(of.binaries), str(of.binaries / "pg_basebackup"), "-D", str(state / "postgres"), "-R", "-h",
               "127.0.0.1", "-p", str(of.port), "-U", ADMIN, "-c", "fast", "--no-sync"]  # fmt: skip
    subprocess.run(command, env=os.environ | {"PGPASSWORD": of.passwords[ADMIN]}, check=True, capture_output=True)
    standby.part = replace(standby.part, name=state.name)
    supervisor.start(standby.part)
    supervisor.wait([standby.part])
    return standby


_started: dict[tuple[Path, int], World] = {}


def world_of(supervisor: Supervisor, major: int) -> World:
    """The server of that major version, started when it is first asked for; it ends with the supervisor."""
    key = (supervisor.state, major)
    if key not in _started:
        _started[key] = _start(supervisor, major)
    return _started[key]


def _start(supervisor: Supervisor, major: int) -> World:
    state = supervisor.state / f"postgres-{major}"
    state.mkdir()
    passwords = {name: secrets.token_urlsafe(12) for name in (ADMIN, *DATABASES)}
    folder = find_binaries() if major == WHEEL else binaries(major)
    server = Postgres(state, free_port(), passwords, guarded=True, binaries=folder, settings=SETTINGS)
    server.part = replace(server.part, name=f"postgres-{major}")  # the supervisor tells its parts apart by name
    server.create()
    supervisor.start(server.part)
    supervisor.wait([server.part])
    return World(server, major)
