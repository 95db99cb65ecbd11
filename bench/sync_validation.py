"""Sync validation beside reladiff, beside the raw reads of both sides, and beside a comparison row by row.

Fills a table of PostgreSQL with N rows x 8 columns, a copy of it, and a set of Aerospike with the same records. Each
round compares them in turn: ours (table against set), reladiff (table against its copy, its default settings but the
columns), COPY of the table alone, the set's partition queries alone. Row by row through the official clients is
measured on a sample and extrapolated. Everything runs on the lab's stand-ins. Exit codes: see bench/README.md.

reladiff is no requirement of this package: `pip install reladiff[postgresql]` beside it measures it too, or
`--reladiff <python>` names an interpreter that has it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numba
from dbops.aerospike import kernel as wire_kernel
from dbops.aerospike.cluster import Access, Cluster
from dbops.aerospike.drain import Drain, Output, Tally
from dbops.aerospike.wire import PARTITIONS
from dbops.connections import ConnectionInfo
from dbops.errors import DbopsError
from dbops.platform.sync import SyncColumn, SyncPair
from dbops.sync.plan import Plan
from dbops.sync.postgres import Snapshot, connect
from dbops.sync.validate import PairResult, Validation
from report import NOT_MEASURED, Report, machine

TABLE, COPY, SET, NAMESPACE = "bench_rows", "bench_copy", "bench", "bidder"
SAMPLE = 5_000
OURS, CHANGED, RELADIFF = "ours", "ours, 100 differences", "reladiff, table against table"
POSTGRES, AEROSPIKE, ROWS = "raw: COPY alone", "raw: queries alone", "row by row, official clients"
PAIR = SyncPair(
    name="bench", table=TABLE, clusters=("bench",), namespace=NAMESPACE, set=SET, key="{id}", changed="updated_at",
    columns=(
        SyncColumn(column="id", bin="ID"),
        SyncColumn(column="name", bin="name"),
        SyncColumn(column="state", bin="state"),
        SyncColumn(column="budget", bin="budget", form="scaled", scale=6),
        SyncColumn(column="cap", bin="cap", form="integer"),
        SyncColumn(column="share", bin="share", form="double"),
        SyncColumn(column="live", bin="live", form="bool"),
        SyncColumn(column="updated_at", bin="updated_us", form="epoch_us"),
    ),
)  # fmt: skip
FILL = """
create table {table} (id uuid primary key, name text, state text, budget numeric(12,2), cap integer,
                      share double precision, live boolean, updated_at timestamptz);
insert into {table}
select md5(n::text)::uuid, 'Campaign ' || n || case when n % 20 = 0 then ' für Zürich' else ' of a customer' end,
       (array['active', 'paused', 'draft'])[n % 3 + 1], case when n % 10 > 0 then (n % 1000000)::numeric / 100 end,
       n % 5000, n / 7.0::double precision, n % 2 = 0,
       timestamptz '2026-01-01 00:00:00+00' + n * interval '1.000001 second'
from generate_series(1, {rows}) n;
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Sync validation beside reladiff and the raw reads")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", default="100000,2000000", help="row counts whose peak memory is shown; empty: none")
    parser.add_argument("--reladiff", default=sys.executable, help="an interpreter that has reladiff")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            info, access, control = stand_ins(stack, folder)
            return run(options, info, access, control).show(as_json=options.json)
        except (DbopsError, OSError, subprocess.SubprocessError) as problem:
            print(f"bench sync_validation: not measured: {problem}", file=sys.stderr)
            return NOT_MEASURED


def stand_ins(stack: ExitStack, folder: Path) -> tuple[ConnectionInfo, Access, int]:
    import secrets

    from dbops_lab import connections
    from dbops_lab.aerospike.process import StandIn
    from dbops_lab.postgres import ADMIN, DATABASES, Postgres
    from dbops_lab.supervisor import Supervisor, free_port

    folder.chmod(0o755)
    supervisor = Supervisor(folder / "lab", guarded=True)
    stack.callback(supervisor.stop)
    passwords = {name: secrets.token_urlsafe(16) for name in (ADMIN, *DATABASES)}
    server = Postgres(supervisor.state, free_port(), passwords, guarded=True)
    server.create()
    supervisor.start(server.part)
    supervisor.wait([server.part])
    server.create_databases()
    info = connections.info("dbops_app", connections.postgres(server.port, "exchange", passwords["exchange"]))
    cluster = stack.enter_context(StandIn(namespaces=[NAMESPACE]))
    return info, Access("bench", (("127.0.0.1", cluster.ports[0]),)), cluster.control


