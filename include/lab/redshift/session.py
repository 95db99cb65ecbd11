"""One client's connection: its messages answered by PostgreSQL, by the stand-in, or by both in turn."""

from __future__ import annotations

import contextlib
import json
import struct
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dbops_lab.redshift import actions, wire
from dbops_lab.redshift.backend import FAILED, IDLE, Upstream
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.faults import AFTER, BEFORE, DURING, Order
from dbops_lab.redshift.handshake import Opened, refuse
from dbops_lab.redshift.history import History
from dbops_lab.redshift.lexer import split
from dbops_lab.redshift.statements import Plan, plan
from dbops_lab.redshift.translate import numbered, serializable_violation, translated_payload
from dbops_lab.redshift.wire import Disconnected, Wire, split_text, text

if TYPE_CHECKING:
    from dbops_lab.redshift.proxy import Proxy

JSONB, SUPER = struct.pack("!i", 3802), struct.pack("!i", 4000)


class Session:
    """A client's connection and the one to PostgreSQL behind it."""

    def __init__(self, client: Wire, opened: Opened, proxy: Proxy) -> None:
        self.client = client
        self.proxy = proxy
        self.key = opened.key
        self.history = History(proxy.journal, opened.user, opened.database, opened.application, opened.pid)
        self.upstream = Upstream(opened.upstream, self._pass_on)
        self._snapshot: int | None = None  # the last record that the client's transaction is sure to see
        self._statements: dict[str, Plan] = {}
        self._portals: dict[str, Plan] = {}
        self._parsed: Plan | None = None  # the last that was passed on to be parsed
        self._pending: list[bytes] = []  # what PostgreSQL has still to answer
        self._is_skipping = False  # an error was answered: nothing is done until the client's Sync
        self._is_dirty = False  # something ran since the last Sync

    def run(self) -> None:
        """Until one side ends it."""
        try:
            while self._serve():
                pass
        except Disconnected:
            with contextlib.suppress(Disconnected):  # PostgreSQL may have said why
                self.client.flush()
        except Exception as problem:  # a fault of the stand-in, not of the client: said to both sides
            traceback.print_exc()
            with contextlib.suppress(Disconnected):
                what = f"the lab's Redshift failed: {type(problem).__name__}: {problem}"
                refuse(self.client, BackendError("XX000", what))
        finally:
            self.upstream.wire.close()

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
        try:
            parts = split(statement) if ";" in statement else [statement]
            if len(parts) > 1:
                raise BackendError("42601", "cannot insert multiple commands into a prepared statement")
            made = plan(parts[0] if parts else "")
        except BackendError as problem:
            self.history.refused(statement, "OTHER", problem.message)
            raise
        self._statements[name] = self._parsed = made
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
            if self._pending[:1] == [b"1"] and self._parsed is not None:
                self.history.refused(self._parsed.text, self._parsed.kind, wire.fields(payload).get("M", ""))
            self._pending.clear()
            self._is_skipping = True
            payload = translated_payload(payload, self.history.query_id)
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
            self.history.end_transaction()

    # ------------------------------------------------------------------ errors

    def _tell(self, problem: BackendError) -> None:
        message = numbered(problem.message, self.history.query_id)
        self.client.write(b"E", wire.error(problem.code, message, detail=problem.detail, hint=problem.hint))

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
        fault = self._begin(made)
        self.upstream.wire.write(b"E", payload)
        self.upstream.wire.write(b"H")
        self.upstream.wire.flush()
        while self._pending:
            self._relay(*self.upstream.read())
            if self._is_skipping:
                self.history.end(made, 0, "it did not run")
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
        self.history.end(made, rows, problem)
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
            self.history.settings[made.settings[0]] = made.settings[1]
        return rows

    def _commit(self) -> None:
        """TRUNCATE ends its transaction."""
        if self.upstream.status != IDLE:
            self.upstream.beside("COMMIT")

    def _begin(self, made: Plan) -> Order | None:
        """A statement begins; what was ordered for it happens."""
        self.upstream.is_cancelled = False
        self.history.begin(made)
        if self._snapshot is None and not made.control:
            self._snapshot = self.proxy.journal.flushed
        self._is_dirty = True
        fault = self.proxy.faults.take(made.text)
        if fault is not None:
            self._suffer(fault, made)
        return fault

    def _suffer(self, fault: Order, made: Plan) -> None:
        if fault.drop == BEFORE:
            raise Disconnected
        if fault.delay and not made.special and self.upstream.status != FAILED:
            self._drain()
            try:
                self.upstream.beside("SELECT pg_sleep($1::float8)", str(fault.delay))
            except BackendError as problem:
                self.history.end(made, 0, problem.message)
                raise
        if fault.error and not self._is_skipping:
            ordered = serializable_violation(100_000, self.history.pid, (self.history.xid, self.history.xid + 1))
            if fault.error != "1023":
                ordered = BackendError(fault.error, fault.message or "ordered by a test")
            self.history.end(made, 0, ordered.message)
            raise ordered

    def _drop(self, fault: Order) -> None:
        if fault.drop == AFTER and self.upstream.status == IDLE:
            self._settle()
        raise Disconnected

    def _run_special(self, made: Plan) -> None:
        """COPY, UNLOAD, VACUUM, ANALYZE: the stand-in's work, in the client's session and transaction."""
        if made.is_outside_transactions and self.upstream.status != IDLE:
            raise BackendError("25001", f"{made.tag} cannot run inside a transaction block")
        if self.upstream.status == FAILED:
            raise BackendError(
                "25P02", "current transaction is aborted, commands ignored until end of transaction block"
            )
        fault = self._begin(made)
        try:
            rows = actions.run(made, self, fault)
        except BackendError as problem:
            self.history.end(made, 0, problem.message)
            raise
        self._is_dirty = False
        self.history.end(made, rows)
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
            self.history.refused(statement, "OTHER", problem.message)
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
                    self.history.refused(made.text, made.kind, wire.fields(payload).get("M", ""))
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
        journal = self.proxy.journal
        journal.flush()
        if self.upstream.status == FAILED:
            return
        self.history.begin_transaction()
        known: dict[str, Any] = {
            "serverless": self.proxy.is_serverless,
            "last": self.history.last,
            "sessions": self.proxy.sessions(),
        }
        if self._snapshot is not None and self._snapshot < journal.flushed:
            known["tail"] = journal.tail(self._snapshot)
        self.upstream.beside("SELECT set_config('rs.session', $1, false)", json.dumps(known, default=str))
        self._is_dirty = True


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
