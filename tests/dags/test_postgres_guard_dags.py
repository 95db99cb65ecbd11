"""The guard before a change and the daily audit, executed: real servers, RDS's API, a ledger and receivers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops import ledger
from dbops_lab import connections
from dbops_lab.supervisor import Supervisor
from dbops_lab.testing import LabPostgres, LabRds, LabReceivers
from guard_world import GOOSE, NEW, NOW, GuardWorld
from postgres_world import MONITOR, OWNER, World, world_of
from sqlalchemy import Engine, text

PROJECT = Path(__file__).resolve().parents[2]
FORM = {"change": "adds a column", "ticket": "OPS-1", "rollback": "goose down", "new_version": NEW}


@pytest.fixture(scope="module")
def airflow(lab_supervisor: Supervisor) -> None:
    from airflow.utils.db import resetdb

    resetdb()


class Place:
    """A ledger, receivers, and DAGs to trigger."""

    def __init__(self, engine: Engine, receivers: LabReceivers) -> None:
        self.engine, self.receivers = engine, receivers

    def trigger(self, dag_id: str, **conf: Any) -> str:
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(str(PROJECT / "dags" / f"{dag_id}.py"))
        assert bag.import_errors == {}
        dag = bag.dags[dag_id]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
            if hasattr(task, "poke_interval"):
                task.poke_interval = 0.5
        return str(dag.test(run_conf=conf).state)

    def rows(self, query: str) -> list[Any]:
        with self.engine.begin() as connection:
            return list(connection.execute(text(query)))

    def open_incidents(self) -> set[str]:
        return {row.key for row in self.rows("select key from incident where resolved_at is null")}


@pytest.fixture
def place(airflow: None, lab_postgres: LabPostgres, receivers: LabReceivers, monkeypatch: pytest.MonkeyPatch) -> Place:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    uris = {"dbops_ledger": connections.postgres(info.port or 0, info.login or "", info.password or "", info.schema)}
    for name, value in {**connections.variables(uris), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    return Place(engine, receivers)


# --- the guard ----------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(lab_rds: LabRds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardWorld]:
    lab_rds.settle()
    world = GuardWorld(lab_rds, tmp_path)
    monkeypatch.setenv("DBOPS_PLATFORM", str(world.file))
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    yield world
    world.end()


def test_a_go_comes_with_a_snapshot_and_a_no_go_with_its_reasons_and_without_one(
    place: Place, guarded: GuardWorld
) -> None:
    assert place.trigger("postgres_change_guard", **FORM, database=guarded.shop, expected_version=NOW - 1) == "failed"
    assert place.open_incidents() == {"failed/postgres_change_guard"}
    (told,) = place.receivers.inbox("smtp")
    assert "NO-GO: OPS-1 adds a column" in json.dumps(told)
    assert f"the database is at version {NOW}; the change expects {NOW - 1}" in json.dumps(told).replace("\\n", " ")
    assert guarded.rds.client("rds").describe_db_snapshots(SnapshotType="manual")["DBSnapshots"] == []
    (verdict,) = place.rows("select * from action where name = 'postgres_change_guard'")
    assert (verdict.outcome, verdict.target) == ("failed", f"{guarded.rds.name}/{guarded.shop}")
    assert verdict.details["change"]["rollback"] == "goose down"

    assert place.trigger("postgres_change_guard", **FORM, database=guarded.shop) == "success"
    assert place.open_incidents() == set()
    (snapshot,) = guarded.rds.client("rds").describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    tags = {tag["Key"]: tag["Value"] for tag in snapshot["TagList"]}
    assert tags["dbops-reason"] == "before OPS-1 adds a column"
    assert len(place.receivers.inbox("smtp")) == 2, "the first look of a go tells nobody"
    shown = json.dumps(place.receivers.inbox("smtp")[-1])
    assert "GO: OPS-1 adds a column" in shown
    assert snapshot["DBSnapshotIdentifier"] in shown
    rows = place.rows("select * from check_result where name like 'postgres_guard_%' and run like '%/decide'")
    assert len(rows) == 16
    assert all(row.ok for row in rows)


def test_a_go_without_a_snapshot_where_none_is_wanted(place: Place, guarded: GuardWorld) -> None:
    assert place.trigger("postgres_change_guard", **FORM, database=guarded.shop, snapshot=False) == "success"
    assert guarded.rds.client("rds").describe_db_snapshots(SnapshotType="manual")["DBSnapshots"] == []


# --- the daily audit ----------------------------------------------------------------------------------------


class Audited:
    """A database on a server with a log, and what was agreed on it."""

    def __init__(self, server: World, folder: Path) -> None:
        self.server, self.file = server, folder / "lab.yaml"
        self.database = server.new_database()
        self.run(
            GOOSE,
            "insert into goose_db_version (version_id, is_applied) values (0, true), (7, true)",
            f"grant select on goose_db_version to {MONITOR}",
        )
        self.document = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
        self.document["postgres"] = {
            "name": "shop",
            "databases": [self.database],
            "migrations": [{"name": self.database, "version": 7}],
            "audit": {"log": "server", "settings": {"log_statement": "ddl"}},
            "access": [{"name": OWNER, "schemas": ["public"], "owns": True}],
        }
        self.write(ddl_roles=[OWNER, "postgres"])

    def write(self, **audit: Any) -> None:
        self.document["postgres"]["audit"] |= audit
        self.file.write_text(yaml.safe_dump(self.document))

    def run(self, *statements: str) -> None:
        self.server.run(self.database, *statements)


@pytest.fixture
def audited(lab_supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audited:
    server = world_of(lab_supervisor, 17)
    made = Audited(server, tmp_path)
    monkeypatch.setenv("DBOPS_PLATFORM", str(made.file))
    login = {"dbops_postgres": connections.postgres(server.port, MONITOR, server.passwords[MONITOR])}
    for name, value in connections.variables(login).items():
        monkeypatch.setenv(name, value)
    return made


def test_the_audit_tells_each_change_once_and_a_lasting_difference_for_as_long_as_it_lasts(
    place: Place, audited: Audited
) -> None:
    assert place.trigger("postgres_audit") == "success"
    checks = {(row.name, row.target): row for row in place.rows("select * from check_result")}
    assert checks["postgres_migrations", f"shop/{audited.database}"].ok
    assert checks["postgres_audit_settings", "shop"].ok
    assert checks["postgres_ddl", "shop"].ok
    assert not checks["postgres_access", "shop"].ok, "roles of other tests, and what PUBLIC may"
    assert ("postgres_access_finding", f"shop/{audited.database}/000") in checks
    access = {"postgres_access/shop", f"postgres_access/shop/{audited.database}"}
    assert place.open_incidents() == access

    audited.write(ddl_roles=["postgres"])
    audited.run("create table later (id int)", "delete from goose_db_version where version_id = 7")
    time.sleep(0.3)  # the log is written a moment later
    assert place.trigger("postgres_audit") == "success"
    drift = f"postgres_migrations/shop/{audited.database}"
    assert place.open_incidents() == access | {drift, "postgres_ddl/shop"}
    (found,) = place.rows("select * from check_result where name = 'postgres_ddl' order by id desc limit 1")
    assert [line.partition(": ")[2] for line in found.details["statements"]] == ["create table later (id int)"]
    assert f"{OWNER}@{audited.database}" in json.dumps([one["message"] for one in place.receivers.inbox("slack")])

    audited.run("insert into goose_db_version (version_id, is_applied) values (7, true)")
    assert place.trigger("postgres_audit") == "success"
    assert place.open_incidents() == access, "what was told is over; the log goes on where the last look ended"
    runs = [row.run for row in place.rows("select run from check_result where name = 'postgres_log_position'")]
    assert sorted(runs) == ["latest", "previous"]


def test_a_retry_looks_at_the_same_part_of_the_log(
    place: Place, audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbops.errors import RetryableError
    from dbops.postgres import audit_operators

    assert place.trigger("postgres_audit") == "success"
    audited.write(ddl_roles=["postgres"])
    audited.run("create table later (id int)")
    time.sleep(0.3)
    real, tries = audit_operators.tell, []

    def tell(*args: Any, **words: Any) -> Any:
        done = real(*args, **words)
        if "postgres_ddl" in args[3] and not tries:
            tries.append(args[2][1].value)
            raise RetryableError("the worker was lost after it was all written down")
        if "postgres_ddl" in args[3]:
            tries.append(args[2][1].value)
        return done

    monkeypatch.setattr(audit_operators, "tell", tell)
    assert place.trigger("postgres_audit") == "success"
    assert tries == [1, 1]
    assert "postgres_ddl/shop" in place.open_incidents()


def test_a_log_that_may_not_be_read_fails_the_task_and_the_rest_is_told(place: Place, audited: Audited) -> None:
    with audited.server.admin(audited.database) as cursor:
        cursor.execute(f"revoke execute on function dbops.read_log from {MONITOR}")
    assert place.trigger("postgres_audit") == "failed"
    checks = {row.name: row for row in place.rows("select * from check_result")}
    assert "grants_log.sql gives the right" in checks["postgres_ddl"].message
    assert checks["postgres_audit_settings"].ok
    assert "failed/postgres_audit" in place.open_incidents()
