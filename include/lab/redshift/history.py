"""What one connection is and did, for the journal and for the views of what runs now."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from dbops_lab.redshift.journal import Journal, now
from dbops_lab.redshift.lexer import identifier
from dbops_lab.redshift.statements import Plan

_SECRET = re.compile(
    r"(\b(?:credentials|password|access_key_id|secret_access_key|session_token|master_symmetric_key)\b\s*(?:as\s*)?)"
    r"'(?:[^'\\]|''|\\.)*'",
    re.IGNORECASE,
)


class History:
    """One connection.

    :param last: what the functions `pg_last_...()` answer in it.
    """

    def __init__(self, journal: Journal, user: str, database: str, application: str, pid: int) -> None:
        self.journal = journal
        self.user = user
        self.database = database
        self.application = application
        self.pid = pid
        self.started = now()
        self.settings: dict[str, str] = {}
        self.query_id = 0
        self.xid = 0
        self.last = {
            "pg_last_query_id": -1,
            "pg_last_copy_count": 0,
            "pg_last_copy_id": -1,
            "pg_last_unload_count": 0,
            "pg_last_unload_id": -1,
        }
        self._transaction_started: datetime | None = None
        self._running: dict[str, Any] | None = None

    def begin(self, made: Plan) -> None:
        """A statement begins: it gets its number, and a transaction if it has none."""
        self.query_id = self.journal.next_query_id()
        self.begin_transaction()
        self._running = {
            "query_id": self.query_id,
            "query_type": made.kind,
            "querytxt": masked(made.text),
            "query_started": now(),
        }

    def begin_transaction(self) -> None:
        if not self.xid:
            self.xid, self._transaction_started = self.journal.next_xid(), now()

    def end_transaction(self) -> None:
        self.xid, self._transaction_started = 0, None

    def refused(self, statement: str, kind: str, problem: str) -> None:
        """A statement failed before it could run."""
        made = Plan(statement, kind)
        self.begin(made)
        self.end(made, 0, problem, is_planned=False)

    def end(self, made: Plan, rows: int, problem: str = "", *, is_planned: bool = True) -> None:
        """Remember how the statement went."""
        running, self._running = self._running, None
        if running is None:
            return
        self.last["pg_last_query_id"] = self.query_id
        times = {"started": running["query_started"], "ended": now()}
        self.record(
            "query", **times, query_type=made.kind, querytxt=running["querytxt"], rows=rows, error=problem or None,
            control=made.control or None, label=self.settings.get("query_group", "default"),
            slots=int(self.settings.get("wlm_query_slot_count", "1") or 1), is_planned=is_planned,
        )  # fmt: skip
        if not problem and not made.facts.uses_system_views:
            compared = sorted(made.facts.compared)
            for name in made.facts.tables:
                self.record("scan", **times, candidates=self._candidates(name), compared=compared)

    def record(self, kind: str, **values: Any) -> None:
        """A record of the statement that runs, whatever becomes of its transaction."""
        self.journal.add(
            kind, query_id=self.query_id, xid=self.xid, pid=self.pid, username=self.user, database=self.database,
            **values,
        )  # fmt: skip

    def _candidates(self, name: str) -> list[str]:
        """The tables that a name may mean, in the order of the search path."""
        if "." in name:
            return [".".join(map(identifier, name.split(".")))]
        path = self.settings.get("search_path", "public").split(",")
        return [f"{identifier(schema.strip().strip(chr(34)))}.{identifier(name)}" for schema in path]

    def as_session(self) -> dict[str, Any]:
        """The connection as `rs.sessions` shows it."""
        return {
            "pid": self.pid,
            "username": self.user,
            "database": self.database,
            "application": self.application,
            "started": self.started,
            "xid": self.xid or None,
            "transaction_started": self._transaction_started,
            **(self._running or {}),
        }


def masked(statement: str) -> str:
    """A statement without the secrets in it."""
    return _SECRET.sub(r"\1'***'", statement)
