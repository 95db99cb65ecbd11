"""An export with hashing, counts and upload beside bare `pg_dump -Fc` of the same tables to a file.

Exports are compressed with zstd where pg_dump has it, so it is shown too what bare pg_dump takes with zstd.

    python bench/postgres_export.py [--rows 600000] [--rounds 3] [--version 17] [--json]

Two tables of the shape of the application's, in the lab's PostgreSQL or another major version; S3 is moto in a process
of its own, which shares the cores. Each round runs every kind once, one after the other; an export runs in a process of
its own, its seconds are those of the call. CPU seconds are of that process and pg_dump, imports included, not of the
server. Memory is the highest sum over a process and its children of what is theirs alone and their share of what is not
(PSS), seen every 20 ms. With checksums, as the platform file has it by default, the server hashes every row while
pg_dump reads it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
from dbops.backups.store import open_store
from dbops.connections import ConnectionInfo
from dbops.platform import Postgres as Section
from dbops.platform import PostgresExport, PostgresExports
from dbops.postgres.programs import find_program, has_zstd
from dbops_lab import connections
from dbops_lab.parts import s3_part
from dbops_lab.postgres import ADMIN, DATABASES, Postgres, find_binaries
from dbops_lab.postgres_versions import binaries
from dbops_lab.s3 import BUCKET
from dbops_lab.supervisor import Supervisor, free_port
from report import Report, machine

TABLES = """
create table campaigns (
    id bigint primary key, account bigint, name text, state text, budget numeric(12, 2), labels jsonb, at timestamptz);
create table line_items (
    id bigint primary key, campaign_id bigint, note text, max_bid double precision, raw bytea, at timestamptz);
insert into campaigns select n, n % 500, 'campaign ' || md5(n::text), (array['draft', 'active', 'paused'])[1 + n % 3],
    n * 1.37, jsonb_build_object('n', n, 'tags', array[md5(n::text), 'x']), now() - n * interval '1 second'
  from generate_series(1, {rows}) n;
insert into line_items select n, n / 3, md5(n::text) || repeat(' note', (n % 20)::int), n / 7.0,
    decode(md5((n + 1)::text), 'hex'), now() - n * interval '1 second'
  from generate_series(1, {rows}) n;
