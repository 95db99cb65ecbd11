"""Archival of a day (unload, verify, delete) beside the bare UNLOAD and DELETE, against the lab's stand-in.

    python bench/redshift_archive.py [--rows 2000000] [--rounds 3] [--json]

Rounds alternate between both on the same table, filled anew each time; figures are medians, and the ratio is the median
of the ratios within each round, so that other work on the machine hits both sides. PostgreSQL, moto and the stand-in
share the cores with us. Everything is in a folder of its own and ends with the bench.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from dbops.backups.store import LocalStore, S3Store
from dbops.connections import ConnectionInfo
from dbops.errors import DbopsError
from dbops.platform import Archive, ArchiveTable
from dbops.redshift.archive import archive_day
from dbops.redshift.archive_checks import Column
from dbops.redshift.archive_parts import ArchivePlace
from dbops.redshift.archive_plan import plan_archive
from dbops.redshift.session import Row, Session, open_session
from report import NOT_MEASURED, Report, machine

T = TypeVar("T")
DAY, NOW = date(2026, 1, 1), datetime(2026, 6, 1, tzinfo=UTC)
# The lab's bidstream_v2, as the guide names it (include/lab/application/warehouse.sql).
COLUMNS = (
    'request_id varchar(36) not null, "timestamp" timestamp not null, exchange varchar(32), country char(2), '
    "device varchar(16), domain varchar(256), user_id varchar(36), order_id varchar(36), line_item_id varchar(36), "
    "creative_id varchar(36), bid_price decimal(12,4), win_price decimal(12,4)"
)
ROWS = """
insert into public.seed
select {uuid}, timestamp '2026-01-01 00:00:00' + (a.n * 86 || ' seconds')::interval, 'exchange-' || b.n % 7, 'DE',
       case when b.n % 3 = 0 then null else 'phone' end, 'site' || b.n || '.example.com', md5((a.n + b.n)::varchar),
       md5((b.n % 50)::varchar), md5((b.n % 400)::varchar), md5((b.n % 900)::varchar), (b.n * 0.0123)::decimal(12,4),
       case when b.n % 9 = 0 then (b.n * 0.0117)::decimal(12,4) end
