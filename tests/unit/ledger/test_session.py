"""The ledger's database: migrations, state, rights, and what happens when it is not there."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from dbops.connections import ConnectionInfo
from dbops.ledger import LedgerNotReady, LedgerUnavailable, connect, migrate, status, transaction
from dbops.ledger.models import Action, Base, Incident
from dbops.ledger.session import MIGRATION_LOCK
from dbops_lab.postgres import find_binaries
from dbops_lab.supervisor import free_port
from dbops_lab.testing import LabPostgres
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import ProgrammingError

INSERT_INCIDENT = text(
    "insert into incident (key, severity, title, opened_at, last_seen_at) values ('k', 'warning', 't', now(), now())"
)
REFUSED = r"permission denied|must be owner"
GRANTS = Path(__file__).parents[3] / "include" / "sql" / "ledger" / "grants.sql"


def test_migrations_make_exactly_the_tables_of_the_models(ledger: Engine) -> None:
    with ledger.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_again_changes_nothing_and_keeps_the_rows(ledger: Engine) -> None:
    with ledger.begin() as connection:
        connection.execute(INSERT_INCIDENT)
    before = status(ledger)
    assert migrate(ledger) == before.head
    assert status(ledger) == before
    assert before.rows["incident"] == before.open_incidents == 1


@pytest.mark.timeout(60)
def test_many_may_migrate_an_empty_database_at_once(empty_ledger: Engine) -> None:
    with ThreadPoolExecutor(6) as pool:
        revisions = list(pool.map(lambda _: migrate(empty_ledger), range(6)))
    assert set(revisions) == {status(empty_ledger).head}


@pytest.mark.timeout(60)
def test_a_migration_waits_for_the_one_that_runs(empty_ledger: Engine) -> None:
    with empty_ledger.begin() as other, ThreadPoolExecutor(1) as pool:
        other.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        waiting = pool.submit(migrate, empty_ledger)
        while not other.scalar(text("select count(*) from pg_locks where locktype = 'advisory' and not granted")):
            assert not waiting.done()
        assert status(empty_ledger).revision is None
        other.rollback()
        assert waiting.result(timeout=30)


def test_a_ledger_of_a_newer_version_is_left_alone(ledger: Engine) -> None:
    with ledger.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(LedgerNotReady, match="newer version"):
        migrate(ledger)
    assert status(ledger).revision == "9999"
    assert not status(ledger).ready


def test_a_ledger_without_tables_says_how_to_make_them(empty_ledger: Engine) -> None:
    assert not status(empty_ledger).ready
    with pytest.raises(LedgerNotReady, match="dbops ledger migrate"), transaction(empty_ledger) as session:
        session.scalar(select(func.count()).select_from(Action))


def test_an_unreachable_ledger_is_named_without_its_password() -> None:
    info = ConnectionInfo("dbops_ledger", host="127.0.0.1", port=free_port(), login="u", password="hunter2")
    engine = connect(info)
    with pytest.raises(LedgerUnavailable, match=rf"127\.0\.0\.1:{info.port}/dbops_ledger") as caught:
        status(engine)
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__} {engine!r}"


def test_a_lock_that_somebody_holds_does_not_hold_a_writer_for_ever(ledger: Engine) -> None:
    with ledger.begin() as other:
        other.execute(text("lock table incident in access exclusive mode"))
        with pytest.raises(LedgerUnavailable, match="lock timeout"):
            count_incidents(ledger, lock_timeout="100ms")


def test_the_role_of_the_dags_can_write_down_but_not_remove_or_rebuild(
    ledger: Engine, lab_postgres: LabPostgres
) -> None:
    admin = lab_postgres.info()
    role, password = f"writer_{os.getpid()}", "w"
    connection = lab_postgres.server.connect("postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"create role {role} login password '{password}'")
    connection.close()
    run_psql(ledger, "-v", f"owner={admin.login}", "-v", f"writer={role}", "-f", str(GRANTS))

    url = ledger.url
    writer = connect(
        ConnectionInfo("w", host=url.host, port=url.port, login=role, password=password, schema=url.database)
    )
    with writer.begin() as session:
        session.execute(INSERT_INCIDENT)
        session.execute(text("update incident set times_seen = times_seen + 1"))
    assert status(writer).ready
    refused = [
        "delete from incident",
        "truncate action",
        "drop table action",
        "create table mine (id int)",
        "create temporary table mine (id int)",
        "alter table action add column x int",
        "update alembic_version set version_num = '9999'",
    ]
    for statement in refused:
        with (
            pytest.raises(ProgrammingError, match=REFUSED),
            writer.begin() as session,
        ):
            session.execute(text(statement))


def count_incidents(ledger: Engine, lock_timeout: str) -> None:
    with transaction(ledger) as session:
        session.execute(text(f"set local lock_timeout = '{lock_timeout}'"))
        session.scalar(select(func.count()).select_from(Incident))


def run_psql(ledger: Engine, *arguments: str) -> None:
    url = ledger.url
    environment = os.environ | {"PGPASSWORD": str(url.password)}
    target = ["-h", str(url.host), "-p", str(url.port), "-U", str(url.username), "-d", str(url.database)]
    command = [find_binaries() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *target, *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)
