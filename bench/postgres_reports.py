"""Seconds of all PostgreSQL reports, and milliseconds that the 15-minute probe costs the database.

    python bench/postgres_reports.py [--tables 1000] [--rounds 5] [--version 17] [--json]

On a database of 1,000 tables and 5,000 indexes, analyzed, with 500 rows in each table; the lab's PostgreSQL, or another
major version. Asked by a role with pg_monitor that may read all tables, so that bloat is estimated in full.
Database time is what pg_stat_statements counts of that role: planning is part of it.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dbops.connections import ConnectionInfo
from dbops.platform import Postgres as Section
from dbops.platform import load_platform
from dbops.postgres.health import check_health
from dbops.postgres.reports import REPORTS, run_report
from dbops.postgres.session import Session
from dbops.postgres.statements import Counters
from dbops_lab.postgres import ADMIN, DATABASES, Postgres, find_binaries
from dbops_lab.postgres_versions import binaries
from dbops_lab.supervisor import Supervisor, free_port
from report import Report, machine

PROJECT = Path(__file__).resolve().parents[1]
TABLE = """
create table t{n} (id bigint primary key, account bigint, name text, note text, at timestamptz);
create index t{n}_account on t{n} (account); create index t{n}_name on t{n} (name);
create index t{n}_at on t{n} (at); create index t{n}_both on t{n} (account, at);
insert into t{n} select i, i % 50, md5(i::text), repeat('x', 40), now() from generate_series(1, 500) i;
"""
SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_planning": "on",
    "max_locks_per_transaction": "512",
    "autovacuum": "off",
}


def fill(server: Postgres, tables: int) -> None:
    connection = server.connect(ADMIN)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("create extension pg_stat_statements")
        cursor.execute("create role monitor login password %s", [server.passwords["monitor"]])
        cursor.execute("grant pg_monitor, pg_read_all_data to monitor")
        for n in range(tables):
            cursor.execute(TABLE.format(n=n))
        cursor.execute("vacuum analyze")
    connection.close()


def database_ms(server: Postgres) -> float:
    """What the role has cost so far."""
    connection = server.connect(ADMIN)
    with connection.cursor() as cursor:
        cursor.execute(
            "select coalesce(sum(total_exec_time + total_plan_time), 0) from pg_stat_statements s "
            "join pg_roles r on r.oid = s.userid where r.rolname = 'monitor'"
        )
        ((found,),) = cursor.fetchall()
    connection.close()
    return float(found)


def main() -> int:
    parser = argparse.ArgumentParser(description="cost of PostgreSQL's reports and of the probe")
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--version", type=int, help="major version; default: the lab's")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    platform = load_platform(PROJECT / "include/platform/lab.yaml")
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        state.chmod(0o755)
        supervisor = Supervisor(state, guarded=True)
        stack.callback(supervisor.stop)
        passwords = {name: secrets.token_urlsafe(12) for name in (ADMIN, *DATABASES, "monitor")}
        folder = binaries(args.version) if args.version else find_binaries()
        server = Postgres(state, free_port(), passwords, guarded=True, binaries=folder, settings=SETTINGS)
        server.create()
        supervisor.start(server.part)
        supervisor.wait([server.part])
        began = time.monotonic()
        fill(server, args.tables)
        print(f"filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
        info = ConnectionInfo(
            "bench", host="127.0.0.1", port=server.port, login="monitor", password=passwords["monitor"], schema=ADMIN
        )

        def opened(database: str) -> Session:
            return Session(info, database=database, read_only=True)

        names = [name for name, one in REPORTS.items() if one.argument is None]
        single: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        together: list[dict[str, float]] = []
        probe: list[dict[str, float]] = []
        section = Section(name="bench", databases=(ADMIN,))
        before: Counters | None = None
        with opened(ADMIN) as session:
            version = str(session.version)
        for _ in range(args.rounds):
            began = time.perf_counter()
            with opened(ADMIN) as session:
                for name in names:
                    start = time.perf_counter()
                    rows = len(run_report(session, name).rows)
                    single[name].append({"ms": 1000 * (time.perf_counter() - start), "rows": rows})
            together.append({"seconds": time.perf_counter() - began})
            spent, began = database_ms(server), time.perf_counter()
            health = check_health(platform, section, opened, before, datetime.now(UTC))
            seconds = time.perf_counter() - began
            before = health.counters
            blind: list[Any] = [check.message for check in health.checks if check.error]
            assert not blind, blind
            probe.append({"database ms": database_ms(server) - spent, "wall ms": 1000 * seconds})

    report = Report(machine(postgresql=version, tables=str(args.tables), indexes=str(5 * args.tables)))
    slowest = sorted(names, key=lambda name: -sum(sample["ms"] for sample in single[name]))[:8]
    for name in slowest:
        report.add(f"report {name}", single[name])
    report.add(f"all {len(names)} reports", together)
    report.add("probe (postgres_health)", probe)
    report.target("all reports: seconds", report.figures[f"all {len(names)} reports"]["seconds"], most=2)
    report.target("probe: ms of database time", report.figures["probe (postgres_health)"]["database ms"], most=200)
    return report.show(as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
