"""One client's connection: its messages answered by PostgreSQL, by the stand-in, or by both in turn."""

from __future__ import annotations

import contextlib
import json
import re
import struct
import traceback
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dbops_lab.redshift import actions, wire
from dbops_lab.redshift.backend import FAILED, IDLE, Upstream
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.faults import AFTER, BEFORE, DURING, Order
from dbops_lab.redshift.journal import now
from dbops_lab.redshift.lexer import identifier, split
from dbops_lab.redshift.statements import Plan, plan
from dbops_lab.redshift.translate import serializable_violation, translated_payload
from dbops_lab.redshift.wire import Disconnected, Wire, split_text, text

if TYPE_CHECKING:
    from dbops_lab.redshift.proxy import Proxy

SERVER_VERSION = "8.0.2"
SASL = 10
_ASKED = (3, 5, SASL, 11)  # kinds of authentication that want an answer
_SECRET = re.compile(
    r"(\b(?:credentials|password|access_key_id|secret_access_key|session_token|master_symmetric_key)\b\s*(?:as\s*)?)"
    r"'(?:[^'\\]|''|\\.)*'",
    re.IGNORECASE,
)
JSONB, SUPER = struct.pack("!i", 3802), struct.pack("!i", 4000)


class Session:
    """What `copy`, `unload` and `vacuum` know of the connection they work for."""

    def __init__(self, client: Wire, proxy: Proxy) -> None:
        self.client = client
        self.proxy = proxy
        self.user = ""
        self.database = ""
        self.application = ""
        self.pid = 0
        self.key = b""
        self.query_id = 0
        self.last_query_id = 0
        self.last_copy_id = -1
        self.last_copy_count = 0
        self.last_unload_id = -1
        self.last_unload_count = 0
        self.started = now()
        self.settings: dict[str, str] = {}
        self.xid = 0
        self.transaction_started: datetime | None = None
        self.running: dict[str, Any] | None = None
        self._snapshot: int | None = None
        self._statements: dict[str, Plan] = {}
        self._portals: dict[str, Plan] = {}
        self._pending: list[bytes] = []
        self._is_skipping = False  # an error was answered: nothing is done until the client's Sync
        self._is_dirty = False  # something ran since the last Sync
        self.upstream: Upstream

    @property
    def serverless(self) -> bool:
        return self.proxy.is_serverless

    @property
    def journal(self) -> Any:
        return self.proxy.journal

    # ------------------------------------------------------------------ life

    def run(self) -> None:
        try:
            if self._open():
                while self._serve():
                    pass
        except Disconnected:
            pass
        except Exception as problem:  # a fault of the stand-in, not of the client: said to both sides
            traceback.print_exc()
            with contextlib.suppress(Disconnected):
                what = f"the lab's Redshift failed: {type(problem).__name__}: {problem}"
                self._tell(BackendError("XX000", what), severity="FATAL")
        finally:
            self.close()

    def close(self) -> None:
        self.proxy.forget(self)
        self.client.close()
        if hasattr(self, "upstream"):
            self.upstream.wire.close()

    def _open(self) -> bool:
        while True:
            packet = self.client.read_startup()
            version = wire.INT32.unpack_from(packet)[0]
            if version in (wire.SSL, wire.GSS):
                self.client.write_raw(b"N")
                self.client.flush()
            elif version == wire.CANCEL:
                self.proxy.cancel(*struct.unpack_from("!i4s", packet, 4))
                return False
            else:
                break
        words = packet[4:].split(b"\0")
        asked = {words[i].decode(): words[i + 1].decode() for i in range(0, len(words) - 2, 2) if words[i]}
        self.user, self.database = asked.get("user", ""), asked.get("database", asked.get("user", ""))
        self.application = asked.get("application_name", "")
        if self.database != self.proxy.database:
            self._tell(BackendError("3D000", f'database "{self.database}" does not exist'), severity="FATAL")
            return False
        connection = Wire(self.proxy.connect_postgres())
        self.upstream = Upstream(connection, self._pass_on)
        passed = {name: asked[name] for name in ("user", "database", "application_name") if name in asked}
        connection.write_raw(wire.startup(passed))
        connection.flush()
        return self._authenticate(is_redshift_driver="client_protocol_version" in asked)

    def _authenticate(self, *, is_redshift_driver: bool) -> bool:
        connection = self.upstream.wire
        while True:
            kind, payload = connection.read()
            if kind == b"S" and payload.startswith(b"server_version\0"):
                payload = text("server_version") + text(SERVER_VERSION)
            if kind == b"R" and wire.INT32.unpack_from(payload)[0] == SASL and is_redshift_driver:
                payload = payload[:-1]  # it takes the list's end for one more mechanism
            self.client.write(kind, payload)
            if kind == b"K":
                self.pid, self.key = struct.unpack("!i4s", payload)
            if kind == b"R" and wire.INT32.unpack_from(payload)[0] in _ASKED:
                self.client.flush()
                connection.write(*self.client.read())
                connection.flush()
            if kind in (b"Z", b"E"):
                self.client.flush()
                if kind == b"Z":
                    self.proxy.remember(self)
                return kind == b"Z"

    def _pass_on(self, kind: bytes, payload: bytes) -> None:
        if kind != b"S" or not payload.startswith(b"server_version\0"):
            self.client.write(kind, payload)

    # ------------------------------------------------------------------ messages

    def _serve(self) -> bool:
        kind, payload = self.client.read()
        if kind == b"X":
            return False
        if kind == b"Q":
            self._is_skipping = False
            self._simple(payload[:-1].decode())
        elif kind == b"S":
            self._sync()
        elif not self._is_skipping:
            handler = _HANDLERS.get(kind)
            if handler is None:
                self._refuse(BackendError("08P01", f"message {kind!r} is not known here"))
            elif kind == b"H":
                self._drain()
            else:
                try:
                    handler(self, payload)
                except BackendError as problem:
                    self._refuse(problem)
        if kind in (b"Q", b"S", b"H") and not self.client.has_message:
            self.client.flush()
        return True

    def _parse(self, payload: bytes) -> None:
        name, at = split_text(payload)
        statement, at = split_text(payload, at)
        parts = split(statement) if ";" in statement else [statement]
        if len(parts) > 1:
            raise BackendError("42601", "cannot insert multiple commands into a prepared statement")
        made = plan(parts[0] if parts else "")
        self._statements[name] = made
        if made.special:
            self._answer(b"1")
        else:
            self._forward(b"P", text(name) + text(made.sql) + payload[at:], b"1")

    def _bind(self, payload: bytes) -> None:
        portal, at = split_text(payload)
        name, at = split_text(payload, at)
        made = self._statements.get(name)
        if made is not None:
            self._portals[portal] = made
            if made.facts.uses_system_views or made.facts.uses_session:
                self._drain()
                self._provide()
        if self._is_skipping:
            return
        if made is not None and made.special:
            self._answer(b"2")
        else:
            self._forward(b"B", payload, b"2")

    def _describe(self, payload: bytes) -> None:
        name, _ = split_text(payload, 1)
        known = self._statements if payload[:1] == b"S" else self._portals
        made = known.get(name)
        if made is None or not made.special:
            self._forward(b"D", payload, b"T")
            return
        self._drain()
        if not self._is_skipping:
            if payload[:1] == b"S":
                self.client.write(b"t", b"\0\0")
            self.client.write(b"n")

    def _close(self, payload: bytes) -> None:
        name, _ = split_text(payload, 1)
        known = self._statements if payload[:1] == b"S" else self._portals
        made = known.pop(name, None)
        if made is not None and made.special:
            self._answer(b"3")
        else:
            self._forward(b"C", payload, b"3")

    def _execute(self, payload: bytes) -> None:
        portal, _ = split_text(payload)
        made = self._portals.get(portal)
        if made is None:
            self._forward(b"E", payload, b"C")
            self._drain()
        elif made.special:
            self._drain()
            if not self._is_skipping:
                self._settle()
                self._run_special(made)
        else:
            self._run(made, payload)

    def _sync(self) -> None:
        self.upstream.wire.write(b"S")
        self.upstream.wire.flush()
        while True:
            kind, payload = self.upstream.read()
            if kind == b"Z":
                break
            self._relay(kind, payload)
        self._pending.clear()
        self._is_skipping = self._is_dirty = False
        self._after_ready()
        self.client.write(b"Z", self.upstream.status)

    # ------------------------------------------------------------------ what PostgreSQL answers

    def _forward(self, kind: bytes, payload: bytes, answer: bytes) -> None:
        self.upstream.wire.write(kind, payload)
        self._pending.append(answer)

    def _answer(self, kind: bytes) -> None:
        """The stand-in's own answer, behind all that PostgreSQL has still to say."""
        self._drain()
        if not self._is_skipping:
            self.client.write(kind)

    def _drain(self) -> None:
        """Until PostgreSQL has answered all that was passed on."""
        if not self._pending:
            return
        self.upstream.wire.write(b"H")
        self.upstream.wire.flush()
        while self._pending:
            self._relay(*self.upstream.read())

    def _relay(self, kind: bytes, payload: bytes) -> None:
        if kind == b"E":
            self._pending.clear()
            self._is_skipping = True
            payload = translated_payload(payload)
        elif kind == b"T":
            payload = _with_super(payload)
        if self._pending and (kind == self._pending[0] or (kind, self._pending[0]) == (b"n", b"T")
                              or (kind in (b"I", b"s") and self._pending[0] == b"C")):  # fmt: skip
            self._pending.pop(0)
        self.client.write(kind, payload)

    def _settle(self) -> None:
        """End what ran outside of a transaction, so that the session can take simple statements."""
        if self._is_dirty:
            self.upstream.wire.write(b"S")
            self.upstream.wire.flush()
            while self.upstream.read()[0] != b"Z":
                pass
            self._is_dirty = False
            self._after_ready()

    def _after_ready(self) -> None:
        if self.upstream.status == IDLE:
            self._snapshot = None
            self.xid = 0
            self.transaction_started = None

    # ------------------------------------------------------------------ errors

    def _tell(self, problem: BackendError, severity: str = "ERROR") -> None:
        said = wire.error(problem.code, problem.message, detail=problem.detail, hint=problem.hint, severity=severity)
        self.client.write(b"E", said)
        if severity == "FATAL":
            self.client.flush()

    def notice(self, code: str, message: str, severity: str = "WARNING") -> None:
        """Something for the client besides the answer."""
        self.client.write(b"N", wire.error(code, message, severity=severity))

    def _refuse(self, problem: BackendError) -> None:
        """Answer with this error, as if PostgreSQL had: a transaction is lost, what follows is skipped until Sync."""
        self._drain()
        if not self._is_skipping:
            self._poison()
            self._tell(problem)
            self._is_skipping = True

    def _poison(self) -> None:
        """Make PostgreSQL take an error, so that its transaction is in the state that the client is told of."""
        if self.upstream.needs_sync:
            return
        self.upstream.wire.write(b"P", text("") + text("refused by the stand-in") + b"\0\0")
        self.upstream.wire.write(b"H")
        self.upstream.wire.flush()
        while self.upstream.read()[0] != b"E":
            pass

    # ------------------------------------------------------------------ running a statement

    def _run(self, made: Plan, payload: bytes) -> None:
        """A statement of PostgreSQL, bound already; `payload` is the Execute message's."""
        if made.is_outside_transactions and self.upstream.status != IDLE:
            raise BackendError("25001", f"{made.tag} cannot run inside a transaction block")
        began, fault = self._begin(made)
        self.upstream.wire.write(b"E", payload)
        self.upstream.wire.write(b"H")
        self.upstream.wire.flush()
        while self._pending:
            self._relay(*self.upstream.read())
            if self._is_skipping:
                self._end(made, began, 0, "an error before it ran")
                return
        rows = 0
        tag, problem = b"", ""
        while True:
            block, count = self.upstream.wire.read_rows()
            if count:
                rows += count
                self.client.write_raw(block)
                continue
            kind, payload = self.upstream.read()
            if kind == b"E":
                problem = wire.fields(payload).get("M", "")
                self._relay(kind, payload)
                break
            if kind in (b"C", b"I", b"s"):
                tag = payload
                break
            self.client.write(kind, payload)
        if not problem:
            rows = self._follow_up(made, tag, rows)
        self._end(made, began, rows, problem)
        if fault is not None and fault.drop in (AFTER, DURING):
            self._drop(fault)
        if not problem:
            self.client.write(kind, text(made.tag) if made.tag and kind == b"C" else payload)

    def _follow_up(self, made: Plan, tag: bytes, rows: int) -> int:
        """What is noted in the same transaction; how many rows the statement counted."""
        counted = tag[:-1].split()[-1:] if tag else []
        if counted and counted[0].isdigit():
            rows = int(counted[0])
        if made.notes is not None:
            self.upstream.beside("SELECT rs.note_table($1, $2)", *made.notes)
        if made.change is not None:
            self.upstream.beside("SELECT rs.changed($1, $2, $3)", made.change.table, made.change.how, str(rows))
        if made.commits:
            self._commit()
        if made.settings is not None:
            self.settings[made.settings[0]] = made.settings[1]
        return rows

    def _commit(self) -> None:
        """TRUNCATE ends its transaction."""
        if self.upstream.status != IDLE:
            self.upstream.beside("COMMIT")

    def _begin(self, made: Plan) -> tuple[datetime, Order | None]:
        """A statement begins: it gets its number, and what was ordered for it happens."""
        began = now()
        self.upstream.is_cancelled = False
        self.query_id = self.journal.next_query_id()
        self.running = {"query_id": self.query_id, "query_type": made.kind, "querytxt": _masked(made.text),
                        "query_started": began}  # fmt: skip
        if not self.xid:
            self.xid, self.transaction_started = self.journal.next_xid(), began
        if self._snapshot is None and not made.control:
            self._snapshot = self.journal.flushed
        self._is_dirty = True
        fault = self.proxy.faults.take(made.text)
        if fault is not None:
            self._suffer(fault, made)
        return began, fault

    def _suffer(self, fault: Order, made: Plan) -> None:
        if fault.drop == BEFORE:
            raise Disconnected
        if fault.delay and self.upstream.status != FAILED:
            self._drain()
            try:
                self._sleep(fault.delay, made)
            except BackendError as problem:
                self._end(made, now(), 0, problem.message)
                raise
        if fault.error and not self._is_skipping:
            problem = serializable_violation(100_000, self.pid, (self.xid, self.xid + 1))
            if fault.error != "1023":
                problem = BackendError(fault.error, fault.message or "ordered by a test")
            self._end(made, now(), 0, problem.message)
            raise problem

    def _sleep(self, seconds: float, made: Plan) -> None:
        if made.special:
            self.upstream.query(f"SELECT pg_sleep({seconds})")
        else:
            self.upstream.beside("SELECT pg_sleep($1::float8)", str(seconds))

    def _drop(self, fault: Order) -> None:
        if fault.drop == AFTER and self.upstream.status == IDLE:
            self._settle()
        raise Disconnected

    def _end(self, made: Plan, began: datetime, rows: int, problem: str) -> None:
        """Remember how it went."""
        self.running = None
        self.last_query_id = self.query_id
        self.journal.add(
            "query", query_id=self.query_id, xid=self.xid, pid=self.pid, username=self.user, database=self.database,
            query_type=made.kind, querytxt=_masked(made.text), started=began, ended=now(), rows=rows,
            error=problem or None, label=self.settings.get("query_group", "default"),
            slots=int(self.settings.get("wlm_query_slot_count", "1") or 1), control=made.control or None,
        )  # fmt: skip
        if not problem and not made.facts.uses_system_views:
            for name in made.facts.tables:
                self.journal.add("scan", query_id=self.query_id, xid=self.xid, pid=self.pid, username=self.user,
                                 started=began, ended=now(), table_name=name, candidates=self._candidates(name),
                                 compared=sorted(made.facts.compared))  # fmt: skip

    def _candidates(self, name: str) -> list[str]:
        """The tables that an unqualified name may mean, in the order of the search path."""
        if "." in name:
            return [".".join(map(identifier, name.split(".")))]
        path = self.settings.get("search_path", "public").split(",")
        return [f"{identifier(schema.strip().strip(chr(34)))}.{identifier(name)}" for schema in path]

    def _run_special(self, made: Plan) -> None:
        """COPY, UNLOAD, VACUUM, ANALYZE: the stand-in's work, in the client's session and transaction."""
        if made.is_outside_transactions and self.upstream.status != IDLE:
            raise BackendError("25001", f"{made.tag} cannot run inside a transaction block")
        if self.upstream.status == FAILED:
            raise BackendError(
                "25P02", "current transaction is aborted, commands ignored until end of transaction block"
            )
        began, fault = self._begin(made)
        try:
            rows = actions.run(made, self, fault)
        except BackendError as problem:
            self._end(made, began, 0, problem.message)
            raise
        self._is_dirty = False
        self._end(made, began, rows, "")
        if fault is not None and fault.drop == AFTER:
            raise Disconnected
        self.client.write(b"C", text("COPY 0" if made.special == "copy" else made.tag))

    # ------------------------------------------------------------------ the simple protocol

    def _simple(self, statement: str) -> None:
        """A string of statements: one transaction, unless they say otherwise."""
        try:
            parts = split(statement)
            plans = [plan(part) for part in parts]
        except BackendError as problem:
            self._refuse(problem)
            self._sync()
            return
        if not plans:
            self.client.write(b"I")
        is_own = False  # whether the stand-in opened the transaction
        for made in plans:
            if len(plans) > 1:
                self._settle()
                if made.is_outside_transactions:
                    what = f"{made.tag} cannot be executed from a function or multi-command string"
                    self._refuse(BackendError("25001", what))
                    break
                if made.control == "begin" and is_own:
                    self.client.write(b"C", text("BEGIN"))
                    is_own = False
                    continue
                if not made.control and self.upstream.status == IDLE:
                    self.upstream.execute("BEGIN")
                    is_own = True
            self._one(made)
            if made.control:
                is_own = False
            if self._is_skipping:
                break
        if is_own:
            self._end_own()
        self._sync()

    def _end_own(self) -> None:
        """Commit what the string did, or undo it."""
        self.upstream.wire.write(b"S")
        self.upstream.wire.flush()
        while self.upstream.read()[0] != b"Z":
            pass
        if self.upstream.status == IDLE:  # TRUNCATE ended it
            return
        try:
            self.upstream.execute("ROLLBACK" if self._is_skipping else "COMMIT")
        except BackendError as problem:
            self._tell(problem)

    def _one(self, made: Plan) -> None:
        try:
            if made.special:
                self._settle()
                self._run_special(made)
                return
            if made.facts.uses_system_views or made.facts.uses_session:
                self._provide()
            self.upstream.wire.write(b"P", b"\0" + text(made.sql) + b"\0\0")
            self.upstream.wire.write(b"B", b"\0\0\0\0\0\0\0\0")
            self.upstream.wire.write(b"D", b"P\0")
            self.upstream.wire.write(b"H")
            self.upstream.wire.flush()
            for _ in range(3):
                kind, payload = self.upstream.read()
                if kind == b"E":
                    self._relay(kind, payload)
                    return
                if kind == b"T":
                    self._relay(kind, payload)
            self._run(made, b"\0\0\0\0\0")
        except BackendError as problem:
            self._refuse(problem)

    # ------------------------------------------------------------------ what system views need to know

    def _provide(self) -> None:
        """Bring what the journal and the proxy know to where this session's statement can see it."""
        self.journal.flush()
        if self.upstream.status == FAILED:
            return
        if not self.xid:
            self.xid, self.transaction_started = self.journal.next_xid(), now()
        known: dict[str, Any] = {
            "serverless": self.serverless,
            "last": {
                "pg_last_copy_count": self.last_copy_count,
                "pg_last_copy_id": self.last_copy_id,
                "pg_last_query_id": self.last_query_id or -1,
                "pg_last_unload_count": self.last_unload_count,
                "pg_last_unload_id": self.last_unload_id,
            },
            "sessions": self.proxy.sessions(),
        }
        if self._snapshot is not None and self._snapshot < self.journal.flushed:
            known["tail"] = self.journal.tail(self._snapshot)
        self.upstream.beside("SELECT set_config('rs.session', $1, false)", json.dumps(known, default=str))
        self._is_dirty = True


def _masked(statement: str) -> str:
    """A statement without the secrets in it."""
    return _SECRET.sub(r"\1'***'", statement)


def _with_super(payload: bytes) -> bytes:
    """Columns that Redshift has as SUPER say so."""
    if JSONB not in payload:
        return payload
    changed, at = bytearray(payload), 2
    for _ in range(wire.INT16.unpack_from(payload)[0]):
        at = payload.index(b"\0", at) + 1
        if payload[at + 6 : at + 10] == JSONB:
            changed[at + 6 : at + 10] = SUPER
        at += 18
    return bytes(changed)


_HANDLERS: dict[bytes, Callable[[Session, bytes], None]] = {
    b"P": Session._parse,
    b"B": Session._bind,
    b"D": Session._describe,
    b"E": Session._execute,
    b"C": Session._close,
    b"H": lambda session, payload: session._drain(),
}