def fill(info: ConnectionInfo, control: int, rows: int, *, copy: bool) -> None:
    """The table, its copy and the set."""
    connection = connect(info)
    with connection, connection.cursor() as cursor:
        for table in (TABLE, COPY):
            cursor.execute(f"drop table if exists {table}")
        cursor.execute(FILL.format(table=TABLE, rows=rows))
        if copy:
            cursor.execute(f"create table {COPY} (like {TABLE} including all)")
            cursor.execute(f"insert into {COPY} select * from {TABLE}")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("vacuum analyze")
    put(connection, control)
    connection.close()


def put(connection: Any, control: int, where: str = "true") -> None:
    from dbops_lab.aerospike.process import load
    from dbops_lab.application.publish import encoded

    def records() -> Iterator[Any]:
        plan = Plan(PAIR)
        connection.autocommit = False
        with connection.cursor("all") as cursor:
            cursor.itersize = 20_000
            cursor.execute(
                "select id::text, name, state, (budget * 1000000)::bigint, cap, share, live, "
                f"(extract(epoch from updated_at) * 1000000)::bigint from {TABLE} where {where}"
            )
            while chunk := cursor.fetchmany(20_000):
                for row, digest in zip(chunk, plan.digests(row[0] for row in chunk), strict=True):
                    bins = {one.bin: value for one, value in zip(PAIR.columns, row, strict=True) if value is not None}
                    yield digest, 1, 0, b"\x03" + row[0].encode(), encoded(bins)
        connection.rollback()

    load(control, NAMESPACE, SET, records())


def ours(info: ConnectionInfo, access: Access, pair: SyncPair = PAIR) -> PairResult:
    return Validation(pair, "bench", info, access, lag=timedelta(0)).run()


def raw_copy(info: ConnectionInfo) -> int:
    """The rows as they leave the server for us, read and thrown away."""
    seen = 0

    def drop(source: Any, pos: int, end: int) -> tuple[int, int]:
        nonlocal seen
        pos, size = _skip(source, pos, end)
        seen += 1
        return pos, size

    with Snapshot(info, PAIR, timedelta(minutes=1)) as snapshot:
        snapshot.read(drop)
    return seen


def raw_queries(access: Access) -> int:
    """The set's records, read and counted."""
    with Cluster(access) as cluster:
        cluster.refresh()
        tally = Tally()
        drain = Drain(cluster, NAMESPACE, wire_kernel.digests, tally, Output(lambda data: None), set_name=SET)
        drain.run(range(PARTITIONS))
        drain.close()
        return tally.records


def row_by_row(info: ConnectionInfo, access: Access, rows: int) -> float:
    """Seconds for all rows, from those for SAMPLE: a row of psycopg2, a record of the official client, compared."""
    import aerospike

    client = aerospike.client({"hosts": list(access.seeds)}).connect()
    connection = connect(info)
    began = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute(
            f"select id::text, name, state, budget, cap, share, live, updated_at from {TABLE} limit {SAMPLE}"
        )
        for row in cursor:
            _, _, bins = client.get((NAMESPACE, SET, row[0]))
            assert bins["name"] == row[1]
            assert bins["cap"] == row[4]
            assert (row[3] is None) == ("budget" not in bins)
    took = time.monotonic() - began
    connection.close()
    client.close()
    return took * rows / SAMPLE


RELADIFF_RUN = """
import json, sys, time
from reladiff import connect_to_table, diff_tables
uri, a, b, columns = json.loads(sys.stdin.read())
started = time.monotonic()
tables = [connect_to_table(uri, name, "id", thread_count=2, extra_columns=tuple(columns)) for name in (a, b)]
found = len(list(diff_tables(*tables, threaded=True)))
print(json.dumps({"seconds": time.monotonic() - started, "found": found}))
"""


