"""What goes wrong while exporting: said in words, nothing half committed, nothing left behind, a retry that works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from dbops.backups.store import StoreRefused, open_store
from dbops.errors import ConfigurationError, DbopsError, RetryableError
from dbops.postgres.export import TablesMissing
from dbops.postgres.exports import exports, sweep_exports
from dbops.postgres.programs import DiskFull, ProgramFailed, ProgramMissing, find_program, run_program
from dbops.postgres.session import LockHeld, PostgresUnreachable, RightsMissing, StatementCancelled
from dbops_lab.postgres_versions import binaries
from dbops_lab.testing import LabS3
from export_world import Exported, exported_world
from postgres_world import World

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def exported(world17: World, lab_s3: LabS3, tmp_path: Path) -> Any:
    store = open_store(f"s3://{lab_s3.bucket}/{lab_s3.new_prefix()}", lab_s3.connection)
    yield exported_world(world17, lab_s3, store, tmp_path)
    lab_s3.faults()


def nothing_is_left(exported: Exported) -> None:
    assert [key for key in exported.stored() if "_lease" not in key] == []
    prefix = exported.store.prefix
    uploads = exported.s3.client.list_multipart_uploads(Bucket=exported.s3.bucket).get("Uploads", ())
    assert [item["Key"] for item in uploads if item["Key"].startswith(prefix)] == []
    assert list(Path(str(exported.settings.work_folder)).iterdir()) == []
    sessions = exported.world.run("postgres", f"select 1 from pg_stat_activity where datname = '{exported.database}'")
    assert sessions == []


def and_a_retry_works(exported: Exported) -> None:
    exported.s3.faults()
    assert exported.make().rows
    assert len(exports(exported.store, "exchange", "all")) == 1


def ends_as(kind: type[DbopsError], exported: Exported, **words: Any) -> str:
    with pytest.raises(kind) as caught:
        exported.make(**words)
    deadline = time.monotonic() + 5
    while True:
        try:
            nothing_is_left(exported)
            break
        except AssertionError:  # the server needs a moment to see that somebody has gone
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    text = str(caught.value)
    assert str(exported.info.password) not in text
    return text


# --- refused before anything is written -------------------------------------------------------------------


def test_a_pg_dump_that_is_older_than_the_server_is_refused_before_anything_is_written(exported: Exported) -> None:
    exported.change(programs=str(binaries(14)))
    text = ends_as(ProgramMissing, exported)
    assert "needs pg_dump 17 or newer; found here: 14." in text
    assert "install postgresql-client-17" in text.lower()
    assert exported.stored() == []


def test_a_table_that_is_missing_is_named_before_anything_is_written(exported: Exported) -> None:
    exported.change("some", tables=("public.line_items", "public.gone", "public.events"))
    assert "has no table public.gone" in ends_as(TablesMissing, exported, name="some")
    assert exported.stored() == []


def test_a_right_that_is_missing_is_told_with_the_tables_before_anything_is_written(exported: Exported) -> None:
    with exported.world.admin(exported.database) as cursor:
        cursor.execute("create role clerk login password 'clerk-only'; grant select on public.campaigns to clerk")
    info = replace(exported.info, login="clerk", password="clerk-only")
    try:
        text = ends_as(RightsMissing, exported, info=info)
    finally:
        with exported.world.admin(exported.database) as cursor:
            cursor.execute("drop owned by clerk; drop role clerk")
    assert "role clerk may not read Odd one.Big, table, public.audit" in text
    assert "public.campaigns" not in text
    assert "export_grants.sql" in text
    assert exported.stored() == []


def test_a_wrong_password_is_told_without_any(exported: Exported) -> None:
    info = replace(exported.info, password="wrong:and\\odd")
    text = ends_as(ConfigurationError, exported, info=info)
    assert "wrong:and" not in text


def test_a_table_that_somebody_changes_is_waited_for_only_so_long(exported: Exported) -> None:
    exported.change(lock_timeout=timedelta(milliseconds=200))
    blocker = exported.world.connect(exported.database)
    with blocker.cursor() as cursor:
        cursor.execute("lock table public.audit in access exclusive mode")
        with pytest.raises(LockHeld, match="dbops postgres report blocked"):
            exported.make()
    blocker.close()
    and_a_retry_works(exported)


# --- in the middle ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_connection_that_is_lost_leaves_nothing_and_a_retry_works(exported: Exported, jobs: int) -> None:
    exported.change(jobs=jobs)
    exported.run("create table big as select n, md5(n::text) as a, md5((n + 1)::text) as b "
                 "from generate_series(1, 400000) n")  # fmt: skip
    killed: list[int] = []

    def kill(what: str) -> None:
        rows = exported.world.run(
            "postgres",
            f"select pid, pg_terminate_backend(pid) from pg_stat_activity where datname = '{exported.database}' {what}",
        )
        killed.extend(pid for pid, _ in rows)

    if jobs == 1:
        ends_as(PostgresUnreachable, exported, on_stored=lambda size=0: None if killed else kill(""))
    else:
        import threading

        given_up = time.monotonic() + 30

        def while_a_table_is_read() -> None:
            while not killed and time.monotonic() < given_up:
                kill("and query like 'COPY public.big %'")

        killer = threading.Thread(target=while_a_table_is_read)
        killer.start()
        ends_as(PostgresUnreachable, exported)
        killer.join()
    assert killed
    and_a_retry_works(exported)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_store_that_fails_in_the_middle_ends_pg_dump_and_leaves_nothing(exported: Exported, jobs: int) -> None:
    exported.change(jobs=jobs, compression=0)
    exported.run("create table big as select n, repeat(md5(n::text), 40) as a from generate_series(1, 15000) n")
    exported.s3.faults({"method": "PUT", "key": "partNumber=2", "status": 403, "times": 99})
    ends_as(StoreRefused, exported)
    assert [one for one in psutil.Process().children() if "pg_dump" in one.name()] == []
    and_a_retry_works(exported)


def test_a_lost_answer_to_the_commit_makes_no_second_export(exported: Exported) -> None:
    exported.s3.faults({"method": "PUT", "key": "manifest.json", "status": 500, "after": True})
    assert exported.make() == exported.make()
    assert len(exports(exported.store, "exchange", "all")) == 1


def test_an_export_that_takes_too_long_is_ended(exported: Exported) -> None:
    exported.change(timeout=timedelta(seconds=1), checksums=False)
    slept: list[int] = []

    def sleep(size: int) -> None:
        if not slept:
            slept.append(size)
            time.sleep(1.5)

    exported.run("create table big as select n, md5(n::text) as a, md5((n + 1)::text) as b "
                 "from generate_series(1, 100000) n")  # fmt: skip
    text = ends_as(StatementCancelled, exported, on_stored=sleep)
    assert "postgres.exports.timeout" in text


def test_a_killed_export_leaves_nothing_that_is_listed_and_the_next_one_works(exported: Exported) -> None:
    exported.change(jobs=2)
    child = f"""