create index on line_items (campaign_id);
vacuum analyze;
"""
BARE, BARE_ZSTD = "bare pg_dump -Fc to a file", "bare pg_dump -Fc --compress=zstd to a file"
KINDS = {
    "export to S3, counts and checksums": {"checksums": True, "place": "s3"},
    "export to S3, counts only": {"checksums": False, "place": "s3"},
    "export to a folder, counts and checksums": {"checksums": True, "place": "folder"},
}


def child() -> int:
    """One export, as the parent says on stdin; answers its seconds."""
    from dbops.postgres.export import export

    said = json.load(sys.stdin)
    store = open_store(said["store"], ConnectionInfo("bench", **said["s3"]) if said["s3"] else None)
    one = PostgresExport(name="bench", database=ADMIN, checksums=said["checksums"])
    settings = PostgresExports(programs=said["programs"], sets=(one,))
    section = Section(name="bench", databases=(ADMIN,), exports=settings)
    info = ConnectionInfo("bench", **said["postgres"])
    if said["s3"]:
        store.check()  # its client and session of TLS are made once in a process
    began = time.perf_counter()
    made = export(store, section, "bench", info, run=secrets.token_hex(4), platform_sha256="0" * 64)
    print(json.dumps({"seconds": time.perf_counter() - began, "bytes": made.stored_bytes}))
    return 0


def cpu() -> float:
    """Of all children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watched(process: subprocess.Popen[bytes], text: bytes | None = None) -> tuple[bytes, float]:
    """What a process says, and the most MiB that it and its children had."""
    if text is not None and process.stdin is not None:
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
    peak = 0
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error):
            family = [parent, *parent.children(recursive=True)]
            peak = max(peak, sum(one.memory_full_info().pss for one in family))
        time.sleep(0.02)
    out = process.stdout.read() if process.stdout is not None else b""
    if process.returncode:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return out, peak / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description="exports of PostgreSQL beside bare pg_dump")
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--version", type=int, help="major version; default: the lab's")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child()

    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        state.chmod(0o755)
        supervisor = Supervisor(state, guarded=True)
        stack.callback(supervisor.stop)
        passwords = {name: secrets.token_urlsafe(12) for name in (ADMIN, *DATABASES)}
        folder = binaries(args.version) if args.version else find_binaries()
        server = Postgres(state, free_port(), passwords, guarded=True, binaries=folder)
        server.create()
        s3_port = free_port()
        parts = [server.part, s3_part(s3_port)]
        for part in parts:
            supervisor.start(part)
        supervisor.wait(parts)
        began = time.monotonic()
        connection = server.connect(ADMIN)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in TABLES.format(rows=args.rows).split(";\n"):
                if statement.strip():
                    cursor.execute(statement)
            cursor.execute("select pg_database_size(current_database()), current_setting('server_version')")
            size, version = cursor.fetchone() or (0, "")
        connection.close()
        print(f"filled in {time.monotonic() - began:.0f} s", file=sys.stderr)

        info = {"host": "127.0.0.1", "port": server.port, "login": ADMIN, "password": passwords[ADMIN], "schema": ADMIN}
        s3 = connections.info("bench", connections.s3(s3_port))
        s3_words = {"login": s3.login, "password": s3.password, "extra": dict(s3.extra)}
        environment = os.environ | {
            "PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": ADMIN, "PGPASSWORD": passwords[ADMIN],
            "PGDATABASE": ADMIN,
        }  # fmt: skip

        def bare(*more: str) -> dict[str, float]:
            out = state / "bare.dump"
            started, used = time.perf_counter(), cpu()
            dump = subprocess.Popen([str(folder / "pg_dump"), "-Fc", "-f", str(out), *more], env=environment)
            _, peak = watched(dump)
            sample = {
                "seconds": time.perf_counter() - started,
                "CPU s": cpu() - used,
                "MB": out.stat().st_size / 1e6,
                "MiB of memory": peak,
            }
            out.unlink()
            return sample

        def ours(*, checksums: bool, place: str) -> dict[str, float]:
            name = secrets.token_hex(4)
            said = {
                "store": f"s3://{BUCKET}/{name}" if place == "s3" else str(state / name),
                "s3": s3_words if place == "s3" else None,
                "postgres": info,
                "programs": str(folder),
                "checksums": checksums,
            }
            used = cpu()
            process = subprocess.Popen(
                [sys.executable, __file__, "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            out, peak = watched(process, json.dumps(said).encode())
            found: dict[str, Any] = json.loads(out)
            return {
                "seconds": found["seconds"],
                "CPU s": cpu() - used,
                "MB": found["bytes"] / 1e6,
                "MiB of memory": peak,
            }

        bare()  # the tables are in memory from here on
        program = find_program("pg_dump", 14, str(folder), "the bench")
        bares: dict[str, list[str]] = {BARE: []} | ({BARE_ZSTD: ["--compress=zstd"]} if has_zstd(program) else {})
        samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in (*bares, *KINDS)}
        for _ in range(args.rounds):
            for kind, more in bares.items():
                samples[kind].append(bare(*more))
            for kind, words in KINDS.items():
                samples[kind].append(ours(checksums=bool(words["checksums"]), place=str(words["place"])))

    report = Report(machine(postgresql=str(version), rows=f"2 x {args.rows}", database_mb=f"{int(size) / 1e6:.0f}"))
    for kind, found in samples.items():
        report.add(kind, found)
    base = report.figures[BARE]
    for kind in KINDS:
        report.target(f"seconds, {kind} / bare", report.figures[kind]["seconds"] / base["seconds"], most=1.2)
    if (
        BARE_ZSTD in report.figures
    ):  # no target of the project: what is left of the difference with the same compression
        first = report.figures[next(iter(KINDS))]["seconds"]
        print(f"beside the same compression: {first / report.figures[BARE_ZSTD]['seconds']:.2f}", file=sys.stderr)
    report.target(
        "MiB over pg_dump's",
        max(report.figures[kind]["MiB of memory"] for kind in KINDS) - base["MiB of memory"],
        most=100,
    )
    return report.show(as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