def reladiff(python: str, info: ConnectionInfo) -> float | None:
    """Seconds that it takes inside of its process; None: it is not there."""
    uri = f"postgresql://{info.login}:{info.password}@{info.host}:{info.port}/{info.schema}"
    names = [one.column for one in PAIR.columns[1:]]
    answer = subprocess.run(
        [python, "-c", RELADIFF_RUN], input=json.dumps([uri, TABLE, COPY, names]), capture_output=True, text=True
    )
    if answer.returncode:
        print(f"reladiff: {(answer.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        return None
    found = json.loads(answer.stdout)
    assert found["found"] == 0, found
    return float(found["seconds"])


def timed(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def peak(info: ConnectionInfo, access: Access) -> float:
    """Peak memory in MiB of a process that does one validation and nothing else."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (info, access))


def _peak(info: ConnectionInfo, access: Access) -> float:
    assert ours(info, access).ok
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def change(info: ConnectionInfo, table: str) -> None:
    """100 differences: rows that say something else, rows without a record, records without a row."""
    connection = connect(info)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"create temp table picked as select id, row_number() over () n from {table} limit 100")
        cursor.execute(f"update {table} t set cap = cap + 1 from picked p where p.id = t.id and n <= 50")
        cursor.execute(f"delete from {table} t using picked p where p.id = t.id and n > 75")
        cursor.execute(
            f"update {table} t set id = md5('new' || n)::uuid from picked p where p.id = t.id and n > 50 and n <= 75"
        )
    connection.close()


def run(options: argparse.Namespace, info: ConnectionInfo, access: Access, control: int) -> Report:
    rows = options.rows
    fill(info, control, rows, copy=True)
    report = Report(machine())
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, RELADIFF, POSTGRES, AEROSPIKE, ROWS)}
    assert ours(info, access).ok  # compiled, and the same
    raw_copy(info)
    raw_queries(access)
    has_reladiff = reladiff(options.reladiff, info) is not None
    for _ in range(options.rounds):
        took = {
            OURS: timed(lambda: ours(info, access)),
            POSTGRES: timed(lambda: raw_copy(info)),
            AEROSPIKE: timed(lambda: raw_queries(access)),
            ROWS: row_by_row(info, access, rows),
        }
        if has_reladiff and (theirs := reladiff(options.reladiff, info)) is not None:
            took[RELADIFF] = theirs
        for name, seconds in took.items():
            samples[name].append({"seconds": seconds, "rows/s": rows / seconds})
    for name, found in samples.items():
        if found:
            report.add(name, found)
        else:
            report.not_measured.append(name)
    change(info, COPY)
    differing = PAIR.model_copy(update={"table": COPY})
    ours(info, access, differing)  # compiles what only differences need
    same, changed = [], []
    for _ in range(options.rounds):
        same.append(timed(lambda: ours(info, access)))
        began = time.monotonic()
        result = ours(info, access, differing)
        changed.append(time.monotonic() - began)
        assert (result.different, result.missing, result.extra) == (50, 25, 50), result.message
    report.add(CHANGED, [{"seconds": seconds} for seconds in changed])
    added = median(changed) / median(same) - 1
    for count in [int(text) for text in options.memory.split(",") if text]:
        truncate(access)
        fill(info, control, count, copy=False)
        report.add(f"peak memory, {count:,} rows", [{"MiB": peak(info, access)}])
    speed = {name: values.get("rows/s", 0.0) for name, values in report.figures.items()}
    slower = max(report.figures[POSTGRES]["seconds"], report.figures[AEROSPIKE]["seconds"])
    report.target("rows/s beside reladiff", speed[OURS] / speed[RELADIFF] if has_reladiff else None, least=1)
    report.target("time beside the slower raw read", report.figures[OURS]["seconds"] / slower, most=2)
    report.target("rows/s beside row by row", speed[OURS] / speed[ROWS], least=10)
    report.target("what 100 differences add", added, most=0.2)
    for name, values in report.figures.items():
        if "MiB" in values:
            report.target(name + ", MiB", values["MiB"], most=300)
    return report


def truncate(access: Access) -> None:
    import aerospike

    client = aerospike.client({"hosts": list(access.seeds)}).connect()
    client.truncate(NAMESPACE, SET, 0)
    client.close()
    time.sleep(1)


def _skip(source: Any, pos: int, end: int) -> tuple[int, int]:
    """Past the whole messages of source[pos:end], and how many bytes the next one needs."""
    found, needed = _messages(source, pos, end)
    return int(found), int(needed)


@numba.njit(nogil=True)
def _messages(source: Any, pos: Any, end: Any) -> Any:
    while end - pos >= 5 and source[pos] == 100:
        size = 1
        for i in range(4):
            size += int(source[pos + 1 + i]) << (24 - 8 * i)
        if end - pos < size:
            return pos, size
        pos += size
    return pos, (5 if end - pos < 5 else 0)


if __name__ == "__main__":
    sys.exit(main())
