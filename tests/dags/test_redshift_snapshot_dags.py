"""The DAGs of snapshots and restores and the review of rights, executed: AWS's API, warehouse, ledger, receivers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops import ledger
from dbops.connections import ConnectionInfo
from dbops.redshift.api import PLATFORM_TAG
from dbops.redshift.session import open_session
from dbops_lab import connections
from dbops_lab.testing import LabPostgres, LabReceivers, LabRedshift, LabRedshiftApi
from sqlalchemy import text
from warehouse_world import Warehouse

PROJECT = Path(__file__).resolve().parents[2]
DAY = 86400


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


class World:
    def __init__(self, warehouse: Warehouse, engine: Any, receivers: LabReceivers) -> None:
        self.warehouse, self.engine, self.receivers = warehouse, engine, receivers

    def run(self, dag_id: str, **conf: Any) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        return self._test(DagBag(str(PROJECT / "dags")).dags[dag_id], **conf)

    def probe(self, dag_id: str) -> Any:
        """Run a DAG that only tests have."""
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

        bag = DagBag(str(Path(__file__).parent / "warehouse_probe"))
        sync_bag_to_db(bag, "dags-folder", None)
        return self._test(bag.dags[dag_id])

    def _test(self, dag: Any, **conf: Any) -> Any:
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
            if hasattr(task, "poke_interval"):
                task.poke_interval = 0.1
        return dag.test(run_conf=conf)

    def states(self, run: Any) -> dict[str, str]:
        return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(query)))

    def snapshots(self) -> list[str]:
        return sorted(item.id for item in self.warehouse.snapshots.list() if item.kind == "manual")

    def incidents(self) -> dict[str, str]:
        return {row.key: row.severity for row in self.rows("SELECT * FROM incident WHERE resolved_at IS NULL")}


@pytest.fixture
def world(
    database: None,
    lab_redshift: LabRedshift,
    lab_redshift_api: LabRedshiftApi,
    lab_postgres: LabPostgres,
    receivers: LabReceivers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    warehouse = Warehouse(lab_redshift, lab_redshift_api)
    platform = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
    tables = [
        table.model_dump(include={"table", "column"}) | {"keep": "90d"} for table in warehouse.redshift.archive.tables
    ]
    platform["redshift"]["archive"] = {"tables": tables}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(platform))
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "dbops_s3": connections.s3(int(lab_redshift_api.s3.endpoint.rpartition(":")[2])),
        "dbops_redshift": lab_redshift.connection,
    }
    monkeypatch.setenv("DBOPS_PLATFORM", str(tmp_path / "lab.yaml"))
    for name, value in {**connections.variables(made), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    yield World(warehouse, engine, receivers)
    warehouse.close()


# --- redshift_snapshots -----------------------------------------------------------------------------------


def test_the_daily_run_checks_counts_and_lets_old_ones_of_ours_go(world: World) -> None:
    tags = {PLATFORM_TAG: "lab", "dbops-run": "weekly/1"}
    for id, days, given in [
        ("dbops-old", 20, tags),
        ("dbops-kept", 9, tags),
        ("dbops-young", 0.5, tags),
        ("before-upgrade", 30, {}),
    ]:
        world.warehouse.api.plant(id, age=days * DAY, tags=given)
    newest = [item.id for item in world.warehouse.snapshots.list() if item.is_usable][-1]

    dry = world.run("redshift_snapshots", dry_run=True)
    assert world.states(dry)["expire"] == "skipped"
    assert "dbops-old" in world.snapshots()

    run = world.run("redshift_snapshots")
    assert run.state == "success"
    assert world.states(run) == {
        "check": "success",
        "figures": "success",
        "plan": "success",
        "approve": "skipped",
        "expire": "success",
        "expire_approved": "skipped",
    }
    assert world.snapshots() == ["before-upgrade", "dbops-kept", "dbops-young"]
    (row,) = world.rows("SELECT * FROM action WHERE name = 'expire'")
    assert (row.target, row.outcome) == ("redshift/bedrock/dbops-old", "done")
    assert "is 20 d old" in row.message
    checks = {
        row.name: row for row in world.rows(f"SELECT * FROM check_result WHERE run = '{run.dag_id}/{run.run_id}'")
    }
    assert set(checks) == {"redshift_snapshot_age", "redshift_rpo", "redshift_settings", "redshift_figures"}
    age = checks["redshift_snapshot_age"]
    assert (age.ok, age.limit, age.unit, age.details) == (True, DAY, "s", {"newest": newest})
    assert 0 <= age.value < DAY
    assert checks["redshift_settings"].details["settings"]["node_type"] == "ra3.large"
    figures = checks["redshift_figures"]
    assert figures.value == sum(10 + days for days in range(1, 8))
    assert world.receivers.inbox() == []


def test_a_snapshot_that_is_too_old_pages_and_the_next_good_run_ends_it(world: World) -> None:
    newest = [item for item in world.warehouse.snapshots.list() if item.is_usable]
    for item in newest:  # the automated ones of this session are young
        if item.kind == "automated":
            world.warehouse.api.plant(item.id, again=True, kind="automated", age=3 * DAY)
    run = world.run("redshift_snapshots")
    assert run.state == "failed"
    states = world.states(run)
    assert (states["check"], states["expire"]) == ("failed", "upstream_failed"), "nothing goes while none is young"
    assert world.incidents() == {"failed/redshift_snapshots": "critical"}
    (page,) = world.receivers.incidents()
    assert "redshift_snapshots" in page["dedup_key"]
    (row,) = world.rows("SELECT * FROM check_result WHERE name = 'redshift_rpo'")
    assert not row.ok
    assert row.value > row.limit == DAY

    world.warehouse.snapshot()
    assert world.run("redshift_snapshots").state == "success"
    assert world.incidents() == {}


def test_an_api_that_cannot_be_asked_is_a_failure_with_a_row(world: World) -> None:
    world.warehouse.api.s3.faults({"key": "Action=Describe", "status": 403, "times": 99})
    run = world.run("redshift_snapshots")
    assert run.state == "failed"
    rows = world.rows("SELECT * FROM check_result ORDER BY name")
    assert [(row.name, row.ok, row.value) for row in rows] == [
        ("redshift_rpo", False, None),
        ("redshift_snapshot_age", False, None),
    ]
    assert rows[0].message.startswith("could not look: ")


def test_a_snapshot_before_risky_work_is_taken_once_per_run(world: World) -> None:
    world.warehouse.api.take(snapshot=0.5)
    run = world.probe("risky_work")
    assert run.state == "success"
    (taken,) = world.snapshots()
    assert taken.startswith("dbops-bedrock-risky-work-")
    found = world.warehouse.snapshots.get(taken)
    assert found is not None
    assert found.tags["dbops-reason"] == "before a deep copy of risky_work"
    (row,) = world.rows("SELECT * FROM action WHERE name = 'redshift_snapshot'")
    assert (row.target, row.outcome, row.run) == (f"bedrock/{taken}", "done", f"risky_work/{run.run_id}")
    assert row.details["megabytes"] > 0
    assert world.states(run) == {"snapshot": "success"}


# --- redshift_restore -------------------------------------------------------------------------------------


def test_a_restore_makes_a_new_cluster_compares_it_and_writes_the_time_down(world: World) -> None:
    snapshot = world.warehouse.snapshot()
    world.warehouse.run(f"delete from {world.warehouse.schema}.wins where id = 0")
    name = f"drill-{secrets.token_hex(3)}"
    world.warehouse.made.append(name)
    run = world.run("redshift_restore", cluster=name, reason="a drill")
    assert run.state == "success"
    assert set(world.states(run).values()) == {"success"}
    (row,) = world.rows("SELECT * FROM action WHERE name = 'redshift_restore'")
    assert (row.target, row.outcome) == (name, "done")
    report = row.details["report"]
    assert (row.details["snapshot"], report["compared_days"], report["problems"]) == (snapshot, 7, [])
    assert [step["name"] for step in report["steps"]] == ["decide", "restore", "check"]
    (check,) = world.rows("SELECT * FROM check_result WHERE name = 'redshift_rto'")
    assert (check.target, check.ok, check.limit) == ("bedrock", True, 3600)
    assert 0 < check.value < 120
    info = world.warehouse.info
    there = ConnectionInfo(
        info.conn_id, info.conn_type, report["host"], report["port"], info.login, info.password, info.schema, info.extra
    )
    assert world.warehouse.count(there) == world.warehouse.count(info) + 10
    assert world.receivers.inbox() == []


def test_a_restore_that_lacks_data_fails_and_says_what_exists(world: World) -> None:
    world.warehouse.run(f"truncate {world.warehouse.schema}.wins")
    world.warehouse.snapshot()
    world.warehouse.run(world.warehouse.rows_of(2, 50))
    name = f"drill-{secrets.token_hex(3)}"
    world.warehouse.made.append(name)
    run = world.run("redshift_restore", cluster=name, reason="a drill")
    assert world.states(run) == {"plan": "success", "restore": "success", "check": "failed"}
    (row,) = world.rows("SELECT * FROM action WHERE name = 'task' AND outcome = 'failed'")
    assert "has 0 rows of 50" in row.message
    assert f"aws redshift delete-cluster --cluster-identifier {name}" in row.message
    assert world.incidents() == {"failed/redshift_restore": "critical"}


def test_the_name_of_the_warehouse_is_refused_before_anything_is_made(world: World) -> None:
    world.warehouse.snapshot()
    run = world.run("redshift_restore", cluster="bedrock", reason="oops")
    assert world.states(run)["plan"] == "failed"
    assert world.states(run)["restore"] == "upstream_failed"


# --- access -----------------------------------------------------------------------------------------------


def test_the_review_writes_rows_and_one_warning_that_ends_with_the_findings(world: World) -> None:
    name = f"stranger_{secrets.token_hex(3)}"
    with open_session(world.warehouse.info) as session:
        session.run("grant create on schema public to public")  # as every database begins, and the lab's file says
        session.run(f"create user {name} password 'Secret12345'")
        assert world.probe("review").state == "success"
        (found,) = world.rows("SELECT * FROM check_result WHERE name = 'redshift_access'")
        findings = world.rows("SELECT * FROM check_result WHERE name = 'redshift_access_finding'")
        assert (found.ok, found.value, found.limit) == (False, len(findings), 0)
        others = {row.details["who"] for row in findings} - {f"user {name}"}  # other tests' users on this server
        assert len(others) < len(findings)
        assert world.incidents() == {"redshift_access/bedrock": "warning"}
        (message,) = world.receivers.inbox("slack")
        assert name in str(message) or others
        session.run(f"drop user {name}")
        assert world.probe("review").state == "success"
    assert (world.incidents() == {}) is (not others)
