"""The listener: one thread for each client, and what all of them share."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from functools import cached_property
from typing import Any

import psycopg2
from dbops_lab.redshift import catalog
from dbops_lab.redshift.faults import Faults
from dbops_lab.redshift.handshake import greet
from dbops_lab.redshift.journal import Journal
from dbops_lab.redshift.session import Session
from dbops_lab.redshift.wire import CANCEL, Disconnected, Wire
from dbops_lab.s3 import REGION
from psycopg2 import sql

LOOPBACK = "127.0.0.1"
FLUSH_SECONDS = 1.0
OPTIONS = (
    "-c standard_conforming_strings=on -c default_transaction_isolation=read\\ committed -c search_path=pg_catalog"
)


class Proxy:
    """One Redshift database in front of one of PostgreSQL.

    :param database: as clients name it.
    :param postgres_database: as PostgreSQL names it, if otherwise: a restored warehouse keeps the name of its source.
    :param admin: role and password of PostgreSQL's administrator, for what the clients' roles may not.
    :param s3_endpoint: empty = COPY and UNLOAD are refused.
    """

    def __init__(
        self,
        *,
        postgres_port: int,
        database: str,
        admin: tuple[str, str],
        postgres_database: str = "",
        s3_endpoint: str = "",
        is_serverless: bool = False,
    ) -> None:
        self.database = database
        self.postgres_database = postgres_database or database
        self.is_serverless = is_serverless
        self.faults = Faults()
        self._s3_endpoint = s3_endpoint
        self._postgres_port = postgres_port
        self._admin = admin
        self._sessions: dict[tuple[int, bytes], Session] = {}
        self._lock = threading.Lock()
        with contextlib.closing(self.connect_admin()) as connection:
            catalog.install(connection, self.postgres_database)
        self.journal = Journal(self.connect_admin)
        self._listener: socket.socket | None = None
        self._is_closed = threading.Event()

    @cached_property
    def s3(self) -> Any:
        """A client of boto3, with the keys that it finds; None without an endpoint."""
        if not self._s3_endpoint:
            return None
        import boto3  # here: COPY and UNLOAD are not in every session's life
        from botocore.config import Config

        return boto3.client("s3", endpoint_url=self._s3_endpoint, region_name=REGION, config=Config(proxies={}))

    def connect_admin(self) -> psycopg2.extensions.connection:
        role, password = self._admin
        connection = psycopg2.connect(
            host=LOOPBACK, port=self._postgres_port, user=role, password=password, dbname=self.postgres_database,
            application_name="rs", options=OPTIONS,
        )  # fmt: skip
        connection.autocommit = True
        return connection

    def connect_postgres(self) -> socket.socket:
        return socket.create_connection((LOOPBACK, self._postgres_port))

    # ------------------------------------------------------------------ clients

    def listen(self, port: int) -> int:
        """Serve on that port (0 = a free one); the port."""
        self._listener = socket.create_server((LOOPBACK, port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._flush, daemon=True).start()
        found: int = self._listener.getsockname()[1]
        return found

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Wire(connection),), daemon=True).start()

    def _serve(self, client: Wire) -> None:
        """One client, from its first packet to its last."""
        try:
            opened = greet(client, self)
            if opened is None:
                return
            session = Session(client, opened, self)
            name = (opened.pid, opened.key)
            with self._lock:
                self._sessions[name] = session
            try:
                session.run()
            finally:
                with self._lock:
                    del self._sessions[name]
        except (Disconnected, OSError):
            pass
        finally:
            client.close()

    def _flush(self) -> None:
        while not self._is_closed.wait(FLUSH_SECONDS):
            with contextlib.suppress(psycopg2.Error):
                self.journal.flush()

    def close(self) -> None:
        self._is_closed.set()
        if self._listener is not None:
            self._listener.close()
        with contextlib.suppress(psycopg2.Error):
            self.journal.flush()

    def cancel(self, pid: int, key: bytes) -> None:
        """A client asked, over a connection of its own, that another's statement end."""
        with self._lock:
            session = self._sessions.get((pid, key))
        if session is None:
            return
        session.upstream.is_cancelled = True
        with contextlib.suppress(OSError), self.connect_postgres() as connection:
            connection.sendall(struct.pack("!iii4s", 16, CANCEL, pid, key))
            connection.recv(1)

    def sessions(self) -> list[dict[str, Any]]:
        """Who is connected, and what runs."""
        with self._lock:
            found = list(self._sessions.values())
        return [session.history.as_session() for session in found]

    # ------------------------------------------------------------------ maintenance of PostgreSQL itself

    def compact(self, table_id: int) -> None:
        """Replace the many changes of a table by their sum."""
        with contextlib.closing(self.connect_admin()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT rs.compact(%s)", [table_id])

    def vacuum_postgres(self, table_id: int) -> None:
        """Give back the space of deleted rows, as far as nobody holds the table."""
        with contextlib.closing(self.connect_admin()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
                           " WHERE c.oid = %s", [table_id])  # fmt: skip
            names = cursor.fetchone()
            if names is None:
                return
            table = sql.Identifier(*names)
            cursor.execute("SET lock_timeout = '500ms'")
            try:
                cursor.execute(sql.SQL("VACUUM (FULL) {}").format(table))
            except psycopg2.errors.LockNotAvailable:
                cursor.execute(sql.SQL("VACUUM (SKIP_LOCKED) {}").format(table))