import json, os, signal, sys
sys.path[:0] = {[str(PROJECT / "tests"), str(PROJECT / "plugins"), str(PROJECT / "include")]!r}
from dbops.backups.store import open_store
from dbops.connections import ConnectionInfo
from dbops.platform import Postgres
from dbops.postgres.export import export
said = json.load(sys.stdin)
export(open_store(said["store"], ConnectionInfo("s3", **said["s3"])), Postgres.model_validate(said["postgres"]), "all",
       ConnectionInfo("pg", **said["info"]), run="run/1", platform_sha256="0" * 64,
       on_stored=lambda size: os.kill(os.getpid(), signal.SIGKILL))
"""
    s3, info = exported.s3.connection, exported.info
    said = {
        "store": exported.store.url,
        "s3": {"login": s3.login, "password": s3.password, "extra": dict(s3.extra)},
        "postgres": exported.postgres.model_dump(mode="json", exclude={"aws_connection", "region"}),
        "info": {name: getattr(info, name) for name in ("host", "port", "login", "password", "schema")},
    }
    done = subprocess.run([sys.executable, "-c", child], input=json.dumps(said).encode(), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert exports(exported.store, "exchange", "all") == []
    folder = Path(str(exported.settings.work_folder))
    assert [item.name.startswith("dbops-export-") for item in folder.iterdir()] == [True]
    made = exported.make()  # the same run: the lease is its own
    assert [item.id for item in exports(exported.store, "exchange", "all")] == [made.id]
    assert list(folder.iterdir()) == []
    swept = sweep_exports(exported.store, "exchange", "all", timedelta(0), "sweep")
    assert made.id not in swept
    assert {key.split("/")[3] for key in exported.stored() if "_lease" not in key} == {made.id}


# --- programs ---------------------------------------------------------------------------------------------


def test_the_password_is_in_no_argument_environment_or_file(exported: Exported) -> None:
    password = "odd:pass\\word 'é"
    with exported.world.admin() as cursor:
        cursor.execute(f"create role odd_{exported.database} login password %s in role pg_read_all_data", [password])
        cursor.execute(f"grant pg_read_all_data to odd_{exported.database}")
    info = replace(exported.info, login=f"odd_{exported.database}", password=password)
    before = set(os.listdir(tempfile.gettempdir()))
    seen: list[str] = []

    exported.run("create table big as select n, repeat(md5(n::text), 40) as a from generate_series(1, 5000) n")
    exported.change(compression=0)

    def look(size: int) -> None:
        for one in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):  # it has ended, and some of what it said is still to be read
                words, argv = one.environ(), one.cmdline()
                if one.name() == "pg_dump":
                    assert password not in " ".join([*words.values(), *argv])
                    assert "PGPASSWORD" not in words
                    assert words["PGPASSFILE"].startswith("/proc/self/fd/")
                    handle = Path(f"/proc/{one.pid}/fd") / Path(words["PGPASSFILE"]).name
                    assert handle.stat().st_mode & 0o777 == 0o600
                    seen.append(" ".join(argv))

    assert exported.make(info=info, on_stored=look).rows
    assert seen
    assert {name for name in set(os.listdir(tempfile.gettempdir())) - before if "pgpass" in name} == set()


def test_a_full_disk_is_told_as_such(exported: Exported) -> None:
    program = find_program("pg_dump", 17, exported.settings.programs, "the server")
    info = replace(exported.info, schema=exported.database)
    with (
        run_program(program.path, ["-Fc", "--file=/dev/full"], info) as running,
        pytest.raises(DiskFull, match=r"postgres\.exports\.work_folder"),
    ):
        running.check("export")


def test_the_oldest_program_that_fits_is_taken(tmp_path: Path) -> None:
    older, newer = binaries(14), binaries(16)
    assert find_program("pg_dump", 14, str(older), "x").major == 14
    assert find_program("pg_restore", 14, str(newer), "x").major == 16
    with pytest.raises(ProgramMissing, match="found here: none"):
        find_program("pg_dump", 14, str(tmp_path), "x")


def test_what_a_program_says_is_in_its_error(exported: Exported) -> None:
    program = find_program("pg_dump", 17, exported.settings.programs, "the server")
    info = replace(exported.info, schema=exported.database)
    with (
        run_program(program.path, ["--table=nowhere.nothing"], info) as running,
        pytest.raises(ProgramFailed, match=r"export of x: pg_dump ended with exit code 1: .*no matching tables"),
    ):
        running.check("export of x")
    with run_program(program.path, [], replace(info, port=1)) as running, pytest.raises(RetryableError):
        running.check("export of x")