from public.numbers a cross join public.numbers b where a.n <= {thousands}
"""
UUID = "md5((a.n * 2000 + b.n)::varchar)"
SMALL = 1000
MIB = 1 << 20


class Counting:
    """A session that counts what it runs, and times it by its first words."""

    def __init__(self, session: Session) -> None:
        self._session, self.statements = session, 0
        self.seconds: dict[str, float] = {}
        self.transaction, self.close = session.transaction, session.close

    def rows(self, sql: str, *values: Any) -> list[Row]:
        return self._timed(sql, lambda: self._session.rows(sql, *values))

    def run(self, sql: str, *values: Any) -> int:
        return self._timed(sql, lambda: self._session.run(sql, *values))

    def _timed(self, sql: str, run: Callable[[], T]) -> T:
        self.statements += 1
        began = time.perf_counter()
        try:
            return run()
        finally:
            name = "compare" if sql.startswith("select count(*), ") else sql.split()[0]
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description="archival of a day beside bare UNLOAD and DELETE")
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the day; a multiple of 2,000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--days", type=int, default=1000, help="of each of two tables that are planned")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NOT_MEASURED))  # so that the servers end too
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            bench = Bench(options, folder, *stack.enter_context(servers(folder)))
            return bench.run().show(as_json=options.json)
        except (DbopsError, OSError) as problem:
            print(f"bench redshift_archive: not measured: {problem}", file=sys.stderr)
            return NOT_MEASURED


@contextmanager
def servers(folder: Path) -> Iterator[tuple[ConnectionInfo, ConnectionInfo]]:
    """PostgreSQL, moto and the stand-in, each in processes of its own."""
    from dbops_lab import connections
    from dbops_lab.parts import s3_part
    from dbops_lab.postgres import ADMIN, DATABASES, WAREHOUSE, Postgres
    from dbops_lab.redshift.process import StandIn
    from dbops_lab.supervisor import Supervisor, free_port

    supervisor = Supervisor(folder / "lab", guarded=True)
    try:
        passwords = {name: secrets.token_urlsafe(16) for name in (ADMIN, *DATABASES)}
        postgres = Postgres(supervisor.state, free_port(), passwords, guarded=True)
        postgres.create()
        port = free_port()
        parts = [postgres.part, s3_part(port)]
        for part in parts:
            supervisor.start(part)
        supervisor.wait(parts)
        postgres.create_databases()
        with StandIn(
            postgres_port=postgres.port,
            database=WAREHOUSE,
            admin=(ADMIN, passwords[ADMIN]),
            s3_endpoint=f"http://127.0.0.1:{port}",
            s3_keys=(connections.ACCESS_KEY, connections.SECRET_KEY),
        ) as standin:
            made = connections.redshift(standin.port, WAREHOUSE, passwords[WAREHOUSE], WAREHOUSE)
            s3 = connections.info("dbops_s3", connections.s3(port))
            yield connections.info("dbops_redshift", made), s3
    finally:
        supervisor.stop()


class Bench:
    def __init__(
        self, options: argparse.Namespace, folder: Path, warehouse: ConnectionInfo, s3: ConnectionInfo
    ) -> None:
        from dbops_lab.s3 import BUCKET, REGION

        self.options, self.folder = options, folder
        self.session = open_session(warehouse)
        tables = [
            ArchiveTable(table=f"public.{name}", column="timestamp", keep=timedelta(days=30))
            for name in ("bids", "small", "wins", "clicks")
        ]
        settings = Archive(tables=tuple(tables))
        self.place = ArchivePlace(S3Store(BUCKET, settings.prefix, s3, REGION), settings, REGION, "bench")
        self.tables = dict(zip(("bids", "small", "wins", "clicks"), tables, strict=True))

    def run(self) -> Report:
        report = Report(machine(rows=f"{self.options.rows:,}"))
        run = self.session.run
        run("create table public.numbers (n int)")
        run("insert into public.numbers select row_number() over () from pg_class a cross join pg_class b limit 2000")
        for name in ("seed", *self.tables):
            run(f'create table public.{name} ({COLUMNS}) sortkey ("timestamp")')
        run(ROWS.format(uuid=UUID, thousands=self.options.rows // 2000))
        self._large(report)
        self._small(report)
        self._plan(report)
        self._memory(report)
        return report

    # -------------------------------------------------------------------------------------------- a large day

    def _large(self, report: Report) -> None:
        bare: list[dict[str, float]] = []
        ours: list[dict[str, float]] = []
        for number in range(self.options.rounds + 1):
            self._fill("bids", DAY)
            one = self._bare("bids", DAY)
            self._fill("bids", DAY)
            session = Counting(self.session)
            seconds = self._archive("bids", DAY, session)
            phases = {name: session.seconds[name] for name in ("unload", "compare", "delete")}
            if number:  # the first round warms both
                bare.append(one)
                ours.append({"seconds": seconds, **phases, "files and rest": seconds - sum(phases.values())})
        report.add("bare UNLOAD and DELETE", bare)
        report.add("archive: unload, verify, delete", ours)
        ratios = [mine["seconds"] / one["seconds"] for mine, one in zip(ours, bare, strict=True)]
        report.target(f"archive of {self.options.rows:,} rows / bare UNLOAD and DELETE", median(ratios), most=1.5)

    def _fill(self, table: str, day: date, rows: int = 0) -> None:
        shift = (day - DAY).days
        names = [name.split()[0] for name in COLUMNS.replace("12,4", "12").split(", ")]
        names[1] = f"\"timestamp\" + interval '{shift} days'"
        limit = f" limit {rows}" if rows else ""
        self.session.run(f"truncate public.{table}")  # or each round would read what the ones before it deleted
        self.session.run(f"insert into public.{table} select {', '.join(names)} from public.seed{limit}")

    def _bare(self, table: str, day: date) -> dict[str, float]:
        where = f"\"timestamp\" >= '{day}'::timestamp and \"timestamp\" < '{day + timedelta(days=1)}'::timestamp"
        prefix = f"s3://{self.place.store.bucket}/bare-{secrets.token_hex(6)}/"
        query = f"select * from public.{table} where {where}".replace("'", "''")
        began = time.perf_counter()
        self.session.run(f"unload ('{query}') to '{prefix}' iam_role default format parquet manifest verbose")
        unloaded = time.perf_counter()
        self.session.run(f"delete from public.{table} where {where}")
        ended = time.perf_counter()
        return {"seconds": ended - began, "unload": unloaded - began, "delete": ended - unloaded}

    def _archive(self, table: str, day: date, session: Session | None = None) -> float:
        began = time.perf_counter()
        done = archive_day(session or self.session, self.place, self.tables[table], day, holder="bench", now=NOW)
        seconds = time.perf_counter() - began
        assert done.archived == done.deleted > 0
        return seconds

    # -------------------------------------------------------------------------------------------- many small days

    def _small(self, report: Report) -> None:
        """What we add to the statements of a day that costs them nearly nothing."""
        bare: list[float] = []
        ours: list[float] = []
        for number in range(10):
            day = DAY + timedelta(days=number)
            self._fill("small", day, SMALL)
            bare.append(self._bare("small", day)["seconds"])
            self._fill("small", day, SMALL)
            ours.append(self._archive("small", day))
        again = time.perf_counter()
        archive_day(self.session, self.place, self.tables["small"], DAY, holder="bench", now=NOW)
        again = time.perf_counter() - again
        report.add(f"a day of {SMALL:,} rows, bare", [{"seconds": value} for value in bare])
        report.add(f"a day of {SMALL:,} rows, archive", [{"seconds": value} for value in ours])
        report.add("a day that is done, archived again", [{"seconds": again}])
        own = [mine - one for mine, one in zip(ours, bare, strict=True)]
        report.target("own work per partition: seconds", median(own), most=1)

    # -------------------------------------------------------------------------------------------- plan

    def _plan(self, report: Report) -> None:
        names, days = ("wins", "clicks"), self.options.days
        for name in names:
            self.session.run(
                f'insert into public.{name} (request_id, "timestamp") select a.n * 10 + b.n, '
                f"'2026-04-01'::timestamp - (a.n || ' days')::interval from public.numbers a "
                f"cross join public.numbers b where a.n <= {days} and b.n <= 10"
            )
        counts = []
        samples: list[dict[str, float]] = []
        for tables in ([names[0]], list(names)):
            session = Counting(self.session)
            began = time.perf_counter()
            plan = plan_archive(session, self.place, [self.tables[name] for name in tables], now=NOW)
            samples.append({"seconds": time.perf_counter() - began, "statements": session.statements})
            assert len(plan.days) + plan.later == days * len(tables)
            counts.append(session.statements)
        report.add(f"plan of {days:,} days of one table", samples[:1])
        report.add(f"plan of {days:,} days of two tables", samples[1:])
        report.target("statements of a plan for one table more", counts[1] - counts[0], most=1)

    # -------------------------------------------------------------------------------------------- memory

    def _memory(self, report: Report) -> None:
        context = multiprocessing.get_context("spawn")
        found = []
        for millions in (0.25, 4):
            path = self.folder / f"{millions:g}.parquet"
            with context.Pool(1, maxtasksperchild=1) as pool:  # each of both in a process of its own
                pool.apply(write_file, (str(path), int(millions * 1e6)), {})
                found.append(pool.apply(peak_of_verify, (str(path),)))
            report.add(f"peak of verify, {millions:g}M rows: two files at once", [{"MiB": found[-1]}])
        report.target("peak of verify over interpreter and imports: MiB", max(found), most=200)


COLUMNS_READ = (
    Column(name="id", type="bigint"),
    Column(name="agent", type="character varying(256)"),
    Column(name="at", type="timestamp without time zone"),
    Column(name="score", type="double precision"),
)


def peak_of_verify(path: str) -> float:
    """MiB that reading a file back adds to the memory of a process that has loaded what does it."""
    import pyarrow as pa
    from dbops.redshift.archived_files import check_files
    from dbops.redshift.text_hash import sum_of_md5

    sum_of_md5(pa.array(["warm"]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file = Path(path)
    facts = check_files(LocalStore(file.parent), [(file.name, file.stat().st_size)] * 2, COLUMNS_READ)
    assert len({fact.sha256 for fact in facts}) == 1
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MIB


def write_file(path: str, rows: int) -> None:
    """Row groups of about 32 MB, as UNLOAD writes them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = pa.schema([("id", pa.int64()), ("agent", pa.string()), ("at", pa.timestamp("us")), ("score", pa.float64())])
    rng, group = np.random.default_rng(1), 500_000
    with pq.ParquetWriter(path, types, compression="snappy") as writer:
        for start in range(0, rows, group):
            count = min(group, rows - start)
            columns = [
                pa.array(rng.integers(0, 2**62, count)),
                pa.array([f"Mozilla/5.0 {value:032x}" for value in rng.integers(0, 2**62, count)]),
                pa.array(rng.integers(0, 2**50, count)).cast(pa.timestamp("us")),
                pa.array(rng.random(count)),
            ]
            writer.write_table(pa.table(columns, schema=types), row_group_size=group)


if __name__ == "__main__":
    sys.exit(main())
