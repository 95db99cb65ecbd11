"""The platform's syncer: carries changes from PostgreSQL to Aerospike, and can be told to do it badly.

`python -m dbops_lab.syncer --port P --postgres-port P ... --cluster eu=3000,3001` makes the tables if there are none,
and works until it is ended; `Syncer` is the same as an object. Triggers note what changed in `sync_outbox`; the syncer
reads the rows of what has been noted for `lag` seconds, puts or removes their records, and takes the note away in the
same transaction: what is not done is noted still. `sync_status` says, per table, when all that was due had been
carried, and what fails.

Loopback HTTP, JSON:
POST /publish   {"table": "campaigns", "keys": [...]}: make these records what PostgreSQL says now; with
                `Authorization: Bearer <token>`. Answers {"published": n, "removed": n} when that is done.
GET  /state     paused, lag, notes that wait, records put and removed so far, and `done`: what faults did to whom
POST /pause     stop carrying, silently, as one that hangs; {"announce": true} says so in sync_status. POST /resume
POST /lag       {"seconds": 2.5}
POST /faults    a list of orders that replaces all before: {"kind": ..., "table", "keys": ..., "times": 1}
    lose        the change is forgotten
    delay       ... is carried so many `seconds` later
    duplicate   ... goes to a second record, too, whose key is in capital letters
    corrupt     ... is carried with a wrong value in `bin` (or in one that suits)
    fail        ... cannot be carried, nor any other of its table meanwhile
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import json
import logging
import os
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aerospike
import psycopg2
from aerospike.exception import AerospikeError
from dbops_lab import connections
from dbops_lab.application.database import CONN_ID, Database
from dbops_lab.application.drift import spoil
from dbops_lab.application.mapping import PAIRS, Pair
from dbops_lab.application.publish import Change, Cluster, PublishFailed, change, publish
from dbops_lab.application.world import Row
from psycopg2 import sql

log = logging.getLogger("syncer")
POLL = 0.05
NOTES = 2_000  # changes of one pass
LATE = timedelta(minutes=1)  # behind what is due by more than this: lagging
MAX_KEYS = 10_000  # of one request to publish
KINDS = ("lose", "delay", "duplicate", "corrupt", "fail")
PASSWORD, AEROSPIKE_PASSWORD, TOKEN = "LAB_POSTGRES_PASSWORD", "LAB_AEROSPIKE_PASSWORD", "LAB_SYNCER_TOKEN"


@dataclass
class Order:
    """A fault that waits for its changes."""

    kind: str
    table: str | None = None
    keys: Sequence[str] | None = None
    times: int = 1
    seconds: float = 0.0
    bin: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no fault: {', '.join(KINDS)}")
        if self.table not in (None, *PAIRS):
            raise ValueError(f"{self.table!r} is not synchronised: {', '.join(PAIRS)}")

    def take(self, table: str, key: str) -> bool:
        fits = self.times > 0 and self.table in (None, table) and (self.keys is None or key in self.keys)
        self.times -= fits
        return fits


@dataclass(frozen=True)
class Done:
    """What a fault did."""

    kind: str
    table: str
    key: str
    bin: str | None = None
    """Of a corrupt record."""
    wanted: Any = None
    found: Any = None


class Ordered(Exception):
    """A failure that was ordered."""


@dataclass(frozen=True)
class _Note:
    id: int
    table: str
    key: str
    changed_at: datetime


class Syncer:
    """Carries changes while it is `running`, or one pass at a time by `step`.

    :param lag: seconds between a change and its record, at least.
    """

    def __init__(self, database: Database, clusters: Sequence[Cluster], *, lag: float = 0.0, token: str) -> None:
        self.lag, self.token = lag, token
        self.done: list[Done] = []
        self.counts: Counter[str] = Counter(published=0, removed=0)
        self.is_paused = self.is_announced = False
        self._database, self._clusters = database, clusters
        self._clients: list[aerospike.Client] = []
        self._connection: psycopg2.extensions.connection | None = None
        self._orders: list[Order] = []
        self._lock = threading.Lock()  # one pass, or one request to publish, at a time
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._told: dict[str, tuple[float, tuple[object, ...]]] = {}

    # ------------------------------------------------------------------ what it is told

    def order(self, *orders: Order | Mapping[str, Any]) -> None:
        """Faults to come; those that were ordered before are forgotten."""
        made = [one if isinstance(one, Order) else Order(**one) for one in orders]
        with self._lock:
            self._orders = made

    def pause(self, *, announce: bool = False) -> None:
        with self._lock:
            self.is_paused, self.is_announced = True, announce
            if announce:
                with self._transaction() as cursor:
                    for table in PAIRS:
                        self._tell(cursor, table, "paused")

    def resume(self) -> None:
        with self._lock:
            self.is_paused = self.is_announced = False
            self._told.clear()

    def publish(self, table: str, keys: Iterable[str]) -> tuple[int, int]:
        """Make the records of these keys what PostgreSQL says now; how many were put, and how many are gone.

        A key that no row can have is that of a record too many: it is removed.

        :raises PublishFailed: a cluster did not take them all.
        """
        with self._lock, self._transaction() as cursor:
            return self._carry(cursor, PAIRS[table], dict.fromkeys(keys, ()))

    def pending(self) -> int:
        with self._database.session() as cursor:
            cursor.execute("select count(*) from sync_outbox")
            found = cursor.fetchone()
            return int(found[0]) if found else 0

    def wait(self, seconds: float = 30.0) -> None:
        """Until nothing waits to be carried.

        :raises TimeoutError: something still does.
        """
        deadline = time.monotonic() + seconds
        while waiting := self.pending():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the syncer did not carry {waiting} changes in {seconds:.0f} s")
            if self._thread is None:
                self.step()
            time.sleep(0.01)
        with self._lock:  # the pass that took the last note away is over
            pass

    def state(self) -> dict[str, Any]:
        return {
            "paused": self.is_paused,
            "lag": self.lag,
            "pending": self.pending(),
            **self.counts,
            "done": [asdict(one) for one in self.done],
        }

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="syncer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
            self._thread = None
        with self._lock:
            self._disconnect()

    def __enter__(self) -> Syncer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                busy = self.step()
            except (psycopg2.Error, AerospikeError, OSError) as problem:
                log.warning("%s: %s", type(problem).__name__, str(problem).strip())
                with self._lock:
                    self._disconnect()
                self._stop.wait(0.5)
                continue
            if busy < NOTES:
                self._stop.wait(POLL)

    def step(self) -> int:
        """One pass over what is due; how many changes it looked at."""
        with self._lock:
            if self.is_paused:
                return 0
            began = datetime.now(UTC)
            with self._transaction() as cursor:
                notes = self._due(cursor)
                by_table: dict[str, list[_Note]] = defaultdict(list)
                for note in notes:
                    by_table[note.table].append(note)
                for table in PAIRS:
                    self._table(cursor, PAIRS[table], by_table[table], began)
            return len(notes)

    # ------------------------------------------------------------------ a pass

    def _due(self, cursor: psycopg2.extensions.cursor) -> list[_Note]:
        cursor.execute(
            "select id, table_name, key, changed_at from sync_outbox "
            "where changed_at <= clock_timestamp() - make_interval(secs => %s) "
            "order by id limit %s for update skip locked",
            [self.lag, NOTES],
        )
        return [_Note(*row) for row in cursor.fetchall()]

    def _table(self, cursor: psycopg2.extensions.cursor, pair: Pair, notes: list[_Note], began: datetime) -> None:
        """Carry what is due of one table, or say in `sync_status` why that failed; the other tables go on."""
        cursor.execute("savepoint before")
        left, done = [one.times for one in self._orders], len(self.done)
        try:
            wanted, spent = self._faults(cursor, pair, notes)
            self._carry(cursor, pair, wanted)
            if spent:
                cursor.execute("delete from sync_outbox where id = any(%s)", [spent])
            cursor.execute("release savepoint before")
        except (AerospikeError, PublishFailed, Ordered) as problem:
            cursor.execute("rollback to savepoint before")
            del self.done[done:]  # nothing was carried, so no fault befell anything either
            for order, times in zip(self._orders, left, strict=True):
                if order.kind != "fail":
                    order.times = times
            log.warning("%s: %s", pair.table, problem)
            self._tell(cursor, pair.table, "error", error=f"{type(problem).__name__}: {problem}"[:500])
            return
        oldest = min((note.changed_at for note in notes), default=began)
        is_late = began - oldest - timedelta(seconds=self.lag) > LATE
        self._tell(cursor, pair.table, "lagging" if is_late else "ok", at=began, is_work=bool(notes))

    def _faults(
        self, cursor: psycopg2.extensions.cursor, pair: Pair, notes: list[_Note]
    ) -> tuple[dict[str, tuple[Order, ...]], list[int]]:
        """What to carry with which fault by key, and the notes that are then done with."""
        wanted: dict[str, tuple[Order, ...]] = {}
        spent: list[int] = []
        for note in notes:
            orders = [one for one in self._orders if one.take(pair.table, note.key)]
            kinds = {one.kind for one in orders}
            if "fail" in kinds:
                raise Ordered(f"{note.key}: the lab was told to fail")
            if "delay" in kinds:
                seconds = max(one.seconds for one in orders if one.kind == "delay")
                cursor.execute(
                    "update sync_outbox set changed_at = changed_at + make_interval(secs => %s) where id = %s",
                    [seconds, note.id],
                )
                self.done.append(Done("delay", pair.table, note.key))
                continue
            spent.append(note.id)
            if "lose" in kinds:
                self.done.append(Done("lose", pair.table, note.key))
            else:
                wanted[note.key] = (*wanted.get(note.key, ()), *orders)
        return wanted, spent

    def _carry(
        self, cursor: psycopg2.extensions.cursor, pair: Pair, wanted: Mapping[str, Sequence[Order]]
    ) -> tuple[int, int]:
        if not wanted:
            return 0, 0
        now, rows = datetime.now(UTC), read_rows(cursor, pair, wanted)
        changes: list[Change] = []
        for key, orders in wanted.items():
            made = change(pair, key, rows.get(key), now)
            for order in orders if made.bins is not None else ():
                if order.kind == "duplicate":
                    changes.append(replace(made, key=made.key.upper()))
                    self.done.append(Done("duplicate", pair.table, changes[-1].key))
                elif order.kind == "corrupt":
                    assert made.bins is not None
                    name, value = spoil(pair, made.bins, order.bin)
                    self.done.append(Done("corrupt", pair.table, key, name, made.bins.get(name), value))
                    made = replace(made, bins={**made.bins, name: value})
            changes.append(made)
        put = removed = 0
        for client in self._connected():
            put, removed = publish(client, pair, changes)
        self.counts["published"] += put
        self.counts["removed"] += removed
        return put, removed

    def _tell(
        self,
        cursor: psycopg2.extensions.cursor,
        table: str,
        status: str,
        *,
        at: datetime | None = None,
        error: str | None = None,
        is_work: bool = False,
    ) -> None:
        """Write `sync_status`: at once when there was work or news, else once a second."""
        known, news = self._told.get(table, (0.0, ())), (status, error)
        if not is_work and error is None and known[1] == news and time.monotonic() - known[0] < 1:
            return
        self._told[table] = (time.monotonic(), news)
        cursor.execute(
            "insert into sync_status as s (table_name, last_sync_time, sync_status, error_count, last_error) "
            "values (%(table)s, %(at)s, %(status)s, case when %(error)s is null then 0 else 1 end, %(error)s) "
            "on conflict (table_name) do update set sync_status = excluded.sync_status, "
            "last_sync_time = coalesce(excluded.last_sync_time, s.last_sync_time), "
            "error_count = case when excluded.sync_status = 'error' then s.error_count + 1 "
            "when excluded.sync_status = 'paused' then s.error_count else 0 end, "
            "last_error = case when excluded.sync_status = 'paused' then s.last_error else excluded.last_error end",
            {"table": table, "at": at, "status": status, "error": error},
        )

    # ------------------------------------------------------------------ connections

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[psycopg2.extensions.cursor]:
        if self._connection is None:
            self._connection = self._database.connect("syncer")
        with self._connection, self._connection.cursor() as cursor:
            yield cursor

    def _connected(self) -> list[aerospike.Client]:
        if not self._clients:
            self._clients = [cluster.connect() for cluster in self._clusters]
        return self._clients

    def _disconnect(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            with contextlib.suppress(AerospikeError):
                client.close()
        if self._connection is not None:
            with contextlib.suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None


def read_rows(cursor: psycopg2.extensions.cursor, pair: Pair, keys: Iterable[str]) -> dict[str, Row]:
    """The rows of these keys, as far as there are some."""
    known = [key for key in keys if pair.is_key(key)]
    columns = sql.SQL(", ").join(map(sql.Identifier, pair.columns))
    query = sql.SQL("select {} from {} where ").format(columns, sql.Identifier(pair.table))
    if pair.table == "spend_tracking":
        query += sql.SQL("(line_item_id, day) in (select * from unnest(%s::uuid[], %s::date[]))")
        values = [[key[:36] for key in known], [key[37:] for key in known]]
    else:
        query += sql.SQL("id = any(%s::uuid[])")
        values = [known]
    cursor.execute(query, values)
    return {pair.key(row): row for row in cursor.fetchall()}


# ---------------------------------------------------------------------- its control


class Control:
    """The HTTP interface of a syncer, on loopback."""

    def __init__(self, syncer: Syncer, port: int = 0) -> None:
        self._syncer = syncer
        control = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                status, result = control.answer(f"{self.command} {self.path}", body, token)
                text = json.dumps(result, default=str).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: str, body: bytes, token: str) -> tuple[int, Any]:
        try:
            wanted = json.loads(body or b"{}")
            if request == "POST /publish":
                return self._publish(wanted, token)
            return self._control(request, wanted)
        except (KeyError, TypeError, ValueError) as problem:
            return 400, {"error": f"{type(problem).__name__}: {problem}"}
        except (AerospikeError, PublishFailed, psycopg2.Error) as problem:
            return 503, {"error": f"{type(problem).__name__}: {problem}".strip()}

    def _publish(self, wanted: Any, token: str) -> tuple[int, Any]:
        if not hmac.compare_digest(token.encode(), self._syncer.token.encode()):
            return 401, {"error": "the token is not the syncer's"}
        table, keys = wanted["table"], wanted["keys"]
        if table not in PAIRS or not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            return 400, {"error": f"table is one of {', '.join(PAIRS)}, keys a list of texts"}
        if len(keys) > MAX_KEYS:
            return 413, {"error": f"at most {MAX_KEYS} keys at once"}
        if self._syncer.is_paused:
            return 503, {"error": "the syncer is paused"}
        put, removed = self._syncer.publish(table, keys)
        return 200, {"published": put, "removed": removed}

    def _control(self, request: str, wanted: Any) -> tuple[int, Any]:
        if request == "POST /pause":
            self._syncer.pause(announce=bool(wanted.get("announce", False)))
        elif request == "POST /resume":
            self._syncer.resume()
        elif request == "POST /lag":
            self._syncer.lag = float(wanted["seconds"])
        elif request == "POST /faults":
            self._syncer.order(*wanted)
        elif request != "GET /state":
            return 404, {"error": f"{request} is not known here"}
        return 200, self._syncer.state()


def _cluster(text: str) -> Cluster:
    """`eu=3000,3001` or, with a user, `dbops@eu=3000`."""
    name, _, ports = text.partition("=")
    user, at, name = name.rpartition("@")
    return Cluster(
        name, tuple(map(int, ports.split(","))), user=user if at else None,
        password=os.environ.get(AEROSPIKE_PASSWORD) if at else None,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=f"the lab's syncer; secrets come in {PASSWORD}, {AEROSPIKE_PASSWORD}, {TOKEN}"
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--postgres-host", default=connections.LOOPBACK)
    parser.add_argument("--postgres-port", type=int, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--cluster", type=_cluster, action="append", required=True, help="[user@]name=port,port...")
    parser.add_argument("--lag", type=float, default=0.0)
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    made = connections.postgres(
        args.postgres_port, args.user, os.environ[PASSWORD], args.database, host=args.postgres_host
    )
    database = Database(connections.info(CONN_ID, made))
    database.create()
    syncer = Syncer(database, args.cluster, lag=args.lag, token=os.environ[TOKEN])
    control = Control(syncer, args.port)
    with syncer:
        signal.sigwait(ends)
    control.close()


if __name__ == "__main__":
    main()
