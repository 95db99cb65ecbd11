"""What the cluster remembers of statements, loads, unloads and maintenance, for the STL_ and SYS_ views.

It is written apart from the clients' transactions, as on the real system: what was rolled back is remembered too.
A record is one append to a list; tables are filled when somebody looks or a second has passed.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg2
from psycopg2 import sql

KINDS = ("query", "load", "load_file", "load_error", "unload", "unload_file", "vacuum", "analyze", "alert", "scan")
Connect = Callable[[], psycopg2.extensions.connection]


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class Journal:
    """Records by kind; each has a number that only grows (`seq`)."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection = connect()
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._recent: deque[tuple[int, str, dict[str, Any]]] = deque(maxlen=20_000)
        self.seq, self._query_id, self._xid = self._last()
        self.flushed = self.seq

    def _last(self) -> tuple[int, int, int]:
        with self._connection.cursor() as cursor:
            parts = " UNION ALL ".join(f"SELECT max(seq) FROM rs.j_{kind}" for kind in KINDS)
            cursor.execute(f"SELECT coalesce(max(max), 0) FROM ({parts}) q(max)")
            seq = cursor.fetchone()
            cursor.execute("SELECT coalesce(max(query_id), 100), coalesce(max(xid), 1000) FROM rs.j_query")
            last = cursor.fetchone()
        assert seq is not None
        assert last is not None
        return int(seq[0]), int(last[0]), int(last[1])

    def next_query_id(self) -> int:
        with self._lock:
            self._query_id += 1
            return self._query_id

    def next_xid(self) -> int:
        with self._lock:
            self._xid += 1
            return self._xid

    def add(self, kind: str, /, **values: Any) -> None:
        with self._lock:
            self.seq += 1
            record = {"seq": self.seq, **values}
            self._waiting.append((kind, record))
            self._recent.append((self.seq, kind, record))

    def flush(self) -> None:
        """Everything recorded so far is in the tables when this returns."""
        with self._write_lock:
            with self._lock:
                waiting, self._waiting = self._waiting, []
                seq = self.seq
            try:
                self._write(waiting)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):  # PostgreSQL was started anew
                self._connection.close()
                try:
                    self._connection = self._connect()
                    self._write(waiting)
                except psycopg2.Error:
                    with self._lock:
                        self._waiting = waiting + self._waiting
                    raise
            self.flushed = seq

    def _write(self, waiting: list[tuple[str, dict[str, Any]]]) -> None:
        if not waiting:
            return
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for kind, record in waiting:
            by_kind.setdefault(kind, []).append(record)
        with self._connection.cursor() as cursor:
            cursor.execute("BEGIN")
            for kind, records in by_kind.items():
                planted = [record for record in records if "candidates" not in record]
                named = [record for record in records if "candidates" in record]
                if named:
                    cursor.execute("SELECT rs.write_scans(%s)", [json.dumps(named, default=str)])
                if planted:
                    statement = "INSERT INTO {0} SELECT * FROM json_populate_recordset(null::{0}, %s)"
                    table = sql.Identifier("rs", f"j_{kind}")
                    cursor.execute(sql.SQL(statement).format(table), [json.dumps(planted, default=str)])
            cursor.execute("COMMIT")

    def tail(self, after: int) -> dict[str, list[dict[str, Any]]]:
        """Records with a higher number, for a transaction whose snapshot is older than they are."""
        with self._lock:
            found: dict[str, list[dict[str, Any]]] = {}
            for seq, kind, record in reversed(self._recent):
                if seq <= after:
                    break
                found.setdefault(kind, []).insert(0, record)
            return found
